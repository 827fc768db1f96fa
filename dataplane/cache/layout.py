"""The cache directory: what lies where, who may use it, and how entries come and go.

    DIR/            mode 0700, owned by the user, not a symbolic link
      version       "dataplane-cache 1"
      lock          empty; its bytes are locked (dataplane/cache/locks.py)
      usage         numbers shared by all processes (native/core/usage.hpp)
      entries/ab/NAME.map, NAME.data       one pair per object version, sparse

NAME is a hash of the store's identity, the object's full key, etag and size, and the block size:
names from outside never become paths. docs/cache-format.md is the byte-exact note.

Files of a subfolder are created and removed under that subfolder's lock. Who uses an entry holds a
shared lock on its map; who removes one must get that lock exclusively. A map appears under its name
complete (temporary name, then rename), after its data file. So a map that does not pass its checks
was damaged, and it is removed together with its data when nobody uses it.

This room takes no policy decisions and knows no store. Thread-safe.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dataplane import _native
from dataplane.cache import locks
from dataplane.errors import CacheError

__all__ = [
    "VERSION_TEXT",
    "Directory",
    "EntrySpec",
    "disk_bytes",
    "map_disk_bytes",
    "page_rounded",
]

VERSION_TEXT = b"dataplane-cache 1\n"

_OUR_NAMES = frozenset({"version", ".version.tmp", "lock", "usage", ".usage.tmp", "entries"})
_MAP_BYTES_PER_BLOCK = 32
_MAP_HEADER_BYTES = 4096
_MAX_IDENTITY_BYTES = 3968
_PAGE_BYTES = 4096
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


@dataclass(frozen=True, slots=True)
class EntrySpec:
    """What makes two cache entries the same: the version of the object and the size of blocks.

    Attributes:
        store: the store's identity.
        key: the object's full key in that store.
        etag: the object's version tag.
        size_bytes: the object's length.
        block_bytes: the length of a block.
    """

    store: str
    key: str
    etag: str
    size_bytes: int
    block_bytes: int

    def digest(self) -> bytes:
        """Hash every field, each preceded by its length, to 20 bytes."""
        state = hashlib.blake2b(digest_size=20, person=b"dataplane-cache1")
        fields = (self.store, self.key, self.etag, str(self.size_bytes), str(self.block_bytes))
        for text in fields:
            field = text.encode("utf-8", "surrogatepass")
            state.update(len(field).to_bytes(8, "little"))
            state.update(field)
        return state.digest()

    def identity(self) -> bytes:
        """Describe the entry in JSON for people and tools; a long key is cut."""
        fields: dict[str, object] = {
            "store": self.store[:512],
            "key": self.key,
            "etag": self.etag[:256],
            "size_bytes": self.size_bytes,
        }
        text = json.dumps(fields).encode()
        if len(text) > _MAX_IDENTITY_BYTES:
            # ensure_ascii writes at most 12 bytes per character, so 128 characters always fit.
            fields |= {"store": self.store[:64], "key": self.key[:128], "etag": self.etag[:64]}
            fields["cut"] = True
            text = json.dumps(fields).encode()
        return text


def page_rounded(length: int) -> int:
    """Round up to what the file system allocates."""
    return -(-length // _PAGE_BYTES) * _PAGE_BYTES


def map_disk_bytes(blocks: int) -> int:
    """Return the space that the map of an entry of `blocks` blocks takes on the disk."""
    return page_rounded(_MAP_HEADER_BYTES + blocks * _MAP_BYTES_PER_BLOCK)


def disk_bytes(entry: _native.BlockMap) -> int:
    """Return the space that the blocks of an entry take on the disk."""
    resident = entry.resident_bytes()
    # Only the last block can end within a page, so rounding the sum rounds that block.
    return page_rounded(resident)


class Directory:
    """An open cache directory that this process may use.

    Args:
        path: the directory; it and its parents are created when missing.

    Raises:
        CacheError: it is not a directory that can serve as a cache.
        OSError: the file system refused.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pid = os.getpid()
        self.fd = self._entries_fd = -1
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        try:
            self.fd = locks.open_descriptor(str(path), _DIRECTORY)
        except OSError as err:
            if path.is_symlink() or not path.is_dir():
                raise CacheError(
                    f"the cache directory {path} is a symbolic link or not a directory",
                    hint="name the directory itself with --cache-dir",
                ) from err
            raise
        try:
            self._check_owner()
            self._has_version()  # before anything is written to a directory that is not ours
            with locks.hold(self.fd, locks.SETUP_BYTE):
                if stat.S_IMODE(os.fstat(self.fd).st_mode) & 0o077:
                    os.fchmod(self.fd, 0o700)
                if not self._has_version():
                    self.write_file("version", VERSION_TEXT)
                self._entries_fd = self._open_folder("entries", self.fd)
        except BaseException:
            self.close()
            raise

    def __del__(self) -> None:
        # Descriptors are numbers: closing them while a thread is about to use them would let it work
        # in a stranger's directory. So they live as long as anybody refers to this object.
        self.close()

    def close(self) -> None:
        """Close the descriptors. Idempotent; nobody may use the directory afterwards."""
        for fd in (self.fd, self._entries_fd):
            if fd >= 0 and self._pid == os.getpid():
                locks.close_descriptor(fd)
        self.fd = self._entries_fd = -1

    def is_current(self) -> bool:
        """Whether the path still leads to the directory that was opened."""
        try:
            return os.path.samestat(os.fstat(self.fd), os.stat(self.path, follow_symlinks=False))
        except FileNotFoundError:
            return False

    def _check_owner(self) -> None:
        status = os.fstat(self.fd)
        if status.st_uid != os.geteuid():
            raise CacheError(
                f"the cache directory {self.path} belongs to user {status.st_uid}, "
                f"not to {os.geteuid()}",
                hint="choose another with --cache-dir",
            )
        names = set(os.listdir(self.fd))
        strangers = names - _OUR_NAMES
        if strangers and "version" not in names:
            raise CacheError(
                f"{self.path} is not a cache: it holds {sorted(strangers)[0]!r}",
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
                f"{VERSION_TEXT.decode().strip()!r}, got {text[:40]!r}",
                hint="it is left alone; choose another directory with --cache-dir",
            )
        return True

    def write_file(self, name: str, content: bytes) -> None:
        """Write a small file of the directory at once: a temporary name, then a rename."""
        temporary = f".{name}.tmp"
        fd = locks.open_descriptor(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, dir_fd=self.fd)
        try:
            os.write(fd, content)
        finally:
            locks.close_descriptor(fd)
        os.rename(temporary, name, src_dir_fd=self.fd, dst_dir_fd=self.fd)

    def open_usage(self, *, alone: bool) -> _native.UsageFile:
        """Map the usage file; the caller holds SETUP_BYTE.

        Args:
            alone: no other process uses the directory, so a damaged file may be replaced.

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

    def open_entry(self, spec: EntrySpec, verify_tag: int) -> tuple[_native.BlockMap, int, int]:
        """Open an entry, making it when it is not there; the map holds the entry's use lock.

        Returns:
            The map, the bytes of disk space that were newly taken for it, and the number of damaged
            entries that were thrown away on the way.

        Raises:
            CacheError: the entry is damaged and another process uses it.
            OSError: the file system refused.
        """
        digest = spec.digest()
        name = digest.hex()
        rebuilt = 0
        with locks.hold(self.fd, locks.shard_byte(name)):
            folder = self._open_folder(name[:2], self._entries_fd)
            try:
                try:
                    found = self._open_pair(folder, name, verify_tag)
                    if self._matches(found, digest, spec) and found.lock_open(exclusive=False):
                        return found, 0, 0
                    del found
                    rebuilt = 1
                except FileNotFoundError:
                    pass
                except ValueError:
                    rebuilt = 1
                self._remove_pair(folder, name)
                self._create_pair(folder, name, spec)
                made = self._open_pair(folder, name, verify_tag)
                if not made.lock_open(exclusive=False):
                    raise CacheError(f"cannot lock the new cache entry {name} in {self.path}")
                return made, map_disk_bytes(made.blocks), rebuilt
            finally:
                locks.close_descriptor(folder)

    def names(self) -> Iterator[str]:
        """Yield the names of all entries, in no order."""
        for shard in os.listdir(self._entries_fd):
            try:
                folder = locks.open_descriptor(shard, _DIRECTORY, dir_fd=self._entries_fd)
            except (FileNotFoundError, NotADirectoryError):
                continue
            try:
                files = os.listdir(folder)
            finally:
                locks.close_descriptor(folder)
            for file in files:
                if file.endswith(".map") and file[:2] == shard and len(file) == 44:
                    yield file[:40]

    def inspect(self, name: str, verify_tag: int) -> _native.BlockMap | None:
        """Open an existing entry without marking it as used; None when it is gone or damaged."""
        try:
            folder = locks.open_descriptor(name[:2], _DIRECTORY, dir_fd=self._entries_fd)
        except FileNotFoundError:
            return None
        try:
            return self._open_pair(folder, name, verify_tag)
        except (OSError, ValueError):
            return None
        finally:
            locks.close_descriptor(folder)

    def remove_unused(self, name: str) -> int:
        """Remove an entry that holds no block, or is damaged, if nobody uses it.

        Returns:
            The bytes of disk space that its map took; 0 when it stays.
        """
        with locks.hold(self.fd, locks.shard_byte(name)):
            try:
                folder = locks.open_descriptor(name[:2], _DIRECTORY, dir_fd=self._entries_fd)
            except FileNotFoundError:
                return 0
            try:
                length = os.stat(f"{name}.map", dir_fd=folder, follow_symlinks=False).st_size
                try:
                    found: _native.BlockMap | None = self._open_pair(folder, name, 0)
                except (FileNotFoundError, ValueError):
                    found = None
                if found is not None and found.resident_bytes():
                    return 0
                del found
                self._remove_pair(folder, name)
            except (FileNotFoundError, CacheError):
                return 0
            finally:
                locks.close_descriptor(folder)
        return page_rounded(length)

    def remove_debris(self) -> None:
        """Remove what killed processes left half made. The caller is the directory's only user."""
        for shard in os.listdir(self._entries_fd):
            try:
                folder = locks.open_descriptor(shard, _DIRECTORY, dir_fd=self._entries_fd)
            except (FileNotFoundError, NotADirectoryError):
                continue
            try:
                files = set(os.listdir(folder))
                for file in files:
                    orphan = file.endswith(".data") and f"{file[:-5]}.map" not in files
                    if orphan or file.endswith(".tmp"):
                        os.unlink(file, dir_fd=folder)
            finally:
                locks.close_descriptor(folder)

    def _open_folder(self, name: str, parent: int) -> int:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=parent)
        return locks.open_descriptor(name, _DIRECTORY, dir_fd=parent)

    @staticmethod
    def _open_pair(folder: int, name: str, verify_tag: int) -> _native.BlockMap:
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        map_fd = os.open(f"{name}.map", flags, dir_fd=folder)
        try:
            data_fd = os.open(f"{name}.data", flags, dir_fd=folder)
        except FileNotFoundError as err:
            os.close(map_fd)
            raise ValueError("the data file is missing") from err
        except BaseException:
            os.close(map_fd)
            raise
        found = _native.BlockMap(map_fd, data_fd, verify_tag)
        locks.track(found)
        return found

    @staticmethod
    def _matches(found: _native.BlockMap, digest: bytes, spec: EntrySpec) -> bool:
        return (
            found.key == digest
            and found.size_bytes == spec.size_bytes
            and found.block_bytes == spec.block_bytes
        )

    def _remove_pair(self, folder: int, name: str) -> None:
        """Remove both files of an entry; the caller holds the subfolder's lock."""
        try:
            fd = locks.open_descriptor(f"{name}.map", os.O_RDWR, dir_fd=folder)
        except FileNotFoundError:
            fd = -1
        except OSError as err:  # a symbolic link or a directory in its place
            raise CacheError(f"cannot open cache entry {name} in {self.path}: {err}") from err
        try:
            open_byte = locks.LockByte(1 << 62)  # kOpenLockByte
            if fd >= 0 and not locks.lock_byte(fd, fcntl.F_WRLCK, open_byte, wait=False):
                raise CacheError(
                    f"cache entry {name} in {self.path} is damaged or unused, "
                    "but another process has it open"
                )
            for file in (f"{name}.map", f"{name}.data"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(file, dir_fd=folder)
        finally:
            if fd >= 0:
                locks.close_descriptor(fd)

    @staticmethod
    def _create_pair(folder: int, name: str, spec: EntrySpec) -> None:
        """Make both files of an entry; the caller holds the subfolder's lock."""
        temporary = f".{name}.tmp"
        create = os.O_RDWR | os.O_CREAT
        try:
            data_fd = locks.open_descriptor(f"{name}.data", create | os.O_EXCL, dir_fd=folder)
            try:
                os.ftruncate(data_fd, spec.size_bytes)
            finally:
                locks.close_descriptor(data_fd)
            map_fd = locks.open_descriptor(temporary, create | os.O_TRUNC, dir_fd=folder)
            try:
                _native.BlockMap.create(
                    map_fd,
                    block_bytes=spec.block_bytes,
                    size_bytes=spec.size_bytes,
                    key=spec.digest(),
                    identity=spec.identity(),
                )
            finally:
                locks.close_descriptor(map_fd)
            os.rename(temporary, f"{name}.map", src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            for file in (temporary, f"{name}.data"):
                with contextlib.suppress(OSError):
                    os.unlink(file, dir_fd=folder)
            raise
