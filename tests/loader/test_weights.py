"""Loaders with weights: what is drawn, what code draws for it, resuming, and contradictions."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset, Subset, TensorDataset

import dataplane as dp
from dataplane.datasets.weighted import Weighted
from tests.datasets.packed import SAMPLES, Packed
from tests.loader.stops import WORLDS, assert_every_batch_is_a_stopping_place

WEIGHTS = [float(1 + number % 4) for number in range(SAMPLES)]
DRAWS = 37


@pytest.fixture
def dataset(packed: Packed) -> dp.Dataset:
    return dp.Dataset(packed.url, ["global_data/mach"], cache=False)


def noisy(sample: dict) -> tuple[str, int]:
    return sample["__key__"], int(torch.randint(1 << 40, ()))


def as_they_are(samples: list) -> list:
    return samples


def make(dataset: Any, **arguments: Any) -> dp.DataLoader[Any]:
    given = {"batch_size": 2, "weights": WEIGHTS, "num_samples": DRAWS, "seed": 5, **arguments}
    return dp.DataLoader(dataset, **given)


def keys(loader: dp.DataLoader[Any]) -> list[str]:
    return [key for batch in loader for key in batch["__key__"]]


def expected(epoch: int, count: int = DRAWS) -> list[str]:
    order = Weighted.of(WEIGHTS, SAMPLES, count).of_epoch(5, epoch)
    return [f"case-{number:03d}" for number in order.read(range(count))[0]]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_draws_samples_by_weight_with_replacement(
    dataset: dp.Dataset, num_workers: int
) -> None:
    loader = make(dataset, num_workers=num_workers)
    assert len(loader) == 19
    assert "order=weighted, seed=5" in repr(loader)
    assert [keys(loader) for _ in range(2)] == [expected(0), expected(1)]
    assert max(Counter(expected(0)).values()) > 1


def test_without_a_number_there_are_as_many_draws_as_samples(dataset: dp.Dataset) -> None:
    assert keys(make(dataset, num_samples=None)) == expected(0, SAMPLES)


def test_weights_may_be_a_tensor_and_a_sample_without_weight_never_comes(
    dataset: dp.Dataset,
) -> None:
    weights = torch.zeros(SAMPLES)
    weights[[3, 7]] = torch.tensor([1.0, 2.0])
    assert set(keys(make(dataset, weights=weights))) == {"case-003", "case-007"}
    weights.requires_grad_()
    assert set(keys(make(dataset, weights=weights))) == {"case-003", "case-007"}


class Names(Dataset[str]):
    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, i: int) -> str:
        return str(self.inner[i]["__key__"])


def test_views_and_classes_around_a_dataset_are_drawn_from_alike(dataset: dp.Dataset) -> None:
    drawn = [name for batch in make(Names(dataset)) for name in batch]
    assert drawn == expected(0)
    indices = [4, 8, 2]
    weights = [1, 2, 3]
    order = Weighted.of(weights, 3, DRAWS).of_epoch(5, 0).read(range(DRAWS))[0]
    found = keys(make(Subset(dataset, indices), weights=weights))
    assert found == [f"case-{indices[one]:03d}" for one in order]


def noise(packed: Packed, **arguments: Any) -> list[tuple[str, int]]:
    dataset = dp.Dataset(packed.url, ["global_data/mach"], cache=False, transform=noisy)
    loader = make(dataset, collate_fn=as_they_are, **arguments)
    return [sample for batch in loader for sample in batch]


def test_what_code_draws_is_of_the_draw_whatever_reads_it(packed: Packed) -> None:
    whole = noise(packed)
    assert [key for key, _ in whole] == expected(0)
    assert len({number for _, number in whole}) == DRAWS  # other at each look at a sample
    for arguments in (
        {"batch_size": 5},
        {"num_workers": 3},
        {"num_workers": 1, "transform_mode": "process"},
    ):
        assert noise(packed, **arguments) == whole
    for world in (2, 3):
        ranks = [noise(packed, rank=rank, world_size=world) for rank in range(world)]
        turns = [sample for turn in zip(*ranks, strict=True) for sample in turn]
        assert turns[:DRAWS] == whole


@pytest.mark.parametrize("before", WORLDS)
def test_a_run_goes_on_from_any_batch_with_any_world(packed: Packed, before: int) -> None:
    whole = noise(packed)
    dataset = dp.Dataset(packed.url, ["global_data/mach"], cache=False, transform=noisy)

    def rank(rank: int, world: int, size: int) -> dp.DataLoader[Any]:
        given = {"rank": rank, "world_size": world, "batch_size": size}
        return make(dataset, collate_fn=as_they_are, **given)

    assert_every_batch_is_a_stopping_place(rank, list, whole, before)


def test_a_batch_that_loses_a_sample_keeps_the_draws_of_the_others(packed: Packed) -> None:
    """Whatever is left out before it, a sample has the numbers of its own place."""
    from dataplane.datasets.views import ViewReader

    whole = dict.fromkeys(noise(packed, batch_size=4))
    broken = "case-003"
    recover, fetch = ViewReader.recover, ViewReader.fetch
    with pytest.MonkeyPatch.context() as patch:

        def without(self: ViewReader, positions: list[int]) -> Any:
            batch = recover(self, positions)
            kept = [n for n, one in enumerate(batch.samples) if one.plan.key != broken]
            assert batch.places is not None
            return type(batch)(
                [batch.samples[n] for n in kept],
                [batch.which[n] for n in kept],
                [batch.places[n] for n in kept],
            )

        patch.setattr(ViewReader, "fetch", without)
        found = noise(packed, batch_size=4)
    assert ViewReader.fetch is fetch
    assert found == [sample for sample in whole if sample[0] != broken]


def test_a_state_of_other_weights_or_of_no_weights_is_refused(dataset: dp.Dataset) -> None:
    state = make(dataset).state_dict()
    make(dataset, weights=[2 * weight for weight in WEIGHTS]).load_state_dict(state)
    for other in ({"weights": WEIGHTS[::-1]}, {"num_samples": DRAWS + 1}):
        with pytest.raises(dp.ConfigError, match="another weighted order"):
            make(dataset, **other).load_state_dict(state)
    with pytest.raises(dp.ConfigError, match="a weighted order, this loader's is shuffled"):
        dp.DataLoader(dataset, shuffle=True, seed=5).load_state_dict(state)
    with pytest.raises(dp.ConfigError, match="seed=5"):
        make(dataset, seed=6).load_state_dict(state)


def test_without_a_seed_one_is_drawn_as_for_a_shuffle(dataset: dp.Dataset) -> None:
    torch.manual_seed(1)
    loader = make(dataset, seed=None)
    batches = iter(loader)
    first = next(batches)["__key__"]
    state = loader.state_dict()
    rest = [key for batch in batches for key in batch["__key__"]]
    resumed = make(dataset, seed=None)
    resumed.load_state_dict(state)
    assert keys(resumed) == rest
    torch.manual_seed(1)
    assert keys(make(dataset, seed=None)) == [*first, *rest]


def test_what_weights_contradict_is_refused(dataset: dp.Dataset) -> None:
    for arguments, message in (
        ({"sampler": [1, 2]}, "weights and a sampler both say the order"),
        ({"batch_sampler": [[1]], "batch_size": 1}, "weights and a sampler both say the order"),
        ({"weights": None}, "num_samples is the number of weighted draws"),
        ({"num_samples": 0}, "num_samples must be at least 1"),
        ({"num_samples": 2.5}, "num_samples must be a whole number"),
        ({"weights": [1.0]}, "1 weights for 11 samples"),
    ):
        with pytest.raises(dp.ConfigError, match=message):
            make(dataset, **arguments)
    with pytest.raises(dp.ConfigError, match="weights are for a dataplane"):
        dp.DataLoader(TensorDataset(torch.zeros(3)), weights=[1, 2, 3])


def test_a_loader_put_together_of_its_sampler_draws_the_same(dataset: dp.Dataset) -> None:
    loader = make(dataset)
    other = dp.DataLoader(dataset, 3, sampler=loader.sampler)
    assert keys(other) == expected(0)
