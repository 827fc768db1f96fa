"""Rounding per array: what is never rounded, what is recorded, and what is said about it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from dataplane.cli.info import info
from dataplane.cli.pack import pack as pack_command
from dataplane.errors import ConfigError
from dataplane.shards import DatasetIndex, DatasetWriter, SourceArray, SourceSample, WriteOptions
from dataplane.shards.summary import summarise
from dataplane.stores import Store

from .reading import read_sample

_VALUES = np.random.default_rng(4).standard_normal(4000).astype(np.float32)


def sample() -> SourceSample:
    return SourceSample("a", {
        "points": SourceArray(_VALUES.reshape(-1, 4)[:, :3], units="m"),
        "point_data/p": SourceArray(_VALUES * 100, units="Pa"),
        "point_data/u": SourceArray(_VALUES.astype(complex)),
        "drag": SourceArray(np.array(0.28)),
        "lift": SourceArray(np.array([0.07])),
        "global_data/forces": SourceArray(np.linspace(0.1, 0.2, 50)),
        "cells/connectivity": SourceArray(np.arange(30).reshape(10, 3)),
    })  # fmt: skip


def written(store: Store, options: WriteOptions) -> DatasetIndex:
    with DatasetWriter(store, options) as writer:
        writer.add(sample())
    return DatasetIndex.load(store)


def changed(store: Store) -> set[str]:
    """Names of the arrays that are not stored as they came."""
    stored = read_sample(store, "a")
    given = sample().arrays
    return {name for name in given if not np.array_equal(stored[name], given[name].values)}


def test_labels_and_integers_are_never_rounded(store: Store) -> None:
    options = WriteOptions(round_bits=4, round_arrays=(("global_data/*", 2), ("drag", 2)))
    index = written(store, options)
    assert changed(store) == {"points", "point_data/p", "point_data/u"}
    assert float(read_sample(store, "a")["drag"]) == 0.28
    assert index[0].attributes["dataplane"] == {
        "round_bits": 4,
        "rounded": {"points": 4, "point_data/p": 4, "point_data/u": 4},
    }


@pytest.mark.parametrize(
    ("bits", "patterns", "rounded"),
    [
        (8, (("points", None),), {"point_data/p": 8, "point_data/u": 8}),
        (None, (("point_data/*", 10),), {"point_data/p": 10, "point_data/u": 10}),
        (8, (("*", 3), ("point_data/?", None), ("*/u", 5)), {"points": 3, "point_data/u": 5}),
        (None, (("nothing", 3),), {}),
    ],
)
def test_the_last_pattern_that_matches_holds(
    store: Store,
    bits: int | None,
    patterns: tuple[tuple[str, int | None], ...],
    rounded: dict[str, int],
) -> None:
    index = written(store, WriteOptions(round_bits=bits, round_arrays=patterns))
    assert changed(store) == set(rounded)
    measured = {name: array.measured for name, array in index[0].arrays.items()}
    assert {n: m.round_bits for n, m in measured.items() if m.round_bits is not None} == rounded
    record = index[0].attributes.get("dataplane", {})
    assert record.get("rounded", {}) == rounded


def test_the_largest_error_is_that_of_the_stored_values(store: Store) -> None:
    index = written(store, WriteOptions(round_bits=6))
    stored, given = read_sample(store, "a"), sample().arrays
    for name in ("points", "point_data/p", "point_data/u"):
        errors = np.abs(stored[name].astype(complex) - given[name].values.astype(complex))
        assert index[0].arrays[name].measured.max_error == pytest.approx(errors.max(), rel=1e-12)
    assert index[0].arrays["drag"].measured.max_error is None


def test_narrower_floats_have_an_error_and_values_that_are_not_finite_none(store: Store) -> None:
    values = np.array([0.1, np.inf, np.nan, -np.inf, 1.0])
    with DatasetWriter(store, WriteOptions(float32=True)) as writer:
        writer.add(SourceSample("a", {"x": SourceArray(values)}))
        writer.add(SourceSample("b", {"x": SourceArray(np.full(9, np.nan))}))
    first, second = (entry.arrays["x"].measured for entry in DatasetIndex.load(store))
    assert first.max_error == abs(float(np.float32(0.1)) - 0.1)
    assert second.max_error == 0.0
    (x,) = summarise(DatasetIndex.load(store))
    assert (x.max_error, x.round_bits) == (first.max_error, ())


def test_what_is_stored_as_it_came_has_no_error(store: Store) -> None:
    index = written(store, WriteOptions())
    assert all(array.measured.max_error is None for array in index[0].arrays.values())
    assert "dataplane" not in index[0].attributes


def test_info_says_which_arrays_are_lossy_and_by_how_much(store: Store, folder: Path) -> None:
    index = written(store, WriteOptions(round_bits=8, round_arrays=(("point_data/*", None),)))
    error = index[0].arrays["points"].measured.max_error
    text = CliRunner().invoke(info, [str(folder)], catch_exceptions=False).output
    lines = [line for line in text.splitlines() if line.startswith("lossy")]
    assert lines == [f"lossy: points: 8 mantissa bits kept, largest error {error:.4g} m"]


def test_patterns_that_match_no_array_are_reported(store: Store) -> None:
    patterns = (("point_dta/*", 3), ("drag", 3), ("points", 3))
    with DatasetWriter(store, WriteOptions(round_arrays=patterns)) as writer:
        writer.add(sample())
        assert writer.finish().unused_patterns == ("point_dta/*",)


def test_the_command_takes_patterns_and_names_a_misspelt_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", p=_VALUES, drag=np.array(0.28), **{"a=b": _VALUES})
    arguments = [str(tmp_path / "a.npz"), str(tmp_path / "out"), "--round-bits", "8"]
    arguments += ["--round", "a=b=none", "--round", "nix=3"]
    done = CliRunner().invoke(pack_command, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert done.stderr.strip() == "note: no array matched --round nix=…"
    text = CliRunner().invoke(info, [str(tmp_path / "out")], catch_exceptions=False).output
    assert [line.split(":")[1] for line in text.splitlines() if line.startswith("lossy")] == [" p"]


@pytest.mark.parametrize("given", ["p", "=3", "p=", "p=0", "p=53", "p=x", "p=-1", "p=٣"])
def test_a_pattern_without_bits_is_bad_usage(tmp_path: Path, given: str) -> None:
    (tmp_path / "a.npy").touch()
    arguments = [str(tmp_path / "a.npy"), str(tmp_path / "out"), "--round", given]
    done = CliRunner().invoke(pack_command, arguments)
    assert done.exit_code == 2
    assert "PATTERN=N" in done.stderr


def test_bits_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="mantissa bits must be 1 to 52, got 53"):
        WriteOptions(round_arrays=(("p", 53),))
