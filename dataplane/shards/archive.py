"""Archives: one sample as a zip of Zarr v3 arrays, `KEY.zarr.zip`, with the place of every chunk.

The archive holds, in this order: `zarr.json` of the root group, of every folder and of every array,
then one Zarr shard per array (`NAME/c/0/0 …`). Inner chunks are stored in C order. Those of at
least ALIGN_FROM_BYTES start at a multiple of PAGE_BYTES of the archive, which the writer puts at
such a multiple of the object, so that readers can use O_DIRECT and staging buffers; smaller ones
follow each other without gaps, since a page for each would cost more than it brings. A chunk whose
bytes are all zero, the fill value, is not stored.

Chunks are encoded by the threads of a pool, a bounded number at a time, and written in order.
`write_archive` may run in several threads with a stream each.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import deque
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Executor, Future
from contextlib import closing
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from dataplane.codecs import Pipeline, encode_chunk, parse_pipeline
from dataplane.errors import FormatError
from dataplane.shards.chunking import component_count, inner_chunk_shape
from dataplane.shards.model import MISSING_CHUNK, ArrayEntry, ArrayMeta, Measured
from dataplane.shards.nonfinite import nonfinite_of
from dataplane.shards.options import CodecName, WriteOptions
from dataplane.shards.shard_index import pack_shard_index, shard_index_bytes
from dataplane.shards.source import SourceSample
from dataplane.shards.statistics import ArrayStats, array_stats
from dataplane.shards.transform import StoredArray, plan_arrays
from dataplane.shards.zarr_metadata import (
    array_document,
    chunk_key,
    group_document,
    inner_codecs,
    json_attributes,
)
from dataplane.shards.zip import ZipWriter

__all__ = ["ALIGN_FROM_BYTES", "PAGE_BYTES", "Archive", "write_archive"]

PAGE_BYTES = 4096
ALIGN_FROM_BYTES = 16 << 10
"""Below this a page boundary per chunk would waste more than an eighth of the space on average."""
_CHUNKS_IN_FLIGHT = 4
"""Chunks encoded or being encoded and not yet written, per worker."""
_RECORD_KEY = "dataplane"
"""Sample attribute that records how the stored values differ from the source's."""


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive that was written.

    Attributes:
        attributes: attributes of the sample as stored.
        arrays: entries whose offsets are relative to the archive, and whose shard is empty.
        size_bytes: size of the archive.
        source_bytes: size of the arrays as they came.
    """

    attributes: Mapping[str, Any]
    arrays: tuple[ArrayEntry, ...]
    size_bytes: int
    source_bytes: int


def write_archive(
    sample: SourceSample,
    stream: BinaryIO,
    options: WriteOptions,
    pool: Executor,
    *,
    progress: Callable[[int], None] | None = None,
) -> Archive:
    """Write a checked sample to an empty seekable stream.

    Args:
        sample: sample to write.
        stream: stream to write to.
        options: options of the writer.
        pool: thread pool that encodes the chunks.
        progress: function called with the decoded bytes that were written, after each chunk.

    Raises:
        FormatError: an attribute has no JSON form, or a value does not fit the options, or is
            not finite and that is refused.
    """
    stored, record = plan_arrays(sample, options)
    attributes = json_attributes(sample.attributes, f"sample {sample.key!r}: attributes")
    if record:
        attributes[_RECORD_KEY] = record
    metas = [_meta(array, options) for array in stored]
    archive = ZipWriter(stream)
    archive.add("zarr.json", group_document(attributes))
    for folder in _folders(sample.arrays):
        archive.add(f"{folder}/zarr.json", group_document({}))
    for array, meta in zip(stored, metas, strict=True):
        archive.add(f"{array.name}/zarr.json", array_document(meta))
    entries: list[ArrayEntry] = []
    written = _Written(progress)
    for array, meta in zip(stored, metas, strict=True):
        with closing(_encode(array, meta, pool, options)) as chunks:
            entries.append(_write_shard(archive, array, meta, written.counted(chunks, meta)))
        nonfinite = nonfinite_of(entries[-1], sample.key) if options.fail_on_nan else None
        if nonfinite is not None:
            raise FormatError(f"{array.where}: array {array.name!r} has {nonfinite.counts()}")
    source_bytes = sum(array.values.nbytes for array in sample.arrays.values())
    return Archive(attributes, tuple(entries), archive.finish(), source_bytes)


def _meta(array: StoredArray, options: WriteOptions) -> ArrayMeta:
    source = array.source
    shape = array.values.shape
    where = f"{array.where}: attributes of {array.name!r}"
    return ArrayMeta(
        dtype=array.dtype,
        shape=shape,
        chunk_shape=inner_chunk_shape(
            shape, array.dtype.itemsize, options.chunk_bytes, source.dimension_names
        ),
        codecs=inner_codecs(array.dtype, options.codec, options.effective_level),
        fill_value=array.dtype.type(0).item(),
        dimension_names=source.dimension_names,
        units=source.units,
        attributes=json_attributes(source.attributes, where),
    )


def _folders(names: Mapping[str, object]) -> list[str]:
    """List the groups that hold the arrays, outer ones first."""
    folders: dict[str, None] = {}
    for name in names:
        parts = name.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            folders["/".join(parts[:depth])] = None
    return list(folders)


_Chunks: TypeAlias = Generator[tuple[bytes | None, ArrayStats], None, None]


class _Written:
    """A counter of the decoded bytes of chunks as they are taken."""

    def __init__(self, progress: Callable[[int], None] | None) -> None:
        self._progress = progress
        self._before_bytes = 0

    def counted(self, chunks: _Chunks, meta: ArrayMeta) -> _Chunks:
        """Pass the chunks of an array on."""
        if self._progress is None:
            yield from chunks
            return
        count = max(1, math.prod(meta.grid_shape))
        for number, chunk in enumerate(chunks, 1):
            yield chunk
            self._progress(self._before_bytes + meta.nbytes * number // count)
        self._before_bytes += meta.nbytes


def _write_shard(
    archive: ZipWriter, array: StoredArray, meta: ArrayMeta, chunks: _Chunks
) -> ArrayEntry:
    """Write the chunks of one array, then their index."""
    count = math.prod(meta.grid_shape)
    if count == 0:
        empty = np.empty(0, np.uint64)
        return ArrayEntry(array.name, meta, "", 0, 0, empty, empty, None, Measured(0))
    chunk_bytes = math.prod(meta.chunk_shape) * meta.dtype.itemsize
    # Blosc and CRC add at most 20 bytes and a block table to a chunk that does not compress; twice
    # the size is beyond any codec here.
    bound = count * 2 * (chunk_bytes + PAGE_BYTES) + shard_index_bytes(count)
    offsets = np.full(count, MISSING_CHUNK)
    nbytes = np.full(count, MISSING_CHUNK)
    stats = ArrayStats()
    alignment = PAGE_BYTES if chunk_bytes >= ALIGN_FROM_BYTES else 1
    name = chunk_key(array.name, len(meta.shape))
    with archive.entry(name, alignment=alignment, max_size_bytes=bound) as entry:
        for i, (encoded, part) in enumerate(chunks):
            stats = stats.combine(part)
            if encoded is None:
                continue
            if len(encoded) >= ALIGN_FROM_BYTES:
                entry.align(PAGE_BYTES)
            offsets[i] = entry.size
            nbytes[i] = len(encoded)
            entry.write(encoded)
        entry.write(pack_shard_index(offsets, nbytes))
    offsets[offsets != MISSING_CHUNK] += np.uint64(entry.start)
    stop = entry.start + entry.size
    measured = Measured(
        stats.whole.nan_count + stats.whole.infinite_count,
        tuple(filter(None, (part.finish() for part in stats.components))),
        array.round_bits,
        stats.max_error if array.is_lossy else None,
    )
    return ArrayEntry(
        array.name, meta, "", entry.start, stop, offsets, nbytes, stats.whole.finish(), measured
    )


def _encode(array: StoredArray, meta: ArrayMeta, pool: Executor, options: WriteOptions) -> _Chunks:
    """Yield the encoded chunks in C order, with a bounded number of them under way."""
    pipeline = _pipeline(meta.dtype, options.codec, options.effective_level)
    if math.prod(meta.grid_shape) == 1:  # a hand-over to a thread would cost more than it saves
        yield _encode_one(array, meta, pipeline, (0,) * len(meta.shape))
        return
    window = options.effective_workers * _CHUNKS_IN_FLIGHT
    pending: deque[Future[tuple[bytes | None, ArrayStats]]] = deque()
    try:
        for index in itertools.product(*map(range, meta.grid_shape)):
            if len(pending) >= window:
                yield pending.popleft().result()
            pending.append(pool.submit(_encode_one, array, meta, pipeline, index))
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


@functools.lru_cache(maxsize=64)
def _pipeline(dtype: np.dtype[Any], codec: CodecName, level: int) -> Pipeline:
    return parse_pipeline(inner_codecs(dtype, codec, level), dtype)


def _encode_one(
    array: StoredArray, meta: ArrayMeta, pipeline: Pipeline, index: tuple[int, ...]
) -> tuple[bytes | None, ArrayStats]:
    box = [
        slice(i * c, min(n, (i + 1) * c))
        for i, c, n in zip(index, meta.chunk_shape, meta.shape, strict=True)
    ]
    values, max_error = array.read_chunk(box)
    stats = array_stats(values, _components(meta), max_error)
    if _all_zero_bytes(values):
        return None, stats
    if values.shape != meta.chunk_shape:
        padded = np.zeros(meta.chunk_shape, meta.dtype)
        padded[tuple(slice(0, n) for n in values.shape)] = values
        values = padded
    return encode_chunk(values, pipeline), stats


def _components(meta: ArrayMeta) -> int:
    """Return the number of components with statistics of their own; point numbers have none."""
    if meta.dtype.kind != "f" or not meta.shape or meta.chunk_shape[-1] != meta.shape[-1]:
        return 0
    return component_count(meta.shape, meta.dimension_names)


def _all_zero_bytes(values: npt.NDArray[Any]) -> bool:
    """Whether every byte is zero; -0.0 has a bit set and is not lost."""
    raw = values.reshape(-1).view(np.uint8)
    # The first page settles it for nearly every chunk.
    return not raw[:PAGE_BYTES].any() and not raw.any()
