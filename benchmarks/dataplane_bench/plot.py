"""Charts: rows as bars and figures as lines, one panel per table of the report.

A ceiling of memory is often fifty times the rate of any system, and on its scale the systems would
be slivers. So the axis ends a little above the fastest system, and a ceiling beyond it is drawn to
the edge with a break, and shows its value. Titles are wrapped to the panel.
"""

from __future__ import annotations

import importlib.util
import os
import textwrap
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from dataplane.errors import ConfigError
from dataplane.extras import missing_package
from dataplane.units import format_duration
from dataplane_bench.figures import figure_table, figure_title, format_place, subject_name
from dataplane_bench.model import Figure, Row, is_ceiling, is_ours
from dataplane_bench.report import comparison, row_name, row_title

__all__ = ["check_plot", "draw", "save_plot"]

_SUFFIXES = frozenset({".pdf", ".png", ".svg"})
_HINT = ".png, .svg or .pdf file"
_OURS, _CEILING, _RIVAL = "#1b7f5c", "#c9ccd1", "#7a93b8"
_LINES = (
    *("#4a6fa5", "#c2703d", "#8a5fb0", "#a8992b", "#4a4e57", "#c25b7c", "#3f9fb5", "#7d6650"),
    *("#6b8e23", "#b03a2e"),
)
_MARKERS = "osD^vP"  # more lines than colours, and for colour-blind readers
_WIDTH_IN = 9.0
_PANELS_PER_COLUMN = 16
_TITLE_CHARS = 84  # of 10 points, across a panel
_HEAD_CHARS = 120  # of 8 points, across a column
_MAX_PIXELS = 20_000  # of a side: what viewers open, and memory holds
_DPI = 150
_LEGEND_COLUMNS = 2
_FAR = 3.0  # a ceiling so many times the fastest system is beyond the axis
_ROOM = 1.25  # of the axis, for the labels behind the bars


def check_plot(path: Path) -> None:
    """Check that a chart can be written to a file, before hours are spent on its figures.

    Raises:
        ConfigError: the suffix or the folder cannot be used.
        MissingPackage: matplotlib is not installed.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"cannot draw {path}: unknown suffix", hint=f"name a {_HINT}")
    if not path.parent.is_dir():
        raise ConfigError(f"cannot draw {path}: there is no folder {path.parent}")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(f"cannot draw {path}: it cannot be written")
    if importlib.util.find_spec("matplotlib") is None:
        raise missing_package("--plot", "matplotlib")


def save_plot(
    path: Path,
    machine: Mapping[str, object],
    rows: Sequence[Row],
    figures: Sequence[Figure] = (),
    *,
    smoke: bool = False,
) -> None:
    """Draw everything that was measured to a file.

    Args:
        path: path of the file; see `check_plot`.
        machine: machine that the figures are of.
        rows: rows of all comparisons.
        figures: figures of all quantities.
        smoke: whether to note in the chart that the input was tiny.

    Raises:
        ConfigError: the file cannot be drawn or written.
        MissingPackage: matplotlib is not installed.
    """
    check_plot(path)
    chart = draw(machine, rows, figures, smoke=smoke)
    try:
        chart.savefig(path, dpi=_dpi(*chart.get_size_inches()))
    except (ValueError, OSError) as err:
        raise ConfigError(f"cannot draw {path}: {err}", hint=f"name a {_HINT}") from err


def _dpi(width_in: float, height_in: float) -> float:
    return min(_DPI, _MAX_PIXELS / max(width_in, height_in))


def draw(
    machine: Mapping[str, object],
    rows: Sequence[Row],
    figures: Sequence[Figure] = (),
    *,
    smoke: bool = False,
) -> Any:
    """Return the chart: a panel of bars per comparison, and one of lines per quantity."""
    from matplotlib.figure import Figure as Chart  # heavy, and only charts need it

    bars = [list(group) for _, group in groupby(rows, key=comparison)]
    lines = [list(group) for _, group in groupby(figures, key=figure_table)]
    heights = [1.1 + 0.35 * len(group) for group in bars]
    heights += [3.4 + 0.2 * _legend_lines(group) for group in lines]
    columns = -(-len(heights) // _PANELS_PER_COLUMN)
    deep = -(-len(heights) // columns)
    tallest = [max(heights[row * columns : (row + 1) * columns]) for row in range(deep)]
    chart = Chart(figsize=(_WIDTH_IN * columns, sum(tallest) + 0.8), layout="constrained")
    panels = chart.subplots(deep, columns, squeeze=False, height_ratios=tallest).ravel()
    for axes, compared in zip(panels, bars, strict=False):
        _draw_bars(axes, compared)
    for axes, told in zip(panels[len(bars) :], lines, strict=False):
        _draw_lines(axes, told)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(heights) :]:
        axes.set_axis_off()
    chart.suptitle(
        ("SMOKE RUN: tiny input, one round; these are not measurements\n" if smoke else "")
        + _wrapped(
            f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']} · "
            f"dataplane {machine['dataplane']} {machine['commit'] or ''}",
            _HEAD_CHARS,
        ),
        fontsize=8, color="#b00020" if smoke else "#555",
    )  # fmt: skip
    return chart


def _legend_lines(figures: Sequence[Figure]) -> int:
    return -(-len({one.subject for one in figures}) // _LEGEND_COLUMNS)


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width))


def _draw_bars(axes: Any, rows: Sequence[Row]) -> None:
    """Draw the median of each system, with the spread of the rounds as a whisker."""
    systems = [row.gb_per_s_max for row in rows if not is_ceiling(row.system)]
    fastest = max(systems, default=0.0)
    far = [fastest > 0 and row.gb_per_s > _FAR * fastest for row in rows]
    end = max((row.gb_per_s_max for row, is_far in zip(rows, far, strict=True) if not is_far))
    end *= _ROOM
    names = _distinct_names(rows)
    for name, row, is_far in zip(names, rows, far, strict=True):
        rate = end if is_far else row.gb_per_s
        spread = None if is_far else [[rate - row.gb_per_s_min], [row.gb_per_s_max - rate]]
        bar = axes.barh(name, rate, xerr=spread, color=_colour(row), ecolor="#555")
        if is_far:
            _break_bar(axes, bar.patches[0], f"{_rate(row.gb_per_s)}, beyond this axis")
        else:
            axes.bar_label(bar, fmt=_rate, padding=6, fontsize=8)
    axes.set_xlim(0, end or 1)
    axes.invert_yaxis()
    axes.set_title(_wrapped(row_title(rows[0]), _TITLE_CHARS), loc="left", fontsize=10)
    axes.set_xlabel("GB/s", fontsize=8)


def _rate(gb_per_s: float) -> str:
    return f"{gb_per_s:#.3g}".rstrip(".")


def _break_bar(axes: Any, bar: Any, text: str) -> None:
    """Mark a bar that goes on beyond the axis: two gaps, and its value inside."""
    middle, height = bar.get_y() + bar.get_height() / 2, bar.get_height()
    for gap in (0.955, 0.975):
        axes.plot(
            [gap - 0.006, gap + 0.006], [middle + 0.62 * height, middle - 0.62 * height],
            transform=axes.get_yaxis_transform(), color="white", linewidth=2.5, clip_on=False,
        )  # fmt: skip
    axes.text(
        0.94, middle, text, transform=axes.get_yaxis_transform(), ha="right", va="center",
        fontsize=8,
    )  # fmt: skip


def _draw_lines(axes: Any, figures: Sequence[Figure]) -> None:
    """Draw each subject over the parameter, with the spread of the rounds as whiskers."""
    first = figures[0]
    is_time = first.unit == "s"
    for number, subject in enumerate(dict.fromkeys(one.subject for one in figures)):
        points = sorted((one for one in figures if one.subject == subject), key=lambda it: it.at)
        ceiling = is_ceiling(subject)
        colour = _OURS if is_ours(subject) else "#999" if ceiling else _LINES[number % len(_LINES)]
        axes.errorbar(
            [one.at for one in points],
            [one.value for one in points],
            yerr=[
                [one.value - one.value_min for one in points],
                [one.value_max - one.value for one in points],
            ],
            label=subject_name(subject), color=colour, capsize=2,
            marker=_MARKERS[number % len(_MARKERS)], markersize=4,
            linestyle="--" if ceiling else "-", linewidth=2 if is_ours(subject) else 1.2,
        )  # fmt: skip
    places = sorted({one.at for one in figures})
    if is_time:
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: format_duration(value))
        axes.yaxis.set_minor_formatter(lambda _value, _: "")
    else:
        axes.set_ylim(-0.02, 1.02)
    axes.set_xticks(places, [format_place(at) for at in places])
    axes.set_xticks([], minor=True)
    axes.tick_params(labelsize=8)
    axes.grid(visible=True, color="#eee")
    axes.set_title(_wrapped(figure_title(first), _TITLE_CHARS), loc="left", fontsize=10)
    axes.set_xlabel(first.parameter, fontsize=8)
    axes.set_ylabel("time" if is_time else "share", fontsize=8)
    # Below, so that no line is behind it and no other panel is narrower for it.
    axes.legend(
        loc="upper left", bbox_to_anchor=(0, -0.16), ncols=_LEGEND_COLUMNS, fontsize=8,
        frameon=False,
    )  # fmt: skip


def _distinct_names(rows: Sequence[Row]) -> list[str]:
    """Name the bars; a system that runs more than once in a panel gets its number of threads."""
    names = [row_name(row) for row in rows]
    return [
        name if names.count(name) == 1 else f"{name}, {_threads(row)}"
        for name, row in zip(names, rows, strict=True)
    ]


def _threads(row: Row) -> str:
    # Rivals of the loader get worker processes of torch's DataLoader, all others threads.
    word = "worker" if row.case == "loader" and not is_ours(row.system) else "thread"
    return f"{row.threads} {word}{'' if row.threads == 1 else 's'}"


def _colour(row: Row) -> str:
    if is_ours(row.system):
        return _OURS
    return _CEILING if is_ceiling(row.system) else _RIVAL
