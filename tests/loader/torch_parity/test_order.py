"""Lengths, batches and samplers are what torch's loader has.

Where the two can be compared, torch's own loader runs beside ours over the same dataset. What holds
for any dataset is tried over a packed one, a `Subset` of it and a class of the user's around it,
which the engine reads in three ways.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import (
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

import dataplane as dp
from tests.datasets.packed import SAMPLES, Packed
from tests.loader.torch_parity.kinds import (
    KEYS,
    KINDS,
    WORKERS,
    Around,
    Twos,
    assert_alike,
    dataset_of,
    key_of,
    keys_collated,
    keys_of,
    named,
    number_of,
)

# Lengths and batches.


@KINDS
@WORKERS
@pytest.mark.parametrize("size", [1, 3, SAMPLES, SAMPLES + 1])
def test_the_last_batch_is_what_is_left_and_drop_last_leaves_it_out(
    dataset: Any, workers: int, size: int
) -> None:
    for drop_last in (False, True):
        loader = dp.DataLoader(dataset, size, drop_last=drop_last, num_workers=workers)
        theirs = TorchLoader(dataset, size, drop_last=drop_last, collate_fn=dp.collate)
        found = keys_of(loader)
        assert found == keys_of(theirs)
        assert len(loader) == len(theirs) == len(found)


@KINDS
@WORKERS
def test_without_a_batch_size_samples_come_one_by_one_and_not_collated(
    dataset: Any, workers: int
) -> None:
    loader = dp.DataLoader(dataset, batch_size=None, num_workers=workers)
    assert len(loader) == SAMPLES
    samples = list(loader)
    assert [sample["__key__"] for sample in samples] == KEYS
    assert samples[3]["global_data/mach"].shape == ()


@WORKERS
def test_without_a_batch_size_arrays_become_tensors(packed: Packed, workers: int) -> None:
    def code(sample: dict[str, Any]) -> Any:
        return {"n": np.arange(3), "s": "text", "t": (np.float32(2), 1)}

    for kind in ("packed", "class"):
        dataset = dataset_of(kind, packed, code)
        ours = next(iter(dp.DataLoader(dataset, batch_size=None, num_workers=workers)))
        assert_alike(ours, next(iter(TorchLoader(dataset, batch_size=None))))


@WORKERS
def test_without_a_batch_size_collate_fn_is_called_with_each_sample(
    packed: Packed, workers: int
) -> None:
    for kind in ("packed", "class"):
        loader = dp.DataLoader(
            dataset_of(kind, packed), batch_size=None, collate_fn=key_of, num_workers=workers
        )
        assert list(loader) == KEYS


def test_the_length_is_that_of_the_sampler(plain: dp.Dataset) -> None:
    assert len(dp.DataLoader(plain, 2, sampler=[1, 2, 3])) == 2
    assert len(dp.DataLoader(plain, 2, sampler=[1, 2, 3], drop_last=True)) == 1
    assert len(dp.DataLoader(plain, batch_sampler=[[1], [2, 3], [4]])) == 3
    assert len(dp.DataLoader(plain, batch_size=None, sampler=[4, 4])) == 2


def test_an_iterator_has_the_length_of_its_loader(plain: dp.Dataset) -> None:
    batches = iter(dp.DataLoader(plain, 2))
    assert len(batches) == 6
    next(batches)
    assert len(batches) == 6
    assert iter(batches) is batches


@WORKERS
def test_a_dataset_without_samples_gives_no_batches(plain: dp.Dataset, workers: int) -> None:
    for dataset in (Subset(plain, []), Around(Subset(plain, []))):  # type: ignore[arg-type]
        loader = dp.DataLoader(dataset, 2, num_workers=workers)
        assert len(loader) == 0
        assert list(loader) == []


# Samplers.


def _samplers(dataset: Any, generator: torch.Generator) -> dict[str, Any]:
    weights = [0.1 + (number % 3) for number in range(SAMPLES)]
    return {
        "sequential": SequentialSampler(dataset),
        "random": RandomSampler(dataset, generator=generator),
        "replacement": RandomSampler(dataset, True, 20, generator=generator),
        "more": RandomSampler(dataset, num_samples=25, generator=generator),
        "subset": SubsetRandomSampler([4, 2, 9, 0], generator=generator),
        "weighted": WeightedRandomSampler(weights, 17, generator=generator),
        "distributed": DistributedSampler(dataset, 2, 1, seed=4),
    }


@KINDS
@WORKERS
def test_the_samplers_of_torch_give_the_order_that_they_give_to_torch_s_loader(
    dataset: Any, workers: int
) -> None:
    for name in _samplers(dataset, torch.Generator()):
        found = []
        for loader in (dp.DataLoader, TorchLoader):
            sampler = _samplers(dataset, torch.Generator().manual_seed(8))[name]
            given: dict[str, Any] = {"num_workers": workers} if loader is dp.DataLoader else {}
            made = loader(dataset, 3, sampler=sampler, collate_fn=keys_collated, **given)
            found.append([list(made), list(made), len(made)])
        assert found[0] == found[1], name


@KINDS
@WORKERS
@pytest.mark.parametrize("as_kind", [list, tuple, np.array, torch.tensor])
def test_a_batch_sampler_may_give_lists_tuples_and_arrays(
    dataset: Any, workers: int, as_kind: Any
) -> None:
    loader = dp.DataLoader(dataset, batch_sampler=Twos(as_kind), num_workers=workers)
    assert keys_of(loader) == named([[8, 9], [0, 1], [4, 5]])
    assert (loader.batch_size, loader.drop_last) == (None, False)


@KINDS
@WORKERS
def test_a_sampler_is_begun_once_for_each_pass(dataset: Any, workers: int) -> None:
    sampler = Twos(list)
    loader = dp.DataLoader(dataset, batch_sampler=sampler, num_workers=workers)
    assert sampler.begun == 0
    for count in (1, 2):
        assert len(list(loader)) == 3
        assert sampler.begun == count


@KINDS
@WORKERS
def test_an_endless_sampler_is_read_as_far_as_the_loop_goes(dataset: Any, workers: int) -> None:
    loader = dp.DataLoader(dataset, 2, sampler=itertools.cycle([5, 1, 7]), num_workers=workers)
    found = keys_of(itertools.islice(iter(loader), 150))
    assert found == named([[5, 1], [7, 5], [1, 7]] * 50)


class Unsized:
    def __init__(self, items: Sequence[Any]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)


@KINDS
def test_a_sampler_without_a_length_is_read_and_the_loader_has_none(dataset: Any) -> None:
    for given in ({"sampler": Unsized([3, 4])}, {"batch_sampler": Unsized([[3], [4]])}):
        loader = dp.DataLoader(dataset, **given)
        assert keys_of(loader) == named([[3], [4]])
        with pytest.raises(TypeError):
            len(loader)
        with pytest.raises(TypeError):
            len(iter(loader))


def test_a_generator_for_a_sampler_is_used_up_by_the_first_pass(plain: dp.Dataset) -> None:
    loader = dp.DataLoader(plain, 2, sampler=(i for i in (3, 1, 2)))
    assert keys_of(loader) == named([[3, 1], [2]])
    assert list(loader) == []


@KINDS
@WORKERS
def test_a_sample_that_is_asked_for_twice_is_two_samples(
    packed: Packed, kind: str, workers: int
) -> None:
    def doubled(sample: dict[str, Any]) -> Any:
        sample["global_data/mach"] *= 2
        return sample

    dataset = dataset_of(kind, packed, doubled)
    loader = dp.DataLoader(dataset, 4, sampler=[5, 5, 5, 6, 5], num_workers=workers)
    first, last = list(loader)
    assert keys_of([first, last]) == named([[5, 5, 5, 6], [5]])
    assert first["global_data/mach"].tolist() == pytest.approx([1.0, 1.0, 1.0, 1.2])
    single = dp.DataLoader(dataset, batch_size=None, sampler=[5, 5], num_workers=workers)
    one, other = list(single)
    one["global_data/mach"].zero_()
    assert other["global_data/mach"].item() == pytest.approx(1.0)


@WORKERS
def test_a_class_of_the_user_s_gets_the_very_indices_of_its_sampler(
    plain: dp.Dataset, workers: int
) -> None:
    class ByName(Around):
        def __getitem__(self, name: Any) -> Any:
            return [name, type(name).__name__, key_of(self.inner[number_of(name[-1])])]

    asked = [("b", "case-007"), ("a", "case-002")]
    loader = dp.DataLoader(ByName(plain), 2, sampler=asked, collate_fn=list, num_workers=workers)
    assert list(loader) == [[[name, "tuple", name[-1]] for name in asked]]


@WORKERS
def test_a_class_with_getitems_is_asked_once_for_each_batch(
    plain: dp.Dataset, workers: int
) -> None:
    class Several(Around):
        def __getitems__(self, indices: list[int]) -> list[Any]:
            return [(tuple(indices), key_of(self.inner[i])) for i in indices]

    loader = dp.DataLoader(Several(plain), 4, collate_fn=list, num_workers=workers)
    assert list(loader) == list(TorchLoader(Several(plain), 4, collate_fn=list))


@WORKERS
def test_a_class_without_a_length_is_read_by_a_sampler(plain: dp.Dataset, workers: int) -> None:
    class NoLength(torch.utils.data.Dataset[Any]):
        def __init__(self, inner: dp.Dataset) -> None:
            self.inner = inner

        def __getitem__(self, i: int) -> Any:
            return self.inner[i]

    dataset = NoLength(plain)
    theirs = TorchLoader(dataset, 2, sampler=[3, 1, 2])
    assert keys_of(theirs) == named([[3, 1], [2]])
    loader = dp.DataLoader(dataset, 2, sampler=[3, 1, 2], num_workers=workers)
    assert keys_of(loader) == named([[3, 1], [2]])
    assert len(loader) == 2


@KINDS
@WORKERS
def test_an_empty_batch_of_a_batch_sampler_is_a_batch(dataset: Any, workers: int) -> None:
    batches = [[3], [], [4, 5]]
    expected = list(TorchLoader(dataset, batch_sampler=batches, collate_fn=keys_collated))
    assert expected == [["case-003"], [], ["case-004", "case-005"]]
    loader = dp.DataLoader(
        dataset, batch_sampler=batches, collate_fn=keys_collated, num_workers=workers
    )
    assert list(loader) == expected


_INDICES: list[Any] = [
    [4, 0, 9],
    (4, 0, 9),
    np.array([4, 0, 9]),
    np.array([4, 0, 9], dtype="u1"),
    torch.tensor([4, 0, 9]),
    [np.int64(4), np.int32(0), np.int64(9)],
    [torch.tensor(4), torch.tensor(0), torch.tensor(9)],
    [4, -11, -2],
    range(4, 11, 2),
    [7, 7, 7, 1],
    [],
]


@WORKERS
@pytest.mark.parametrize("indices", _INDICES, ids=lambda one: f"{type(one).__name__}-{len(one)}")
def test_a_subset_takes_indices_of_every_kind(
    plain: dp.Dataset, indices: Any, workers: int
) -> None:
    subset = Subset(plain, indices)
    expected = [list(one) for one in TorchLoader(subset, 2, collate_fn=keys_collated)]
    assert keys_of(dp.DataLoader(subset, 2, num_workers=workers)) == expected
    nested = Subset(subset, range(len(indices))[::-1])
    flat = [key for keys in expected for key in keys]
    found = [key for keys in keys_of(dp.DataLoader(nested, 2)) for key in keys]
    assert found == flat[::-1]


@WORKERS
def test_a_subset_with_an_index_past_the_end_fails_where_it_is_read(
    plain: dp.Dataset, workers: int
) -> None:
    batches = iter(dp.DataLoader(Subset(plain, [1, SAMPLES, 2]), num_workers=workers))
    assert next(batches)["__key__"] == ["case-001"]
    with pytest.raises(IndexError):
        next(batches)
    assert keys_of(batches) == [["case-002"]]
