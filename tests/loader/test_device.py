"""Batches on a device: routes, reasons, errors, and the order of copies."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import dataplane as dp
from dataplane.errors import ConfigError, DecodeError, MissingPackage
from dataplane.gpu.device import CpuDevice
from dataplane.gpu.inflate import HostInflater, Inflation
from dataplane.gpu.route import Speeds
from dataplane.loader import device_batches
from tests.cache.fakes import wait_until
from tests.datasets.packed import SAMPLES, Packed
from tests.gpu.fakes import LateDevice
from tests.gpu.test_transfer import equal
from tests.loader.inside import ready_count

NAMES = ["points", "cells/connectivity", "fields/velocity", "global_data/mach"]
ROUTES = ["cpu", "gpu"]


@pytest.fixture
def dataset(packed: Packed) -> Iterator[dp.Dataset]:
    with dp.Dataset(packed.url, NAMES) as dataset:
        yield dataset


def plain(dataset: dp.Dataset, **options: Any) -> list[Any]:
    return list(dp.DataLoader(dataset, batch_size=4, shuffle=True, seed=5, **options))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("route", ROUTES)
def test_a_pass_on_a_device_is_the_pass_without_one(
    dataset: dp.Dataset, route: str, num_workers: int
) -> None:
    options = {"device": "cpu", "decode": route, "num_workers": num_workers}
    got, wanted = plain(dataset, **options), plain(dataset)
    assert equal(got, wanted)
    assert all(isinstance(batch["__key__"], list) for batch in got)


@pytest.mark.parametrize("route", ROUTES)
def test_batches_without_keys_have_none_on_a_device_either(dataset: dp.Dataset, route: str) -> None:
    got = plain(dataset, device="cpu", decode=route, keys=False)
    assert equal(got, plain(dataset, keys=False))


def test_all_arrays_come_by_the_gpu_route_with_lists_and_absent_ones(packed: Packed) -> None:
    with dp.Dataset(packed.url) as everything:
        got = plain(everything, device="cpu", decode="gpu", num_workers=1)
        assert equal(got, plain(everything))


@pytest.mark.parametrize("route", ROUTES)
def test_statistics_say_which_route_and_why(dataset: dp.Dataset, route: str) -> None:
    loader = dp.DataLoader(dataset, batch_size=4, num_workers=1, device="cpu", decode=route)
    for _ in loader:
        pass
    stats = loader.stats()
    assert (stats.device, stats.decode, stats.decode_reason) == ("cpu", route, "as was asked for")
    assert set(stats.stages) == {"read", "decode", "device"}
    assert stats.stages["device"]["items"] == 3
    assert stats.as_dict()["decode"] == route


def test_a_loader_without_a_device_says_nothing_of_one(dataset: dp.Dataset) -> None:
    loader = dp.DataLoader(dataset, batch_size=4)
    next(iter(loader))
    assert (loader.stats().device, loader.stats().decode) == ("", "")


def test_auto_on_the_cpu_is_the_native_decoder(dataset: dp.Dataset) -> None:
    loader = dp.DataLoader(dataset, batch_size=4, device="cpu")
    next(iter(loader))
    assert loader.stats().decode == "cpu"
    assert loader.stats().decode_reason == "the device is the CPU"


def test_what_users_code_returns_is_moved(dataset: dp.Dataset) -> None:
    def transform(sample: dict) -> tuple[torch.Tensor, dict]:
        return sample["fields/velocity"].mean(0), {"mach": sample["global_data/mach"]}

    moved = []
    for device in (None, "cpu"):
        with_code = dp.Dataset(dataset.url, NAMES, transform=transform)
        moved.append(plain(with_code, num_workers=2, device=device))
    assert equal(moved[1], moved[0])


def test_samples_are_moved_where_there_are_no_batches(dataset: dp.Dataset) -> None:
    got = list(dp.DataLoader(dataset, batch_size=None, device="cpu", decode="cpu"))
    assert equal(got, list(dp.DataLoader(dataset, batch_size=None)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, "device must be like"),
        ({"device": "cpu", "decode": "fast"}, 'decode must be "auto", "cpu" or "gpu"'),
        ({"decode": "gpu"}, "there is no device"),
    ],
)
def test_arguments_that_cannot_be_are_refused(
    dataset: dp.Dataset, options: dict, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        dp.DataLoader(dataset, **options)


def test_a_device_for_another_dataset_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"device is for a dataplane\.Dataset, this is a list"):
        dp.DataLoader([1, 2, 3], device="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"collate_fn": list}, "collate_fn and datasets of your own run on the CPU"),
        ({"batch_size": None}, "single samples"),
    ],
)
def test_the_gpu_route_is_refused_where_the_cpu_is_needed(
    dataset: dp.Dataset, options: dict, message: str
) -> None:
    loader = dp.DataLoader(dataset, device="cpu", decode="gpu", **options)
    with pytest.raises(ConfigError, match=message) as caught:
        iter(loader)
    assert 'use decode="auto"' in str(caught.value)


def test_a_missing_gpu_is_told_when_a_pass_begins(
    dataset: dp.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    loader = dp.DataLoader(dataset, device="cuda")
    with pytest.raises(ConfigError, match="finds no CUDA device here"):
        iter(loader)


def test_no_gpu_is_touched_before_a_pass(packed: Packed, tmp_path: Path) -> None:
    program = f"""
import torch
def touched(*arguments, **options):
    raise AssertionError("a GPU was touched")
for name in ("is_available", "device_count", "current_device", "init", "_lazy_init"):
    setattr(torch.cuda, name, touched)
import pickle
import dataplane as dp
loader = dp.DataLoader(dp.Dataset({packed.url!r}), 2, device="cuda", num_workers=2)
loader.state_dict(), len(loader), repr(loader)
pickle.loads(pickle.dumps(loader))
"""
    environment = {**os.environ, "DATAPLANE_CACHE_DIR": str(tmp_path / "cache")}
    ran = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True,
        check=False, timeout=100,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr


class Queued(LateDevice):
    """A late device that is a GPU to the loader; the loop's work runs in order behind its event."""

    made: list[Queued]

    def hand_over(self, tensors: Any, event: Any) -> None:
        super().hand_over(tensors, event)
        self.run_until(event.place)


@pytest.fixture
def queued(monkeypatch: pytest.MonkeyPatch) -> list[Queued]:
    """Have "cuda" be a device that runs nothing before it must."""
    made: list[Queued] = []

    def resolve(device: torch.device) -> Queued:
        made.append(Queued())
        return made[-1]

    monkeypatch.setattr(device_batches, "resolve", resolve)
    monkeypatch.setattr(device_batches, "_told", {})
    return made


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_batches_are_right_though_every_copy_is_late(
    dataset: dp.Dataset, queued: list[Queued], num_workers: int
) -> None:
    got = plain(dataset, device="cuda", decode="cpu", num_workers=num_workers)
    assert equal(got, plain(dataset))
    (device,) = queued
    assert len(device.handed) == 3
    assert device.log.count("copy") == sum(count for count, _ in device.handed)


def test_a_batch_is_on_its_way_while_the_loop_has_the_one_before(
    dataset: dp.Dataset, queued: list[Queued]
) -> None:
    batches = iter(dp.DataLoader(dataset, batch_size=2, num_workers=1, device="cuda", decode="cpu"))
    next(batches)
    (device,) = queued
    wait_until(lambda: ready_count(batches) > 0)
    # The next batch's copies are queued, and the loop did not have to run them.
    assert device.log.count("copy") > device.ran


FAST_GPU = Speeds(50e9, {"lz4": 1e9}, 50e9, {"lz4": 1e12, "zstd": 1e12}, 1e12)
SLOW_GPU = Speeds(50e9, {"lz4": 1e9}, 50e9, {"lz4": 1e6, "zstd": 1e6}, 1e12)


@pytest.mark.parametrize(("speeds", "route"), [(FAST_GPU, "gpu"), (SLOW_GPU, "cpu")])
def test_auto_takes_the_route_that_is_faster_by_the_first_batch(
    dataset: dp.Dataset,
    monkeypatch: pytest.MonkeyPatch,
    queued: list[Queued],
    speeds: Speeds,
    route: str,
) -> None:
    monkeypatch.setattr(device_batches, "inflater_for", lambda device, threads: HostInflater())
    monkeypatch.setattr(device_batches, "measured", lambda *a, **k: speeds)
    monkeypatch.setattr(
        "dataplane.gpu.transfer.Transfer.decode_there",
        lambda self, *a, **k: self.decode_here(*a, **k),  # copies are late, so no kernel can run
    )
    loader = dp.DataLoader(dataset, batch_size=4, shuffle=True, seed=5, device="cuda")
    monkeypatch.setattr(device_batches, "_free_bytes", lambda device: 80 << 30)
    assert equal(list(loader), plain(dataset))
    stats = loader.stats()
    assert stats.decode == route
    assert "ratio" in stats.decode_reason
    assert "GB/s" in stats.decode_reason


def test_what_is_missing_is_one_line_in_the_log_and_the_cpu_decodes(
    dataset: dp.Dataset,
    monkeypatch: pytest.MonkeyPatch,
    queued: list[Queued],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def missing(device: object, threads: int) -> None:
        raise MissingPackage("decoding on a GPU needs nvidia-libnvcomp", hint="install it")

    monkeypatch.setattr(device_batches, "inflater_for", missing)
    with caplog.at_level(logging.WARNING, "dataplane"):
        for _ in range(2):
            loader = dp.DataLoader(dataset, batch_size=4, shuffle=True, seed=5, device="cuda")
            assert equal(list(loader), plain(dataset))
    (record,) = [r for r in caplog.records if "decoded on the CPU" in r.getMessage()]
    assert "needs nvidia-libnvcomp (install it)" in record.getMessage()
    assert "needs nvidia-libnvcomp" in loader.stats().decode_reason
    with pytest.raises(MissingPackage, match="nvidia-libnvcomp"):
        iter(dp.DataLoader(dataset, device="cuda", decode="gpu"))


def test_measuring_that_fails_is_one_line_and_the_cpu_decodes(
    dataset: dp.Dataset,
    monkeypatch: pytest.MonkeyPatch,
    queued: list[Queued],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(device_batches, "inflater_for", lambda device, threads: HostInflater())
    monkeypatch.setattr(device_batches, "measured", broken)
    loader = dp.DataLoader(dataset, batch_size=4, shuffle=True, seed=5, device="cuda")
    with caplog.at_level(logging.WARNING, "dataplane"):
        assert equal(list(loader), plain(dataset))
    assert "no kernel image" in loader.stats().decode_reason
    assert sum("no kernel image" in record.getMessage() for record in caplog.records) == 1


def test_a_device_without_memory_goes_on_by_the_cpu_route(
    dataset: dp.Dataset, monkeypatch: pytest.MonkeyPatch, queued: list[Queued]
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(device_batches, "inflater_for", lambda device, threads: HostInflater())
    monkeypatch.setattr(device_batches, "measured", lambda *a, **k: FAST_GPU)
    monkeypatch.setattr(device_batches, "_free_bytes", lambda device: None)
    monkeypatch.setattr("dataplane.gpu.transfer.Transfer.decode_there", full)
    loader = dp.DataLoader(dataset, batch_size=4, shuffle=True, seed=5, device="cuda")
    assert equal(list(loader), plain(dataset))
    assert "no memory left (CUDA out of memory" in loader.stats().decode_reason
    by_name = dp.DataLoader(dataset, batch_size=4, device="cuda", decode="gpu")
    with pytest.raises(torch.OutOfMemoryError):
        next(iter(by_name))


class DamagedOnce:
    """Finds a damaged stream in the second batch that it inflates."""

    def __init__(self) -> None:
        self.batches = 0

    def inflate(self, *arguments: Any) -> Inflation:
        self.batches += 1
        is_bad = self.batches == 2
        result = HostInflater().inflate(*arguments)
        if is_bad:
            result.memory.zero_()

        def check() -> None:
            if is_bad:
                raise DecodeError("a stream is damaged")

        return Inflation(result.memory, result.starts, check)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_damage_that_only_the_device_sees_is_read_again(
    dataset: dp.Dataset,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    num_workers: int,
) -> None:
    inflater = DamagedOnce()
    monkeypatch.setattr(device_batches, "_told", {})
    monkeypatch.setattr(device_batches, "inflater_for", lambda device, threads: inflater)
    got = plain(dataset, device="cpu", decode="gpu", num_workers=num_workers)
    assert inflater.batches == 3
    assert equal(got, plain(dataset))
    assert [record.getMessage() for record in caplog.records] == [
        "cpu could not inflate what the CPU can (a stream is damaged); the batch was decoded on "
        "the CPU"
    ]


def test_a_batch_that_is_read_again_takes_no_place_of_those_under_way(
    dataset: dp.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop that is slow fills every place between the stages meanwhile."""

    class DamagedInTheMiddle(HostInflater):
        calls = 0

        def inflate(self, *arguments: Any) -> Inflation:
            found = super().inflate(*arguments)
            self.calls += 1
            if self.calls != SAMPLES // 2:
                return found

            def damaged() -> None:
                raise DecodeError("a stream is damaged")

            return replace(found, check=damaged)

    inflater = DamagedInTheMiddle()
    monkeypatch.setattr(device_batches, "inflater_for", lambda device, threads: inflater)
    loader = dp.DataLoader(dataset, device="cpu", decode="gpu", num_workers=2, timeout=60)
    got = []
    for batch in loader:
        time.sleep(0.05)  # the loop is the slow one
        got.append(batch)
    assert inflater.calls == SAMPLES
    assert equal(got, list(dp.DataLoader(dataset)))


def test_auto_leaves_a_device_that_cannot_inflate_what_the_cpu_can(
    dataset: dp.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    inflater = DamagedOnce()
    monkeypatch.setattr(device_batches, "_told", {})
    monkeypatch.setattr(device_batches, "inflater_for", lambda device, threads: inflater)
    monkeypatch.setattr(device_batches, "resolve", lambda device: CpuDevice())
    monkeypatch.setattr(device_batches, "measured", lambda *a, **k: FAST_GPU)
    loader = dp.DataLoader(dataset, batch_size=2, shuffle=True, seed=5, device="cuda")
    wanted = list(dp.DataLoader(dataset, batch_size=2, shuffle=True, seed=5))
    assert equal(list(loader), wanted)
    assert inflater.batches == 2
    assert loader.stats().decode == "cpu"
    assert "could not inflate what the CPU can" in loader.stats().decode_reason


@pytest.mark.parametrize("policy", ["raise", "skip"])
@pytest.mark.parametrize("route", ROUTES)
def test_samples_that_are_damaged_in_the_store_fall_under_the_policy(
    packed: Packed, tmp_path: Path, route: str, policy: str
) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in packed.folder.iterdir():
        (damaged / path.name).write_bytes(path.read_bytes())
    with dp.Dataset(packed.url, NAMES, cache=False) as dataset:
        plan = dataset.reader().planner.plan(3)
    start, stop = plan.spans[0]
    with (damaged / plan.shard).open("r+b") as file:
        file.seek(start + (stop - start) // 2)
        file.write(b"\xff" * 64)
    with dp.Dataset(f"file://{damaged}", NAMES, cache=False, errors=policy) as dataset:
        loader = dp.DataLoader(dataset, 2, device="cpu", decode=route, num_workers=1)
        if policy == "skip":
            keys = [key for batch in loader for key in batch["__key__"]]
            assert keys == [f"case-{n:03d}" for n in range(SAMPLES) if n != 3]
            return
        batches = iter(loader)
        next(batches)
        with pytest.raises(DecodeError, match="case-003"):
            next(batches)
        assert next(batches)["__key__"] == ["case-004", "case-005"]


def test_leaving_a_pass_on_a_device_ends_its_threads(dataset: dp.Dataset) -> None:
    import threading

    before = set(threading.enumerate())
    for route in ROUTES:
        batches = iter(
            dp.DataLoader(dataset, batch_size=1, num_workers=3, device="cpu", decode=route)
        )
        next(batches)
        batches.close()
    left = [t for t in set(threading.enumerate()) - before if t.name.startswith("dp-d")]
    assert left == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("route", ["auto", "cpu", "gpu"])
def test_batches_on_a_gpu_are_those_of_the_cpu(packed: Packed, route: str) -> None:
    with dp.Dataset(packed.url) as everything:
        got = plain(everything, device="cuda", decode=route, num_workers=2)
        wanted = plain(everything)

    def fetched(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            assert value.device.type == "cuda"
            return value.cpu()
        if isinstance(value, dict):
            return {name: fetched(item) for name, item in value.items()}
        return [fetched(item) for item in value] if type(value) is list else value

    assert equal(fetched(got), wanted)
