"""Mount points on the host: checked before a mount, and removed after.

A mount point is never touched by a plain system call here once something may be mounted on it:
`dataplane.mount_table` says what is there, and why it looks from a child process.

Functions without state.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

from dataplane.errors import MountError
from dataplane.mount_table import Mounted, find_mount, probe

__all__ = ["check_mountpoint", "holders", "normal_path", "unmount"]

_MAX_HOLDERS = 10


def normal_path(path: str | os.PathLike[str]) -> Path:
    """Return the path as the kernel names it, without touching its last part."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would stat a dead mount
    return Path(os.path.realpath(absolute.parent)) / absolute.name


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
