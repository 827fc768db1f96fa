"""The portable front end: libfuse 3 through the ctypes declarations of mfusepy.

mfusepy's own `FUSE` class is not used, only its structures and its way of finding the library:
the callbacks here write into the kernel's buffers without a copy in between, answer READDIRPLUS
(one request for a page of names *with* attributes, where mfusepy answers with names and the kernel
asks again for each), choose direct I/O per file, and can never let a Python exception out.

Choices, with their measurements in docs/mount.md:

- Direct I/O: reads skip the kernel's page cache for the mount, which costs more than everything
  else together, and the cache file below is in the page cache anyway. Such files can be mapped
  privately (`MAP_PRIVATE`); shared maps, which `numpy.memmap` makes even to read, need a kernel and
  a libfuse (3.16 and up) that allow them, or `page_cache=True`, which opens files with the page
  cache instead.
- FLUSH is left out, so the kernel stops asking at close.
- No `read_buf` with splice: measured 2 to 4 times slower than a plain copy at 1 MiB.

libfuse runs its own threads; each callback takes the GIL for its Python part, and the cache gives
it up while it waits or copies. One `serve()` per process.

SIGINT and SIGTERM are libfuse's. Its main thread looks whether one has come, and then waits: until
a signal interrupts that, or a request comes. A signal between the two would be slept through, for
ever where no request comes (libfuse 3.14, a mount that is stopped as soon as it is there). So
another thread wakes the main thread now and then, by a signal that does nothing.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from urllib.parse import quote

from dataplane import _native
from dataplane.daemon_thread import DaemonThread
from dataplane.errors import DataplaneError, MountError
from dataplane.fuse_host import library_version, load_library
from dataplane_fuse.errnos import errno_of
from dataplane_fuse.filesystem import Filesystem
from dataplane_fuse.frontends.pages import PageCachePolicy
from dataplane_fuse.frontends.structs import StatBytes
from dataplane_fuse.nodes import BLOCK_BYTES

__all__ = ["FrontEndOptions", "serve"]

# Source: libfuse include/fuse_common.h and fuse.h.
_CAP_READDIRPLUS_AUTO = 1 << 14
_CAP_DIRECT_IO_ALLOW_MMAP = 1 << 28
_FILL_DIR_PLUS = 1 << 1
_MMAP_SINCE = (3, 16)
_WIDE_CAPABILITIES_SINCE = (3, 17)
_MAX_THREADS_SINCE = (3, 12)
_NAMESPACE = "utf-8"
_REQUEST_BYTES = BLOCK_BYTES
_WAKE_PERIOD_S = 1.0


@dataclass(frozen=True, slots=True)
class FrontEndOptions:
    """Options of the front end.

    Attributes:
        source: source that `mount` shows: the URL, which holds no secrets.
        allow_other: whether other users may look.
        page_cache: whether to open files with the kernel's page cache instead of direct I/O.
        attribute_ttl_s: time for which the kernel believes names, attributes and absences.
        threads: number of requests answered at once.
    """

    source: str
    allow_other: bool = False
    page_cache: bool = False
    attribute_ttl_s: float = 60.0
    threads: int = 32


def serve(
    filesystem: Filesystem,
    mountpoint: str,
    options: FrontEndOptions,
    on_ready: Callable[[], None],
) -> None:
    """Mount and answer the kernel until the mount is removed or SIGINT or SIGTERM arrives.

    Must run in the main thread. `on_ready` is called once the kernel has made contact.

    Raises:
        MountError: the mount could not be made.
    """
    fuse = load_library()
    callbacks = _Callbacks(fuse, filesystem, options, on_ready)
    arguments = ["dataplane", "-f", "-o", _mount_options(options, fuse), mountpoint]
    encoded = [os.fsencode(argument) for argument in arguments]
    argv = (ctypes.c_char_p * len(encoded))(*encoded)
    operations = callbacks.table()
    # libfuse takes SIGINT only where it has no handler; Python has one.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        with _woken(callbacks.contact):
            status = fuse.fuse_main_real(
                len(encoded), argv, ctypes.pointer(operations), ctypes.sizeof(operations), None
            )
            made_contact = callbacks.contact.is_set()
    finally:
        signal.signal(signal.SIGINT, before)
    if status and not made_contact:
        raise MountError(
            f"libfuse could not mount on {mountpoint} (status {status}); its reason is above "
            "or in the log"
        )


@contextmanager
def _woken(contact: threading.Event) -> Iterator[None]:
    """Have the calling thread's system calls be interrupted now and then, once there is contact."""
    _native.let_interrupt(signal.SIGURG)
    sleeper, ended = threading.get_ident(), threading.Event()

    def wake() -> None:
        contact.wait()
        while not ended.wait(_WAKE_PERIOD_S):
            signal.pthread_kill(sleeper, signal.SIGURG)

    thread = DaemonThread(wake, name="dp-wake")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        contact.set()
        thread.join()


def _mount_options(options: FrontEndOptions, fuse: ModuleType) -> str:
    # A comma would end the option, a backslash would quote what follows.
    source = quote(options.source, safe="/:@!$&'()*+;=~ ._-%")
    chosen = [
        "ro",
        "nosuid",
        "nodev",
        "default_permissions",
        f"fsname={source}",
        "subtype=dataplane",
    ]
    if options.allow_other:
        chosen.append("allow_other")
    if library_version(fuse) >= _MAX_THREADS_SINCE:
        chosen.append(f"max_threads={options.threads},max_idle_threads={options.threads}")
    return ",".join(chosen)


@functools.lru_cache(maxsize=1024)
def _bytes_type(size: int) -> type[ctypes.Array[ctypes.c_char]]:
    return ctypes.c_char * size


class _Callbacks:
    """The functions that libfuse calls. They return 0 or a count, or minus an errno."""

    def __init__(
        self,
        fuse: ModuleType,
        filesystem: Filesystem,
        options: FrontEndOptions,
        on_ready: Callable[[], None],
    ) -> None:
        self._fuse = fuse
        self._filesystem = filesystem
        self._options = options
        self._on_ready = on_ready
        self._stat_bytes = StatBytes(fuse, filesystem.options.uid, filesystem.options.gid)
        self._pages = PageCachePolicy()
        self._directories: dict[int, _OpenDirectory] = {}
        self._directory_numbers = itertools.count(1)
        self.contact = threading.Event()

    def table(self) -> Any:
        """Return libfuse's table of operations; it keeps the callbacks alive."""
        prototypes = dict(field[:2] for field in self._fuse.fuse_operations._fields_)
        table = self._fuse.fuse_operations()
        answering: dict[str, Callable[..., int]] = {
            "init": self.init,
            "getattr": self.getattr,
            "open": self.open,
            "read": self.read,
            "release": self.release,
            "opendir": self.opendir,
            "releasedir": self.releasedir,
            "readdir": self.readdir,
            "readlink": self.readlink,
            "statfs": self.statfs,
            "getxattr": self.getxattr,
            "listxattr": self.listxattr,
        }
        refused = (
            "mknod mkdir unlink rmdir symlink rename link chmod chown truncate write create "
            "setxattr removexattr utimens fallocate"
        )
        for name, function in answering.items():
            setattr(table, name, prototypes[name](self._guarded(name, function)))
        for name in refused.split():
            setattr(table, name, prototypes[name](self._guarded(name, self.refuse)))
        return table

    def _guarded(self, name: str, function: Callable[..., int]) -> Callable[..., int]:
        """Let no exception reach libfuse, where it would be printed and taken for success."""

        def answer(*arguments: Any) -> int:
            try:
                return function(*arguments)
            except BaseException as err:
                if isinstance(err, OSError) and not isinstance(err, DataplaneError):
                    return -errno_of(err)
                first = arguments[0] if arguments else None
                path = os.fsdecode(first) if isinstance(first, bytes) else ""
                self._filesystem.log_unexpected(name, path, err)
                return -errno_of(err)

        return answer

    def init(self, connection: Any, config: Any) -> int:
        settings = config.contents
        ttl_s = self._options.attribute_ttl_s
        settings.entry_timeout = settings.attr_timeout = settings.negative_timeout = ttl_s
        settings.use_ino = 1
        # Open files are known by their handle: no path is needed, and none is looked up.
        settings.nullpath_ok = 1
        self._ask_for_capabilities(connection.contents)
        self.contact.set()
        self._on_ready()
        return 0

    def _ask_for_capabilities(self, connection: Any) -> None:
        # A directory that is listed is nearly always looked at name by name right after.
        connection.want &= ~_CAP_READDIRPLUS_AUTO
        connection.max_readahead = max(connection.max_readahead, _REQUEST_BYTES)
        if library_version(self._fuse) >= _WIDE_CAPABILITIES_SINCE:
            connection.want_ext |= connection.capable_ext & _CAP_DIRECT_IO_ALLOW_MMAP
        elif library_version(self._fuse) >= _MMAP_SINCE:
            connection.want |= connection.capable & _CAP_DIRECT_IO_ALLOW_MMAP

    def getattr(self, path: bytes | None, buffer: Any, info: Any) -> int:
        # nullpath_ok: fstat of an open file comes without a path.
        if path is None:
            attributes = self._filesystem.getattr_open(info.contents.fh)
        else:
            attributes = self._filesystem.getattr(_path(path))
        packed = self._stat_bytes.pack(attributes)
        ctypes.memmove(ctypes.addressof(buffer.contents), packed, len(packed))
        return 0

    def open(self, path: bytes, info: Any) -> int:
        file = info.contents
        handle = self._filesystem.open(_path(path), file.flags)
        file.fh = handle
        if self._options.page_cache:
            version = self._filesystem.version_of(handle)
            file.direct_io, file.keep_cache = self._pages.opened(handle, _path(path), version)
        else:
            file.direct_io = 1
        return 0

    def read(self, _path: bytes | None, buffer: Any, size: int, offset: int, info: Any) -> int:
        target = _bytes_type(size).from_address(ctypes.addressof(buffer.contents))
        # Casting gives plain bytes, which is what every consumer of the buffer protocol takes.
        view = memoryview(target).cast("B")
        return self._filesystem.read_into(info.contents.fh, offset, view)

    def release(self, _path: bytes | None, info: Any) -> int:
        self._pages.released(info.contents.fh)
        self._filesystem.release(info.contents.fh)
        return 0

    def opendir(self, path: bytes, info: Any) -> int:
        # nullpath_ok: the path comes only now.
        number = next(self._directory_numbers)
        self._directories[number] = _OpenDirectory(_path(path))
        info.contents.fh = number
        return 0

    def releasedir(self, _path: bytes | None, info: Any) -> int:
        self._directories.pop(info.contents.fh, None)
        return 0

    def readdir(
        self, _path: bytes | None, buffer: Any, fill: Any, offset: int, info: Any, _flags: int
    ) -> int:
        directory = self._directories[info.contents.fh]
        # A listing is taken when reading begins, so that a reader sees each name once even when
        # the directory changes meanwhile; rewinddir(3) takes a new one.
        if not offset or directory.entries is None:
            directory.entries = [(b".", None), (b"..", None)]
            for name, attributes in self._filesystem.readdir(directory.path):
                packed = self._stat_bytes.pack(attributes)
                directory.entries.append((name.encode(_NAMESPACE, "surrogateescape"), packed))
        entry = self._fuse.c_stat()
        address, size = ctypes.addressof(entry), ctypes.sizeof(entry)
        # Each entry with the offset after it: libfuse then asks page by page. Without offsets it
        # would take all at once, but 3.14 answers READDIRPLUS from such a list without nodes, and
        # the kernel looks every name up again: 14 s instead of 1 s for 100,000 names.
        for position in range(offset, len(directory.entries)):
            encoded, status = directory.entries[position]
            if status is None:
                full = fill(buffer, encoded, None, position + 1, 0)
            else:
                ctypes.memmove(address, status, size)
                full = fill(buffer, encoded, entry, position + 1, _FILL_DIR_PLUS)
            if full:
                break
        return 0

    def readlink(self, path: bytes, _buffer: Any, _size: int) -> int:
        self._filesystem.readlink(_path(path))
        return 0

    def statfs(self, _path: bytes, buffer: Any) -> int:
        statistics = self._filesystem.statfs()
        target = buffer.contents
        target.f_bsize = target.f_frsize = statistics.block_bytes
        target.f_blocks = statistics.blocks
        target.f_bfree = target.f_bavail = statistics.free_blocks
        target.f_files = statistics.files
        target.f_namemax = statistics.max_name_bytes
        return 0

    def getxattr(self, path: bytes, name: bytes, buffer: Any, size: int) -> int:
        value = self._filesystem.getxattr(_path(path), os.fsdecode(name))
        return _give(value, buffer, size)

    def listxattr(self, path: bytes, buffer: Any, size: int) -> int:
        names = self._filesystem.listxattr(_path(path))
        return _give(b"".join(os.fsencode(name) + b"\0" for name in names), buffer, size)

    def refuse(self, path: bytes | None, *_rest: Any) -> int:
        self._filesystem.refuse_write("" if path is None else _path(path))
        return 0


@dataclass(slots=True)
class _OpenDirectory:
    """A directory that is being read: names with their `struct stat`, from the last rewind on."""

    path: str
    entries: list[tuple[bytes, bytes | None]] | None = None


def _path(raw: bytes) -> str:
    return raw.decode(_NAMESPACE, "surrogateescape").strip("/")


def _give(value: bytes, buffer: Any, size: int) -> int:
    """Answer with bytes of which the caller may only want to know the length."""
    if not size:
        return len(value)
    if len(value) > size:
        return -errno.ERANGE
    ctypes.memmove(buffer, value, len(value))
    return len(value)
