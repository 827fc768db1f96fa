"""`dataplane info URL`: what a packed dataset holds, from its index alone."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from dataplane.cli.options import store_config, store_options
from dataplane.cli.text import Column, fits, output, plural, print_fitted, printable
from dataplane.cli.waiting import said_when_late
from dataplane.shards import FORMAT_VERSION, DatasetIndex
from dataplane.shards.summary import ArraySummary, summarise
from dataplane.stores import open_store
from dataplane.units import format_bytes, format_count

__all__ = ["info"]

_TEXTS = 5  # of the columns, the first ones


@click.command()
@click.argument("url")
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    metavar="N",
    help="List the keys of the first N samples, too.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@store_options
def info(
    url: str,
    endpoint_url: str | None,
    region: str | None,
    *,
    anonymous: bool | None,
    samples: int | None,
    as_json: bool,
) -> None:
    """Describe the packed dataset at URL: samples, arrays, shards.

    Only the index is read, so this is quick for datasets of any size. The ratio of the dataset is
    decoded bytes to those of the shards; that of an array is to its own share of them, without
    headers and padding around.
    """
    store = open_store(url, store_config(endpoint_url, region, anonymous=anonymous))
    try:
        with said_when_late(url):
            index = DatasetIndex.load(store)
    finally:
        store.close()
    arrays = summarise(index)
    if as_json:
        document = _document(url, index, arrays)
        if samples:
            document["sample_keys"] = list(index.keys[:samples])
        click.echo(json.dumps(document, indent=1, ensure_ascii=False))
    else:
        _print(url, index, arrays, samples=samples or 0)


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


def _print(url: str, index: DatasetIndex, arrays: Sequence[ArraySummary], *, samples: int) -> None:
    console = output()
    decoded = sum(array.decoded_bytes for array in arrays)
    stored = sum(index.shards.values())
    console.print(Text(printable(url), style="bold"), soft_wrap=True)
    ratio = f", ratio {decoded / stored:.2f}" if stored else ""
    shards = len(index.shards)
    console.print(
        f"{format_count(len(index))} {plural('sample', len(index))} in "
        f"{format_count(shards)} {plural('shard', shards)}; "
        f"{format_bytes(decoded)} decoded, {format_bytes(stored)} stored{ratio}",
        soft_wrap=True,
    )
    _print_arrays(console, arrays)
    if samples:
        _print_samples(console, index, samples)


def _print_arrays(console: Console, arrays: Sequence[ArraySummary]) -> None:
    """Print a row per array, or where that would not fit, the name and its figures below it."""
    headings = [
        *("array", "type", "shape", "units", "codec"),
        *("samples", "decoded", "ratio", "from", "to"),
    ]
    rows = [
        (
            *(array.name, ", ".join(array.dtypes), _shapes(array), ", ".join(array.units)),
            *("; ".join(array.codecs), format_count(array.samples)),
            *(format_bytes(array.decoded_bytes), _ratio(array)),
            *(_number(array.minimum), _number(array.maximum)),
        )
        for array in arrays
    ]
    cells_of = zip(*rows, strict=True) if rows else ([] for _ in headings)
    columns = [
        Column(heading, list(cells), is_text=place < _TEXTS)
        for place, (heading, cells) in enumerate(zip(headings, cells_of, strict=True))
    ]
    if fits(console, columns):
        print_fitted(console, columns)
        return
    for name, kind, shape, units, codec, samples, decoded, ratio, low, high in rows:
        what = [kind, shape, units, f"{low} to {high}" if low else ""]
        having = f"{samples} {plural('sample', 1 if samples == '1' else 2)}"
        stored = [codec, having, decoded, f"ratio {ratio}" if ratio else ""]
        _print_line(console, name)
        _print_line(console, "    " + "  ".join(filter(None, [*what, *stored])))


def _print_samples(console: Console, index: DatasetIndex, samples: int) -> None:
    console.print()
    for key in index.keys[:samples]:
        _print_line(console, key)
    more = len(index) - samples
    if more > 0:
        console.print(f"and {format_count(more)} more", style="dim")


def _print_line(console: Console, text: str) -> None:
    # Text, not str: names and units come from files, and rich would read markup in them.
    console.print(Text(printable(text)), soft_wrap=True)


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


def _ratio(array: ArraySummary) -> str:
    return f"{array.decoded_bytes / array.stored_bytes:.2f}" if array.stored_bytes else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
