"""Iterators, copies and subclasses of loaders behave as torch's do.

Where the two can be compared, torch's own loader runs beside ours over the same dataset. What holds
for any dataset is tried over a packed one, a `Subset` of it and a class of the user's around it,
which the engine reads in three ways.
"""

from __future__ import annotations

import copy
import gc
import itertools
import pickle
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from torch.utils.data import DataLoader as TorchLoader

import dataplane as dp
from tests.datasets.packed import Packed
from tests.loader.test_lifetime import assert_no_loader_threads
from tests.loader.torch_parity.kinds import (
    KINDS,
    WORKERS,
    Twos,
    dataset_of,
    key_of,
    keys_collated,
    keys_of,
    named,
)

# Iterators and loaders.


@KINDS
@WORKERS
def test_iterators_at_once_each_give_the_whole(dataset: Any, workers: int) -> None:
    loader = dp.DataLoader(dataset, 2, num_workers=workers)
    one, other = iter(loader), iter(loader)
    found: tuple[list[Any], list[Any]] = ([], [])
    found[0].append(next(one))
    for a, b in itertools.zip_longest(other, one):
        found[1].append(a)
        if b is not None:
            found[0].append(b)
    assert keys_of(found[0]) == keys_of(found[1]) == keys_of(loader)


@KINDS
@WORKERS
def test_a_loader_can_be_read_again_after_its_end_and_after_a_break(
    dataset: Any, workers: int
) -> None:
    loader = dp.DataLoader(dataset, 3, num_workers=workers)
    expected = keys_of(loader)
    for _ in loader:
        break
    for batch in loader:
        if batch["__key__"][0] == "case-003":
            break
    assert keys_of(loader) == expected


@KINDS
@WORKERS
def test_an_iterator_that_ended_stays_at_its_end(dataset: Any, workers: int) -> None:
    batches = iter(dp.DataLoader(dataset, 3, num_workers=workers))
    assert len(list(batches)) == 4
    assert [next(batches, None) for _ in range(3)] == [None] * 3


@KINDS
def test_leaving_a_pass_ends_its_threads(dataset: Any) -> None:
    loader = dp.DataLoader(dataset, 1, num_workers=2, collate_fn=keys_collated)
    for _ in loader:
        break
    gc.collect()
    assert_no_loader_threads()


@KINDS
@WORKERS
def test_an_iterator_keeps_what_it_reads_and_not_its_loader(dataset: Any, workers: int) -> None:
    loader = dp.DataLoader(dataset, 2, num_workers=workers)
    batches = iter(loader)
    next(batches)
    del loader
    gc.collect()
    assert keys_of(batches) == named([[2, 3], [4, 5], [6, 7], [8, 9], [10]])


@KINDS
def test_a_dropped_loader_lets_go_of_its_dataset(packed: Packed, kind: str) -> None:
    dataset = dataset_of(kind, packed, key_of)
    loader = dp.DataLoader(dataset, num_workers=2, persistent_workers=True)
    list(loader)
    gone = weakref.ref(dataset), weakref.ref(loader)
    del dataset, loader
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


@KINDS
@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))]
)
def test_a_copy_of_a_loader_reads_what_it_reads(dataset: Any, copied: Any) -> None:
    loader = dp.DataLoader(
        dataset, batch_sampler=Twos(list), num_workers=2, collate_fn=keys_collated
    )
    expected = list(loader)
    other = copied(loader)
    assert type(other) is dp.DataLoader
    assert list(other) == expected == list(loader)
    with pytest.raises(ValueError, match="should not be set"):
        other.batch_size = 4


class Counted(dp.DataLoader[Any]):
    """A loader of the user's own: other arguments, another length and another iteration."""

    def __init__(self, dataset: Any, repeats: int, **given: Any) -> None:
        super().__init__(dataset, **given)
        self.repeats = repeats

    def __len__(self) -> int:
        return super().__len__() * self.repeats

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.repeats):
            yield from enumerate(super().__iter__())


@KINDS
@WORKERS
def test_a_subclass_may_have_its_own_arguments_length_and_iteration(
    dataset: Any, workers: int
) -> None:
    loader = Counted(dataset, 2, batch_size=4, num_workers=workers)
    assert len(loader) == 6
    assert [number for number, _ in loader] == [0, 1, 2] * 2
    assert keys_of(batch for _, batch in loader) == keys_of(dp.DataLoader(dataset, 4)) * 2
    with pytest.raises(ValueError, match="after Counted is initialized"):
        loader.drop_last = True
    assert isinstance(loader, TorchLoader)
