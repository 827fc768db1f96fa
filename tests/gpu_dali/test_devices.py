"""Which GPU a pipeline runs on, without one: torch's count is made up."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import dataplane as dp
from dataplane import dali_ops as ops
from dataplane.gpu.dali_library import device_of
from tests.datasets.packed import Packed
from tests.gpu_dali.cases import SAMPLES


def test_dali_is_installed_where_it_has_a_wheel() -> None:
    """So that these tests run, and are not skipped, wherever they can."""
    is_served = sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")
    if not is_served:
        pytest.skip("DALI has wheels for Linux on x86-64 and arm64 only")
    import nvidia.dali

    assert int(nvidia.dali.__version__.split(".")[0]) >= 1


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)

    def made(count: int, **environment: str) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    return made


def test_auto_is_the_local_rank_s_gpu_or_the_cpu(gpus: Any) -> None:
    gpus(0, LOCAL_RANK="1", WORLD_SIZE="2")
    assert device_of("auto") is None
    gpus(4, LOCAL_RANK="3")
    assert device_of("auto") == 3
    gpus(4, LOCAL_RANK="0")
    assert device_of("auto") == 0
    assert device_of(None) is None
    assert device_of(2) == 2


def test_auto_without_a_launcher_is_the_first_gpu(gpus: Any) -> None:
    gpus(4)
    assert device_of("auto") == 0


def test_ranks_never_share_a_gpu_unasked(gpus: Any) -> None:
    gpus(2, WORLD_SIZE="2")
    with pytest.raises(dp.ConfigError, match="without LOCAL_RANK: all ranks would take GPU 0"):
        device_of("auto")
    gpus(2, LOCAL_RANK="2", WORLD_SIZE="4")
    with pytest.raises(dp.ConfigError, match="LOCAL_RANK is '2', and this host has 2 GPUs"):
        device_of("auto")
    gpus(2, LOCAL_RANK="first")
    with pytest.raises(dp.ConfigError, match="LOCAL_RANK is 'first'"):
        device_of("auto")


def test_no_gpu_is_asked_for_before_a_batch_is(
    volume_data: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nvidia.dali", reason="there is no DALI for this platform")
    asked: list[str] = []

    def counted() -> int:
        asked.append("count")
        return 0

    monkeypatch.setattr(torch.cuda, "device_count", counted)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: asked.append("device"))
    dataset = dp.Dataset(volume_data.url, arrays=["fields/density"], cache=False)
    one = dp.dali_pipeline(dataset, 2, [ops.flip()], device_id="auto", shuffle=True)
    one.load_state_dict(one.state_dict())
    one.set_epoch(1)
    assert len(one) == 4
    assert "device_id='auto'" in repr(one)
    assert asked == []
    next(iter(one))
    assert asked == ["count"]
    assert one.device_id is None
    assert not one.loader.pin_memory


@pytest.mark.skipif(torch.cuda.device_count() > 0, reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said_with_dali_s_own_reason(volume_data: Packed) -> None:
    pytest.importorskip("nvidia.dali", reason="there is no DALI for this platform")
    dataset = dp.Dataset(volume_data.url, arrays=["fields/density"], cache=False)
    one = dp.dali_pipeline(dataset, 2, [ops.flip()], device_id=0)
    with pytest.raises(dp.LoaderError, match=r"DALI makes no pipeline on GPU 0: .*CUDA"):
        next(iter(one))


_RANK = """
import sys
import torch
import dataplane as dp
from dataplane import dali_ops as ops
assert not torch.cuda.is_initialized()
ds = dp.Dataset(sys.argv[1], arrays=["fields/density"], cache=False)
pipeline = dp.dali_pipeline(ds, 2, [ops.flip()], device_id="auto", shuffle=True, seed=3)
for _ in range(2):
    for batch in pipeline:
        for key, axes in zip(batch["__key__"], batch["__params__"]["0.flip.axes"].tolist()):
            print(key, *axes)
print("state", pipeline.state_dict()["epoch"])
"""


def test_ranks_of_a_launcher_share_each_epoch_and_change_a_sample_alike(
    volume_data: Packed,
) -> None:
    pytest.importorskip("nvidia.dali", reason="there is no DALI for this platform")
    printed = []
    for rank in ("0", "1"):
        environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}
        done = subprocess.run(
            [sys.executable, "-c", _RANK, volume_data.url], env=os.environ | environment,
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        *lines, state = done.stdout.splitlines()
        assert state == "state 2"
        assert len(lines) == 2 * 4  # seven samples, padded to eight, in two epochs
        printed.append(lines)
    for epoch in (slice(4), slice(4, 8)):
        both = [line for lines in printed for line in lines[epoch]]
        assert len({line.split()[0] for line in both}) == SAMPLES
        assert len({*both}) == SAMPLES  # the one that is there twice is changed alike


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() == 0, reason="torch finds no CUDA device")
def test_on_a_gpu_the_same_definition_gives_the_same_within_rounding(volume_data: Packed) -> None:
    dataset = dp.Dataset(volume_data.url, cache=False)
    operations = [
        ops.normalise("fields/density"),
        ops.rotate90(),
        ops.flip(),
        ops.rotate(20),
        ops.zoom((0.9, 1.1)),
        ops.random_crop(6),
        ops.noise(0.1, arrays=["fields/density"]),
        ops.channel_drop(0.3, arrays=["fields/pair"]),
        ops.cast("float16", arrays=["fields/pair"]),
    ]
    roles: dict[str, Any] = {"vectors": ["fields/velocity"], "labels": ["fields/label"]}
    options = {"shuffle": True, "seed": 1, **roles}
    here = dp.dali_pipeline(dataset, 3, operations, device_id=None, **options)
    there = dp.dali_pipeline(dataset, 3, operations, device_id=0, **options)
    for one, other in zip(here, there, strict=True):
        assert other["fields/density"].device == torch.device("cuda", 0)
        for name in ("fields/density", "fields/velocity", "fields/pair"):
            torch.testing.assert_close(other[name].cpu(), one[name], atol=1e-3, rtol=0)
        near = (other["fields/label"].cpu() == one["fields/label"]).float().mean()
        assert near > 0.999


def test_the_typing_of_the_public_names_is_there() -> None:
    root = Path(dp.__file__).parent
    assert (root / "py.typed").exists()
    assert {"dali_ops", "dali_pipeline", "dali_source"} <= set(dp.__all__)
