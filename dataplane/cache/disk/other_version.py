"""Removal of a cache that another release wrote, whose layout this one does not know.

A directory counts as a cache of another version when it is this user's and its file `version` says
`dataplane-cache N` with another N. Only the names at its top that every version has had are
removed, with all that is below them; anything else is left and named. Links are removed and never
followed, and other file systems mounted below are not entered. `version` goes last, and only when
nothing is left, so an interrupted removal can be repeated.

Not thread-safe; holds no state.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from dataplane.cache.disk import locks
from dataplane.cache.disk.directory import (
    FILE_SYSTEM_NAMES,
    OUR_NAMES,
    VERSION_TEXT,
    names_in,
    other_version_of,
)
from dataplane.errors import CacheError

__all__ = ["Removed", "remove_other_version"]

_LOCKED_FILES = ("lock", "live")


@dataclass(slots=True)
class Removed:
    """The outcome of a removal.

    Attributes:
        version: number of the cache's version; None when there is no cache of another version.
        files: number of files removed.
        freed_bytes: disk space of those.
        kept: names at the top that are left, in order.
    """

    version: int | None = None
    files: int = 0
    freed_bytes: int = 0
    kept: tuple[str, ...] = ()


def remove_other_version(path: Path, *, in_use: bool = False) -> Removed:
    """Empty a cache directory of another version; the directory itself stays.

    Args:
        path: the directory.
        in_use: whether to remove it also while another process has a lock in it.

    Raises:
        CacheError: it is no cache of this user, or in use.
        OSError: the file system refused.
    """
    try:
        top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as err:
        raise CacheError(
            f"there is no cache at {path}: a directory is expected, and no link to one",
            hint="name the directory itself with --cache-dir",
        ) from err
    try:
        return _remove(top, path, in_use=in_use)
    finally:
        os.close(top)


def _remove(top: int, path: Path, *, in_use: bool) -> Removed:
    if os.fstat(top).st_uid != os.geteuid():
        raise CacheError(
            f"the cache directory {path} belongs to user {os.fstat(top).st_uid}, "
            f"not to {os.geteuid()}",
            hint="let its owner remove it",
        )
    text = _version_text(top)
    if text == VERSION_TEXT or names_in(top) <= FILE_SYSTEM_NAMES:
        return Removed()
    version = other_version_of(text) if text is not None else None
    if version is None:
        said = "has no file 'version'" if text is None else f"has a file 'version' of {text[:40]!r}"
        raise CacheError(
            f"{path} {said}, expected 'dataplane-cache N': this may be no cache",
            hint="look at what is in it, and remove it by hand",
        )
    if not in_use and any(_is_locked(top, name) for name in _LOCKED_FILES):
        raise CacheError(
            f"another process uses the cache {path} of version {version}",
            hint="stop it, or add --force",
        )
    done = Removed(version)
    device = os.fstat(top).st_dev
    for name in sorted(OUR_NAMES - {"version"}):
        _remove_tree(top, name, device, done)
    done.kept = tuple(sorted(names_in(top) - FILE_SYSTEM_NAMES - {"version"}))
    if not done.kept:
        _remove_tree(top, "version", device, done)
    return done


def _version_text(top: int) -> bytes | None:
    """Return the content of `version`; None when there is no regular file of that name."""
    try:
        fd = os.open(
            "version", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=top
        )
    except OSError:
        return None
    try:
        return os.read(fd, 256) if stat.S_ISREG(os.fstat(fd).st_mode) else None
    finally:
        os.close(fd)


def _is_locked(top: int, name: str) -> bool:
    """Whether any byte of a file is locked: which bytes another version locks is not known."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=top)
    except OSError:
        return False
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode) and locks.is_any_byte_locked(fd)
    finally:
        os.close(fd)


def _remove_tree(folder: int, name: str, device: int, done: Removed) -> None:
    """Remove a name and all below it, depth first; what cannot be removed stays."""
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(status.st_mode):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
            done.files += 1
            done.freed_bytes += status.st_blocks * 512 if status.st_nlink == 1 else 0
        return
    if status.st_dev != device:
        return
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    below = os.open(name, flags, dir_fd=folder)
    try:
        if os.path.samestat(status, os.fstat(below)):
            for inner in names_in(below):
                _remove_tree(below, inner, device, done)
    finally:
        os.close(below)
    with contextlib.suppress(OSError):  # something is left in it
        os.rmdir(name, dir_fd=folder)
