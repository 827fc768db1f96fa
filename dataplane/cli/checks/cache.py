"""Checks of the cache directory: who may use it, its file system, space, files, and punching holes.

A look leaves nothing behind: a directory that is not there, or empty, is not made a cache, and the
trial of a hole is done on a file without a name, which ends with its descriptor. What is there is
judged by the code that the cache itself uses (`dataplane.cache.admin`); where there is no directory
yet, its closest parent stands for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dataplane.cache.admin import (
    KEY_VARIABLE,
    check_usable,
    excess_bytes,
    is_in_use,
    load_key,
    used_bytes,
)
from dataplane.cache.admin import has_files as files_are_left
from dataplane.cache.config import CacheConfig
from dataplane.cli.checks.finding import Finding, Values, fail, ok, skip, warn
from dataplane.cli.checks.versions import installed_version
from dataplane.errors import CacheError
from dataplane.extras import install_hint
from dataplane.mount_table import Mounted, filesystem_of
from dataplane.units import format_bytes, format_count

__all__ = ["Place", "directory", "encryption", "file_system", "files", "holes", "place_of", "space"]

_SHARED = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4"}
    | {"smb3", "smbfs", "virtiofs", "wekafs"}
)
_IN_MEMORY = frozenset({"ramfs", "tmpfs"})
_LAYERED = frozenset({"aufs", "overlay"})
_OTHERS_CHOICE = "choose a directory on a local disk with --cache-dir or DATAPLANE_CACHE_DIR"
_MORE_ROOM = "free space on that file system, or choose another with --cache-dir"
_TRIAL_BYTES = 1 << 20
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # Source: linux/falloc.h
_NO_HOLES = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


@dataclass(frozen=True, slots=True)
class Place:
    """Place of a cache directory.

    Attributes:
        asked: the directory, as the settings have it.
        found: it without links, or where it is not there its closest parent that is.
        exists: whether it is there.
    """

    asked: Path
    found: Path
    exists: bool


def place_of(path: Path) -> Place:
    """Find a cache directory, or the parent that it would be made in.

    Raises:
        OSError: the file system refused.
    """
    exists = path.exists()
    found = path
    while not found.exists() and found != found.parent:
        found = found.parent
    return Place(path, Path(os.path.realpath(found)), exists)


def directory(config: CacheConfig, *, user: int | None = None) -> Finding:
    """Check that the directory is there, or can be made, and that this user may use it.

    Args:
        config: configuration of the cache.
        user: user of the cache; by default the user of this process.
    """
    user = os.geteuid() if user is None else user
    try:
        place = place_of(config.dir)
        if place.exists and is_in_use(config.dir):
            # The cache's own judgement; nothing is made, since it is in use already.
            check_usable(config.dir, sharing=config.sharing)
        status = place.found.stat()
    except CacheError as err:
        return fail(f"{err.message}; everything is read from the store", err.hint or "")
    except OSError as err:
        return fail(
            f"{config.dir} cannot be looked at: {err.strerror}; everything is read from the store",
            _OTHERS_CHOICE,
        )
    values: Values = {"dir": str(config.dir), "exists": place.exists, "owner": status.st_uid}
    if not stat.S_ISDIR(status.st_mode):
        return fail(f"{place.found} is not a directory", _OTHERS_CHOICE, **values)
    if place.exists and config.sharing == "private" and status.st_uid != user:
        return fail(
            f"{config.dir} belongs to user {status.st_uid}, not to {user}; everything is read "
            "from the store",
            _OTHERS_CHOICE,
            **values,
        )
    reason = _why_not_written(place.found)
    if reason:
        return fail(
            f"{place.found} cannot be written to: {reason}; everything is read from the store",
            _OTHERS_CHOICE,
            **values,
        )
    if not place.exists:
        return ok(f"{config.dir} is not there yet; it can be made in {place.found}", **values)
    mode = stat.S_IMODE(status.st_mode)
    shown = f"{config.dir}, mode {mode:04o}, {config.sharing}"
    if config.sharing == "private" and mode & 0o077 and not is_in_use(config.dir):
        shown += ", which its first use makes 0700"
    link = f", a link to {place.found}" if config.dir.is_symlink() else ""
    return ok(f"{shown}{link}", mode=f"{mode:04o}", **values)


def file_system(place: Place, mounted: Callable[[Path], Mounted | None] = filesystem_of) -> Finding:
    """Check that the directory is on a local disk.

    Args:
        place: place of the directory.
        mounted: function that tells the mount that a path lies in.
    """
    mount = mounted(place.found)
    if mount is None:
        return skip(f"no mount is known for {place.found}")
    kind = mount.filesystem_type
    found = f"{kind}, mounted on {mount.path}"
    values: Values = {"type": kind, "mount_point": str(mount.path)}
    if kind in _SHARED or kind.startswith("fuse"):
        return warn(
            f"{found}: not a local disk; locks and shared memory of a cache may not work on it",
            f"{_OTHERS_CHOICE} (docs/clusters.md)",
            **values,
        )
    if kind in _IN_MEMORY:
        return warn(
            f"{found}: the cache takes memory, and is gone after a restart",
            f"{_OTHERS_CHOICE}, or set a budget with --cache-size",
            **values,
        )
    if kind in _LAYERED:
        return warn(
            f"{found}: a container's own layer, which ends with it",
            "mount a volume of a local disk for the cache, and name it in DATAPLANE_CACHE_DIR",
            **values,
        )
    return ok(found, **values)


def space(
    config: CacheConfig,
    place: Place,
    statvfs: Callable[[Path], os.statvfs_result] = os.statvfs,
    used: Callable[[CacheConfig], int] | None = None,
) -> Finding:
    """Check that the budget and the disk leave room for the cache.

    Args:
        config: configuration of the cache.
        place: place of the directory.
        statvfs: function that describes the file system.
        used: function that tells what the cache takes.
    """
    status = statvfs(place.found)
    free = status.f_bavail * status.f_frsize
    size = status.f_blocks * status.f_frsize
    taken = (used or used_bytes)(config) if place.exists else 0
    may_take = max(0, taken - excess_bytes(status, config.size_bytes, taken))
    rule = (
        f"budget {format_bytes(config.size_bytes)}"
        if config.size_bytes is not None
        else "a tenth of the disk stays free"
    )
    found = (
        f"{format_bytes(free)} of {format_bytes(size)} free; the cache takes "
        f"{format_bytes(taken)} and may take {format_bytes(may_take)} ({rule})"
    )
    values: Values = {
        "free_bytes": free,
        "size_bytes": size,
        "used_bytes": taken,
        "may_take_bytes": may_take,
    }
    if may_take < config.block_bytes:
        return fail(
            f"{found}: not one block of {format_bytes(config.block_bytes)} fits, so everything is "
            "read from the store",
            f"{_MORE_ROOM}; dataplane cache gc evicts what is over the budget",
            **values,
        )
    budget = config.size_bytes
    if budget is not None and may_take < budget:
        return warn(
            f"{found}: less than the budget", f"{_MORE_ROOM}, or lower --cache-size", **values
        )
    if may_take < config.prefetch_window_bytes:
        return warn(
            f"{found}: less than a loader reads ahead "
            f"({format_bytes(config.prefetch_window_bytes)})",
            _MORE_ROOM,
            **values,
        )
    return ok(found, **values)


def files(place: Place, statvfs: Callable[[Path], os.statvfs_result] = os.statvfs) -> Finding:
    """Check that the file system has inodes left: an object in the cache takes two files.

    Args:
        place: place of the directory.
        statvfs: function that describes the file system.
    """
    status = statvfs(place.found)
    if status.f_files == 0:
        return ok("the file system makes files as they are needed", total=0)
    found = f"{format_count(status.f_favail)} of {format_count(status.f_files)} inodes free"
    values: Values = {"free": status.f_favail, "total": status.f_files}
    if not files_are_left(status):
        return fail(
            f"{found}: no object can be cached any more, so what is not there is read from the "
            "store",
            "remove small files from that file system, or choose another with --cache-dir",
            **values,
        )
    return ok(found, **values)


def holes(place: Place, punch: Callable[[int, int], int] | None = None) -> Finding:
    """Check that punching a hole gives space back: that is how blocks are evicted.

    Args:
        place: place of the directory.
        punch: function that punches a hole into an open file, from its start, and returns 0 or an
            errno.
    """
    try:
        trial = _unnamed_file(place.found)
    except OSError as err:
        if err.errno in (errno.ENOSPC, errno.EDQUOT):
            return skip("not tried: there is no room for a file")
        return skip(f"not tried: {place.found} cannot be written to ({err.strerror})")
    try:
        try:
            rest = memoryview(bytes(range(256)) * (_TRIAL_BYTES // 256))
            while rest:
                rest = rest[os.write(trial, rest) :]
            os.fsync(trial)
        except OSError as err:
            if err.errno in (errno.ENOSPC, errno.EDQUOT):
                return skip("not tried: there is no room for a file")
            return fail(
                f"{place.found} cannot be written to: {err.strerror}",
                "look for errors of the disk in dmesg",
            )
        before = os.fstat(trial).st_blocks
        error = (punch or _punch)(trial, _TRIAL_BYTES)
        after = os.fstat(trial).st_blocks
        content = os.pread(trial, _TRIAL_BYTES, 0)
    finally:
        os.close(trial)
    if error:
        what = "cannot punch holes" if error in _NO_HOLES else "refused a hole"
        return fail(
            f"this file system {what} ({os.strerror(error)}): nothing can be evicted",
            f"{_OTHERS_CHOICE}: ext4, xfs, btrfs, tmpfs and others can",
        )
    if any(content) or len(content) != _TRIAL_BYTES:
        return fail("a hole does not read as zeros", "this file system is not to be trusted")
    given_back = (before - after) * 512
    values: Values = {"given_back_bytes": given_back, "tried_bytes": _TRIAL_BYTES}
    if given_back < _TRIAL_BYTES // 2:
        return warn(
            f"a hole of {format_bytes(_TRIAL_BYTES)} gave {format_bytes(max(0, given_back))} back: "
            "eviction may free less than it counts",
            "watch df beside dataplane cache info, or choose another file system",
            **values,
        )
    return ok(f"tried: a hole of {format_bytes(_TRIAL_BYTES)} gave its space back", **values)


def encryption(
    config: CacheConfig,
    environ: Mapping[str, str] | None = None,
    installed: Callable[[str], str | None] = installed_version,
    load: Callable[[Path | None], bytes] = load_key,
) -> Finding:
    """Check that a cache that is to be encrypted has a key, and the package for it.

    Args:
        config: configuration of the cache.
        environ: the environment.
        installed: function that tells an installed version.
        load: function that loads the key; what it returns is not looked at.

    Raises:
        ConfigError: the key cannot be used.
    """
    if not config.encrypt:
        return skip("off")
    environ = os.environ if environ is None else environ
    version = installed("cryptography")
    if version is None:
        return fail("cryptography is not installed, which seals blocks", install_hint("encrypt"))
    if KEY_VARIABLE in environ:
        origin = KEY_VARIABLE
    elif config.key_file is not None:
        origin = str(config.key_file)
    else:
        # It is made at the first read; a look makes none.
        return ok(f"on, with a key of this boot; cryptography {version}", origin="boot")
    load(config.key_file)
    return ok(f"on, with the key of {origin}; cryptography {version}", origin=origin)


def _why_not_written(folder: Path) -> str:
    """Return why no file can be made in a folder, or an empty text."""
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        return "its file system is mounted read-only"
    try:
        os.close(_unnamed_file(folder))
    except OSError as err:
        # A full disk is a matter of space, and has a line of its own.
        return "" if err.errno in (errno.ENOSPC, errno.EDQUOT) else err.strerror or str(err)
    return ""


def _unnamed_file(folder: Path) -> int:
    """Open a new file that has no name, or had one for a moment."""
    with contextlib.suppress(OSError):
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    opened, name = tempfile.mkstemp(prefix=".dataplane-doctor-", dir=folder)
    os.unlink(name)  # noqa: PTH108 - a name from mkstemp
    return opened


def _punch(opened: int, length: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    offset = ctypes.c_int64  # off_t, where the project's native module can be built
    libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, offset, offset)
    done = libc.fallocate(opened, _KEEP_SIZE | _PUNCH_HOLE, 0, length)
    return 0 if done == 0 else ctypes.get_errno()
