"""`dataplane info` and the summary behind it."""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from dataplane.cli.info import info
from dataplane.errors import FormatError, NotFound
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
    with pytest.raises(NotFound, match="there is nothing below"):
        run(f"file://{folder}")
    (folder / "a.vtu").touch()
    with pytest.raises(FormatError, match="not a packed dataset"):
        run(f"file://{folder}")


def on_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    console = functools.partial(Console, width=width, force_terminal=True, no_color=True)
    monkeypatch.setattr(sys.modules["dataplane.cli.info"], "output", console)


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_no_line_is_left_to_the_terminal_to_break(
    pack: Callable[..., Store], folder: Path, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_terminal(monkeypatch, width)
    monkeypatch.chdir(folder.parent)
    pack(make_sample("a", points=1500), make_sample("b"), round_bits=8)
    lines = [re.sub(r"\x1b\[\d*m", "", line) for line in run(folder.name).splitlines()]
    assert max(map(len, lines)) <= width
    words = " ".join(lines).split()
    assert {"500–1,500", "float32", "fields/velocity", "m/s", "[2]", "bitshuffle"} <= set(words)
    # Sizes have a name, in a heading or behind them.
    assert "decoded" in words


def test_in_a_pipe_an_array_is_a_line(
    pack: Callable[..., Store], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "point_data/" + "a_rather_long_name" * 9
    pack(SourceSample("s", {name: SourceArray(np.zeros(3), units="kg m-1 s-2")}))
    (line,) = (line for line in run(f"file://{folder}").splitlines() if line.startswith(name))
    assert line.split()[1:] == [
        *("float64", "3", "kg", "m-1", "s-2", "lz4", "shuffle", "1", "24", "B"),
        *("1.20", "0", "0", "0", "0"),
    ]


@pytest.mark.parametrize("width", [40, 80, 100, 300])
def test_no_name_or_figure_is_lost_in_a_narrow_terminal(
    pack: Callable[..., Store], folder: Path, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_terminal(monkeypatch, width)
    name = "point_data/a_rather_long_name_of_a_quantity"
    values = np.linspace(-1234.5, 98765.25, 12_000, dtype=np.float32).reshape(-1, 3)
    pack(SourceSample("s", {name: SourceArray(values, units="kg m-1 s-2")}))
    text = run(f"file://{folder}")
    for piece in (name, "float32", "4,000 × 3", "kg m-1 s-2", "lz4", "46.9 KiB", "9.877e+04"):
        assert piece in text
    assert "…" not in text
    assert "1 samples" not in text


def test_keys_of_samples_are_listed_on_request(pack: Callable[..., Store], folder: Path) -> None:
    pack(*(make_sample(key) for key in ("first", "second", "third")))
    url = f"file://{folder}"
    assert "second" not in run(url)
    assert (
        run(url, "--samples", "20")
        .rstrip()
        .endswith("\n\nkeys of 3 samples:\nfirst\nsecond\nthird")
    )
    assert run(url, "--samples", "1").rstrip().endswith("\n\nkeys of 1 sample:\nfirst\nand 2 more")
    assert json.loads(run(url, "--json", "--samples", "2"))["sample_keys"] == ["first", "second"]


def test_a_folder_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such folder"):
        run(str(tmp_path / "nothing"))


def test_integers_are_shown_in_full_and_extremes_that_differ_differ(
    pack: Callable[..., Store], folder: Path
) -> None:
    arrays = {
        "id": np.arange(1_000_003, 1_000_013),
        "offset": np.array([0, 38_400], np.uint32),
        "huge": np.array([0, 2**63], np.uint64),
        "time": np.array([1_000_000.25, 1_000_000.5]),
        "same": np.full(3, 123_456.75),
    }
    pack(SourceSample("a", {name: SourceArray(values) for name, values in arrays.items()}))
    rows = {line.split()[0]: line.split()[-4:] for line in run(f"file://{folder}").splitlines()[3:]}
    assert {name: rows[name][:2] for name in arrays} == {
        "id": ["1000003", "1000012"],
        "offset": ["0", "38400"],
        "huge": ["0", "9.223e+18"],
        "time": ["1000000.2", "1000000.5"],
        "same": ["1.235e+05", "1.235e+05"],
    }


def test_mean_and_deviation_are_of_the_finite_values_of_all_samples(
    pack: Callable[..., Store],
) -> None:
    inf, nan = np.inf, np.nan
    first = np.array([[1.0, inf], [3.0, 8.0], [nan, 6.0], [5.0, inf]])
    second = np.array([[7.0, 1.0], [2.0, 3.0]])
    third = np.array([[inf, nan]])
    sets = [
        SourceSample(str(i), {"u": SourceArray(u)}) for i, u in enumerate((first, second, third))
    ]
    (u,) = summarise(DatasetIndex.load(pack(*sets)))
    values = np.concatenate([first, second, third])

    def expected(values: np.ndarray) -> tuple[float, ...]:
        known, finite = values[~np.isnan(values)], values[np.isfinite(values)]
        return (known.min(), known.max(), pytest.approx(finite.mean()), pytest.approx(finite.std()))

    assert (u.minimum, u.maximum, u.mean, u.std) == expected(values)
    for i, component in enumerate(u.components):
        found = (component.minimum, component.maximum, component.mean, component.std)
        assert found == expected(values[:, i])


def test_a_mean_that_the_index_cannot_tell_is_none(pack: Callable[..., Store]) -> None:
    # Both components have infinities, and only their sum is recorded.
    odd = np.array([[np.inf, 1.0], [2.0, np.inf], [4.0, np.inf]])
    sets = [SourceSample("a", {"u": SourceArray(odd)}), SourceSample("b", {"u": SourceArray(-odd)})]
    (u,) = summarise(DatasetIndex.load(pack(*sets)))
    assert (u.minimum, u.maximum, u.mean) == (-np.inf, np.inf, 0.0)
    assert [np.isnan(component.mean) for component in u.components] == [True, True]


def test_an_array_of_nan_has_its_line_beside_those_of_its_components(
    pack: Callable[..., Store], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(SourceSample("a", {"u": SourceArray(np.full((4, 2), np.nan))}))
    console = functools.partial(Console, width=60, force_terminal=True, color_system=None)
    monkeypatch.setattr(sys.modules["dataplane.cli.info"], "output", console)
    line = "from nan to nan  mean nan  std nan"
    text = run(f"file://{folder}").splitlines()
    assert [it.strip() for it in text if line in it] == [line, f"[0]  {line}", f"[1]  {line}"]


def test_notes_are_grouped_and_narrowing_is_one(pack: Callable[..., Store], folder: Path) -> None:
    odd = np.array([0.1, 0.2, np.nan])
    pack(
        SourceSample("a", {name: SourceArray(odd) for name in ("u", "v")}),
        round_bits=7, float32=True,
    )  # fmt: skip
    kinds = [line.split(":")[0] for line in run(f"file://{folder}").splitlines() if ": " in line]
    assert kinds == ["not finite", "not finite", "lossy", "lossy", "narrowed"]
