"""Checks of mounting, in worlds with and without what it needs; what needs root says so."""

from __future__ import annotations

import errno
import os
import signal
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from dataplane.child_process import Output
from dataplane.cli.checks import mounting
from dataplane.cli.checks.passthrough import (
    Privileges,
    kernel_offers,
    kernel_version,
    privileges,
)
from dataplane.errors import MountError
from dataplane.extras import missing_package
from dataplane.mount_table import Mounted, Probe, mounts
from tests.mount.conftest import MakeMount, make_mount  # noqa: F401 - a fixture

ROOT = Privileges(is_admin=True, in_first_namespace=True, no_new=False)
USER = Privileges(is_admin=False, in_first_namespace=True, no_new=False)
OUR_TYPE = "fuse.dataplane"


@pytest.fixture
def world(tmp_path: Path) -> SimpleNamespace:
    """A device that opens, and a fusermount3 that may do its work."""
    device, helper = tmp_path / "fuse", tmp_path / "fusermount3"
    device.touch()
    helper.touch()
    helper.chmod(0o4755)
    return SimpleNamespace(device=device, helper=helper, which=lambda _: str(helper))


def test_a_device_that_opens_is_fine(world: SimpleNamespace) -> None:
    found = mounting.device(world.device, is_wanted=True, user=0, which=world.which, allowed=ROOT)
    assert (found.status, str(world.helper) in found.found) == ("ok", True)
    alone = mounting.device(
        world.device, is_wanted=True, user=0, which=lambda _: None, allowed=ROOT
    )
    assert (alone.status, "root does without" in alone.found) == ("ok", True)


@pytest.mark.parametrize(("is_wanted", "status"), [(True, "fail"), (False, "skip")])
def test_a_missing_device_fails_where_mounting_is_installed(
    is_wanted: bool, status: str, tmp_path: Path
) -> None:
    found = mounting.device(tmp_path / "fuse", is_wanted=is_wanted, user=0, allowed=ROOT)
    assert found.status == status
    assert "is missing" in found.found
    assert "--device /dev/fuse" in found.advice


def test_root_without_the_capability_may_not_mount(world: SimpleNamespace) -> None:
    found = mounting.device(world.device, is_wanted=True, user=0, which=world.which, allowed=USER)
    assert (found.status, "--cap-add SYS_ADMIN" in found.advice) == ("fail", True)


def test_a_user_needs_a_fusermount3_that_is_setuid_root(world: SimpleNamespace) -> None:
    def look(**changes: object) -> mounting.Finding:
        given = {"which": world.which, "allowed": USER} | changes
        return mounting.device(world.device, is_wanted=True, user=1000, **given)  # type: ignore[arg-type]

    if os.geteuid() == 0:
        assert look().status == "ok"
        locked = look(allowed=Privileges(False, True, no_new=True))
        assert (locked.status, "no_new_privs" in locked.found) == ("fail", True)
    world.helper.chmod(0o755)
    assert not world.helper.stat().st_mode & stat.S_ISUID
    plain = look()
    assert (plain.status, "not setuid root" in plain.found) == ("fail", True)
    missing = look(which=lambda _: None)
    assert (missing.status, "apt install fuse3" in missing.advice) == ("fail", True)


def test_libfuse_is_named_or_what_brings_it() -> None:
    three = SimpleNamespace(fuse_version_major=3, fuse_version_minor=16)
    assert mounting.library(lambda: three).found.startswith("libfuse 3.16")  # type: ignore[arg-type, return-value]

    def absent() -> object:
        raise missing_package("mounting", "mfusepy")

    found = mounting.library(absent)  # type: ignore[arg-type]
    assert (found.status, "[fuse]'" in found.advice) == ("skip", True)

    def broken() -> object:
        raise MountError("libfuse 3 cannot be loaded")

    with pytest.raises(MountError):
        mounting.library(broken)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("release", "allowed", "offered", "status", "words"),
    [
        ("6.18.44-fc", ROOT, True, "ok", "possible: Linux 6.18.44-fc"),
        ("6.9.0", ROOT, True, "ok", "possible"),
        ("7.0", ROOT, False, "skip", "built without it"),
        ("6.18", ROOT, None, "skip", "a trial mount did not work"),
        ("6.8.12-ubuntu", ROOT, True, "skip", "older than 6.9"),
        ("5.15", ROOT, True, "skip", "older than 6.9"),
        ("6.18", USER, True, "skip", "without CAP_SYS_ADMIN"),
        ("6.18", Privileges(True, False, False), True, "skip", "user namespace"),
    ],
)
def test_passthrough_takes_a_kernel_a_capability_and_the_first_namespace(
    release: str, allowed: Privileges, offered: bool | None, status: str, words: str
) -> None:
    found = mounting.passthrough(release, allowed, lambda: offered, has_device=True)
    assert (found.status, words in found.found) == (status, True), found
    assert mounting.passthrough(release, allowed, has_device=False).status == "skip"


def test_the_kernel_is_not_asked_where_the_answer_would_not_count() -> None:
    def offers() -> bool:
        raise AssertionError

    assert mounting.passthrough("6.18", USER, offers, has_device=True).status == "skip"


def test_privileges_are_read_from_proc(tmp_path: Path) -> None:
    (tmp_path / "status").write_text(
        "Name:\tx\nCapEff:\t0000000000200000\nNoNewPrivs:\t1\nbroken\n"
    )
    (tmp_path / "uid_map").write_text("         0          0 4294967295\n")
    assert privileges(tmp_path) == Privileges(True, True, True)
    (tmp_path / "status").write_text("CapEff:\tffffffffffdfffff\nNoNewPrivs:\t0\n")
    (tmp_path / "uid_map").write_text("         0       1000          1\n")
    assert privileges(tmp_path) == Privileges(False, False, False)
    assert privileges(tmp_path / "none") == Privileges(False, False, False)


@pytest.mark.parametrize(
    ("release", "version"), [("6.18.44-fc-v857", (6, 18)), ("6.9-rc1", (6, 9)), ("odd", (0, 0))]
)
def test_a_kernels_release_is_read(release: str, version: tuple[int, int]) -> None:
    assert kernel_version(release) == version


@pytest.mark.parametrize(
    ("output", "offers"),
    [
        (Output(0, "offers 1 7 45\n", ""), True),
        (Output(0, "offers 0 7 31\n", ""), False),
        (Output(0, "errno 1\n", ""), None),
        (Output(1, "", "Traceback"), None),
        (None, None),
    ],
)
def test_what_the_kernel_says_to_a_trial_is_understood(
    output: Output | None, offers: bool | None
) -> None:
    assert kernel_offers(lambda command, limit_s: output) is offers


def test_a_trial_leaves_no_mount_and_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (privileges().is_admin and Path("/dev/fuse").exists()):
        pytest.skip("a trial mount needs CAP_SYS_ADMIN and /dev/fuse")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    offered = kernel_offers()
    assert offered in {True, False}
    if kernel_version(os.uname().release) < (6, 9):
        assert offered is False
    assert list(tmp_path.iterdir()) == []
    assert "fuse.doctor" not in Path("/proc/self/mountinfo").read_text()


def mounted(*paths: str) -> Callable[[], list[Mounted]]:
    others = [Mounted(Path("/mnt/ssh"), "fuse.sshfs", "host:")]
    return lambda: others + [Mounted(Path(path), OUR_TYPE, "s3://b") for path in paths]


def test_mounts_that_are_dead_or_hang_are_named_with_what_frees_them() -> None:
    answers = {
        "/mnt/fine": Probe(0, 12),
        "/mnt/dead one": Probe(errno.ENOTCONN),
        "/mnt/stuck": Probe(errno.ETIMEDOUT),
        "/mnt/theirs": Probe(errno.EACCES),
    }
    found = mounting.our_mounts(mounted(*answers), lambda path, limit_s: answers[str(path)])
    assert found.status == "fail"
    assert found.values == {"mounts": 4, "dead": 1, "hanging": 1}
    assert "/mnt/fine" not in found.found
    assert "dataplane umount '/mnt/dead one'" in found.advice
    assert "dataplane umount --lazy /mnt/stuck" in found.advice
    assert "another user's: /mnt/theirs" in found.found


def test_mounts_that_answer_are_counted_and_those_of_others_are_not_touched() -> None:
    looked: list[Path] = []

    def look(path: Path, limit_s: float) -> Probe:
        looked.append(path)
        return Probe(0)

    assert mounting.our_mounts(mounted("/mnt/a", "/mnt/a", "/mnt/b"), look).values["mounts"] == 2
    assert looked == [Path("/mnt/a"), Path("/mnt/b")]
    assert mounting.our_mounts(mounted(), look).found == "no mount of dataplane"


def test_many_mounts_that_hang_do_not_take_longer_than_one_deadline() -> None:
    limits: list[float] = []

    def hangs(path: Path, limit_s: float) -> Probe:
        limits.append(limit_s)
        threading.Event().wait(limit_s)
        return Probe(errno.ETIMEDOUT)

    found = mounting.our_mounts(mounted(*(f"/mnt/{n}" for n in range(20))), hangs, 0.05)
    assert sum(limits) <= 0.05
    assert len(limits) < 20
    assert "not looked at" in found.found


def test_a_system_without_proc_is_a_warning() -> None:
    def no_table() -> list[Mounted]:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    assert mounting.our_mounts(no_table).status == "warn"


@pytest.mark.fuse
def test_a_real_mount_whose_daemon_was_killed_is_found_dead(
    make_mount: MakeMount,  # noqa: F811 - the fixture
    tmp_path: Path,
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").write_text("x")
    made = make_mount(tmp_path / "data")
    assert made.mount().status == 0
    only = [Mounted(made.point, OUR_TYPE, "")]
    assert mounting.our_mounts(lambda: only).status == "ok"
    assert made.point in {it.path for it in mounts() if it.is_ours}
    os.kill(made.pid, signal.SIGKILL)
    found = mounting.our_mounts(lambda: only)
    deadline_s = time.monotonic() + 60
    while found.status == "ok":  # the kernel notices when the process is gone
        assert time.monotonic() < deadline_s
        found = mounting.our_mounts(lambda: only)
    assert f"dead, its daemon is gone: {made.point}" in found.found
    # The advice is the cure.
    assert f"dataplane umount {made.point}" in found.advice
    assert made.umount().status == 0
