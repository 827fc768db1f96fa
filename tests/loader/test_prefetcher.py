"""The plan of a loader goes on into the next epoch, and ends with whatever else comes."""

from __future__ import annotations

import contextlib
import gc
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest

import dataplane as dp
from dataplane.cache import Cache, CacheConfig
from dataplane.cache.plan import Plan
from tests.cache.fakes import wait_until
from tests.cache.inside import is_idle, jobs_lock, pins_lock, pins_of, plan_count
from tests.datasets.packed import SAMPLES, Packed
from tests.loader.inside import (
    epoch_of_plan,
    indices_of,
    is_pass_over,
    plan_lock,
    plan_of,
    prefetcher_of,
)

BLOCK = 4096


@pytest.fixture
def config(tmp_path: Path) -> CacheConfig:
    return CacheConfig(dir=tmp_path / "cache", block_bytes=BLOCK)


@pytest.fixture
def cache(config: CacheConfig) -> Iterator[Cache]:
    with Cache.shared(config) as opened:
        yield opened


@pytest.fixture
def make(packed: Packed, cache: Cache) -> Callable[..., dp.DataLoader]:
    """A loader of one rank of three: its next epoch reads what this one did not."""

    def one(config: CacheConfig = cache.config, **given: object) -> dp.DataLoader:
        dataset = dp.Dataset(packed.url, ["points", "fields/velocity"], cache=config)
        ranks = (
            {} if "sampler" in given else {"shuffle": True, "seed": 0, "rank": 0, "world_size": 3}
        )
        return dp.DataLoader(dataset, **{"batch_size": 2, "num_workers": 1, **ranks, **given})

    return one


def needed_by(loader: dp.DataLoader, *epochs: int) -> int:
    """How many blocks this rank needs in some epochs: fewer than a plan fetches.

    A plan reads neighbouring ranges as one, so it has blocks that lie between them; where the
    reader is ahead of the plan these are left out.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = CacheConfig(dir=Path(folder) / "c", block_bytes=BLOCK)
        with Cache.shared(config) as cache:
            dataset = dp.Dataset(loader.dataset.url, ["points", "fields/velocity"], cache=config)
            for epoch in epochs:
                for index in indices_of(loader, epoch):
                    dataset.numpy(index)
            return int(cache.counters["cache_fetches"])


def blocks_of(loader: dp.DataLoader, *epochs: int) -> set[tuple[str, int]]:
    """What a plan has for this rank in some epochs."""
    reader = loader.dataset.reader()
    return {
        (read.source.name, block)
        for epoch in epochs
        for index in indices_of(loader, epoch)
        for read in reader.planned(index, 0)
        for block in range(read.start // BLOCK, -(-read.stop // BLOCK))
    }


def plan_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "dp-plan"]


def keys(batches: list[dict]) -> list[str]:
    return [key for batch in batches for key in batch["__key__"]]


def test_the_next_epoch_is_fetched_before_it_begins_and_taken_over(make, cache):
    loader = make()
    list(loader)
    both = blocks_of(loader, 0, 1)
    assert len(both) > len(blocks_of(loader, 0))
    assert needed_by(loader, 0, 1) > needed_by(loader, 0)
    needed = needed_by(loader, 0, 1)
    wait_until(lambda: cache.counters["cache_fetches"] >= needed and is_idle(cache))
    assert cache.counters["cache_fetches"] <= len(both)
    prefetcher, misses = prefetcher_of(loader), cache.counters["cache_misses"]
    batches = iter(loader)
    assert prefetcher_of(loader) is prefetcher
    next(batches)
    assert cache.counters["cache_misses"] == misses
    rest = list(batches)
    assert len(rest) == len(loader) - 1
    every = blocks_of(loader, 0, 1, 2)
    needed = needed_by(loader, 0, 1, 2)
    wait_until(lambda: cache.counters["cache_fetches"] >= needed and is_idle(cache))
    assert cache.counters["cache_fetches"] <= len(every)
    assert cache.counters["cache_misses"] == misses


def test_what_is_fetched_of_the_next_epoch_is_limited(make, packed, tmp_path):
    config = CacheConfig(dir=tmp_path / "c", block_bytes=BLOCK, next_epoch_bytes=3 * BLOCK)
    with Cache.shared(config) as cache:
        loader = make(config)
        list(loader)
        wait_until(lambda: pins_of(cache))
        wait_until(lambda: plan_of(loader).ahead_bytes == 3 * BLOCK)
        wait_until(lambda: is_idle(cache))
        assert cache.counters["cache_fetches"] <= len(blocks_of(loader, 0)) + 3
        assert len(pins_of(cache)) == 3


def test_a_limit_of_nothing_ends_the_plan_with_its_pass(make, tmp_path):
    config = CacheConfig(dir=tmp_path / "c", block_bytes=BLOCK, next_epoch_bytes=0)
    with Cache.shared(config) as cache:
        loader = make(config)
        list(loader)
        wait_until(lambda: not plan_threads())
        assert needed_by(loader, 0) <= cache.counters["cache_fetches"] <= len(blocks_of(loader, 0))
        for name, block in blocks_of(loader, 1) - blocks_of(loader, 0):
            there = cache.existing(name)
            assert there is None or not there.is_ready(block)
        assert len(keys(list(loader))) == 4


def test_batches_are_those_of_a_loader_without_foresight(make, packed, tmp_path):
    plain = CacheConfig(dir=tmp_path / "c", block_bytes=BLOCK, next_epoch_bytes=0)
    with Cache.shared(plain):
        one, other = make(), make(plain)
        for _ in range(4):
            assert keys(list(one)) == keys(list(other))
            assert one.state_dict() == other.state_dict()


def _another_epoch(loader: dp.DataLoader) -> None:
    loader.set_epoch(5)
    list(loader)


def _resumed(loader: dp.DataLoader) -> None:
    state = {**loader.state_dict(), "num_yielded": 1, "samples_consumed": 6}
    loader.load_state_dict(state)
    list(loader)


def _left_early(loader: dp.DataLoader) -> None:
    next(iter(loader))
    gc.collect()
    list(loader)


def _of_another_process(loader: dp.DataLoader) -> None:
    loader.dataset.close()  # as after a fork: the reader is made again
    list(loader)


@pytest.mark.parametrize("act", [_another_epoch, _resumed, _left_early, _of_another_process])
def test_a_pass_that_was_not_foreseen_gets_a_plan_of_its_own(make, cache, act):
    loader = make(num_workers=0)  # so that nothing is read before it is asked for
    list(loader)
    before = plan_of(loader)
    act(loader)
    assert plan_of(loader) is not before
    wait_until(partial(getattr, before, "is_closed"))  # by a thread of the pass that was left
    wait_until(lambda: len(plan_threads()) == 1)
    del loader, before
    gc.collect()
    wait_until(lambda: not plan_threads())
    assert pins_of(cache) == {}
    assert cache.buffer.held_bytes == 0


def test_the_epoch_that_was_foreseen_may_be_named(make):
    loader = make()
    list(loader)
    prefetcher = prefetcher_of(loader)
    loader.set_epoch(1)
    loader.load_state_dict(loader.state_dict())
    list(loader)
    assert prefetcher_of(loader) is prefetcher


def test_a_loop_that_counts_its_batches_is_followed_too(make):
    """It never asks for the batch after the last one."""
    loader = make()
    batches = iter(loader)
    for _ in range(len(loader)):
        next(batches)
    prefetcher = prefetcher_of(loader)
    following = iter(loader)
    assert prefetcher_of(loader) is prefetcher
    del batches
    gc.collect()
    assert not plan_of(loader).is_closed
    assert len(list(following)) == len(loader)


def test_nobody_s_loader_has_no_plan(make, cache):
    loader = make()
    list(loader)
    wait_until(lambda: len(plan_threads()) == 1)
    del loader
    gc.collect()
    wait_until(lambda: not plan_threads())
    assert pins_of(cache) == {}


def _plan_lock(loader: dp.DataLoader, cache: Cache) -> AbstractContextManager[object]:
    return plan_lock(loader)


def _pins_lock(loader: dp.DataLoader, cache: Cache) -> AbstractContextManager[object]:
    return pins_lock(cache)


def _jobs_lock(loader: dp.DataLoader, cache: Cache) -> AbstractContextManager[object]:
    return jobs_lock(cache)


@pytest.mark.parametrize("lock_of", [_plan_lock, _pins_lock, _jobs_lock])
def test_the_garbage_collector_may_come_in_the_middle_of_anything(make, cache, lock_of):
    loader = make()
    list(loader)
    wait_until(lambda: pins_of(cache))
    cycle: list[object] = [loader]
    cycle.append(cycle)
    lock = lock_of(loader, cache)
    del loader, cycle
    collected = threading.Event()

    def collect() -> None:
        with lock:
            gc.collect()
        collected.set()

    threading.Thread(target=collect, daemon=True).start()
    assert collected.wait(5)
    wait_until(lambda: not plan_threads())
    assert pins_of(cache) == {}
    assert plan_count(cache) == 0


def test_a_pass_is_not_over_before_its_plan_knows_of_its_last_batch(make, monkeypatch):
    loader, over = make(), []
    advance = Plan.advance

    def noted(self: Plan, step: int) -> None:
        over.append(is_pass_over(loader))
        advance(self, step)

    monkeypatch.setattr(Plan, "advance", noted)
    list(loader)
    assert over == [False] * len(loader)
    assert is_pass_over(loader)


def test_closing_the_cache_ends_a_plan_that_waits_for_its_next_epoch(make, cache):
    loader = make()
    list(loader)
    wait_until(lambda: pins_of(cache))
    cache.close()
    assert not plan_threads()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_makes_a_plan_of_its_own_and_leaves_the_parent_s(make, cache):
    loader = make()
    list(loader)
    prefetcher = prefetcher_of(loader)
    wait_until(lambda: pins_of(cache))
    with pins_lock(cache):  # as if a thread of the parent were at it
        child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(BaseException):
                code = (
                    0
                    if len(keys(list(loader))) == 4 and prefetcher_of(loader) is not prefetcher
                    else 2
                )
                del prefetcher, loader
                gc.collect()
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    list(loader)
    assert prefetcher_of(loader) is prefetcher


def test_a_plan_of_the_user_s_sampler_ends_with_its_pass(make, cache):
    loader = make(sampler=[3, 1, 4])
    list(loader)
    wait_until(lambda: not plan_threads())
    assert pins_of(cache) == {}
    assert keys(list(loader)) == ["case-003", "case-001", "case-004"]


def test_passes_at_once_leave_no_plan_behind(make, cache):
    loader = make()
    first, second = iter(loader), iter(loader)
    for _ in zip(first, second, strict=True):
        pass
    del first, second
    gc.collect()
    wait_until(lambda: len(plan_threads()) == 1)
    assert epoch_of_plan(loader) == 0
    del loader
    gc.collect()
    wait_until(lambda: not plan_threads())
    assert pins_of(cache) == {}


def test_the_rest_of_an_epoch_that_is_empty_goes_on_to_the_next(make, cache):
    loader = make()
    for _ in loader:
        state = loader.state_dict()
    resumed = make()
    resumed.load_state_dict(state)
    assert list(resumed) == []
    prefetcher = prefetcher_of(resumed)
    assert len(list(resumed)) == len(resumed)
    assert prefetcher_of(resumed) is prefetcher


def test_validation_between_epochs_keeps_the_plan_of_training(make, packed, cache):
    training, validation = make(), make(seed=8)
    list(training)
    prefetcher = prefetcher_of(training)
    for _ in range(2):
        assert len(keys(list(validation))) == -(-SAMPLES // 3)
    assert prefetcher_of(training) is prefetcher
    list(training)
    assert prefetcher_of(training) is prefetcher
