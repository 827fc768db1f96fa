"""Shows rows and figures: tables for a terminal, JSON for programs; rows as a bar chart, too."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from dataplane.cli.text import PIPED_WIDTH, Column, print_fitted
from dataplane.errors import ConfigError
from dataplane.extras import missing_package
from dataplane.units import format_bytes, format_duration
from dataplane_bench.figures import print_figures
from dataplane_bench.model import CEILING_PREFIX, OUR_SYSTEM, Figure, Row

__all__ = ["check_plot", "print_report", "save_plot", "to_json"]

_PLOT_SUFFIXES = frozenset({".pdf", ".png", ".svg"})
_PLOT_HINT = ".png, .svg or .pdf file"


def to_json(
    machine: Mapping[str, object], rows: Sequence[Row], figures: Sequence[Figure] = ()
) -> str:
    """Write the report as `{"machine": …, "rows": […], "figures": […]}`."""
    document = {
        "machine": machine,
        "rows": [dataclasses.asdict(row) for row in rows],
        "figures": [dataclasses.asdict(one) for one in figures],
    }
    return json.dumps(document, indent=2)


def print_report(
    console: Console,
    machine: Mapping[str, object],
    rows: Sequence[Row],
    figures: Sequence[Figure] = (),
) -> None:
    """Print one table per comparison and per quantity, our row bold, ceilings dim."""
    if not console.is_terminal:
        console.width = max(console.width, PIPED_WIDTH)
    console.print(
        f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, "
        f"dataplane {machine['dataplane']} ({machine['commit'] or 'no commit'}, "
        f"{machine['native_build']})",
        style="dim",
        markup=False,
    )
    for _, group in groupby(rows, key=_comparison):
        console.print()
        _print_table(console, list(group))
    print_figures(console, figures)


def _comparison(row: Row) -> tuple[object, ...]:
    return (row.case, row.dataset, row.codec, row.chunk_bytes, row.selection, row.state)


def _title(row: Row) -> str:
    parts = [row.case, row.dataset, row.codec]
    parts.append(f"chunks of {format_bytes(row.chunk_bytes)}" if row.chunk_bytes else None)
    parts += [row.selection, row.state]
    return " · ".join(part for part in parts if part)


def _print_table(console: Console, rows: Sequence[Row]) -> None:
    first = rows[0]
    ceiling = next((row.ceiling for row in rows if row.ceiling), None)

    def column(
        heading: str, cells: Iterable[str], *, is_text: bool = False, drop: int | None = None
    ) -> Column:
        return Column(heading, list(cells), is_text=is_text, drop=drop)

    rate = "requests/s" if first.case == "store" else "samples/s"
    columns = [
        column("system", (_name(row) for row in rows), is_text=True),
        column("threads", (str(row.threads) for row in rows)),
        column(rate, (_maybe(row.samples_per_s, "{:.4g}".format) for row in rows), drop=5),
        column("GB/s", (f"{row.gb_per_s:.3g}" for row in rows)),
        column(
            "min–max", (f"{row.gb_per_s_min:.2f}–{row.gb_per_s_max:.2f}" for row in rows), drop=1
        ),
        column("CPU-s/GB", (f"{row.cpu_s_per_gb:.3g}" for row in rows), drop=6),
        column("first batch", (_maybe(row.first_batch_s, format_duration) for row in rows), drop=2),
        column("from store", (_maybe(row.bytes_fetched, format_bytes) for row in rows), drop=3),
        column(
            "instr/byte",
            (_maybe(row.instructions_per_byte, "{:.3f}".format) for row in rows),
            drop=4,
        ),
        column(
            f"of {ceiling or 'ceiling'}",
            (_maybe(row.ratio_to_ceiling, "{:.2f}".format) for row in rows),
        ),
    ]
    # One array decoded per run has no rate of samples, and not every case has batches or a store.
    told = [
        one for one in columns if any(one.cells) and (one.heading != rate or first.case != "decode")
    ]
    print_fitted(console, told, title=_title(first), styles=[_style(row) for row in rows])


def _name(row: Row) -> str:
    return row.system.replace(CEILING_PREFIX, "ceiling: ")


ValueT = TypeVar("ValueT")


def _maybe(value: ValueT | None, render: Callable[[ValueT], str]) -> str:
    return "" if value is None else render(value)


def _style(row: Row) -> str:
    if row.system == OUR_SYSTEM:
        return "bold green"
    return "dim" if row.system.startswith(CEILING_PREFIX) else ""


def check_plot(path: Path) -> None:
    """Check that a chart can be written to a file, before hours are spent on its figures.

    Raises:
        ConfigError: the suffix or the folder cannot be used.
        MissingPackage: matplotlib is not installed.
    """
    if path.suffix.lower() not in _PLOT_SUFFIXES:
        raise ConfigError(f"cannot draw {path}: unknown suffix", hint=f"name a {_PLOT_HINT}")
    if not path.parent.is_dir():
        raise ConfigError(f"cannot draw {path}: there is no folder {path.parent}")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(f"cannot draw {path}: it cannot be written")
    if importlib.util.find_spec("matplotlib") is None:
        raise missing_package("--plot", "matplotlib")


def save_plot(
    path: Path, machine: Mapping[str, object], rows: Sequence[Row], *, smoke: bool = False
) -> None:
    """Draw one panel of horizontal bars per comparison (median, with the spread as a whisker).

    Args:
        path: where; see `check_plot`.
        machine: that the figures are of.
        rows: of all comparisons.
        smoke: say in the chart that the input was tiny.

    Raises:
        ConfigError: the file cannot be drawn or written.
        MissingPackage: matplotlib is not installed.
    """
    check_plot(path)
    from matplotlib.figure import Figure  # heavy, and only this function needs it

    groups = [list(group) for _, group in groupby(rows, key=_comparison)]
    heights = [1 + 0.35 * len(group) for group in groups]
    figure = Figure(figsize=(9, sum(heights) + 0.8), layout="constrained")
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, group in zip(panels, groups, strict=True):
        names = _distinct_names(group)
        rates = [row.gb_per_s for row in group]
        spread = [
            [row.gb_per_s - row.gb_per_s_min for row in group],
            [row.gb_per_s_max - row.gb_per_s for row in group],
        ]
        bars = axes.barh(
            names, rates, xerr=spread, color=[_colour(row) for row in group], ecolor="#555"
        )
        axes.bar_label(bars, fmt="%.2f", padding=6, fontsize=8)
        axes.invert_yaxis()
        axes.set_title(_title(group[0]), loc="left", fontsize=10)
        axes.set_xlabel("GB/s", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.12)
    figure.suptitle(
        ("SMOKE RUN: tiny input, one round; these are not measurements\n" if smoke else "")
        + f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']} · "
        f"dataplane {machine['dataplane']} {machine['commit'] or ''}",
        fontsize=8, color="#b00020" if smoke else "#555",
    )  # fmt: skip
    try:
        figure.savefig(path, dpi=150)
    except (ValueError, OSError) as err:
        raise ConfigError(f"cannot draw {path}: {err}", hint=f"name a {_PLOT_HINT}") from err


def _distinct_names(rows: Sequence[Row]) -> list[str]:
    """Name the bars; a system that runs more than once in a panel says with how many threads."""
    names = [_name(row) for row in rows]
    return [
        name if names.count(name) == 1 else f"{name}, {row.threads}"
        for name, row in zip(names, rows, strict=True)
    ]


def _colour(row: Row) -> str:
    if row.system == OUR_SYSTEM:
        return "#1b7f5c"
    return "#c9ccd1" if row.system.startswith(CEILING_PREFIX) else "#7a93b8"
