"""`dataplane info` and the summary behind it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from dataplane.cli.info import info
from dataplane.errors import FormatError
from dataplane.shards import DatasetIndex, SourceArray, SourceSample
from dataplane.shards.summary import summarise
from dataplane.stores import Store

from .conftest import make_sample


def run(*arguments: str) -> str:
    result = CliRunner().invoke(info, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_the_summary_ranges_over_samples(pack: Callable[..., Store]) -> None:
    sets = [
        SourceSample("a", {"x": SourceArray(np.arange(12.0).reshape(4, 3), units="m")}),
        SourceSample("b", {"x": SourceArray(np.full((9, 3), np.nan, np.float32), units="mm")}),
        SourceSample("c", {"x": SourceArray(np.array(-5)), "y": SourceArray(np.zeros((0, 2)))}),
    ]
    x, y = summarise(DatasetIndex.load(pack(*sets)))
    assert (x.name, x.samples, set(x.dtypes)) == ("x", 3, {"float64", "float32", "int64"})
    assert x.shapes == ((), ((4, 9), (3, 3)))
    assert set(x.units) == {"m", "mm"}
    # float32 and float64 differ in their type size only, which is not told apart here.
    assert sorted(x.codecs) == ["lz4 bitshuffle", "lz4 shuffle"]
    assert x.decoded_bytes == 12 * 8 + 27 * 4 + 8
    assert (x.minimum, x.maximum, x.nan_count) == (-5.0, 11.0, 27)
    assert (y.samples, y.decoded_bytes, y.minimum) == (1, 0, None)


def test_json_has_every_field(pack: Callable[..., Store], folder: Path) -> None:
    pack(make_sample("a"), make_sample("b"), codec="zstd")
    document = json.loads(run(f"file://{folder}", "--json"))
    assert document["samples"] == 2
    assert document["format_version"] == 1
    size = (folder / "shard-000000.tar").stat().st_size
    assert document["shards"] == [{"key": "shard-000000.tar", "size_bytes": size}]
    assert document["stored_bytes"] == size
    points = document["arrays"][0]
    assert points["name"] == "points"
    assert points["shapes"] == [[[500, 500], [3, 3]]]
    assert points["codecs"] == ["zstd shuffle"]
    assert points["decoded_bytes"] == 2 * 500 * 3 * 4
    assert 0 <= points["minimum"] < points["maximum"] <= 1


def test_the_table_names_arrays_units_and_totals(pack: Callable[..., Store], folder: Path) -> None:
    pack(make_sample("a", points=1500), make_sample("b"))
    text = run(f"file://{folder}")
    assert "2 samples in 1 shard" in text
    line = next(line for line in text.splitlines() if line.startswith("points"))
    assert "float32" in line
    assert "500–1,500 × 3" in line
    assert "lz4 shuffle" in line


def test_markup_and_control_characters_of_names_are_shown_not_obeyed(
    pack: Callable[..., Store], folder: Path
) -> None:
    sample = SourceSample("a", {"[red]x[/red]": SourceArray(np.zeros(3), units="\x1b[2J")})
    pack(sample)
    text = run(f"file://{folder}")
    assert "[red]x[/red]" in text
    assert "\x1b" not in text


def test_a_folder_that_is_no_dataset_is_an_error(folder: Path) -> None:
    folder.mkdir()
    with pytest.raises(FormatError, match="not a packed dataset"):
        run(f"file://{folder}")
