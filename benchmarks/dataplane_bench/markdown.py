"""Rows and figures as tables of Markdown, for pages of documentation. Pure functions."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final

from dataplane_bench.figures import figure_table, figure_title, format_place, subject_name
from dataplane_bench.model import Figure, Row
from dataplane_bench.report import comparison, row_name, row_title

__all__ = ["figure_tables", "row_tables"]

_WIDTH: Final = 118
"""Of prose in the project's pages."""


def row_tables(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of a table per comparison, each with its heading and an empty line behind.

    Example:
        >>> list(row_tables([]))
        []
    """
    for _, group in groupby(rows, key=comparison):
        compared = list(group)
        ceiling = next((row.ceiling for row in compared if row.ceiling), None)
        heads = ["system", "GB/s", "CPU-s/GB", f"of {ceiling or 'ceiling'}"]
        yield from _head(row_title(compared[0]), heads)
        for row in compared:
            share = "" if row.ratio_to_ceiling is None else f"{row.ratio_to_ceiling:.2f}"
            cells = [row_name(row), f"{row.gb_per_s:.3g}", f"{row.cpu_s_per_gb:.3g}", share]
            yield f"| {' | '.join(cells)} |"
        yield ""


def figure_tables(figures: Sequence[Figure]) -> Iterator[str]:
    """Yield the lines of a table per quantity, in the same form; a column per parameter."""
    for _, group in groupby(figures, key=figure_table):
        shown = list(group)
        places = sorted({one.at for one in shown})
        yield from _head(figure_title(shown[0]), [shown[0].parameter, *map(format_place, places)])
        for subject in dict.fromkeys(one.subject for one in shown):
            found = {one.at: f"{one.value:.3g}" for one in shown if one.subject == subject}
            cells = [subject_name(subject), *(found.get(at, "") for at in places)]
            yield f"| {' | '.join(cells)} |"
        yield ""


def _head(title: str, heads: Sequence[str]) -> Iterator[str]:
    yield from textwrap.wrap(f"**{title}**", _WIDTH, break_on_hyphens=False)
    yield from ("", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|")
