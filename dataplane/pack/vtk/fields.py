"""Field data of the files of one dataset, put together into a small file of its own.

Field data belongs to the whole: its arrays may lie in a parallel file, in some of its pieces (in
those without points, too) or in all of them, and VTK takes those of one piece and drops the others.
So they are decoded here and compared, and VTK is given each of them once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataplane.errors import FormatError
from dataplane.pack.vtk.agreement import shown
from dataplane.pack.vtk.attributes import parse_count, parse_offset, values_are_base64
from dataplane.pack.vtk.binary import BinaryFormat, encoded
from dataplane.pack.vtk.check import DTYPES, ArrayType, CheckedFile, decoded_values
from dataplane.pack.vtk.rewrite import tag
from dataplane.pack.vtk.xml import ArrayElement, Content, Document

__all__ = ["write_fields"]

_FORM = BinaryFormat(np.dtype("<u8"), "<", None)
_END = re.compile(rb"</(?:\w+:)?(?:Data)?Array\b")
_HEAD = (
    b'<VTKFile type="PolyData" version="1.0" byte_order="LittleEndian" header_type="UInt64">'
    b"<PolyData><FieldData>"
)
_TAIL = (
    b'</FieldData><Piece NumberOfPoints="1"><Points><DataArray type="Float32" '
    b'NumberOfComponents="3" format="ascii">0 0 0</DataArray></Points></Piece>'
    b"</PolyData></VTKFile>"
)


@dataclass(frozen=True, slots=True)
class _Field:
    """An array of field data: values in little-endian order, and their owner."""

    kind: ArrayType
    tuples: int
    values: bytes
    owner: str


def write_fields(
    files: Sequence[tuple[CheckedFile, str]], label: str, stack: ExitStack
) -> tuple[dict[str, ArrayType], Path | None]:
    """Write the field data of checked files, each given with its name in messages.

    Returns:
        The arrays, and a file that lives as long as the stack; None where there are no arrays.

    Raises:
        FormatError: two files have different arrays of one name.
    """
    found: dict[str, _Field] = {}
    elements: list[bytes] = []
    for file, owner in files:
        group = file.document.groups.get("FieldData")
        for (name, kind), array in zip(
            file.field_types.items(), group.arrays if group else (), strict=True
        ):
            try:
                field = _decoded(file.document, array, kind, owner)
            except ValueError as err:
                raise FormatError(f"{label}: array {name!r} of FieldData: {err}") from None
            known = found.setdefault(name, field)
            if known is field:
                elements.append(_element(file.document.content, name, array, field))
            elif (known.kind, known.tuples, known.values) != (kind, field.tuples, field.values):
                raise FormatError(
                    f"{label}: array {name!r} of FieldData is {_described(known)} in "
                    f"{known.owner} and {_described(field)} in {owner}; expected one and the same"
                )
    if not found:
        return {}, None
    handle = os.memfd_create("dataplane-vtk-fields")
    stack.callback(os.close, handle)
    with open(handle, "wb", closefd=False) as stream:
        stream.writelines([_HEAD, *elements, _TAIL])
    return {name: field.kind for name, field in found.items()}, Path(f"/proc/self/fd/{handle}")


def _decoded(document: Document, array: ArrayElement, kind: ArrayType, owner: str) -> _Field:
    values = decoded_values(document, array, owner)
    count = len(values)
    if kind.type == "Bit":
        if parse_offset(array.attributes) is None and not values_are_base64(array.attributes):
            values = np.packbits(values)
        else:
            count *= 8
    data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    if kind.type == "String":
        count = data.count(b"\0")
    tuples = parse_count(array.attributes.get("NumberOfTuples", ""))
    return _Field(kind, count // kind.components if tuples is None else tuples, data, owner)


def _element(content: Content, name: str, array: ArrayElement, field: _Field) -> bytes:
    dropped = {"offset", "format"}
    attributes = {key: text for key, text in array.attributes.items() if key not in dropped}
    attributes |= {
        "Name": name,
        "NumberOfComponents": str(field.kind.components),
        "NumberOfTuples": str(field.tuples),
        "format": "binary",
    }
    element = "Array" if field.kind.type == "String" else "DataArray"
    values = encoded(field.values, _FORM)
    keys = b""
    if content[array.body_start - 2 : array.body_start] != b"/>":
        found = _END.search(content, array.body_stop)
        keys = content[array.body_stop : found.start()] if found else b""
    return tag(element, attributes) + values + keys + f"</{element}>".encode()


def _described(field: _Field) -> str:
    if field.tuples * field.kind.components > 4 or field.kind.type not in DTYPES:
        return f"{field.tuples} tuples of {shown(field.kind)}"
    values = np.frombuffer(field.values, DTYPES[field.kind.type])
    return f"{shown(field.kind)} {' '.join(map(str, values.tolist()))}"
