"""Figures: their table, and how they come with the rows in JSON."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from dataplane_bench.figures import print_figures
from dataplane_bench.model import Figure, figure
from dataplane_bench.report import to_json

_RATES = ("cache", "40 blocks", "hit rate", "room for")
_TIMES = ("cache", "entries", "time", "entries")


def _figures() -> list[Figure]:
    return [
        figure(_RATES, "dataplane", 0.1, "share", [0.1, 0.09, 0.12]),
        figure(_RATES, "dataplane", 0.5, "share", [0.5]),
        figure(_RATES, "ceiling:optimum", 0.5, "share", [0.5]),
        figure(_TIMES, "attach", 1_000, "s", [1e-3]),
        figure(_TIMES, "attach", 10_000, "s", [2e-3]),
        figure(_TIMES, "list", 10_000, "s", [3.0]),
    ]


def _printed(width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_figures(console, _figures())
    return console.file.getvalue()


def test_a_figure_is_the_median_with_the_spread() -> None:
    one = _figures()[0]
    assert (one.value, one.value_min, one.value_max, one.rounds) == (0.1, 0.09, 0.12, 3)


def test_each_quantity_is_a_table_with_a_column_per_setting() -> None:
    rates, _, times = _printed(120).strip().partition("\n\n")
    assert rates.splitlines()[1].split() == ["room", "for", "0.1", "0.5"]
    assert rates.splitlines()[2].split() == ["dataplane", "0.100", "0.500"]
    assert rates.splitlines()[3].split() == ["ceiling:", "optimum", "0.500"]
    lines = times.splitlines()
    assert lines[1].split() == ["entries", "1,000", "10,000", "for", "10", "times", "as", "many"]
    assert lines[2].split() == ["attach", "1", "ms", "2", "ms", "2.0"]
    assert lines[3].split() == ["list", "3", "s"]


@pytest.mark.parametrize("width", [30, 60])
def test_a_narrow_terminal_loses_no_digit(width: int) -> None:
    text = _printed(width)
    for piece in ("0.100", "0.500", "optimum", "1 ms", "2 ms", "3 s"):
        assert piece in text


def test_figures_come_with_the_rows_in_json() -> None:
    document = json.loads(to_json({}, [], _figures()))
    assert document["rows"] == []
    assert document["figures"][0] == {
        "case": "cache", "dataset": "40 blocks", "quantity": "hit rate", "subject": "dataplane",
        "parameter": "room for", "at": 0.1, "unit": "share", "value": 0.1, "value_min": 0.09,
        "value_max": 0.12, "rounds": 3,
    }  # fmt: skip
