"""Batches: the bytes of several samples decoded to tensors, in one native call.

Every sample is decoded into its own place of the batch: there is no tensor per sample and no copy
to put them together. `assemble` builds a batch (see `layout.py` for its structure), `separate`
builds one dict per sample for callers that transform or collate samples themselves. `lay_out` only
makes the tensors and says which chunk goes where, for who decodes elsewhere.

Memory comes from the pool of `buffers.py`, or, when it must be pinned, from torch's caching host
allocator, or from wherever the caller of `lay_out` says. Functions without state; safe from any
thread.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from dataplane.buffers import shared_pool
from dataplane.codecs import ChunkTable, EncodedBuffer, decode
from dataplane.codecs.table import MAX_DIMS
from dataplane.datasets.forms import Part
from dataplane.datasets.layout import (
    OFFSETS_SUFFIX,
    WEIGHT_SUFFIX,
    Arrangement,
    ArrayLayout,
)
from dataplane.datasets.samples import (
    KEY,
    NOTHING,
    TILE,
    ArraySample,
    FetchedSample,
    FetchedTogether,
    Keys,
    describe_chunk,
    join_samples,
    separate_arrays,
    weight_of,
)
from dataplane.errors import ConfigError, FormatError

__all__ = [
    "Allocate",
    "Batch",
    "LaidOut",
    "Sample",
    "assemble",
    "lay_out",
    "separate",
    "tensors_of",
]

Sample: TypeAlias = "dict[str, torch.Tensor | str]"
Batch: TypeAlias = "dict[str, torch.Tensor | list[torch.Tensor | None] | list[str]]"
Allocate: TypeAlias = "Callable[[tuple[int, ...], np.dtype[Any]], tuple[torch.Tensor, Any]]"
_Array: TypeAlias = npt.NDArray[Any]

torch.serialization.add_safe_globals([Keys])  # a batch that was saved can be loaded again


@dataclass(frozen=True, slots=True, eq=False)
class LaidOut:
    """A batch whose elements are still to be decoded.

    Attributes:
        batch: its tensors, with arbitrary content but for offsets and keys.
        rows: CHUNK_DTYPE[n], the chunks of it.
        sources: memory that the rows take encoded bytes from.
        destinations: memory that they go to: what `allocate` returned, or a part of it; an array
            without elements where a sample has none.
        describe: text for a row in error messages.
    """

    batch: Batch
    rows: _Array
    sources: Sequence[EncodedBuffer]
    destinations: list[Any]
    describe: Callable[[int], str]


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
    laid = lay_out(samples, layouts, _pinned if pin else _pooled)
    decode(
        ChunkTable(laid.rows),
        laid.sources,
        laid.destinations,
        threads=threads,
        describe=laid.describe,
    )
    return laid.batch


def lay_out(
    samples: Sequence[FetchedSample], layouts: Sequence[ArrayLayout], allocate: Allocate
) -> LaidOut:
    """Make the tensors of a batch, and say which chunk goes where.

    Args:
        samples: samples of the batch.
        layouts: layouts of their arrays.
        allocate: function from a shape and an element type to a tensor, and what stands for its
            memory as a destination, which can be sliced: an array, or the tensor itself.
    """
    if isinstance(samples, FetchedTogether):
        return _lay_out_together(samples, layouts, allocate)
    batch: Batch = {}
    # One destination per (sample, array), sample by sample, as the rows of the plans count them.
    places: list[list[Any]] = [[] for _ in samples]
    for number, layout in enumerate(layouts):
        parts = [sample.plan.parts[number] for sample in samples]
        destinations: list[Any]
        _check_extents(parts, layout, lambda number: samples[number].plan.key)
        if layout.dtype is None:
            batch[layout.name], destinations = _allocate_each(parts, allocate)
        elif layout.arrangement is Arrangement.STACKED:
            tensor, array = allocate((len(samples), *layout.shape), layout.dtype)
            batch[layout.name] = tensor
            destinations = [array[slot, ...] for slot in range(len(samples))]
        else:
            offsets = np.zeros(len(samples) + 1, np.int64)
            np.cumsum(_first_extents(parts), out=offsets[1:])
            tensor, array = allocate((int(offsets[-1]), *layout.shape), layout.dtype)
            batch[layout.name] = tensor
            batch[layout.name + OFFSETS_SUFFIX] = torch.from_numpy(offsets)
            destinations = [array[start:stop] for start, stop in itertools.pairwise(offsets)]
        for place, destination in zip(places, destinations, strict=True):
            place.append(destination)
        if layout.is_weighted:
            weights = [weight_of(part) for part in parts]
            batch[layout.name + WEIGHT_SUFFIX] = torch.tensor(weights, dtype=torch.float64)
    rows, sources, describe = join_samples(samples, layouts)
    tiles = [sample.plan.tile for sample in samples]
    if any(tile is not None for tile in tiles):  # beside samples of others, which have one tile
        batch[TILE] = torch.tensor([tile or 0 for tile in tiles])
    batch[KEY] = Keys(sample.plan.key for sample in samples)
    return LaidOut(batch, rows, sources, [array for place in places for array in place], describe)


def _lay_out_together(
    samples: FetchedTogether, layouts: Sequence[ArrayLayout], allocate: Allocate
) -> LaidOut:
    """Lay out samples that were read together: one destination per array, not one per sample."""
    plan, count = samples.plan, len(samples)
    # What is stacked takes one more dimension than a sample has: its place in the batch.
    is_stacked = tuple(
        layout.arrangement is Arrangement.STACKED and len(layout.shape) < MAX_DIMS
        for layout in layouts
    )
    rows, slots = plan.rows([form.rows_in_batch(is_stacked) for form in plan.forms])
    batch: Batch = {}
    destinations: list[Any] = []
    # Of arrays that are not stacked: the destination, or that of the first sample; whether each
    # sample has its own; where samples begin.
    others: list[tuple[int, int, bool, _Array | int]] = []
    for number, layout in enumerate(layouts):
        of_forms = [form.parts[number] for form in plan.forms]
        _check_extents(of_forms, layout, lambda form: _key_of(samples, form))
        if layout.is_weighted:
            weights = np.array([weight_of(form.parts[number]) for form in plan.forms])
            of_samples = weights[np.zeros(count, int) if plan.form is None else plan.form]
            batch[layout.name + WEIGHT_SUFFIX] = torch.from_numpy(of_samples)
        if layout.arrangement is Arrangement.STACKED:
            assert layout.dtype is not None
            batch[layout.name], array = allocate((count, *layout.shape), layout.dtype)
            if is_stacked[number]:
                others.append((number, len(destinations), False, np.arange(count)))
                destinations.append(array)
            else:
                others.append((number, len(destinations), True, 0))
                destinations += [array[slot, ...] for slot in range(count)]
            continue
        parts = [form.parts[number] for form in plan.forms]
        if layout.dtype is None:
            of_samples = [parts[form] for form in plan.of_form(range(len(parts))).tolist()]
            batch[layout.name], arrays = _allocate_each(of_samples, allocate)
            others.append((number, len(destinations), True, 0))
            destinations += arrays
            continue
        offsets = np.zeros(count + 1, np.int64)
        np.cumsum(plan.of_form(_first_extents(parts)), out=offsets[1:])
        shape = (int(offsets[-1]), *layout.shape)
        batch[layout.name], array = allocate(shape, layout.dtype)
        batch[layout.name + OFFSETS_SUFFIX] = torch.from_numpy(offsets)
        others.append((number, len(destinations), False, offsets[:-1]))
        destinations.append(array)
    if all(is_stacked):
        rows["destination_start"][:, 0] = slots
    else:
        of_array = rows["destination"].copy()
        for number, first, is_apart, starts in others:
            which = np.flatnonzero(of_array == number)
            of_rows = slots[which]
            rows["destination"][which] = first + of_rows if is_apart else first
            if not isinstance(starts, int):
                rows["destination_start"][which, 0] += starts[of_rows].astype(np.uint64)

    def describe(row: int) -> str:
        if row >= len(rows):
            return "decoding a batch"
        slot = int(slots[row])
        of_sample = samples[slot].plan
        first = int(np.searchsorted(slots, slot))
        return describe_chunk(of_sample, of_sample.rows[row - first], layouts)

    batch[KEY] = Keys(samples.keys)
    return LaidOut(batch, rows, [samples.packed.data], destinations, describe)


def separate(
    samples: Sequence[FetchedSample], layouts: Sequence[ArrayLayout], *, threads: int = 1
) -> list[Sample]:
    """Decode samples into a dict of tensors each, in one call.

    Raises:
        DecodeError: as `assemble`.
    """
    return [tensors_of(sample) for sample in separate_arrays(samples, layouts, threads=threads)]


def tensors_of(sample: ArraySample) -> Sample:
    """Return a sample with tensors over the memory of its arrays."""
    return {
        name: value if isinstance(value, str) else torch.from_numpy(value)
        for name, value in sample.items()
    }


def _check_extents(
    parts: Sequence[Part | None], layout: ArrayLayout, key: Callable[[int], str]
) -> None:
    """Refuse a part that has other extents than all parts of its array are to have.

    Args:
        parts: parts of one array.
        layout: its layout.
        key: function from the number of a part to the key of its sample, or of one of them.

    Raises:
        ConfigError: there is one: a selection of the user's has extents that depend on its draw.
        FormatError: a sample lacks the array, and the index says that all have it.
    """
    if layout.arrangement is Arrangement.LISTED:
        return
    is_stacked = layout.arrangement is Arrangement.STACKED
    for number, part in enumerate(parts):
        if part is None:
            if not is_stacked:
                continue
            raise FormatError(
                f"sample {key(number)!r} has no array {layout.name!r}, and the index says that all "
                "samples have it",
                hint="pack the dataset again",
            )
        if (part.shape if is_stacked else part.shape[1:]) != layout.shape:
            raise ConfigError(
                f"the selection of array {layout.name!r} gives {list(part.shape)} elements of "
                f"sample {key(number)!r}, and {list(layout.shape)} of the others",
                hint="the extents of a region must not depend on its draw, or on its tile",
            )


def _key_of(samples: FetchedTogether, form: int) -> str:
    """Return the key of a sample that has a form."""
    forms = samples.plan.form
    place = 0 if forms is None else int(np.flatnonzero(forms == form)[0])
    return samples.keys[place]


def _first_extents(parts: Sequence[Part | None]) -> list[int]:
    """Return how many rows of a ragged array each sample has; none of one that it lacks."""
    return [0 if part is None else part.shape[0] for part in parts]


def _allocate_each(
    parts: Sequence[Part | None], allocate: Allocate
) -> tuple[list[torch.Tensor | None], list[Any]]:
    """Return a tensor for each part, or None, and what stands for their memory."""
    pairs = [None if part is None else allocate(part.shape, part.dtype) for part in parts]
    return (
        [None if pair is None else pair[0] for pair in pairs],
        [NOTHING if pair is None else pair[1] for pair in pairs],
    )


def _pinned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[torch.Tensor, _Array]:
    """Return a tensor in pinned memory and an array over it."""
    kind = torch.from_numpy(np.empty(0, dtype)).dtype
    tensor = torch.empty(shape, dtype=kind, pin_memory=True)
    return tensor, tensor.numpy()


def _pooled(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[torch.Tensor, _Array]:
    """Return a tensor in memory of the pool and an array over it."""
    array = shared_pool().array(shape, dtype)
    return torch.from_numpy(array), array
