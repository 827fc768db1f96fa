"""Legacy VTK files of every version, encoding, dataset and section, made from a seed."""

from __future__ import annotations

import numpy as np

from tests.pack.corpus.legacy_oracle import KINDS, TYPES, read_legacy
from tests.pack.corpus.model import Case, Sample, encoded_name, put
from tests.pack.corpus.numbers import format_text
from tests.pack.corpus.xml_layout import surface_types
from tests.pack.corpus.xml_writer import draw_values

__all__ = ["legacy_case"]

_NAMES = {"p": "p", "velocity": "velocity", "Body,%20Nose": "Body, Nose", "100%25": "100%",
          "a/b": "a/b", "U:0": "U:0", "__x": "__x", "T": "T", "q_2": "q_2"}  # fmt: skip
_CELLS = {1: 1, 3: 2, 5: 3, 8: 4, 9: 4, 10: 4, 11: 8, 12: 8, 13: 6, 14: 5, 22: 6, 24: 10}
_FIELD_TYPES = (*(name for name in TYPES if not name.startswith("vtktype")), "bit", "vtkIdType")


class _Writer:
    """Text or bytes under way, and the sample that reading them must give."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.binary = bool(rng.random() < 0.5)
        self.version = str(rng.choice(["2.0", "3.0", "4.2", "5.1"]))
        self.kind = str(rng.choice([*KINDS]))
        self.out = bytearray()
        self.sample = Sample({}, {"dataset": KINDS[self.kind]})
        self.spaced = " " if rng.random() < 0.3 else ""

    def line(self, text: str) -> None:
        self.out += text.encode() + b"\n"

    def keyword(self, text: str) -> str:
        return text.lower() if self.rng.random() < 0.1 else text

    def values(self, values: np.ndarray, type_name: str = "") -> None:
        """Write values after a header line."""
        flat = values.reshape(-1)
        if self.binary:
            if type_name == "bit":
                self.out += np.packbits(flat).tobytes()
            else:
                dtype = np.dtype("i4") if type_name == "vtkIdType" else flat.dtype
                self.out += flat.astype(dtype.newbyteorder(">")).tobytes()
            self.line("")
            return
        words = format_text(values)
        step = int(self.rng.integers(1, 12))
        for at in range(0, len(words), step):
            self.line(" ".join(words[at : at + step]) + self.spaced)

    def add(self, path: str, values: np.ndarray) -> None:
        name = put(self.sample.arrays, path, values)
        if not self.binary:
            self.sample.any_nan.add(name)


def legacy_case(rng: np.random.Generator) -> Case:
    """One legacy file."""
    writer = _Writer(rng)
    writer.line(f"# vtk DataFile Version {writer.version}")
    writer.line("a title")
    if rng.random() < 0.1:
        writer.line("")
    writer.line("BINARY" if writer.binary else "ASCII")
    writer.line(f"{writer.keyword('DATASET')} {writer.kind}")
    if rng.random() < 0.3:
        writer.line("FIELD FieldData 1")
        _field_array(writer, "global_data", int(rng.integers(1, 4)), None)
    if writer.kind in {"UNSTRUCTURED_GRID", "POLYDATA"}:
        points, cells = _mesh(writer)
        shapes, prefixes = ((points,), (cells,)), ("point_data", "cell_data")
    else:
        shapes, prefixes = _grid(writer), ("fields", "cell_fields")
    places = [("POINT_DATA", prefixes[0], shapes[0]), ("CELL_DATA", prefixes[1], shapes[1])]
    for place in rng.permutation(2):
        keyword, prefix, shape = places[place]
        if rng.random() < 0.7 and np.prod(shape):
            writer.line(f"{keyword} {int(np.prod(shape))}")
            _attributes(writer, prefix, shape)
    content = bytes(writer.out)
    if not writer.binary and rng.random() < 0.2:
        content = content.rstrip(b"\n")
    expected = [writer.sample] if writer.sample.arrays else None
    kind = f"vtk {writer.version} {'binary' if writer.binary else 'ascii'} {writer.kind}"
    return Case(kind, "case.vtk", {"case.vtk": content}, expected, read_legacy)


def _mesh(writer: _Writer) -> tuple[int, int]:
    rng = writer.rng
    count = int(rng.integers(1, 9))
    type_name = str(rng.choice(["float", "double", "double", "int"]))
    points = draw_values(rng, (count, 3), TYPES[type_name])
    writer.line(f"{writer.keyword('POINTS')} {count} {type_name}")
    writer.values(points)
    writer.add("points", points)
    if writer.kind == "UNSTRUCTURED_GRID":
        types = [int(kind) for kind in rng.choice([*_CELLS, 7, 4], int(rng.integers(0, 5)))]
        cells = [rng.integers(0, count, _CELLS.get(kind) or 5) for kind in types]
        _list(writer, "CELLS", cells)
        writer.line(f"CELL_TYPES {len(types)}")
        writer.values(np.array(types, "i4"))
        runs = cells
    else:
        runs, types = [], []
        names = {"VERTICES": "Verts", "LINES": "Lines", "POLYGONS": "Polys",
                 "TRIANGLE_STRIPS": "Strips"}  # fmt: skip
        for least, (name, short) in enumerate(names.items()):
            size = min(3, least + 1)
            cells = [rng.integers(0, count, int(rng.integers(size, size + 3)))
                     for _ in range(int(rng.choice([0, 0, 1, 2])))]  # fmt: skip
            if cells:
                _list(writer, name, cells)
                runs += cells
                types += surface_types(short, np.array([len(cell) for cell in cells])).tolist()
    if runs:
        writer.add("cells/connectivity", np.concatenate(runs).astype("i8"))
        writer.add("cells/offsets", np.cumsum([0, *map(len, runs)]))
        writer.add("cells/types", np.array(types, "u1"))
    return count, len(runs)


def _list(writer: _Writer, name: str, cells) -> None:
    corners = sum(map(len, cells))
    if writer.version < "5":
        writer.line(f"{writer.keyword(name)} {len(cells)} {corners + len(cells)}")
        stream = [number for cell in cells for number in (len(cell), *cell.tolist())]
        writer.values(np.array(stream, "i4"))
        return
    writer.line(f"{writer.keyword(name)} {len(cells) + 1} {corners}")
    type_name, dtype = [("vtktypeint64", "i8"), ("int", "i4")][int(writer.rng.random() < 0.3)]
    writer.line(f"OFFSETS {type_name}")
    writer.values(np.cumsum([0, *map(len, cells)]).astype(dtype))
    writer.line(f"CONNECTIVITY {type_name}")
    writer.values(np.concatenate([np.zeros(0, "i8"), *cells]).astype(dtype))


def _grid(writer: _Writer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    rng = writer.rng
    sizes = [int(n) for n in rng.choice([1, 2, 2, 3, 4], 3)]
    shape = tuple(sizes[::-1])
    dimensions = f"{writer.keyword('DIMENSIONS')} {' '.join(map(str, sizes))}"
    if writer.kind == "STRUCTURED_POINTS":
        lines = [dimensions]
        for name in ("origin", "spacing"):
            if rng.random() < 0.9:
                values = (rng.random(3) + 0.1).tolist()
                writer.sample.attributes[name] = values
                lines.append(f"{name.upper()} {' '.join(map(str, values))}")
        for index in rng.permutation(len(lines)):
            writer.line(lines[index])
    elif writer.kind == "RECTILINEAR_GRID":
        writer.line(dimensions)
        for axis, size in zip("xyz", sizes, strict=True):
            type_name = str(rng.choice(["float", "double"]))
            values = np.cumsum(rng.random(size) + 0.1).astype(TYPES[type_name])
            writer.line(f"{axis.upper()}_COORDINATES {size} {type_name}")
            writer.values(values)
            writer.add(f"coordinates/{axis}", values)
    else:
        writer.line(dimensions)
        type_name = str(rng.choice(["float", "double"]))
        points = draw_values(rng, (int(np.prod(shape)), 3), TYPES[type_name])
        writer.line(f"POINTS {len(points)} {type_name}")
        writer.values(points)
        writer.add("points", points.reshape(*shape, 3))
    return shape, tuple(max(1, n - 1) for n in shape)


def _attributes(writer: _Writer, prefix: str, shape) -> None:
    rng = writer.rng
    kinds = ("SCALARS", "VECTORS", "NORMALS", "TENSORS", "TEXTURE_COORDINATES", "COLOR_SCALARS",
             "LOOKUP_TABLE", "FIELD")  # fmt: skip
    count = int(np.prod(shape))
    names = [*rng.permutation([*_NAMES])]
    for kind in rng.choice(kinds, int(rng.integers(1, 4)), replace=False):
        if kind == "FIELD":
            several = int(rng.integers(0, 3))
            writer.line(f"{writer.keyword('FIELD')} FieldData {several}")
            for _ in range(several):
                _field_array(writer, prefix, count, shape, str(names.pop()))
            continue
        name = str(names.pop())
        _attribute(writer, str(kind), name, f"{prefix}/{encoded_name(_NAMES[name])}", shape)
        if rng.random() < 0.15 and kind in {"VECTORS", "NORMALS"}:
            empty_line = "\n" * (count % 2)
            writer.line(f"METADATA\nCOMPONENT_NAMES\nX\nY\nZ{empty_line}")


def _attribute(writer: _Writer, kind: str, name: str, path: str, shape) -> None:
    rng = writer.rng
    count = int(np.prod(shape))
    if kind == "LOOKUP_TABLE":
        writer.line(f"LOOKUP_TABLE {name} 3")
        table = rng.integers(0, 256, 12).astype("u1")
        writer.values(table if writer.binary else (table / 255).astype("f4"))
        return
    if kind == "COLOR_SCALARS":
        components = int(rng.integers(1, 5))
        values = rng.integers(0, 256, (count, components)).astype("u1")
        writer.line(f"COLOR_SCALARS {name} {components}")
        writer.values(values if writer.binary else (values / 255).astype("f4"))
    else:
        type_name = str(rng.choice(["float", "double"] if kind == "NORMALS" else [*TYPES][:10]))
        components = {"VECTORS": 3, "NORMALS": 3, "TENSORS": 9}.get(kind) or int(
            rng.integers(1, 5 if kind == "SCALARS" else 4)
        )
        values = draw_values(rng, (count, components), TYPES[type_name])
        if kind == "SCALARS":
            stated = "" if components == 1 and rng.random() < 0.5 else f" {components}"
            writer.line(f"{writer.keyword('SCALARS')} {name} {type_name}{stated}")
            writer.line("LOOKUP_TABLE default")
        elif kind == "TEXTURE_COORDINATES":
            writer.line(f"{kind} {name} {components} {type_name}")
        else:
            writer.line(f"{writer.keyword(kind)} {name} {type_name}")
        writer.values(values)
    if components == 1:
        values = values[:, 0]
    writer.add(path, values.reshape(*shape, *values.shape[1:]))


def _field_array(writer: _Writer, prefix: str, count: int, shape, name: str = "extra") -> None:
    rng = writer.rng
    type_name = str(rng.choice(_FIELD_TYPES))
    components = int(rng.integers(1, 4))
    if type_name == "bit":
        values = rng.integers(0, 2, (count, components)).astype("u1")
    elif type_name == "vtkIdType":
        values = rng.integers(0, 1 << 31, (count, components))
    else:
        values = draw_values(rng, (count, components), TYPES[type_name])
    writer.line(f"{name} {components} {count} {type_name}")
    writer.values(values, type_name)
    if components == 1:
        values = values[:, 0]
    if shape is not None:
        values = values.reshape(*shape, *values.shape[1:])
    writer.add(f"{prefix}/{encoded_name(_NAMES.get(name, name))}", values)
