"""Which share of the samples a process reads, and the seed that ranks share."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist

import dataplane as dp
from tests.datasets.packed import SAMPLES, Packed


def keys(loader: dp.DataLoader) -> list[str]:
    return [key for batch in loader for key in batch["__key__"]]


@pytest.fixture
def dataset(packed: Packed) -> Iterator[dp.Dataset]:
    with dp.Dataset(packed.url, ["global_data/mach"], cache=False) as opened:
        yield opened


@pytest.fixture
def one_of_two(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The second of two ranks, by the launcher's variables."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    return monkeypatch


@pytest.fixture
def group() -> Iterator[None]:
    """A process group of this process alone; its store is what ranks agree in."""
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


def test_the_launcher_says_the_rank_where_there_is_no_process_group(
    dataset: dp.Dataset, one_of_two: pytest.MonkeyPatch
) -> None:
    assert keys(dp.DataLoader(dataset)) == [f"case-{i:03d}" for i in [*range(1, 11, 2), 0]]


def test_the_rank_is_asked_for_when_a_pass_begins(
    dataset: dp.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = dp.DataLoader(dataset)
    assert len(loader) == SAMPLES
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert len(loader) == len(keys(loader)) == 6


def test_a_rank_that_changes_between_passes_is_an_error(
    dataset: dp.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = dp.DataLoader(dataset)
    keys(loader)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(dp.ConfigError, match="rank 1 of 2 and was 0 of 1"):
        keys(loader)


@pytest.mark.parametrize(("rank", "world"), [("2", "2"), ("x", "2"), ("-1", "2"), ("0", "0.5")])
def test_variables_that_are_no_rank_are_an_error(
    dataset: dp.Dataset, monkeypatch: pytest.MonkeyPatch, rank: str, world: str
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(dp.ConfigError, match=f"RANK={rank} and WORLD_SIZE={world}"):
        keys(dp.DataLoader(dataset))


def test_all_of_it_can_be_asked_for_on_each_rank(
    dataset: dp.Dataset, one_of_two: pytest.MonkeyPatch
) -> None:
    assert len(keys(dp.DataLoader(dataset, world_size=1))) == SAMPLES


def test_ranks_that_are_given_need_no_process_group(
    dataset: dp.Dataset, one_of_two: pytest.MonkeyPatch
) -> None:
    loader = dp.DataLoader(dataset, batch_size=2, rank=1, world_size=3)
    assert len(keys(loader)) == -(-SAMPLES // 3)


def test_ranks_that_cannot_agree_on_a_seed_are_refused(
    dataset: dp.Dataset, one_of_two: pytest.MonkeyPatch
) -> None:
    with pytest.raises(dp.ConfigError, match="only with a seed that all of them know"):
        keys(dp.DataLoader(dataset, shuffle=True))
    assert len(keys(dp.DataLoader(dataset, shuffle=True, seed=1))) == 6


def test_ranks_share_the_seed_that_the_first_of_them_draws(
    dataset: dp.Dataset,
    group: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The two ranks of this test are one process, which says that it is the one or the other."""
    caplog.set_level(logging.INFO, "dataplane")
    hands, seeds = [], []
    for rank in range(2):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(dist, "get_world_size", lambda: 2)
        torch.manual_seed(rank)  # as scripts do that augment differently on each rank
        loader = dp.DataLoader(dataset, shuffle=True)
        if rank == 0:
            next(iter(loader))  # a look, on this rank only
        hands.append(keys(loader))
        seeds.append(loader.state_dict()["seed"])
    assert seeds == [seeds[0]] * 2
    order = [f"case-{i:03d}" for i in dp.permutation(SAMPLES, seed=seeds[0], epoch=0)]
    assert hands == [order[0::2], [*order[1::2], order[0]]]
    assert any(str(seeds[0]) in record.getMessage() for record in caplog.records)


class Ranks:
    """Two ranks in one process, which says that it is the one or the other.

    Args:
        monkeypatch: of the test.
        dataset: what each rank reads.
        count: loaders of each rank.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, dataset: dp.Dataset, count: int) -> None:
        self._monkeypatch = monkeypatch
        self._dataset = dataset
        self.loaders: list[list[dp.DataLoader]] = []
        for rank in self.each():
            numbers = itertools.count()  # as in a process of its own
            monkeypatch.setattr("dataplane.loader.place._numbers", numbers)
            self.loaders.append([self.make() for _ in range(count)])
            assert len(self.loaders) == rank + 1

    def make(self) -> dp.DataLoader:
        loader = dp.DataLoader(self._dataset, batch_size=2, shuffle=True, seed=3)
        len(loader)  # it is in use, and has its number
        return loader

    def become(self, rank: int) -> None:
        self._monkeypatch.setattr(dist, "get_rank", lambda: rank)
        self._monkeypatch.setattr(dist, "get_world_size", lambda: 2)

    def each(self) -> Iterator[int]:
        for rank in range(2):
            self.become(rank)
            yield rank

    def epoch(self, which: int = 0) -> None:
        """Read an epoch as ranks that wait for each other: both begin before one ends."""
        passes = []
        for rank in self.each():
            passes.append(iter(self.loaders[rank][which]))
            next(passes[rank])
        for rank in self.each():
            assert len(list(passes[rank])) == 2


def test_a_rank_that_has_read_more_epochs_than_the_others_is_told(
    dataset: dp.Dataset, group: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its permutation is another than theirs, so samples come twice or not at all."""
    ranks = Ranks(monkeypatch, dataset, 1)
    ranks.become(0)
    for _ in zip(ranks.loaders[0][0], range(2), strict=False):
        pass  # looks at two batches, alone
    ranks.epoch()
    ranks.become(0)
    with pytest.warns(UserWarning, match=r"rank 0 has read epoch 1 .*rank 1 is in epoch 0"):
        next(iter(ranks.loaders[0][0]))


def test_ranks_in_step_are_told_nothing(
    dataset: dp.Dataset, group: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with a second loader of the same dataset, which is in another epoch."""
    ranks = Ranks(monkeypatch, dataset, 2)
    ranks.epoch(0)
    for _ in range(3):
        ranks.epoch(0)
        ranks.epoch(1)  # a warning would be an error


def test_a_store_that_is_gone_ends_no_run(
    dataset: dp.Dataset, group: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = Ranks(monkeypatch, dataset, 1)

    def gone() -> Any:
        raise dist.DistNetworkError("the first rank has left")

    monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", gone)
    for _ in range(2):
        ranks.epoch()


@pytest.mark.parametrize("has_group", [False, True])
def test_without_a_shuffle_ranks_share_the_seed_that_code_draws_from_where_they_can(
    dataset: dp.Dataset, monkeypatch: pytest.MonkeyPatch, has_group: bool, request: Any
) -> None:
    if has_group:
        request.getfixturevalue("group")
        monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    states = []
    for rank in range(2):
        if has_group:
            monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        torch.manual_seed(rank)
        loader = dp.DataLoader(dataset, 2, rank=rank, world_size=2)
        batches = iter(loader)
        next(batches)
        states.append(loader.state_dict())
        assert len(keys(batches)) == 4
    assert (states[0] == states[1]) is has_group
