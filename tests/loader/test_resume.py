"""A run that stops at any batch and resumes reads what the uninterrupted run would have read."""

from __future__ import annotations

import json

import pytest
import torch

import dataplane as dp
from tests.datasets.packed import SAMPLES, Packed
from tests.loader.inside import ready_count

SEED = 11


@pytest.fixture
def dataset(packed: Packed) -> dp.Dataset:
    return dp.Dataset(packed.url, ["global_data/mach"])


def make(dataset: dp.Dataset, **arguments: object) -> dp.DataLoader:
    given = {"batch_size": 2, "shuffle": True, "seed": SEED, "num_workers": 1, **arguments}
    return dp.DataLoader(dataset, **given)


def epochs(loader: dp.DataLoader, count: int) -> list[list[list[str]]]:
    return [[batch["__key__"] for batch in loader] for _ in range(count)]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("drop_last", [False, True])
def test_resuming_at_every_batch_equals_the_uninterrupted_run(
    dataset: dp.Dataset, drop_last: bool, num_workers: int
) -> None:
    arguments = {"drop_last": drop_last, "num_workers": num_workers}
    expected = epochs(make(dataset, **arguments), 3)
    for epoch in range(2):
        for stop in range(len(expected[epoch]) + 1):
            loader = make(dataset, **arguments)
            loader.set_epoch(epoch)
            batches = iter(loader)
            for _ in range(stop):
                next(batches)
            state = json.loads(json.dumps(loader.state_dict()))
            assert state["num_yielded"] == stop
            resumed = make(dataset, **arguments)
            resumed.load_state_dict(state)
            assert resumed.state_dict() == state
            rest, following = epochs(resumed, 2)
            assert rest == expected[epoch][stop:]
            assert following == expected[epoch + 1]
            del batches


def test_a_state_taken_after_an_epoch_begins_the_next(dataset: dp.Dataset) -> None:
    first = make(dataset)
    _, second = epochs(make(dataset), 2)
    epochs(first, 1)
    state = first.state_dict()
    assert (state["epoch"], state["samples_consumed"], state["num_yielded"]) == (1, 0, 0)
    resumed = make(dataset)
    resumed.load_state_dict(state)
    assert epochs(resumed, 1) == [second]


def test_a_run_can_be_interrupted_many_times(dataset: dp.Dataset) -> None:
    (expected,) = epochs(make(dataset), 1)
    state, seen = make(dataset).state_dict(), []
    for _ in range(len(expected)):
        loader = make(dataset)
        loader.load_state_dict(state)
        seen.append(next(iter(loader))["__key__"])
        state = loader.state_dict()
        assert state["num_yielded"] == len(seen)
    assert seen == expected


@pytest.mark.parametrize("before", [1, 2, 3])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_change_of_world_size_loses_and_repeats_nothing(
    dataset: dp.Dataset, before: int, after: int
) -> None:
    order = [f"case-{i:03d}" for i in dp.permutation(SAMPLES, seed=SEED, epoch=0)]
    states, seen = [], []
    for rank in range(before):
        loader = make(dataset, batch_size=1, rank=rank, world_size=before)
        batches = iter(loader)
        seen += [next(batches)["__key__"][0] for _ in range(2)]
        states.append(loader.state_dict())
    assert states == [states[0]] * before
    assert states[0]["samples_consumed"] == 2 * before
    assert sorted(seen) == sorted(order[: 2 * before])
    hands = []
    for rank in range(after):
        loader = make(dataset, batch_size=3, rank=rank, world_size=after)
        loader.load_state_dict(states[0])
        hands.append([key for batch in loader for key in batch["__key__"]])
    assert len({len(hand) for hand in hands}) == 1
    rest = [key for step in zip(*hands, strict=True) for key in step]
    assert rest[: SAMPLES - 2 * before] == order[2 * before :]
    # What comes after is padding, from the beginning of the order.
    padding = rest[SAMPLES - 2 * before :]
    assert len(padding) < after
    assert padding == order[: len(padding)]


def test_the_state_counts_what_was_yielded_and_not_what_waits(dataset: dp.Dataset) -> None:
    loader = make(dataset, num_workers=2, prefetch_factor=4)
    batches = iter(loader)
    next(batches)
    while ready_count(batches) < 4:
        pass  # until batches are ready that nobody has taken
    assert loader.state_dict()["num_yielded"] == 1
    assert loader.state_dict()["samples_consumed"] == 2


def test_a_user_s_sampler_resumes_behind_the_batches_it_yielded(dataset: dp.Dataset) -> None:
    order = [3, 1, 4, 1, 5, 9, 2, 6, 5]
    for stop in range(6):
        loader = dp.DataLoader(dataset, 2, sampler=order)
        batches = iter(loader)
        for _ in range(stop if stop < 5 else 5):
            next(batches)
        resumed = dp.DataLoader(dataset, 2, sampler=order)
        resumed.load_state_dict(loader.state_dict())
        keys = [key for batch in resumed for key in batch["__key__"]]
        assert keys == [f"case-{i:03d}" for i in order[2 * stop :]]


def test_set_epoch_says_which_epoch_is_next_and_epochs_follow_on(dataset: dp.Dataset) -> None:
    expected = epochs(make(dataset), 4)
    loader = make(dataset)
    loader.set_epoch(2)
    assert epochs(loader, 2) == expected[2:]
    for epoch in (3, 0, 1):
        loader.set_epoch(epoch)
        assert epochs(loader, 1) == [expected[epoch]]
    with pytest.raises(dp.ConfigError, match="at least 0"):
        loader.set_epoch(-1)


def test_set_epoch_after_a_load_keeps_the_place_only_in_the_same_epoch(
    dataset: dp.Dataset,
) -> None:
    expected = epochs(make(dataset), 3)
    loader = make(dataset)
    loader.set_epoch(1)
    next(iter(loader))
    state = loader.state_dict()
    for epoch, rest in ((1, expected[1][1:]), (2, expected[2])):
        resumed = make(dataset)
        resumed.load_state_dict(state)
        resumed.set_epoch(epoch)
        assert epochs(resumed, 1) == [rest]


def test_set_epoch_reaches_the_user_s_sampler(dataset: dp.Dataset) -> None:
    sampler = torch.utils.data.DistributedSampler(dataset, num_replicas=2, rank=0, seed=4)
    loader = dp.DataLoader(dataset, sampler=sampler)
    first, again = epochs(loader, 2)
    assert first == again  # nobody said which epoch it is
    for said_by in (loader, sampler):
        said_by.set_epoch(5)
        assert sampler.epoch == 5
        (fifth,) = epochs(loader, 1)
        assert sampler.epoch == 5
        assert fifth != first
        said_by.set_epoch(0)
        assert epochs(loader, 1) == [first]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset_length": 10}, "10 samples, this one has 11"),
        ({"seed": 12}, "seed=12"),
        ({"order": "sequential"}, "sequential order, this loader's is shuffled"),
        ({"version": 4}, "version is 4"),
        ({"dataset": "0123"}, "of dataset 0123"),
        ({"epoch": -1}, "epoch must be a count"),
        ({"samples_consumed": "4"}, "samples_consumed must be a count"),
        ({"num_yielded": True}, "num_yielded must be a count"),
        ({"samples_consumed": 1, "num_yielded": 2}, "1 samples in 2 batches behind it"),
        ({"samples_consumed": 10**6, "num_yielded": 3}, "1000000 samples in 3 batches behind it"),
        ({"extra": 1}, "unknown entries: extra"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(
    dataset: dp.Dataset, change: dict, message: str
) -> None:
    loader = make(dataset)
    state = {**loader.state_dict(), **change}
    with pytest.raises(dp.ConfigError, match=message):
        loader.load_state_dict(state)
    with pytest.raises(dp.ConfigError, match="not a loader state"):
        loader.load_state_dict({})
    assert len(epochs(loader, 1)[0]) == len(loader)


def test_the_length_is_that_of_a_whole_epoch(dataset: dp.Dataset) -> None:
    assert len(make(dataset)) == 6
    assert len(make(dataset, drop_last=True)) == 5
    assert len(make(dataset, rank=0, world_size=2)) == 3
    assert len(make(dataset, rank=0, world_size=2, drop_last=True)) == 2
    assert len(make(dataset, batch_size=None)) == SAMPLES
    loader = make(dataset)
    batches = iter(loader)
    next(batches)
    resumed = make(dataset)
    resumed.load_state_dict(loader.state_dict())
    assert len(resumed) == 6
