"""The cache directory: checks of whether it may be used, and the files at its top.

    DIR/            mode 0700, owned by the user; or a group's (`cache.permissions`)
      version         "dataplane-cache 1"
      lock            empty; its bytes are locked (`locks`)
      usage           numbers shared by all processes (native/core/cache/usage.hpp)
      entries/        one subfolder per first two digits of entry names (`entry_files`)
      pins.json       what the user wants to keep (`pins`)
      live            empty; its bytes are locked by living processes (`liveness`)
      places          empty; its bytes are locked by requests under way (`host_semaphore`)
      stats/          counters of the processes that use it (`maintenance.process_statistics`)
      catalog.sqlite  a derived list of the entries (`eviction.catalog`)

A directory that holds foreign files, belongs to another user or says another version is left as it
is; `lost+found`, which a new file system has at its top, is not foreign. DIR itself may be a
symbolic link; below it no link is followed. docs/cache-format.md is the byte-exact note.
Thread-safe.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dataplane import _native
from dataplane.cache.disk import locks
from dataplane.cache.permissions import (
    Sharing,
    admit,
    close_to_others,
    followed,
    make_folder,
    refuse_open,
    set_folder_mode,
)
from dataplane.errors import CacheError

__all__ = [
    "FILE_SYSTEM_NAMES",
    "OUR_NAMES",
    "VERSION_TEXT",
    "Directory",
    "check_usable",
    "is_in_use",
    "link_failure",
    "names_in",
    "other_version_of",
    "unusable_warning",
]

VERSION_TEXT = b"dataplane-cache 1\n"
_ANY_VERSION = re.compile(rb"dataplane-cache ([1-9][0-9]{0,8})\n")

OUR_NAMES = frozenset(
    {"version", ".version.tmp", "lock", "usage", ".usage.tmp", "entries", "live", "places", "stats"}
    | {"pins.json", ".pins.json.tmp", "catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm"}
)
FILE_SYSTEM_NAMES = frozenset({"lost+found"})
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


def names_in(folder: int) -> set[str]:
    """Return the names in an open folder, as they are now.

    A descriptor that has been open for a while will not do: btrfs shows what was there when it was
    opened, and its position is one for all threads that read it.
    """
    fresh = locks.open_descriptor(".", _DIRECTORY, dir_fd=folder)
    try:
        return set(os.listdir(fresh))  # noqa: PTH208 - a descriptor, which no Path takes
    finally:
        locks.close_descriptor(fresh)


def other_version_of(text: bytes) -> int | None:
    """Return the number in a `version` file of another release; None for any other text."""
    match = _ANY_VERSION.fullmatch(text)
    return int(match.group(1)) if match is not None and text != VERSION_TEXT else None


def is_in_use(path: Path) -> bool:
    """Whether a directory is a cache, or anything but a place for one; a look makes none of it.

    Raises:
        OSError: the file system refused.
    """
    try:
        names = {entry.name for entry in path.iterdir()}
    except (FileNotFoundError, NotADirectoryError):
        return False
    return "version" in names or not names <= OUR_NAMES | FILE_SYSTEM_NAMES


def check_usable(path: Path, *, sharing: Sharing = "private") -> None:
    """Check that a directory can be a cache; make it one where need be.

    Raises:
        CacheError: it cannot.
    """
    try:
        Directory(path, sharing=sharing).close()
    except OSError as err:
        raise CacheError(
            f"the cache directory {path} cannot be used: {err.strerror or err}",
            hint="choose another with --cache-dir",
        ) from err


def unusable_warning(path: Path, *, sharing: Sharing = "private") -> str | None:
    """Say that nothing will be cached, and why; None where `check_usable` finds nothing."""
    try:
        check_usable(path, sharing=sharing)
    except CacheError as err:
        return f"{err}; everything is read from the store"
    return None


def link_failure(err: OSError, path: Path) -> CacheError | None:
    """Say that what could not be opened below a cache directory is a link; None if it is none."""
    if err.errno not in (errno.ENOTDIR, errno.ELOOP) or not isinstance(err.filename, str):
        return None
    for place in (path / err.filename, path / "entries" / err.filename):
        if place.is_symlink():
            return CacheError(
                f"{place} is a symbolic link, and links below the cache directory are not followed",
                hint="remove it; what may be a link is the cache directory itself",
            )
    return None


def _shown(text: bytes) -> str:
    line = text[:40].decode(errors="replace").strip()
    return repr(line) if line else "nothing"


class Directory:
    """An open cache directory that this process may use.

    Args:
        path: the directory; it and its parents are created when missing.
        sharing: users that share it.

    Raises:
        CacheError: it is not a directory that can serve as a cache.
        OSError: the file system refused.
    """

    def __init__(self, path: Path, *, sharing: Sharing = "private") -> None:
        self.path = path
        self._pid = os.getpid()
        self.fd = self.entries_fd = -1
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as err:
            raise CacheError(
                f"cannot make the cache directory {path}: a parent is not a directory",
                hint="choose another with --cache-dir",
            ) from err
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        # A link is followed here and nowhere else; what it leads to is opened without one.
        target = followed(path) if path.is_symlink() else path
        try:
            self.fd = locks.open_descriptor(str(target), _DIRECTORY)
        except OSError as err:
            if not target.is_dir():
                raise CacheError(
                    f"the cache directory {path} is not a directory",
                    hint="choose another with --cache-dir",
                ) from err
            raise
        try:
            self._status = os.fstat(self.fd)
            if target is not path:
                refuse_open(self.fd, path, target, sharing)
            names = names_in(self.fd)
            self._check_content(names)
            admit(self.fd, path, sharing, is_cache="version" in names)
            self._has_version()  # before anything is written to a directory that is not ours
            with locks.hold(self.fd, locks.SETUP_BYTE):
                if sharing == "private":
                    close_to_others(self.fd, path)
                if not self._has_version():
                    if sharing == "group":
                        self._make_folders()
                    self.write_file("version", VERSION_TEXT)
                self.entries_fd = self.open_folder("entries")
        except BaseException as err:
            self.close()
            if isinstance(err, OSError) and (failure := link_failure(err, path)):
                raise failure from err
            raise

    def __del__(self) -> None:
        # Descriptors are numbers: closing them while a thread is about to use them would let it
        # work in a directory of others. So they live as long as something refers to this object.
        # Closing takes no lock.
        self.close()

    def close(self) -> None:
        """Close the descriptors. Idempotent; the directory must not be used afterwards."""
        for fd in (self.fd, self.entries_fd):
            if fd >= 0 and self._pid == os.getpid():
                locks.close_descriptor(fd)
        self.fd = self.entries_fd = -1

    def is_same(self, other: Directory) -> bool:
        """Whether two that are open are one directory, whatever the paths that led there."""
        return os.path.samestat(self._status, other._status)

    def is_current(self) -> bool:
        """Whether the path still leads to the directory that was opened."""
        try:
            return os.path.samestat(os.fstat(self.fd), self.path.stat())
        except OSError:
            return False

    def _make_folders(self) -> None:
        """Make all folders of a group's cache while no other process uses it.

        A folder has its mode only a moment after it was made; no user is to be refused meanwhile.
        """
        locks.close_descriptor(self._open_folder("stats", self.fd))
        entries = self._open_folder("entries", self.fd)
        try:
            for number in range(256):
                locks.close_descriptor(self._open_folder(f"{number:02x}", entries))
        finally:
            locks.close_descriptor(entries)

    def _check_content(self, names: set[str]) -> None:
        foreign = names - OUR_NAMES - FILE_SYSTEM_NAMES
        if foreign and "version" not in names:
            raise CacheError(
                f"{self.path} is not a cache: it holds {sorted(foreign)[0]!r}",
                hint="choose an empty or a new directory with --cache-dir",
            )

    def _has_version(self) -> bool:
        try:
            fd = locks.open_descriptor("version", os.O_RDONLY, dir_fd=self.fd)
        except FileNotFoundError:
            return False
        try:
            text = os.read(fd, 256)
        finally:
            locks.close_descriptor(fd)
        if text != VERSION_TEXT:
            raise CacheError(
                f"{self.path} is a cache of another version: expected "
                f"{VERSION_TEXT.decode().strip()!r}, got {_shown(text)}",
                hint=self._other_version_hint(text),
            )
        return True

    def _other_version_hint(self, text: bytes) -> str:
        if other_version_of(text) is None:
            return "it is left alone; choose another directory with --cache-dir"
        place = shlex.quote(str(self.path.resolve()))  # what is removed is named, and no link to it
        return (
            "choose another directory with --cache-dir, or free its disk space with: "
            f"dataplane cache clear --other-version --cache-dir {place}"
        )

    def write_file(self, name: str, content: bytes, *, durable: bool = False) -> None:
        """Write a small file of the directory at once: a temporary name, then a rename.

        Args:
            name: name of the file.
            content: its whole content.
            durable: whether it is on the disk when this returns, for what cannot be made again.
        """
        temporary = f".{name}.tmp"
        fd = locks.open_descriptor(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, dir_fd=self.fd)
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(fd, rest) :]
            if durable:
                os.fsync(fd)
        finally:
            locks.close_descriptor(fd)
        os.rename(temporary, name, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        if durable:
            os.fsync(self.fd)

    def read_file(self, name: str, max_bytes: int) -> bytes | None:
        """Read a small file of the directory; None when it is not there.

        Raises:
            CacheError: it is longer than `max_bytes`.
            OSError: the file system refused, or it is a symbolic link.
        """
        try:
            fd = locks.open_descriptor(name, os.O_RDONLY, dir_fd=self.fd)
        except FileNotFoundError:
            return None
        try:
            with open(fd, "rb", closefd=False) as stream:
                content = stream.read(max_bytes + 1)
        finally:
            locks.close_descriptor(fd)
        if len(content) > max_bytes:
            raise CacheError(f"{self.path / name} has more than {max_bytes} bytes")
        return content

    def open_usage(self, *, alone: bool) -> _native.UsageFile:
        """Map the usage file; the caller holds SETUP_BYTE.

        Args:
            alone: whether no other process uses the directory: a damaged file may be replaced then.

        Raises:
            CacheError: the file is damaged and others use it.
        """
        for fresh in (False, True):
            try:
                fd = os.open("usage", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self.fd)
                return _native.UsageFile(fd)
            except (FileNotFoundError, ValueError) as err:
                if fresh or not alone:
                    raise CacheError(
                        f"{self.path / 'usage'} is damaged ({err}) while other processes use it",
                        hint="stop them, then try again",
                    ) from err
            self.write_file("usage", b"")
            fd = locks.open_descriptor("usage", os.O_RDWR, dir_fd=self.fd)
            try:
                _native.UsageFile.create(fd)
            finally:
                locks.close_descriptor(fd)
        raise AssertionError

    def open_folder(self, name: str) -> int:
        """Open a folder of the directory, made if it is not there; never through a link.

        Raises:
            OSError: the file system refused, or something else is in its place.
        """
        return self._open_folder(name, self.fd)

    def shards(self) -> Iterator[tuple[str, int]]:
        """Open the subfolders of `entries/` one after the other; closes each in turn."""
        for name in names_in(self.entries_fd):
            try:
                folder = locks.open_descriptor(name, _DIRECTORY, dir_fd=self.entries_fd)
            except (FileNotFoundError, NotADirectoryError):
                continue
            try:
                yield name, folder
            finally:
                locks.close_descriptor(folder)

    @contextmanager
    def shard(self, name: str, *, create: bool) -> Iterator[int]:
        """Hold open the subfolder of entry `name`.

        Raises:
            FileNotFoundError: it is not there and `create` is false.
        """
        if create:
            folder = self._open_folder(name[:2], self.entries_fd)
        else:
            folder = locks.open_descriptor(name[:2], _DIRECTORY, dir_fd=self.entries_fd)
        try:
            yield folder
        finally:
            locks.close_descriptor(folder)

    def _open_folder(self, name: str, parent: int) -> int:
        with contextlib.suppress(FileExistsError):
            make_folder(name, parent)
        folder = locks.open_descriptor(name, _DIRECTORY, dir_fd=parent)
        try:
            set_folder_mode(folder, parent)
        except BaseException:
            locks.close_descriptor(folder)
            raise
        return folder
