"""`dataplane bench gpu`: what it measures and says on the CPU, and with a CPU taken for a GPU."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from dataplane.codecs import decode
from dataplane.errors import ConfigError, DecodeError, LoaderError, MissingPackage
from dataplane.gpu.device import CpuDevice
from dataplane.gpu.inflate import HostInflater, Inflation
from dataplane_bench.cases import gpu_data, gpu_passes, gpu_systems
from dataplane_bench.cases.gpu import NO_GPU, GpuOptions, Sizes, Steps, run
from dataplane_bench.cases.gpu_setup import Setup
from dataplane_bench.cases.gpu_step import PRESSURE, VELOCITY, UNetStep
from dataplane_bench.command import bench
from dataplane_bench.model import Cost, Row
from tests.bench.inside import settled_slots
from tests.gpu.fakes import LateDevice

_SMALL = GpuOptions(
    device="cpu", codecs=("lz4",), chunk_bytes=(16 << 10,), ratios=(2.0,), threads=1, rounds=1,
    sizes=Sizes.small(),
)  # fmt: skip


def _quiet(_: str) -> None:
    pass


def taken_for_a_gpu() -> Setup:
    """The CPU, of which the case is told that it is a GPU."""
    return Setup(CpuDevice(), _SMALL, _quiet, False, "a GPU", Sizes.small())


def chunks_of(codec: str = "lz4") -> gpu_data.Chunks:
    array = gpu_data.rounded(gpu_data.make_fields(1, 32, 0), codec, 2.0)
    return gpu_data.make_chunks(array, codec, 16 << 10, threads=1)


def names(rows: list[Row], selection: str | None) -> list[str]:
    return [row.system for row in rows if row.selection == selection]


def test_without_a_gpu_one_line_says_so_and_the_rows_are_of_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = CliRunner().invoke(bench, ["gpu", "--smoke", "--codec", "lz4", "--json"])
    assert done.exit_code == 0, done.output
    assert done.stderr == NO_GPU + "\n"
    report = json.loads(done.stdout)
    assert "gpu" not in report["machine"]
    rows = report["rows"]
    assert {row["case"] for row in rows} == {"gpu"}
    assert all("the CPU, " in row["dataset"] for row in rows)
    assert {row["state"] for row in rows} == {
        "the native decoder in nvCOMP's place",
        "NumPy in the kernel's place",
        "the gpu route on the CPU, auto: cpu",
    }
    assert {row["system"] for row in rows if row["selection"].startswith("passes")} == {
        *("dataplane", "decode=gpu", "decode=cpu"), "ceiling:memcpy",
    }  # fmt: skip
    assert all(row["ratio_to_ceiling"] > 0 for row in rows)
    assert {one["subject"] for one in report["figures"]} == {
        *("dataplane", "decode=gpu", "decode=cpu")
    }


def test_without_torch_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    done = CliRunner().invoke(bench, ["gpu", "--smoke"])
    assert isinstance(done.exception, MissingPackage)
    assert "torch" in str(done.exception)


def test_unasked_the_step_and_the_link_are_left_out_on_the_cpu() -> None:
    rows, figures = run(dataclasses.replace(_SMALL, device="cpu"), _quiet)
    assert rows
    assert figures == []
    assert "host to device" not in {row.state for row in rows}


def test_the_link_of_no_gpu_is_refused_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="link to a GPU") as caught:
        run(dataclasses.replace(_SMALL, parts=("passes", "link")), pytest.fail)
    assert "leave out --part link" in str(caught.value.hint)


@pytest.mark.parametrize(
    "wrong", [{"parts": ("lonk",)}, {"codecs": ("gzip",)}, {"device": "tpu"}], ids=str
)
def test_what_is_not_known_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        run(dataclasses.replace(_SMALL, **wrong), _quiet)


def test_every_step_has_a_row_on_a_gpu_and_the_device_is_the_ceiling() -> None:
    steps = Steps(taken_for_a_gpu())
    link = steps.link()
    assert {row.state for row in link} == {"host to device"}
    assert names(link, None) == [
        "dataplane", "beside a 3D U-Net step", "from memory that is not pinned",
        "ceiling:plain copies",
    ]  # fmt: skip
    rows = steps.steps(("place",))
    assert names(rows, "un-shuffle and place") == [
        "dataplane", "kernel alone", "ceiling:memcpy there",
    ]  # fmt: skip
    for row in [*link, *rows]:
        assert row.ratio_to_ceiling is not None
        assert row.dataset.startswith("a GPU, ")


def test_an_inflater_that_is_not_there_is_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def absent(_: Steps) -> Any:
        raise MissingPackage("no DALI here")

    monkeypatch.setattr(Steps, "_dali", absent)
    with caplog.at_level("WARNING", logger="dataplane"):
        rows = Steps(taken_for_a_gpu()).steps(("inflate",))
    assert names(rows, "inflate") == [
        "native decoder", "gathering of streams", "dataplane", "ceiling:memcpy there",
    ]  # fmt: skip


def test_passes_on_a_gpu_are_compared_with_the_link_for_compressed_bytes(tmp_path: Any) -> None:
    rows, figures = gpu_passes.passes(taken_for_a_gpu(), tmp_path, ("passes",))
    assert figures == []
    assert [row.system for row in rows] == [
        "dataplane", "decode=gpu", "decode=cpu", "ceiling:link", "ceiling:link, decoded",
    ]  # fmt: skip
    assert {row.ceiling for row in rows} == {"link"}
    assert {row.state for row in rows} == {"auto: cpu"}


def test_all_systems_of_passes_are_charged_for_the_whole_pass(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    seen: dict[str, Cost] = {}
    rounds = Setup.rounds

    def watched(self: Setup, systems: Any) -> Any:
        alive, costs = rounds(self, systems)
        seen.update({one.name: runs[0] for one, runs in zip(alive, costs, strict=True)})
        return alive, costs

    monkeypatch.setattr(Setup, "rounds", watched)
    gpu_passes.passes(taken_for_a_gpu(), tmp_path, ("passes",))
    assert len({cost.nbytes for cost in seen.values()}) == 1
    assert len({cost.samples for cost in seen.values()}) == 1


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_chunks_hold_the_elements_that_they_were_made_of(codec: str) -> None:
    chunks = chunks_of(codec)
    out = np.empty_like(chunks.array)
    decode(chunks.table, [chunks.source], [out])
    assert np.array_equal(out, chunks.array)
    assert len(chunks.table) == 8
    assert chunks.chunk_bytes == 16 << 10


def test_rows_name_the_size_that_chunks_have_and_not_the_one_that_was_asked_for() -> None:
    chunks = gpu_data.make_chunks(chunks_of().array, "lz4", 100 << 10, threads=1)
    assert chunks.chunk_bytes == 64 << 10


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
@pytest.mark.parametrize("ratio", [1.2, 2.0, 4.0])
def test_rounding_reaches_the_ratio_that_was_asked_for(codec: str, ratio: float) -> None:
    array = gpu_data.rounded(gpu_data.make_fields(1, 64, 0), codec, ratio)
    chunks = gpu_data.make_chunks(array, codec, 256 << 10, threads=1)
    assert chunks.ratio == pytest.approx(ratio, rel=0.3)


def test_a_run_is_over_when_the_device_has_made_its_copies() -> None:
    device: Any = LateDevice()
    system = gpu_systems.Copies(device, 1 << 10, 5)
    cost = system.run()
    assert device.ran == 5
    assert device.log[-1] == "wait 5"
    assert (cost.nbytes, cost.samples) == (1 << 10, 1)


def test_placement_of_other_elements_is_an_error_and_no_row() -> None:
    chunks = chunks_of()
    wrong = dataclasses.replace(chunks, array=chunks.array + 1)
    staged = gpu_data.Staged(CpuDevice(), wrong)
    with pytest.raises(LoaderError, match="other elements"):
        gpu_systems.Places(staged, 1, name="dataplane", whole=False).run()


@pytest.mark.parametrize("whole", [True, False])
def test_placement_is_repeated(whole: bool) -> None:
    system = gpu_systems.Places(
        gpu_data.Staged(CpuDevice(), chunks_of()), 5, name="dataplane", whole=whole
    )
    assert system.run().nbytes == 32**3 * 4


class _Damaged(HostInflater):
    """Finds every stream damaged, when it is done, as nvCOMP would."""

    def inflate(self, *given: Any) -> Inflation:
        found = super().inflate(*given)

        def check() -> None:
            raise DecodeError("a stream does not inflate")

        return dataclasses.replace(found, check=check)


class _Refusing(HostInflater):
    """Takes no streams at all."""

    def inflate(self, *_given: Any) -> Inflation:
        raise DecodeError("nothing is taken")


def test_inflation_is_checked_and_gives_its_slots_back() -> None:
    staged = gpu_data.Staged(CpuDevice(), chunks_of())
    gpu_systems.Inflates(staged, HostInflater, 5).run()
    assert settled_slots(staged) == gpu_data.SLOTS


@pytest.mark.parametrize("inflater", [_Damaged, _Refusing])
def test_a_damaged_stream_ends_the_run_and_leaves_the_others_to_go_on(inflater: Any) -> None:
    staged = gpu_data.Staged(CpuDevice(), chunks_of())
    bad = gpu_systems.Inflates(staged, inflater, 5)
    with pytest.raises(DecodeError):
        bad.run()
    bad.close()
    assert settled_slots(staged) == gpu_data.SLOTS
    gpu_systems.Inflates(staged, HostInflater, 5).run()


def test_utilisation_is_the_time_of_the_steps_over_that_of_the_pass_round_by_round() -> None:
    alone, ours = (gpu_systems.DeviceCopies(CpuDevice(), 1, 1) for _ in range(2))
    ours.name = "dataplane"
    costs = [[Cost(4.0, 0, 1, 1), Cost(5.0, 0, 1, 1)], [Cost(3.0, 0, 1, 1), Cost(4.5, 0, 1, 1)]]
    assert gpu_passes.shares_of([ours, alone], costs, alone) == [("dataplane", [0.75, 0.9])]


def test_the_step_trains() -> None:
    step = UNetStep(torch.device("cpu"), width=2, seed=0)
    velocity = torch.from_numpy(
        np.random.default_rng(0).standard_normal((2, 8, 8, 8, 3)).astype(np.float32)
    )
    batch = {VELOCITY: velocity, PRESSURE: velocity.square().sum(-1)}
    losses = [float(step(batch)) for _ in range(30)]
    assert losses[-1] < losses[0]
