"""Tables of figures: one per quantity, a line per subject, a column per value of the parameter.

Where the values are times and the parameter a size, one more column shows the growth of the time:
the last column over the one before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.console import Console

from dataplane.cli.text import Column, print_fitted
from dataplane.units import format_count, format_duration
from dataplane_bench.model import CEILING_PREFIX, Figure, is_ceiling, is_ours

__all__ = ["figure_table", "figure_title", "format_place", "print_figures", "subject_name"]


def print_figures(console: Console, figures: Sequence[Figure]) -> None:
    """Print the tables of all figures, each after an empty line."""
    for _, group in groupby(figures, key=figure_table):
        console.print()
        _print_table(console, list(group))


def figure_table(one: Figure) -> tuple[str, str, str, str]:
    """Return the common fields of the figures of one table or panel."""
    return (one.case, one.dataset, one.quantity, one.parameter)


def _print_table(console: Console, figures: Sequence[Figure]) -> None:
    first = figures[0]
    subjects = list(dict.fromkeys(one.subject for one in figures))
    places = sorted({one.at for one in figures})
    found = {(one.subject, one.at): one for one in figures}
    lines = [[found.get((subject, at)) for at in places] for subject in subjects]
    names = [subject_name(subject) for subject in subjects]
    columns = [Column(first.parameter, names, is_text=True)]
    for at, cells in zip(places, zip(*lines, strict=True), strict=True):
        columns.append(Column(format_place(at), [_value(one) for one in cells]))
    if len(places) > 1 and first.unit == "s":
        growth = [_growth(line[-2], line[-1]) for line in lines]
        columns.append(Column(f"for {places[-1] / places[-2]:g} times as many", growth))
    print_fitted(
        console,
        columns,
        title=figure_title(first),
        styles=[_style(subject) for subject in subjects],
    )


def figure_title(one: Figure) -> str:
    """Return the heading of the table or panel that a figure is in."""
    return f"{one.case} · {one.dataset} · {one.quantity}"


def subject_name(subject: str) -> str:
    """Return the name of a line."""
    return subject.replace(CEILING_PREFIX, "ceiling: ")


def format_place(at: float) -> str:
    """Write a value of the parameter."""
    return format_count(int(at)) if at == int(at) else f"{at:g}"


def _value(one: Figure | None) -> str:
    if one is None:
        return ""
    return f"{one.value:.3f}" if one.unit == "share" else format_duration(one.value)


def _growth(before: Figure | None, last: Figure | None) -> str:
    return f"{last.value / before.value:.1f}" if before and last and before.value else ""


def _style(subject: str) -> str:
    if is_ours(subject):
        return "bold green"
    return "dim" if is_ceiling(subject) else ""
