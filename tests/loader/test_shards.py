"""Loaders that shuffle by shards: which shards a stretch reads, resuming, and contradictions."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

import dataplane as dp
from tests.datasets.packed import Packed, pack, source_sample
from tests.loader.stops import WORLDS, assert_every_batch_is_a_stopping_place

SAMPLES = 24


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    return pack(
        tmp_path_factory.mktemp("many") / "ds",
        map(source_sample, range(SAMPLES)),
        shard_bytes=256 << 10,
    )


@pytest.fixture
def dataset(many: Packed) -> dp.Dataset:
    return dp.Dataset(many.url, ["global_data/mach"], cache=False)


def make(dataset: Any, **arguments: Any) -> dp.DataLoader[Any]:
    given = {"batch_size": 2, "shuffle": "shards", "shuffle_window": 2, "seed": 5, **arguments}
    return dp.DataLoader(dataset, **given)


def keys(loader: dp.DataLoader[Any]) -> list[str]:
    return [key for batch in loader for key in batch["__key__"]]


def shard_of(dataset: dp.Dataset) -> dict[str, str]:
    return {dataset.keys[i]: dataset.index[i].shard for i in range(len(dataset))}


def stretches(order: list[str], of: dict[str, str]) -> list[set[str]]:
    """Cut an order where all shards that have begun have ended."""
    left = {shard: sum(of[key] == shard for key in order) for shard in of.values()}
    found: list[set[str]] = [set()]
    for key in order:
        found[-1].add(of[key])
        left[of[key]] -= 1
        if not any(left[shard] for shard in found[-1]):
            found.append(set())
    return found[:-1]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stretch_of_an_epoch_reads_few_shards(dataset: dp.Dataset, num_workers: int) -> None:
    of = shard_of(dataset)
    assert len({*of.values()}) >= 6
    loader = make(dataset, num_workers=num_workers)
    epochs = [keys(loader) for _ in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == sorted(of)
        assert max(map(len, stretches(epoch, of))) <= 2
    assert epochs[0] != epochs[1] != epochs[2]
    full = keys(make(dataset, shuffle=True, shuffle_window=None))
    assert max(map(len, stretches(full, of))) > 2


def test_views_of_datasets_are_shuffled_by_their_shards(
    dataset: dp.Dataset, packed: Packed
) -> None:
    other = dp.Dataset(packed.url, ["global_data/mach"], cache=False)
    of = shard_of(dataset)
    odd = Subset(dataset, [*range(23, 0, -2), *range(0, 24, 2)])
    assert sorted(keys(make(odd))) == sorted(of)
    assert max(map(len, stretches(keys(make(odd)), of))) <= 2
    # One dataset twice: its shards are the same ones.
    twice = ConcatDataset([Subset(dataset, range(12)), other, Subset(dataset, range(12, 24))])
    found = keys(make(twice, shuffle_window=1, keys=True))
    assert len(found) == len(twice)
    rule = make(twice).sampler.rule  # type: ignore[attr-defined]
    assert rule.shards == len({*of.values()}) + len({*shard_of(other).values()})


def test_the_quality_is_shown_and_logged_once(
    dataset: dp.Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    loader = make(dataset)
    quality = loader.shuffle_quality
    assert quality is not None
    assert 0 < quality < 1
    assert f'shuffle="shards", shuffle_quality={quality:.2f}, seed=5' in repr(loader)
    with caplog.at_level(logging.INFO, "dataplane"):
        keys(loader)
        keys(loader)
    told = [record.getMessage() for record in caplog.records if "quality" in record.getMessage()]
    assert len(told) == 1
    assert f"quality {quality:.2f}" in told[0]
    assert make(dataset, shuffle_window=100).shuffle_quality == pytest.approx(1)
    for shuffle, expected in ((True, 1), (False, 0)):
        assert make(dataset, shuffle=shuffle, shuffle_window=None).shuffle_quality == expected
    assert dp.DataLoader(dataset, sampler=[1]).shuffle_quality is None
    assert dp.DataLoader(TensorDataset(torch.zeros(2))).shuffle_quality is None


@pytest.mark.parametrize("before", WORLDS)
def test_a_run_goes_on_from_any_batch_with_any_world(dataset: dp.Dataset, before: int) -> None:
    whole = keys(make(dataset))

    def rank(rank: int, world: int, size: int) -> dp.DataLoader[Any]:
        return make(dataset, rank=rank, world_size=world, batch_size=size)

    assert_every_batch_is_a_stopping_place(rank, lambda batch: batch["__key__"], whole, before)


def test_a_state_of_another_window_is_refused(dataset: dp.Dataset) -> None:
    state = make(dataset).state_dict()
    with pytest.raises(dp.ConfigError, match="another shards order"):
        make(dataset, shuffle_window=3).load_state_dict(state)
    with pytest.raises(dp.ConfigError, match="a shards order, this loader's is shuffled"):
        make(dataset, shuffle=True, shuffle_window=None).load_state_dict(state)


class Around(Dataset[Any]):
    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, i: int) -> Any:
        return self.inner[i]


def test_what_it_contradicts_is_refused(dataset: dp.Dataset) -> None:
    for arguments, message in (
        ({"sampler": [1, 2]}, 'shuffle="shards" and a sampler both say the order'),
        ({"weights": [1.0] * SAMPLES}, 'shuffle="shards" and weights both say the order'),
        ({"shuffle": "samples"}, 'shuffle must be True, False or "shards"'),
        ({"shuffle": True}, 'shuffle_window is for shuffle="shards"'),
        ({"shuffle_window": 0}, "at least 1 shard"),
        ({"shuffle_window": 1.5}, "shuffle_window must be a whole number"),
    ):
        with pytest.raises(dp.ConfigError, match=message):
            make(dataset, **arguments)
    with pytest.raises(dp.ConfigError, match='shuffle="shards" and a mix both say the order'):
        make(dp.mix([dataset]))
    with pytest.raises(dp.ConfigError, match="which is not known of a Around"):
        make(Around(dataset))
    with pytest.raises(dp.ConfigError, match="this is a TensorDataset"):
        dp.DataLoader(TensorDataset(torch.zeros(2)), shuffle="shards")


def test_a_subset_that_is_changed_is_shuffled_by_the_shards_of_its_samples(
    dataset: dp.Dataset,
) -> None:
    part = Subset(dataset, list(range(12)))
    loader = make(part)
    keys(loader)
    part.indices = [place % 12 + 12 * (place % 2) for place in range(12)]
    assert keys(make(part)) != keys(loader)  # another epoch
    loader.set_epoch(0)
    assert keys(loader) == keys(make(part))
    loader.set_epoch(0)
    batches = iter(loader)
    next(batches)
    next(batches)
    fresh = make(part)
    fresh.load_state_dict(loader.state_dict())
    assert keys(fresh) == [key for batch in batches for key in batch["__key__"]]
    part.indices = list(range(12))
    batches.close()
    make(part).load_state_dict({**loader.state_dict(), "dataset": ""})
