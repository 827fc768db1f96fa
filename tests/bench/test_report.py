"""Rows and their presentation."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from dataplane import _native
from dataplane.errors import ConfigError
from dataplane_bench import machine
from dataplane_bench.model import Case, Cost, Row, summarise
from dataplane_bench.report import print_report, to_json

_MACHINE = {
    "cpu": "a processor", "cores": 2, "kernel": "6.18", "dataplane": "0", "commit": "abc",
    "native_build": "Release",
}  # fmt: skip
_PROMISED = {
    "case", "dataset", "codec", "chunk_bytes", "selection", "state", "system", "threads",
    "samples_per_s", "gb_per_s", "cpu_s_per_gb", "first_batch_s", "bytes_fetched",
    "ratio_to_ceiling",
}  # fmt: skip


class _Named:
    threads = 2

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self) -> Cost:
        raise NotImplementedError

    def close(self) -> None: ...


def _rows() -> list[Row]:
    case = Case("loader", "volumes", codec="blosc-lz4", state="cold")
    systems = [_Named("dataplane"), _Named("webdataset"), _Named("ceiling:raw-get")]
    costs = [
        [Cost(s, 1.0, 10**9, 8, first_batch_s=0.1, bytes_fetched=7) for s in (4.0, 2.0, 1.0)],
        [Cost(s, 2.0, 10**9, 8, first_batch_s=0.2) for s in (8.0, 4.0, 16.0)],
        [Cost(1.0, 0.5, 10**8, 8)] * 3,
    ]
    return summarise(case, systems, costs, ceiling="ceiling:raw-get")


def test_a_row_holds_the_median_the_spread_and_the_ratio_to_the_ceiling() -> None:
    ours, rival, ceiling = _rows()
    assert ours.samples_per_s == 4.0
    assert (ours.gb_per_s_min, ours.gb_per_s, ours.gb_per_s_max) == (0.25, 0.5, 1.0)
    assert ours.cpu_s_per_gb == 1.0
    assert ours.ratio_to_ceiling == 0.5, "the ceiling moves fewer bytes; time is what compares"
    assert ours.ceiling == "raw-get"
    assert rival.ratio_to_ceiling == 0.125
    assert ceiling.ratio_to_ceiling == 1.0
    assert (ours.first_batch_s, ours.bytes_fetched) == (0.1, 7)
    assert (ceiling.first_batch_s, ceiling.bytes_fetched) == (None, None)


def test_the_json_report_has_the_promised_fields() -> None:
    document = json.loads(to_json(_MACHINE, _rows()))
    assert document["machine"]["cpu"] == "a processor"
    assert all(set(row) >= _PROMISED for row in document["rows"])
    assert [row["system"] for row in document["rows"]] == [
        "dataplane",
        "webdataset",
        "ceiling:raw-get",
    ]


def test_the_table_names_every_system_and_the_ceiling() -> None:
    console = Console(file=io.StringIO(), width=140)
    print_report(console, _MACHINE, _rows())
    text = console.file.getvalue()
    for piece in ("dataplane", "webdataset", "ceiling: raw-get", "of raw-get", "0.50", "cold"):
        assert piece in text


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_no_table_loses_a_digit_however_narrow_the_terminal(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    print_report(console, _MACHINE, _rows())
    text = console.file.getvalue()
    table = text[text.index("loader · volumes") :]
    assert "…" not in text
    for piece in ("dataplane", "webdataset", "ceiling: raw-get", "0.5", "0.125", "0.12"):
        assert piece in table
    longest = max(len(line.rstrip()) for line in table.splitlines())
    assert longest <= max(width, 60)
    left_out = "min–max" in table.partition("no room for: ")[2]
    assert left_out == (width <= 60)


def test_a_debug_build_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native, "build_type", "Debug")
    with pytest.raises(ConfigError, match="Debug build"):
        machine.require_release_build()


def test_the_machine_is_named() -> None:
    described = machine.describe_machine()
    assert described["cores"]
    assert described["cpu"]
    assert described["versions"]
