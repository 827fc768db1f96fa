"""Checks of the cache directory: real directories, real small disks where root can make them."""

from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from dataplane.cache import Cache, CacheConfig
from dataplane.cli.checks import cache
from dataplane.cli.checks.finding import Finding
from dataplane.errors import ConfigError
from dataplane.mount_table import Mounted
from dataplane.stores import open_store

MIB = 1 << 20
BLOCK = 64 << 10
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def config(tmp_path: Path) -> CacheConfig:
    return CacheConfig(
        dir=tmp_path / "cache", block_bytes=BLOCK, prefetch_window_bytes=BLOCK, next_epoch_bytes=0
    )


def look(config: CacheConfig) -> dict[str, Finding]:
    """What all checks find that look at a directory."""
    place = cache.place_of(config.dir)
    return {
        "directory": cache.directory(config),
        "space": cache.space(config, place),
        "inodes": cache.files(place),
        "holes": cache.holes(place),
    }


def statuses(config: CacheConfig) -> dict[str, str]:
    return {name: found.status for name, found in look(config).items()}


def fill(config: CacheConfig, tmp_path: Path, count: int = 4) -> None:
    """Make the directory a cache that has some blocks."""
    (tmp_path / "objects").mkdir()
    (tmp_path / "objects" / "a").write_bytes(bytes(count * BLOCK))
    with closing(open_store(tmp_path / "objects")) as store, closing(Cache(config)) as made:
        made.open(store, store.head("a")).read(0, count * BLOCK)


def fill_up(path: Path) -> None:
    """Write to a file until the disk is full."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


Disk = Callable[..., Path]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Return a function that mounts a small file system in memory."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    made: list[Path] = []

    def mount(options: str) -> Path:
        point = tmp_path / f"disk{len(made)}"
        point.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "none", str(point)],
            capture_output=True,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"cannot mount a tmpfs here: {done.stderr.decode().strip()}")
        made.append(point)
        return point

    yield mount
    for point in made:
        subprocess.run(["umount", "-l", str(point)], check=True)


def test_a_directory_that_is_not_there_yet_is_fine_and_is_not_made(config: CacheConfig) -> None:
    found = look(config)
    assert {it.status for it in found.values()} == {"ok"}, found
    assert f"can be made in {config.dir.parent}" in found["directory"].found
    assert not config.dir.exists()
    assert list(config.dir.parent.iterdir()) == []


def test_an_empty_directory_stays_empty(config: CacheConfig) -> None:
    config.dir.mkdir(mode=0o755)
    config.dir.chmod(0o755)
    found = look(config)
    assert {it.status for it in found.values()} == {"ok"}, found
    assert "mode 0755, private, which its first use makes 0700" in found["directory"].found
    assert list(config.dir.iterdir()) == []
    assert config.dir.stat().st_mode & 0o777 == 0o755


def test_a_cache_in_use_says_what_it_takes(config: CacheConfig, tmp_path: Path) -> None:
    fill(config, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    found = look(config)
    assert {it.status for it in found.values()} == {"ok"}, found
    used = found["space"].values["used_bytes"]
    assert isinstance(used, int)
    assert used >= 4 * BLOCK
    assert "mode 0700, private" in found["directory"].found
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("asked", ["file", "file/below"])
def test_what_is_no_directory_is_refused(asked: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = cache.directory(CacheConfig(dir=tmp_path / asked))
    assert (found.status, "is not a directory" in found.found) == ("fail", True)


def test_a_directory_of_something_else_is_refused_and_left_alone(config: CacheConfig) -> None:
    config.dir.mkdir()
    (config.dir / "thesis.tex").touch()
    found = cache.directory(config)
    assert (found.status, "thesis.tex" in found.found) == ("fail", True)
    assert [it.name for it in config.dir.iterdir()] == ["thesis.tex"]


def test_a_cache_of_another_release_is_named(config: CacheConfig) -> None:
    config.dir.mkdir()
    (config.dir / "version").write_text("dataplane-cache 99\n")
    found = cache.directory(config)
    assert (found.status, "another version" in found.found) == ("fail", True)
    assert "--other-version" in found.advice


def test_a_directory_of_another_user_is_refused(config: CacheConfig) -> None:
    config.dir.mkdir()
    found = cache.directory(config, user=os.geteuid() + 1)
    assert found.status == "fail"
    assert f"belongs to user {os.geteuid()}, not to {os.geteuid() + 1}" in found.found


_AS_NOBODY = """
import os, pathlib, sys
from dataplane.cache.config import CacheConfig
from dataplane.cli.checks import cache
os.setgroups([]); os.setgid(65534); os.setuid(65534)
config = CacheConfig(dir=pathlib.Path(sys.argv[1]))
print(cache.directory(config).status, "|", cache.directory(config).found)
try:
    print(cache.holes(cache.place_of(config.dir)))
except OSError as err:
    print(err.strerror)
"""


@pytest.fixture
def common() -> Iterator[Path]:
    """A folder that other users reach; pytest's own are for one user."""
    with tempfile.TemporaryDirectory(prefix="dataplane-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@needs_root
def test_a_directory_that_cannot_be_read_or_written_is_refused(common: Path) -> None:
    def as_nobody(path: Path) -> str:
        done = subprocess.run(
            [sys.executable, "-c", _AS_NOBODY, str(path)],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        return done.stdout

    (common / "locked").mkdir(mode=0o700)
    said = as_nobody(common / "locked" / "cache")
    assert said.startswith("fail |")
    assert "Permission denied" in said
    (common / "readable").mkdir(mode=0o755)
    assert "belongs to user 0" in as_nobody(common / "readable")
    said = as_nobody(common / "readable" / "cache")
    assert "cannot be written to: Permission denied" in said
    assert "not tried" in said


def test_a_full_disk_leaves_no_room(disk: Disk, config: CacheConfig) -> None:
    small = disk("size=1m")
    config = dataclasses.replace(config, dir=small / "cache")
    config.dir.mkdir()
    assert set(statuses(config).values()) == {"ok"}
    fill_up(small / "filler")
    found = look(config)
    assert {name: it.status for name, it in found.items()} == {
        "directory": "ok",
        "space": "fail",
        "inodes": "ok",
        "holes": "skip",
    }
    assert "0 B of 1 MiB free" in found["space"].found
    assert found["space"].values["may_take_bytes"] == 0
    assert list(config.dir.iterdir()) == []


def test_a_disk_without_files_left_is_named(disk: Disk, config: CacheConfig) -> None:
    small = disk("size=8m,nr_inodes=6")
    config = dataclasses.replace(config, dir=small / "cache")
    for number in range(5):
        (small / str(number)).touch()
    found = cache.files(cache.place_of(config.dir))
    assert found.status == "fail"
    assert "0 of 6 inodes free" in found.found


def test_a_read_only_disk_is_refused(disk: Disk, config: CacheConfig) -> None:
    small = disk("size=8m")
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    found = look(dataclasses.replace(config, dir=small / "cache"))
    assert found["directory"].status == "fail"
    assert "mounted read-only" in found["directory"].found
    assert found["holes"].status == "skip"


def test_a_disk_where_programs_may_not_run_is_as_good_as_another(
    disk: Disk, config: CacheConfig
) -> None:
    small = disk("size=8m,noexec,nosuid,nodev")
    assert set(statuses(dataclasses.replace(config, dir=small / "cache")).values()) == {"ok"}
    kind = cache.file_system(cache.place_of(small / "cache"))
    assert kind.values == {"type": "tmpfs", "mount_point": str(small)}


def space_of(config: CacheConfig, *, size: int, free: int, used: int = 0) -> Finding:
    status = os.statvfs_result((4096, 4096, size // 4096, *(free // 4096,) * 2, *(0,) * 5))
    place = cache.Place(config.dir, config.dir, exists=True)
    return cache.space(config, place, lambda _: status, lambda _: used)


@pytest.mark.parametrize(
    ("budget", "free", "used", "status", "may_take"),
    [
        (None, 50 * MIB, 0, "ok", 40 * MIB),  # a tenth of 100 MiB stays free
        (None, 10 * MIB, 0, "fail", 0),
        (None, 10 * MIB, 30 * MIB, "ok", 30 * MIB),  # the cache itself has filled the disk
        (None, 5 * MIB, 30 * MIB, "ok", 25 * MIB),
        (20 * MIB, 50 * MIB, 0, "ok", 20 * MIB),
        (20 * MIB, 10 * MIB, 0, "warn", 9 * MIB),  # with a budget a hundredth stays free
        (20 * MIB, 1 * MIB, 0, "fail", 0),
        (20 * MIB, 1 * MIB, 20 * MIB, "ok", 20 * MIB),
    ],
)
def test_space_is_judged_as_the_budget_judges_it(
    config: CacheConfig, budget: int | None, free: int, used: int, status: str, may_take: int
) -> None:
    config = dataclasses.replace(config, size_bytes=budget)
    found = space_of(config, size=100 * MIB, free=free, used=used)
    assert found.status == status, found
    assert found.values["may_take_bytes"] == may_take


def test_less_than_a_loader_reads_ahead_is_a_warning(config: CacheConfig) -> None:
    config = dataclasses.replace(config, prefetch_window_bytes=64 * MIB)
    assert space_of(config, size=100 * MIB, free=50 * MIB).status == "warn"


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        *(("ext4", "ok"), ("xfs", "ok"), ("btrfs", "ok"), ("zfs", "ok"), ("nfs4", "warn")),
        *(("lustre", "warn"), ("fuse.sshfs", "warn"), ("9p", "warn"), ("tmpfs", "warn")),
        *(("overlay", "warn"),),
    ],
)
def test_a_file_system_that_is_no_local_disk_is_a_warning(
    kind: str, status: str, tmp_path: Path
) -> None:
    place = cache.place_of(tmp_path / "cache")
    found = cache.file_system(place, lambda _: Mounted(Path("/mnt"), kind, "x"))
    assert (found.status, found.values["type"]) == (status, kind)
    assert bool(found.advice) == (status == "warn")
    assert cache.file_system(place, lambda _: None).status == "skip"


def test_a_hole_is_really_punched(tmp_path: Path) -> None:
    punched: list[int] = []
    found = cache.holes(cache.place_of(tmp_path))
    assert found.status == "ok", found
    assert found.values["given_back_bytes"] == MIB

    def without_effect(opened: int, length: int) -> int:
        punched.append(length)
        os.pwrite(opened, bytes(length), 0)  # it reads as zeros, and takes its space
        return 0

    kept = cache.holes(cache.place_of(tmp_path), without_effect)
    assert (kept.status, punched) == ("warn", [MIB])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "words"),
    [(errno.EOPNOTSUPP, "cannot punch holes"), (errno.EIO, "refused a hole (Input/output error)")],
)
def test_a_file_system_without_holes_cannot_hold_a_cache(
    error: int, words: str, tmp_path: Path
) -> None:
    found = cache.holes(cache.place_of(tmp_path), lambda *_: error)
    assert (found.status, words in found.found) == ("fail", True)


def test_a_hole_that_keeps_its_bytes_is_not_believed(tmp_path: Path) -> None:
    assert cache.holes(cache.place_of(tmp_path), lambda *_: 0).status == "fail"


def test_an_encrypted_cache_needs_a_key_which_is_never_shown(
    config: CacheConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATAPLANE_CACHE_KEY", raising=False)
    assert cache.encryption(config).status == "skip"
    sealed = dataclasses.replace(config, encrypt=True)
    missing = cache.encryption(sealed, {}, lambda _: None)
    assert (missing.status, "[encrypt]'" in missing.advice) == ("fail", True)

    def never(_: Path | None) -> bytes:
        raise AssertionError("a look makes no key")

    boot = cache.encryption(sealed, {}, lambda _: "45.0", never)
    assert (boot.status, boot.values) == ("ok", {"origin": "boot"})
    key = "ab" * 32
    monkeypatch.setenv("DATAPLANE_CACHE_KEY", key)
    found = cache.encryption(sealed, os.environ, lambda _: "45.0")
    assert (found.status, key in found.found) == ("ok", False)
    monkeypatch.delenv("DATAPLANE_CACHE_KEY")
    file = tmp_path / "key"
    file.write_text(key)
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="others may read"):
        cache.encryption(dataclasses.replace(sealed, key_file=file), {}, lambda _: "45.0")
