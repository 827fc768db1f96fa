"""`dataplane info URL`: what a packed dataset holds, from its index alone."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dataplane.cli.options import store_config, store_options
from dataplane.cli.text import PIPED_WIDTH, plural, printable
from dataplane.shards import FORMAT_VERSION, DatasetIndex
from dataplane.shards.summary import ArraySummary, summarise
from dataplane.stores import open_store
from dataplane.units import format_bytes, format_count

__all__ = ["info"]

_WIDE = 120


@click.command()
@click.argument("url")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@store_options
def info(
    url: str,
    endpoint_url: str | None,
    region: str | None,
    *,
    anonymous: bool | None,
    as_json: bool,
) -> None:
    """Describe the packed dataset at URL: samples, arrays, shards.

    Only the index is read, so this is quick for datasets of any size.
    """
    store = open_store(url, store_config(endpoint_url, region, anonymous=anonymous))
    try:
        index = DatasetIndex.load(store)
    finally:
        store.close()
    arrays = summarise(index)
    if as_json:
        click.echo(json.dumps(_document(url, index, arrays), indent=1, ensure_ascii=False))
    else:
        _print(url, index, arrays)


def _document(url: str, index: DatasetIndex, arrays: Sequence[ArraySummary]) -> dict[str, Any]:
    return {
        "url": url,
        "format_version": FORMAT_VERSION,
        "samples": len(index),
        "decoded_bytes": sum(array.decoded_bytes for array in arrays),
        "stored_bytes": sum(index.shards.values()),
        "shards": [{"key": key, "size_bytes": size} for key, size in index.shards.items()],
        "arrays": [_array_document(array) for array in arrays],
    }


def _array_document(array: ArraySummary) -> dict[str, Any]:
    """An array as JSON, which has no infinities: those are given as text."""
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in dataclasses.asdict(array).items()
    }


def _print(url: str, index: DatasetIndex, arrays: Sequence[ArraySummary]) -> None:
    # A pipe has no width; rows that stay whole are easier for grep than folded ones.
    console = Console() if sys.stdout.isatty() else Console(width=PIPED_WIDTH)
    decoded = sum(array.decoded_bytes for array in arrays)
    stored = sum(index.shards.values())
    console.print(Text(url, style="bold"))
    ratio = f", ratio {decoded / stored:.2f}" if stored else ""
    shards = len(index.shards)
    console.print(
        f"{format_count(len(index))} {plural('sample', len(index))} in "
        f"{format_count(shards)} {plural('shard', shards)}; "
        f"{format_bytes(decoded)} decoded, {format_bytes(stored)} stored{ratio}",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    wide = console.width >= _WIDE
    table.add_column("array", overflow="fold", min_width=12)
    table.add_column("type", no_wrap=True)
    table.add_column("shape", overflow="fold", min_width=10)
    table.add_column("units", overflow="fold")
    table.add_column("codec", no_wrap=True)
    for heading in ("samples", "decoded", "ratio", "from", "to")[: None if wide else 3]:
        table.add_column(heading, justify="right", no_wrap=True, min_width=len(heading))
    for array in arrays:
        cells = (
            *(array.name, ", ".join(array.dtypes), _shapes(array), ", ".join(array.units)),
            *(_codecs(array, wide=wide), format_count(array.samples)),
            *(format_bytes(array.decoded_bytes), _ratio(array)),
            *((_number(array.minimum), _number(array.maximum)) if wide else ()),
        )
        # Text, not str: names and units come from files, and rich would read markup in them.
        table.add_row(*(Text(printable(cell)) for cell in cells))
    console.print(table)


def _shapes(array: ArraySummary) -> str:
    """Write shapes with ranges where samples differ: `1,000-1,200 x 3`."""
    return " or ".join(
        " × ".join(
            format_count(low) if low == high else f"{format_count(low)}–{format_count(high)}"
            for low, high in shape
        )
        or "scalar"
        for shape in array.shapes
    )


def _codecs(array: ArraySummary, *, wide: bool) -> str:
    return "; ".join(codec if wide else codec.split()[0] for codec in array.codecs)


def _ratio(array: ArraySummary) -> str:
    return f"{array.decoded_bytes / array.stored_bytes:.2f}" if array.stored_bytes else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
