"""Reports of rows and figures: tables for a terminal, JSON for programs. `plot` draws them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import TypeVar

from rich.console import Console

from dataplane.cli.text import PIPED_WIDTH, Column, print_fitted
from dataplane.units import format_bytes, format_duration
from dataplane_bench.figures import print_figures
from dataplane_bench.model import (
    CEILING_PREFIX,
    Figure,
    LeftOut,
    Row,
    is_ceiling,
    is_ours,
)

__all__ = ["comparison", "print_report", "row_name", "row_title", "to_json"]


def to_json(
    machine: Mapping[str, object],
    rows: Sequence[Row],
    figures: Sequence[Figure] = (),
    *,
    left_out: Sequence[LeftOut] = (),
    notes: Sequence[str] = (),
) -> str:
    """Write the report as `{"machine": …, "rows": […], "figures": […], …}`.

    The other keys are `left_out`, of objects with `system` and `reason`, and `notes`, of sentences.
    """
    document = {
        "machine": machine,
        "rows": [dataclasses.asdict(row) for row in rows],
        "figures": [dataclasses.asdict(one) for one in figures],
        "left_out": [dataclasses.asdict(one) for one in left_out],
        "notes": list(notes),
    }
    return json.dumps(document, indent=2)


def print_report(
    console: Console,
    machine: Mapping[str, object],
    rows: Sequence[Row],
    figures: Sequence[Figure] = (),
    *,
    left_out: Sequence[LeftOut] = (),
    notes: Sequence[str] = (),
) -> None:
    """Print one table per comparison and per quantity, our row bold, ceilings dim.

    Below are the notes, and who was left out and why.
    """
    if not console.is_terminal:
        console.width = max(console.width, PIPED_WIDTH)
    console.print(
        f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, "
        f"dataplane {machine['dataplane']} ({machine['commit'] or 'no commit'}, "
        f"{machine['native_build']})",
        style="dim",
        markup=False,
    )
    for _, group in groupby(rows, key=comparison):
        console.print()
        _print_table(console, list(group))
    print_figures(console, figures)
    if notes or left_out:
        console.print()
    for note in notes:
        console.print(note, markup=False, soft_wrap=True)
    for one in left_out:
        console.print(f"left out: {one.system}: {one.reason}", markup=False, soft_wrap=True)


def comparison(row: Row) -> tuple[object, ...]:
    """Return the common fields of the rows of one table or panel."""
    return (row.case, row.dataset, row.codec, row.chunk_bytes, row.selection, row.state)


def row_title(row: Row) -> str:
    """Return the heading of the table or panel that a row is in."""
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
        column("system", (row_name(row) for row in rows), is_text=True),
        column("threads", (str(row.threads) for row in rows)),
        column(rate, (_maybe(row.samples_per_s, "{:.4g}".format) for row in rows), drop=5),
        column("GB/s", (f"{row.gb_per_s:.3g}" for row in rows)),
        column(
            "min–max", (f"{row.gb_per_s_min:.2f}–{row.gb_per_s_max:.2f}" for row in rows), drop=1
        ),
        column("CPU-s/GB", (f"{row.cpu_s_per_gb:.3g}" for row in rows), drop=6),
        column("first batch", (_maybe(row.first_batch_s, format_duration) for row in rows), drop=2),
        column("from store", (_maybe(row.bytes_fetched, format_bytes) for row in rows), drop=3),
        column("peak RSS", (_maybe(row.peak_rss_bytes, format_bytes) for row in rows), drop=4),
        column("AU", (_maybe(row.utilisation, "{:.3f}".format) for row in rows)),
        column("settings", (row.settings or "" for row in rows), is_text=True, drop=7),
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
    print_fitted(console, told, title=row_title(first), styles=[_style(row) for row in rows])


def row_name(row: Row) -> str:
    """Return the name of a row's system."""
    return row.system.replace(CEILING_PREFIX, "ceiling: ")


ValueT = TypeVar("ValueT")


def _maybe(value: ValueT | None, render: Callable[[ValueT], str]) -> str:
    return "" if value is None else render(value)


def _style(row: Row) -> str:
    if is_ours(row.system):
        return "bold green"
    return "dim" if is_ceiling(row.system) else ""
