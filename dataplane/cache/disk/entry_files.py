"""The files of entries: how they are made, opened, found and removed.

    entries/ab/NAME.map, NAME.data       one pair per object version; NAME begins with "ab"

NAME is a hash of the store's identity, the object's full key, etag and size, and the block size:
names from outside never become paths.

Files of a subfolder are created and removed under that subfolder's lock. A process that uses an
entry holds a shared lock on its map; one that removes it must get that lock exclusively. A map
appears under its name complete (temporary name, then rename), after its data file. So a pair that
does not pass its checks was damaged, and it is removed when no process uses it.

This module takes no policy decisions and knows no store. Thread-safe.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator

from dataplane import _native
from dataplane.cache.disk import locks
from dataplane.cache.disk.directory import Directory, names_in
from dataplane.cache.disk.entry_identity import EntrySpec, map_disk_bytes, page_rounded
from dataplane.errors import CacheError

__all__ = ["EntryFiles", "map_name"]

_MAP_NAME = re.compile(r"([0-9a-f]{40})\.map")
_SHARD_NAME = re.compile(r"[0-9a-f]{2}")
_OPEN_BYTE = locks.LockByte(1 << 62)  # kOpenLockByte of native/core/cache/blockmap.hpp


def map_name(file: str, shard: str) -> str | None:
    """Return the entry whose map a file of a subfolder is by its name; None for anything else."""
    match = _MAP_NAME.fullmatch(file)
    return match.group(1) if match is not None and file[:2] == shard else None


class EntryFiles:
    """The entries of one cache directory."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def open(self, spec: EntrySpec, verify_tag: int) -> tuple[_native.BlockMap, int, int]:
        """Open an entry, making it when it is not there; the map holds the entry's use lock.

        Returns:
            The map, by how many bytes the files on the disk have grown, and the number of damaged
            entries that were thrown away on the way.

        Raises:
            CacheError: the entry is damaged and another process uses it.
            OSError: the file system refused.
        """
        digest = spec.digest()
        name = digest.hex()
        rebuilt = 0
        with (
            locks.hold(self._directory.fd, locks.shard_byte(name)),
            self._directory.shard(name, create=True) as folder,
        ):
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
            freed = self._remove_pair(folder, name)
            self._create_pair(folder, name, spec)
            made = self._open_pair(folder, name, verify_tag)
            if not made.lock_open(exclusive=False):
                raise CacheError(f"cannot lock the new cache entry {name}")
            return made, map_disk_bytes(made.blocks) - freed, rebuilt

    def names(self) -> Iterator[str]:
        """Yield the names of all entries, in no order."""
        for shard, folder in self._directory.shards():
            for file in names_in(folder):
                name = map_name(file, shard)
                if name is not None:
                    yield name

    def exists(self, name: str) -> bool:
        """Whether there is a map of that name, whole or not."""
        try:
            with self._directory.shard(name, create=False) as folder:
                os.stat(f"{name}.map", dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def is_open(self, name: str) -> bool:
        """Whether any process has an entry open; `inspect` does not count."""
        try:
            with self._directory.shard(name, create=False) as folder:
                fd = locks.open_descriptor(f"{name}.map", os.O_RDONLY, dir_fd=folder)
        except OSError:
            return False
        try:
            return locks.is_locked(fd, _OPEN_BYTE)
        finally:
            locks.close_descriptor(fd)

    def inspect(self, name: str, verify_tag: int) -> _native.BlockMap | None:
        """Open an existing entry without marking it as used; None when it is gone or damaged."""
        try:
            with self._directory.shard(name, create=False) as folder:
                return self._open_pair(folder, name, verify_tag)
        except (OSError, ValueError):
            return None

    def remove_unused(self, name: str) -> int:
        """Remove an entry that holds no block, or is damaged, if no process uses it.

        Returns:
            The bytes of disk space that its files took; 0 when it stays.
        """
        with locks.hold(self._directory.fd, locks.shard_byte(name)):
            try:
                with self._directory.shard(name, create=False) as folder:
                    if self._has_blocks(folder, name):
                        return 0
                    return self._remove_pair(folder, name)
            except (OSError, CacheError):  # gone, in use, or a link or folder in its place
                return 0

    def remove_orphans(self) -> None:
        """Remove orphans: files that killed processes left half made."""
        for shard, folder in self._directory.shards():
            if not _SHARD_NAME.fullmatch(shard):
                continue
            with locks.hold(self._directory.fd, locks.shard_byte(shard)):
                files = names_in(folder)
                for file in files:
                    orphan = file.endswith(".data") and f"{file[:-5]}.map" not in files
                    if orphan or file.endswith(".tmp"):
                        with contextlib.suppress(OSError):
                            os.unlink(file, dir_fd=folder)

    def _has_blocks(self, folder: int, name: str) -> bool:
        try:
            return self._open_pair(folder, name, 0).resident_bytes() > 0
        except (FileNotFoundError, ValueError):
            return False

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
            and found.size_bytes == spec.stored_bytes
            and found.block_bytes == spec.stored_block_bytes
        )

    def _remove_pair(self, folder: int, name: str) -> int:
        """Remove both files of an entry and return the bytes of disk space that they took.

        The caller holds the subfolder's lock.
        """
        try:
            fd = locks.open_descriptor(f"{name}.map", os.O_RDWR, dir_fd=folder)
        except FileNotFoundError:
            fd = -1
        except OSError as err:  # a symbolic link or a directory in its place
            raise CacheError(f"cannot open cache entry {name}: {err}") from err
        try:
            if fd >= 0 and not locks.lock_byte(fd, fcntl.F_WRLCK, _OPEN_BYTE, wait=False):
                raise CacheError(
                    f"cache entry {name} is damaged or unused, but another process has it open"
                )
            freed = 0
            for file in (f"{name}.map", f"{name}.data"):
                with contextlib.suppress(FileNotFoundError):
                    blocks = os.stat(file, dir_fd=folder, follow_symlinks=False).st_blocks
                    os.unlink(file, dir_fd=folder)
                    freed += page_rounded(blocks * 512)
            return freed
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
                os.ftruncate(data_fd, spec.stored_bytes)
            finally:
                locks.close_descriptor(data_fd)
            map_fd = locks.open_descriptor(temporary, create | os.O_TRUNC, dir_fd=folder)
            try:
                _native.BlockMap.create(
                    map_fd,
                    block_bytes=spec.stored_block_bytes,
                    size_bytes=spec.stored_bytes,
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
