"""Batches: the bytes of several samples decoded to tensors, in one native call.

Every sample is decoded into its own place of the batch: there is no tensor per sample and no copy
to put them together. `assemble` builds a batch (see `layout.py` for its structure), `separate`
builds one dict per sample for callers that transform or collate samples themselves.

Memory comes from the pool of `buffers.py`, or, when it must be pinned, from torch's caching host
allocator. Functions without state; safe from any thread.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from dataplane.buffers import shared_pool
from dataplane.datasets.layout import OFFSETS_SUFFIX, Arrangement, ArrayLayout
from dataplane.datasets.samples import (
    KEY,
    NOTHING,
    ArraySample,
    FetchedSample,
    Keys,
    decode_samples,
    separate_arrays,
)

__all__ = ["Batch", "Sample", "assemble", "separate", "tensors_of"]

Sample: TypeAlias = "dict[str, torch.Tensor | str]"
Batch: TypeAlias = "dict[str, torch.Tensor | list[torch.Tensor | None] | list[str]]"
_Array: TypeAlias = npt.NDArray[Any]


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
            destinations = [NOTHING if pair is None else pair[1] for pair in pairs]
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
    decode_samples(samples, places, layouts, threads)
    batch[KEY] = Keys(sample.plan.entry.key for sample in samples)
    return batch


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
