"""`LocalStore`: objects in a local folder, `file:///path` and plain paths.

Written on the system calls and not on obstore's local store: a read there makes two trips through
its runtime, which costs small reads a few times what they cost here; it checks the etag only before
it reads; it refuses file names such as `t#12`; and it cannot be used in a child made by fork.

An etag is modification time, inode and size. A read compares it with the open file before *and*
after the bytes are copied, so a file rewritten in place is noticed as a replaced one is. (A rewrite
of equal size within one tick of the file system's clock, some milliseconds, is not.)

`put` writes a hidden temporary file in the same folder, syncs it and renames it. Temporary files
are not objects: listings leave them out. Symbolic links are followed, since they are the owner's;
keys cannot leave the root (see `keys.py`). A root that a store made is removed by its `close` when
it is empty. Thread-safe and fork-safe: its one state is which of the folders above its root were
there before.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from dataplane.config import absolute_path
from dataplane.errors import (
    DataplaneError,
    Denied,
    NoSpace,
    NotFound,
    ObjectChanged,
    StoreError,
)
from dataplane.stores.base import Buffer, Listing, ObjectInfo
from dataplane.stores.clients.piecewise import PiecewiseStore
from dataplane.stores.keys import (
    check_key,
    check_level,
    check_prefix,
    check_range,
    check_source,
    join_key,
)

__all__ = ["LocalStore"]

_TEMP_PREFIX = ".dataplane-put-"
_PUT_ATTEMPTS = 8
"""A folder may be removed (it became empty) between making it and writing into it."""


def _etag(status: os.stat_result) -> str:
    return f'"{status.st_mtime_ns:x}-{status.st_ino:x}-{status.st_size:x}"'


class LocalStore(PiecewiseStore):
    """A store over one folder. See the module's text."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root = os.path.realpath(absolute_path(root))
        self._kept = self._root

    @property
    def url(self) -> str:
        return "file://" + self._root.replace("%", "%25")

    @property
    def identity(self) -> str:
        return "file://"

    def full_key(self, key: str) -> str:
        return join_key(self._root.strip("/"), key)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        folder = check_prefix(prefix).rpartition("/")[0]
        self._check_root()
        top = self._path(folder) if folder else self._root
        found = [info for info in self._walk(top, folder, ()) if info.key.startswith(prefix)]
        found.sort(key=lambda info: info.key)
        yield from found

    def list_level(self, prefix: str = "") -> Listing:
        check_level(prefix)
        self._check_root()
        objects: list[ObjectInfo] = []
        prefixes: list[str] = []
        for entry in self._scan(self._path(prefix[:-1]) if prefix else self._root):
            key = prefix + entry.name
            if entry.is_dir():
                prefixes.append(f"{key}/")
            elif (info := self._describe(entry, key)) is not None:
                objects.append(info)
        objects.sort(key=lambda info: info.key)
        return Listing(tuple(objects), tuple(sorted(prefixes)))

    def head(self, key: str) -> ObjectInfo:
        path = self._path(key)
        try:
            status = os.stat(path)
        except OSError as err:
            raise self._failure(err, key) from err
        if not stat.S_ISREG(status.st_mode):
            raise NotFound(f"no object {self.url}/{key}: it is not a file")
        return ObjectInfo(key, status.st_size, _etag(status), status.st_mtime)

    def get_range(self, key: str, start: int, stop: int, *, if_match: str | None = None) -> Buffer:
        check_range(key, start, stop)
        if start == stop:
            return b""
        try:
            # O_NONBLOCK: opening a pipe would wait for a writer; on files it has no effect.
            fd = os.open(self._path(key), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as err:
            raise self._failure(err, key) from err
        try:
            self._check_version(fd, key, if_match)
            content = _read(fd, start, stop)
            self._check_version(fd, key, if_match)
        except DataplaneError:
            raise
        except OSError as err:
            raise self._failure(err, key) from err
        finally:
            os.close(fd)
        if len(content) != stop - start:
            raise StoreError(
                f"{self.url}/{key}: bytes [{start}, {stop}) asked for, "
                f"the file ends at {start + len(content)} or before"
            )
        return content

    def put(self, key: str, data: Buffer | os.PathLike[str]) -> ObjectInfo:
        path = self._path(key)
        source = check_source(data)
        folder = os.path.dirname(path)
        temp = os.path.join(folder, _TEMP_PREFIX + secrets.token_hex(8))
        before = _nearest_folder(folder)
        if len(before) < len(self._kept):
            self._kept = before
        try:
            fd = _create(temp)
            try:
                with open(fd, "wb", buffering=0) as stream:
                    _fill(stream.fileno(), source)
                    os.fsync(stream.fileno())
                    status = os.fstat(stream.fileno())
                os.rename(temp, path)
            except BaseException:
                os.unlink(temp)
                raise
        except OSError as err:
            _remove_empty(folder, before)
            raise self._failure(err, key, writing=True) from err
        return ObjectInfo(key, status.st_size, _etag(status), status.st_mtime)

    def delete(self, key: str) -> None:
        path = self._path(key)
        try:
            os.unlink(path)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as err:
            raise self._failure(err, key, writing=True) from err
        # Object stores have no empty folders: remove those that this left behind.
        _remove_empty(os.path.dirname(path), self._root)

    def close(self) -> None:
        """Remove the root if this store made it and it is empty; files are open in reads only."""
        _remove_empty(self._root, self._kept)

    def _path(self, key: str) -> str:
        return os.path.join(self._root, check_key(key))

    def _check_root(self) -> None:
        if not os.path.isdir(self._root):
            raise NotFound(f"no such folder: {self._root}")

    def _check_version(self, fd: int, key: str, if_match: str | None) -> None:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise NotFound(f"no object {self.url}/{key}: it is not a file")
        actual = _etag(status)
        if if_match is not None and actual != if_match:
            raise ObjectChanged(
                f"{self.url}/{key} was replaced: expected etag {if_match}, it is now {actual}"
            )

    def _scan(self, folder: str) -> Sequence[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                return [e for e in entries if not e.name.startswith(_TEMP_PREFIX)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as err:
            raise self._failure(err, os.path.relpath(folder, self._root)) from err

    def _walk(self, folder: str, prefix: str, above: tuple[str, ...]) -> Iterator[ObjectInfo]:
        # A link to a folder above itself would never end; `above` holds the real paths so far.
        real = os.path.realpath(folder)
        if real in above:
            return
        for entry in self._scan(folder):
            key = join_key(prefix, entry.name)
            if entry.is_dir():
                yield from self._walk(entry.path, key, (*above, real))
            elif (info := self._describe(entry, key)) is not None:
                yield info

    @staticmethod
    def _describe(entry: os.DirEntry[str], key: str) -> ObjectInfo | None:
        try:
            if not entry.is_file():
                return None
            status = entry.stat()
        except OSError:
            # Removed since the folder was read, or a link that leads nowhere.
            return None
        return ObjectInfo(key, status.st_size, _etag(status), status.st_mtime)

    def _failure(self, err: OSError, key: str, *, writing: bool = False) -> Exception:
        where = f"{self.url}/{key}"
        if err.errno in (errno.ENOSPC, errno.EDQUOT):
            return NoSpace(f"cannot write {where}: {err.strerror}")
        if err.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            verb = "write" if writing else "read"
            return Denied(f"cannot {verb} {where}: {err.strerror}")
        if not writing and err.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
            return NotFound(f"no object {where}: {err.strerror}")
        if err.errno in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
            return StoreError(
                f"cannot write {where}: {err.strerror}",
                hint="in a folder, no key can be both a file and the start of other keys",
            )
        return StoreError(f"{where}: {err.strerror}")


def _read(fd: int, start: int, stop: int) -> bytes:
    content = os.pread(fd, stop - start, start)
    if len(content) in (0, stop - start):
        return content
    parts = [content]  # One call returns at most about 2 GiB.
    position = start + len(content)
    while position < stop:
        part = os.pread(fd, stop - position, position)
        if not part:
            break
        parts.append(part)
        position += len(part)
    return b"".join(parts)


def _create(temp: str) -> int:
    for attempt in range(_PUT_ATTEMPTS):
        os.makedirs(os.path.dirname(temp), exist_ok=True)
        try:
            return os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            if attempt == _PUT_ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def _nearest_folder(path: str) -> str:
    """The path itself, or the first above it, that exists."""
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return path


def _remove_empty(folder: str, kept: str) -> None:
    """Remove a folder and those above it, up to one that is kept, while they are empty."""
    while len(folder) > len(kept):
        try:
            os.rmdir(folder)
        except OSError:
            return
        folder = os.path.dirname(folder)


def _fill(fd: int, source: Path | memoryview) -> None:
    if isinstance(source, Path):
        with source.open("rb") as stream, open(fd, "wb", closefd=False) as target:
            shutil.copyfileobj(stream, target, 1 << 20)
        return
    while source:
        source = source[os.write(fd, source) :]
