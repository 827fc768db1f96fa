"""Permissions of a cache directory: its users, and the modes of what is made in it.

    private   the directory 0700, folders 0700, files 0600; all of it one user's
    group     the directory and folders 2770, files 0660, whatever the umask

The group is that of the directory: its set-group-ID bit hands it down to all that is made below.
So the mode of a new file follows from the folder it is made in. The users of a group's cache trust
each other: each of them can change the blocks that the others read.

A directory that was prepared for a group is never made private.

The directory may be given as a symbolic link, as `/cache -> /nvme/cache`, where nobody but the user
and root could have made the link, or any other that it leads through, and nobody else may write to
what it leads to.

Pure functions on open folders.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Literal, get_args

from dataplane.errors import CacheError, ConfigError

__all__ = [
    "Sharing",
    "admit",
    "close_to_others",
    "followed",
    "is_of_group",
    "make_folder",
    "open_in_group",
    "parse_sharing",
    "refuse_open",
    "set_folder_mode",
]

Sharing = Literal["private", "group"]
"""Sharing of a cache directory: with no other user, or with a group."""

_GROUP_DIRECTORY = 0o2770
_GROUP_FILE = 0o660
_GROUP_BITS = 0o2070  # what tells a group's folder from one that a lax umask has opened
_OTHERS_CHOICE = "choose another with --cache-dir"
_MAX_LINKS = 40  # as the kernel follows


def parse_sharing(text: str) -> Sharing:
    """Read the setting `cache.sharing`.

    Raises:
        ConfigError: it is neither of the two words.
    """
    for known in get_args(Sharing):
        if text == known:
            return known  # type: ignore[no-any-return] # get_args is not typed
    raise ConfigError(f'cache.sharing must be "private" or "group", got {text!r}')


def is_of_group(folder: int) -> bool:
    """Whether what is made in an open folder belongs to the users of a group."""
    return os.fstat(folder).st_mode & _GROUP_BITS == _GROUP_BITS


def followed(link: Path) -> Path:
    """Return the directory that a link leads to, if others could not have made it lead there.

    Every link on the way is looked at, those in place of a parent directory too. Where the link
    itself lies is what the user named.

    Raises:
        CacheError: a link on the way belongs to another user, or it leads to no directory.
        OSError: the file system refused.
    """
    place = Path(os.path.realpath(link.parent))
    ahead = [link.name]
    links = 0
    while ahead and links <= _MAX_LINKS:
        name = ahead.pop()
        step = place.parent if name == ".." else place / name
        if name == ".." or not step.is_symlink():
            place = step
            continue
        owner = step.lstat().st_uid
        if owner not in (0, os.geteuid()):
            is_link = f"leads through {step}, a" if links else "is a"
            raise CacheError(
                f"the cache directory {link} {is_link} symbolic link of user {owner}",
                hint="name the directory itself with --cache-dir",
            )
        links += 1
        ahead.extend(reversed(step.readlink().parts))
    if ahead or not place.is_dir():
        raise CacheError(
            f"the cache directory {link} is a symbolic link that leads to no directory",
            hint=f"make the directory {place}, or {_OTHERS_CHOICE}",
        )
    return place


def refuse_open(folder: int, link: Path, target: Path, sharing: Sharing) -> None:
    """Refuse what a link leads to if others may write to it: it may be anything of theirs.

    Raises:
        CacheError: they may, and it is not to be shared with a group.
    """
    status = os.fstat(folder)
    mode = stat.S_IMODE(status.st_mode)
    if sharing == "private":
        _refuse_groups(status, link)
    if mode & (0o022 if sharing == "private" else 0o002):
        raise CacheError(
            f"the cache directory {link} is a symbolic link to {target}, to which others may write "
            f"(mode {mode:04o})",
            hint=f"chmod {'700' if sharing == 'private' else 'o-w'} {target}",
        )


def admit(folder: int, path: Path, sharing: Sharing, *, is_cache: bool) -> None:
    """Check that this user may use a directory as it is to be shared, and set a new group's mode.

    Args:
        folder: the open directory.
        path: its path, for messages.
        sharing: sharing that is asked for.
        is_cache: whether it is in use as a cache already; its mode is not changed then.

    Raises:
        CacheError: it belongs to another user, or is shared in another way.
        OSError: the file system refused.
    """
    status = os.fstat(folder)
    if sharing == "private":
        _admit_owner(status, path)
        return
    mode = stat.S_IMODE(status.st_mode)
    user = os.geteuid()
    if user not in (0, status.st_uid) and status.st_gid not in {os.getegid(), *os.getgroups()}:
        raise CacheError(
            f"the cache directory {path} belongs to group {status.st_gid}, "
            f"of which user {user} is no member",
            hint=_OTHERS_CHOICE,
        )
    if mode == _GROUP_DIRECTORY:
        return
    if is_cache or user != status.st_uid:
        raise CacheError(
            f"the cache directory {path} of user {status.st_uid} has mode {mode:04o}, "
            f"expected {_GROUP_DIRECTORY:04o} for a group's cache",
            hint=f"make a new one: install -d -m {_GROUP_DIRECTORY:o} -g GROUP DIRECTORY",
        )
    os.fchmod(folder, _GROUP_DIRECTORY)
    if not is_of_group(folder):  # the kernel drops the bit for a user outside the group
        raise CacheError(
            f"the cache directory {path} cannot be shared with group {status.st_gid}, "
            f"of which user {user} is no member",
            hint=f"chgrp it to a group of yours: chgrp GROUP {path}",
        )


def close_to_others(folder: int, path: Path) -> None:
    """Take the rights of all but the owner from a private directory that a lax umask has opened.

    Raises:
        CacheError: it was made a group's meanwhile.
        OSError: the file system refused.
    """
    status = os.fstat(folder)
    _refuse_groups(status, path)
    if stat.S_IMODE(status.st_mode) & 0o077:
        os.fchmod(folder, 0o700)


def _refuse_groups(status: os.stat_result, path: Path) -> None:
    """Refuse to make a group's directory private: its users could not use it any more."""
    if status.st_mode & _GROUP_BITS == _GROUP_BITS:
        raise CacheError(
            f"the cache directory {path} is that of group {status.st_gid} "
            f"(mode {stat.S_IMODE(status.st_mode):04o}), not private",
            hint="to use it set DATAPLANE_CACHE_SHARING=group (cache.sharing), "
            f"or {_OTHERS_CHOICE}",
        )


def _admit_owner(status: os.stat_result, path: Path) -> None:
    _refuse_groups(status, path)
    if status.st_uid != os.geteuid():
        raise CacheError(
            f"the cache directory {path} belongs to user {status.st_uid}, not to {os.geteuid()}",
            hint=_OTHERS_CHOICE,
        )


def make_folder(name: str, parent: int) -> None:
    """Make a folder in an open one; `set_folder_mode` is to follow.

    Raises:
        FileExistsError: the name is taken.
    """
    os.mkdir(name, 0o770 if is_of_group(parent) else 0o700, dir_fd=parent)


def set_folder_mode(folder: int, parent: int) -> None:
    """Give an open folder of a group's cache its mode.

    The umask has cut the mode that it was made with. A process that was killed before it came here
    leaves a folder that others cannot use, so each process that may set the mode does so when it
    opens the folder.
    """
    if is_of_group(parent):
        _set_group_mode(folder, _GROUP_DIRECTORY)


def _set_group_mode(opened: int, mode: int) -> None:
    status = os.fstat(opened)
    if stat.S_IMODE(status.st_mode) != mode and os.geteuid() in (0, status.st_uid):
        os.fchmod(opened, mode)


def open_in_group(path: str, flags: int, folder: int) -> int:
    """Open a file of a group's folder, made when it is not there.

    A file that is made appears with its final mode: another user may open it at any moment, and the
    mode that `open` takes is cut by the umask, which belongs to the whole process.
    """
    while True:
        if not flags & os.O_EXCL:
            try:
                found = os.open(path, flags & ~os.O_CREAT, dir_fd=folder)
            except FileNotFoundError:
                pass
            else:
                return _of_group_mode(found)  # its maker may have been killed before it set it
        try:
            return _make_file(path, flags & ~(os.O_CREAT | os.O_EXCL | os.O_TRUNC), folder)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise


def _make_file(path: str, flags: int, folder: int) -> int:
    try:
        return _make_unnamed(path, flags, folder)
    except FileExistsError:
        raise
    except OSError:
        # The file system has no unnamed files, or there is no /proc to name one through. Whatever
        # else it was fails here again.
        return _of_group_mode(
            os.open(path, flags | os.O_CREAT | os.O_EXCL, _GROUP_FILE, dir_fd=folder)
        )


def _of_group_mode(opened: int) -> int:
    """Return an open file with the mode of a group's file; closed if that cannot be set."""
    try:
        _set_group_mode(opened, _GROUP_FILE)
    except BaseException:
        os.close(opened)
        raise
    return opened


def _make_unnamed(path: str, flags: int, folder: int) -> int:
    """Make a file that gets its name when it has its mode."""
    made = os.open(".", (flags & ~os.O_NOFOLLOW) | os.O_TMPFILE, _GROUP_FILE, dir_fd=folder)
    try:
        os.fchmod(made, _GROUP_FILE)
        os.link(f"/proc/self/fd/{made}", path, dst_dir_fd=folder, follow_symlinks=True)
    except BaseException:
        os.close(made)
        raise
    return made
