"""Legacy VTK files read word by word with NumPy alone: an independent, strict reader."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote_to_bytes

import numpy as np

from tests.pack.corpus.model import Refused, Sample, encoded_name, put
from tests.pack.corpus.numbers import parse_text
from tests.pack.corpus.xml_layout import surface_types

__all__ = ["KINDS", "TYPES", "read_legacy"]

TYPES = {
    **{"unsigned_char": "u1", "char": "i1", "unsigned_short": "u2", "short": "i2"},
    **{"unsigned_int": "u4", "int": "i4", "unsigned_long": "u8", "long": "i8"},
    **{"float": "f4", "double": "f8", "vtktypeint64": "i8", "vtktypeuint64": "u8"},
}
KINDS = {
    "UNSTRUCTURED_GRID": "UnstructuredGrid",
    "POLYDATA": "PolyData",
    "STRUCTURED_POINTS": "ImageData",
    "STRUCTURED_GRID": "StructuredGrid",
    "RECTILINEAR_GRID": "RectilinearGrid",
}
_LISTS = ("VERTICES", "LINES", "POLYGONS", "TRIANGLE_STRIPS")
_LIST_NAMES = dict(zip(_LISTS, ("Verts", "Lines", "Polys", "Strips"), strict=True))
_PER_TUPLE = {"VECTORS": 3, "NORMALS": 3, "TENSORS": 9, "TENSORS6": 6}


def read_legacy(path: Path) -> list[Sample]:
    """Read one legacy file."""
    return [_Reader(path.read_bytes()).run()]


def need(condition, what: str) -> None:
    if not condition:
        raise Refused(what)


class _Reader:
    """A position in a file, and what was read before it."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0
        self.binary = False
        self.version = (0, 0)
        self.kind = ""
        self.points: np.ndarray | None = None
        self.points_text = False
        self.dimensions: tuple[int, ...] | None = None
        self.coordinates: dict[str, np.ndarray] = {}
        self.lists: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.types: np.ndarray | None = None
        self.geometry: dict[str, list[float]] = {}
        self.place: tuple[str, int] | None = None
        self.arrays: list[tuple[str, str, np.ndarray]] = []
        self.seen: set[str] = set()
        self.components = 0

    def run(self) -> Sample:
        found = re.match(rb"# vtk DataFile Version +(\d+)\.(\d+)([.\s].*)?$", self.line())
        need(found, "version")
        self.version = (int(found[1]), int(found[2]))
        need(self.version < (6, 0), "version")
        self.line()
        encoding = self.word().upper()
        need(encoding in {"ASCII", "BINARY"}, "encoding")
        self.binary = encoding == "BINARY"
        while self.skip_space():
            self.section(self.word().upper())
        return self.sample()

    # Words, lines and values.

    def skip_space(self) -> bool:
        found = re.compile(rb"\S").search(self.content, self.at)
        self.at = len(self.content) if found is None else found.start()
        return found is not None

    def word(self) -> str:
        need(self.skip_space(), "cut")
        found = re.compile(rb"\S+").match(self.content, self.at)
        self.at = found.end()
        return found.group().decode("latin-1")

    def line(self) -> bytes:
        stop = self.content.find(b"\n", self.at)
        stop = len(self.content) if stop < 0 else stop
        line = self.content[self.at : stop]
        self.at = min(stop + 1, len(self.content))
        return line

    def count(self) -> int:
        word = self.word()
        need(re.fullmatch(r"\d{1,18}", word, re.ASCII), f"count {word[:20]!r}")
        return int(word)

    def floats(self, count: int) -> list[float]:
        return parse_text([self.word() for _ in range(count)], np.dtype("f8")).tolist()

    def values(self, count: int, type_name: str) -> np.ndarray:
        """Read values, which in binary files begin after the line's end."""
        type_name = type_name.lower()
        need(type_name in TYPES or type_name in {"bit", "vtkidtype"}, f"type {type_name[:20]!r}")
        if not self.binary:
            need(count <= len(self.content), "cut")
            dtype = {"bit": "u1", "vtkidtype": "i8"}.get(type_name) or TYPES[type_name]
            values = parse_text([self.word() for _ in range(count)], np.dtype(dtype))
            need(type_name != "bit" or values.max(initial=0) < 2, "bit")
            return values
        need(not self.line().strip(), "words after a header")
        if type_name == "bit":
            return np.unpackbits(np.frombuffer(self.take(-(-count // 8)), "u1"))[:count]
        dtype = np.dtype(">i4" if type_name == "vtkidtype" else f">{TYPES[type_name]}")
        values = np.frombuffer(self.take(count * dtype.itemsize), dtype)
        return values.astype("i8" if type_name == "vtkidtype" else dtype.newbyteorder("="))

    def take(self, size: int) -> bytes:
        need(size <= len(self.content) - self.at, "cut")
        self.at += size
        return self.content[self.at - size : self.at]

    # Sections.

    def section(self, keyword: str) -> None:
        if keyword == "DATASET":
            need(not self.kind, "second dataset")
            kind = self.word().upper()
            need(kind in KINDS, "kind")
            self.kind = kind
        elif keyword == "POINTS":
            need(self.points is None, "second points")
            count, type_name = self.count(), self.word()
            self.points = self.values(3 * count, type_name).reshape(-1, 3)
            self.components = 3
            self.points_text = not self.binary
        elif keyword == "DIMENSIONS":
            need(self.dimensions is None, "second dimensions")
            self.dimensions = (self.count(), self.count(), self.count())
        elif keyword in {"ORIGIN", "SPACING", "ASPECT_RATIO"}:
            name = "origin" if keyword == "ORIGIN" else "spacing"
            need(keyword not in self.seen, "second origin")
            self.seen.add(keyword)
            numbers = self.floats(3)
            need(self.geometry.setdefault(name, numbers) == numbers, "two spacings")
        elif keyword in {"X_COORDINATES", "Y_COORDINATES", "Z_COORDINATES"}:
            count, type_name = self.count(), self.word()
            axis = keyword[0].lower()
            need(axis not in self.coordinates, "second coordinates")
            self.coordinates[axis] = self.values(count, type_name)
        elif keyword == "CELLS" or keyword in _LISTS:
            need(keyword not in self.lists, "second cells")
            self.lists[keyword] = self.cells()
        elif keyword == "CELL_TYPES":
            need(self.types is None, "second types")
            self.types = self.values(self.count(), "int")
        elif keyword in {"POINT_DATA", "CELL_DATA"}:
            self.place = (keyword, self.count())
        elif keyword == "FIELD":
            self.field()
        elif keyword == "METADATA":
            self.metadata()
        else:
            self.attribute(keyword)

    def cells(self) -> tuple[np.ndarray, np.ndarray]:
        first, second = self.count(), self.count()
        if self.version < (5, 0):
            stream = self.values(second, "int").astype("i8")
            bounds, at = [0], 0
            corners = []
            for _ in range(first):
                need(at < len(stream) and 0 <= stream[at] <= len(stream) - at - 1, "cells")
                corners.append(stream[at + 1 : at + 1 + stream[at]])
                at += 1 + int(stream[at])
                bounds.append(bounds[-1] + len(corners[-1]))
            need(at == len(stream), "cells")
            return np.concatenate([np.zeros(0, "i8"), *corners]), np.array(bounds)
        parts = []
        for keyword, count in (("OFFSETS", first), ("CONNECTIVITY", second)):
            need(self.word().upper() == keyword, keyword)
            values = self.values(count, self.word())
            need(values.dtype.kind in "iu", keyword)
            parts.append(values.astype("i8"))
        bounds, corners = parts
        if len(bounds) < 2 and not len(corners):
            return corners, np.zeros(1, "i8")
        need(bounds[0] == 0 and bounds[-1] == len(corners), "offsets")
        need(np.all(np.diff(bounds) >= 0), "offsets")
        return corners, bounds

    def field(self) -> None:
        self.word()
        for _ in range(self.count()):
            name = self.word()
            if name == "NULL_ARRAY":
                continue
            while name.upper() == "METADATA":
                self.metadata()
                name = self.word()
            components, tuples, type_name = self.count(), self.count(), self.word()
            need(components > 0, "components")
            self.add(name, self.values(components * tuples, type_name), components, tuples)

    def metadata(self) -> None:
        """Names of components; an empty line, or one of something else, ends them."""
        need(not self.line().strip(), "words after METADATA")
        while True:
            start = self.at
            line = self.line().strip()
            if line.upper() != b"COMPONENT_NAMES":
                break
            for _ in range(self.components):
                self.line()
        if line:
            self.at = start

    def attribute(self, keyword: str) -> None:
        need(self.place is not None, f"keyword {keyword[:20]!r}")
        tuples = self.place[1]
        name = self.word()
        if keyword == "SCALARS":
            words = self.line().decode("latin-1").split()
            need(1 <= len(words) <= 2, "scalars")
            components = int(words[1]) if words[1:] and words[1].isdecimal() else 1
            need(len(words) == 1 or words[1].isdecimal(), "components")
            need(self.word().upper() == "LOOKUP_TABLE", "lookup table")
            self.word()
            type_name = words[0]
        elif keyword in _PER_TUPLE:
            components, type_name = _PER_TUPLE[keyword], self.word()
        elif keyword == "TEXTURE_COORDINATES":
            components, type_name = self.count(), self.word()
        elif keyword == "COLOR_SCALARS":
            components = self.count()
            type_name = "unsigned_char" if self.binary else "float"
        elif keyword == "LOOKUP_TABLE":
            self.values(4 * self.count(), "unsigned_char" if self.binary else "float")
            return
        else:
            raise Refused(f"keyword {keyword[:20]!r}")
        need(0 < components < 1000, "components")
        values = self.values(components * tuples, type_name)
        if keyword == "COLOR_SCALARS" and not self.binary:
            need(np.all((values >= 0) & (values <= 1)), "colours")
            values = np.floor(values.astype("f8") * 255 + 0.5).astype("u1")
        self.add(name, values, components, tuples)

    def add(self, name: str, values: np.ndarray, components: int, tuples: int) -> None:
        try:
            name = unquote_to_bytes(name.encode("latin-1")).decode()
        except UnicodeDecodeError as err:
            raise Refused("name is no UTF-8") from err
        self.components = components
        shape = (tuples,) if components == 1 else (tuples, components)
        place = self.place[0] if self.place else "FIELD"
        self.arrays.append((place, name, values.reshape(shape)))

    # What it comes to.

    def sample(self) -> Sample:
        need(self.kind, "no dataset")
        sample = Sample({}, {"dataset": KINDS[self.kind]})
        if self.kind in {"UNSTRUCTURED_GRID", "POLYDATA"}:
            sizes = self.mesh(sample)
            shapes, prefixes = [(n,) for n in sizes], ("point_data", "cell_data")
        else:
            shapes = self.grid(sample)
            prefixes = ("fields", "cell_fields")
        for place, name, values in self.arrays:
            if place == "FIELD":
                path = put(sample.arrays, f"global_data/{encoded_name(name)}", values)
            else:
                at = place == "CELL_DATA"
                size = int(np.prod(shapes[at]))
                need(len(values) == size, "size of an array")
                shaped = values.reshape(*shapes[at], *values.shape[1:])
                path = put(sample.arrays, f"{prefixes[at]}/{encoded_name(name)}", shaped)
            if not self.binary:
                sample.any_nan.add(path)
        need(sample.arrays, "no arrays")
        return sample

    def mesh(self, sample: Sample) -> tuple[int, int]:
        need(self.points is not None and len(self.points), "no points")
        need(self.dimensions is None and not self.coordinates, "dimensions of a mesh")
        sample.arrays["points"] = self.points
        if self.points_text:
            sample.any_nan.add("points")
        surface = self.kind == "POLYDATA"
        need(set(self.lists) <= (set(_LISTS) if surface else {"CELLS"}), "cells")
        corners, bounds, types = [np.zeros(0, "i8")], [np.zeros(1, "i8")], [np.zeros(0, "u1")]
        total = 0
        for name in _LISTS if surface else ("CELLS",):
            if name not in self.lists:
                continue
            corner, bound = self.lists[name]
            need(not len(corner) or (corner.min() >= 0 and corner.max() < len(self.points)), "ids")
            corners.append(corner)
            bounds.append(bound[1:] + total)
            total += len(corner)
            if surface:
                types.append(surface_types(_LIST_NAMES[name], np.diff(bound)))
        cells = sum(map(len, bounds)) - 1
        if not surface:
            stated = np.zeros(0, "i4") if self.types is None else self.types
            need(len(stated) == cells, "cell types")
            need(not cells or (stated.min() >= 0 and stated.max() < 256), "cell types")
            types = [stated.astype("u1")]
        else:
            need(self.types is None, "cell types of a surface")
        if cells:
            sample.arrays["cells/connectivity"] = np.concatenate(corners)
            sample.arrays["cells/offsets"] = np.concatenate(bounds)
            sample.arrays["cells/types"] = np.concatenate(types)
        return len(self.points), cells

    def grid(self, sample: Sample) -> tuple[tuple[int, ...], tuple[int, ...]]:
        need(self.dimensions is not None and not self.lists, "dimensions")
        need(min(self.dimensions) > 0 and max(self.dimensions) < 1 << 20, "dimensions")
        shape = self.dimensions[::-1]
        need(np.prod(shape, dtype=object) < 1 << 26, "dimensions")
        if self.kind == "STRUCTURED_GRID":
            need(self.points is not None and len(self.points) == np.prod(shape), "points")
            sample.arrays["points"] = self.points.reshape(*shape, 3)
            if self.points_text:
                sample.any_nan.add("points")
        elif self.kind == "RECTILINEAR_GRID":
            for axis, count in zip("xyz", self.dimensions, strict=True):
                need(len(self.coordinates.get(axis, ())) == count, "coordinates")
                sample.arrays[f"coordinates/{axis}"] = self.coordinates[axis]
                if not self.binary:
                    sample.any_nan.add(f"coordinates/{axis}")
        else:
            sample.attributes["origin"] = self.geometry.get("origin", [0.0, 0.0, 0.0])
            sample.attributes["spacing"] = self.geometry.get("spacing", [1.0, 1.0, 1.0])
        return shape, tuple(max(1, n - 1) for n in shape)
