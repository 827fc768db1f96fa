"""Who says which epoch it is, and which seed: torch's meaning, or that of whoever set it."""

from __future__ import annotations

import copy
import json
import logging
import os
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DistributedSampler, RandomSampler

import dataplane as dp
from tests.datasets.packed import SAMPLES, Packed


@pytest.fixture
def dataset(packed: Packed) -> Iterator[dp.Dataset]:
    with dp.Dataset(packed.url, ["global_data/mach"], cache=False) as opened:
        yield opened


def keys(loader: Any) -> list[str]:
    return [key for batch in loader for key in batch["__key__"]]


def order(seed: int, epoch: int) -> list[str]:
    return [f"case-{i:03d}" for i in dp.permutation(SAMPLES, seed=seed, epoch=epoch)]


def test_a_look_at_one_batch_moves_nothing(dataset: dp.Dataset) -> None:
    loader = dp.DataLoader(dataset, 2, shuffle=True, seed=5, num_workers=2)
    for _ in range(3):
        next(iter(loader))
    assert [keys(loader) for _ in range(2)] == [order(5, 0), order(5, 1)]
    next(iter(loader))
    assert keys(loader) == order(5, 2)


def test_a_pass_that_is_left_later_counts(dataset: dp.Dataset) -> None:
    loader = dp.DataLoader(dataset, 2, shuffle=True, seed=5)
    for epoch in range(3):
        for number, batch in enumerate(loader):
            assert list(batch["__key__"]) == order(5, epoch)[2 * number : 2 * number + 2]
            if number == 2:
                break


def test_a_look_after_a_resume_moves_nothing_either(dataset: dp.Dataset) -> None:
    loader = dp.DataLoader(dataset, 2, shuffle=True, seed=5)
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    resumed = dp.DataLoader(dataset, 2, shuffle=True, seed=5)
    resumed.load_state_dict(loader.state_dict())
    next(iter(resumed))
    assert keys(resumed) == order(5, 0)[6:]
    assert keys(resumed) == order(5, 1)


def test_the_epoch_that_is_set_is_the_one_of_the_state(dataset: dp.Dataset) -> None:
    loader = dp.DataLoader(dataset, 2, shuffle=True, seed=5)
    for said_by in (loader, loader.sampler):
        said_by.set_epoch(5)
        assert loader.state_dict()["epoch"] == 5
        assert keys(loader) == order(5, 5)
        assert loader.state_dict()["epoch"] == 6


def test_an_epoch_named_while_an_iterator_waits_is_the_one_it_reads(dataset: dp.Dataset) -> None:
    for by_sampler in (False, True):
        loader = dp.DataLoader(dataset, 2, shuffle=True, seed=5)
        batches = iter(loader)
        (loader.sampler if by_sampler else loader).set_epoch(4)
        assert list(next(batches)["__key__"]) == order(5, 4)[:2]
        state = loader.state_dict()
        assert (state["epoch"], state["num_yielded"]) == (4, 1)
        loader.set_epoch(7)  # for the next pass: the place in this one is kept while it is open
        next(batches)
        assert (loader.state_dict()["epoch"], loader.state_dict()["num_yielded"]) == (4, 2)
        batches.close()
        assert loader.state_dict()["epoch"] == 7
        assert keys(loader) == order(5, 7)


def test_of_several_ranks_one_may_look_with_an_iterator_that_it_keeps(dataset: dp.Dataset) -> None:
    loaders = [
        dp.DataLoader(dataset, 2, shuffle=True, seed=5, rank=rank, world_size=2) for rank in (0, 1)
    ]
    kept = iter(loaders[0])
    next(kept)
    hands = [keys(loader) for loader in loaders]
    assert set(hands[0]) | set(hands[1]) == set(order(5, 0))
    kept.close()


def test_the_epoch_after_the_one_that_was_loaded_can_be_named(dataset: dp.Dataset) -> None:
    for by_sampler in (False, True):
        loader = dp.DataLoader(dataset, 2, shuffle=True, seed=5)
        batches = iter(loader)
        for _ in range(3):
            next(batches)
        resumed = dp.DataLoader(dataset, 2, shuffle=True, seed=5)
        resumed.load_state_dict(loader.state_dict())
        (resumed.sampler if by_sampler else resumed).set_epoch(1)
        assert keys(resumed) == order(5, 1)


def test_the_canonical_loop_resumes_at_the_epoch_that_it_says(dataset: dp.Dataset) -> None:
    def run(epochs: range) -> list[list[str]]:
        sampler = DistributedSampler(dataset, num_replicas=2, rank=1, seed=3)
        loader = dp.DataLoader(dataset, 2, sampler=sampler, num_workers=2)
        found = []
        for epoch in epochs:
            sampler.set_epoch(epoch)
            found.append(keys(loader))
        return found

    assert run(range(5, 7)) == run(range(7))[5:]


@pytest.mark.parametrize("workers", [0, 2])
def test_without_a_seed_torch_s_own_numbers_decide(dataset: dp.Dataset, workers: int) -> None:
    loader = dp.DataLoader(dataset, 2, shuffle=True, num_workers=workers)
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append([keys(loader), keys(loader)])
    assert runs[0] == runs[1] != runs[2]
    assert runs[0][0] != runs[0][1]
    fresh = dp.DataLoader(dataset, 2, shuffle=True)
    torch.manual_seed(1)
    assert [keys(fresh), keys(fresh)] == runs[0]


def test_the_drawn_seed_is_in_the_state_and_in_the_log(
    dataset: dp.Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "dataplane")
    loader = dp.DataLoader(dataset, 2, shuffle=True)
    batches = iter(loader)
    expected = [list(next(batches)["__key__"]) for _ in range(2)]
    state = loader.state_dict()
    rest = keys(batches)
    assert any(str(state["seed"]) in record.getMessage() for record in caplog.records)
    resumed = dp.DataLoader(dataset, 2, shuffle=True)
    resumed.load_state_dict(state)
    assert keys(resumed) == rest
    assert sorted([*expected[0], *expected[1], *rest]) == sorted(order(0, 0))


def test_two_passes_at_once_have_orders_of_their_own(dataset: dp.Dataset) -> None:
    loader = dp.DataLoader(dataset, 1, shuffle=True, seed=5)
    pairs = [(a["__key__"][0], b["__key__"][0]) for a, b in zip(loader, loader, strict=True)]
    assert [a for a, _ in pairs] == order(5, 0)
    assert [b for _, b in pairs] == order(5, 1)


def test_a_loader_that_is_put_together_from_the_parts_of_another_reads_the_same(
    dataset: dp.Dataset,
) -> None:
    loader = dp.DataLoader(dataset, 3, shuffle=True, seed=5, drop_last=True)
    expected = [list(batch["__key__"]) for batch in loader]
    for parts in (
        {"batch_sampler": loader.batch_sampler},
        {"batch_size": 3, "drop_last": True, "sampler": loader.sampler},
    ):
        for kind in (torch.utils.data.DataLoader, dp.DataLoader):
            loader.set_epoch(0)
            again = kind(dataset, collate_fn=loader.collate_fn, **parts)
            batches = list(again)
            assert [list(batch["__key__"]) for batch in batches] == expected
    loader.collate_fn = len
    assert list(loader) == [3, 3, 3]


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_a_used_loader_can_be_copied(dataset: dp.Dataset, copied: Any) -> None:
    loader = dp.DataLoader(dataset, 2, shuffle=True, seed=5, num_workers=2)
    loader.set_epoch(3)
    batches = iter(loader)
    next(batches)
    other = copied(loader)
    assert keys(other) == order(5, 3)
    assert len(keys(batches)) == SAMPLES - 2
    assert keys(copied(loader)) == order(5, 4)  # as the loader itself would
    state = {**loader.state_dict(), "epoch": 2, "samples_consumed": 4, "num_yielded": 2}
    loader.load_state_dict(state)
    assert keys(copied(loader)) == order(5, 2)[4:]


def test_a_forked_child_is_told_to_make_an_iterator_of_its_own(dataset: dp.Dataset) -> None:
    batches = iter(dp.DataLoader(dataset, 2, num_workers=2))
    next(batches)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            next(batches)
        except dp.LoaderError as err:
            code = 0 if "forked child" in str(err) else 2
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert len(keys(batches)) == SAMPLES - 2


def test_lists_of_a_sampler_without_a_batch_size_are_batches(dataset: dp.Dataset) -> None:
    lists = [[3, 1], [4], [1, 5, 9]]
    for transform in (None, lambda sample: sample):
        dataset.transform = transform
        for workers in (0, 2):
            loader = dp.DataLoader(dataset, batch_size=None, sampler=lists, num_workers=workers)
            found = [list(batch["__key__"]) for batch in loader]
            assert found == [[f"case-{i:03d}" for i in one] for one in lists]
            batches = list(loader)
            assert [len(batch["global_data/mach"]) for batch in batches] == [2, 1, 3]


class Chosen:
    """A sampler of torch's, by name, with what a test varies."""

    def __init__(self, dataset: dp.Dataset, kind: str, **given: Any) -> None:
        self.dataset, self.kind, self.given = dataset, kind, given

    def make(self, **changed: Any) -> dp.DataLoader[Any]:
        given = {"batch_size": 2, "num_replicas": 2, "rank": 0, "seed": 1, **changed}
        size = given.pop("batch_size")
        if self.kind == "random":
            return dp.DataLoader(self.dataset, size, sampler=RandomSampler(self.dataset))
        if self.kind == "replacing":
            sampler = RandomSampler(self.dataset, replacement=True, num_samples=40)
            return dp.DataLoader(self.dataset, size, sampler=sampler)
        if self.kind == "generator":
            generator = torch.Generator().manual_seed(4)
            sampler = RandomSampler(self.dataset, generator=generator)
            return dp.DataLoader(self.dataset, size, sampler=sampler)
        if self.kind == "batches":
            sampler = BatchSampler(RandomSampler(self.dataset), size, drop_last=False)
            return dp.DataLoader(self.dataset, batch_sampler=sampler)
        if self.kind == "lists":
            lists = [list(range(at, at + size)) for at in range(0, 10 - size, size)]
            return dp.DataLoader(self.dataset, batch_sampler=lists)
        return dp.DataLoader(self.dataset, size, sampler=DistributedSampler(self.dataset, **given))


KINDS = ["random", "replacing", "generator", "batches", "lists", "distributed"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_users_sampler_resumes_exactly_at_every_batch(dataset: dp.Dataset, kind: str) -> None:
    chosen = Chosen(dataset, kind)
    torch.manual_seed(9)
    expected = [list(batch["__key__"]) for batch in chosen.make()]
    for stop in range(len(expected) + 1):
        torch.manual_seed(9)
        loader = chosen.make()
        batches = iter(loader)
        for _ in range(stop):
            next(batches)
        state = loader.state_dict()
        torch.manual_seed(10)  # a fresh process is elsewhere
        before = torch.get_rng_state()
        resumed = chosen.make()
        resumed.load_state_dict(pickle.loads(pickle.dumps(state)))
        assert [list(batch["__key__"]) for batch in resumed] == expected[stop:]
        if kind != "generator" and stop:
            assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("distributed", {"num_replicas": 1}),
        ("distributed", {"num_replicas": 3}),
        ("distributed", {"rank": 1}),
        ("distributed", {"seed": 2}),
        ("lists", {"batch_size": 3}),
    ],
)
def test_a_users_sampler_that_does_not_repeat_itself_is_refused(
    dataset: dp.Dataset, kind: str, changed: dict[str, Any]
) -> None:
    chosen = Chosen(dataset, kind)
    loader = chosen.make()
    batches = iter(loader)
    for _ in range(2):
        next(batches)
    resumed = chosen.make(**changed)
    resumed.load_state_dict(loader.state_dict())
    with pytest.raises(dp.ConfigError, match="does not repeat the order"):
        iter(resumed)


def test_a_users_sampler_resumes_with_another_batch_size_where_it_gives_single_indices(
    dataset: dp.Dataset,
) -> None:
    chosen = Chosen(dataset, "distributed", num_replicas=1)
    expected = keys(chosen.make())
    loader = chosen.make()
    batches = iter(loader)
    next(batches)
    resumed = chosen.make(batch_size=3)
    resumed.load_state_dict(loader.state_dict())
    assert keys(resumed) == expected[2:]


class Counting:
    """A sampler that knows its own place, as torchdata's do."""

    def __init__(self) -> None:
        self.place = 0

    def __iter__(self) -> Iterator[int]:
        while self.place < 30:
            self.place += 1
            yield (self.place * 7) % SAMPLES
        self.place = 0

    def state_dict(self) -> dict[str, int]:
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.place = state["place"]


def test_a_sampler_with_a_state_of_its_own_is_asked_for_it(dataset: dp.Dataset) -> None:
    expected = keys(dp.DataLoader(dataset, 4, sampler=Counting()))
    for stop in range(9):
        loader = dp.DataLoader(dataset, 4, sampler=Counting())
        batches = iter(loader)
        for _ in range(min(stop, 8)):
            next(batches)
        resumed = dp.DataLoader(dataset, 4, sampler=Counting())
        resumed.load_state_dict(loader.state_dict())
        assert keys(resumed) == expected[4 * stop :]


@pytest.mark.parametrize("order", [True, False])
def test_batches_come_in_order_unless_they_need_not(dataset: dp.Dataset, order: bool) -> None:
    dataset.transform = slow_first
    loader = dp.DataLoader(dataset, 1, num_workers=2, in_order=order)
    batches = iter(loader)
    first = next(batches)["__key__"][0]
    assert (first == "case-000") is order
    if not order:
        with pytest.raises(dp.ConfigError, match="in_order=False"):
            loader.state_dict()
    rest = keys(batches)
    assert sorted([first, *rest]) == [f"case-{i:03d}" for i in range(SAMPLES)]
    assert loader.state_dict()["epoch"] == 1


def slow_first(sample: dict[str, Any]) -> dict[str, Any]:
    import time

    if sample["__key__"] == "case-000":
        time.sleep(0.3)
    return sample


def test_batches_move_to_a_device_as_dicts_of_tensors_do(dataset: dp.Dataset) -> None:
    for batch in dp.DataLoader(dataset, 2):
        moved = {name: value.to("cpu", non_blocking=True) for name, value in batch.items()}
        assert moved["__key__"] == batch["__key__"]
        assert pickle.loads(pickle.dumps(moved["__key__"])) == batch["__key__"]
    for transform in (None, lambda sample: sample):
        dataset.transform = transform
        for size in (2, None):
            for batch in dp.DataLoader(dataset, size, keys=False):
                assert list(batch) == ["global_data/mach"]


@pytest.mark.parametrize("kind", ["shuffle", "sampler"])
def test_a_job_that_stops_after_each_epoch_goes_on_with_its_generator(
    dataset: dp.Dataset, kind: str
) -> None:
    def make() -> dp.DataLoader[Any]:
        generator = torch.Generator().manual_seed(3)
        if kind == "shuffle":
            return dp.DataLoader(dataset, 2, shuffle=True, generator=generator)
        return dp.DataLoader(dataset, 2, sampler=RandomSampler(dataset, generator=generator))

    whole = make()
    expected = [keys(whole) for _ in range(3)]
    assert len({tuple(epoch) for epoch in expected}) == 3
    state: dict[str, Any] | None = None
    for epoch in expected:
        loader = make()
        if state is not None:
            loader.load_state_dict(json.loads(json.dumps(state)))
        assert keys(loader) == epoch
        state = loader.state_dict()


@pytest.mark.parametrize("damaged", ["no state", "", None, 7])
def test_a_state_whose_generator_is_damaged_is_refused(dataset: dp.Dataset, damaged: Any) -> None:
    def make() -> dp.DataLoader[Any]:
        return dp.DataLoader(dataset, 2, shuffle=True, generator=torch.Generator())

    loader = make()
    keys(loader)
    state = loader.state_dict()
    state["sampler"] = {**state["sampler"], "random": damaged}
    with pytest.raises(dp.ConfigError, match="generator cannot be put back"):
        make().load_state_dict(state)
    with pytest.raises(dp.ConfigError, match="sampler must be a dict, got str"):
        make().load_state_dict({**state, "sampler": "x"})


NODE = {"assign": "node", "rank": 0, "world_size": 2}


@pytest.mark.parametrize(
    ("own", "given", "message"),
    [
        ({}, {"weights": [1.0] * SAMPLES}, "weights and the sampler .* a shuffled order, seed 5"),
        ({}, {"seed": 6}, "seed=6 and the sampler"),
        ({}, {"rank": 0, "world_size": 2}, "rank=0 and world_size=2 and the sampler"),
        ({"rank": 0, "world_size": 2}, {"rank": 1, "world_size": 2}, "seed 5, rank 0 of 2"),
        ({}, {"assign": "node"}, 'assign="node" and the sampler'),
        ({**NODE, "ranks_per_node": 1}, {**NODE, "ranks_per_node": 2}, "ranks_per_node=2 and the"),
    ],
)
@pytest.mark.parametrize("part", ["sampler", "batch_sampler"])
def test_arguments_beside_the_sampler_of_another_loader_are_its_own_or_refused(
    dataset: dp.Dataset, own: dict[str, Any], given: dict[str, Any], message: str, part: str
) -> None:
    loader = dp.DataLoader(dataset, shuffle=True, seed=5, **own)
    parts = {part: getattr(loader, part)}
    with pytest.raises(dp.ConfigError, match=message):
        dp.DataLoader(dataset, **parts, **given)
    again = dp.DataLoader(dataset, **parts, seed=5, **own)
    assert again.sampler is loader.sampler or again.batch_sampler is loader.batch_sampler


def test_weights_beside_a_sampler_that_draws_by_them_are_taken(dataset: dp.Dataset) -> None:
    weights = [1.0, *[0.0] * (SAMPLES - 1)]
    loader = dp.DataLoader(dataset, weights=weights, num_samples=4, seed=5)
    parts = {"sampler": loader.sampler, "shuffle": False}
    again = dp.DataLoader(dataset, weights=weights, num_samples=4, seed=5, **parts)
    assert keys(again) == ["case-000"] * 4
    with pytest.raises(dp.ConfigError, match="weights and the sampler"):
        dp.DataLoader(dataset, weights=weights, num_samples=5, seed=5, **parts)


def test_a_mix_keeps_its_proportions_beside_the_sampler_of_another_loader(
    dataset: dp.Dataset,
) -> None:
    mix = dp.mix([dataset, dataset], weights=[1, 3], stop=8)
    with pytest.raises(dp.ConfigError, match="a mix and the sampler"):
        dp.DataLoader(mix, sampler=dp.DataLoader(dataset, shuffle=True).sampler)
    for shuffle in (None, False):
        loader = dp.DataLoader(mix, seed=5, shuffle=shuffle)
        again = dp.DataLoader(mix, sampler=loader.sampler, seed=5, shuffle=False)
        assert len(keys(again)) == 8
