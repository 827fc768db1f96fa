"""What a batch is, whatever code returns, is what torch's loader makes of it.

Where the two can be compared, torch's own loader runs beside ours over the same dataset. What holds
for any dataset is tried over a packed one, a `Subset` of it and a class of the user's around it,
which the engine reads in three ways.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import (
    IterableDataset,
    default_collate,
)

import dataplane as dp
from tests.datasets.packed import SAMPLES, Packed
from tests.loader.torch_parity.kinds import (
    CODE,
    KEYS,
    KINDS,
    WORKERS,
    assert_alike,
    dataset_of,
    key_of,
    keys_of,
    number_of,
)

# What batches are.


class Point(NamedTuple):
    x: Any
    y: Any


class Labelled(OrderedDict[str, Any]):
    """A mapping of the user's own."""


def _results(sample: dict[str, Any]) -> dict[str, Any]:
    number = number_of(sample["__key__"])
    value = sample["global_data/mach"]
    return {
        "tensor": value,
        "array": value.numpy(),
        "scalar": np.float32(number),
        "int": number,
        "bool": number % 2 == 0,
        "float": number / 2,
        "complex": np.complex64(number),
        "text": str(number),
        "bytes": bytes([number]),
        "list": [value, number],
        "tuple": (value, str(number)),
        "named": Point(number, value),
        "dict": {"a": value, "b": {"c": number, "d": (number,)}},
        "ordered": OrderedDict(a=value),
        "labelled": Labelled(a=number),
        "empty": [],
        "matrix": np.full((2, 3), number),
    }


@CODE
@WORKERS
@pytest.mark.parametrize(
    "name", list(_results({"__key__": "case-000", "global_data/mach": torch.zeros(())}))
)
def test_what_code_returns_is_collated_as_torch_collates_it(
    packed: Packed, kind: str, workers: int, name: str
) -> None:
    def code(sample: dict[str, Any]) -> Any:
        return _results(sample)[name]

    dataset = dataset_of(kind, packed, code)
    theirs = TorchLoader(dataset, 4, collate_fn=default_collate)
    for one, other in zip(dp.DataLoader(dataset, 4, num_workers=workers), theirs, strict=True):
        assert_alike(one, other)


@CODE
@WORKERS
def test_results_within_a_dict_are_collated_as_torch_collates_them(
    packed: Packed, kind: str, workers: int
) -> None:
    dataset = dataset_of(kind, packed, _results)
    theirs = TorchLoader(dataset, 4, collate_fn=default_collate)
    for one, other in zip(dp.DataLoader(dataset, 4, num_workers=workers), theirs, strict=True):
        assert_alike(one, other)


@CODE
@WORKERS
@pytest.mark.parametrize("value", [None, object(), {1, 2}], ids=["none", "object", "set"])
def test_what_cannot_be_collated_is_a_type_error(
    packed: Packed, kind: str, workers: int, value: Any
) -> None:
    dataset = dataset_of(kind, packed, lambda sample: value)
    with pytest.raises(TypeError):
        next(iter(dp.DataLoader(dataset, 2, num_workers=workers)))


@CODE
@WORKERS
def test_tensors_of_unequal_shapes_are_a_runtime_error(
    packed: Packed, kind: str, workers: int
) -> None:
    dataset = dataset_of(kind, packed, lambda sample: torch.zeros(number_of(key_of(sample))))
    with pytest.raises(RuntimeError):
        next(iter(dp.DataLoader(dataset, 2, num_workers=workers)))


@KINDS
@WORKERS
@pytest.mark.parametrize("result", [None, 0, "", [], (), {}, False, "text", Point(1, 2)], ids=repr)
def test_collate_fn_may_return_anything_and_it_comes_as_it_is(
    dataset: Any, workers: int, result: Any
) -> None:
    loader = dp.DataLoader(dataset, 4, collate_fn=lambda samples: result, num_workers=workers)
    found = list(loader)
    assert found == [result] * 3
    assert type(found[0]) is type(result)


@CODE
@WORKERS
def test_samples_may_be_anything_where_collate_fn_takes_them(
    packed: Packed, kind: str, workers: int
) -> None:
    dataset = dataset_of(kind, packed, lambda sample: None)
    loader = dp.DataLoader(dataset, 4, collate_fn=list, num_workers=workers)
    assert list(loader) == [[None] * 4, [None] * 4, [None] * 3]
    loader = dp.DataLoader(dataset, batch_size=None, num_workers=workers)
    assert list(loader) == [None] * SAMPLES


@KINDS
@WORKERS
def test_the_default_collate_fn_of_torch_may_be_asked_for(dataset: Any, workers: int) -> None:
    loader = dp.DataLoader(dataset, 4, collate_fn=default_collate, num_workers=workers)
    theirs = TorchLoader(dataset, 4, collate_fn=default_collate)
    for one, other in zip(loader, theirs, strict=True):
        assert set(one) == set(other)
        assert torch.equal(one["global_data/mach"], other["global_data/mach"])
        assert list(one["__key__"]) == list(other["__key__"])


@KINDS
@WORKERS
def test_a_batch_is_the_loop_s_own_and_later_ones_do_not_change_it(
    dataset: Any, workers: int
) -> None:
    batches = iter(dp.DataLoader(dataset, 2, num_workers=workers))
    first = next(batches)
    expected = first["global_data/mach"].clone()
    rest = list(batches)
    rest[0]["global_data/mach"].fill_(-1)
    assert torch.equal(first["global_data/mach"], expected)
    first["global_data/mach"].fill_(-2)
    assert rest[1]["global_data/mach"].min() > 0


def test_samples_of_processes_are_tensors_that_may_be_written_and_kept(plain: dp.Dataset) -> None:
    plain.transform = lambda sample: sample["global_data/mach"].repeat(50_000)
    loader = dp.DataLoader(plain, 2, num_workers=2, transform_mode="process")
    kept = list(loader)
    for number, batch in enumerate(kept):
        assert batch[0, 0].item() == pytest.approx(0.2 * number)
        batch.add_(1)
    for number, batch in enumerate(kept):
        assert batch[0, -1].item() == pytest.approx(0.2 * number + 1)


@KINDS
def test_pinning_without_an_accelerator_warns_and_gives_the_batches(dataset: Any) -> None:
    if torch.accelerator.is_available():
        pytest.skip("this machine has an accelerator")
    loader = dp.DataLoader(dataset, 4, pin_memory=True, num_workers=2)
    with pytest.warns(UserWarning, match="no accelerator"):
        batches = list(loader)
    assert keys_of(batches) == keys_of(dp.DataLoader(dataset, 4))
    assert not batches[0]["global_data/mach"].is_pinned()


# Datasets that are not read by number.


class Stream(IterableDataset[Any]):
    def __init__(self, inner: dp.Dataset) -> None:
        self.inner = inner

    def __iter__(self) -> Iterator[Any]:
        return (key_of(self.inner[i]) for i in range(len(self.inner)))


@pytest.mark.parametrize("given", [{"shuffle": True}, {"sampler": [1]}, {"batch_sampler": [[1]]}])
def test_an_iterable_dataset_around_a_packed_one_takes_no_order(
    plain: dp.Dataset, given: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="IterableDataset"):
        dp.DataLoader(Stream(plain), **given)
    assert [key for batch in dp.DataLoader(Stream(plain), 3) for key in batch] == KEYS
