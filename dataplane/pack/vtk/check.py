"""Check of one VTK XML file before VTK reads it: every array holds as many values as declared.

Per array, the number of values that the piece needs (its points or cells times components) is
compared with what the file holds: the length words and block tables of binary values, the tokens of
ASCII values. Values are not decoded for that, and appended raw data is only looked at where its
length words are. Parts that VTK is known to read wrongly although the file is right are edited:

- base64 broken into lines is joined; NaN and infinities in ASCII become base64;
- arrays without a name, and further arrays of one name, get names of their own until they are read,
  and so do those that VTK would give other values for their name (`vtkGhostLevels`);
- comments between values, and groups without arrays beside others of their name, are left out;
- field data without a number of tuples gets it;
- `>` in an attribute is escaped, since VTK looks for the end of a tag by it.

Thread-safe: no state.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from dataplane.errors import FormatError
from dataplane.pack.names import FreeNames
from dataplane.pack.vtk.attributes import (
    parse_components,
    parse_count,
    parse_offset,
    values_are_base64,
)
from dataplane.pack.vtk.binary import BinaryFormat, Run, decoded_bytes, encoded, stored_bytes
from dataplane.pack.vtk.pieces import CELL_LISTS, PieceSize, piece_size
from dataplane.pack.vtk.rewrite import Edits, tag
from dataplane.pack.vtk.text import count_numbers, parse_numbers
from dataplane.pack.vtk.xml import ArrayElement, Content, Document, Group, Piece, appended_range

__all__ = [
    "CONVERTED",
    "DTYPES",
    "KINDS",
    "ArrayType",
    "CheckedFile",
    "CheckedPiece",
    "check_file",
    "decoded_values",
]

KINDS = ("ImageData", "PolyData", "RectilinearGrid", "StructuredGrid", "UnstructuredGrid")
DTYPES = {
    f"{name}{8 * size}": f"{code}{size}"
    for name, code, sizes in (
        ("Int", "i", (1, 2, 4, 8)),
        ("UInt", "u", (1, 2, 4, 8)),
        ("Float", "f", (4, 8)),
    )
    for size in sizes
}
_SPACE = b" \t\r\n\v\f"
_COMMENT = re.compile(rb"<!--.*?-->", re.DOTALL)
CONVERTED = frozenset({"vtkGhostLevels"})
"""Names of old files by which VTK renames arrays and folds their values (to `vtkGhostType`)."""
_Body: TypeAlias = tuple[str, bytes]
"""Values that are put in the place of others, after the name of their format."""
_ANY = None
"""For arrays whose number of values only other arrays give; compared after the read."""


@dataclass(frozen=True, slots=True)
class ArrayType:
    """Type of values as VTK's XML calls it, and components."""

    type: str
    components: int


@dataclass(slots=True)
class CheckedPiece:
    """A piece: its size, the types of its named arrays, and the lengths of its cell arrays."""

    size: PieceSize
    start: int
    stop: int
    types: dict[str, dict[str, ArrayType]] = field(default_factory=dict)
    cell_lengths: dict[tuple[str, str], int] = field(default_factory=dict)


@dataclass(slots=True)
class CheckedFile:
    """A file that holds what it declares.

    Attributes:
        field_types: types of the arrays of its field data.
        edits: changes to be made before VTK reads it.
        names: per group, the name that an array has while VTK reads it to its own name.
    """

    document: Document
    kind: str
    pieces: list[CheckedPiece] = field(default_factory=list)
    field_types: dict[str, ArrayType] = field(default_factory=dict)
    edits: Edits = field(default_factory=Edits)
    names: dict[str, dict[str, str]] = field(default_factory=dict)


def check_file(document: Document, label: str) -> CheckedFile:
    """Check the arrays of a file; of a parallel one, those of its field data.

    Raises:
        FormatError: an array does not hold what the file declares.
    """
    return _Check(document, label).run()


def decoded_values(document: Document, array: ArrayElement, label: str) -> npt.NDArray[Any]:
    """Decode an array of a file that was checked: of texts their codes, of bits whole bytes.

    Bits of ASCII come one by one.

    Raises:
        ValueError: its values cannot be decompressed.
    """
    return _Check(document, label).decoded(array)


class _Check:
    """State of one check: the file's format and the findings so far."""

    def __init__(self, document: Document, label: str) -> None:
        self._document = document
        self._content = document.content
        self._label = label
        self._form = BinaryFormat.of(document, label)
        self._checked = CheckedFile(document, document.kind)
        self._appended: tuple[int, int] | None = None

    def run(self) -> CheckedFile:
        for start, stop in self._document.surplus:
            self._checked.edits.replace(start, stop, b"")
        fields = self._document.groups.get("FieldData")
        if fields is not None:
            self._checked.field_types = self._attribute_group(fields, None, self._label)
        if self._document.kind not in KINDS:  # a parallel file, whose pieces are files
            return self._checked
        for number, piece in enumerate(self._document.pieces):
            several = len(self._document.pieces) > 1
            label = f"{self._label}: piece {number}" if several else self._label
            self._checked.pieces.append(self._piece(piece, label))
        return self._checked

    def _piece(self, piece: Piece, label: str) -> CheckedPiece:
        kind = self._document.kind
        size = piece_size(kind, piece.attributes, len(self._content), label)
        checked = CheckedPiece(size, piece.start, piece.stop)
        for name, group in piece.groups.items():
            if name == "PointData":
                checked.types[name] = self._attribute_group(group, size.points, label)
            elif name == "CellData":
                checked.types[name] = self._attribute_group(group, size.cells, label)
            elif name == "Points":
                checked.types[name] = self._points(group, size, label)
            elif name == "Coordinates":
                checked.types[name] = self._coordinates(group, size, label)
            elif name in CELL_LISTS.get(kind, ()):
                self._cells(group, size.lists[name], checked, label)
        return checked

    def _attribute_group(
        self, group: Group, tuples: int | None, label: str
    ) -> dict[str, ArrayType]:
        """Check PointData, CellData or (with no number of tuples) FieldData."""
        types: dict[str, ArrayType] = {}
        taken = {array.name for array in group.arrays}
        free_names = FreeNames(taken, "{} (array {})")
        for array in group.arrays:
            changes = {}
            name = array.name
            if not name or name in types or name in CONVERTED:
                name = free_names.find(name or "unnamed")
                taken.add(name)
                self._checked.names.setdefault(group.name, {})[name] = array.name
                changes["Name"] = name
            shown = f"{label}: array {array.name!r}"
            types[name] = found = _array_type(array, shown)
            if tuples is not None:
                self._values(array, tuples * found.components, changes, shown)
            else:
                self._field_values(array, found, changes, shown)
        return types

    def _field_values(
        self, array: ArrayElement, found: ArrayType, changes: dict[str, str], label: str
    ) -> None:
        tuples = parse_count(array.attributes.get("NumberOfTuples", ""))
        if tuples is not None:
            self._values(array, tuples * found.components, changes, label)
            return
        values = self._values(array, _ANY, {**changes, "NumberOfTuples": "0"}, label, dry=True)
        if values % found.components:
            raise FormatError(f"{label}: {values} values for {found.components} components")
        changes["NumberOfTuples"] = str(values // found.components)
        self._values(array, values, changes, label)

    def _points(self, group: Group, size: PieceSize, label: str) -> dict[str, ArrayType]:
        for array in group.arrays[:1]:
            found = _array_type(array, f"{label}: its points")
            if found.components != 3:
                raise FormatError(
                    f"{label}: points need 3 components, got {found.components}",
                    hint="write x, y and z of each point; z may be 0",
                )
            self._values(array, 3 * size.points, {}, f"{label}: its points")
            return {"Points": found}
        if size.points:
            raise FormatError(f"{label}: it has {size.points} points and no array of them")
        return {}

    def _coordinates(self, group: Group, size: PieceSize, label: str) -> dict[str, ArrayType]:
        if len(group.arrays) != 3:
            raise FormatError(f"{label}: it has {len(group.arrays)} arrays of coordinates, not 3")
        types = {}
        for axis, array, count in zip("xyz", group.arrays, size.axes, strict=True):
            shown = f"{label}: its {axis} coordinates"
            types[axis] = _array_type(array, shown)
            self._values(array, count, {}, shown)
        return types

    def _cells(self, group: Group, cells: int, checked: CheckedPiece, label: str) -> None:
        counted = {"offsets": cells, "types": cells, "connectivity": _ANY if cells else 0}
        for array in group.arrays:
            shown = f"{label}: array {array.name!r} of {group.name}"
            _array_type(array, shown)
            values = self._values(array, counted.get(array.name, _ANY), {}, shown, of_cells=True)
            tuples = array.attributes.get("NumberOfTuples", str(values)).strip()
            if tuples != str(values):
                raise FormatError(f"{shown}: expected {tuples[:40]} values, got {values}")
            if (group.name, array.name) in checked.cell_lengths:
                raise FormatError(f"{shown} is there twice")
            checked.cell_lengths[group.name, array.name] = values

    def _values(
        self,
        array: ArrayElement,
        expected: int | None,
        changes: Mapping[str, str],
        label: str,
        *,
        dry: bool = False,
        of_cells: bool = False,
    ) -> int:
        """Count the values of an array, compare, and edit it where VTK would read it wrongly."""
        try:
            body, count = self._count(array, expected)
            fits = expected is None or count == expected
            fits = fits or (of_cells and self._says_no_more(array, expected or 0, count))
        except ValueError as err:
            raise FormatError(f"{label}: {err}") from None
        if not fits:
            raise FormatError(f"{label}: expected {expected} values, got {count}")
        if not dry and (body is not None or changes or self._hides_tag_end(array)):
            self._edit(array, changes, body)
        return count

    def _says_no_more(self, array: ArrayElement, expected: int, count: int) -> bool:
        """Whether an array of cells that is too long says no more than its beginning.

        pyevtk writes as many types as there are points, all of them equal; and the offsets of no
        cells may begin with 0 as those of VTK's memory do.
        """
        if array.attributes["type"] not in DTYPES:
            return False
        if array.name == "types" and 0 < expected < count:
            values = self.decoded(array)
            return bool(np.all(values == values[0]))
        if array.name == "offsets" and not expected and count == 1:
            return not self.decoded(array).any()
        return False

    def decoded(self, array: ArrayElement) -> npt.NDArray[Any]:
        """The values of an array whose text was counted."""
        attributes = array.attributes
        dtype = np.dtype(DTYPES.get(attributes["type"], "u1"))
        offset = parse_offset(attributes)
        if offset is None and not values_are_base64(attributes):
            return parse_numbers(*self._text(array), dtype)
        run = self._inline_run(array)[0] if offset is None else self._appended_run(offset, _ANY)
        stored = np.dtype(self._form.byte_order + dtype.str[1:])
        values = decoded_bytes(run, self._form) if run.start < run.stop else b""
        return np.frombuffer(values, stored)

    def _count(self, array: ArrayElement, expected: int | None) -> tuple[_Body | None, int]:
        """Return the number of values, and the values to replace them with or None."""
        kind = array.attributes.get("type", "")
        offset = parse_offset(array.attributes)
        if offset is not None:
            return None, self._binary_count(self._appended_run(offset, expected), kind, expected)
        if not values_are_base64(array.attributes):
            return self._ascii_count(array, kind)
        run, joined = self._inline_run(array)
        return joined, self._binary_count(run, kind, expected)

    def _binary_count(self, run: Run, kind: str, expected: int | None) -> int:
        if run.exact and run.start == run.stop:
            return 0
        size_bytes = stored_bytes(run, self._form)
        if kind == "String":
            return decoded_bytes(run, self._form).count(b"\0")
        if kind == "Bit":
            return _bits(size_bytes, expected)
        values, rest = divmod(size_bytes, np.dtype(DTYPES[kind]).itemsize)
        if rest:
            raise ValueError(f"it holds {size_bytes} bytes, which are no whole number of {kind}")
        return values

    def _text(self, array: ArrayElement) -> tuple[Content, int, int]:
        """Place of the text of an array; comments in it are taken out of a copy."""
        start, stop = array.body_start, array.body_stop
        if self._content.find(b"<!--", start, stop) < 0:
            return self._content, start, stop
        text = _COMMENT.sub(b"", bytes(self._content[start:stop]))
        return text, 0, len(text)

    def _inline_run(self, array: ArrayElement) -> tuple[Run, _Body | None]:
        content, start, stop = self._text(array)
        text = bytes(content[start:stop]).strip(_SPACE)
        joined = text.translate(None, _SPACE)
        run = Run(joined, 0, len(joined), base64=True, exact=True)
        is_edited = content is not self._content or len(joined) < len(text)
        return run, ("binary", joined) if is_edited else None

    def _appended_run(self, offset: int, expected: int | None) -> Run:
        """Place of appended values; an empty one where an empty array has none."""
        if self._appended is None:
            self._appended = appended_range(self._document)
        start, stop = self._appended
        start += offset
        if start >= stop and expected == 0:
            return Run(b"", 0, 0, base64=False, exact=True)
        return Run(self._content, start, stop, self._document.encoding == "base64", exact=False)

    def _ascii_count(self, array: ArrayElement, kind: str) -> tuple[_Body | None, int]:
        content, start, stop = self._text(array)
        body = None if content is self._content else ("ascii", content[start:stop])
        if kind == "String":
            codes = parse_numbers(content, start, stop, np.dtype("u1"))
            if len(codes) and codes[-1]:
                raise ValueError("its last text is cut")
            return body, int(np.count_nonzero(codes == 0))
        dtype = np.dtype("u1" if kind == "Bit" else DTYPES[kind])
        count = count_numbers(content, start, stop, dtype)
        if count is not None:
            return body, count
        values = parse_numbers(content, start, stop, dtype)
        if dtype.kind != "f":
            return body, len(values)
        ordered = values.astype(self._form.byte_order + dtype.str[1:], copy=False)
        return ("binary", encoded(ordered.tobytes(), self._form)), len(values)

    def _hides_tag_end(self, array: ArrayElement) -> bool:
        return self._content.find(b">", array.tag_start, array.body_start) != array.body_start - 1

    def _edit(self, array: ArrayElement, changes: Mapping[str, str], body: _Body | None) -> None:
        attributes = {**array.attributes, **changes}
        if "NumberOfComponents" in attributes:
            attributes["NumberOfComponents"] = str(parse_components(attributes))
        name = "Array" if attributes.get("type") == "String" else "DataArray"
        closed = self._content[array.body_start - 2 : array.body_start] == b"/>"
        text, stop = b"", array.body_start
        if body is not None:
            (attributes["format"], text), stop = body, array.body_stop
        self._checked.edits.replace(
            array.tag_start, stop, tag(name, attributes, closed=closed) + text
        )


def _bits(size_bytes: int, expected: int | None) -> int:
    """Bits fill whole bytes, so their number can only be compared with an expected one."""
    fits = expected is not None and size_bytes == -(-expected // 8)
    return expected if fits and expected is not None else 8 * size_bytes


def _array_type(array: ArrayElement, label: str) -> ArrayType:
    kind = array.attributes.get("type", "")
    if kind not in DTYPES and kind not in {"String", "Bit"}:
        raise FormatError(
            f"{label}: its type is {kind!r}, expected one of {', '.join(DTYPES)} and String"
        )
    components = parse_components(array.attributes)
    if components is None:
        text = array.attributes["NumberOfComponents"]
        raise FormatError(f"{label}: its number of components is {text[:40]!r}")
    return ArrayType(kind, components)
