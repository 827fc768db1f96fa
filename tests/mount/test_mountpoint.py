"""Finding, probing and helping with mounts, without making one where that can be avoided."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path

import pytest

from dataplane import fuse_host, mount_table
from dataplane.errors import Denied, MissingPackage, MountError
from dataplane.mount_table import Mounted, Probe, filesystem_of, find_mount, mounts, probe
from dataplane_fuse import daemon
from dataplane_fuse.frontends import fusepy
from dataplane_fuse.frontends.pages import PageCachePolicy
from dataplane_fuse.mountpoint import holders, normal_path
from tests.mount.conftest import MakeMount, run
from tests.mount.inside import daemon_environment, error_of, mount_options, open_log

REPOSITORY = Path(__file__).resolve().parents[2]
HELPER = REPOSITORY / "mounts" / "dataplane_fuse" / "system" / "mount.dataplane"
MOUNTINFO = r"""
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:40 / /mnt/sims ro,nosuid,nodev shared:1 - fuse.dataplane s3://bucket/prefix ro,user_id=0
31 22 0:41 / /mnt/with\040space ro - fuse.dataplane s3://b ro
32 22 0:42 / /mnt/other rw - fuse.sshfs host: rw
33 22 0:43 / /mnt/stacked rw - tmpfs tmpfs rw
34 33 0:44 / /mnt/stacked ro - fuse.dataplane file:///x ro
35 22 0:45 / /mnt/back\134slash ro - fuse.dataplane file:///x ro
broken line
"""


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("/mnt/sims", "s3://bucket/prefix"),
        ("/mnt/with space", "s3://b"),
        ("/mnt/stacked", "file:///x"),
        ("/mnt/back\\slash", "file:///x"),
    ],
)
def test_our_mounts_are_found_in_mountinfo(path: str, source: str) -> None:
    found = find_mount(Path(path), MOUNTINFO)
    assert found == Mounted(Path(path), "fuse.dataplane", source)
    assert found.is_ours


def test_mounts_of_others_are_not_ours_and_the_rest_is_not_there() -> None:
    other = find_mount(Path("/mnt/other"), MOUNTINFO)
    assert other is not None
    assert not other.is_ours
    assert find_mount(Path("/mnt"), MOUNTINFO) is None


def test_unicode_paths_are_found() -> None:
    line = "30 22 0:40 / /mnt/ünï ro - fuse.dataplane s3://b ro"
    assert find_mount(Path("/mnt/ünï"), line) is not None


def test_a_path_is_made_normal_without_touching_its_last_part(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert normal_path(tmp_path / "link" / "mnt") == tmp_path / "real" / "mnt"
    assert normal_path(f"{tmp_path}/real/../real/mnt/") == tmp_path / "real" / "mnt"


def test_a_probe_of_an_ordinary_folder_says_that_it_is_no_mount_of_ours(tmp_path: Path) -> None:
    assert probe(tmp_path).error in {errno.ENODATA, errno.EOPNOTSUPP}
    assert probe(tmp_path / "nope") == Probe(errno.ENOENT)


def test_a_probe_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mount_table, "_PROBE_PROGRAM", "import time; time.sleep(60)")
    assert probe(tmp_path, timeout_s=0.2).error == errno.ETIMEDOUT


def test_holders_are_named(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w"):
        assert any(f"(pid {os.getpid()})" in text for text in holders(tmp_path))
        assert holders(tmp_path, besides=os.getpid()) == []
    assert not any(f"(pid {os.getpid()})" in text for text in holders(tmp_path))


def test_a_missing_device_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MountError, match=r"is missing.*modprobe fuse"):
        fuse_host.check_device(tmp_path / "fuse")


def test_a_device_that_may_not_be_opened_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MountError, match="cannot be opened"):
        fuse_host.check_device(tmp_path)  # a directory: opening it to write fails


def test_users_other_than_root_need_fusermount3(tmp_path: Path) -> None:
    device = tmp_path / "fuse"
    device.touch()
    with pytest.raises(MountError, match=r"fusermount3 is missing.*apt install fuse3"):
        fuse_host.check_device(device, user=1000, which=lambda _: None)
    fuse_host.check_device(device, user=1000, which=lambda name: f"/bin/{name}")
    fuse_host.check_device(device, user=0, which=lambda _: None)


def test_the_file_system_of_a_path_is_the_innermost_mount_and_the_topmost_there() -> None:
    assert len([*mounts(MOUNTINFO)]) == 7
    kinds = {
        "/home/me": "ext4",
        "/mnt/sims/a/b": "fuse.dataplane",
        "/mnt/stacked/x": "fuse.dataplane",
        "/mnt/simsalabim": "ext4",
    }
    found = {path: filesystem_of(Path(path), MOUNTINFO) for path in kinds}
    assert {path: it and it.filesystem_type for path, it in found.items()} == kinds
    assert filesystem_of(Path("/home"), "") is None


def test_libfuse_2_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Two:
        fuse_version_major = 2

    monkeypatch.setattr(fuse_host.importlib, "import_module", lambda name: Two)
    with pytest.raises(MountError, match="libfuse 2"):
        fuse_host.load_library()


def test_missing_packages_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise ModuleNotFoundError(name)

    def unloadable(name: str) -> object:
        raise OSError("Unable to find libfuse")

    monkeypatch.setattr(fuse_host.importlib, "import_module", missing)
    with pytest.raises(MissingPackage, match=r"mfusepy.*\[fuse\]"):
        fuse_host.load_library()
    monkeypatch.setattr(fuse_host.importlib, "import_module", unloadable)
    with pytest.raises(MountError, match="apt install fuse3"):
        fuse_host.load_library()


def test_a_source_with_commas_stays_one_option() -> None:
    class Library:
        fuse_version_major, fuse_version_minor = 3, 14

    options = fusepy.FrontEndOptions(source="s3://bucket/a,allow_other\\,b c")
    parts = mount_options(options, Library)
    assert "allow_other" not in parts
    (name,) = [part for part in parts if part.startswith("fsname=")]
    assert "\\" not in name
    assert name.startswith("fsname=s3://bucket/a%2Callow_other")


def test_pages_are_kept_for_one_version_only() -> None:
    pages = PageCachePolicy()
    assert pages.opened(1, "x", "v1") == (False, False), "nothing is there yet"
    assert pages.opened(2, "x", "v1") == (False, True), "the same version"
    assert pages.opened(3, "x", "v2") == (True, False), "another one, while v1 is open"
    for handle in (1, 2, 3):
        pages.released(handle)
    assert pages.opened(4, "x", "v2") == (False, False), "v1's pages are dropped"
    assert pages.opened(5, "x", "v2") == (False, True)


def test_the_daemon_finds_files_that_were_named_where_the_command_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {
        "DATAPLANE_CONFIG": "c.toml",
        "DATAPLANE_CACHE_KEY_FILE": "../key",
        "AWS_CONFIG_FILE": "~/.aws/config",
        "GOOGLE_APPLICATION_CREDENTIALS": "/etc/google.json",
        "DATAPLANE_CACHE_DIR": "",
        "AWS_PROFILE": "mine",
    }
    assert daemon_environment(given) == given | {
        "DATAPLANE_CONFIG": str(tmp_path / "c.toml"),
        "DATAPLANE_CACHE_KEY_FILE": str(tmp_path / "../key"),
    }


def test_errors_keep_their_class_on_the_way_from_the_daemon() -> None:
    for cls in (Denied, MountError):
        assert error_of(cls.kind) is cls
    assert error_of("unheard of") is MountError


def test_default_logs_of_two_mount_points_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    first, second = (daemon.default_log_file(Path(p)) for p in ("/mnt/a b", "/mnt/c"))
    assert first == Path("/state/dataplane/logs/mount-mnt-a-b.log")
    assert first != second


def test_a_folder_for_the_log_is_made_only_where_nobody_chose_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    chosen = tmp_path / "nope" / "x.log"
    with pytest.raises(MountError, match=f"{chosen} cannot be written: No such file"):
        open_log(chosen)
    assert not chosen.parent.exists()
    os.close(open_log(daemon.default_log_file(tmp_path)))
    assert list(daemon.log_folder().iterdir()) == [daemon.default_log_file(tmp_path)]


def test_a_cache_directory_that_cannot_be_is_refused_before_anything_is_mounted(
    tmp_path: Path,
) -> None:
    (tmp_path / "mnt").mkdir()
    (tmp_path / "data").mkdir()
    command = [sys.executable, "-m", "dataplane", "mount", "--cache-dir", "/proc/x"]
    done = run([*command, str(tmp_path / "data"), str(tmp_path / "mnt")], {})
    assert done.status == 5, done.errors
    assert done.errors.startswith("dataplane: the cache directory /proc/x cannot be used")
    assert find_mount(tmp_path / "mnt") is None


def test_waiting_for_a_process_that_is_gone_returns_at_once() -> None:
    done = run([sys.executable, "-c", "import os; print(os.getpid())"], {})
    assert daemon.wait_for_exit(int(done.output), 0.0)
    assert not daemon.is_daemon(int(done.output))
    assert not daemon.wait_for_exit(os.getpid(), 0.01)


class TestHelper:
    """mount.dataplane turns options of mount(8) into arguments."""

    @pytest.fixture
    def program(self, tmp_path: Path) -> Path:
        path = tmp_path / "dataplane"
        path.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\necho "profile=${AWS_PROFILE-}"\n')
        path.chmod(0o755)
        return path

    @staticmethod
    def help_mount(*arguments: str) -> tuple[int, list[str], str]:
        done = run(["sh", str(HELPER), *arguments], {})
        return done.status, done.output.splitlines(), done.errors

    def test_options_become_arguments(self, program: Path) -> None:
        options = f"ro,_netdev,x-systemd.automount,allow_other,cache_dir=/nvme/a b,bin={program}"
        status, lines, errors = self.help_mount("s3://b/a b", "/mnt/x y", "-o", options)
        assert status == 0, errors
        assert lines == [
            *("mount", "--allow-other", "--cache-dir", "/nvme/a b"),
            *("--", "s3://b/a b", "/mnt/x y", "profile="),
        ]

    def test_unknown_options_are_refused_unless_sloppy(self, program: Path) -> None:
        status, _, errors = self.help_mount("s3://b", "/mnt", "-o", f"bin={program},cachedir=/x")
        assert status == 1
        assert "unknown option cachedir" in errors
        assert self.help_mount("s3://b", "/mnt", "-s", "-o", f"bin={program},cachedir=/x")[0] == 0

    def test_an_environment_file_is_read_and_not_evaluated(
        self, program: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "env").write_text("# comment\n\nAWS_PROFILE=a $(touch /tmp/never)\n")
        status, lines, errors = self.help_mount(
            "s3://b", "/mnt", "-o", f"bin={program},env_file={tmp_path}/env"
        )
        assert status == 0, errors
        assert lines[-1] == "profile=a $(touch /tmp/never)"

    def test_a_missing_program_is_said(self) -> None:
        status, _, errors = self.help_mount("s3://b", "/mnt", "-o", "bin=/nope/dataplane")
        assert status == 1
        assert "not found" in errors

    @pytest.mark.fuse
    def test_it_mounts(self, source: Path, make_mount: MakeMount) -> None:
        mount = make_mount(source)
        program = Path(sys.executable).with_name("dataplane")
        if not program.exists() and shutil.which("dataplane") is None:
            pytest.skip("the dataplane script is not installed")
        options = f"ro,noatime,list_ttl=5,cache_dir={mount.home}/cache,log_file={mount.log}"
        status, lines, errors = self.help_mount(
            str(source), str(mount.point), "-o", f"{options},bin={program}"
        )
        assert status == 0, errors
        mount.pid = int(lines[0].rpartition("(pid ")[2].split(",")[0])
        assert "large.bin" in mount.shell("ls").output
        assert mount.umount().status == 0
