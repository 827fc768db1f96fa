"""What a loader over a packed dataset yields: right values, right order, on every rank."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed
import torch.utils.data

import dataplane as dp
from dataplane.cache import Cache, CacheConfig
from tests.datasets.packed import SAMPLES, Packed

NAMES = ["points", "cells/connectivity", "point_data/pressure", "fields/velocity"]


def assert_batch(batch: dict, packed: Packed, names: list[str]) -> None:
    for place, key in enumerate(batch["__key__"]):
        expected = packed.values(key)
        for name in names:
            if f"{name}.offsets" in batch:
                start, stop = batch[f"{name}.offsets"][place : place + 2]
                got = batch[name][start:stop]
            else:
                got = batch[name][place]
            assert np.array_equal(got.numpy(), expected[name]), (key, name)


def keys_of(loader: dp.DataLoader) -> list[list[str]]:
    return [batch["__key__"] for batch in loader]


def flat_keys(loader: dp.DataLoader) -> list[str]:
    return [key for keys in keys_of(loader) for key in keys]


@pytest.fixture(params=["cached", "no cache"])
def dataset(request: pytest.FixtureRequest, packed: Packed, tmp_path: Path) -> Iterator[dp.Dataset]:
    cache = tmp_path / "cache" if request.param == "cached" else False
    with dp.Dataset(packed.url, NAMES, cache=cache) as dataset:
        yield dataset


@pytest.mark.parametrize("num_workers", [0, 1, 3])
@pytest.mark.parametrize("shuffle", [False, True])
def test_epochs_hold_every_sample_once_with_the_values_that_were_packed(
    dataset: dp.Dataset, packed: Packed, shuffle: bool, num_workers: int
) -> None:
    loader = dp.DataLoader(dataset, batch_size=4, shuffle=shuffle, num_workers=num_workers)
    orders = []
    for _ in range(3):
        batches = list(loader)  # all are kept: no memory may be lent twice
        assert [len(batch["__key__"]) for batch in batches] == [4, 4, 3]
        for batch in batches:
            assert_batch(batch, packed, NAMES)
        orders.append([key for batch in batches for key in batch["__key__"]])
        assert sorted(orders[-1]) == sorted(dataset.keys)
    if shuffle:
        assert len(set(map(tuple, orders))) == 3
    else:
        assert orders == [list(dataset.keys)] * 3


def test_all_batches_of_many_epochs_keep_their_values_while_they_are_kept(
    packed: Packed,
) -> None:
    dataset = dp.Dataset(packed.url)
    names = list(dataset.array_names)
    loader = dp.DataLoader(dataset, batch_size=2, shuffle=True, num_workers=2)
    rng = np.random.default_rng(0)
    kept = []
    for _ in range(6):
        for batch in loader:
            kept.append(batch)
            if len(kept) > 9:  # drop some, so that memory is reused while other batches live
                del kept[int(rng.integers(len(kept)))]
    for batch in kept:
        assert_batch(batch, packed, names)


def test_the_order_is_the_permutation_of_seed_and_epoch(dataset: dp.Dataset) -> None:
    loader = dp.DataLoader(dataset, batch_size=3, shuffle=True, seed=5)
    for epoch in range(2):
        order = dp.permutation(SAMPLES, seed=5, epoch=epoch)
        assert flat_keys(loader) == [f"case-{i:03d}" for i in order]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_an_epoch_in_equal_steps(
    packed: Packed, world_size: int, drop_last: bool
) -> None:
    dataset = dp.Dataset(packed.url, ["global_data/mach"])
    loaders = [
        dp.DataLoader(
            dataset, 2, shuffle=True, seed=3, rank=rank, world_size=world_size, drop_last=drop_last
        )
        for rank in range(world_size)
    ]
    batches = [keys_of(loader) for loader in loaders]
    assert len({len(own) for own in batches}) == 1
    assert [len(own) for own in batches] == [len(loader) for loader in loaders]
    seen = Counter(key for own in batches for batch in own for key in batch)
    if drop_last:
        assert set(seen.values()) == {1}
        assert all(len(batch) == 2 for own in batches for batch in own)
        assert len(seen) > SAMPLES - 2 * world_size
    else:
        assert set(seen) == set(dataset.keys)
        assert sum(seen.values()) - SAMPLES < world_size
    # Step by step the ranks together go along the global order.
    order = [f"case-{i:03d}" for i in dp.permutation(SAMPLES, seed=3, epoch=0)]
    first_step = [key for pair in zip(*(own[0] for own in batches), strict=True) for key in pair]
    assert first_step == order[: 2 * world_size]


def test_rank_and_world_size_come_from_torch_distributed(
    packed: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = dp.Dataset(packed.url, ["global_data/mach"])
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    assert flat_keys(dp.DataLoader(dataset)) == [f"case-{i:03d}" for i in [*range(1, 11, 2), 0]]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_without_a_batch_size_are_samples(packed: Packed, num_workers: int) -> None:
    dataset = dp.Dataset(packed.url, ["points"])
    samples = list(dp.DataLoader(dataset, batch_size=None, num_workers=num_workers))
    assert [sample["__key__"] for sample in samples] == list(dataset.keys)
    for sample in samples:
        expected = packed.values(sample["__key__"])["points"]
        assert np.array_equal(sample["points"].numpy(), expected)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_samplers_of_the_user_say_the_order(packed: Packed, num_workers: int) -> None:
    dataset = dp.Dataset(packed.url, NAMES)
    loader = dp.DataLoader(dataset, 2, sampler=[5, -1, 5, 0, 2], num_workers=num_workers)
    assert keys_of(loader) == [["case-005", "case-010"], ["case-005", "case-000"], ["case-002"]]
    assert len(loader) == 3
    batches = [[1, 2, 3], [4], torch.tensor([0, 9])]
    loader = dp.DataLoader(dataset, batch_sampler=batches, num_workers=num_workers)
    for batch in loader:
        assert_batch(batch, packed, NAMES)
    assert [len(keys) for keys in keys_of(loader)] == [3, 1, 2]


def test_a_sampler_is_drawn_from_in_the_training_thread_and_only_so_far_ahead(
    packed: Packed,
) -> None:
    from dataplane.loader.sampler_batches import LOOKAHEAD

    drawn = []

    class Endless(torch.utils.data.Sampler):
        def __iter__(self):
            while True:
                drawn.append(threading.current_thread())
                yield len(drawn) % SAMPLES

    dataset = dp.Dataset(packed.url, ["global_data/mach"])
    batches = iter(dp.DataLoader(dataset, 2, sampler=Endless(), num_workers=1))
    for _ in range(10):
        next(batches)
    assert len(drawn) == 2 * (LOOKAHEAD + 10)
    assert set(drawn) == {threading.current_thread()}


@pytest.mark.parametrize("bad", [[3, SAMPLES], [3, "four"]])
def test_a_sampler_that_yields_nonsense_is_an_error_in_its_place(packed: Packed, bad: list) -> None:
    dataset = dp.Dataset(packed.url, ["global_data/mach"])
    batches = iter(dp.DataLoader(dataset, sampler=bad, num_workers=1))
    assert next(batches)["__key__"] == ["case-003"]
    with pytest.raises((IndexError, dp.LoaderError), match="the sampler yielded"):
        next(batches)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_transform_runs_per_sample_and_results_are_stacked(
    packed: Packed, num_workers: int
) -> None:
    def transform(sample: dict) -> dict:
        return {
            "pressure": sample["point_data/pressure"].mean(),
            "cloud": sample["points"] * 2,
            "velocity": sample["fields/velocity"][0],
            "__key__": sample["__key__"],
        }

    dataset = dp.Dataset(packed.url, NAMES, transform=transform)
    loader = dp.DataLoader(dataset, batch_size=4, num_workers=num_workers)
    seen = []
    with pytest.raises(dp.LoaderError, match="cannot collate 'cloud'"):
        list(loader)
    dataset.transform = lambda sample: {**transform(sample), "cloud": sample["points"][:100]}
    for batch in loader:
        seen += batch["__key__"]
        assert batch["velocity"].shape[1:] == (12, 10, 3)
        assert batch["cloud"].shape == (len(batch["__key__"]), 100, 3)
        for place, key in enumerate(batch["__key__"]):
            expected = packed.values(key)
            assert batch["pressure"][place] == pytest.approx(
                float(expected["point_data/pressure"].mean()), rel=1e-3, abs=1e-5
            )
    assert seen == list(dataset.keys)


def test_a_transform_that_keeps_ragged_arrays_gets_the_ragged_batch(packed: Packed) -> None:
    def transform(sample: dict) -> dict:
        sample["points"] *= 2
        return sample

    dataset = dp.Dataset(packed.url, NAMES, transform=transform)
    plain = dp.DataLoader(dp.Dataset(packed.url, NAMES), batch_size=4)
    ragged = ["points", "point_data/pressure", "cells/connectivity"]
    loader = dp.DataLoader(dataset, batch_size=4, num_workers=2, ragged=ragged)
    for batch, expected in zip(loader, plain, strict=True):
        assert set(batch) == set(expected)
        assert torch.equal(batch["points"], expected["points"] * 2)
        assert torch.equal(batch["points.offsets"], expected["points.offsets"])
        assert torch.equal(batch["fields/velocity"], expected["fields/velocity"])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_collate_fn_gets_the_samples_of_a_batch(packed: Packed, num_workers: int) -> None:
    dataset = dp.Dataset(packed.url, NAMES)
    loader = dp.DataLoader(
        dataset,
        batch_size=4,
        num_workers=num_workers,
        collate_fn=lambda samples: [sample["points"].sum().item() for sample in samples],
    )
    sums = [value for batch in loader for value in batch]
    expected = [float(packed.values(key)["points"].sum()) for key in dataset.keys]
    assert sums == pytest.approx(expected, rel=1e-3, abs=1e-2)


_started: queue.SimpleQueue[int] = queue.SimpleQueue()


def note_started(worker: int) -> None:
    _started.put(worker)


def test_worker_init_fn_runs_in_each_thread_that_runs_user_code(packed: Packed) -> None:
    dataset = dp.Dataset(packed.url, ["global_data/mach"], transform=lambda sample: sample)
    loader = dp.DataLoader(dataset, num_workers=3, worker_init_fn=note_started)
    assert len(list(loader)) == SAMPLES
    assert sorted(_started.get_nowait() for _ in range(3)) == [0, 1, 2]
    assert _started.empty()


def test_statistics_say_what_was_done_and_who_was_waited_for(packed: Packed) -> None:
    def slow(sample: dict) -> dict:
        time.sleep(0.05)
        return sample

    dataset = dp.Dataset(packed.url, ["fields/velocity"], transform=slow)
    loader = dp.DataLoader(dataset, batch_size=2, num_workers=1)
    with pytest.raises(dp.ConfigError, match="before the first pass"):
        loader.stats()
    list(loader)
    stats = loader.stats()
    assert (stats.batches, stats.samples) == (6, SAMPLES)
    assert stats.decoded_bytes == SAMPLES * 17 * 12 * 10 * 3 * 4
    assert stats.read_bytes > stats.decoded_bytes // 4
    assert stats.first_batch_s is not None
    assert 0.02 < stats.first_batch_s < stats.elapsed_s
    assert stats.wait_s > 0.05
    assert list(stats.stages) == ["read", "decode", "collate"]
    assert all(stage["items"] == 6 for stage in stats.stages.values())
    assert stats.stages["collate"]["busy_s"] > 0.5
    # That is the slowest, unless the machine was busy with something else.
    loads = {name: stage["busy_s"] / stage["threads"] for name, stage in stats.stages.items()}
    assert stats.bottleneck == max(loads, key=lambda name: loads[name])
    for _ in loader:
        time.sleep(0.25)
    assert loader.stats().bottleneck == "consumer"
    assert loader.stats().as_dict()["batches"] == 6
    batches = iter(loader)
    told = []
    for _ in range(4):
        next(batches)
        told.append(loader.stats().bottleneck)
    assert told[:2] == ["unknown", "unknown"]
    assert "unknown" not in told[2:]


_go_on = threading.Event()


def wait_to_go_on(sample: dict) -> dict:
    _go_on.wait()
    return sample


def test_a_batch_that_does_not_come_in_time_is_an_error(packed: Packed) -> None:
    _go_on.clear()
    dataset = dp.Dataset(packed.url, ["global_data/mach"], transform=wait_to_go_on)
    batches = iter(dp.DataLoader(dataset, num_workers=1, timeout=0.05))
    with pytest.raises(RuntimeError, match=r"timed out after 0\.05 seconds"):
        next(batches)
    _go_on.set()
    until_s = time.monotonic() + 20
    while time.monotonic() < until_s:
        try:  # the batch is late, not lost
            assert next(batches)["__key__"] == ["case-000"]
        except dp.LoaderError:
            continue
        return
    pytest.fail("the late batch never came")


@pytest.mark.parametrize("policy", ["skip", "replace"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_samples_that_cannot_be_read_fall_under_the_policy(
    packed: Packed, tmp_path: Path, policy: str, num_workers: int
) -> None:
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(packed.folder, folder)
    copy = Packed(folder, packed.samples)
    entry = dp.Dataset(copy.url).index[4].arrays["points"]
    content = bytearray((folder / entry.shard).read_bytes())
    content[int(entry.chunk_offsets[0]) + 30] ^= 1
    (folder / entry.shard).write_bytes(content)
    dataset = dp.Dataset(copy.url, NAMES, errors=policy)
    loader = dp.DataLoader(dataset, batch_size=2, num_workers=num_workers)
    batches = list(loader)
    for batch in batches:
        assert_batch(batch, copy, NAMES)
    third = {"skip": ["case-005"], "replace": ["case-005", "case-005"]}[policy]
    assert batches[2]["__key__"] == third
    assert len(batches) == 6
    if policy == "skip":
        alone = dp.DataLoader(dataset, batch_size=1, num_workers=num_workers)
        assert flat_keys(alone) == [key for key in dataset.keys if key != "case-004"]
    dataset = dp.Dataset(copy.url, NAMES)
    batches = iter(dp.DataLoader(dataset, batch_size=2, num_workers=num_workers))
    assert [next(batches)["__key__"][0] for _ in range(2)] == ["case-000", "case-002"]
    with pytest.raises(dp.ChecksumMismatch, match=r"'case-004'.*'points'"):
        next(batches)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 1}, "go together"),
        ({"rank": 2, "world_size": 2}, "rank must be"),
        ({"rank": 0, "world_size": 0}, "world_size must be"),
        ({"seed": -1}, "seed must be"),
        ({"seed": "x"}, "seed must be a whole number, got 'x'"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"seed": True}, "seed must be a whole number"),
        ({"rank": "0", "world_size": 2}, "rank must be a whole number"),
        ({"rank": 0, "world_size": 2.0}, "world_size must be a whole number"),
        ({"num_workers": "2"}, "num_workers must be a whole number"),
        ({"seed": 1, "generator": torch.Generator()}, "both say how"),
        ({"sampler": [1], "rank": 0, "world_size": 2}, "beside a sampler"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(
    packed: Packed, arguments: dict, message: str
) -> None:
    dataset = dp.Dataset(packed.url, ["global_data/mach"])
    with pytest.raises(dp.ConfigError, match=message):
        dp.DataLoader(dataset, **arguments)


def test_whole_numbers_of_other_libraries_are_taken(packed: Packed) -> None:
    dataset = dp.Dataset(packed.url, ["global_data/mach"])
    keys = keys_of(dp.DataLoader(dataset, shuffle=True, seed=99))
    for seed in (np.int64(99), torch.tensor(99)):
        loader = dp.DataLoader(dataset, shuffle=True, seed=seed)
        loader.set_epoch(np.int64(0))
        assert keys_of(loader) == keys
        assert type(loader.state_dict()["seed"]) is int
    with pytest.raises(dp.ConfigError, match="epoch must be a whole number, got 'one'"):
        loader.set_epoch("one")


@pytest.mark.parametrize(
    "arguments",
    [
        {"batch_size": 0},
        {"num_workers": -1},
        {"timeout": -1},
        {"prefetch_factor": 2},
        {"sampler": [1], "shuffle": True},
        {"batch_sampler": [[1]], "batch_size": 2},
        {"batch_size": None, "drop_last": True},
        {"persistent_workers": True},
    ],
)
def test_torch_refuses_the_arguments_that_it_always_refused(
    packed: Packed, arguments: dict
) -> None:
    dataset = dp.Dataset(packed.url, ["global_data/mach"])
    with pytest.raises(ValueError, match=r"option|batch_size"):
        dp.DataLoader(dataset, **arguments)


def test_a_generator_seeds_the_shuffle(packed: Packed) -> None:
    dataset = dp.Dataset(packed.url, ["global_data/mach"])
    orders = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(99)
        loader = dp.DataLoader(dataset, shuffle=True, generator=generator)
        orders.append([keys_of(loader), keys_of(loader)])
    assert orders[0] == orders[1]  # its state counts, and each pass draws anew
    assert orders[0][0] != orders[0][1]


def test_pinning_without_an_accelerator_warns_as_torch_does(packed: Packed) -> None:
    if torch.accelerator.is_available():
        pytest.skip("this machine has an accelerator")
    loader = dp.DataLoader(dp.Dataset(packed.url, NAMES), pin_memory=True)
    with pytest.warns(UserWarning, match="no accelerator"):
        assert len(list(loader)) == SAMPLES


@pytest.mark.gpu
def test_batches_are_pinned_on_request(packed: Packed) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    for transform in (None, lambda sample: sample):
        dataset = dp.Dataset(packed.url, NAMES, transform=transform)
        for batch in dp.DataLoader(dataset, 4, num_workers=2, pin_memory=True):
            assert batch["points"].is_pinned()
            assert_batch(batch, packed, NAMES)


def test_the_cache_fetches_whole_batches_ahead_however_large_they_are(
    packed: Packed, tmp_path: Path
) -> None:
    config = CacheConfig(dir=tmp_path / "c", block_bytes=4096, prefetch_window_bytes=4096)
    dataset = dp.Dataset(packed.url, cache=config)
    batches = iter(dp.DataLoader(dataset, batch_size=2, num_workers=1))
    next(batches)
    stored = sum(dataset.index.shards.values())
    counters = Cache.shared(config).counters
    deadline = time.monotonic() + 20
    while counters["cache_prefetch_blocks"] * 4096 < 4 * stored / SAMPLES:
        assert time.monotonic() < deadline
        time.sleep(0.005)
