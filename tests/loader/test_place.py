"""Where a loader is: passes beside each other, looks, epochs that are named, states, copies."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DistributedSampler, SequentialSampler, Subset

import dataplane as dp
from tests.datasets.packed import SAMPLES, Packed


@pytest.fixture
def dataset(packed: Packed) -> Iterator[dp.Dataset]:
    with dp.Dataset(packed.url, ["global_data/mach"], cache=False) as opened:
        yield opened


def keys(loader: Any) -> list[str]:
    return [key for batch in loader for key in batch["__key__"]]


def order(epoch: int) -> list[str]:
    return [f"case-{i:03d}" for i in dp.permutation(SAMPLES, seed=5, epoch=epoch)]


def shuffled(dataset: Any, **options: Any) -> dp.DataLoader:
    return dp.DataLoader(dataset, 2, shuffle=True, seed=5, **options)


def begun(loader: Any, batches: int) -> Iterator[Any]:
    """Return a pass over a loader that has yielded some batches."""
    found = iter(loader)
    for _ in range(batches):
        next(found)
    return found


def resumed(dataset: Any, state: Any) -> dp.DataLoader:
    loader = shuffled(dataset)
    loader.load_state_dict(state)
    return loader


# Looks.


def test_a_run_may_end_in_its_first_step(dataset: dp.Dataset) -> None:
    """The state is behind it, though the loader itself would take it for a look."""
    loader = shuffled(dataset)
    for epoch in range(2):
        next(iter(loader))
        assert keys(resumed(dataset, loader.state_dict())) == order(epoch)[2:]
        loader.sampler.set_epoch(epoch)
        assert keys(resumed(dataset, loader.state_dict())) == keys(loader) == order(epoch)


def test_a_look_within_a_pass_does_not_move_the_state(dataset: dp.Dataset) -> None:
    loader = shuffled(dataset)
    batches = begun(loader, 2)
    state = loader.state_dict()
    next(iter(loader))
    assert loader.state_dict() == state
    next(batches)
    assert keys(resumed(dataset, loader.state_dict())) == keys(batches) == order(0)[6:]
    assert keys(loader) == order(1)


def test_a_look_that_is_kept_does_not_hide_the_pass_of_the_loop(dataset: dp.Dataset) -> None:
    loader = shuffled(dataset)
    before = begun(loader, 1)
    batches = begun(loader, 2)
    within = begun(loader, 1)
    next(batches)
    state = loader.state_dict()
    assert (state["epoch"], state["num_yielded"]) == (1, 3)
    keys(batches)
    assert loader.state_dict()["epoch"] == 2
    del before, within
    assert loader.state_dict()["epoch"] == 2
    assert keys(loader) == order(2)


@pytest.mark.parametrize("by_sampler", [False, True])
def test_a_look_after_a_load_does_not_move_the_place(dataset: dp.Dataset, by_sampler: bool) -> None:
    loader = shuffled(dataset)
    batches = begun(loader, 3)
    state = loader.state_dict()
    other = resumed(dataset, state)
    next(iter(other))
    (other.sampler if by_sampler else other).set_epoch(0)  # which is its epoch
    assert other.state_dict() == state
    assert keys(other) == keys(batches)


def test_a_rank_that_looks_in_its_first_step_stays_in_step(dataset: dp.Dataset) -> None:
    ranks = [shuffled(dataset, rank=rank, world_size=2) for rank in range(2)]
    for epoch in range(3):
        hands = []
        for rank, loader in enumerate(ranks):
            hands.append([])
            for step, batch in enumerate(loader):
                hands[-1] += batch["__key__"]
                if (epoch, rank, step) == (0, 0, 0):
                    next(iter(loader))
        assert hands[0] == order(epoch)[0::2]
        assert hands[1] == [*order(epoch)[1::2], order(epoch)[0]]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_goes_on_where_the_loader_was_resumed(dataset: dp.Dataset, copied: Any) -> None:
    loader = shuffled(dataset)
    batches = begun(loader, 3)
    other = resumed(dataset, loader.state_dict())
    assert keys(copied(other)) == order(0)[6:]
    next(iter(other))
    assert keys(copied(other)) == order(0)[6:]
    batches = begun(other, 2)  # a copy begins the pass anew
    assert keys(copied(other)) == order(0)[6:]
    keys(batches)
    assert keys(copied(other)) == order(1)


# Epochs that are named.


def of_distributed(dataset: dp.Dataset, *, batches: bool = False) -> dp.DataLoader:
    sampler = DistributedSampler(dataset, num_replicas=1, rank=0, seed=1)
    if batches:
        return dp.DataLoader(dataset, batch_sampler=BatchSampler(sampler, 2, False))
    return dp.DataLoader(dataset, 2, sampler=sampler)


def innermost(loader: Any) -> Any:
    return getattr(loader.batch_sampler, "sampler", loader.sampler)


def test_an_epoch_reaches_the_sampler_of_a_batch_sampler(dataset: dp.Dataset) -> None:
    loader = of_distributed(dataset, batches=True)
    found = []
    for epoch in (0, 3, 0):
        loader.set_epoch(epoch)
        assert innermost(loader).epoch == epoch
        found.append(keys(loader))
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize("batches", [False, True])
@pytest.mark.parametrize("named", [None, 0, 3])
def test_a_state_resumes_in_the_epoch_of_its_sampler(
    dataset: dp.Dataset, batches: bool, named: int | None
) -> None:
    """Also where somebody names the epoch again: the loader's, or the sampler's."""
    loader = of_distributed(dataset, batches=batches)
    innermost(loader).set_epoch(3)
    passing = begun(loader, 2)
    state, rest = loader.state_dict(), keys(passing)
    other = of_distributed(dataset, batches=batches)
    other.load_state_dict(state)
    if named is not None:
        other.set_epoch(named)
    assert keys(other) == rest
    other.load_state_dict(state)
    innermost(other).set_epoch(4)
    assert len(keys(other)) == SAMPLES


class Deaf(DistributedSampler):
    def set_epoch(self, epoch: int) -> None:
        """Stay where it is."""


@pytest.mark.parametrize("kind", [Deaf, lambda data, **_: SequentialSampler(data)])
def test_a_sampler_that_cannot_be_told_the_epoch_of_a_state_is_refused(
    dataset: dp.Dataset, kind: Any
) -> None:
    loader = of_distributed(dataset)
    innermost(loader).set_epoch(3)
    passing = begun(loader, 2)
    other = dp.DataLoader(dataset, 2, sampler=kind(dataset, num_replicas=1, rank=0, seed=1))
    other.load_state_dict(loader.state_dict())
    with pytest.raises(dp.ConfigError, match="epoch 3 of its sampler"):
        next(iter(other))
    keys(passing)


@pytest.mark.parametrize("named", [0, 1])
def test_an_epoch_named_in_a_pass_of_a_sampler_keeps_its_place(
    dataset: dp.Dataset, named: int
) -> None:
    for read in range(3):
        loader = of_distributed(dataset)
        batches = begun(loader, read)
        loader.set_epoch(named)
        for _ in range(3 - read):
            next(batches)
        state = loader.state_dict()
        assert state["samples_consumed"] == 6
        other = of_distributed(dataset)
        other.load_state_dict(state)
        assert keys(other) == keys(batches)
        is_heard = read == 0 and named == 0  # nothing was read: it is the epoch of this pass
        assert loader.state_dict()["epoch"] == (1 if is_heard else named)


def test_a_framework_may_count_from_0_after_every_load(dataset: dp.Dataset) -> None:
    loader = shuffled(dataset)
    states, rests = [], []
    for epoch in (5, 2):
        loader.set_epoch(epoch)
        batches = begun(loader, 3)
        states.append(loader.state_dict())
        rests.append(keys(batches))
    other = shuffled(dataset)
    for state, rest in zip(states, rests, strict=True):
        other.load_state_dict(state)
        other.sampler.set_epoch(0)
        assert keys(other) == rest
        other.sampler.set_epoch(1)
        assert keys(other) == order(state["epoch"] + 1)


def test_a_framework_may_name_epoch_0_when_the_resumed_pass_waits(dataset: dp.Dataset) -> None:
    loader = shuffled(dataset)
    loader.set_epoch(5)
    passing = begun(loader, 3)
    other = resumed(dataset, loader.state_dict())
    batches = iter(other)
    other.sampler.set_epoch(0)
    assert keys(batches) == keys(passing) == order(5)[6:]
    assert keys(other) == order(6)


# What a state costs, and what ranks compare.


def test_a_state_within_a_pass_does_not_look_at_the_dataset(
    dataset: dp.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is taken in every step, by frameworks too, and a view has the length of the dataset."""
    loader = shuffled(Subset(dataset, range(SAMPLES)))
    batches = begun(loader, 1)
    state = loader.state_dict()
    monkeypatch.delattr("dataplane.loader.dataloader.view_of")
    next(batches)
    assert loader.state_dict()["dataset"] == state["dataset"] != ""


def test_what_ranks_agree_on_may_change_with_the_dataset(
    dataset: dp.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    agreed: dict[str, str] = {}
    monkeypatch.setattr(
        "dataplane.loader.place.check_agreement",
        lambda what, value: pytest.fail(what) if agreed.setdefault(what, value) != value else None,
    )
    part = Subset(dataset, list(range(6)))
    loader = shuffled(part, assign="node", rank=0, world_size=2, ranks_per_node=1)
    for count, _ in itertools.product((6, 10), range(2)):
        part.indices = list(range(count))
        loader.set_epoch(0)
        next(iter(loader))
        assert len(keys(loader)) == count // 2


def test_a_generator_that_a_look_has_moved_is_in_the_state(dataset: dp.Dataset) -> None:
    def make(seed: int) -> dp.DataLoader:
        return dp.DataLoader(
            dataset, 2, shuffle=True, generator=torch.Generator().manual_seed(seed)
        )

    loader = make(1)
    iter(loader)
    other = make(2)
    other.load_state_dict(loader.state_dict())
    assert [keys(other), keys(other)] == [keys(loader), keys(loader)]


@pytest.mark.parametrize("sampler", [None, list(range(SAMPLES))])
def test_another_seed_is_refused_in_an_order_without_one_too(
    dataset: dp.Dataset, sampler: Any
) -> None:
    """It is that of what code draws, in the epochs that follow."""

    def make(seed: int | None) -> dp.DataLoader[Any]:
        return dp.DataLoader(dataset, 2, sampler=sampler, seed=seed)

    loader, drawn = make(3), make(None)
    passes = [begun(loader, 2), begun(drawn, 2)]
    for seed in (3, None):
        make(seed).load_state_dict(loader.state_dict())
    with pytest.raises(dp.ConfigError, match="the state is of seed 3, this loader has seed 4"):
        make(4).load_state_dict(loader.state_dict())
    make(4).load_state_dict(drawn.state_dict())  # of a seed that was drawn for one pass
    del passes


# A dataset that is changed in place.


@pytest.mark.parametrize("indices", [[5, 6, 99], [5, 6, 99, 7], [-12]])
def test_indices_that_are_no_samples_by_now_are_refused(
    dataset: dp.Dataset, indices: list[int]
) -> None:
    part = Subset(dataset, [0, 1, 2])
    loader = dp.DataLoader(part, 3)
    keys(loader)
    part.indices = indices
    with pytest.raises(dp.ConfigError, match=r"Subset was changed.*no samples of its dataset"):
        iter(loader)
    part.indices = []
    assert keys(loader) == []
    part.indices = [4]
    assert keys(loader) == ["case-004"]


def test_a_state_is_of_the_dataset_as_it_is_by_now(dataset: dp.Dataset) -> None:
    part = Subset(dataset, [0, 1, 2])
    loader = shuffled(part)
    keys(loader)
    part.indices = [3, 4, 5, 6]
    shuffled(part).load_state_dict(loader.state_dict())
    state = shuffled(part).state_dict()
    part.indices = [0, 1, 2]
    keys(loader)
    part.indices = [3, 4, 5, 6]
    loader.load_state_dict(state)
    assert len(keys(loader)) == 4
