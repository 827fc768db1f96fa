"""The datasets that behaviours of torch's loader are tried over, and what is read of batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import (
    Subset,
)

import dataplane as dp
from tests.datasets.packed import SAMPLES, Packed

NAMES = ("global_data/mach",)
KEYS = [f"case-{number:03d}" for number in range(SAMPLES)]

Code = Callable[[dict[str, Any]], Any] | None


class Around(torch.utils.data.Dataset[Any]):
    """A class of the user's that reads a packed dataset, and may do something with samples."""

    def __init__(self, inner: dp.Dataset, code: Code = None) -> None:
        self.inner = inner
        self.code = code

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, i: int) -> Any:
        sample = self.inner[i]
        return sample if self.code is None else self.code(sample)


def dataset_of(kind: str, packed: Packed, code: Code = None) -> Any:
    """A dataset of a kind, which runs code of the user's for each sample."""
    if kind == "class":
        return Around(dp.Dataset(packed.url, NAMES, cache=False), code)
    whole = dp.Dataset(packed.url, NAMES, cache=False, transform=code)
    return Subset(whole, range(SAMPLES)) if kind == "subset" else whole


KINDS = pytest.mark.parametrize("kind", ["packed", "subset", "class"])
WORKERS = pytest.mark.parametrize("workers", [0, 2])
CODE = pytest.mark.parametrize("kind", ["packed", "class"])
"""Where the code of the user's is a transform, and where it is the dataset itself."""
IN_WORKERS = pytest.mark.parametrize("mode", ["thread", "process"])


def keys_of(batches: Any) -> list[list[str]]:
    return [list(batch["__key__"]) for batch in batches]


def named(indices: Any) -> list[list[str]]:
    return [[KEYS[i] for i in one] for one in indices]


def key_of(sample: dict[str, Any]) -> str:
    return str(sample["__key__"])


def number_of(key: str) -> int:
    return int(key[-3:])


def assert_alike(one: Any, other: Any) -> None:
    """Two values are of the same types throughout, and equal."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for name in one:
            assert_alike(one[name], other[name])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_alike(a, b)
    else:
        assert one == other


def keys_collated(samples: list[dict[str, Any]]) -> list[str]:
    return [sample["__key__"] for sample in samples]


class Twos:
    """A batch sampler of the user's own, which counts how often it was begun."""

    def __init__(self, kind: Callable[[list[int]], Any]) -> None:
        self.kind = kind
        self.begun = 0

    def __iter__(self) -> Iterator[Any]:
        self.begun += 1
        for first in (8, 0, 4):
            yield self.kind([first, first + 1])

    def __len__(self) -> int:
        return 3
