"""Statistics of an array over a dataset, from those of its samples in the index.

`dataplane pack` measures every array of every sample; they combine to those of a dataset, or of the
samples of a subset alone, without a byte of the data (Source: Chan, Golub and LeVeque 1979). Values
that are NaN or infinite have no part in them. `statistics` reads the data where the index
has none. Functions without state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dataplane.datasets.views import View, view_of
from dataplane.errors import ConfigError
from dataplane.gpu.dali_arrays import checked_names
from dataplane.shards.statistics import PartialStats, array_stats

__all__ = ["ArrayStatistics", "dataset_statistics", "statistics"]


_COLUMNS = ("sample", "shape", "mean", "std", "nan_count", "nonfinite_count", "components")


@dataclass(frozen=True, slots=True)
class ArrayStatistics:
    """Mean and standard deviation of an array over a dataset, in its units.

    Attributes:
        mean: mean of all values, or of each component.
        std: population standard deviation, likewise.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


def statistics(
    dataset: Any, name: str, *, per_component: bool = False, measure: bool = False
) -> ArrayStatistics:
    """Return mean and standard deviation of an array over the samples of a dataset.

    They are what `normalise` takes, to undo it: `x * std + mean`.

    Args:
        dataset: `dp.Dataset`, or torch's wrappers of one: a subset has its own.
        name: name of the array.
        per_component: whether to tell components apart.
        measure: whether to read every sample, once, where the index has none; else it is an error.

    Raises:
        ConfigError: the array is unknown, or has no statistics or finite values.

    Example:
        >>> known = statistics(ds, "fields/density")  # doctest: +SKIP
        >>> dali_ops.normalise("fields/density", mean=known.mean, std=known.std)  # doctest: +SKIP
    """
    view = view_of(dataset)
    if view is None:
        raise ConfigError(
            f"statistics: a dataplane.Dataset is needed, got a value of type "
            f"{type(dataset).__name__}"
        )
    checked_names([name], view.datasets[0].array_names, "statistics")
    if measure:
        return _measured(view, name, per_component=per_component)
    return dataset_statistics(view, name, per_component=per_component)


def dataset_statistics(view: View, name: str, *, per_component: bool = False) -> ArrayStatistics:
    """Combine the stored statistics of an array over the samples of a view.

    Args:
        view: samples; each counts once.
        name: name of the array.
        per_component: whether to tell components apart.

    Raises:
        ConfigError: a sample has values and no statistics of them.
    """
    parts = []
    numbers, which = view.all_numbers(), view.all_which()
    for place, dataset in enumerate(view.datasets):
        table: Any = dataset.index.columns(["array", "sample_index", *_COLUMNS])
        taken = np.unique(numbers[which == place])
        chosen = (pc.field("array") == name) & pc.field("sample_index").isin(pa.array(taken))
        parts.append(_figures(table.filter(chosen), name, per_component, dataset.url))
    columns = [np.concatenate(figures) for figures in zip(*parts, strict=True)]
    count, mean, std = (column if per_component else column[:, :1] for column in columns)
    total = count.sum(axis=0)
    if not len(total) or (total == 0).any():
        raise ConfigError(
            f"normalise: array {name!r} has no finite values, and so no statistics",
            hint="leave it out, or give mean= and std=",
        )
    middle = (count * mean).sum(axis=0) / total
    variance = (count * (std**2 + (mean - middle) ** 2)).sum(axis=0) / total
    return ArrayStatistics(tuple(middle.tolist()), tuple(np.sqrt(variance).tolist()))


def _measured(view: View, name: str, *, per_component: bool = False) -> ArrayStatistics:
    """Read an array of every sample of a view, and measure it; each sample counts once.

    Args:
        view: samples.
        name: name of the array.
        per_component: whether to tell the entries of its last dimension apart.

    Raises:
        ConfigError: there are no finite values, or the last dimension varies.
        DataplaneError: a sample cannot be read.
    """
    numbers, which = view.all_numbers(), view.all_which()
    total: tuple[PartialStats, ...] = ()
    for place, dataset in enumerate(view.datasets):
        for number in np.unique(numbers[which == place]).tolist():
            values = dataset.numpy(number).get(name)
            if not isinstance(values, np.ndarray):
                continue
            width = values.shape[-1] if per_component and values.ndim else 0
            measured = array_stats(values, width)
            parts = measured.components if per_component and width else (measured.whole,)
            if not parts:  # an empty array
                continue
            if total and len(parts) != len(total):
                raise ConfigError(
                    f"statistics: array {name!r} has {len(total)} and {len(parts)} components",
                    hint="leave per_component out",
                )
            pairs = zip(total or parts, parts, strict=True)
            total = tuple(a.combine(b) for a, b in pairs) if total else parts
    finished = [part.finish() for part in total]
    known = [one for one in finished if one is not None and math.isfinite(one.mean)]
    if not known or len(known) != len(finished):
        raise ConfigError(f"statistics: array {name!r} has no finite values")
    return ArrayStatistics(
        tuple(one.mean for one in known),
        tuple(one.std for one in known),
    )


def _figures(
    rows: Any, name: str, per_component: bool, url: str
) -> tuple[npt.NDArray[np.float64], ...]:
    """Return count, mean and std of each row: float64[rows, components]."""
    counts, means, stds = [], [], []
    columns = {*rows.column_names}
    # Not the others: tables of chunks are as long as the dataset is large.
    for row in rows.select([name for name in _COLUMNS if name in columns]).to_pylist():
        size = math.prod(row["shape"])
        if not per_component:
            left_out = row.get("nonfinite_count") if "nonfinite_count" in columns else None
            left_out = row["nan_count"] if left_out is None else left_out
            parts: Sequence[Any] = [(row["mean"], row["std"], left_out, size)]
        else:
            found = row.get("components") or []
            each = size // max(len(found), 1)
            parts = [(part["mean"], part["std"], part["nan_count"], each) for part in found]
        if size and (not parts or any(None in part for part in parts)):
            kind = "statistics of each component" if per_component else "statistics"
            raise ConfigError(
                f"normalise: {url} has no {kind} of array {name!r} in sample {row['sample']!r}",
                hint="measure it once, dali_ops.statistics(ds, name, measure=True), and give its "
                "mean= and std=",
            )
        if not size:
            continue
        finite = [
            (mean, std, total - without) if math.isfinite(mean) else (0.0, 0.0, 0)
            for mean, std, without, total in parts
        ]
        means.append([mean for mean, _, _ in finite])
        stds.append([std for _, std, _ in finite])
        counts.append([float(count) for _, _, count in finite])
    width = len(counts[0]) if counts else 1
    return tuple(
        np.array(column, np.float64).reshape(len(column), -1 if column else width)
        for column in (counts, means, stds)
    )
