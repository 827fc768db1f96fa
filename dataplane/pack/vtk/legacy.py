"""Check of a legacy VTK file: all that it announces is there, and nothing else. Converts nothing.

VTK's reader of legacy files does not notice when a file ends early: the arrays keep what happened
to be in memory. Nor does it compare what a header asks for with the file before allocating. So the
file is walked first, section by section: keyword, counts, type, and over the data by its size or,
in text files, value by value. Unknown sections are refused, since data of unknown length cannot be
stepped over. The walk remembers the arrays that VTK's output must have (`legacy_confirm`), and the
places of their names. The file is mapped, not loaded. Thread-safe: no state.

Source: VTK File Formats, "Simple Legacy Formats", and the sections that VTK's writer adds to them
(versions 4.2 and 5.1: METADATA, OFFSETS, CONNECTIVITY, long strings).
"""

from __future__ import annotations

import math
import mmap
import re
from dataclasses import dataclass, field
from pathlib import Path

from dataplane.pack.vtk.legacy_metadata import step_over_metadata
from dataplane.pack.vtk.legacy_text import LegacyText
from dataplane.pack.vtk.rewrite import Edits

__all__ = ["CellList", "LegacyArray", "LegacyFile", "check_legacy"]

_VALUES_PER_TUPLE = {
    **dict.fromkeys((b"global_ids", b"pedigree_ids", b"edge_flags"), 1),
    **dict.fromkeys((b"vectors", b"normals"), 3),
    b"tensors": 9,
    b"tensors6": 6,
}
_CELL_LISTS = frozenset({b"cells", b"vertices", b"lines", b"polygons", b"triangle_strips"})
_PLACES = {b"point_data": "PointData", b"cell_data": "CellData"}
_COORDINATES = (b"x_coordinates", b"y_coordinates", b"z_coordinates")
_KINDS = {
    b"structured_points": (b"dimensions",),
    b"structured_grid": (b"dimensions", b"points"),
    b"rectilinear_grid": (b"dimensions", *_COORDINATES),
    b"unstructured_grid": (b"points",),
    b"polydata": (b"points",),
}
"""Sections that each kind of dataset must have. Other kinds are no meshes or grids."""
_ONCE = frozenset(
    {b"dataset", b"points", b"cell_types", b"dimensions"}
    | {b"origin", b"spacing", b"aspect_ratio"}
    | {*_COORDINATES, *_CELL_LISTS}
)
_SAME = {b"extent": b"dimensions"}
_VERSION = re.compile(rb"# vtk DataFile Version +(\d{1,3})\.(\d{1,3})(?:[.\s].*)?")
_CELL_ARRAYS_VERSION = (5, 0)
"""From this version on cells are two arrays, before it one list of counts and point numbers."""
_UNKNOWN_VERSION = (6, 0)
_MOST_COMPONENTS = 1 << 16
_FLOATS = frozenset({b"float", b"double"})
_MOST_SIZE = 1 << 31


@dataclass(frozen=True, slots=True)
class LegacyArray:
    """An array: the part of the dataset that it belongs to, and the bytes and place of its name.

    VTK is given one tuple of zeros where the file has none (`emptied`).
    """

    place: str
    name: bytes
    start: int
    emptied: bool = False


@dataclass(frozen=True, slots=True)
class CellList:
    """One list of cells: the number of cells, and of their point numbers together."""

    cells: int
    corners: int


@dataclass(slots=True)
class LegacyFile:
    """The announced content of a file."""

    version: tuple[int, int] = (0, 0)
    kind: bytes = b""
    sizes: tuple[int, ...] = ()
    points: int | None = None
    coordinates: list[int] = field(default_factory=list)
    lists: dict[bytes, CellList] = field(default_factory=dict)
    cell_types: int | None = None
    arrays: list[LegacyArray] = field(default_factory=list)
    edits: Edits = field(default_factory=Edits)
    """Changes to the file that VTK is given."""


def check_legacy(path: Path, label: str) -> LegacyFile:
    """Check that a legacy VTK file holds its announced content, and return that.

    Raises:
        FormatError: it ends early, or has a section that is not known.
    """
    with (
        path.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY) as content,
    ):
        return _Walk(LegacyText(content, label)).run()


class _Walk:
    """The sections of a file, in their order. Used once."""

    def __init__(self, text: LegacyText) -> None:
        self._text = text
        self._file = LegacyFile()
        self._place = "FieldData"
        self._tuples = 0
        self._cell_arrays = (0, 0)
        self._seen: set[bytes] = set()
        self._spacing: list[float] | None = None
        self._components = 0  # of the last array

    def run(self) -> LegacyFile:
        text = self._text
        found = _VERSION.fullmatch(text.line())
        if found is None:
            raise text.error("has no version in its first line")
        self._file.version = (int(found.group(1)), int(found.group(2)))
        if self._file.version >= _UNKNOWN_VERSION:
            raise text.error(f"has the unknown version {found.group(1).decode()}")
        text.line()
        encoding = text.word("ASCII or BINARY").upper()
        if encoding not in {b"ASCII", b"BINARY"}:
            raise text.error("is neither ASCII nor BINARY after its title")
        text.binary = encoding == b"BINARY"
        while text.skip_space():
            self._section(text.word().lower())
        text.check_end()
        self._check_whole()
        return self._file

    def _section(self, keyword: bytes) -> None:
        text, file = self._text, self._file
        once = _SAME.get(keyword, keyword)
        if once in self._seen:
            raise text.error(f"has a second section {text.shown(keyword)}")
        if once in _ONCE:
            self._seen.add(once)
        if keyword in _PLACES:
            self._place, self._tuples = _PLACES[keyword], text.count()
        elif keyword == b"field":
            text.word()
            for _ in range(text.count()):
                self._field_array()
        elif keyword == b"metadata":
            step_over_metadata(text, self._components, file.edits)
        elif keyword in _CELL_LISTS or keyword in {b"offsets", b"connectivity", b"cell_types"}:
            self._cells(keyword)
        elif self._place == "FieldData":
            self._geometry(keyword)
        else:
            self._attribute(keyword)
        if keyword == b"dataset" and not file.kind:
            raise text.error("has no dataset")

    def _geometry(self, keyword: bytes) -> None:
        text, file = self._text, self._file
        if keyword == b"dataset":
            kind = text.word("the kind of the dataset")
            if kind.lower() not in _KINDS:
                raise text.error(f"has the dataset {text.shown(kind)}, which is no mesh or grid")
            file.kind = kind.lower()
        elif keyword == b"dimensions":
            file.sizes = (text.count(), text.count(), text.count())
        elif keyword == b"extent":
            bounds = [int(number) for number in text.numbers(6, "i4")]
            pairs = zip(bounds[::2], bounds[1::2], strict=True)
            file.sizes = tuple(high - low + 1 for low, high in pairs)
        elif keyword == b"origin":
            text.numbers(3, "f8")
        elif keyword in {b"spacing", b"aspect_ratio"}:
            spacing = text.numbers(3, "f8")
            if self._spacing is not None and self._spacing != spacing:
                raise text.error(f"has the spacings {self._spacing} and {spacing}")
            self._spacing = spacing
        elif keyword in _COORDINATES:
            file.coordinates.append(text.count())
            self._values(1, file.coordinates[-1], text.word())
        elif keyword == b"points":
            file.points = text.count()
            self._values(3, file.points, text.word())
        else:
            raise text.error(f"has an unknown section {text.shown(keyword)}")

    def _cells(self, keyword: bytes) -> None:
        text, file = self._text, self._file
        if keyword == b"cell_types":
            file.cell_types = text.count()
            self._values(1, file.cell_types, b"int", limits=(0, 255))
        elif keyword in _CELL_LISTS:
            first, second = self._cell_arrays = (text.count(), text.count())
            if file.version < _CELL_ARRAYS_VERSION:
                if second < first:
                    raise text.error(f"has {second} numbers for {first} cells")
                file.lists[keyword] = CellList(first, second - first)
                text.values(second, b"int")
            else:
                file.lists[keyword] = CellList(max(0, first - 1), second)
        else:
            type_name = text.word()
            if type_name.lower() in {b"float", b"double", b"bit", b"string", b"utf8_string"}:
                raise text.error(f"has {text.shown(keyword)} that are no integers")
            self._values(1, self._cell_arrays[keyword == b"connectivity"], type_name)

    def _attribute(self, keyword: bytes) -> None:
        text = self._text
        if keyword == b"lookup_table":
            text.word()
            text.values(4 * text.count(), b"unsigned_char" if text.binary else b"float")
            return
        known = {b"scalars", b"color_scalars", b"texture_coordinates", *_VALUES_PER_TUPLE}
        if keyword not in known:
            raise text.error(f"has an unknown section {text.shown(keyword)}")
        self._name()
        limits = None
        if keyword == b"scalars":
            type_name, components = self._scalars()
        elif keyword == b"color_scalars":
            components = text.count()
            type_name = b"unsigned_char" if text.binary else b"float"
            limits = None if text.binary else (0, 1)
        elif keyword == b"texture_coordinates":
            components, type_name = text.count(), text.word()
        else:
            components, type_name = _VALUES_PER_TUPLE[keyword], text.word()
        if components < 1:
            raise text.error("has an array without components")
        self._values(components, self._tuples, type_name, limits=limits)

    def _values(
        self, components: int, tuples: int, type_name: bytes, limits: tuple[int, int] | None = None
    ) -> None:
        self._components = components
        self._text.values(components * tuples, type_name, limits=limits)

    def _scalars(self) -> tuple[bytes, int]:
        text = self._text
        type_name = text.word()
        words = text.line().split()
        if len(words) > 1 or any(not word.isdigit() or len(word) > 9 for word in words):
            raise text.error(f"has {text.shown(b' '.join(words))} where a number belongs")
        table = text.word("LOOKUP_TABLE")
        if table.lower() != b"lookup_table":
            raise text.error(f"has {text.shown(table)} where LOOKUP_TABLE belongs")
        text.word()
        return type_name, int(words[0]) if words else 1

    def _field_array(self) -> None:
        text = self._text
        word = text.word("an array of a field")
        if word.lower() == b"metadata":  # of the array before
            step_over_metadata(text, self._components, self._file.edits)
            self._field_array()
        elif word != b"NULL_ARRAY":
            start = text.position - len(word)
            components = text.count()
            tuples = text.count()
            place, type_name = text.position, text.word()
            if components < 1:
                raise text.error("has an array without components")
            # VTK writes a text file with such an array, and crashes when it reads it.
            emptied = not tuples and not text.binary and type_name.lower() in _FLOATS
            self._file.arrays.append(LegacyArray(self._place, word, start, emptied))
            if emptied and components > _MOST_COMPONENTS:
                raise text.error(f"has an array of {components} components without values")
            if emptied:
                number = b" ".join([b"0"] * components)
                self._file.edits.replace(place - 1, place, b"1")
                stop = text.position
                self._file.edits.replace(stop - 1, stop, type_name[-1:] + b"\n" + number)
            self._values(components, tuples, type_name)

    def _name(self) -> None:
        word = self._text.word("the name of an array")
        start = self._text.position - len(word)
        self._file.arrays.append(LegacyArray(self._place, word, start))

    def _check_whole(self) -> None:
        """Check that the sections are there that the dataset's kind needs, and agree."""
        file, text = self._file, self._text
        if not file.kind:
            raise text.cut("has no dataset")
        for needed in _KINDS[file.kind]:
            if needed not in self._seen:
                raise text.cut(f"has no {needed.decode()} section")
        if b"dimensions" in self._seen and not all(1 <= n < _MOST_SIZE for n in file.sizes):
            raise text.error(f"has the sizes {'×'.join(map(str, file.sizes))}")
        count = math.prod(file.sizes)
        if file.kind == b"structured_grid" and file.points != count:
            raise text.error(f"has {file.points} points, expected {count}")
        if file.kind == b"rectilinear_grid" and tuple(file.coordinates) != file.sizes:
            raise text.error(f"has {file.coordinates} coordinates, expected {[*file.sizes]}")
        if file.kind == b"unstructured_grid":
            cells = file.lists[b"cells"].cells if b"cells" in file.lists else 0
            if (file.cell_types or 0) != cells:
                raise text.error(f"has {file.cell_types or 0} cell types for {cells} cells")
