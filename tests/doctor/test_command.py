"""`dataplane doctor` as people and scripts run it, in worlds that lack things."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from dataplane.cli.checks.catalog import GROUPS, Asked, checks_of
from dataplane_testing.s3 import S3Endpoint
from tests.stores.fakes import Answer, HttpServer

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "doctor.md"
STATUSES = {"ok", "warn", "fail", "skip"}
ONLY_STORE = [word for group in GROUPS if group != "store" for word in ("--skip", group)]
ONLY_CACHE = [word for group in GROUPS if group != "cache" for word in ("--skip", group)]
SECRET = "TOPSECRETTOPSECRET"


def doctor(
    *arguments: str, before: Sequence[str] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, sys.executable, "-m", "dataplane", "doctor", *arguments],
        capture_output=True, text=True, timeout=110, check=False,
        env=os.environ | environment,
    )  # fmt: skip


def document(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.stderr == ""
    made: dict[str, Any] = json.loads(done.stdout)
    return made


def by_name(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    return {line["name"]: line for line in document(done)["checks"]}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[S3Endpoint]:
    with S3Endpoint(in_process=True, buckets=("data",)) as running:
        running.put("data", "cars/a.bin", b"hello")
        yield running


def test_every_line_of_this_machine_has_a_status_and_what_was_found() -> None:
    done = doctor("--json", "--skip", "mount")  # other tests kill mounts
    made = document(done)
    assert done.returncode == made["exit_code"]
    names = [line["name"] for line in made["checks"]]
    assert len(names) == len(set(names)) > 20
    for line in made["checks"]:
        assert set(line) == {"name", "group", "status", "found", "advice", "values"}
        assert line["status"] in STATUSES
        assert line["found"]
        assert line["advice"] or line["status"] in {"ok", "skip"}, line
        assert "\n" not in line["found"] + line["advice"]
        assert "the check itself failed" not in line["found"]
    assert sum(made["counts"].values()) == len(names)
    assert not Path(os.environ["DATAPLANE_CACHE_DIR"]).exists()


def test_a_pipe_gets_one_line_for_each_check_and_no_colour() -> None:
    done = doctor(*ONLY_CACHE, FORCE_COLOR="")
    lines = done.stdout.splitlines()
    names = [check.name for check in checks_of(Asked(without=frozenset(GROUPS) - {"cache"}))]
    assert [line.split()[1] for line in lines[:-1]] == names
    assert {line.split()[0] for line in lines[:-1]} <= STATUSES
    assert re.fullmatch(r"\d+ ok, \d+ warnings?, \d+ failed, \d+ not applicable", lines[-1])
    assert "\x1b" not in done.stdout


def test_a_terminal_gets_colours_and_folded_lines() -> None:
    read, write = pty.openpty()
    # A path is one word, which is not folded: a short one, that is not there.
    environ = os.environ | {"DATAPLANE_CACHE_DIR": "/tmp/not-there"}
    environ |= {"TERM": "xterm-256color", "COLUMNS": "60"}
    environ.pop("NO_COLOR", None)
    child = subprocess.Popen(
        [sys.executable, "-m", "dataplane", "doctor", *ONLY_CACHE],
        stdout=write, stderr=write, stdin=subprocess.DEVNULL, env=environ,
    )  # fmt: skip
    os.close(write)
    text = b""
    while True:
        try:
            part = os.read(read, 65_536)
        except OSError:  # the child's end is closed
            break
        if not part:
            break
        text += part
    os.close(read)
    assert child.wait(60) == 0
    assert b"\x1b[32mok" in text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text.decode())
    assert max(len(line) for line in plain.splitlines()) <= 60, plain
    assert any(line.startswith(" ") for line in plain.splitlines())


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_can_be_left_out(group: str) -> None:
    asked = {check.group for check in checks_of(Asked())}
    assert asked == set(GROUPS)
    without = [check.group for check in checks_of(Asked(without=frozenset({group})))]
    assert set(without) == set(GROUPS) - {group}


def test_a_store_that_answers_is_read(endpoint: S3Endpoint) -> None:
    done = doctor("s3://data/cars", "--json", *ONLY_STORE, **endpoint.environment())
    assert done.returncode == 0
    assert {line["status"] for line in by_name(done).values()} == {"ok"}


def test_wrong_keys_fail_with_the_code_of_stores_and_are_not_shown(endpoint: S3Endpoint) -> None:
    environ = endpoint.environment() | {"AWS_SECRET_ACCESS_KEY": SECRET}
    done = doctor("s3://data/cars", "--json", *ONLY_STORE, **environ)
    assert done.returncode == 3
    lines = by_name(done)
    assert [name for name, it in lines.items() if it["status"] == "fail"] == ["store.read"]
    assert "the secret key is wrong" in lines["store.read"]["found"]
    assert lines["store.endpoint"]["status"] == lines["store.clock"]["status"] == "ok"
    assert SECRET not in done.stdout + done.stderr
    assert endpoint.access_key not in done.stdout.replace("s3://data/cars", "")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["s3://AKIA:TOPSECRETTOPSECRET@data/cars"], 2),
        (["s3://data/cars", "--endpoint-url", f"http://key:{SECRET}@127.0.0.1:9"], 2),
        (["nonsense://x/y"], 2),
        (["/does/not/exist"], 3),
    ],
)
def test_a_url_that_cannot_be_used_is_a_line_and_shows_no_secret(
    arguments: list[str], code: int
) -> None:
    done = doctor(*arguments, "--json", *ONLY_STORE)
    assert done.returncode == code, done.stdout
    failed = [name for name, it in by_name(done).items() if it["status"] == "fail"]
    assert len(failed) == 1
    assert SECRET not in done.stdout


def test_settings_that_cannot_be_read_are_told_whatever_is_left_out() -> None:
    done = doctor("--json", *ONLY_CACHE, DATAPLANE_BLOCK_BYTES="5")
    assert done.returncode == 2
    lines = by_name(done)
    assert "cache.block_bytes" in lines["software.settings"]["found"]
    assert lines["cache.directory"]["status"] == "skip"


def test_a_variable_that_nothing_reads_is_a_warning() -> None:
    without = [word for group in GROUPS if group != "software" for word in ("--skip", group)]
    done = doctor("--json", *without, DATAPLANE_CACHE_DIRR="/x")
    found = by_name(done)["software.settings"]
    assert (found["status"], done.returncode) == ("warn", 0)
    assert "did you mean DATAPLANE_CACHE_DIR?" in found["found"]


def test_a_cache_directory_that_cannot_be_used_has_the_code_of_caches(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = doctor("--json", *ONLY_CACHE, "--cache-dir", str(tmp_path / "file"))
    assert done.returncode == 5
    assert by_name(done)["cache.directory"]["status"] == "fail"


def in_a_namespace(setup: str) -> list[str]:
    """What to start a command with, so that it runs in mounts of its own, made by `setup`."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("mounts of its own need root and unshare")
    return [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        f'{setup}\nexec "$@"',
        "sh",
    ]


def test_a_container_without_fuse_is_told(tmp_path: Path) -> None:
    """Its /dev is a small one, as that of a container without `--device /dev/fuse`."""
    setup = f"""
    set -e
    mkdir {tmp_path}/dev && mount -t tmpfs -o mode=755 none {tmp_path}/dev
    for name in null zero random urandom; do cp -a /dev/$name {tmp_path}/dev/; done
    mkdir {tmp_path}/dev/shm && mount -t tmpfs -o size=64m none {tmp_path}/dev/shm
    mount --rbind {tmp_path}/dev /dev
    """
    done = doctor(
        "--json", "--skip", "gpu", "--skip", "store", "--skip", "cache",
        before=in_a_namespace(setup),
    )  # fmt: skip
    lines = by_name(done)
    wanted = "fail" if lines["mount.library"]["status"] == "ok" else "skip"
    assert lines["mount.device"]["status"] == wanted
    assert "/dev/fuse is missing" in lines["mount.device"]["found"]
    assert "--device /dev/fuse" in lines["mount.device"]["advice"]
    assert lines["mount.passthrough"]["status"] == "skip"
    assert lines["limits.shm"]["status"] == "warn"
    assert Path("/dev/fuse").exists() or not Path("/dev/fuse").parent.exists()


def test_a_full_disk_is_told_with_the_code_of_caches(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    setup = f"""
    mount -t tmpfs -o size=8m none {tmp_path}/disk
    mkdir -m 700 {tmp_path}/disk/cache
    dd if=/dev/zero of={tmp_path}/disk/filler bs=64k 2>/dev/null
    """
    where = ["--cache-dir", f"{tmp_path}/disk/cache"]
    done = doctor("--json", *ONLY_CACHE, *where, before=in_a_namespace(setup))
    assert done.returncode == 5
    lines = by_name(done)
    assert [name for name, it in lines.items() if it["status"] == "fail"] == ["cache.space"]
    assert "0 B of 8 MiB free" in lines["cache.space"]["found"]
    assert "free space" in lines["cache.space"]["advice"]


def bare_environment(tmp_path: Path, *, native: bool = True) -> dict[str, str]:
    """An environment with the required packages only, as an installation without extras has it."""
    import click

    site = Path(click.__file__).parents[1]
    folder = tmp_path / "site"
    folder.mkdir()
    wanted = ("click", "rich", "markdown_it", "mdurl", "pygments", "numpy", "numpy.libs")
    for name in (*wanted, "obstore", "pyarrow", "pyarrow.libs", "fsspec", "typing_extensions.py"):
        if (site / name).exists():
            (folder / name).symlink_to(site / name)
    for name in ("click", "rich", "numpy", "obstore", "pyarrow", "fsspec"):
        for described in site.glob(f"{name}-*.dist-info"):
            (folder / described.name).symlink_to(described)
    project = ROOT
    if not native:
        project = tmp_path / "project"
        ignored = shutil.ignore_patterns("_native*.so", "__pycache__")
        shutil.copytree(ROOT / "dataplane", project / "dataplane", ignore=ignored)
        shutil.copy(ROOT / "pyproject.toml", project)
    elif not list((ROOT / "dataplane").glob("_native*.so")):
        pytest.skip("the native module is not built in the checkout")
    return {"PYTHONPATH": f"{folder}:{project}", "HOME": str(tmp_path)}


def bare(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-S", "-m", "dataplane", "doctor", "--json", *arguments],
        capture_output=True, text=True, timeout=110, check=False, cwd="/",
        env=os.environ | environ,
    )  # fmt: skip


def test_without_any_extra_all_that_is_missing_is_skipped(tmp_path: Path) -> None:
    done = bare(bare_environment(tmp_path), "--skip", "mount", "--skip", "cache")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = by_name(done)
    assert lines["software.packages"]["status"] == "ok"
    assert lines["software.extras"]["found"].startswith("none installed; without ")
    for name in ("software.torch", "gpu.nvcomp", "gpu.dali_import", "gpu.triton"):
        assert lines[name]["status"] == "skip", lines[name]
    assert lines["gpu.dali"]["status"] in {"skip", "warn"}


def test_without_the_native_module_the_rest_is_still_checked(tmp_path: Path) -> None:
    done = bare(bare_environment(tmp_path, native=False), "--skip", "mount")
    assert done.returncode == 1, done.stdout + done.stderr
    lines = by_name(done)
    assert [name for name, it in lines.items() if it["status"] == "fail"] == ["software.native"]
    assert "make native" in lines["software.native"]["advice"]
    assert lines["cache.directory"]["status"] == lines["store.read"]["status"] == "skip"
    assert lines["limits.files"]["status"] in STATUSES


def test_the_command_ends_at_ctrl_c_though_a_server_is_silent() -> None:
    asked = threading.Event()

    def say_nothing(_: object) -> Answer:
        asked.set()
        return Answer(is_silent=True)

    with HttpServer(say_nothing) as silent:
        child = subprocess.Popen(
            [sys.executable, "-m", "dataplane", "doctor", "s3://data/x", "--anonymous",
             "--endpoint-url", silent.url, *ONLY_STORE],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert asked.wait(90)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=60)
    assert child.returncode == 130
    assert errors.strip() == "dataplane: interrupted"


def test_the_page_explains_every_check() -> None:
    page = PAGE.read_text()
    explained = set(re.findall(r"^\| `(\w+\.\w+)` \|", page, re.MULTILINE))
    assert explained == {check.name for check in checks_of(Asked())}
