"""`dataplane info URL`: content of a packed dataset, from its index alone."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from dataplane.cli.options import store_config, store_options
from dataplane.cli.text import Column, fits, output, plural, print_fitted, print_pieces, printable
from dataplane.cli.waiting import said_when_late
from dataplane.shards import FORMAT_VERSION, DatasetIndex
from dataplane.shards.nonfinite import NonFinite
from dataplane.shards.summary import ArraySummary, Moments, summarise
from dataplane.stores import open_store
from dataplane.units import format_bytes, format_count

__all__ = ["info"]

_TEXTS = 5  # of the columns, the first ones
_FIRST_FIGURE = 8  # columns before those that components have, too
_DIGITS = 4
_MAX_DIGITS = 17  # tell any two numbers of float64 apart
_MAX_EXACT = 1 << 53


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
    """An array as JSON, which has no NaN and no infinities: those are given as text."""

    def known(items: list[tuple[str, Any]]) -> dict[str, Any]:
        return {
            name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in items
        }

    return dataclasses.asdict(array, dict_factory=known)


def _print(url: str, index: DatasetIndex, arrays: Sequence[ArraySummary], *, samples: int) -> None:
    console = output()
    decoded = sum(array.decoded_bytes for array in arrays)
    stored = sum(index.shards.values())
    console.print(Text(printable(url), style="bold"), soft_wrap=True)
    ratio = f", ratio {decoded / stored:.2f}" if stored else ""
    shards = len(index.shards)
    total = (
        f"{format_count(len(index))} {plural('sample', len(index))} in "
        f"{format_count(shards)} {plural('shard', shards)}; "
        f"{format_bytes(decoded)} decoded, {format_bytes(stored)} stored{ratio}"
    )
    print_pieces(console, [total])
    _print_arrays(console, arrays)
    for note in (*_nonfinite(arrays), *_lossy(arrays), *_recorded(index, arrays)):
        print_pieces(console, [note])
    if samples:
        _print_samples(console, index, samples)


def _print_arrays(console: Console, arrays: Sequence[ArraySummary]) -> None:
    """Print a row per array, or where that would not fit, the name and its figures below it.

    Components have rows of their own.
    """
    columns = _columns(arrays)
    if fits(console, columns) or not console.is_terminal:
        print_fitted(console, columns)
        return
    for array in arrays:
        samples = f"{format_count(array.samples)} {plural('sample', array.samples)}"
        ratio = _ratio(array)
        _print_line(console, array.name)
        what = [", ".join(array.dtypes), _shapes(array), ", ".join(array.units)]
        stored = [f"{format_bytes(array.decoded_bytes)} decoded", f"ratio {ratio}" if ratio else ""]
        print_pieces(console, [*what, samples, *stored, "; ".join(array.codecs)], indent=4)
        print_pieces(console, _moments(_figures_of(array)), indent=4)
        for number, component in enumerate(array.components):
            moments = _moments(_figures(component))
            print_pieces(console, [f"[{number}]", *moments], indent=6)


def _columns(arrays: Sequence[ArraySummary]) -> list[Column]:
    headings = [
        *("array", "type", "shape", "units", "codec"),
        *("samples", "decoded", "ratio", "from", "to", "mean", "std"),
    ]
    rows: list[tuple[str, ...]] = []
    for array in arrays:
        rows.append((
            *(array.name, ", ".join(array.dtypes), _shapes(array), ", ".join(array.units)),
            *("; ".join(array.codecs), format_count(array.samples)),
            *(format_bytes(array.decoded_bytes), _ratio(array), *_figures_of(array)),
        ))  # fmt: skip
        for number, component in enumerate(array.components):
            rows.append((f"  [{number}]", *("",) * (_FIRST_FIGURE - 1), *_figures(component)))
    cells_of = zip(*rows, strict=True) if rows else ([] for _ in headings)
    return [
        Column(heading, list(cells), is_text=place < _TEXTS)
        for place, (heading, cells) in enumerate(zip(headings, cells_of, strict=True))
    ]


def _figures_of(array: ArraySummary) -> tuple[str, ...]:
    """Write the figures of an array; the extremes of integers in full, since they may be ids."""
    low, high, mean, std = array.minimum, array.maximum, array.mean, array.std
    if low is None or high is None or mean is None or std is None:
        return ("",) * 4
    texts = _figures(Moments(low, high, mean, std))
    if all(name.startswith(("int", "uint", "bool")) for name in array.dtypes):
        return (_integer(low, texts[0]), _integer(high, texts[1]), *texts[2:])
    return texts


def _figures(values: Moments) -> tuple[str, ...]:
    """Write figures with four digits, or as many as tell the extremes apart."""
    low, high = values.minimum, values.maximum
    digits = _DIGITS
    while low < high and digits < _MAX_DIGITS and f"{low:.{digits}g}" == f"{high:.{digits}g}":
        digits += 1
    return tuple(_number(value, digits) for value in (low, high, values.mean, values.std))


def _integer(value: float, rounded: str) -> str:
    """Write an integer in full, where float64, in which the index has it, is exact."""
    return str(int(value)) if abs(value) <= _MAX_EXACT else rounded


def _moments(figures: tuple[str, ...]) -> list[str]:
    low, high, mean, std = figures
    return [f"from {low} to {high}", f"mean {mean}", f"std {std}"] if low else []


def _nan_count(array: ArraySummary) -> int | None:
    return None if any(name.startswith("complex") for name in array.dtypes) else array.nan_count


def _nonfinite(arrays: Sequence[ArraySummary]) -> Iterator[str]:
    """Yield a line for each array with values that are not finite."""
    for array in arrays:
        if array.nonfinite_count and array.nonfinite_first is not None:
            found = NonFinite(
                *(array.name, _nan_count(array), array.nonfinite_count),
                *(array.nonfinite_samples, array.nonfinite_first),
            )
            yield f"not finite: {found}"
        elif array.nonfinite_count is None and array.nan_count:
            yield f"not finite: {array.name}: {format_count(array.nan_count)} NaN"


def _lossy(arrays: Sequence[ArraySummary]) -> Iterator[str]:
    """Yield a line for each array that differs from its source."""
    for array in arrays:
        if array.round_bits or array.max_error:
            units = f" {array.units[0]}" if len(array.units) == 1 else ""
            bits = " or ".join(map(str, array.round_bits))
            kept = f"{bits} mantissa bits kept" if bits else ""
            known = array.max_error is not None
            error = f"largest error {_number(array.max_error or 0.0)}{units}" if known else ""
            yield f"lossy: {array.name}: {', '.join(filter(None, (kept, error)))}"


def _recorded(index: DatasetIndex, arrays: Sequence[ArraySummary]) -> Iterator[str]:
    """Yield facts that only attributes have: narrowing, and all the first release recorded."""
    record = index[0].attributes.get("dataplane") if len(index) else None
    if not isinstance(record, dict):
        return
    if any(array.max_error is not None for array in arrays):
        if record.get("float32") is True:
            yield "narrowed: float64 is stored as float32 (packed with --float32)"
    else:
        asked = [f"{name} {record[name]}" for name in ("round_bits", "float32") if name in record]
        if asked:
            yield f"lossy: packed with {', '.join(asked)}; errors were not recorded"


def _print_samples(console: Console, index: DatasetIndex, samples: int) -> None:
    console.print()
    shown = min(samples, len(index))
    console.print(f"keys of {format_count(shown)} {plural('sample', shown)}:", style="dim")
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


def _number(value: float, digits: int = _DIGITS) -> str:
    return f"{value:.{digits}g}"
