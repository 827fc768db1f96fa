"""Loaders of other datasets keep their state as torchdata's do; torchdata's read our datasets."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import islice

import pytest
import torch
from torch.utils.data import RandomSampler, Subset, TensorDataset

import dataplane as dp
from tests.datasets.packed import Packed
from tests.frameworks.cases import ARRAYS, BATCH, SAMPLES, SEED, STEPS

stateful_dataloader = pytest.importorskip("torchdata.stateful_dataloader")
StatefulDataLoader = stateful_dataloader.StatefulDataLoader

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),  # torchdata calls it
]

Make = Callable[..., torch.utils.data.DataLoader]


class Counting(torch.utils.data.IterableDataset):
    """Numbers, of which it knows itself where it is."""

    def __init__(self) -> None:
        self.place = 0

    def __iter__(self) -> Iterator[int]:
        while self.place < SAMPLES:
            self.place += 1
            yield self.place - 1
        self.place = 0

    def state_dict(self) -> dict[str, int]:
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.place = state["place"]


@pytest.fixture
def dataset(cases: Packed) -> Iterator[dp.Dataset]:
    with dp.Dataset(cases.url, arrays=ARRAYS, cache=False) as dataset:
        yield dataset


def tensors() -> TensorDataset:
    return TensorDataset(torch.arange(SAMPLES))


def read(loader: torch.utils.data.DataLoader) -> list:
    return [batch[0].tolist() if isinstance(batch, list) else batch.tolist() for batch in loader]


def make_shuffled(kind: Make, num_workers: int = 0) -> torch.utils.data.DataLoader:
    generator = torch.Generator().manual_seed(5)
    options = {"batch_size": BATCH, "num_workers": num_workers}
    return kind(tensors(), shuffle=True, generator=generator, **options)


def test_a_loader_is_one_of_torch_s_whatever_it_reads(dataset: dp.Dataset) -> None:
    for read_by in (dataset, tensors(), Subset(dataset, range(3))):
        loader = dp.DataLoader(read_by)
        assert isinstance(loader, torch.utils.data.DataLoader)
        assert isinstance(loader, dp.DataLoader)
        assert isinstance(loader, stateful_dataloader.stateful_dataloader.Stateful)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_two_epochs_read_every_sample_once_each(num_workers: int) -> None:
    loader = make_shuffled(dp.DataLoader, num_workers)
    first, second = read(loader), read(loader)
    assert first != second
    for epoch in (first, second):
        assert sorted(number for batch in epoch for number in batch) == list(range(SAMPLES))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("stop", [0, 1, STEPS - 1])
def test_a_state_in_mid_epoch_resumes_with_the_very_next_batch(num_workers: int, stop: int) -> None:
    loader = make_shuffled(dp.DataLoader, num_workers)
    state = loader.state_dict()
    batches, seen = iter(loader), []
    for batch in islice(batches, stop):
        seen.append(batch[0].tolist())
        state = loader.state_dict()
    state = copy.deepcopy(state)
    expected = seen + [batch[0].tolist() for batch in batches]
    resumed = make_shuffled(dp.DataLoader, num_workers)
    resumed.load_state_dict(state)
    assert read(resumed) == expected[stop:]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_state_after_an_epoch_begins_the_next(num_workers: int) -> None:
    loader = make_shuffled(dp.DataLoader, num_workers)
    read(loader)
    resumed = make_shuffled(dp.DataLoader, num_workers)
    resumed.load_state_dict(loader.state_dict())
    epoch = read(resumed)
    assert sorted(number for batch in epoch for number in batch) == list(range(SAMPLES))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_sampler_that_keeps_its_place_is_asked_for_it(num_workers: int) -> None:
    def make() -> dp.DataLoader:
        sampler = stateful_dataloader.sampler.StatefulDistributedSampler(
            tensors(), num_replicas=2, rank=1, shuffle=True, seed=SEED
        )
        return dp.DataLoader(tensors(), BATCH, sampler=sampler, num_workers=num_workers)

    expected = read(make())
    loader = make()
    batches = iter(loader)
    next(batches)
    resumed = make()
    resumed.load_state_dict(loader.state_dict())
    assert read(resumed) == expected[1:]


def test_a_dataset_that_keeps_its_place_is_asked_for_it() -> None:
    loader = dp.DataLoader(Counting(), batch_size=BATCH)
    batches = iter(loader)
    next(batches)
    resumed = dp.DataLoader(Counting(), batch_size=BATCH)
    resumed.load_state_dict(copy.deepcopy(loader.state_dict()))
    assert read(resumed) == [
        list(range(first, first + BATCH)) for first in range(BATCH, SAMPLES, BATCH)
    ]


def test_a_subset_of_a_packed_dataset_resumes_too(dataset: dp.Dataset) -> None:
    def make() -> dp.DataLoader:
        chosen = Subset(dataset, range(4, SAMPLES))
        return dp.DataLoader(chosen, batch_size=BATCH, collate_fn=dp.collate)

    expected = [batch["__key__"] for batch in make()]
    loader = make()
    batches = iter(loader)
    next(batches)
    resumed = make()
    resumed.load_state_dict(loader.state_dict())
    assert [batch["__key__"] for batch in resumed] == expected[1:]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_torchdata_s_own_loader_reads_a_packed_dataset_and_resumes(
    dataset: dp.Dataset, num_workers: int
) -> None:
    def make() -> StatefulDataLoader:
        return StatefulDataLoader(
            dataset, BATCH, collate_fn=dp.collate, num_workers=num_workers,
            sampler=RandomSampler(dataset, generator=torch.Generator().manual_seed(5)),
        )  # fmt: skip

    expected = [batch["__key__"] for batch in make()]
    assert sorted(key for batch in expected for key in batch) == list(dataset.keys)
    loader = make()
    batches = iter(loader)
    next(batches)
    next(batches)
    resumed = make()
    resumed.load_state_dict(loader.state_dict())
    assert [batch["__key__"] for batch in resumed] == expected[2:]


def test_a_packed_dataset_s_loader_keeps_its_own_small_state(dataset: dp.Dataset) -> None:
    def make() -> dp.DataLoader:
        return dp.DataLoader(dataset, BATCH, shuffle=True, seed=SEED, num_workers=2)

    whole = make()
    expected = [batch["__key__"] for _ in range(2) for batch in whole]
    loader = make()
    for _ in islice(loader, 2):
        state = loader.state_dict()
    assert all(isinstance(value, (int, str)) for value in state.values())
    resumed = make()
    resumed.load_state_dict(state)
    assert [batch["__key__"] for _ in range(2) for batch in resumed] == expected[2:]
