"""Decoding of the bytes of several samples to NumPy arrays, in one native call.

`decode_samples` fills arrays that the caller made, in a batch or one by one; `separate_arrays`
makes them, in memory of the pool of `buffers.py`. Nothing here needs torch. Functions without
state; safe from any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from dataplane.buffers import shared_pool
from dataplane.codecs import ChunkTable, Codec, EncodedBuffer, decode, join_rows
from dataplane.datasets.forms import Part, SamplesPlan
from dataplane.datasets.layout import WEIGHT_SUFFIX, ArrayLayout
from dataplane.datasets.plan import Planner, SamplePlan

__all__ = [
    "KEY",
    "NOTHING",
    "SOURCE",
    "TILE",
    "ArraySample",
    "FetchedSample",
    "FetchedTogether",
    "Keys",
    "decode_samples",
    "decoded_bytes",
    "describe_chunk",
    "join_samples",
    "packed_bytes",
    "sample_numbers",
    "separate_arrays",
    "weight_of",
]

KEY = "__key__"
"""Name under which a sample or batch holds its key or keys."""

TILE = "__tile__"
"""Name under which one of a tiled dataset holds the number of its tile, or numbers: int64[B]."""
SOURCE = "__source__"
"""Name under which a sample or batch of a mix holds the name of its source, or names."""


class Keys(list[str]):
    """The keys of a batch: a list of texts that moves along where a batch's tensors are moved.

    `{name: value.to(device) for name, value in batch.items()}` is the usual way to move a batch;
    keys have no device, so each of these returns the same list.
    """

    def to(self, *args: object, **kwargs: object) -> Keys:
        """Return itself, as a tensor that is there already."""
        del args, kwargs
        return self

    cuda = cpu = pin_memory = contiguous = detach = to

    def __reduce__(self) -> tuple[object, ...]:
        # What `torch.load` can make of a class that it was told is safe.
        return Keys, (list(self),)


_Array: TypeAlias = npt.NDArray[Any]
ArraySample: TypeAlias = "dict[str, npt.NDArray[Any] | str]"

NOTHING: _Array = np.empty(0, np.uint8)
"""Destination of an array that a sample lacks; no row of its plan refers to it."""


@dataclass(frozen=True, slots=True, eq=False)
class FetchedSample:
    """A plan and the bytes that it asked for.

    Attributes:
        plan: plan of the sample.
        sources: memory that holds them: the packed spans, or several pieces, or parts of the
            cache's file, which are leased for the length of a call of the decoder.
        rows: CHUNK_DTYPE[n], the plan's rows; `source` and `source_offset` refer to `sources`.
        waiting: what counts the sample while it is to be decoded in place, or None.
    """

    plan: SamplePlan
    sources: Sequence[EncodedBuffer]
    rows: npt.NDArray[Any]
    waiting: object = None


class FetchedTogether(Sequence[FetchedSample]):
    """Samples that have a form each and were read together, into one piece of memory.

    A sequence of `FetchedSample`, made as they are asked for; decoding a whole batch needs none.

    Args:
        plan: plan of the samples.
        packed: what it asked for, sample after sample.
        planner: planner of the dataset.

    Attributes:
        plan: as given.
        packed: as given.
    """

    def __init__(self, plan: SamplesPlan, packed: npt.NDArray[np.uint8], planner: Planner) -> None:
        self.plan = plan
        self.packed = packed
        self._planner = planner

    @property
    def keys(self) -> list[str]:
        """Keys of the samples."""
        return self._planner.keys(self.plan.samples)

    def __len__(self) -> int:
        return len(self.plan.samples)

    @overload
    def __getitem__(self, i: int) -> FetchedSample: ...
    @overload
    def __getitem__(self, i: slice) -> list[FetchedSample]: ...
    def __getitem__(self, i: int | slice) -> FetchedSample | list[FetchedSample]:
        if isinstance(i, slice):
            return [self[place] for place in range(*i.indices(len(self)))]
        plan = self._planner.plan(int(self.plan.samples[i]))
        place = int(self.plan.places[i])
        return FetchedSample(
            plan, (self.packed[place : place + plan.packed_bytes].data,), plan.rows
        )


def separate_arrays(
    samples: Sequence[FetchedSample], layouts: Sequence[ArrayLayout], *, threads: int = 1
) -> list[ArraySample]:
    """Decode samples into a dict of arrays each, in one call.

    Raises:
        DecodeError: a chunk cannot be decoded; the message names sample, array, chunk, offset.
    """
    samples = list(samples)
    results: list[ArraySample] = []
    places: list[list[_Array]] = []
    for sample in samples:
        result: ArraySample = {}
        place: list[_Array] = []
        for part, layout in zip(sample.plan.parts, layouts, strict=True):
            if part is None:
                place.append(NOTHING)
            else:
                array = shared_pool().array(part.shape, part.dtype)
                result[layout.name] = array
                place.append(array)
            if layout.is_weighted:
                result[layout.name + WEIGHT_SUFFIX] = np.array(weight_of(part))
        places.append(place)
        if sample.plan.tile is not None:
            result[TILE] = np.array(sample.plan.tile)
        result[KEY] = sample.plan.key
        results.append(result)
    decode_samples(samples, places, layouts, threads)
    return results


def weight_of(part: Part | None) -> float:
    """Return how many elements each one of a part stands for: 1 where it is no sample of them."""
    return 1.0 if part is None or part.weight is None else part.weight


def decoded_bytes(samples: Sequence[FetchedSample]) -> int:
    """Return how many bytes of elements the selections of `samples` hold."""
    if isinstance(samples, FetchedTogether):
        return samples.plan.decoded_bytes
    return sum(part.nbytes for sample in samples for part in sample.plan.parts if part is not None)


def packed_bytes(samples: Sequence[FetchedSample]) -> int:
    """Return how many bytes were read for `samples`."""
    if isinstance(samples, FetchedTogether):
        return samples.plan.packed_bytes
    return sum(sample.plan.packed_bytes for sample in samples)


def sample_numbers(samples: Sequence[FetchedSample]) -> list[int]:
    """Return the numbers of samples in their dataset."""
    if isinstance(samples, FetchedTogether):
        numbers: list[int] = samples.plan.samples.tolist()
        return numbers
    return [sample.plan.index for sample in samples]


def decode_samples(
    samples: Sequence[FetchedSample],
    places: Sequence[Sequence[_Array]],
    layouts: Sequence[ArrayLayout],
    threads: int,
) -> None:
    """Decode samples into the arrays of `places`: one per sample and layout.

    Raises:
        DecodeError: as `separate_arrays`.
    """
    if not samples:
        return
    rows, sources, describe = join_samples(samples, layouts)
    decode(
        ChunkTable(rows),
        sources,
        [array for place in places for array in place],
        threads=threads,
        describe=describe,
    )


def join_samples(
    samples: Sequence[FetchedSample], layouts: Sequence[ArrayLayout]
) -> tuple[npt.NDArray[Any], list[EncodedBuffer], Callable[[int], str]]:
    """Join the chunks of samples for one call: destinations are counted sample by sample.

    Returns:
        CHUNK_DTYPE[n]; the sources that its rows count; a text for each row in error messages.
    """
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
        return describe_chunk(plan, plan.rows[row - sum(counts[:number])], layouts)

    return rows, [source for sample in samples for source in sample.sources], describe


def describe_chunk(plan: SamplePlan, row: Any, layouts: Sequence[ArrayLayout]) -> str:
    """Say which chunk a row of a plan is: sample, array, chunk, place in the shard."""
    entry = plan.entry
    layout = layouts[int(row["destination"])]
    array = entry.arrays[layout.name]
    if row["codec"] == Codec.FILL:
        return f"sample {entry.key!r}, array {array.name!r}, elements that are not stored"
    offset = plan.shard_offset(int(row["source_offset"]))
    place = np.unravel_index(int(row["chunk"]), array.meta.grid_shape or (1,))
    chunk = "/".join(str(int(coordinate)) for coordinate in place)
    return f"sample {entry.key!r}, array {array.name!r}, chunk {chunk}, {entry.shard} byte {offset}"
