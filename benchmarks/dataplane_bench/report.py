"""Shows rows: a table for a terminal, JSON for programs, a bar chart for a page."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dataplane.errors import ConfigError
from dataplane.units import format_bytes, format_duration
from dataplane_bench.model import CEILING_PREFIX, OUR_SYSTEM, Row

_FILE_WIDTH = 120

__all__ = ["print_report", "save_plot", "to_json"]


def to_json(machine: Mapping[str, object], rows: Sequence[Row]) -> str:
    """Write the report as `{"machine": …, "rows": […]}`."""
    document = {"machine": machine, "rows": [dataclasses.asdict(row) for row in rows]}
    return json.dumps(document, indent=2)


def print_report(console: Console, machine: Mapping[str, object], rows: Sequence[Row]) -> None:
    """Print one table per comparison, our row bold, ceilings dim."""
    if not console.is_terminal:
        console.width = max(console.width, _FILE_WIDTH)  # a pipe or a file has no width of its own
    console.print(
        f"[dim]{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, "
        f"dataplane {machine['dataplane']} ({machine['commit'] or 'no commit'}, "
        f"{machine['native_build']})[/dim]"
    )
    for _, group in groupby(rows, key=_comparison):
        lines = list(group)
        console.print(_table(lines))


def _comparison(row: Row) -> tuple[object, ...]:
    return (row.case, row.dataset, row.codec, row.chunk_bytes, row.selection, row.state)


def _title(row: Row) -> str:
    parts = [row.case, row.dataset, row.codec]
    parts.append(f"chunks of {format_bytes(row.chunk_bytes)}" if row.chunk_bytes else None)
    parts += [row.selection, row.state]
    return " · ".join(part for part in parts if part)


def _table(rows: Sequence[Row]) -> Table:
    first = rows[0]
    unit = "requests/s" if first.case == "store" else "samples/s"
    with_samples = first.case != "decode"
    with_first = any(row.first_batch_s is not None for row in rows)
    with_fetched = any(row.bytes_fetched is not None for row in rows)
    with_instructions = any(row.instructions_per_byte is not None for row in rows)
    table = Table(title=_title(first), title_justify="left", title_style="bold")
    table.add_column("system", no_wrap=True)
    table.add_column("threads", justify="right")
    if with_samples:
        table.add_column(unit, justify="right")
    table.add_column("GB/s", justify="right")
    table.add_column("min–max", justify="right", style="dim", no_wrap=True)
    table.add_column("CPU-s/GB", justify="right")
    if with_first:
        table.add_column("first batch", justify="right")
    if with_fetched:
        table.add_column("from store", justify="right")
    if with_instructions:
        table.add_column("instr/byte", justify="right")
    ceiling = next((row.ceiling for row in rows if row.ceiling), None)
    table.add_column(f"of {ceiling}" if ceiling else "of ceiling", justify="right")
    for row in rows:
        cells = [row.system.removeprefix(CEILING_PREFIX), str(row.threads)]
        if row.system.startswith(CEILING_PREFIX):
            cells[0] = f"ceiling: {cells[0]}"
        if with_samples:
            cells.append(f"{row.samples_per_s:.4g}" if row.samples_per_s is not None else "")
        cells += [
            f"{row.gb_per_s:.3g}",
            f"{row.gb_per_s_min:.2f}–{row.gb_per_s_max:.2f}",
            f"{row.cpu_s_per_gb:.3g}",
        ]
        if with_first:
            cells.append(format_duration(row.first_batch_s) if row.first_batch_s else "")
        if with_fetched:
            cells.append(format_bytes(row.bytes_fetched) if row.bytes_fetched is not None else "")
        if with_instructions:
            counted = row.instructions_per_byte
            cells.append(f"{counted:.3f}" if counted is not None else "")
        cells.append(f"{row.ratio_to_ceiling:.2f}" if row.ratio_to_ceiling is not None else "")
        table.add_row(*cells, style=_style(row))
    return table


def _style(row: Row) -> str:
    if row.system == OUR_SYSTEM:
        return "bold green"
    return "dim" if row.system.startswith(CEILING_PREFIX) else ""


def save_plot(path: Path, machine: Mapping[str, object], rows: Sequence[Row]) -> None:
    """Draw one panel of horizontal bars per comparison (median, with the spread as a whisker).

    Raises:
        ConfigError: matplotlib is not installed, or does not know the file's suffix.
    """
    try:
        from matplotlib.figure import Figure  # heavy, and only this function needs it
    except ImportError as err:
        raise ConfigError("--plot needs matplotlib", hint="pip install 'dataplane[bench]'") from err
    groups = [list(group) for _, group in groupby(rows, key=_comparison)]
    heights = [1 + 0.35 * len(group) for group in groups]
    figure = Figure(figsize=(9, sum(heights) + 0.8), layout="constrained")
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, group in zip(panels, groups, strict=True):
        names = [row.system.replace(CEILING_PREFIX, "ceiling: ") for row in group]
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
        f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']} · "
        f"dataplane {machine['dataplane']} {machine['commit'] or ''}",
        fontsize=8, color="#555",
    )  # fmt: skip
    try:
        figure.savefig(path, dpi=150)
    except ValueError as err:
        raise ConfigError(f"cannot draw {path}: {err}", hint="name a .png, .svg or .pdf") from err


def _colour(row: Row) -> str:
    if row.system == OUR_SYSTEM:
        return "#1b7f5c"
    return "#c9ccd1" if row.system.startswith(CEILING_PREFIX) else "#7a93b8"
