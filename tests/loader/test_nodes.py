"""`assign="node"`: the same global batches, each sample with the node that owns it."""

from __future__ import annotations

import itertools
import pickle
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
import torch

import dataplane as dp
from dataplane.datasets.looks import Looked
from dataplane.datasets.mixture import Mixed
from dataplane.datasets.order import InOrder, OrderRule, Shuffled
from dataplane.datasets.ownership import Nodes, deal
from dataplane.datasets.sharded import Sharded
from dataplane.datasets.spread import Spread
from dataplane.datasets.weighted import Weighted
from dataplane.loader.known_batches import KnownBatches, KnownOrder
from dataplane.loader.order_arguments import OrderArguments
from dataplane.loader.sampler import ByNode, EpochSampler
from tests.datasets.packed import Packed
from tests.loader.inside import reads_of_pass

RULES: dict[str, tuple[int, Callable[[int], OrderRule]]] = {
    "sequential": (17, InOrder),
    "shuffled": (17, Shuffled),
    "mixed": (17, lambda n: Mixed((5, 3, 9), (2, 1, 4), n, is_drawn=True)),
    "shards": (17, lambda n: Sharded.of(np.arange(n) // 3, 2)),
    "weighted": (5, lambda n: Weighted.of(range(1, 6), 5, n)),
    "looks": (18, lambda n: Spread(18, 3, 2)),
}
WORLDS = [(1, 1), (2, 1), (2, 2), (3, 1), (3, 3), (4, 1), (4, 2), (4, 4)]
"""World size, and number of nodes."""
EPOCH = 3
Read = tuple[int, int]  # sample, look


def orders(rule: OrderRule, world: tuple[int, int | None], samples: int, **given: Any) -> Any:
    """The orders of all ranks; with None for the number of nodes, those of ranks in turns."""
    size, count = world
    values = {"seed": 9, "batch_size": 2, "drop_last": False, **given}
    nodes = None if count is None else Nodes(count, samples)
    return [
        KnownOrder(rule, rank=rank, world_size=size, nodes=nodes, **values) for rank in range(size)
    ]


def reads(batch: list[int]) -> list[Read]:
    looks = batch.looks if isinstance(batch, Looked) else [0] * len(batch)
    return [*zip(batch, looks, strict=True)]


def steps(ranks: list[KnownOrder], start: int) -> list[list[list[Read]]]:
    """What each rank reads in each step."""
    passes = [[*KnownBatches(order, EPOCH, start).batches()] for order in ranks]
    return [[reads(batch) for batch in step] for step in zip(*passes, strict=True)]


def joined(step: list[list[Read]]) -> Counter[Read]:
    return Counter(read for batch in step for read in batch)


@pytest.fixture(params=RULES)
def case(request: pytest.FixtureRequest) -> tuple[int, OrderRule]:
    samples, make = RULES[request.param]
    return samples, make(17)


@pytest.mark.parametrize("is_by_batch", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
def test_from_every_stop_every_step_of_every_world_is_the_batch_of_ranks_in_turns(
    case: tuple[int, OrderRule], drop_last: bool, is_by_batch: bool
) -> None:
    samples, rule = case
    given = {"drop_last": drop_last, "is_by_batch": is_by_batch}
    starts = set()
    for (world, count), size in itertools.product(WORLDS, (1, 2, 3)):
        (first, *_) = orders(rule, (world, count), samples, batch_size=size, **given)
        starts |= {first.consumed(0, stop) for stop in range(rule.length // world // size + 2)}
    assert len(starts) > 10
    for start, (world, count) in itertools.product(sorted(starts), WORLDS):
        size = 1 + 2 * (start % 2)
        by_node = orders(rule, (world, count), samples, batch_size=size, **given)
        in_turns = orders(rule, (world, None), samples, batch_size=size, **given)
        found, expected = steps(by_node, start), steps(in_turns, start)
        assert [*map(joined, found)] == [*map(joined, expected)]
        for step in found:
            assert len({len(batch) for batch in step}) == 1
        for order in by_node:
            feed = KnownBatches(order, EPOCH, start)
            assert len(feed) == len(found)
            assert [*feed.batches()] == [*feed.ahead()]


def test_a_run_that_stops_at_every_batch_and_changes_its_world_reads_each_place_once(
    case: tuple[int, OrderRule],
) -> None:
    samples, rule = case
    n = rule.length
    whole, looks = rule.of_epoch(9, EPOCH).read(np.arange(n))
    expected = Counter(zip(whole.tolist(), [0] * n if looks is None else looks, strict=True))
    for before, after in itertools.product(WORLDS, WORLDS):
        ranks = orders(rule, before, samples)
        for stop, done in enumerate([[], *itertools.accumulate([s] for s in steps(ranks, 0))]):
            start = ranks[0].consumed(0, stop)
            if start > n or (n - start) % after[0]:
                continue  # padded: which places come twice depends on the world
            rest = steps(orders(rule, after, samples, batch_size=3), start)
            got = sum(map(joined, [*done, *rest]), Counter())
            assert got == expected


def test_each_step_a_node_reads_what_it_owns_and_its_ranks_share_it() -> None:
    rule, nodes = Shuffled(200), Nodes(2, 200)
    ranks = orders(rule, (4, 2), 200, batch_size=5)
    for step in steps(ranks, 0):
        dealt = [
            {sample for batch in step[2 * m : 2 * m + 2] for sample, _ in batch} for m in (0, 1)
        ]
        row = np.array(sorted(dealt[0] | dealt[1]))[None]
        assert [set(row[deal(row, nodes) == m].tolist()) for m in (0, 1)] == dealt


@pytest.mark.parametrize("is_by_batch", [False, True])
def test_a_padded_batch_is_dealt_in_turns(is_by_batch: bool) -> None:
    rule = Shuffled(21)
    given = {"batch_size": 3, "is_by_batch": is_by_batch}
    by_node = steps(orders(rule, (4, 2), 21, **given), 0)
    in_turns = steps(orders(rule, (4, None), 21, **given), 0)
    assert by_node[-1] == in_turns[-1]
    assert by_node[0] != in_turns[0]


@pytest.mark.parametrize("size", [1, 7, 500, 5000])
def test_batches_do_not_depend_on_how_many_are_computed_at_once(size: int) -> None:
    order = orders(Shuffled(20_011), (4, 2), 20_011, batch_size=size)[2]
    feed = KnownBatches(order, EPOCH, 6)
    batches = [*feed.batches()]
    assert [one for batch in batches for one in batch] == order.indices(EPOCH, 6).tolist()
    of_rank = order.of_epoch(EPOCH, 6)
    for number in (0, 1, len(batches) - 1):
        assert of_rank.batch(number)[0].tolist() == batches[number]
    assert of_rank.read(3, 3 + size)[0].tolist() == order.indices(EPOCH, 6)[3 : 3 + size].tolist()


def test_the_sampler_gives_what_the_batches_hold_and_each_sample_once_without_padding() -> None:
    found = []
    for rank in range(4):
        by_node = ByNode(1003, batch_size=5, ranks_per_node=2)
        sampler = EpochSampler(
            Shuffled(1003),
            seed=9,
            generator=None,
            rank=rank,
            world_size=4,
            drop_last=False,
            by_node=by_node,
        )
        sampler.set_epoch(EPOCH)
        order = orders(Shuffled(1003), (4, 2), 1003, batch_size=5)[rank]
        assert [*sampler] == order.indices(EPOCH).tolist()
        assert len(sampler) == 251
        found += [*sampler.without_padding()]
    assert sorted(found) == [*range(1003)]


@dataclass(frozen=True)
class Planned:
    """A read, as a fake reader plans it."""

    samples: list[int]
    looks: list[int]
    step: int
    epoch: int
    is_guest: bool | None = None


class FakeReader:
    """What plans a read for all samples of a batch that it is asked for."""

    def planned_many(
        self, batches: list[list[int]], first_step: int, epoch: int = 0
    ) -> Iterator[Any]:
        for step, batch in enumerate(batches, first_step):
            samples, looks = zip(*reads(batch), strict=True)
            yield Planned(list(samples), list(looks), step, epoch)


def test_reads_say_whether_another_node_owns_their_samples(case: tuple[int, OrderRule]) -> None:
    samples, rule = case
    order = orders(rule, (4, 2), samples)[2]
    feed = KnownBatches(order, EPOCH, 0)
    planned = reads_of_pass(cast(Any, FakeReader()), feed)
    for read in planned:
        owners = Nodes(2, samples).owners(np.array(read.samples))
        assert read.is_guest in (True, False)
        assert set(owners.tolist()) == {0 if read.is_guest else 1}
    for step, batch in enumerate(feed.batches()):
        of_step = [read for read in planned if read.step == step]
        found = [pair for read in of_step for pair in zip(read.samples, read.looks, strict=True)]
        assert sorted(found) == sorted(reads(batch))
    in_turns = orders(rule, (4, None), samples)[2]
    planned = reads_of_pass(cast(Any, FakeReader()), KnownBatches(in_turns, EPOCH, 0))
    assert {read.is_guest for read in planned} == {None}


# -- the loader ------------------------------------------------------------------------------------


@pytest.fixture
def dataset(packed: Packed) -> Iterator[dp.Dataset]:
    with dp.Dataset(packed.url, ["global_data/mach"], cache=False) as opened:
        yield opened


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set the launcher's variables of a rank."""

    def launch(rank: int, world_size: int, on_node: int, **others: int) -> None:
        values = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": on_node}
        values |= {"GROUP_RANK": rank // on_node, "LOCAL_RANK": rank % on_node}
        for name, value in {**values, **others}.items():
            monkeypatch.setenv(name, str(value))

    return launch


def keys(loader: Any) -> list[list[str]]:
    return [list(batch["__key__"]) for batch in loader]


def flat(batches: Iterable[list[str]]) -> list[str]:
    return [key for batch in batches for key in batch]


def flat_ranks(ranks: Iterable[list[list[str]]]) -> list[str]:
    return sorted(key for batches in ranks for key in flat(batches))


GIVEN: dict[str, Any] = {"batch_size": 2, "shuffle": True, "seed": 4, "drop_last": True}


def test_the_launcher_says_which_node_a_rank_is_on(
    dataset: dp.Dataset, launched: Callable[..., None]
) -> None:
    for rank in range(4):
        launched(rank, 4, 2)
        found = keys(dp.DataLoader(dataset, assign="node", **GIVEN))
        given = {"rank": rank, "world_size": 4, "ranks_per_node": 2}
        assert found == keys(dp.DataLoader(dataset, assign="node", **given, **GIVEN))


def test_steps_of_loaders_are_those_of_ranks_in_turns_and_a_state_fits_both(
    dataset: dp.Dataset,
) -> None:
    def loaders(world: int, **given: Any) -> list[Any]:
        return [
            dp.DataLoader(dataset, rank=rank, world_size=world, **given, **GIVEN)
            for rank in range(world)
        ]

    by_node = loaders(2, assign="node", ranks_per_node=1)
    in_turns = [keys(loader) for loader in loaders(2)]
    iterators = [iter(loader) for loader in by_node]
    step = [list(next(iterator)["__key__"]) for iterator in iterators]
    assert sorted(flat(step)) == sorted(in_turns[0][0] + in_turns[1][0])
    states = [loader.state_dict() for loader in by_node]
    assert states[0] == states[1]
    rest = loaders(3) + loaders(3, assign="node", ranks_per_node=1)
    for loader in rest:
        loader.load_state_dict(states[0])
    one, other = [[keys(loader) for loader in some] for some in (rest[:3], rest[3:])]
    assert flat_ranks(one) == flat_ranks(other)
    seen = {*flat(step), *flat_ranks(other)}
    assert len(seen) == 4 + 6


def test_a_loader_that_was_pickled_or_put_together_anew_reads_the_same(
    dataset: dp.Dataset,
) -> None:
    given = {"rank": 1, "world_size": 2, "assign": "node", "ranks_per_node": 1, **GIVEN}
    loader: Any = dp.DataLoader(dataset, **given)
    expected = keys(loader)
    copied = pickle.loads(pickle.dumps(dp.DataLoader(dataset, **given)))
    assert keys(copied) == expected
    again: Any = dp.DataLoader(dataset, batch_sampler=dp.DataLoader(dataset, **given).batch_sampler)
    assert keys(again) == expected
    sampler: Any = dp.DataLoader(dataset, **given).sampler
    names = [f"case-{number:03d}" for number in sampler]
    assert names[: len(expected) * 2] == flat(expected)
    assert 'assign="node"' in repr(loader)


def test_one_process_reads_as_without(dataset: dp.Dataset) -> None:
    found = keys(dp.DataLoader(dataset, assign="node", **GIVEN))
    assert found == keys(dp.DataLoader(dataset, **GIVEN))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"assign": "rank"}, "assign must be"),
        ({"ranks_per_node": 2}, "ranks_per_node is for"),
        ({"assign": "node", "ranks_per_node": 0}, "at least 1"),
        ({"assign": "node", "ranks_per_node": 1.5}, "whole number"),
        ({"assign": "node", "sampler": range(4)}, "both say which rank"),
        ({"assign": "node", "batch_sampler": [[1]], "batch_size": 1}, "both say which rank"),
        ({"assign": "node", "rank": 0, "world_size": 4, "ranks_per_node": 3}, "no even share"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(
    dataset: dp.Dataset, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(dp.ConfigError, match=message):
        dp.DataLoader(dataset, **given)


def test_a_dataset_without_packed_samples_is_refused() -> None:
    tensors = torch.utils.data.TensorDataset(torch.zeros(4))
    with pytest.raises(dp.ConfigError, match='assign="node" is for'):
        dp.DataLoader(tensors, assign="node")


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"LOCAL_WORLD_SIZE": 3}, "no even share"),
        ({"LOCAL_WORLD_SIZE": 0}, "no even share"),
        ({"GROUP_RANK": 0}, "not numbered node by node"),
        ({"LOCAL_RANK": 0}, "not numbered node by node"),
    ],
)
def test_nodes_that_do_not_fit_are_refused_when_a_pass_begins(
    dataset: dp.Dataset, launched: Callable[..., None], others: dict[str, int], message: str
) -> None:
    launched(3, 4, 2, **others)
    loader: Any = dp.DataLoader(dataset, assign="node", **GIVEN)
    with pytest.raises(dp.ConfigError, match=message):
        next(iter(loader))


@pytest.mark.parametrize("given", [1, 2, 4, 8])
def test_a_node_may_be_a_part_of_a_machine_or_several(
    dataset: dp.Dataset, launched: Callable[..., None], given: int
) -> None:
    launched(5, 8, 4)
    found = keys(dp.DataLoader(dataset, assign="node", ranks_per_node=given, **GIVEN))
    ranks = {"rank": 5, "world_size": 8, "ranks_per_node": given}
    assert found == keys(dp.DataLoader(dataset, assign="node", **ranks, **GIVEN))


def test_a_node_that_cuts_through_machines_is_refused(
    dataset: dp.Dataset, launched: Callable[..., None]
) -> None:
    launched(5, 12, 4)
    loader: Any = dp.DataLoader(dataset, assign="node", ranks_per_node=3, **GIVEN)
    with pytest.raises(dp.ConfigError, match="do not fit into each other"):
        next(iter(loader))


@pytest.mark.parametrize("ranks", [(1, 2), (0, 8)])
def test_ranks_that_are_not_the_launcher_s_need_the_number_on_a_node(
    dataset: dp.Dataset, launched: Callable[..., None], ranks: tuple[int, int]
) -> None:
    launched(3, 4, 2)
    given = {"rank": ranks[0], "world_size": ranks[1], **GIVEN, "batch_size": 1}
    loader: Any = dp.DataLoader(dataset, assign="node", **given)
    with pytest.raises(dp.ConfigError, match="needs the number of ranks on a node"):
        next(iter(loader))
    assert keys(dp.DataLoader(dataset, assign="node", ranks_per_node=2, **given))


# -- what is known of nodes ------------------------------------------------------------------------


def test_a_dataset_that_has_another_length_by_now_has_owners_of_all_its_samples() -> None:
    given: dict[str, Any] = {"seed": 9, "generator": None, "drop_last": False}
    by_node = ByNode(10, ranks_per_node=1)
    sampler = EpochSampler(InOrder(10), rank=0, world_size=2, by_node=by_node, **given)
    sampler.follow_length(30)
    assert sampler.order(9, 1).nodes == Nodes(2, 30)
    assert sampler.order(9, 1).count() == 15


def test_neighbours_that_share_blocks_are_owned_together_unless_they_are_few(
    dataset: dp.Dataset,
) -> None:
    found = OrderArguments(True, assign="node").by_node(len(dataset), [dataset], 2)
    assert found is not None
    stored_bytes = sum(dataset.index.shards.values())
    assert found.run * stored_bytes / len(dataset) >= 32 << 20
    assert (found.run - 1) * stored_bytes / len(dataset) < 33 << 20
    looked = OrderArguments(True, looks=7, assign="node").by_node(len(dataset), [dataset], 2)
    assert looked is not None
    assert looked.run % 7 == 0
    assert OrderArguments(True).by_node(len(dataset), [dataset], 2) is None
    many, few = ByNode(10**6, run=1000, ranks_per_node=2), ByNode(1000, run=100, ranks_per_node=2)
    assert many.of_ranks((0, 8)) == Nodes(4, 10**6, 1000)
    assert few.of_ranks((0, 8)) == Nodes(4, 1000, 3)


def test_ranks_that_think_of_other_nodes_are_refused(
    dataset: dp.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ranks of one job, one after the other, with the store of a process group."""
    store = torch.distributed.HashStore()
    monkeypatch.setattr("dataplane.loader.ranks._has_group", lambda: True)
    monkeypatch.setattr("torch.distributed.distributed_c10d._get_default_store", lambda: store)

    def begin(rank: int, ranks_per_node: int, batch_size: int = 1) -> None:
        loader = dp.DataLoader(
            dataset,
            batch_size=batch_size,
            rank=rank,
            world_size=4,
            seed=1,
            assign="node",
            ranks_per_node=ranks_per_node,
        )
        loader._place._number = 0  # as in a process of its own
        next(iter(loader))

    begin(0, 2)
    begin(1, 2)
    for other in ((2, 1, 1), (2, 2, 2)):
        with pytest.raises(dp.ConfigError, match="do not agree on nodes and batches"):
            begin(*other)
