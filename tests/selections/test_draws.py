"""Draws follow from (seed, epoch, sample): not from workers, ranks, batches, or who reads."""

from __future__ import annotations

import collections
import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, StackDataset, Subset

import dataplane as dp
from dataplane.datasets.draws import Draws
from dataplane.datasets.spread import Spread
from tests.datasets.packed import Packed
from tests.selections.data import COUNT, pack_meshes

SELECTIONS = {"table": dp.rows(3), "fields/p": dp.crop((4, 4, 4))}


@pytest.fixture
def dataset(permuted: Packed) -> Iterator[dp.Dataset]:
    with dp.Dataset(permuted.url, SELECTIONS, cache=False) as opened:
        yield opened


def values(loader: Any, epochs: int = 1) -> list[dict[str, bytes]]:
    """Return for each epoch the bytes of each key."""
    found = []
    for _ in range(epochs):
        of_epoch = {}
        for batch in loader:
            for at, key in enumerate(batch["__key__"]):
                of_epoch[key] = (
                    batch["table"][at].numpy().tobytes() + batch["fields/p"][at].numpy().tobytes()
                )
        found.append(of_epoch)
    return found


def test_the_hash_never_changes() -> None:
    draws = Draws(7, 3)
    assert draws.of([0, 1, 10**12]).tolist() == [
        int(draws.of(0)[0]),
        int(draws.of(1)[0]),
        int(draws.of(10**12)[0]),
    ]
    assert Draws(7, 3).of([0, 1]).tolist() == [10766653519932318132, 2165794588075917564]
    assert draws.later(2) == Draws(7, 5)


def test_draws_are_independent() -> None:
    bits = []
    for draws in (Draws(0, 0), Draws(1, 0), Draws(0, 1), Draws(0, 0, look=1)):
        numbers = draws.of(np.arange(4000))
        assert len(set(numbers.tolist())) == 4000
        bits.append(np.unpackbits(numbers.view(np.uint8)).astype(float) - 0.5)
    bits.append(np.unpackbits(Draws(0, 0).of(np.arange(1, 4001)).view(np.uint8)) - 0.5)
    bits.append(np.unpackbits(Draws(0, 0).of(np.arange(4000), tiles=1).view(np.uint8)) - 0.5)
    for one in bits:
        assert abs(one.mean()) < 0.006  # 6 sigma of 256,000 bits
    for one, other in itertools.combinations(bits, 2):
        assert abs((one * other).mean()) < 0.003


@pytest.mark.parametrize("num_workers", [0, 1, 3])
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("shuffle", [False, True])
def test_workers_batches_and_order_change_nothing(
    dataset: dp.Dataset, num_workers: int, batch_size: int, shuffle: bool
) -> None:
    expected = values(dp.DataLoader(dataset, seed=4), 3)
    loader = dp.DataLoader(
        dataset, batch_size=batch_size, shuffle=shuffle, num_workers=num_workers, seed=4
    )
    assert values(loader, 3) == expected
    assert len({epoch["case-0"] for epoch in expected}) == 3


def test_ranks_change_nothing(dataset: dp.Dataset) -> None:
    expected = values(dp.DataLoader(dataset, seed=4), 2)
    for world_size in (2, 3):
        found: list[dict[str, bytes]] = [{}, {}]
        for rank in range(world_size):
            loader = dp.DataLoader(
                dataset, batch_size=2, shuffle=True, seed=4, rank=rank, world_size=world_size
            )
            for epoch, of_epoch in enumerate(values(loader, 2)):
                found[epoch].update(of_epoch)
        assert found == expected


def test_every_batch_is_a_stopping_place(dataset: dp.Dataset) -> None:
    def make(world_size: int = 1, rank: int = 0, batch_size: int = 2) -> dp.DataLoader:
        return dp.DataLoader(
            dataset,
            batch_size=batch_size,
            shuffle=True,
            seed=4,
            rank=rank,
            world_size=world_size,
            num_workers=2,
        )

    (expected,) = values(make())
    for stop in range(1, 4):
        loader = make()
        for _ in zip(range(stop), loader, strict=False):
            pass
        state = loader.state_dict()
        for world_size in (1, 2, 3):
            rest: dict[str, bytes] = {}
            for rank in range(world_size):
                again = make(world_size, rank, batch_size=1)
                again.load_state_dict(state)
                rest.update(values(again)[0])
            assert rest.items() <= expected.items()
            assert len(rest) >= COUNT - 2 * stop


def test_without_a_seed_epochs_differ_and_the_seed_of_torch_repeats_them(
    dataset: dp.Dataset,
) -> None:
    def read() -> list[dict[str, bytes]]:
        torch.manual_seed(3)
        return values(dp.DataLoader(dataset, batch_size=2), 3)

    first = read()
    assert first == read()
    assert len({epoch["case-1"] for epoch in first}) == 3


def test_torch_s_own_loader_draws_anew_each_time(dataset: dp.Dataset) -> None:
    def read(num_workers: int) -> list[dict[str, bytes]]:
        torch.manual_seed(3)
        loader = torch.utils.data.DataLoader(
            dataset, batch_size=2, num_workers=num_workers, collate_fn=dp.collate
        )
        return values(loader, 2)

    for num_workers in (0, 2):
        first = read(num_workers)
        assert first == read(num_workers)
        assert first[0] != first[1]


def test_a_single_sample_is_drawn_anew_each_time(dataset: dp.Dataset) -> None:
    torch.manual_seed(1)
    seen = [dataset[2]["fields/p"].numpy().tobytes() for _ in range(5)]
    assert len(set(seen)) > 1
    torch.manual_seed(1)
    assert [dataset[2]["fields/p"].numpy().tobytes() for _ in range(5)] == seen
    assert len({dataset.numpy(2)["fields/p"].tobytes() for _ in range(8)}) > 1
    random.seed(1)


class Wrapped(torch.utils.data.Dataset):
    """A class of the user's around a packed dataset."""

    def __init__(self, inner: dp.Dataset) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return dict(self.inner[i])


@pytest.mark.parametrize("mode", ["thread", "process"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_code_around_the_dataset_gets_the_loader_s_draws(
    dataset: dp.Dataset, mode: str, num_workers: int
) -> None:
    expected = values(dp.DataLoader(dataset, seed=4), 2)
    loader = dp.DataLoader(
        Wrapped(dataset),
        batch_size=2,
        shuffle=True,
        seed=4,
        num_workers=num_workers,
        transform_mode=mode,
        collate_fn=dp.collate,
    )
    assert values(loader, 2) == expected


def test_a_transform_sees_the_same_draws(permuted: Packed, dataset: dp.Dataset) -> None:
    expected = values(dp.DataLoader(dataset, seed=4), 2)
    with dp.Dataset(permuted.url, SELECTIONS, transform=dict, cache=False) as transformed:
        loader = dp.DataLoader(transformed, batch_size=2, num_workers=2, seed=4)
        assert values(loader, 2) == expected


def test_wrappers_of_torch(dataset: dp.Dataset) -> None:
    (expected,) = values(dp.DataLoader(dataset, seed=4))
    (found,) = values(dp.DataLoader(Subset(dataset, [5, 1]), seed=4, batch_size=2))
    assert found == {key: expected[key] for key in ("case-5", "case-1")}
    twice = collections.defaultdict(set)
    for batch in dp.DataLoader(ConcatDataset([dataset, dataset]), seed=4):
        twice[batch["__key__"][0]].add(batch["fields/p"].numpy().tobytes())
    assert [len(crops) for crops in twice.values()] == [2] * COUNT


@pytest.mark.parametrize("wrap", [lambda dataset: dataset, Wrapped])
def test_a_sampler_that_repeats_a_sample_looks_at_it_anew(dataset: dp.Dataset, wrap: Any) -> None:
    def read(batch_size: int, num_workers: int) -> list[bytes]:
        loader = dp.DataLoader(
            wrap(dataset),
            batch_size=batch_size,
            sampler=[3] * 12,
            seed=4,
            num_workers=num_workers,
            collate_fn=dp.collate if wrap is Wrapped else None,
        )
        return [one.numpy().tobytes() for batch in loader for one in batch["fields/p"]]

    seen = read(1, 0)
    assert len(set(seen)) > 6
    assert read(5, 2) == seen


def test_what_a_plan_fetches_is_what_is_read(permuted: Packed, tmp_path: Any) -> None:
    config = dp.CacheConfig(dir=tmp_path / "cache", block_bytes=4096)
    with dp.Dataset(permuted.url, SELECTIONS, cache=config) as dataset:
        loader = dp.DataLoader(dataset, batch_size=2, shuffle=True, seed=4, num_workers=2)
        planned = {
            span
            for i in range(COUNT)
            for span in dataset.reader().planner.plan(i, draw=int(Draws(4, 0).of(i)[0])).spans
        }
        assert planned
        values(loader)
        ahead = loader._ahead
        assert ahead is not None


@pytest.mark.parametrize(
    ("count", "looks", "window"), [(7, 3, 2), (50, 4, 16), (10, 1, 3), (1, 9, 5)]
)
def test_looks_are_spread_over_windows(count: int, looks: int, window: int) -> None:
    rule = Spread(count * looks, looks, window)
    orders = [
        rule.of_epoch(5, epoch).read(np.arange(len(rule.of_epoch(5, epoch))))[0]
        for epoch in range(3)
    ]
    for order in orders:
        assert sorted(order.tolist()) == list(range(count * looks))
        for first in range(0, count * looks, window * looks):
            samples = order[first : first + window * looks] // looks
            assert (np.unique(samples, return_counts=True)[1] == looks).all()
    if count > 20:
        assert len({order.tobytes() for order in orders}) == 3
        apart = [
            np.abs(np.diff(np.flatnonzero(orders[0] // looks == n))).mean() for n in range(count)
        ]
        assert np.mean(apart) > 4  # neighbours would be 1 apart
    assert 0 <= rule.quality <= 1 + 1e-12
    assert Spread(count * looks, looks, count).quality == pytest.approx(1)
    backwards = rule.of_epoch(5, 1).read(np.arange(count * looks)[::-1])[0]
    assert np.array_equal(backwards[::-1], orders[1])


def test_looks_at_a_sample(permuted: Packed) -> None:
    dataset = dp.Dataset(permuted.url, SELECTIONS, cache=False, samples_per_read=3)
    assert len(dataset) == 3 * COUNT
    assert "21 samples from 7" in repr(dataset)
    crops = collections.defaultdict(set)
    for batch in dp.DataLoader(dataset, seed=4, batch_size=4, shuffle=True):
        for at, key in enumerate(batch["__key__"]):
            crops[key].add(batch["fields/p"][at].numpy().tobytes())
    assert [len(of_key) for of_key in crops.values()] == [3] * COUNT
    assert dataset.attributes(20) == dp.Dataset(permuted.url, cache=False).attributes(6)
    with pytest.raises(dp.ConfigError, match="samples_per_read=2 would give each sample"):
        dp.Dataset(permuted.url, ["table"], cache=False, samples_per_read=2)
    windows = dp.DataLoader(dataset, shuffle=True, shuffle_window=2, seed=4)
    keys = [batch["__key__"][0] for batch in windows]
    assert [len(set(keys[first : first + 6])) for first in range(0, 21, 6)] == [2, 2, 2, 1]
    with pytest.raises(dp.ConfigError, match="shuffle_window is for"):
        dp.DataLoader(dataset, shuffle_window=2)
    for bad in (0, 1.5, "2"):
        with pytest.raises(dp.ConfigError, match="samples_per_read must be"):
            dp.Dataset(permuted.url, SELECTIONS, cache=False, samples_per_read=bad)


def test_a_given_draw_reads_what_the_loader_read(dataset: dp.Dataset) -> None:
    (expected,) = values(dp.DataLoader(dataset, batch_size=3, shuffle=True, seed=4))
    for number in range(COUNT):
        draw = int(Draws(4, 0).of(number)[0])
        sample = dataset.numpy(number, draw=draw)
        found = sample["table"].tobytes() + sample["fields/p"].tobytes()
        assert found == expected[sample["__key__"]]
    assert dataset.numpy(-1, draw=2**64 - 1)["__key__"] == f"case-{COUNT - 1}"


@pytest.mark.parametrize("draw", [-1, 2**64, True, 1.0, "7"])
def test_what_is_no_draw_is_refused(dataset: dp.Dataset, draw: Any) -> None:
    with pytest.raises(dp.ConfigError, match="draw must be a whole number from 0"):
        dataset.numpy(0, draw=draw)


def test_a_given_draw_reads_that_sample_and_no_other(tmp_path: Path) -> None:
    packed = pack_meshes(tmp_path, 3, permute_seed=3)
    with dp.Dataset(packed.url, SELECTIONS, errors="replace", cache=False) as opened:
        array = opened.index.places(1).arrays["table"]
        damaged = tmp_path / array.shard
        content = bytearray(damaged.read_bytes())
        content[array.start : array.stop] = bytes(array.stop - array.start)
        damaged.write_bytes(content)
    with dp.Dataset(packed.url, SELECTIONS, errors="replace", cache=False) as opened:
        assert opened.numpy(1)["__key__"] == "case-2"
        with pytest.raises(dp.DecodeError, match="case-1"):
            opened.numpy(1, draw=5)


def crops_of(loader: Any) -> list[bytes]:
    return [one.numpy().tobytes() for batch in loader for one in batch["fields/p"]]


def test_a_batch_sampler_and_lists_look_anew_at_what_they_repeat(dataset: dp.Dataset) -> None:
    lists = [[1, 1, 1], [1, 1]]
    seen = crops_of(dp.DataLoader(dataset, batch_sampler=lists, seed=4))
    assert len(set(seen)) == 5
    again = dp.DataLoader(dataset, sampler=[1] * 5, batch_size=2, seed=4, num_workers=2)
    assert crops_of(again) == seen
    bulk = dp.DataLoader(dataset, sampler=lists, batch_size=None, seed=4)
    assert crops_of(bulk) == seen


def test_a_subset_that_names_a_sample_twice_looks_at_it_twice(dataset: dp.Dataset) -> None:
    for batch_size in (1, 3):
        loader = dp.DataLoader(
            Subset(dataset, [2, 5, 2, 2]), batch_size=batch_size, seed=4, shuffle=True
        )
        by_key = collections.defaultdict(set)
        for batch in loader:
            for key, one in zip(batch["__key__"], batch["fields/p"], strict=True):
                by_key[key].add(one.numpy().tobytes())
            draws = [sample["draw"] for sample in loader.provenance().as_dict()["samples"]]
            for place, draw in enumerate(draws):
                number = int(batch["__key__"][place][5:])
                again = dataset.numpy(number, draw=draw)["fields/p"]
                assert np.array_equal(again, batch["fields/p"][place].numpy())
        assert {key: len(crops) for key, crops in by_key.items()} == {"case-2": 3, "case-5": 1}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_stacks_look_anew_at_what_an_order_repeats(dataset: dp.Dataset, num_workers: int) -> None:
    def read(batch_size: int) -> tuple[list[bytes], list[bytes]]:
        loader = dp.DataLoader(
            StackDataset(a=dataset, b=dataset),
            batch_size=batch_size,
            weights=[1.0] + [0.0] * (COUNT - 1),
            num_samples=6,
            seed=3,
            num_workers=num_workers,
            collate_fn=dp.collate,
        )
        batches = list(loader)
        return crops_of(batch["a"] for batch in batches), crops_of(batch["b"] for batch in batches)

    one, other = read(2)
    assert len(set(one)) == 6
    assert one == other
    assert read(3) == (one, other)


def test_items_that_torch_asks_for_together_are_looked_at_one_by_one(dataset: dp.Dataset) -> None:
    torch.manual_seed(5)
    crops = [sample["fields/p"].numpy().tobytes() for sample in dataset.__getitems__([3] * 6)]
    assert len(set(crops)) == 6


def test_a_state_of_another_seed_or_of_other_tiles_is_refused(
    permuted: Packed, dataset: dp.Dataset
) -> None:
    state = dp.DataLoader(dataset, seed=7).state_dict()
    with pytest.raises(dp.ConfigError, match="of seed 7, this loader has seed 9"):
        dp.DataLoader(dataset, seed=9).load_state_dict(state)

    def tiles(extents: dict[str, int], looks: int = 1) -> dp.DataLoader:
        crop = dp.crop(extents, "grid") if looks == 1 else dp.crop(extents)
        tiled = dp.Dataset(permuted.url, {"fields/p": crop}, cache=False, samples_per_read=looks)
        return dp.DataLoader(tiled, seed=7)

    state = tiles({"t": 5, "x": 8}).state_dict()
    tiles({"t": 5, "x": 8}).load_state_dict(state)
    for other in (tiles({"y": 7}), tiles({"y": 7}, looks=2)):
        with pytest.raises(dp.ConfigError, match="other samples, or in another order"):
            other.load_state_dict(state)


def test_ranks_that_draw_need_one_seed_though_nothing_is_shuffled(dataset: dp.Dataset) -> None:
    loader = dp.DataLoader(dataset, rank=0, world_size=2)
    with pytest.raises(dp.ConfigError, match="seed"):
        next(iter(loader))
    next(iter(dp.DataLoader(dataset, rank=0, world_size=2, seed=1)))
