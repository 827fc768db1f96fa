"""`CachedObject`: one object version read through the cache.

A read first gathers what is held in memory and what is on the local disk, in one native call
without the GIL, for one range or for a table of thousands. What was missing comes back as a table
of pieces: their blocks are asked of the scheduler and waited for, and the read gathers again; a
block that could not be kept is copied from the download itself. When the cache cannot be used,
reads go to the store.

Bytes are copied into memory of the caller's, except by `view` and `views`: the memory of a block
that was just downloaded never changes and lives for as long as something refers to it, so that
views of it are zero-copy (`views.py` says when that is worth it). And by `mapped`: what is on the
disk can be decoded where it is, from a mapping of the cache file, under a block lease that lasts as
long as the decoding. Nothing else looks at the mapping: an evicted block turns into zeros there.

Thread-safe. Holds no files: open entries belong to the cache, which keeps a bounded number of them.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from dataplane import _native
from dataplane._native import IncompleteRead
from dataplane.buffers import shared_pool
from dataplane.cache.core import CacheCore
from dataplane.cache.disk.entry_identity import EntrySpec
from dataplane.cache.entries.encryption import HEADER_BYTES
from dataplane.cache.entries.open_entries import Entry
from dataplane.cache.fetch.scheduler import Job
from dataplane.cache.read.ranges import (
    ROUND_TRIP_BYTES,
    Ranges,
    as_ranges,
    by_block,
    check_ranges,
    check_within,
    merge_ranges,
)
from dataplane.cache.read.views import ViewLayout, Views, blocks_to_show, lay_out
from dataplane.errors import ConfigError
from dataplane.stores.base import Buffer, ObjectInfo, Store

__all__ = ["CachedObject"]

# One read keeps this many requests' blocks per thread in its memory at most.
_REQUESTS_PER_THREAD = 2

# Shorter ranges of a sample are not worth that the disk reads a huge page, or two, for each.
_MIN_PAGED_IN_BYTES = 512 << 10


class CachedObject:
    """One object version; made by `Cache.open`.

    Attributes:
        info: the version that is read; a store that has another raises `ObjectChanged`.
        store: store that it comes from.
    """

    __slots__ = ("__weakref__", "_core", "info", "name", "spec", "store")

    def __init__(
        self, core: CacheCore, store: Store, info: ObjectInfo, block_bytes: int | None = None
    ) -> None:
        self._core = core
        self.store = store
        self.info = info
        self.spec = EntrySpec(
            store=store.identity,
            key=store.full_key(info.key),
            etag=info.etag,
            size_bytes=info.size_bytes,
            block_bytes=core.config.block_bytes if block_bytes is None else block_bytes,
            key_identity=core.sealer.identity if core.sealer is not None else "",
            sealed_bytes=HEADER_BYTES if core.sealer is not None else 0,
        )
        self.name = self.spec.digest().hex()

    def __reduce__(self) -> tuple[object, ...]:
        return (CachedObject, (self._core, self.store, self.info, self.spec.block_bytes))

    def __repr__(self) -> str:
        return f"CachedObject({self.store.url!r}, {self.info.key!r})"

    def read(self, start: int, stop: int) -> memoryview:
        """Return bytes `[start, stop)` in memory of their own, which is the caller's.

        Raises:
            ConfigError: the range is outside the object.
            StoreError: a missing block could not be fetched; `ObjectChanged` when the object was
                replaced.
        """
        self._check_range(start, stop)
        content = _pooled(stop - start)
        self.read_into(start, stop, content)
        return content

    def read_into(self, start: int, stop: int, buffer: Buffer) -> None:
        """Copy bytes `[start, stop)` into a writable C-contiguous buffer of that length.

        The buffer's content is undefined when this raises.

        Raises:
            ConfigError: the range is outside the object, or the buffer does not fit it.
            StoreError: a missing block could not be fetched; `ObjectChanged` when the object was
                replaced.
        """
        self._check_range(start, stop)
        view = _writable(buffer, f"reading bytes {start} to {stop} of {self.info.key!r}")
        if view.nbytes != stop - start:
            raise ConfigError(
                f"reading bytes {start} to {stop} of {self.info.key!r} needs a writable contiguous "
                f"buffer of {stop - start} bytes, got {view.nbytes}"
            )
        if start == stop:
            return
        entry = self._core.entry(self.name, self.spec)
        if entry is None:
            self._pass_through(start, stop, view)
            return
        memory = self._core.held(self.name)
        if memory:
            block_bytes = self.spec.block_bytes
            blocks = range(start // block_bytes, -(-stop // block_bytes))
            memory = {block: memory[block] for block in blocks if block in memory}
        incomplete = entry.blocks.read(start, stop, view, memory)
        self._finish(entry, view, incomplete, 1, stop - start)

    def read_ranges_into(self, ranges: npt.ArrayLike, buffer: Buffer) -> None:
        """Copy many ranges into a writable C-contiguous buffer, in one native call.

        Args:
            ranges: rows of (start, stop, place): bytes `[start, stop)` of the object go to the
                buffer from byte `place` on. uint64[n, 3] is taken as it is; see `read.ranges`.
                Ranges may be empty and may overlap; places should not.
            buffer: writable memory; where no range goes it stays as it was, unless this raises.

        Raises:
            ConfigError: a range is outside the object, or does not fit the buffer.
            StoreError: as `read_into`.

        Example:
            out = bytearray(300)
            blob.read_ranges_into([(0, 100, 0), (5000, 5200, 100)], out)
        """
        table = as_ranges(ranges)
        what = f"{self.info.key!r}"
        view = _writable(buffer, f"reading {len(table)} ranges of {what}")
        count, nbytes = check_ranges(table, self.info.size_bytes, view.nbytes, what)
        if not count:
            return
        entry = self._core.entry(self.name, self.spec)
        if entry is None:
            self._pass_ranges_through(table, view)
            return
        incomplete = entry.blocks.read_ranges(table.data, view, self._core.held(self.name))
        self._finish(entry, view, incomplete, count, nbytes)

    def view(self, start: int, stop: int) -> memoryview:
        """Return bytes `[start, stop)`, read-only, without a copy where that is safe.

        It is safe where one block that was just downloaded has them all, and worth it where they
        are much of it: the view is of its memory, which returns to its pool after the view.
        Otherwise they are read into pooled memory. For bytes that are soon done with.

        Raises:
            ConfigError: the range is outside the object.
            StoreError: as `read_into`.
        """
        self._check_range(start, stop)
        views = self.views(np.array([start], np.uint64), np.array([stop], np.uint64))
        first = int(views.offset[0])
        source = memoryview(views.sources[views.source[0]]).cast("B")
        return source[first : first + stop - start].toreadonly()

    def views(self, starts: npt.NDArray[np.uint64], stops: npt.NDArray[np.uint64]) -> Views:
        """Return many ranges, without a copy where that is safe and worth it; see `view`.

        Blocks that are not on the disk are waited for; views of them need no copy. Of blocks on the
        disk, of ranges that cross blocks, and where ranges ask for little of a block, copies are
        made, in one call.

        Args:
            starts: uint64[n], first bytes.
            stops: uint64[n], where they end, in the same order.

        Raises:
            ConfigError: a range is outside the object.
            StoreError: as `read_into`.
        """
        check_within(starts, stops, self.info.size_bytes, repr(self.info.key))
        block_bytes = self.spec.block_bytes
        wanted = blocks_to_show(starts, stops, block_bytes, self.info.size_bytes)
        held = self._core.held(self.name)
        contents = {block: held[block] for block in wanted if block in held}
        began = time.perf_counter()
        contents |= self._download([block for block in wanted if block not in held])
        placed = lay_out(starts, stops, block_bytes, contents)
        self._count_views(placed, held, time.perf_counter() - began)
        copied = _pooled(placed.copied_bytes)
        self._page_in(placed.copied)
        self.read_ranges_into(placed.copied, copied)
        sources = (copied, *(contents[block] for block in placed.blocks))
        return Views(sources, placed.source, placed.offset)

    def mapped(self, spans: Sequence[tuple[int, int]]) -> tuple[_native.MappedRange, ...] | None:
        """Return ranges as they lie in the cache file, to be read there soon; None where copies do.

        Each is a buffer that is there while it is used: a native call that is given it has a lease
        of its blocks for as long as it lasts. If there is none to be had by then, the buffer is
        that of a copy, which may have to be fetched. What the page cache lacks is read now, and
        what was not checked since the directory's last unclean stop is checked.

        Args:
            spans: half-open ranges.

        Returns:
            None unless all of them are on the disk and known to be good, in the clear.

        Raises:
            ConfigError: a range is outside the object.
        """
        for start, stop in spans:
            self._check_range(start, stop)
        entry = self._core.entry(self.name, self.spec)
        blocks = entry.blocks if entry is not None else None
        if not isinstance(blocks, _native.BlockMap) or not all(
            blocks.expect(start, stop) for start, stop in spans
        ):
            return None
        nbytes = sum(stop - start for start, stop in spans)
        self._core.counters.add_all({"cache_hits": len(spans), "cache_hit_bytes": nbytes})
        return tuple(
            _native.MappedRange(blocks, start, stop, functools.partial(self._copied, start, stop))
            for start, stop in spans
        )

    def is_on_disk(self, start: int, stop: int) -> bool:
        """Whether `read_into` would copy bytes `[start, stop)` from the disk, and download none.

        Without a cache it is so, too: there is nothing in memory that `views` could show.
        """
        entry = self._core.entry(self.name, self.spec)
        return entry is None or not entry.blocks.missing(start, stop)

    def share_in_memory(self, spans: Sequence[tuple[int, int]]) -> float:
        """Return the part of the bytes of ranges whose blocks are in memory for a plan: 0 to 1."""
        held = self._core.held(self.name)
        if not held:
            return 0.0
        block_bytes = self.spec.block_bytes
        there = sum(
            min(stop, (block + 1) * block_bytes) - max(start, block * block_bytes)
            for start, stop in spans
            for block in range(start // block_bytes, -(-stop // block_bytes))
            if block in held
        )
        return there / max(sum(stop - start for start, stop in spans), 1)

    def found_bytes(self) -> int:
        """Number of the object's bytes that are on the local disk; makes no entry for it."""
        found = self._core.existing(self.name)
        return 0 if found is None else found.resident_bytes()

    def resident_bytes(self) -> int:
        """Number of the object's bytes that are on the local disk."""
        entry = self._core.entry(self.name, self.spec)
        return entry.blocks.resident_bytes() if entry is not None else 0

    def is_complete(self) -> bool:
        """Whether every block of the object is on the local disk."""
        entry = self._core.entry(self.name, self.spec)
        return entry is not None and entry.blocks.is_complete()

    def _check_range(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.info.size_bytes:
            raise ConfigError(
                f"bytes {start} to {stop} are outside {self.info.key!r}, "
                f"which has {self.info.size_bytes} bytes"
            )

    def _page_in(self, ranges: Ranges) -> None:
        """Have long ranges that are on the disk read in huge pages, before they are copied.

        A copy would leave the page cache with small ones, and what is decoded in place later would
        pay for mapping each. What is held in memory is copied from there, and what cannot be had is
        left to the copy.
        """
        long = ranges[ranges[:, 1] - ranges[:, 0] >= _MIN_PAGED_IN_BYTES]
        entry = self._core.entry(self.name, self.spec) if len(long) else None
        if entry is None or not isinstance(entry.blocks, _native.BlockMap):
            return
        held, block_bytes = self._core.held(self.name), self.spec.block_bytes
        for start, stop, _ in long.tolist():
            blocks = range(start // block_bytes, -(-stop // block_bytes))
            if not any(block in held for block in blocks):
                entry.blocks.expect(start, stop)

    def _finish(
        self,
        entry: Entry,
        view: memoryview,
        incomplete: IncompleteRead | None,
        ranges: int,
        nbytes: int,
    ) -> None:
        """Count a read of `ranges` ranges, and fetch what is missing of it."""
        if incomplete is None:
            self._core.counters.add_all({"cache_hits": ranges, "cache_hit_bytes": nbytes})
            return
        missed, missed_bytes = incomplete.ranges, incomplete.nbytes
        began = time.perf_counter()
        try:
            self._fill(entry, view, self._missing(entry, incomplete))
        finally:
            self._core.counters.add_all(
                {
                    "cache_hits": ranges - missed,
                    "cache_hit_bytes": nbytes - missed_bytes,
                    "cache_misses": missed,
                    "cache_miss_bytes": missed_bytes,
                    "cache_wait_s": time.perf_counter() - began,
                }
            )

    def _copied(self, start: int, stop: int) -> memoryview:
        """Return a copy of a range whose blocks could not be leased."""
        self._core.counters.add("cache_leases_refused")
        return self.read(start, stop)

    def _missing(self, entry: Entry, incomplete: IncompleteRead) -> Ranges:
        """Return the missing pieces, and count what was wrong with their blocks."""
        if incomplete.dropped_bytes:
            # Bad blocks are empty from now on; filling them again reserves their room again.
            entry.budget.release(incomplete.dropped_bytes)
            self._core.counters.add_all(
                {
                    "cache_blocks_corrupt": incomplete.corrupt_blocks,
                    "cache_io_errors": incomplete.unreadable_blocks,
                }
            )
        return as_ranges(incomplete.missing)

    def _download(self, blocks: Sequence[int]) -> dict[int, Buffer]:
        """Wait for what of `blocks` is not on the disk; return what came by way of memory."""
        entry = self._core.entry(self.name, self.spec) if blocks else None
        if entry is None:
            return {}
        missing = [block for block in blocks if not entry.blocks.is_ready(block)]
        jobs = self._core.submit(entry, self.store, self.info, missing)
        contents = [job.future.result() for job in jobs]
        return {
            block: content
            for block, content in zip(missing, contents, strict=True)
            if content is not None
        }

    def _count_views(self, placed: ViewLayout, held: Mapping[int, Buffer], wait_s: float) -> None:
        """Count each block with a zero-copy view as a read."""
        hits = [n for b, n in zip(placed.blocks, placed.shown_bytes, strict=True) if b in held]
        misses = [
            n for b, n in zip(placed.blocks, placed.shown_bytes, strict=True) if b not in held
        ]
        self._core.counters.add_all({"cache_hits": len(hits), "cache_hit_bytes": sum(hits)})
        if misses:
            self._core.counters.add_all(
                {
                    "cache_misses": len(misses),
                    "cache_miss_bytes": sum(misses),
                    "cache_wait_s": wait_s,
                }
            )

    def _fill(self, entry: Entry, view: memoryview, pieces: Ranges) -> None:
        """Have the blocks of missing pieces downloaded, and copy the pieces as blocks arrive."""
        config = self._core.config
        per_request = max(1, self._core.request_bytes // entry.blocks.block_bytes)
        limit = _REQUESTS_PER_THREAD * per_request * config.fetch_threads
        left = by_block(pieces, entry.blocks.block_bytes)
        waiting: deque[tuple[Job, Ranges]] = deque()
        while more := list(itertools.islice(left, limit - len(waiting))):
            jobs = self._core.submit(entry, self.store, self.info, [block for block, _ in more])
            waiting += zip(jobs, (of_block for _, of_block in more), strict=True)
            for _ in range(min(per_request, len(waiting))):
                self._copy(*waiting.popleft(), view)
        while waiting:
            self._copy(*waiting.popleft(), view)

    def _copy(self, job: Job, pieces: Ranges, view: memoryview) -> None:
        """Wait for a block and copy its pieces into `view`."""
        content = job.future.result()
        memory: dict[int, Buffer] = {} if content is None else {job.key[1]: content}
        incomplete = job.entry.blocks.read_ranges(pieces.data, view, memory)
        if incomplete is not None:
            # Another process filled the block, and it was evicted again before this copy.
            self._pass_ranges_through(self._missing(job.entry, incomplete), view)

    def _pass_ranges_through(self, table: Ranges, view: memoryview) -> None:
        """Read ranges from the store, neighbours in one request."""
        table = table[table[:, 1] > table[:, 0]]
        merged = merge_ranges(table[:, 0], table[:, 1], ROUND_TRIP_BYTES)
        table = table[np.argsort(table[:, 0], kind="stable")]
        behind = np.searchsorted(table[:, 0], merged[1:, 0])
        groups = np.split(table, behind)
        for (first, last, _), group in zip(merged.tolist(), groups, strict=True):
            content = memoryview(self._get(first, last)).cast("B")
            for start, stop, place in group.tolist():
                view[place : place + stop - start] = content[start - first : stop - first]

    def _pass_through(self, start: int, stop: int, view: memoryview) -> None:
        view[:] = memoryview(self._get(start, stop)).cast("B")

    def _get(self, start: int, stop: int) -> Buffer:
        content = self.store.get_range(self.info.key, start, stop, if_match=self.info.etag or None)
        self._core.counters.add_all(
            {"cache_passthrough_reads": 1, "cache_passthrough_bytes": stop - start}
        )
        return content


def _pooled(nbytes: int) -> memoryview:
    return shared_pool().array((nbytes,), np.dtype(np.uint8)).data


def _writable(buffer: Buffer, doing: str) -> memoryview:
    view = memoryview(buffer)
    if view.readonly or not view.c_contiguous:
        raise ConfigError(f"{doing} needs a writable contiguous buffer, got another")
    return view.cast("B") if view.nbytes else memoryview(bytearray())
