"""Which route batches take: a table, and the figures that it is computed from."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dataplane.codecs import ChunkTable
from dataplane.gpu import speeds as speeds_module
from dataplane.gpu.device import CpuDevice
from dataplane.gpu.inflate import HostInflater
from dataplane.gpu.route import Load, Speeds, choose, load_of
from dataplane.gpu.speeds import measured
from tests.codecs.cases import CHAINS, Stored, values
from tests.gpu.inside import staged

GIB = 1 << 30
FAST_GPU = Speeds(
    link=50e9, decode={"lz4": 6e9, "zstd": 3e9}, stage=12e9,
    inflate={"lz4": 120e9, "zstd": 60e9}, place=800e9,
)  # fmt: skip
SLOW_LINK = Speeds(
    link=3e9, decode={"lz4": 20e9, "zstd": 10e9}, stage=40e9,
    inflate={"lz4": 120e9, "zstd": 60e9}, place=800e9,
)  # fmt: skip
SLOW_GPU = Speeds(
    link=12e9, decode={"lz4": 20e9, "zstd": 12e9}, stage=40e9,
    inflate={"lz4": 8e9, "zstd": 2e9}, place=50e9,
)  # fmt: skip


def load(ratio: float, codec: str = "lz4") -> Load:
    return Load(GIB, int(GIB / ratio), {codec: GIB})


@pytest.mark.parametrize(
    ("speeds", "ratio", "codec", "route"),
    [
        (FAST_GPU, 4.0, "lz4", "gpu"),  # the decoder is the limit, and the GPU does not notice
        (FAST_GPU, 4.0, "zstd", "gpu"),
        (FAST_GPU, 2.0, "lz4", "gpu"),
        (FAST_GPU, 1.0, "lz4", "gpu"),  # staging copies faster than decoding
        (SLOW_LINK, 4.0, "lz4", "gpu"),  # the link is the limit: fewer bytes go over it
        (SLOW_LINK, 1.2, "lz4", "cpu"),  # hardly fewer
        (SLOW_LINK, 1.0, "zstd", "cpu"),
        (SLOW_GPU, 4.0, "lz4", "cpu"),
        (SLOW_GPU, 4.0, "zstd", "cpu"),
    ],
)
def test_the_faster_route_is_chosen(speeds: Speeds, ratio: float, codec: str, route: str) -> None:
    choice = choose(load(ratio, codec), speeds)
    assert choice.route == route
    assert f"ratio {ratio:.2f}" in choice.why
    assert "GB/s decoded on the CPU" in choice.why
    assert not choice.is_fallback


def test_about_as_fast_is_not_worth_the_gpu() -> None:
    even = Speeds(10e9, {"lz4": 5e9}, 20e9, {"lz4": 8e9}, 80e9)
    there_s = GIB / 4 / 10e9 + GIB / 8e9 + GIB / 80e9
    assert 0.8 < there_s / (GIB / 5e9) < 1
    assert choose(load(4.0), even).route == "cpu"


def test_what_is_missing_decides_and_is_said() -> None:
    choice = choose(load(8.0), FAST_GPU, missing="nvCOMP is not installed")
    assert (choice.route, choice.why, choice.is_fallback) == (
        "cpu", "nvCOMP is not installed", True)  # fmt: skip


def test_a_batch_that_would_fill_the_memory_is_decoded_on_the_cpu() -> None:
    assert choose(load(4.0), FAST_GPU, free_bytes=80 * GIB).route == "gpu"
    choice = choose(load(4.0), FAST_GPU, free_bytes=4 * GIB)
    assert (choice.route, choice.is_fallback) == ("cpu", True)
    assert "1.25 GiB of its memory, and 4 GiB are free" in choice.why
    # The scratch memory of zstd counts, as much as one call takes.
    assert choose(load(4.0, "zstd"), FAST_GPU, free_bytes=7 * GIB).route == "cpu"
    assert choose(load(4.0, "lz4"), FAST_GPU, free_bytes=7 * GIB).route == "gpu"


def test_mixed_codecs_take_the_time_of_both() -> None:
    slow_zstd = Speeds(50e9, {"lz4": 6e9, "zstd": 6e9}, 12e9, {"lz4": 100e9, "zstd": 1e9}, 800e9)
    lz4 = Load(GIB, GIB // 4, {"lz4": GIB})
    mixed = Load(GIB, GIB // 4, {"lz4": GIB // 2, "zstd": GIB // 2})
    assert choose(lz4, slow_zstd).route == "gpu"
    assert choose(mixed, slow_zstd).route == "cpu"


def test_without_speeds_or_elements_the_cpu_decodes() -> None:
    assert choose(load(4.0), None).route == "cpu"
    assert choose(Load(0, 0, {}), FAST_GPU).route == "cpu"


def test_a_load_is_what_was_staged() -> None:
    parts = [
        Stored(values((64, 33), "f4"), (16, 33), CHAINS["blosc-lz4-shuffle"]),
        Stored(values((64, 33), "f4"), (16, 33), CHAINS["zstd"], missing=(1,)),
    ]
    table = ChunkTable.concatenate(
        [part.table(source=i, destination=i) for i, part in enumerate(parts)]
    )
    _, streams = staged(table, [part.source for part in parts])
    found = load_of(table, streams, 2 * 64 * 33 * 4)
    assert found.by_codec == {"lz4": 64 * 33 * 4, "zstd": 48 * 33 * 4}
    assert found.staged_bytes == streams["nbytes"].sum() + table.rows.nbytes
    assert found.ratio == pytest.approx(2 * 64 * 33 * 4 / found.staged_bytes)


def test_speeds_are_measured_once_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speeds_module, "_known", {})
    monkeypatch.setattr(speeds_module, "MEASURE_S", 0.0)
    inflater = HostInflater()
    found = measured(CpuDevice(), inflater, threads=1, sample_bytes=1 << 20)
    figures = [
        found.link, found.stage, found.place, *found.decode.values(), *found.inflate.values(),
    ]  # fmt: skip
    assert all(math.isfinite(figure) and figure > 0 for figure in figures)
    assert set(found.decode) == set(found.inflate) == {"lz4", "zstd"}
    assert measured(CpuDevice(), inflater, threads=1) is found
    assert measured(CpuDevice(), inflater, threads=2, sample_bytes=1 << 20) is not found
    assert np.isfinite(found.link)
