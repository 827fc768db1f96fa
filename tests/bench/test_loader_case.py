"""The loader case: its table, what it refuses, and which rows it gives."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner

import dataplane.datasets
from dataplane.errors import ConfigError
from dataplane.shards import WriteOptions
from dataplane_bench.cases import loader
from dataplane_bench.cases.loader import LoaderOptions, case_of, run
from dataplane_bench.cases.loader_table import (
    CASES,
    UTILISATION_CASE,
    LoaderCase,
    case_named,
    make_samples,
    our_selection,
)
from dataplane_bench.cases.loader_utilisation import utilisation_figures
from dataplane_bench.command import bench
from dataplane_bench.model import Figure, LeftOut, Measured, Row

_ALL = (*CASES, UTILISATION_CASE)


def test_the_table_has_the_sizes_that_its_names_say() -> None:
    sizes = {case.name: (case.sample_bytes, case.batch_size) for case in _ALL}
    assert sizes == {
        "volumes-14mb": (14_155_776, 4),
        "volumes-33mb": (33_554_432, 2),
        "samples-64k": (65_536, 64),
        "crops": (4 * 256**3, 4),
        "runs": (16_000_000, 8),
        "unet3d": (14_155_776, 7),
    }
    assert {case.name: case.selection for case in _ALL if case.cut} == {
        "crops": "crops of 64³",
        "runs": "runs of 65,536 points",
    }


@pytest.mark.parametrize("case", _ALL, ids=lambda case: case.name)
def test_samples_are_as_the_table_says_and_no_two_are_alike(case: LoaderCase) -> None:
    small = case.shrunk()
    samples = list(make_samples(small, 3, seed=1))
    assert len(samples) == 3
    for sample in samples:
        assert {n: a.values.shape for n, a in sample.arrays.items()} == small.shapes
        assert {a.values.dtype for a in sample.arrays.values()} == {np.dtype(np.float32)}
        assert {n: a.dimension_names for n, a in sample.arrays.items()} == small.dimension_names
    first = next(iter(small.shapes))
    assert len({sample.arrays[first].values.tobytes() for sample in samples}) == 3
    assert small.sample_bytes <= case.sample_bytes
    assert small.batch_size == case.batch_size


@pytest.mark.parametrize("case", _ALL, ids=lambda case: case.name)
def test_a_dataset_has_four_batches_at_least(case: LoaderCase) -> None:
    assert case.samples_in(1) == 4 * case.batch_size
    assert case.samples_in(1000 * case.sample_bytes) == 1000


def test_cases_of_parts_wait_for_selections_and_begin_with_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crops = case_named("crops")
    monkeypatch.delattr(dataplane.datasets, "crop", raising=False)
    assert crops.lacks() == "dataplane.datasets has no crop()"
    assert case_named("volumes-14mb").lacks() is None
    options = LoaderOptions(cases=("crops",), parts=("large",))
    assert run(options, lambda _: None) == Measured(
        [], [], [LeftOut("crops", "dataplane.datasets has no crop()")], []
    )
    monkeypatch.setattr(dataplane.datasets, "crop", lambda shape: ("crop", shape), raising=False)
    assert crops.lacks() is None
    assert our_selection(("crop", 64)) == ("crop", (64, 64, 64))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"states": ("tepid",)}, "no state 'tepid'"),
        ({"rivals": ("nobody",)}, "no rival 'nobody'"),
    ],
)
def test_unknown_names_are_refused(options: dict[str, tuple[str, ...]], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        LoaderOptions(**options)  # type: ignore[arg-type]


def test_an_unknown_case_is_refused() -> None:
    with pytest.raises(ConfigError, match="no case 'cubes'"):
        run(LoaderOptions(cases=("cubes",)), lambda _: None)


def test_utilisation_adds_its_case_once() -> None:
    names = [case.name for case in LoaderOptions(au=True).chosen_cases()]
    assert names == [case.name for case in _ALL]
    asked = LoaderOptions(au=True, cases=("unet3d",)).chosen_cases()
    assert [case.name for case in asked] == ["unet3d"]


def test_our_threads_are_those_of_the_rivals_unless_given() -> None:
    assert LoaderOptions(workers=(0, 3)).our_threads == (0, 3)
    assert LoaderOptions(workers=(0, 3), threads=(1,)).our_threads == (1,)


def test_rows_name_codec_chunks_state_and_step() -> None:
    options = LoaderOptions(codec="zstd")
    case = case_of(CASES[0], options, samples=1200, state="warm", step_ms=10.0)
    assert case.dataset == "volumes-14mb: 1,200 turbulent volumes 96³ × 4 float32"
    assert (case.codec, case.state, case.step_ms) == ("blosc-zstd", "warm, step of 10 ms", 10.0)
    assert case.chunk_bytes == WriteOptions().chunk_bytes
    assert case_of(CASES[0], options, samples=1, state="cold", step_ms=0.0).state == "cold"


@pytest.mark.timeout(600)  # ten processes start
def test_ours_alone_is_measured_cold_and_warm_with_and_without_a_step() -> None:
    options = LoaderOptions(
        total_bytes=1, cases=("volumes-14mb",), states=("cold", "warm"), rivals=(), workers=(0,),
        steps_ms=(0.0, 1.0), rounds=1, parts=("large",), tiny=True, au=False,
    )  # fmt: skip
    measured = run(options, lambda _: None)
    ours = ("dataplane", "dataplane, raw")
    assert [(row.state, row.system) for row in measured.rows] == [
        *(("cold", name) for name in (*ours, "ceiling:raw-get")),
        *(("cold, step of 1 ms", name) for name in ours),
        *(("warm", name) for name in (*ours, "ceiling:memcpy")),
        *(("warm, step of 1 ms", name) for name in ours),
    ]
    for row in measured.rows:
        assert row.peak_rss_bytes
        assert row.peak_rss_bytes > 50 << 20
        if row.system in ours:
            assert row.first_batch_s
            assert (row.utilisation is not None) == (row.step_ms == 1.0)
            assert row.utilisation is None or 0 < row.utilisation <= 1
            stored = 16 * 65_536  # sixteen samples
            fetched = row.bytes_fetched or 0
            assert (fetched > stored / 2) if row.state.startswith("cold") else fetched == 0


@pytest.mark.timeout(600)  # processes start
@pytest.mark.parametrize("name", ["crops", "runs"])
def test_parts_of_samples_are_read_from_the_store(name: str) -> None:
    options = LoaderOptions(
        total_bytes=1, cases=(name,), states=("cold",), rivals=(), workers=(2,), steps_ms=(0.0,),
        rounds=1, parts=("large",), tiny=True, au=False,
    )  # fmt: skip
    measured = run(options, lambda _: None)
    assert [row.system for row in measured.rows] == [
        "dataplane", "dataplane, raw", "ceiling:raw-get"
    ]  # fmt: skip
    assert all(row.bytes_fetched for row in measured.rows[:2])


def test_figures_of_utilisation_have_the_spread_and_tell_first_epochs() -> None:
    row = Row(
        "loader", "cubes", None, None, "whole", "cold, step of 5 ms", "litdata", 2,
        1.0, 1.0, 1.0, 0.1, 7, None, None, 3, 1.0, 1.0,
        step_ms=5.0, utilisation=0.5, utilisation_min=0.4, utilisation_max=0.6,
    )  # fmt: skip
    (one,) = utilisation_figures([row, dataclasses.replace(row, utilisation=None)])
    assert one == Figure(
        "loader", "cubes · whole", "accelerator utilisation, first epoch, cold",
        "litdata, 2 workers", "step, ms", 5.0, "share", 0.5, 0.4, 0.6, 3,
    )  # fmt: skip
    warm = dataclasses.replace(row, state="warm, step of 5 ms", system="dataplane", threads=1)
    (one,) = utilisation_figures([warm])
    assert (one.quantity, one.subject) == ("accelerator utilisation, warm", "dataplane, 1 thread")


def test_steps_are_numbers_with_commas_between(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[LoaderOptions] = []

    def look(options: LoaderOptions, _progress: object) -> Measured:
        given.append(options)
        return Measured(left_out=[LeftOut("litdata", "is not here")], notes=["one note"])

    monkeypatch.setattr(loader, "run", look)
    found = CliRunner().invoke(bench, ["loader", "--step-ms", "0,2.5", "--au", "--json"])
    assert found.exit_code == 0, found.output
    assert (given[0].steps_ms, given[0].au) == ((0.0, 2.5), True)
    document = json.loads(found.stdout)
    assert document["left_out"] == [{"system": "litdata", "reason": "is not here"}]
    assert document["notes"] == ["one note"]
    shown = CliRunner().invoke(bench, ["loader"])
    assert given[1].steps_ms == (0.0, 10.0)
    assert "left out: litdata: is not here" in shown.output
    assert "one note" in shown.output
    for wrong in ("a", "-1", "nan", "1;2"):
        assert CliRunner().invoke(bench, ["loader", "--step-ms", wrong]).exit_code == 2


def test_small_samples_are_compared_by_batch_size_beside_torch_and_decoding() -> None:
    options = LoaderOptions(parts=("small",), small_samples=70, rounds=1, threads=(1,))
    rows = run(options, lambda _: None).rows
    assert [(row.state, row.system) for row in rows] == [
        (f"warm, batches of {size}", system)
        for size in (64, 1)
        for system in ("dataplane", "torch DataLoader", "ceiling:decode")
    ]
    assert all(row.samples_per_s for row in rows)
    assert all(row.ratio_to_ceiling is not None for row in rows)
