"""Mounts come and go cleanly, after a kill too; what cannot be mounted is refused in one line."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cache.fakes import wait_until
from tests.mount.conftest import MakeMount, Mounted, checksums, mountinfo, run

pytestmark = pytest.mark.fuse


def is_at(link: Path, target: str) -> bool:
    try:
        return str(link.readlink()) == target
    except OSError:
        return False


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_killed_daemon_is_recovered_by_the_next_mount(source: Path, mounted: Mounted) -> None:
    assert mounted.shell("cat large.bin | head -c 5000000 >/dev/null").status == 0
    os.kill(mounted.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while is_alive(mounted.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    # "not connected", or "connection abort" for whoever asks while the kernel clears up.
    assert "connect" in run(["ls", str(mounted.point)], {}).errors
    again = mounted.mount()
    assert again.status == 0, again.errors
    assert len(mountinfo(mounted.point)) == 1
    assert mounted.shell("sha256sum <large.bin").output[:64] == checksums(source)["large.bin"]


def test_a_killed_daemons_mount_can_be_unmounted(mounted: Mounted) -> None:
    os.kill(mounted.pid, signal.SIGKILL)
    done = mounted.umount()
    assert done.status == 0, done.errors
    assert mountinfo(mounted.point) == []


def test_umount_leaves_no_process_and_no_mount(mounted: Mounted) -> None:
    assert is_alive(mounted.pid)
    done = mounted.umount()
    assert done.status == 0, done.errors
    assert not is_alive(mounted.pid)
    assert mountinfo(mounted.point) == []
    assert list(mounted.point.iterdir()) == []


def test_umount_of_a_mount_in_use_names_who_uses_it_and_lazy_detaches_it(mounted: Mounted) -> None:
    with subprocess.Popen(
        ["tail", "-f", "--", f"{mounted.point}/empty"], stdout=subprocess.DEVNULL
    ) as holder:
        try:
            descriptors = Path(f"/proc/{holder.pid}/fd")
            while not any(is_at(link, f"{mounted.point}/empty") for link in descriptors.iterdir()):
                time.sleep(0.01)
            done = mounted.umount()
            assert done.status == 6
            assert f"tail (pid {holder.pid})" in done.errors
            assert "--lazy" in done.errors
            assert mounted.umount("--lazy").status == 0
            assert mountinfo(mounted.point) == []
        finally:
            holder.kill()


def test_umount_where_nothing_is_mounted_says_so(make_mount: MakeMount) -> None:
    done = make_mount("/nowhere").umount()
    assert done.status == 6
    assert done.errors.count("\n") == 1
    assert "nothing is mounted on" in done.errors


def test_the_log_is_the_owners_and_tells_of_the_end(mounted: Mounted) -> None:
    assert stat.S_IMODE(mounted.log.stat().st_mode) == 0o600
    mounted.umount()
    assert f"unmounted {mounted.point}" in mounted.log.read_text()


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_a_mount_in_the_foreground_ends_cleanly_on_a_signal(
    source: Path, make_mount: MakeMount, ending: signal.Signals
) -> None:
    mount = make_mount(source)
    command = [sys.executable, "-m", "dataplane", "mount", "-f", str(source), str(mount.point)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        mount.pid = process.pid
        deadline = time.monotonic() + 20
        while not mountinfo(mount.point) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert mount.shell("ls").output.split()[0] == "dataset"
        process.send_signal(ending)
        assert process.wait(timeout=20) == 0
    assert mountinfo(mount.point) == []


class TestRefusals:
    """What cannot be mounted is said in one line, with the exit code of the error."""

    @staticmethod
    def refuse(mount: Mounted, status: int, *words: str) -> None:
        done = mount.mount()
        assert done.status == status, done.errors
        assert done.errors.count("\n") == 1, done.errors
        assert all(word in done.errors for word in words), done.errors
        assert mountinfo(mount.point) == []

    def test_a_mount_point_that_is_not_there(self, source: Path, make_mount: MakeMount) -> None:
        mount = make_mount(source)
        mount.point.rmdir()
        self.refuse(mount, 6, "does not exist", "mkdir")

    def test_a_mount_point_that_is_a_file(self, source: Path, make_mount: MakeMount) -> None:
        mount = make_mount(source)
        mount.point.rmdir()
        mount.point.touch()
        self.refuse(mount, 6, "not a directory")

    def test_a_mount_point_that_is_not_empty(self, source: Path, make_mount: MakeMount) -> None:
        mount = make_mount(source)
        (mount.point / "x").touch()
        self.refuse(mount, 6, "not empty")

    def test_a_mount_point_that_is_in_use(self, mounted: Mounted) -> None:
        done = mounted.mount()
        assert done.status == 6
        assert "already mounted" in done.errors
        assert f"dataplane umount {mounted.point}" in done.errors
        assert len(mountinfo(mounted.point)) == 1

    def test_a_folder_that_is_not_there(self, tmp_path: Path, make_mount: MakeMount) -> None:
        self.refuse(make_mount(tmp_path / "nope"), 3, "nope")

    def test_a_url_of_one_object(self, source: Path, make_mount: MakeMount) -> None:
        self.refuse(make_mount(source / "large.bin"), 6, "one object", f"mount file://{source}")

    def test_a_url_that_is_no_url(self, make_mount: MakeMount) -> None:
        self.refuse(make_mount("s3://"), 2, "bucket")

    def test_a_log_that_cannot_be_written(self, source: Path, make_mount: MakeMount) -> None:
        mount = make_mount(source)
        mount.log.mkdir()
        done = mount.mount()
        assert done.status in {2, 6}
        assert "mount.log" in done.errors


def test_a_default_cache_directory_that_cannot_be_used_is_said_on_the_terminal(
    source: Path, make_mount: MakeMount
) -> None:
    home = make_mount(source).home
    taken = home / "taken"
    taken.mkdir()
    (taken / "thesis.tex").write_text("...")
    mount = make_mount(source, DATAPLANE_CACHE_DIR=str(taken))
    log = ("--log-file", str(mount.log))
    done = mount.command("mount", *log, str(source), str(mount.point))
    assert done.status == 0, done.errors
    mount.pid = int(done.output.rpartition("(pid ")[2].split(",")[0])
    [line] = done.errors.splitlines()
    assert line.startswith(f"dataplane: {taken} is not a cache: it holds 'thesis.tex'")
    assert line.endswith("everything is read from the store")
    assert mount.shell("wc -c <large.bin").output.split() == ["30000001"]


def test_the_line_of_a_mount_is_folded_at_words_on_a_terminal(
    source: Path, make_mount: MakeMount
) -> None:
    mount = make_mount(str(source))
    ours, theirs = os.openpty()
    log = ("--log-file", str(mount.log), "--cache-dir", str(mount.home / "cache"))
    try:
        subprocess.run(
            [sys.executable, "-m", "dataplane", "mount", *log, mount.url, str(mount.point)],
            stdout=theirs, env=os.environ | {"COLUMNS": "40", "TERM": "xterm"},
            timeout=60, check=True,
        )  # fmt: skip
        text = os.read(ours, 65_536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    lines = text.split("\r\n")[:-1]
    mount.pid = int(text.rpartition("(pid ")[2].split(",")[0])
    assert len(lines) > 1
    assert all(len(line) <= 40 or " " not in line for line in lines)
    words = " ".join(lines)
    assert words.startswith(f"{mount.point}: {mount.url} mounted read-only (pid {mount.pid}, log ")
    assert words.endswith(f"log {mount.log})")


# What libfuse's main thread does after it has looked for a signal, and before it waits for one.
_LATE_SEM_WAIT = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <semaphore.h>
#include <string.h>
#include <time.h>

int sem_wait(sem_t *semaphore) {
  static int seen;
  int (*real)(sem_t *) = (int (*)(sem_t *))dlsym(RTLD_NEXT, "sem_wait");
  Dl_info caller;
  int is_known = dladdr(__builtin_return_address(0), &caller);
  if (!seen && is_known && strstr(caller.dli_fname, "libfuse")) {
    struct timespec left = {4, 0};
    seen = 1;
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
  }
  return real(semaphore);
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_libfuse_waits_for_one_ends_the_mount(
    source: Path, make_mount: MakeMount, tmp_path: Path, number: int
) -> None:
    """It would be slept through, until the next request comes."""
    program, library = tmp_path / "late.c", tmp_path / "late.so"
    program.write_text(_LATE_SEM_WAIT)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, program, "-ldl"], check=True)
    mount = make_mount(source)
    command = [
        sys.executable, "-m", "dataplane", "mount", "--foreground", str(source), str(mount.point)
    ]  # fmt: skip
    environ = os.environ | mount.environ | {"LD_PRELOAD": str(library)}
    with subprocess.Popen(command, env=environ, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: bool(mountinfo(mount.point)))
            os.stat(mount.point)  # there is contact
            time.sleep(0.5)  # no request is left that would wake anybody
            process.send_signal(number)
            assert process.wait(30) == 0
        finally:
            process.kill()
    assert mountinfo(mount.point) == []
