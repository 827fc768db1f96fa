"""Packed datasets of very many samples, made in seconds: few samples are stored, many are listed.

`pack_many` packs some samples of two arrays, and writes an index that lists them again and again
under keys and attributes of their own, in rows as large as those of a dataset that was packed
whole: every sample can be read, and the index costs what a real one does. Statistics of repeated
samples are made up, so that they do not compress better than real ones.

A pure function of its arguments but for the folder that it writes to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dataplane.shards import INDEX_KEY, DatasetWriter, SourceArray, SourceSample, WriteOptions
from dataplane.shards.index_schema import write_options
from dataplane.stores import open_store

__all__ = ["pack_many"]

ELEMENTS = 8192
"""Elements of an array by default: two arrays of float32 are a sample of 64 KiB."""

_SAMPLES_AT_ONCE = 32_768
_FIGURES = ("min", "max", "mean", "std")


def pack_many(
    folder: Path,
    samples: int,
    *,
    distinct: int = 256,
    elements: int = ELEMENTS,
    is_ragged: bool = False,
    seed: int = 0,
) -> str:
    """Make a dataset of `samples` samples of two float32 arrays, `x` and `fields/y`.

    Args:
        folder: folder that it is written to, which must be empty or not there.
        samples: number of samples that are listed.
        distinct: number of samples that are stored; sample i has the values of i modulo this.
        elements: elements of each array.
        is_ragged: whether the arrays are [n, 3] and [n], with an n near `elements` that varies.
        seed: seed of the values.

    Returns:
        URL of the dataset.
    """
    url = f"file://{folder}"
    rng = np.random.default_rng(seed)
    with DatasetWriter(open_store(url), WriteOptions(codec="lz4")) as writer:
        for number in range(min(distinct, samples)):
            n = elements + number % 1000 if is_ragged else elements
            arrays = {
                "x": rng.random((n, 3) if is_ragged else n, np.float32),
                "fields/y": rng.random(n, np.float32),
            }
            writer.add(
                SourceSample(
                    key=f"case-{number:08d}",
                    arrays={name: SourceArray(v, None, "m", {}) for name, v in arrays.items()},
                    attributes={"mach": 0.5, "number": number},
                )
            )
        writer.finish()
    stored = pq.read_table(folder / INDEX_KEY)
    with pq.ParquetWriter(folder / INDEX_KEY, stored.schema, **write_options()) as out:
        for first in range(0, samples, _SAMPLES_AT_ONCE):
            out.write_table(_listed(stored, first, min(first + _SAMPLES_AT_ONCE, samples), rng))
    return url


def _listed(stored: pa.Table, first: int, stop: int, rng: np.random.Generator) -> pa.Table:
    """Return the rows of samples `first` to `stop`."""
    numbers = np.arange(first, stop)
    rows = (2 * (numbers % (stored.num_rows // 2))[:, None] + np.arange(2)).reshape(-1)
    table = stored.take(pa.array(rows))
    keys = [f"case-{number:08d}" for number in numbers.tolist()]
    texts = [f'{{"mach":{number % 97 / 100},"number":{number}}}' for number in numbers.tolist()]
    columns: dict[str, Any] = {
        "sample": pa.array(keys).take(pa.array(np.arange(2 * len(keys)) // 2)),
        "sample_index": pa.array(numbers.repeat(2)),
        "sample_attributes": pa.array([text for one in texts for text in (one, None)]),
    }
    for name in _FIGURES:
        columns[name] = pa.array(rng.random(len(rows)))
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(name), values)
    return table
