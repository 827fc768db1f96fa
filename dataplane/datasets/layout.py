"""Layout of the arrays of a dataset in a batch: stacked, ragged or listed.

The layout is a property of the *dataset*, found in its index, never of the samples that happen to
meet in a batch, so a training step sees the same structure every time:

- stacked: the selection has the same shape in all samples: one tensor `[B, ...]`.
- ragged: the first extent varies: one tensor `[sum of N, ...]` plus `<name>.offsets`, int64[B + 1];
  sample `b` is `[offsets[b], offsets[b + 1])`.
- listed: other extents, the number of dimensions or the element type vary: a list of B tensors.

When arrays are named, every sample must have them. When they are not, a sample is what it has: an
array that some samples lack is ragged, with no elements for those, or listed, with None for them.

Pure functions over an index; thread-safe.
"""

from __future__ import annotations

import difflib
import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from dataplane.datasets.selections import Selection, box_shape, whole
from dataplane.errors import ConfigError, FormatError
from dataplane.shards import DatasetIndex
from dataplane.shards.zarr_metadata import parse_dtype, parse_shape

__all__ = [
    "OFFSETS_SUFFIX",
    "Arrangement",
    "ArrayLayout",
    "ArraysArgument",
    "find_layouts",
    "joint_layouts",
    "resolve_selections",
]

OFFSETS_SUFFIX = ".offsets"

ArraysArgument: TypeAlias = Sequence[str] | Mapping[str, Selection] | None
"""Names of arrays, or a selection by name, or None for all arrays whole."""

_TORCH_DTYPES = frozenset(
    np.dtype(name)
    for name in (
        "bool",
        *("int8", "int16", "int32", "int64"),
        *("uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
    )
)


class Arrangement(enum.Enum):
    """Arrangement of the selections of the samples in a batch."""

    STACKED = "stacked"
    RAGGED = "ragged"
    LISTED = "listed"


@dataclass(frozen=True, slots=True)
class ArrayLayout:
    """One array in a batch.

    Attributes:
        name: name of the array.
        arrangement: arrangement; see the module's text.
        dtype: type of its elements; None when listed.
        shape: shape of a sample's selection; when ragged, without its first extent; empty when
            listed.
    """

    name: str
    arrangement: Arrangement
    dtype: np.dtype[Any] | None
    shape: tuple[int, ...]


def resolve_selections(arrays: ArraysArgument, known: Sequence[str]) -> dict[str, Selection]:
    """Turn the `arrays` argument into a selection by name.

    Raises:
        ConfigError: a name that no sample has, a name twice, or something that is no selection.
    """
    if arrays is None:
        return {name: whole() for name in known}
    if isinstance(arrays, str):
        raise ConfigError(
            f"arrays={arrays!r} is one string", hint=f"for one array write arrays=[{arrays!r}]"
        )
    chosen: dict[str, Selection]
    if not isinstance(arrays, Iterable):
        raise ConfigError(
            f"arrays must be names or a selection by name, got a value of type "
            f"{type(arrays).__name__}"
        )
    odd = next((name for name in list[object](arrays) if not isinstance(name, str)), None)
    if odd is not None:
        raise ConfigError(f"arrays must hold names, got {odd!r}", hint="see Dataset.array_names")
    if isinstance(arrays, Mapping):
        chosen = dict(arrays)
    else:
        chosen = {name: whole() for name in arrays}
        if len(chosen) != len(arrays):
            raise ConfigError(f"arrays names an array twice: {', '.join(arrays)}")
    if not chosen:
        raise ConfigError("arrays is empty: no array would be read")
    for name, selection in chosen.items():
        if name not in known:
            raise _unknown_array(name, known)
        if not isinstance(selection, Selection):
            raise ConfigError(
                f"arrays[{name!r}] is not a selection but {selection!r}",
                hint="use dataplane.whole()",
            )
    return chosen


def find_layouts(
    index: DatasetIndex, selections: Mapping[str, Selection], *, required: bool
) -> tuple[ArrayLayout, ...]:
    """Lay out the selected arrays by the forms that they have anywhere in the dataset.

    Args:
        index: index of the dataset.
        selections: selections by array name.
        required: whether a sample that lacks an array is an error.

    Raises:
        FormatError: an array has an element type that torch has none for.
    """
    found = index.array_forms()
    forms: dict[str, dict[tuple[np.dtype[Any], tuple[int, ...]], str]] = {}
    for name in selections:
        seen = forms[name] = {}
        for form in found.get(name, ()):
            key = index.keys[form.sample]
            where = f"sample {key!r}: array {name!r}"
            shape = parse_shape(form.shape, where, "shape", minimum=0)
            seen.setdefault((parse_dtype(form.dtype, where), shape), key)
    counts = index.sample_counts()
    partial = {name for name, count in counts.items() if count != len(index) and not required}
    return tuple(
        _layout(name, selection, forms[name], partial=name in partial)
        for name, selection in selections.items()
    )


def _layout(
    name: str,
    selection: Selection,
    forms: Mapping[tuple[np.dtype[Any], tuple[int, ...]], str],
    *,
    partial: bool,
) -> ArrayLayout:
    dtypes = set()
    for (dtype, _), key in forms.items():
        native = dtype.newbyteorder("=")
        if native not in _TORCH_DTYPES:
            raise FormatError(
                f"array {name!r} of sample {key!r} has the element type {dtype}, "
                "which torch does not have",
                hint="name the arrays to read with arrays=[...], without this one",
            )
        dtypes.add(native)
    shapes = {box_shape(selection.boxes(shape, draw=0)) for _, shape in forms}
    if len(dtypes) == 1:
        (dtype,) = dtypes
        if len(shapes) == 1 and not partial:
            return ArrayLayout(name, Arrangement.STACKED, dtype, next(iter(shapes)))
        tails = {shape[1:] for shape in shapes}
        if len(tails) == 1 and all(shapes):
            return ArrayLayout(name, Arrangement.RAGGED, dtype, next(iter(tails)))
    return ArrayLayout(name, Arrangement.LISTED, None, ())


def joint_layouts(layouts: Sequence[Sequence[ArrayLayout]]) -> tuple[ArrayLayout, ...]:
    """Lay out arrays over several datasets that have the same ones, in the same order."""
    return tuple(_joint(forms) for forms in zip(*layouts, strict=True))


def _joint(forms: Sequence[ArrayLayout]) -> ArrayLayout:
    first = forms[0]
    if all(form == first for form in forms):
        return first
    dtypes = {form.dtype for form in forms}
    # Without the first extent, which a stacked array still has.
    tails = {
        form.shape[1:] if form.arrangement is Arrangement.STACKED else form.shape for form in forms
    }
    scalar = any(form.arrangement is Arrangement.STACKED and not form.shape for form in forms)
    if None in dtypes or len(dtypes) > 1 or len(tails) > 1 or scalar:
        return ArrayLayout(first.name, Arrangement.LISTED, None, ())
    return ArrayLayout(first.name, Arrangement.RAGGED, first.dtype, tails.pop())


def _unknown_array(name: str, known: Sequence[str]) -> ConfigError:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    # A forgotten group is the usual mistake, and too far away for a spelling match.
    close += [other for other in known if other.split("/")[-1] == name and other not in close]
    if close:
        hint = f"did you mean {' or '.join(repr(other) for other in close)}?"
    else:
        hint = f"it has {', '.join(sorted(known)[:20])}"
    return ConfigError(f"the dataset has no array {name!r}", hint=hint)
