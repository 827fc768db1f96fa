"""Mount points on the host: checked before a mount, found and removed after.

A mount point is never touched by a plain system call here once something may be mounted on it: a
mount whose daemon hangs blocks every process that looks at it, for ever. `probe` therefore looks
from a child process with a time limit. What is mounted is read from /proc/self/mountinfo, which
asks no daemon.

Functions without state.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dataplane.errors import MountError

__all__ = [
    "FILESYSTEM_TYPE",
    "Mounted",
    "Probe",
    "check_device",
    "check_mountpoint",
    "find_mount",
    "holders",
    "normal_path",
    "probe",
    "unmount",
]

FILESYSTEM_TYPE = "fuse.dataplane"
_DEVICE = Path("/dev/fuse")
_MAX_HOLDERS = 10
_OCTAL = re.compile(r"\\([0-7]{3})")
# The child prints one JSON-free line: errno, then the daemon's pid when it was asked for.
_PROBE_PROGRAM = """
import os, sys
try:
    os.statvfs(sys.argv[1])
    pid = os.getxattr(sys.argv[1], "user.dataplane.pid").decode()
except OSError as err:
    print(err.errno)
else:
    print(0, pid)
"""


@dataclass(frozen=True, slots=True)
class Mounted:
    """A line of mountinfo.

    Attributes:
        path: the mount point.
        filesystem_type: `fuse.dataplane` for a mount of ours.
        source: source that was mounted.
    """

    path: Path
    filesystem_type: str
    source: str

    @property
    def is_ours(self) -> bool:
        """Whether dataplane mounted it."""
        return self.filesystem_type == FILESYSTEM_TYPE


@dataclass(frozen=True, slots=True)
class Probe:
    """Answer of a mount.

    Attributes:
        error: 0, an errno, or ETIMEDOUT when it did not answer in time.
        pid: the daemon behind it, where it said so.
    """

    error: int
    pid: int | None = None

    @property
    def is_dead(self) -> bool:
        """Whether the mount is there but its daemon is not."""
        return self.error in {errno.ENOTCONN, errno.ECONNABORTED}


def normal_path(path: str | os.PathLike[str]) -> Path:
    """Return the path as the kernel names it, without touching its last part."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would stat a dead mount
    return Path(os.path.realpath(absolute.parent)) / absolute.name


def find_mount(path: Path, mountinfo: str | None = None) -> Mounted | None:
    """Return what is mounted on `path` (the topmost mount there), or None.

    Source: proc(5), /proc/pid/mountinfo; spaces and backslashes are written in octal.
    """
    if mountinfo is None:
        mountinfo = os.fsdecode(Path("/proc/self/mountinfo").read_bytes())
    found = None
    for line in mountinfo.split("\n"):
        before, separator, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if separator and len(fields) > 4 and len(kind) > 1 and _plain(fields[4]) == str(path):
            found = Mounted(path, kind[0], _plain(kind[1]))
    return found


def probe(path: Path, timeout_s: float = 10.0) -> Probe:
    """Look at a mount from another process and say what it answers."""
    command = [sys.executable, "-I", "-S", "-c", _PROBE_PROGRAM, str(path)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        output, _ = child.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        _abandon(child)
        return Probe(errno.ETIMEDOUT)
    words = output.split()
    if not words or not all(word.lstrip("-").isdigit() for word in words):
        return Probe(errno.EIO)
    return Probe(int(words[0]), int(words[1]) if len(words) > 1 else None)


def check_device() -> None:
    """Check that this process can mount at all.

    Raises:
        MountError: /dev/fuse is missing or may not be opened, or fusermount3 is missing.
    """
    try:
        os.close(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError as err:
        raise MountError(
            f"{_DEVICE} is missing",
            hint="load the module (modprobe fuse); in a container, pass --device /dev/fuse",
        ) from err
    except OSError as err:
        raise MountError(
            f"{_DEVICE} cannot be opened: {err.strerror}",
            hint="in a container, pass --device /dev/fuse --cap-add SYS_ADMIN; elsewhere, join "
            "the group that may use it",
        ) from err
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        raise MountError(
            "fusermount3 is missing, which mounts for users other than root",
            hint="install fuse3 (Debian, Ubuntu: apt install fuse3)",
        )


def check_mountpoint(path: Path, *, allow_other: bool) -> None:
    """Check that something can be mounted on `path`; clears away a dead mount of ours.

    Raises:
        MountError: the path is missing, no directory, not empty, or in use.
    """
    mounted = find_mount(path)
    if mounted is not None:
        _clear_dead_mount(mounted)
    try:
        status = path.stat()
    except FileNotFoundError as err:
        raise MountError(f"the mount point {path} does not exist", hint=f"mkdir -p {path}") from err
    except OSError as err:
        raise MountError(f"the mount point {path} cannot be used: {err.strerror}") from err
    if not stat.S_ISDIR(status.st_mode):
        raise MountError(f"the mount point {path} is not a directory")
    if os.geteuid() != 0 and not os.access(path, os.W_OK):
        raise MountError(f"the mount point {path} belongs to someone else", hint="use your own")
    with os.scandir(path) as entries:
        if next(entries, None) is not None:
            raise MountError(
                f"the mount point {path} is not empty, and the mount would hide what is in it",
                hint="choose an empty directory",
            )
    if allow_other and os.geteuid() != 0 and not _users_may_allow_other():
        raise MountError(
            "--allow-other is not allowed to users on this host",
            hint="root can add the line user_allow_other to /etc/fuse.conf",
        )


def unmount(path: Path, *, lazy: bool) -> None:
    """Remove a mount.

    Raises:
        MountError: it is in use, or the system refused.
    """
    helper = shutil.which("fusermount3")
    command = [helper, "-u"] if helper else [shutil.which("umount") or "/bin/umount"]
    if lazy:
        command.append("-z" if helper else "-l")
    result = subprocess.run(
        [*command, "--", str(path)], capture_output=True, text=True, check=False, timeout=60
    )
    if result.returncode == 0:
        return
    reason = result.stderr.strip() or f"{command[0]} failed with {result.returncode}"
    if "busy" in reason.lower():
        # This process may stand in the mount itself, as the shell does that must leave it.
        users = ", ".join(holders(path, besides=os.getpid())) or "unknown processes"
        raise MountError(
            f"{path} is in use by {users}",
            hint="leave it (cd) or end them, or detach it with --lazy",
        )
    raise MountError(f"{path} could not be unmounted: {reason}")


def holders(path: Path, *, besides: int | None = None) -> list[str]:
    """Return the processes that have something below `path` open, as far as /proc tells.

    Args:
        path: the mount point.
        besides: id of a process to leave out.
    """
    found: list[str] = []
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda each: int(each.name)):
        if process.name == str(besides):
            continue
        if len(found) < _MAX_HOLDERS and any(_is_below(link, path) for link in _links(process)):
            try:
                name = (process / "comm").read_text().strip()
            except OSError:
                name = "?"
            found.append(f"{name} (pid {process.name})")
    return found


def _abandon(child: subprocess.Popen[str]) -> None:
    """Kill a child that may be stuck in a mount, where it ends only when the mount does."""
    child.kill()
    assert child.stdout is not None, "it was started with a pipe"
    child.stdout.close()
    try:
        child.wait(timeout=1)
    except subprocess.TimeoutExpired:
        child.returncode = -signal.SIGKILL  # not to be waited for any more; init will


def _clear_dead_mount(mounted: Mounted) -> None:
    state = probe(mounted.path)
    if mounted.is_ours and state.is_dead:
        unmount(mounted.path, lazy=True)
        return
    if mounted.is_ours and state.error == errno.ETIMEDOUT:
        raise MountError(
            f"{mounted.path} is mounted, but its daemon does not answer",
            hint=f"dataplane umount --lazy {mounted.path}",
        )
    raise MountError(
        f"{mounted.path} is already mounted ({mounted.source}, {mounted.filesystem_type})",
        hint=f"dataplane umount {mounted.path}" if mounted.is_ours else "choose another directory",
    )


def _users_may_allow_other() -> bool:
    try:
        lines = Path("/etc/fuse.conf").read_text().splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)


def _links(process: Path) -> Iterator[str]:
    for link in (process / "cwd", process / "root", process / "exe"):
        try:
            yield str(link.readlink())
        except OSError:
            continue
    try:
        # maps lists what is mapped although its descriptor was closed.
        for line in (process / "maps").read_text(errors="surrogateescape").splitlines():
            yield line.partition("/")[1] + line.partition("/")[2]
        for descriptor in (process / "fd").iterdir():
            yield str(descriptor.readlink())
    except OSError:
        return


def _is_below(link: str, path: Path) -> bool:
    return link == str(path) or link.startswith(f"{path}/")


def _plain(field: str) -> str:
    # The kernel writes only space, tab, newline, # and backslash in octal.
    return _OCTAL.sub(lambda match: chr(int(match.group(1), 8)), field)
