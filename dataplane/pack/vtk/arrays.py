"""Arrays of VTK as arrays of a sample: values, names, units. Reads no file.

Values are VTK's own memory seen through NumPy: no copy, no change of type, VTK's order (x fastest)
given a shape and not permuted. Text cannot be a Zarr array; it goes to the sample's attributes, up
to a limit, beyond which only its name and size are kept. Thread-safe: no state.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.errors import FormatError
from dataplane.pack.names import FreeNames, array_segment
from dataplane.pack.source import Converted
from dataplane.shards import SourceArray

__all__ = ["ArrayGroup", "add_arrays", "values_of"]


@dataclass(frozen=True, slots=True)
class ArrayGroup:
    """Prefix and shape of the arrays of one attribute set.

    Attributes:
        prefix: prefix of their names: `point_data`, `fields`, …
        tuples: number of tuples that each array must have, or None for any.
        shape: shape of one component; None to keep the tuples as one dimension.
        dimension_names: a name per dimension of `shape`.
        attributes: attributes of each array.
    """

    prefix: str
    tuples: int | None
    shape: tuple[int, ...] | None
    dimension_names: tuple[str, ...] | None
    attributes: dict[str, Any] = field(default_factory=dict)


def values_of(array: Any) -> npt.NDArray[Any]:
    """Return the values of a vtkDataArray: [tuples] or [tuples, components]."""
    from vtkmodules.util.numpy_support import vtk_to_numpy
    from vtkmodules.vtkCommonCore import vtkUnsignedCharArray

    if array.IsA("vtkBitArray") and array.GetNumberOfComponents() > 1:
        # As it gives those of one component.
        unpacked = vtkUnsignedCharArray()
        unpacked.DeepCopy(array)
        array = unpacked
    values: npt.NDArray[Any] = np.asarray(vtk_to_numpy(array))
    return values


def add_arrays(converted: Converted, collection: Any, group: ArrayGroup, label: str) -> None:
    """Add the arrays of a vtkFieldData (or vtkDataSetAttributes) to a sample.

    Raises:
        FormatError: an array does not have as many tuples as the mesh has points or cells.
    """
    roles = dict(_roles(collection))
    free_names = FreeNames(converted.arrays, "{}~{}")
    for number in range(collection.GetNumberOfArrays()):
        array = collection.GetAbstractArray(number)
        original = _utf8(array.GetName() or "", label)
        path = f"{group.prefix}/{array_segment(original)}"
        if path in converted.arrays:
            path = free_names.find(path)
        if array.IsA("vtkStringArray"):
            text = [_utf8(array.GetValue(i), label) for i in range(array.GetNumberOfValues())]
            converted.add_text(path, text)
            continue
        if not array.IsA("vtkDataArray"):
            raise FormatError(
                f"{label}: array {original!r} is a {array.GetClassName()}, which has no numbers"
            )
        tuples = array.GetNumberOfTuples()
        if group.tuples is not None and tuples != group.tuples:
            raise FormatError(
                f"{label}: array {original!r} has {tuples} tuples, expected {group.tuples}"
            )
        attributes = {"name": original, **group.attributes, **_details(array, label)}
        if number in roles:
            attributes["vtk_role"] = roles[number]
        converted.arrays[path] = _source_array(array, group, attributes)


def _source_array(array: Any, group: ArrayGroup, attributes: dict[str, Any]) -> SourceArray:
    values = values_of(array)
    names = group.dimension_names
    if group.shape is not None:
        values = values.reshape(*group.shape, *values.shape[1:])
    if names is not None and values.ndim > len(names):
        names = (*names, "c")
    return SourceArray(values, names, _units(array), attributes)


def _details(array: Any, label: str) -> dict[str, Any]:
    """Component names, where the file gives them."""
    count = array.GetNumberOfComponents()
    if not array.HasAComponentName():
        return {}
    names = [_utf8(array.GetComponentName(i) or "", label) for i in range(count)]
    return {"components": names}


def _utf8(text: str | bytes, label: str) -> str:
    """A text of VTK, which gives bytes where they are no UTF-8."""
    if isinstance(text, bytes):
        raise FormatError(f"{label}: its text {text[:40].decode('latin-1')!r} is no UTF-8")
    return text


def _units(array: Any) -> str | None:
    from vtkmodules.vtkCommonCore import vtkDataArray

    key = vtkDataArray.UNITS_LABEL()
    if not array.HasInformation() or not array.GetInformation().Has(key):
        return None
    return array.GetInformation().Get(key) or None


def _roles(collection: Any) -> Iterator[tuple[int, str]]:
    """Roles of arrays (scalars, vectors, normals, …) by number."""
    if not collection.IsA("vtkDataSetAttributes"):
        return
    for number in range(collection.GetNumberOfArrays()):
        kind = collection.IsArrayAnAttribute(number)
        if kind >= 0:
            yield number, str(collection.GetAttributeTypeAsString(kind))
