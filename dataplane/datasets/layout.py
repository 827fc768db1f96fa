"""Layout of the arrays of a dataset in a batch: stacked, ragged or listed.

The layout is a property of the *dataset*, found in its index, never of the samples that happen to
meet in a batch, so a training step sees the same structure every time:

- stacked: the selection has the same shape in all samples: one tensor `[B, ...]`.
- ragged: the first extent varies: one tensor `[sum of N, ...]` plus `<name>.offsets`, int64[B + 1];
  sample `b` is `[offsets[b], offsets[b + 1])`.
- listed: other extents, the number of dimensions or the element type vary: a list of B tensors.

Beside an array of which a random sample of elements is taken there is `<name>.weight`, float64[B]:
how many elements each one stands for.

When arrays are named, every sample must have them. When they are not, a sample is what it has: an
array that some samples lack is ragged, with no elements for those, or listed, with None for them.

Pure functions over an index; thread-safe.
"""

from __future__ import annotations

import contextlib
import difflib
import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from dataplane.datasets.array_forms import Permuted, forms_in
from dataplane.datasets.crops import CroppedDimension, cropped_dimensions
from dataplane.datasets.regions import check_padding
from dataplane.datasets.selections import (
    ArrayForm,
    Selection,
    WeightedSelection,
    checked_region,
    padding_of,
    region_shape,
    whole,
)
from dataplane.errors import ConfigError, FormatError
from dataplane.shards import DatasetIndex

__all__ = [
    "LENGTHS_SUFFIX",
    "OFFSETS_SUFFIX",
    "WEIGHT_SUFFIX",
    "Arrangement",
    "ArrayLayout",
    "ArraysArgument",
    "find_layouts",
    "joint_layouts",
    "resolve_selections",
]

OFFSETS_SUFFIX = ".offsets"
LENGTHS_SUFFIX = ".lengths"
WEIGHT_SUFFIX = ".weight"

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
        is_weighted: whether each element of it stands for several.
    """

    name: str
    arrangement: Arrangement
    dtype: np.dtype[Any] | None
    shape: tuple[int, ...]
    is_weighted: bool = False


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
                hint="use dataplane.whole(), crop(), points(), rows() or steps()",
            )
    return chosen


def find_layouts(
    index: DatasetIndex,
    selections: Mapping[str, Selection],
    *,
    required: bool,
    permuted: Permuted | None = None,
) -> tuple[ArrayLayout, ...]:
    """Lay out the selected arrays by the forms that they have anywhere in the dataset.

    Args:
        index: index of the dataset.
        selections: selections by array name.
        required: whether a sample that lacks an array is an error.
        permuted: what was permuted of each sample; None where no selection asks.

    Raises:
        FormatError: an array has an element type that torch has none for.
        ConfigError: a selection does not fit an array.
    """
    forms: dict[str, dict[tuple[np.dtype[Any], ArrayForm], str]] = {name: {} for name in selections}
    for name, seen in forms.items():
        for dtype, form, sample in forms_in(index, name, permuted):
            seen.setdefault((dtype, form), index.keys[sample])
    _check_labels(selections, forms)
    counts = index.sample_counts()
    partial = {name for name, count in counts.items() if count != len(index) and not required}
    layouts = tuple(
        _layout(name, selection, forms[name], partial=name in partial)
        for name, selection in selections.items()
    )
    for layout in layouts:
        taken = layout.name + WEIGHT_SUFFIX
        if layout.is_weighted and taken in selections:
            raise ConfigError(
                f"a batch has the weights of array {layout.name!r} under the name of array "
                f"{taken!r}",
                hint="read only one of the two, or read the first one whole",
            )
    return layouts


def _check_labels(
    selections: Mapping[str, Selection],
    forms: Mapping[str, Mapping[tuple[np.dtype[Any], ArrayForm], str]],
) -> None:
    """Refuse crops of arrays that would be at different places, where nothing would say so.

    Raises:
        ConfigError: of arrays that are cropped at random some have names of dimensions and some
            have none; or the extents of a crop go to other dimensions in one array than in another.
    """
    named: dict[type, str] = {}
    sizes: dict[tuple[object, str, int], tuple[int, str]] = {}
    for name, selection in selections.items():
        for _, form in forms[name]:
            cropped: list[CroppedDimension] = []
            with contextlib.suppress(ConfigError):  # said where the shape is asked for
                cropped += cropped_dimensions(selection, form)
            named |= {type(one.label): name for one in cropped if one.crop.is_random}
            for one in cropped:
                _check_size(sizes, one, name, form)
    if len(named) > 1:
        raise ConfigError(
            f"the dimensions of array {named[str]!r} have names and those of array {named[int]!r} "
            "have none, so random crops of both would be at different places",
            hint="name the dimensions when packing, or read one of them whole and crop it yourself",
        )


def _check_size(
    sizes: dict[tuple[object, str, int], tuple[int, str]],
    cropped: CroppedDimension,
    name: str,
    form: ArrayForm,
) -> None:
    """Compare the size of a crop along a dimension with what it is in other arrays.

    Raises:
        ConfigError: it is another one.
    """
    if not isinstance(cropped.label, str):
        return
    extent = form.shape[cropped.axis]
    size, other = sizes.setdefault((cropped.crop, cropped.label, extent), (cropped.size, name))
    if size != cropped.size:
        raise ConfigError(
            f"a crop would take {size} of {extent} elements along dimension {cropped.label} of "
            f"array {other!r} and {cropped.size} of array {name!r}, whose dimensions are in "
            f"another order: it is {form.described}",
            hint='name the dimensions of the crop: dp.crop({"z": 64, "y": 32, "x": 32})',
        )


def _layout(
    name: str,
    selection: Selection,
    forms: Mapping[tuple[np.dtype[Any], ArrayForm], str],
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
    shapes = {_shape(selection, form, key) for (_, form), key in forms.items()}
    for dtype in dtypes:
        check_padding(padding_of(selection), dtype, name)
    is_weighted = isinstance(selection, WeightedSelection) and any(
        selection.weight(form) is not None for _, form in forms
    )
    if len(dtypes) == 1:
        (dtype,) = dtypes
        if len(shapes) == 1 and not partial:
            shape = next(iter(shapes))
            return ArrayLayout(name, Arrangement.STACKED, dtype, shape, is_weighted)
        tails = {shape[1:] for shape in shapes}
        if len(tails) == 1 and all(shapes):
            return ArrayLayout(name, Arrangement.RAGGED, dtype, next(iter(tails)), is_weighted)
    return ArrayLayout(name, Arrangement.LISTED, None, (), is_weighted)


def _shape(selection: Selection, form: ArrayForm, key: str) -> tuple[int, ...]:
    """Return the shape of what is selected of an array.

    Raises:
        ConfigError: the selection does not fit it.
    """
    try:
        return region_shape(checked_region(selection.region(form, draw=0), form, selection))
    except ConfigError as err:
        raise ConfigError(f"sample {key!r}: {err.message}", hint=err.hint) from None


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
    is_weighted = any(form.is_weighted for form in forms)
    if None in dtypes or len(dtypes) > 1 or len(tails) > 1 or scalar:
        return ArrayLayout(first.name, Arrangement.LISTED, None, (), is_weighted)
    return ArrayLayout(first.name, Arrangement.RAGGED, first.dtype, tails.pop(), is_weighted)


def _unknown_array(name: str, known: Sequence[str]) -> ConfigError:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    # A forgotten group is the usual mistake, and too far away for a spelling match.
    close += [other for other in known if other.split("/")[-1] == name and other not in close]
    if close:
        hint = f"did you mean {' or '.join(repr(other) for other in close)}?"
    else:
        hint = f"it has {', '.join(sorted(known)[:20])}"
    return ConfigError(f"the dataset has no array {name!r}", hint=hint)
