"""What torchdata's stateful loader does, a loader over packed datasets does too.

A run that is stopped and resumed reads what an uninterrupted one reads, to the end of its epoch and
in the epochs after it. `test_resume_everywhere.py` tries every step with other worlds and batch
sizes; here are the moments at which a state is taken or loaded, and what it is made of.
"""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, RandomSampler

import dataplane as dp
from tests.datasets.packed import SAMPLES, Packed
from tests.loader.torch_parity.kinds import KINDS, WORKERS, dataset_of, key_of, keys_of

BATCHES = 4
"""Batches of three in an epoch."""


@pytest.fixture
def dataset(packed: Packed, kind: str) -> Any:
    """A dataset of the kind that the test is run with."""
    return dataset_of(kind, packed)


def shuffled(dataset: Any, workers: int = 0, **given: Any) -> dp.DataLoader[Any]:
    return dp.DataLoader(dataset, 3, shuffle=True, seed=6, num_workers=workers, **given)


def epochs_of(dataset: Any, count: int) -> list[list[list[str]]]:
    """The first epochs of an uninterrupted run."""
    loader = shuffled(dataset)
    return [keys_of(loader) for _ in range(count)]


def read(loader: dp.DataLoader[Any], count: int) -> dict[str, Any]:
    """Read some batches, and return the state of that moment."""
    batches = iter(loader)
    for _ in range(count):
        next(batches)
    return loader.state_dict()


# When a state is taken.


@KINDS
@WORKERS
def test_a_state_before_the_first_pass_begins_at_the_beginning(dataset: Any, workers: int) -> None:
    state = shuffled(dataset, workers).state_dict()
    resumed = shuffled(dataset, workers)
    resumed.load_state_dict(state)
    assert [keys_of(resumed), keys_of(resumed)] == epochs_of(dataset, 2)


@KINDS
@WORKERS
def test_the_state_is_the_same_until_a_batch_was_read(dataset: Any, workers: int) -> None:
    loader = shuffled(dataset, workers)
    state = loader.state_dict()
    assert loader.state_dict() == state
    batches = iter(loader)
    assert loader.state_dict() == state
    next(batches)
    assert loader.state_dict() != state


@KINDS
@WORKERS
@pytest.mark.parametrize("step", range(1, BATCHES))
def test_a_state_within_a_pass_goes_on_with_the_next_batch_and_the_next_epochs(
    dataset: Any, workers: int, step: int
) -> None:
    state = read(shuffled(dataset, workers), step)
    first, *others = epochs_of(dataset, 3)
    resumed = shuffled(dataset, workers)
    resumed.load_state_dict(state)
    assert keys_of(resumed) == first[step:]
    assert [keys_of(resumed), keys_of(resumed)] == others


@KINDS
@WORKERS
def test_a_state_in_a_later_epoch_goes_on_in_that_epoch(dataset: Any, workers: int) -> None:
    loader = shuffled(dataset, workers)
    keys_of(loader)
    state = read(loader, 2)
    _, second, third = epochs_of(dataset, 3)
    resumed = shuffled(dataset, workers)
    resumed.load_state_dict(state)
    assert [keys_of(resumed), keys_of(resumed)] == [second[2:], third]


@KINDS
@WORKERS
def test_a_state_after_the_last_batch_has_an_empty_rest(dataset: Any, workers: int) -> None:
    state = read(shuffled(dataset, workers), BATCHES)
    resumed = shuffled(dataset, workers)
    resumed.load_state_dict(state)
    assert [keys_of(resumed), keys_of(resumed)] == [[], epochs_of(dataset, 2)[1]]


@KINDS
@WORKERS
def test_a_state_after_a_pass_begins_the_next_epoch(dataset: Any, workers: int) -> None:
    loader = shuffled(dataset, workers)
    keys_of(loader)
    resumed = shuffled(dataset, workers)
    resumed.load_state_dict(loader.state_dict())
    assert [keys_of(resumed), keys_of(resumed)] == epochs_of(dataset, 3)[1:]


@KINDS
@WORKERS
def test_taking_states_at_every_step_changes_nothing(dataset: Any, workers: int) -> None:
    loader = shuffled(dataset, workers)
    before = torch.get_rng_state()
    found = []
    for _ in range(2):
        found.append([])
        for batch in loader:
            loader.state_dict()
            found[-1].append(list(batch["__key__"]))
    assert found == epochs_of(dataset, 2)
    assert torch.equal(torch.get_rng_state(), before)


@KINDS
def test_a_state_is_of_its_moment_and_later_batches_do_not_change_it(dataset: Any) -> None:
    for loader in (shuffled(dataset), dp.DataLoader(dataset, 3, sampler=RandomSampler(range(9)))):
        batches = iter(loader)
        next(batches)
        state = loader.state_dict()
        kept = copy.deepcopy(state)
        next(batches)
        assert state == kept != loader.state_dict()


@KINDS
@WORKERS
def test_a_state_after_an_error_goes_on_with_the_batch_that_failed(
    packed: Packed, kind: str, workers: int
) -> None:
    def broken(sample: dict[str, Any]) -> Any:
        if sample["__key__"] == "case-004":
            raise ValueError("not now")
        return sample

    loader = dp.DataLoader(dataset_of(kind, packed, broken), 2, num_workers=workers)
    batches = iter(loader)
    next(batches)
    next(batches)
    with pytest.raises(ValueError, match="not now"):
        next(batches)
    failed = loader.state_dict()
    next(batches)
    passed = loader.state_dict()
    repaired = dp.DataLoader(dataset_of(kind, packed), 2, num_workers=workers)
    for state, first in ((failed, "case-004"), (passed, "case-008")):
        repaired.load_state_dict(state)
        assert keys_of(repaired)[0][0] == first


# Where it is loaded.


@KINDS
@pytest.mark.parametrize(("saved", "resumed"), [(0, 2), (2, 0), (1, 3), (3, 1)])
def test_a_run_resumes_with_more_and_with_fewer_workers(
    dataset: Any, saved: int, resumed: int
) -> None:
    state = read(shuffled(dataset, saved, collate_fn=None), 2)
    loader = shuffled(dataset, resumed)
    loader.load_state_dict(state)
    first, second = epochs_of(dataset, 2)
    assert [keys_of(loader), keys_of(loader)] == [first[2:], second]


def test_a_run_resumes_in_processes(packed: Packed) -> None:
    dataset = dataset_of("packed", packed, lambda sample: sample)
    state = read(shuffled(dataset), 2)
    loader = shuffled(dataset, 1, transform_mode="process", persistent_workers=True)
    loader.load_state_dict(state)
    first, second = epochs_of(dataset, 2)
    assert [keys_of(loader), keys_of(loader)] == [first[2:], second]
    loader.load_state_dict(state)  # also with workers that have read before
    assert keys_of(loader) == first[2:]


@KINDS
@WORKERS
def test_the_state_that_was_loaded_is_the_loader_s_until_it_reads(
    dataset: Any, workers: int
) -> None:
    state = read(shuffled(dataset, workers), 2)
    resumed = shuffled(dataset, workers)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    iter(resumed)
    assert resumed.state_dict() == state


@KINDS
@WORKERS
def test_of_two_states_that_are_loaded_the_later_counts(dataset: Any, workers: int) -> None:
    one, other = (read(shuffled(dataset), step) for step in (3, 1))
    first, second = epochs_of(dataset, 2)
    loader = shuffled(dataset, workers)
    for states in ((one, other), (other, other)):
        for state in states:
            loader.load_state_dict(state)
        assert [keys_of(loader), keys_of(loader)] == [first[1:], second]


@KINDS
@WORKERS
def test_a_state_that_is_loaded_in_a_pass_is_for_the_next_one(dataset: Any, workers: int) -> None:
    first, second = epochs_of(dataset, 2)
    state = read(shuffled(dataset), 3)
    loader = shuffled(dataset, workers)
    batches = iter(loader)
    found = keys_of([next(batches)])
    loader.load_state_dict(state)
    assert found + keys_of(batches) == first  # the open pass goes on as it was
    assert loader.state_dict() == state
    assert [keys_of(loader), keys_of(loader)] == [first[3:], second]


@KINDS
@WORKERS
def test_a_loader_goes_back_to_a_state_of_its_own(dataset: Any, workers: int) -> None:
    loader = shuffled(dataset, workers)
    state = read(loader, 1)
    keys_of(loader)
    loader.load_state_dict(state)
    assert keys_of(loader) == epochs_of(dataset, 1)[0][1:]


@KINDS
def test_what_was_loaded_may_be_changed_afterwards(dataset: Any) -> None:
    state = read(shuffled(dataset), 2)
    loader = shuffled(dataset)
    loader.load_state_dict(state)
    state.clear()
    assert keys_of(loader) == epochs_of(dataset, 1)[0][2:]


@KINDS
@WORKERS
def test_a_run_that_stops_at_every_batch_reads_what_one_that_never_does(
    dataset: Any, workers: int
) -> None:
    state: dict[str, Any] | None = None
    found: list[list[str]] = []
    for _ in range(2 * BATCHES + 2):
        loader = shuffled(dataset, workers)
        if state is not None:
            loader.load_state_dict(state)
        for batch in loader:
            found.append(list(batch["__key__"]))
            break
        state = loader.state_dict()
    first, second = epochs_of(dataset, 2)
    assert found == first + second


@KINDS
@WORKERS
def test_single_samples_resume_too(dataset: Any, workers: int) -> None:
    given: dict[str, Any] = {"batch_size": None, "shuffle": True, "seed": 1}
    expected = list(map(key_of, dp.DataLoader(dataset, **given)))
    state = read(dp.DataLoader(dataset, num_workers=workers, **given), 5)
    resumed = dp.DataLoader(dataset, num_workers=workers, **given)
    resumed.load_state_dict(state)
    assert list(map(key_of, resumed)) == expected[5:]


@KINDS
@WORKERS
def test_the_last_batch_that_is_dropped_is_dropped_by_a_resumed_run_too(
    dataset: Any, workers: int
) -> None:
    state = read(shuffled(dataset, workers, drop_last=True), 2)
    resumed = shuffled(dataset, workers, drop_last=True)
    resumed.load_state_dict(state)
    first, second = epochs_of(dataset, 2)
    assert [keys_of(resumed), keys_of(resumed)] == [first[2:3], second[:3]]


@KINDS
@WORKERS
def test_a_shuffle_without_a_seed_resumes_where_torch_s_numbers_do(
    dataset: Any, workers: int
) -> None:
    loader = dp.DataLoader(dataset, 3, shuffle=True, num_workers=workers)
    batches = iter(loader)
    next(batches)
    state, numbers = loader.state_dict(), torch.get_rng_state()
    expected = [keys_of(batches), keys_of(loader), keys_of(loader)]
    resumed = dp.DataLoader(dataset, 3, shuffle=True, num_workers=workers)
    resumed.load_state_dict(state)
    torch.set_rng_state(numbers)
    assert [keys_of(resumed) for _ in range(3)] == expected


def test_loaders_beside_each_other_have_states_of_their_own(packed: Packed) -> None:
    dataset = dataset_of("packed", packed)

    def pair() -> tuple[dp.DataLoader[Any], dp.DataLoader[Any]]:
        return shuffled(dataset, 2), dp.DataLoader(dataset, 2, num_workers=2)

    train, valid = pair()
    ours, theirs = iter(train), iter(valid)
    for batches in (ours, theirs, theirs, ours, theirs):
        next(batches)
    states = json.loads(json.dumps([train.state_dict(), valid.state_dict()]))
    expected = [keys_of(ours), keys_of(theirs)]
    others = pair()
    for loader, state in zip(others, states, strict=True):
        loader.load_state_dict(state)
    assert [keys_of(loader) for loader in others] == expected
    with pytest.raises(dp.ConfigError):
        others[0].load_state_dict(states[1])


@KINDS
@pytest.mark.parametrize("state", [{}, {"_snapshot": {}}, {"version": 99}, None, "state"])
def test_what_is_no_state_of_such_a_loader_is_refused_and_changes_nothing(
    dataset: Any, state: Any
) -> None:
    loader = shuffled(dataset)
    with pytest.raises(dp.ConfigError):
        loader.load_state_dict(state)
    assert keys_of(loader) == epochs_of(dataset, 1)[0]


# Samplers.


class Placed:
    """A sampler or batch sampler that knows its place."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items
        self.at = 0
        self.begun = 0

    def __iter__(self) -> Iterator[Any]:
        self.begun += 1
        while self.at < len(self.items):
            self.at += 1
            yield self.items[self.at - 1]
        self.at = 0

    def __len__(self) -> int:
        return len(self.items)

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.at = state["at"]


class Moving:
    """A sampler whose iterator knows its place."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __iter__(self) -> Placed:
        return _PlacedIterator(self.items)

    def __len__(self) -> int:
        return len(self.items)


class _PlacedIterator(Placed):
    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self.at == len(self.items):
            raise StopIteration
        self.at += 1
        return self.items[self.at - 1]


_ORDER = [4, 2, 9, 9, 0, 7, 1]


@KINDS
@WORKERS
@pytest.mark.parametrize("sampler", [Placed, Moving])
@pytest.mark.parametrize("lists", [False, True])
def test_a_sampler_with_a_state_is_asked_for_its_place_at_what_was_yielded(
    dataset: Any, workers: int, sampler: Any, lists: bool
) -> None:
    def make() -> dp.DataLoader[Any]:
        if lists:
            batches = sampler([_ORDER[at : at + 2] for at in range(0, len(_ORDER), 2)])
            return dp.DataLoader(dataset, batch_sampler=batches, num_workers=workers)
        return dp.DataLoader(dataset, 2, sampler=sampler(_ORDER), num_workers=workers)

    expected = keys_of(make())
    assert len(expected) == 4
    for step in range(1, 4):
        state = json.loads(json.dumps(read(make(), step)))
        resumed = make()
        resumed.load_state_dict(state)
        assert [keys_of(resumed), keys_of(resumed)] == [expected[step:], expected]


@KINDS
@WORKERS
def test_a_sampler_without_a_state_is_read_anew_as_far_as_it_had_come(
    dataset: Any, workers: int
) -> None:
    def make(seed: int) -> dp.DataLoader[Any]:
        generator = torch.Generator().manual_seed(seed)
        sampler = BatchSampler(RandomSampler(range(SAMPLES), generator=generator), 3, False)
        return dp.DataLoader(dataset, batch_sampler=sampler, num_workers=workers)

    loader = make(1)
    expected = [keys_of(loader) for _ in range(3)]
    state = read(make(1), 2)
    resumed = make(2)  # its generator is put back
    resumed.load_state_dict(state)
    assert [keys_of(resumed) for _ in range(3)] == [expected[0][2:], *expected[1:]]


def test_a_sampler_is_begun_once_in_a_pass_that_resumes(packed: Packed) -> None:
    dataset = dataset_of("packed", packed)
    state = read(dp.DataLoader(dataset, 2, sampler=Placed(_ORDER)), 2)
    sampler = Placed(_ORDER)
    loader = dp.DataLoader(dataset, 2, sampler=sampler)
    loader.load_state_dict(state)
    list(loader)
    assert sampler.begun == 1


# What a state is.


def _states(dataset: Any) -> Iterator[tuple[dp.DataLoader[Any], dict[str, Any]]]:
    """Loaders of every kind of order, each with its state in the middle of a pass."""

    def make(given: dict[str, Any]) -> dp.DataLoader[Any]:
        kind = given.pop("kind", None)
        sampler = RandomSampler(dataset) if kind == "random" else Placed(_ORDER) if kind else None
        return dp.DataLoader(dataset, 2, sampler=sampler, **given)

    for given in ({}, {"shuffle": True}, {"shuffle": True, "seed": 2**64 - 1}, {"kind": "random"},
                  {"kind": "placed"}):  # fmt: skip
        yield make(dict(given)), read(make(dict(given)), 2)


@KINDS
def test_a_state_is_plain_values_that_json_keeps(dataset: Any) -> None:
    for loader, state in _states(dataset):
        again = json.loads(json.dumps(state))
        assert again == state
        loader.load_state_dict(again)
        assert loader.state_dict() == state


@KINDS
def test_a_state_is_saved_by_torch_and_loaded_as_weights_only(dataset: Any) -> None:
    for loader, state in _states(dataset):
        file = io.BytesIO()
        torch.save({"loader": state}, file)
        file.seek(0)
        again = torch.load(file, weights_only=True)["loader"]
        assert again == state
        loader.load_state_dict(again)
        assert loader.state_dict() == state


@KINDS
def test_a_state_is_small_and_does_not_grow_with_what_was_read(dataset: Any) -> None:
    for given in (
        {"shuffle": True},
        {"sampler": range(SAMPLES)},
        {"sampler": RandomSampler(dataset)},
    ):
        loader = dp.DataLoader(dataset, 1, **given)
        sizes = [len(json.dumps(loader.state_dict())) for _ in loader]
        assert max(sizes) < 8000
        assert max(sizes) - min(sizes) < 8


def test_a_loader_is_what_torch_s_checkpoints_call_stateful(packed: Packed) -> None:
    from torch.distributed.checkpoint.stateful import Stateful

    assert isinstance(dp.DataLoader(dataset_of("packed", packed)), Stateful)
