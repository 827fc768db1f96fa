"""Reports as Markdown: every row and figure is in a table, and headings keep to the width."""

from __future__ import annotations

from types import SimpleNamespace

from dataplane_bench.markdown import figure_tables, row_tables
from dataplane_bench.model import Case, Cost, figure, summarise


def test_rows_of_a_comparison_share_a_table_that_names_its_ceiling() -> None:
    systems = [SimpleNamespace(name=name, threads=1) for name in ("dataplane", "ceiling:link")]
    costs = [[Cost(0.5, 0.2, 10**9, 1)], [Cost(0.25, 0.1, 10**9, 1)]]
    long = "a machine with a name of many words " * 4
    rows = [
        row
        for dataset in (long, "another")
        for row in summarise(Case("gpu", dataset), systems, costs, ceiling="ceiling:link")
    ]
    lines = list(row_tables(rows))
    assert lines.count("| system | GB/s | CPU-s/GB | of link |") == 2
    assert lines.count("| dataplane | 2 | 0.2 | 0.50 |") == 2
    assert lines.count("| ceiling: link | 4 | 0.1 | 1.00 |") == 2
    assert max(map(len, lines)) <= 120
    assert long.strip() in " ".join(lines)


def test_figures_have_a_column_per_place_and_gaps_where_nothing_was_measured() -> None:
    table = ("gpu", "a device", "utilisation", "ratio")
    figures = [
        figure(table, "dataplane", 1.2, "share", [0.5]),
        figure(table, "dataplane", 2.0, "share", [0.75]),
        figure(table, "decode=cpu", 2.0, "share", [0.25]),
    ]
    lines = list(figure_tables(figures))
    assert lines[0] == "**gpu · a device · utilisation**"
    assert "| ratio | 1.2 | 2 |" in lines
    assert "| dataplane | 0.5 | 0.75 |" in lines
    assert "| decode=cpu |  | 0.25 |" in lines
