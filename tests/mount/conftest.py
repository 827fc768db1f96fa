"""Real mounts for tests.

A mount is only ever touched from other processes than this one, with a time limit, and is detached
at the end whatever happened: a test that fails must not leave a mount that hangs the next one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

CLIENT_TIMEOUT_S = 60.0
MakeMount = Callable[..., "Mounted"]


def why_no_fuse() -> str | None:
    """Say why this machine cannot mount, or return None when it can."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as err:
        return f"/dev/fuse cannot be opened: {err.strerror}"
    if shutil.which("fusermount3") is None:
        return "fusermount3 is not installed"
    return None


@dataclass
class Mounted:
    """A mount and the means to look at it from outside."""

    url: str
    point: Path
    home: Path
    options: Sequence[str] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    pid: int = 0

    @property
    def log(self) -> Path:
        return self.home / "mount.log"

    def command(self, *arguments: str, timeout_s: float = CLIENT_TIMEOUT_S) -> Finished:
        """Run `dataplane` with arguments."""
        return run([sys.executable, "-m", "dataplane", *arguments], self.environ, timeout_s)

    def mount(self) -> Finished:
        """Mount; a failure is the caller's to look at."""
        log = ("--log-file", str(self.log), "--cache-dir", str(self.home / "cache"))
        done = self.command("mount", *log, *self.options, self.url, str(self.point))
        if done.status == 0:
            self.pid = int(done.output.rpartition("(pid ")[2].split(",")[0])
        return done

    def umount(self, *options: str) -> Finished:
        """Unmount."""
        return self.command("umount", *options, str(self.point))

    def python(self, program: str, *arguments: object) -> str:
        """Run a program that looks at the mount; it must succeed. Returns what it prints."""
        command = [sys.executable, "-c", program, str(self.point), *map(str, arguments)]
        done = run(command, self.environ)
        assert done.status == 0, done.errors
        return done.output

    def shell(self, line: str) -> Finished:
        """Run a shell command in the mount point."""
        return run(["bash", "-c", f"cd {self.point} && {line}"], self.environ)

    def clean(self) -> None:
        """Detach and end whatever is left."""
        run(["umount", "-l", str(self.point)], {})
        if self.pid:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


@dataclass(frozen=True)
class Finished:
    status: int
    output: str
    errors: str


def run(
    command: Sequence[str], environ: Mapping[str, str], timeout_s: float = CLIENT_TIMEOUT_S
) -> Finished:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env={**os.environ, **environ},
    )
    return Finished(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def make_mount(tmp_path: Path) -> Iterator[MakeMount]:
    """Return a function that prepares a mount of a URL; mounting it is the test's."""
    reason = why_no_fuse()
    if reason:
        pytest.skip(f"this machine cannot mount: {reason}")
    made: list[Mounted] = []

    def make(url: str | Path, *options: str, **environ: str) -> Mounted:
        home = tmp_path / f"mount-{len(made)}"
        (home / "point").mkdir(parents=True)
        made.append(Mounted(str(url), home / "point", home, options, environ))
        return made[-1]

    yield make
    for mounted in made:
        mounted.clean()


@pytest.fixture(scope="session")
def source() -> Iterator[Path]:
    """A folder of objects: plain files, HDF5, VTK, NPY, a packed dataset, odd names."""
    h5py = pytest.importorskip("h5py")
    with tempfile.TemporaryDirectory(prefix="dataplane-source-") as name:
        folder = Path(name)
        rng = np.random.default_rng(7)
        (folder / "runs" / "case 1, Re=100").mkdir(parents=True)
        (folder / "ünïcode").mkdir()
        (folder / "large.bin").write_bytes(rng.bytes(30_000_001))
        (folder / "empty").touch()
        (folder / "ünïcode" / "日本.txt").write_text("こんにちは")
        for i in range(20):
            (folder / "runs" / f"part{i:02}.bin").write_bytes(rng.bytes(rng.integers(1, 300_000)))
        with h5py.File(folder / "runs" / "case 1, Re=100" / "fields.h5", "w") as file:
            values = rng.random((40, 30, 20), dtype=np.float32)
            file.create_dataset("u", data=values, chunks=(10, 10, 10), compression="gzip")
            file.create_dataset("p", data=values[0])
        np.save(folder / "field.npy", rng.random((64, 64, 16)))
        write_dataset(folder / "dataset", rng)
        yield folder


def write_dataset(folder: Path, rng: np.random.Generator) -> None:
    """Pack a few samples with the project's own writer."""
    from dataplane.shards import DatasetWriter, SourceArray, SourceSample, WriteOptions
    from dataplane.stores import open_store

    folder.mkdir()
    with DatasetWriter(open_store(folder), WriteOptions(shard_bytes=1 << 20)) as writer:
        for i in range(5):
            points = rng.random((20_000, 3), dtype=np.float32)
            writer.add(
                SourceSample(
                    f"car{i}",
                    {
                        "points": SourceArray(points),
                        "point_data/pressure": SourceArray(points[:, 0] * 101_325),
                    },
                    {"speed": float(i)},
                )
            )
        writer.finish()


@pytest.fixture
def mounted(source: Path, make_mount: MakeMount) -> Mounted:
    """The source folder, mounted."""
    mount = make_mount(source)
    done = mount.mount()
    assert done.status == 0, done.errors
    return mount


def checksums(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def mountinfo(point: Path) -> list[str]:
    return [
        line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(point) in line
    ]
