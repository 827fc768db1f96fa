"""A store in a folder of files that counts its GETs across processes, and caches to go with it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dataplane.cache import Cache, CacheConfig, CachedObject, PlannedRead
from dataplane.cache.entries.keys import KEY_VARIABLE
from dataplane.errors import NotFound, ObjectChanged
from dataplane.stores.base import ObjectInfo
from dataplane.stores.clients.piecewise import PiecewiseStore

BLOCK = 4096


@dataclass(frozen=True)
class FolderStore(PiecewiseStore):
    """Objects are files named by a hash of their key; every GET adds a line to a log.

    Picklable and safe in several processes. `delay_s` is slept in every GET.
    """

    folder: Path
    delay_s: float = 0.0

    @property
    def url(self) -> str:
        return "test://bucket/"

    @property
    def identity(self) -> str:
        return "test://bucket"

    def full_key(self, key: str) -> str:
        return key

    def _path(self, key: str) -> Path:
        name = key.encode("utf-8", "surrogatepass").hex()
        return self.folder / hashlib.sha256(name.encode()).hexdigest()

    def put(self, key: str, content: bytes, etag: str = "v1") -> ObjectInfo:
        path = self._path(key)
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(etag.encode() + b"\n" + content)
        temporary.rename(path)
        return ObjectInfo(key, len(content), etag)

    def content_of(self, key: str) -> bytes:
        """The bytes of an object, past the log."""
        return self._path(key).read_bytes().partition(b"\n")[2]

    def get_range(self, key: str, start: int, stop: int, *, if_match: str | None = None) -> bytes:
        with (self.folder / "log").open("a") as log:
            log.write(f"{os.getpid()} {start} {stop} {key!r}\n")
        try:
            raw = self._path(key).read_bytes()
        except FileNotFoundError as err:
            raise NotFound(f"no such key: {key!r}") from err
        etag, _, content = raw.partition(b"\n")
        if if_match is not None and etag.decode() != if_match:
            raise ObjectChanged(f"{key!r}: expected {if_match}, got {etag.decode()}")
        if self.delay_s:
            time.sleep(self.delay_s)
        return content[start:stop]

    def gets(self) -> list[tuple[int, int]]:
        """The blocks asked for so far, of `BLOCK` bytes, whichever requests they came with."""
        return [
            (first, min(first + BLOCK, stop))
            for start, stop in self.requests()
            for first in range(start, stop, BLOCK)
        ]

    def requests(self) -> list[tuple[int, int]]:
        """The ranges asked for so far."""
        try:
            lines = (self.folder / "log").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [(int(line.split()[1]), int(line.split()[2])) for line in lines]


@dataclass(frozen=True)
class CountingStore(FolderStore):
    """Writes down, across processes, when each GET begins and ends.

    The first ones wait until `meeting` of them are under way at once, which on a busy machine they
    would never be by chance.
    """

    meeting: int = 0

    def get_range(self, key: str, start: int, stop: int, *, if_match: str | None = None) -> bytes:
        with (self.folder / "moments").open("ab", buffering=0) as moments:
            moments.write(b"+")
            until_s = time.monotonic() + 20
            while self.peak() < self.meeting and time.monotonic() < until_s:
                time.sleep(0.001)
            try:
                return FolderStore.get_range(self, key, start, stop, if_match=if_match)
            finally:
                moments.write(b"-")

    def peak(self) -> int:
        """How many GETs were under way at once at most."""
        now = most = 0
        for moment in (self.folder / "moments").read_text():
            now += 1 if moment == "+" else -1
            most = max(most, now)
        return most


def data_files(directory: Path) -> list[Path]:
    return sorted(directory.glob("entries/*/*.data"))


def map_files(directory: Path) -> list[Path]:
    return sorted(directory.glob("entries/*/*.map"))


def disk_usage(directory: Path) -> int:
    """Bytes that entries take on the disk; others may evict meanwhile."""
    used_bytes = 0
    for path in directory.glob("entries/*/*"):
        with contextlib.suppress(FileNotFoundError):
            used_bytes += path.stat().st_blocks * 512
    return used_bytes


def is_counted(directory: Path, used_bytes: int) -> bool:
    """Whether the cache's own count is what is on the disk.

    ext4 puts the extents of a file with many holes into a block of its own, at some later time.
    """
    on_disk = disk_usage(directory)
    return used_bytes <= on_disk <= used_bytes + 4096 * len(data_files(directory))


def assert_counted(directory: Path, used_bytes: int) -> None:
    """The cache's own count is what is on the disk."""
    assert is_counted(directory, used_bytes), (used_bytes, disk_usage(directory))


def wait_until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.002)


def read_all(source: CachedObject) -> bytes:
    return bytes(source.read(0, source.info.size_bytes))


@contextlib.contextmanager
def partly_cached(root: Path, size: int, on_disk, *, seal: bool):
    """Cache an object of random bytes, some blocks of it; yield cache, blob, bytes and store."""
    store = FolderStore(root)
    content = os.urandom(size)
    config = CacheConfig(dir=root / "cache", block_bytes=BLOCK, fetch_threads=2, encrypt=seal)
    with pytest.MonkeyPatch.context() as patch:
        if seal:
            patch.setenv(KEY_VARIABLE, "ab" * 32)
        with Cache(config) as cache:
            blob = cache.open(store, store.put("a", content))
            for block in on_disk:
                blob.read(block * BLOCK, block * BLOCK + 1)
            yield cache, blob, content, store


@contextlib.contextmanager
def held(cache: Cache, blob, blocks):
    """Have blocks in memory, as a plan has them."""
    reads = [
        PlannedRead(blob, n * BLOCK, min((n + 1) * BLOCK, blob.info.size_bytes), 0) for n in blocks
    ]
    with cache.plan(reads):
        wait_until(lambda: set(blocks) <= set(cache.held(blob.name)))
        yield


@dataclass(frozen=True)
class StreamingStore(FolderStore):
    """Says which byte comes next before each piece, and where a stream ended."""

    before: Callable[[int], None] = field(default=lambda position: None, compare=False)
    closed: list[int] = field(default_factory=list, compare=False)

    def stream_range(
        self, key: str, start: int, stop: int, *, piece_bytes: int, if_match: str | None = None
    ) -> Generator[bytes, None, None]:
        content = self.get_range(key, start, stop, if_match=if_match)
        position = start
        try:
            for position in range(start, stop, piece_bytes):
                self.before(position)
                yield content[position - start : position - start + piece_bytes]
            position = stop
        finally:
            self.closed.append(position)


def streaming_store(store: FolderStore, **options: Any) -> StreamingStore:
    """Return the store's objects as a `StreamingStore`."""
    return StreamingStore(store.folder, **options)


def stopping_store(
    store: FolderStore, position: int
) -> tuple[StreamingStore, threading.Event, threading.Event]:
    """Return a store whose streams stop at a byte; what says that one is there; what lets it on."""
    at, gate = threading.Event(), threading.Event()

    def before(reached: int) -> None:
        if reached >= position:
            at.set()
            assert gate.wait(30)

    return streaming_store(store, before=before), at, gate
