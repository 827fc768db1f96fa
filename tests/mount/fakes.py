"""A store and a cache for tests of the filesystem: small, honest, and counting."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from dataplane.errors import DataplaneError, FormatError, NotFound, ObjectChanged
from dataplane.stores.base import Buffer, Listing, ObjectInfo
from dataplane.stores.clients.piecewise import PiecewiseStore

MODIFIED_S = 1_700_000_000.0


class FakeStore(PiecewiseStore):
    """Objects in a dict. Any text is a key, as in S3; every request is counted."""

    url = "fake://bucket/prefix"
    identity = "fake://bucket"

    def __init__(self, objects: Mapping[str, bytes] | None = None) -> None:
        self.objects: dict[str, bytes] = dict(objects or {})
        self.requests: Counter[str] = Counter()
        self.fail_with: DataplaneError | None = None
        self.gate: threading.Event | None = None

    def full_key(self, key: str) -> str:
        return f"prefix/{key}"

    def info(self, key: str) -> ObjectInfo:
        content = self.objects[key]
        return ObjectInfo(key, len(content), hashlib.md5(content).hexdigest(), MODIFIED_S)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        self._request("list")
        yield from (self.info(key) for key in sorted(self.objects) if key.startswith(prefix))

    def list_level(self, prefix: str = "") -> Listing:
        self._request("list_level")
        if self.gate is not None:
            self.gate.wait(10)
        objects, prefixes = [], {}
        for key in sorted(self.objects):
            if not key.startswith(prefix):
                continue
            head, slash, _ = key[len(prefix) :].partition("/")
            if slash:
                prefixes[prefix + head + "/"] = None
            else:
                objects.append(self.info(key))
        return Listing(tuple(objects), tuple(prefixes))

    def head(self, key: str) -> ObjectInfo:
        self._request("head")
        if key not in self.objects:
            raise NotFound(f"no such key: {key}")
        return self.info(key)

    def get_range(self, key: str, start: int, stop: int, *, if_match: str | None = None) -> bytes:
        self._request("get_range")
        if key not in self.objects:
            raise NotFound(f"no such key: {key}")
        if if_match not in {None, self.info(key).etag}:
            raise ObjectChanged(f"{key} is not {if_match}")
        return self.objects[key][start:stop]

    def put(self, key: str, data: object) -> ObjectInfo:
        raise AssertionError("a mount never writes")

    def delete(self, key: str) -> None:
        raise AssertionError("a mount never deletes")

    def close(self) -> None:
        pass

    def _request(self, name: str) -> None:
        self.requests[name] += 1
        if self.fail_with is not None:
            raise self.fail_with


class FakeReader:
    """One object version, read block by block and remembered, as the cache does."""

    def __init__(self, blocks: FakeBlocks, info: ObjectInfo) -> None:
        self.blocks = blocks
        self.info = info
        self.closed = False

    def read_into(self, start: int, stop: int, buffer: memoryview) -> None:
        assert 0 <= start < stop <= self.info.size_bytes, "the filesystem stays inside the object"
        assert len(buffer) == stop - start
        buffer[:] = self.blocks.read(self.info, start, stop)

    def is_complete(self) -> bool:
        count = -(-self.info.size_bytes // self.blocks.block_bytes)
        return all((self.info.key, self.info.etag, i) in self.blocks.cached for i in range(count))

    def close(self) -> None:
        self.closed = True


class FakeAhead:
    def __init__(self, start: int, window_bytes: int) -> None:
        self.start = start
        self.window_bytes = window_bytes
        self.step = 0
        self.closed = False

    def advance(self, step: int) -> None:
        self.step = step

    def close(self) -> None:
        self.closed = True


class FakeBlocks:
    """The cache: remembers blocks, and what was asked to be fetched ahead."""

    def __init__(self, store: FakeStore, block_bytes: int = 4096) -> None:
        self.store = store
        self.block_bytes = block_bytes
        self.cached: dict[tuple[str, str, int], bytes] = {}
        self.readers: list[FakeReader] = []
        self.aheads: list[FakeAhead] = []

    def open(self, info: ObjectInfo) -> FakeReader:
        self.readers.append(FakeReader(self, info))
        return self.readers[-1]

    def read(self, info: ObjectInfo, start: int, stop: int) -> bytes:
        first = start // self.block_bytes
        pieces = [self._block(info, i) for i in range(first, -(-stop // self.block_bytes))]
        offset = first * self.block_bytes
        return b"".join(pieces)[start - offset : stop - offset]

    def fetch_ahead(self, info: ObjectInfo, start: int, stop: int, window_bytes: int) -> FakeAhead:
        assert start < stop
        self.aheads.append(FakeAhead(start, window_bytes))
        return self.aheads[-1]

    def _block(self, info: ObjectInfo, i: int) -> bytes:
        ident = (info.key, info.etag, i)
        if ident not in self.cached:
            stop = min((i + 1) * self.block_bytes, info.size_bytes)
            start = i * self.block_bytes
            self.cached[ident] = self.store.get_range(info.key, start, stop, if_match=info.etag)
        return self.cached[ident]


class FakeIndex:
    def __init__(self, ranges: Mapping[str, tuple[str, int, int]]) -> None:
        self.keys = list(ranges)
        self._ranges = list(ranges.values())

    def archive_range(self, number: int) -> tuple[str, int, int]:
        return self._ranges[number]


class FakeMember:
    def __init__(self, name: str, start: int, stop: int) -> None:
        self.name, self.start, self.stop = name, start, stop


class FakeDatasets:
    """Packed datasets whose index is given by hand, by the prefix that holds it."""

    def __init__(self, indexes: Mapping[str, FakeIndex]) -> None:
        self.indexes = indexes
        self.loads = 0
        self.archives_listed = 0

    def load_index(self, store: object, prefix: str, read_object: object) -> FakeIndex:
        self.loads += 1
        if prefix not in self.indexes:
            raise FormatError(f"{prefix}index.parquet is not ours")
        return self.indexes[prefix]

    def list_archive(self, read: object, size_bytes: int) -> Sequence[FakeMember]:
        self.archives_listed += 1
        content: Buffer = read(0, size_bytes)  # type: ignore[operator]
        members = []
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for info in archive.infolist():
                header = info.header_offset
                lengths = content[header + 26 : header + 30]
                start = header + 30 + lengths[0] + 256 * lengths[1] + lengths[2] + 256 * lengths[3]
                members.append(FakeMember(info.filename, start, start + info.file_size))
        return members


def stored_zip(members: Mapping[str, bytes]) -> bytes:
    """Return a zip of uncompressed entries."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()
