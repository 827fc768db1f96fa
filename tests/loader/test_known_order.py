"""Known orders against dealing by hand: at any stop, with any world and batch size, lazily."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from dataplane.datasets.looks import Looked
from dataplane.datasets.mixture import Mixed
from dataplane.datasets.order import InOrder, OrderRule, Shuffled
from dataplane.datasets.sharded import Sharded
from dataplane.datasets.weighted import Weighted
from dataplane.errors import ConfigError
from dataplane.loader.known_batches import AT_ONCE, KnownBatches, KnownOrder
from dataplane.loader.sampler import EpochSampler
from dataplane.loader.state import LoaderState

RULES: dict[str, Callable[[int], OrderRule]] = {
    "sequential": InOrder,
    "shuffled": Shuffled,
    "mixed": lambda n: Mixed((5, 3, 9), (2, 1, 4), n, is_drawn=True),
    "mixed in order": lambda n: Mixed((5, 300), (2, 1), n, is_drawn=False),
    "shards": lambda n: Sharded.of(np.arange(n) // 3, 2),
    "shards apart": lambda n: Sharded.of(np.arange(n) % 5, 2),
    "weighted": lambda n: Weighted.of(range(1, 6), 5, n),
}
WORLDS = (1, 2, 3, 4)
EPOCH = 3


@pytest.fixture(params=RULES)
def make_rule(request: pytest.FixtureRequest) -> Callable[[int], OrderRule]:
    return RULES[request.param]


def order_of(rule: OrderRule, **given: Any) -> KnownOrder:
    values = {"seed": 9, "rank": 0, "world_size": 1, "batch_size": 1, "drop_last": False, **given}
    return KnownOrder(rule, **values)


def reads(rule: OrderRule) -> list[tuple[int, int]]:
    """The samples and looks of a whole epoch, one by one."""
    order = rule.of_epoch(9, EPOCH)
    found = []
    for position in range(rule.length):
        samples, looks = order.read([position])
        found.append((int(samples[0]), 0 if looks is None else int(looks[0])))
    return found


def got(batch: list[int]) -> Iterator[tuple[int, int]]:
    yield from zip(
        batch, batch.looks if isinstance(batch, Looked) else [0] * len(batch), strict=True
    )


def along_the_order(ranks: list[list[list[int]]]) -> list[tuple[int, int]]:
    """What ranks have read, in the order of their turns."""
    turns = itertools.zip_longest(*([*map(got, rank)] for rank in ranks))
    found = []
    for batches in turns:
        for turn in itertools.zip_longest(*(batch for batch in batches if batch is not None)):
            found += [one for one in turn if one is not None]
    return found


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("before", WORLDS)
def test_a_stop_at_every_batch_goes_on_with_every_world(
    make_rule: Callable[[int], OrderRule], before: int, drop_last: bool
) -> None:
    rule = make_rule(17)
    whole = reads(rule)
    given = {"batch_size": 2, "world_size": before, "drop_last": drop_last}
    ranks = [order_of(rule, rank=rank, **given) for rank in range(before)]
    passes = [[*KnownBatches(order, EPOCH, 0).batches()] for order in ranks]
    for stop in range(len(passes[0]) + 1):
        start = ranks[0].consumed(0, stop)
        seen = along_the_order([batches[:stop] for batches in passes])
        assert len(seen) == start
        assert seen == [whole[place % rule.length] for place in range(start)]
        for after, size in itertools.product(WORLDS, (1, 3)):
            orders = [
                order_of(rule, rank=rank, world_size=after, batch_size=size, drop_last=drop_last)
                for rank in range(after)
            ]
            feeds = [KnownBatches(order, EPOCH, start) for order in orders]
            rest = along_the_order([[*feed.batches()] for feed in feeds])
            left = max(rule.length - start, 0)
            steps = left // after // size if drop_last else -(-left // after)
            assert len(rest) == steps * after * (size if drop_last else 1)
            places = range(start, start + len(rest))
            assert rest == [whole[place % rule.length] for place in places]


@pytest.mark.parametrize("size", [1, 7, AT_ONCE - 1, AT_ONCE, AT_ONCE + 1])
@pytest.mark.parametrize("is_by_batch", [False, True])
def test_batches_are_the_samples_of_the_rank_however_many_are_computed_at_once(
    make_rule: Callable[[int], OrderRule], size: int, is_by_batch: bool
) -> None:
    order = order_of(
        make_rule(20_011), rank=1, world_size=2, batch_size=size, is_by_batch=is_by_batch
    )
    feed = KnownBatches(order, EPOCH, 6)
    batches = [*feed.batches()]
    assert batches == [*feed.ahead()]
    assert len(batches) == len(feed)
    assert {len(batch) for batch in batches[:-1]} <= {size}
    assert [one for batch in batches for one in batch] == order.indices(EPOCH, 6).tolist()
    assert order.of_epoch(EPOCH, 6).batch(2)[0].tolist() == (batches[2] if len(batches) > 2 else [])


def test_the_sampler_gives_what_the_batches_hold(make_rule: Callable[[int], OrderRule]) -> None:
    for rank, drop_last in itertools.product(range(3), (False, True)):
        sampler = EpochSampler(
            make_rule(10_001),
            seed=9,
            generator=None,
            rank=rank,
            world_size=3,
            drop_last=drop_last,
        )
        sampler.set_epoch(EPOCH)
        order = order_of(make_rule(10_001), rank=rank, world_size=3, drop_last=drop_last)
        assert [*sampler] == order.indices(EPOCH).tolist()
        assert len(sampler) == len([*sampler])
        if not drop_last:
            alone = [*sampler.without_padding()]
            assert len(alone) == len(range(rank, 10_001, 3))


def test_a_pass_over_a_billion_samples_holds_no_more_than_a_few_batches() -> None:
    tracemalloc.start()
    feed = KnownBatches(order_of(Shuffled(10**9), batch_size=64), 0, 0)
    first = [*itertools.islice(feed.batches(), 300)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(feed) == 15_625_000
    assert len({one for batch in first for one in batch}) == 300 * 64
    assert peak < 8 << 20


def test_a_closed_source_ends_both_iterations() -> None:
    feed = KnownBatches(order_of(Shuffled(100)), 0, 0)
    batches, ahead = feed.batches(), feed.ahead()
    next(batches)
    feed.close()
    assert [*batches] == [*ahead] == []


def state(version: int, length: int, order: str = "shuffled") -> dict[str, Any]:
    values = {
        "epoch": 3, "samples_consumed": 8, "num_yielded": 4, "order": order, "seed": 9,
        "dataset_length": length, "version": version,
    }  # fmt: skip
    if version == 2:
        values |= {"is_seed_of_pass": False, "dataset": "", "rank": 0}
    return values


@pytest.mark.parametrize("version", [1, 2])
def test_a_state_of_an_earlier_version_is_read_where_its_order_is_still_the_same(
    version: int,
) -> None:
    for order, length in (("shuffled", 65_536), ("sequential", 10**9), ("sampler", 10**9)):
        read = LoaderState.from_dict(state(version, length, order))
        assert read.version == 3
        assert (read.epoch, read.samples_consumed, read.order_details) == (3, 8, "")
    with pytest.raises(ConfigError, match=rf"version {version} in an epoch of 65537 shuffled"):
        LoaderState.from_dict(state(version, 65_537))


@pytest.mark.parametrize("version", [0, 4, True, 2.0, None, "3", [3]])
def test_a_state_of_no_known_version_is_refused(version: Any) -> None:
    with pytest.raises(ConfigError, match="not a loader state of version 3"):
        LoaderState.from_dict({**state(2, 100), "version": version})
