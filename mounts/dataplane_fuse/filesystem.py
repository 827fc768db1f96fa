"""The read-only filesystem: its operations and their answers. Knows no FUSE and no kernel.

A front end (`frontends/`) turns the kernel's requests into these calls; tests make them directly.
Paths are relative to the mount point without a leading slash; the root is "". Every failure is an
OSError whose errno is the answer for the program (`errnos` has the table); the cause is logged once
per operation, errno and directory.

What readers can rely on:

- An open file is one version of an object. When the object is replaced, reads of bytes that are not
  cached yet answer ESTALE, never a mixture; opening again shows the new version.
- Names and attributes may be as old as `list_ttl_s`; so may the absence of a name.
- Nothing can be written: every call that would is EROFS.

Thread-safe. Lock order: none of the modules below calls another while it holds its lock.
"""

from __future__ import annotations

import errno
import functools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Protocol

from dataplane.errors import ConfigError, DataplaneError, NotFound, ObjectChanged
from dataplane.stores.base import Buffer, ObjectInfo, Store
from dataplane.telemetry import Counters, logger, offer_gauges
from dataplane_fuse.cached_listing import DEFAULT_MAX_ENTRIES
from dataplane_fuse.errnos import errno_of, os_error
from dataplane_fuse.handles import DEFAULT_MAX_HANDLES, Handle, HandleTable, OpenFile, Reader
from dataplane_fuse.names import MAX_NAME_BYTES, encoded_name
from dataplane_fuse.nodes import BLOCK_BYTES, Attributes, FileNode, Node, attributes_of, join
from dataplane_fuse.prefetch_handle import PrefetchHandle, SequentialPrefetch
from dataplane_fuse.tree import DatasetFormat, Tree

__all__ = ["Blocks", "Filesystem", "FilesystemOptions", "Statistics"]

_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_TRUNC | os.O_CREAT | os.O_APPEND
_MAX_LOGGED = 10_000
_XATTR_PREFIX = "user.dataplane."


class Blocks(Protocol):
    """The cache as the filesystem needs it; `caching.CacheBlocks` provides it."""

    @property
    def block_bytes(self) -> int:
        """The unit of download."""
        ...

    def open(self, info: ObjectInfo) -> Reader:
        """Open one object version; makes no request."""
        ...

    def read(self, info: ObjectInfo, start: int, stop: int) -> Buffer:
        """Read bytes of an object that is not kept open."""
        ...

    def fetch_ahead(
        self, info: ObjectInfo, start: int, stop: int, window_bytes: int
    ) -> PrefetchHandle:
        """Fetch `[start, stop)` in order within a window; steps are block numbers."""
        ...


@dataclass(frozen=True, slots=True)
class FilesystemOptions:
    """Options of a mount.

    Attributes:
        list_ttl_s: time for which names, attributes and absences are believed.
        show_samples: whether packed datasets show their samples.
        max_entries: most names remembered at once.
        max_handles: most files open at once.
        read_ahead_bytes: most bytes to fetch ahead of a sequential reader.
        uid: owner shown; the mounter.
        gid: group shown.

    Raises:
        ConfigError: a value is out of its range.
    """

    list_ttl_s: float = 60.0
    show_samples: bool = True
    max_entries: int = DEFAULT_MAX_ENTRIES
    max_handles: int = DEFAULT_MAX_HANDLES
    read_ahead_bytes: int = 64 << 20
    uid: int = field(default_factory=os.getuid)
    gid: int = field(default_factory=os.getgid)

    def __post_init__(self) -> None:
        if not 0 <= self.list_ttl_s <= 86_400:
            raise ConfigError(f"the list TTL must be 0 to 86400 seconds, got {self.list_ttl_s}")
        if self.max_entries < 1 or self.max_handles < 1 or self.read_ahead_bytes < 0:
            raise ConfigError("the limits of a mount must be positive")


@dataclass(frozen=True, slots=True)
class Statistics:
    """Answer of `statfs`: sizes are 0, because an object store has none.

    Other filesystems without a device do the same; `df` then leaves the mount out unless asked for
    it, and monitors do not take it for a full disk.
    """

    block_bytes: int = BLOCK_BYTES
    blocks: int = 0
    free_blocks: int = 0
    files: int = 0
    max_name_bytes: int = MAX_NAME_BYTES


class Filesystem:
    """The operations of a mount. See the module's text.

    Args:
        store: store of the objects.
        blocks: the cache.
        samples: reader of packed datasets.
        options: options of the mount.
        counters: counters of listings, opens, reads and failures.
        clock: monotonic seconds, for the age of listings.
    """

    def __init__(
        self,
        store: Store,
        blocks: Blocks,
        *,
        samples: DatasetFormat | None = None,
        options: FilesystemOptions | None = None,
        counters: Counters | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.options = FilesystemOptions() if options is None else options
        self.counters = Counters() if counters is None else counters
        self._store = store
        self._blocks = blocks
        self._tree = Tree(
            store,
            blocks.read,
            samples=samples if self.options.show_samples else None,
            ttl_s=self.options.list_ttl_s,
            max_entries=self.options.max_entries,
            counters=self.counters,
            clock=clock,
        )
        self._handles = HandleTable(self.options.max_handles)
        offer_gauges(self._handles, lambda handles: {"mount_open_files": len(handles)})
        self._mounted_ns = time.time_ns()
        self._logged: set[tuple[str, int, str]] = set()
        self._log_lock = Lock()

    def getattr(self, path: str) -> Attributes:
        """Return the attributes of what is at `path`; ENOENT when nothing is."""
        with self._answering("getattr", path):
            return attributes_of(path, self._resolve(path), self._mounted_ns)

    def getattr_open(self, handle: int) -> Attributes:
        """Return the attributes of an open file, as it was when it was opened."""
        node = self._handles.get(handle).node
        return attributes_of(node.path, node, self._mounted_ns)

    def version_of(self, handle: int) -> str:
        """Return the etag of the object version that an open file reads."""
        return self._handles.get(handle).node.info.etag

    def readdir(self, path: str) -> Iterator[tuple[str, Attributes]]:
        """Yield names and attributes of a directory's content, without `.` and `..`."""
        with self._answering("readdir", path):
            node = self._resolve(path)
            if isinstance(node, FileNode):
                raise os_error(errno.ENOTDIR, path)
            for name, child in node.children():
                yield name, attributes_of(join(path, name), child, self._mounted_ns)

    def open(self, path: str, flags: int = os.O_RDONLY) -> Handle:
        """Open a file for reading; EROFS when `flags` ask for more, EISDIR for a directory."""
        if flags & _WRITE_FLAGS:
            raise os_error(errno.EROFS, path)
        with self._answering("open", path):
            node = self._resolve(path)
            if not isinstance(node, FileNode):
                raise os_error(errno.EISDIR, path)
            node = replace(node, info=self._tree.as_answered(node.info))
            handle = self._handles.add(path, functools.partial(self._open_file, node))
        self.counters.add("mount_opens")
        return handle

    def read_into(self, handle: int, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` from `offset`; return the bytes read, fewer only at the end of the file."""
        file = self._handles.get(handle)
        with self._answering("read", file.node.path):
            try:
                count = file.read_into(offset, buffer)
            except (NotFound, ObjectChanged) as err:
                # Removed or replaced under an open file: the same to its reader. The listing that
                # led here is wrong, so the next open must not use it.
                self._tree.forget(file.node.info.key)
                if isinstance(err, NotFound):
                    raise ObjectChanged(f"{file.node.info.key} was removed while open") from err
                raise
        self.counters.add_all({"mount_reads": 1, "mount_read_bytes": count})
        return count

    def release(self, handle: int) -> None:
        """Close a file. Never fails."""
        self._handles.release(handle)

    def readlink(self, path: str) -> str:
        """Refuse: there are no symbolic links here."""
        raise os_error(errno.ENOSYS, path)

    def refuse_write(self, path: str) -> None:
        """Answer a call that would change something: EROFS."""
        raise os_error(errno.EROFS, path)

    def statfs(self) -> Statistics:
        """Return the size of the filesystem: unknown, shown as none."""
        return Statistics()

    def listxattr(self, path: str) -> list[str]:
        """Return the names of the extended attributes of what is at `path`."""
        with self._answering("listxattr", path):
            return sorted(self._xattrs(self._resolve(path), path))

    def getxattr(self, path: str, name: str) -> bytes:
        """Return an extended attribute; ENODATA when there is none of that name."""
        # `ls -l` asks every file for security.selinux and system.posix_acl_access. Told that
        # there are no such kinds here, it asks only once (ENODATA: 9 s more for 100,000 files).
        if not name.startswith("user."):
            raise os_error(errno.EOPNOTSUPP, path)
        if not name.startswith(_XATTR_PREFIX):
            raise os_error(errno.ENODATA, path)
        with self._answering("getxattr", path):
            value = self._xattrs(self._resolve(path), path).get(name)
        if value is None:
            raise os_error(errno.ENODATA, path)
        return value.encode(errors="surrogateescape")

    @property
    def open_files(self) -> int:
        """Number of open handles."""
        return len(self._handles)

    def close(self) -> None:
        """Close all open files. Idempotent; the store and the cache belong to the caller."""
        self._handles.close()

    def log_unexpected(self, operation: str, path: str, err: BaseException) -> None:
        """Log an unexpected error, once per operation and place, with a trace."""
        if self._is_new(operation, errno.EIO, f"{type(err).__name__} {path}"):
            logger.error("%s of %r failed unexpectedly", operation, path, exc_info=err)

    def _resolve(self, path: str) -> Node:
        if any(len(encoded_name(name) or b"") > MAX_NAME_BYTES for name in path.split("/")):
            raise os_error(errno.ENAMETOOLONG, path)
        node = self._tree.resolve(path)
        if node is None:
            raise os_error(errno.ENOENT, path)
        return node

    def _open_file(self, node: FileNode) -> OpenFile:
        reader = self._blocks.open(node.info)
        ahead = SequentialPrefetch(
            node.start,
            node.stop,
            block_bytes=self._blocks.block_bytes,
            # What is in the cache as a whole needs no guess, only its cost.
            max_window_bytes=0 if reader.is_complete() else self.options.read_ahead_bytes,
            start_fetching=lambda start, window_bytes: self._blocks.fetch_ahead(
                node.info, start, node.stop, window_bytes
            ),
        )
        return OpenFile(node, reader, ahead)

    def _xattrs(self, node: Node, path: str) -> dict[str, str]:
        url = self._store.url.rstrip("/")
        if not isinstance(node, FileNode):
            values = {"url": f"{url}/{path}" if path else url}
            if not path:
                values["pid"] = str(os.getpid())
        else:
            values = {"url": f"{url}/{node.info.key}", "etag": node.info.etag}
            if not node.is_whole_object:
                values["range"] = f"{node.start}-{node.stop}"
        return {_XATTR_PREFIX + name: value for name, value in values.items()}

    @contextmanager
    def _answering(self, operation: str, path: str) -> Iterator[None]:
        """Turn errors of dataplane into the OSError that answers the program."""
        try:
            yield
        except DataplaneError as err:
            code = errno_of(err)
            self.counters.add(f"mount_errors_{errno.errorcode[code].lower()}")
            folder = path.rpartition("/")[0]
            if code != errno.ENOENT and self._is_new(operation, code, folder):
                logger.warning("%s of %r answers %s: %s", operation, path, os.strerror(code), err)
            raise OSError(code, os.strerror(code), path) from err

    def _is_new(self, operation: str, code: int, place: str) -> bool:
        with self._log_lock:
            ident = (operation, code, place)
            if ident in self._logged or len(self._logged) >= _MAX_LOGGED:
                return False
            self._logged.add(ident)
            return True
