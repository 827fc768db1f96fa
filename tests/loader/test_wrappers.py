"""torch's wrappers around packed datasets, and classes of the user's, run on the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, StackDataset, Subset, TensorDataset, random_split

import dataplane as dp
from dataplane.cache import Cache, CacheConfig
from tests.cache.fakes import wait_until
from tests.datasets.packed import SAMPLES, Packed, pack, source_sample

NAMES = ["points", "global_data/mach", "fields/velocity"]


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    """Five samples that the other dataset does not have."""
    return pack(tmp_path_factory.mktemp("second") / "ds", map(source_sample, range(20, 25)))


def whole(packed: Packed, **given: Any) -> dp.Dataset:
    return dp.Dataset(packed.url, NAMES, cache=False, **given)


def names_of(packed: Packed) -> list[str]:
    return [sample.key for sample in packed.samples]


def assert_values(batch: dict[str, Any], *datasets: Packed) -> None:
    """A batch has the values that were packed, ragged as the datasets are."""
    for at, key in enumerate(batch["__key__"]):
        packed = next(one for one in datasets if key in names_of(one))
        expected = packed.values(key)
        start, stop = batch["points.offsets"][at : at + 2].tolist()
        assert np.array_equal(batch["points"][start:stop].numpy(), expected["points"])
        velocity = batch["fields/velocity"][at].numpy()
        assert np.array_equal(velocity, expected["fields/velocity"])


def keys_of(loader: Any) -> list[list[str]]:
    return [list(batch["__key__"]) for batch in loader]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_subset_has_its_samples_in_its_order(packed: Packed, workers: int) -> None:
    subset = Subset(Subset(whole(packed), [9, 3, -1, 5, 2]), [4, 0, 2])
    loader = dp.DataLoader(subset, batch_size=2, num_workers=workers)
    batches = list(loader)
    assert keys_of(batches) == [["case-002", "case-009"], ["case-010"]]
    for batch in batches:
        assert_values(batch, packed)
    assert loader.stats().stages.keys() == {"read", "decode"}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_split_shuffles_and_resumes_within_itself(packed: Packed, workers: int) -> None:
    parts = random_split(whole(packed), [7, 4], generator=torch.Generator().manual_seed(0))
    loaders = [dp.DataLoader(part, 2, shuffle=True, seed=1, num_workers=workers) for part in parts]
    seen = [sorted(key for keys in keys_of(loader) for key in keys) for loader in loaders]
    assert [len(keys) for keys in seen] == [7, 4]
    assert sorted(seen[0] + seen[1]) == [f"case-{i:03d}" for i in range(SAMPLES)]
    loader = dp.DataLoader(parts[0], 2, shuffle=True, seed=1, num_workers=workers)
    expected = keys_of(loader)
    loader.set_epoch(0)
    batches = iter(loader)
    next(batches)
    state = loader.state_dict()
    resumed = dp.DataLoader(parts[0], 2, shuffle=True, seed=1)
    resumed.load_state_dict(state)
    assert keys_of(resumed) == expected[1:]
    with pytest.raises(dp.ConfigError, match="7 samples, this one has 4"):
        loaders[1].load_state_dict(state)
    other = random_split(whole(packed), [7, 4], generator=torch.Generator().manual_seed(1))[0]
    with pytest.raises(dp.ConfigError, match="other samples, or in another order"):
        dp.DataLoader(other, 2, shuffle=True, seed=1).load_state_dict(state)


@pytest.mark.parametrize("workers", [0, 2])
def test_two_datasets_one_after_the_other_meet_in_a_batch(
    packed: Packed, second: Packed, workers: int
) -> None:
    def scaled(sample: dict[str, Any]) -> dict[str, Any]:
        return {**sample, "global_data/mach": sample["global_data/mach"] + 100}

    both = ConcatDataset([whole(packed), whole(second)])
    loader = dp.DataLoader(both, 4, shuffle=True, seed=2, num_workers=workers)
    batches = list(loader)
    for batch in batches:
        assert_values(batch, packed, second)
    assert sorted(key for keys in keys_of(batches) for key in keys) == sorted(
        [*names_of(packed), *names_of(second)]
    )
    # Each part keeps the transform of its own.
    both = ConcatDataset([whole(packed), whole(second, transform=scaled)])
    for batch in dp.DataLoader(both, 4, num_workers=workers, ragged=["points"]):
        for key, mach in zip(batch["__key__"], batch["global_data/mach"], strict=True):
            assert (mach > 50) == (key in names_of(second))


def test_a_damaged_sample_of_a_subset_is_replaced_by_one_of_the_subset(
    packed: Packed, tmp_path: Path
) -> None:
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(packed.folder, folder)
    copy = Packed(folder, packed.samples)
    entry = dp.Dataset(copy.url, cache=False).index[4].arrays["points"]
    content = bytearray((folder / entry.shard).read_bytes())
    content[int(entry.chunk_offsets[0]) + 30] ^= 1
    (folder / entry.shard).write_bytes(content)
    subset = Subset(whole(copy, errors="replace"), [4, 8, 0])
    assert keys_of(dp.DataLoader(subset)) == [["case-008"], ["case-008"], ["case-000"]]
    both = ConcatDataset([Subset(whole(copy, errors="replace"), [4]), whole(packed)])
    assert keys_of(dp.DataLoader(both))[0] == ["case-000"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stack_gives_what_torch_gives_and_ragged_arrays_too(packed: Packed, workers: int) -> None:
    numbers = torch.arange(SAMPLES)
    for stack in (
        StackDataset(whole(packed), TensorDataset(numbers)),
        StackDataset(cars=whole(packed), number=numbers.tolist()),
    ):
        seen = []
        for batch in dp.DataLoader(stack, 3, shuffle=True, seed=1, num_workers=workers):
            cars, label = (
                (batch["cars"], batch["number"])
                if isinstance(batch, dict)
                else (batch[0], batch[1][0])
            )
            assert_values(cars, packed)
            assert [f"case-{i:03d}" for i in label] == list(cars["__key__"])
            seen += label.tolist()
        assert sorted(seen) == list(range(SAMPLES))


class Windows(torch.utils.data.Dataset[Any]):
    """Pairs of neighbours, made of samples that it asks for itself."""

    def __init__(self, inner: dp.Dataset) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner) - 1

    def __getitem__(self, i: int) -> tuple[str, torch.Tensor]:
        one, other = self.inner[i], self.inner[i + 1]
        return str(one["__key__"]), one["fields/velocity"] - other["fields/velocity"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_class_of_the_users_is_run_with_order_ranks_and_state(
    packed: Packed, workers: int
) -> None:
    dataset = Windows(whole(packed))
    arguments: dict[str, Any] = {"batch_size": 3, "num_workers": workers}
    theirs = torch.utils.data.DataLoader(dataset, batch_size=3)
    for ours, expected in zip(dp.DataLoader(dataset, **arguments), theirs, strict=True):
        assert ours[0] == expected[0]
        assert torch.equal(ours[1], expected[1])
    hands = [
        [
            key
            for batch in dp.DataLoader(
                dataset, shuffle=True, seed=1, rank=rank, world_size=2, **arguments
            )
            for key in batch[0]
        ]
        for rank in range(2)
    ]
    assert sorted(hands[0] + hands[1]) == [f"case-{i:03d}" for i in range(10)]
    loader = dp.DataLoader(dataset, shuffle=True, seed=1, **arguments)
    expected = [list(batch[0]) for batch in loader]
    loader.set_epoch(0)
    batches = iter(loader)
    next(batches)
    resumed = dp.DataLoader(dataset, shuffle=True, seed=1, **arguments)
    resumed.load_state_dict(loader.state_dict())
    assert [list(batch[0]) for batch in resumed] == expected[1:]


class Renamed(torch.utils.data.Dataset[Any]):
    def __init__(self, inner: dp.Dataset) -> None:
        self.parts = {"inner": [inner]}

    def __len__(self) -> int:
        return len(self.parts["inner"][0])

    def __getitem__(self, i: int) -> torch.Tensor:
        sample = self.parts["inner"][0][i]
        return sample["fields/velocity"]


def test_what_a_class_of_the_users_reads_is_fetched_ahead(packed: Packed, tmp_path: Path) -> None:
    config = CacheConfig(dir=tmp_path / "cache", block_bytes=4096)
    with Cache.shared(config) as cache:
        dataset = Renamed(dp.Dataset(packed.url, NAMES, cache=config))
        batches = iter(dp.DataLoader(dataset, batch_size=1, num_workers=1))
        next(batches)
        wait_until(lambda: cache.counters["cache_prefetch_blocks"] > 10)
        assert len(list(batches)) == SAMPLES - 1


def test_datasets_with_other_arrays_fall_back_to_the_users_meaning(
    packed: Packed, second: Packed
) -> None:
    one = dp.Dataset(packed.url, ["global_data/mach"], cache=False)
    other = dp.Dataset(second.url, ["fields/velocity"], cache=False)
    loader = dp.DataLoader(ConcatDataset([one, other]), batch_size=1, num_workers=2)
    names = [set(batch) for batch in loader]
    assert (
        names == [{"global_data/mach", "__key__"}] * SAMPLES + [{"fields/velocity", "__key__"}] * 5
    )


def test_a_subset_that_is_changed_between_passes_is_read_as_it_is_then(packed: Packed) -> None:
    subset = Subset(whole(packed), [1, 2, 3])
    loader = dp.DataLoader(subset, batch_size=2)
    assert keys_of(loader) == [["case-001", "case-002"], ["case-003"]]
    subset.indices = [7, 5, 4, 8, 0]
    assert len(loader) == 3
    assert keys_of(loader) == [["case-007", "case-005"], ["case-004", "case-008"], ["case-000"]]
    subset.indices[:] = [6]
    assert keys_of(loader) == [["case-006"]]


def test_batches_of_worker_threads_are_not_in_shared_memory(packed: Packed) -> None:
    dataset = whole(packed, transform=lambda sample: {"v": sample["fields/velocity"]})
    for batch in dp.DataLoader(dataset, batch_size=2, num_workers=2):
        assert not batch["v"].is_shared()
