"""From the bytes of several samples to tensors, in one native decode call.

Every sample is decoded into its own place of the batch: there is no tensor per sample and no copy
to put them together. `assemble` builds a batch (see `layout.py` for its structure), `separate`
builds one dict per sample for those who transform or collate samples themselves.

Memory comes from the pool of `buffers.py`, or, when it must be pinned, from torch's caching host
allocator. Functions without state; safe from any thread.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from dataplane.buffers import shared_pool
from dataplane.codecs import ChunkTable, decode, join_rows
from dataplane.datasets.layout import OFFSETS_SUFFIX, Arrangement, ArrayLayout
from dataplane.datasets.plan import SamplePlan
from dataplane.stores.base import Buffer

__all__ = ["KEY", "Batch", "FetchedSample", "Sample", "assemble", "decoded_bytes", "separate"]

KEY = "__key__"
"""Name under which a sample or batch holds its key or keys."""

Sample: TypeAlias = "dict[str, torch.Tensor | str]"
Batch: TypeAlias = "dict[str, torch.Tensor | list[torch.Tensor | None] | list[str]]"
_Array: TypeAlias = npt.NDArray[Any]

_NOTHING: _Array = np.empty(0, np.uint8)
"""Destination of an array that a sample lacks; no row of its plan refers to it."""


@dataclass(frozen=True, slots=True, eq=False)
class FetchedSample:
    """A plan and the bytes that it asked for.

    Attributes:
        plan: of the sample.
        sources: the memory that holds them: the packed spans, or several pieces.
        rows: CHUNK_DTYPE[n], the plan's rows; `source` and `source_offset` refer to `sources`.
    """

    plan: SamplePlan
    sources: Sequence[Buffer]
    rows: npt.NDArray[Any]


def assemble(
    samples: Sequence[FetchedSample],
    layouts: Sequence[ArrayLayout],
    *,
    threads: int = 1,
    pin: bool = False,
) -> Batch:
    """Decode samples straight into one batch.

    Raises:
        DecodeError: a chunk cannot be decoded; the message names sample, array, chunk, offset.
    """
    batch: Batch = {}
    # One destination per (sample, array), sample by sample, as the rows of the plans count them.
    places: list[list[_Array]] = [[] for _ in samples]
    for number, layout in enumerate(layouts):
        parts = [sample.plan.parts[number] for sample in samples]
        if layout.dtype is None:
            pairs = [
                None if part is None else _allocate(part.shape, part.dtype, pin=pin)
                for part in parts
            ]
            batch[layout.name] = [None if pair is None else pair[0] for pair in pairs]
            destinations = [_NOTHING if pair is None else pair[1] for pair in pairs]
        elif layout.arrangement is Arrangement.STACKED:
            tensor, array = _allocate((len(samples), *layout.shape), layout.dtype, pin=pin)
            batch[layout.name] = tensor
            destinations = [array[slot, ...] for slot in range(len(samples))]
        else:
            offsets = np.zeros(len(samples) + 1, np.int64)
            np.cumsum([0 if part is None else part.shape[0] for part in parts], out=offsets[1:])
            tensor, array = _allocate((int(offsets[-1]), *layout.shape), layout.dtype, pin=pin)
            batch[layout.name] = tensor
            batch[layout.name + OFFSETS_SUFFIX] = torch.from_numpy(offsets)
            destinations = [array[start:stop] for start, stop in itertools.pairwise(offsets)]
        for place, destination in zip(places, destinations, strict=True):
            place.append(destination)
    _decode(samples, places, layouts, threads)
    batch[KEY] = [sample.plan.entry.key for sample in samples]
    return batch


def separate(
    samples: Sequence[FetchedSample], layouts: Sequence[ArrayLayout], *, threads: int = 1
) -> list[Sample]:
    """Decode samples into a dict each, in one call.

    Raises:
        DecodeError: as `assemble`.
    """
    results: list[Sample] = []
    places: list[list[_Array]] = []
    for sample in samples:
        result: Sample = {}
        place: list[_Array] = []
        for part, layout in zip(sample.plan.parts, layouts, strict=True):
            if part is None:
                place.append(_NOTHING)
            else:
                result[layout.name], array = _allocate(part.shape, part.dtype, pin=False)
                place.append(array)
        places.append(place)
        result[KEY] = sample.plan.entry.key
        results.append(result)
    _decode(samples, places, layouts, threads)
    return results


def decoded_bytes(samples: Sequence[FetchedSample]) -> int:
    """Return how many bytes of elements the selections of `samples` hold."""
    return sum(part.nbytes for sample in samples for part in sample.plan.parts if part is not None)


def _decode(
    samples: Sequence[FetchedSample],
    places: Sequence[Sequence[_Array]],
    layouts: Sequence[ArrayLayout],
    threads: int,
) -> None:
    if not samples:
        return
    counts = [len(sample.rows) for sample in samples]
    rows = join_rows([sample.rows for sample in samples])
    sample_of = np.repeat(np.arange(len(samples), dtype=np.uint32), counts)
    source_counts = np.array([len(sample.sources) for sample in samples], np.uint32)
    rows["source"] += (np.cumsum(source_counts, dtype=np.uint32) - source_counts)[sample_of]
    rows["destination"] += sample_of * np.uint32(len(layouts))

    def describe(row: int) -> str:
        if row >= len(rows):
            return "decoding a batch"
        number = int(sample_of[row])
        plan = samples[number].plan
        return _describe(plan, plan.rows[row - sum(counts[:number])], layouts)

    decode(
        ChunkTable(rows),
        [source for sample in samples for source in sample.sources],
        [array for place in places for array in place],
        threads=threads,
        describe=describe,
    )


def _describe(plan: SamplePlan, row: Any, layouts: Sequence[ArrayLayout]) -> str:
    """Say which chunk a row of a plan is: sample, array, chunk, place in the shard."""
    entry = plan.entry
    layout = layouts[int(row["destination"])]
    array = entry.arrays[layout.name]
    offset = plan.shard_offset(int(row["source_offset"]))
    place = np.unravel_index(int(row["chunk"]), array.meta.grid_shape or (1,))
    chunk = "/".join(str(int(coordinate)) for coordinate in place)
    return f"sample {entry.key!r}, array {array.name!r}, chunk {chunk}, {entry.shard} byte {offset}"


def _allocate(
    shape: tuple[int, ...], dtype: np.dtype[Any], *, pin: bool
) -> tuple[torch.Tensor, _Array]:
    """Return a tensor and an array over the same memory."""
    if pin:
        kind = torch.from_numpy(np.empty(0, dtype)).dtype
        tensor = torch.empty(shape, dtype=kind, pin_memory=True)
        return tensor, tensor.numpy()
    array = shared_pool().array(shape, dtype)
    return torch.from_numpy(array), array
