"""Meshes, surfaces and grids in pieces, written into a VTK XML file under way."""

from __future__ import annotations

import itertools

import numpy as np

from tests.pack.corpus.model import encoded_name, put
from tests.pack.corpus.xml_layout import surface_types
from tests.pack.corpus.xml_writer import Written, draw_arrays

__all__ = ["write_grid", "write_mesh", "write_surface"]

_CELLS = {1: 1, 3: 2, 5: 3, 8: 4, 9: 4, 10: 4, 11: 8, 12: 8, 13: 6, 14: 5, 15: 10, 16: 12,
          21: 3, 22: 6, 23: 8, 24: 10, 25: 20}  # fmt: skip
"""Number of points of VTK's cells of fixed size."""
_TETRA_FACES = ((0, 1, 2), (0, 1, 3), (1, 2, 3), (0, 2, 3))


def _draw_points(rng, count: int, dtype: str) -> np.ndarray:
    points = rng.standard_normal((count, 3)).astype(dtype)
    if rng.random() < 0.1 and count:
        points[rng.integers(count), rng.integers(3)] = np.nan
    return points


def _index_type(rng) -> str:
    return str(rng.choice(["i4", "i8", "i8"]))


def _counts(rng, pieces: int) -> list[int]:
    """Numbers of points: rarely a piece without any."""
    return [0 if rng.random() < 0.08 else int(rng.integers(1, 9)) for _ in range(pieces)]


def _common_arrays(rng, sizes: list[int]) -> list[list]:
    """The same arrays for each piece, with values of its own."""
    joined = draw_arrays(rng, sum(sizes))
    bounds = np.cumsum([0, *sizes])
    return [
        [(name, values[low:high]) for name, values in joined]
        for low, high in itertools.pairwise(bounds)
    ]


def write_mesh(written: Written, pieces: int) -> str:
    """An unstructured grid with cells of many kinds; "must" where it has to be refused."""
    rng, encoding = written.encoding.rng, written.encoding
    points = _counts(rng, pieces)
    cells = [int(rng.integers(0, 5)) if count else 0 for count in points]
    point_arrays, cell_arrays = _common_arrays(rng, points), _common_arrays(rng, cells)
    dtype, index = str(rng.choice(["f4", "f8"])), _index_type(rng)
    with_faces = rng.random() < 0.25
    in_lists = rng.random() < 0.5
    if in_lists:
        written.version = "2.3"
    coordinates, corners, ends, types = [], [], [], []
    faces: list[list[list[int]]] = []
    for number, count in enumerate(points):
        own_points = _draw_points(rng, count, dtype)
        own_corners, own_ends, own_types, own_faces = [], [], [], []
        for _ in range(cells[number]):
            if with_faces and rng.random() < 0.6 and count >= 4:
                chosen = rng.choice(count, 4, replace=False)
                kind = 42
                own_faces.append([[int(chosen[i]) for i in face] for face in _TETRA_FACES])
            else:
                kind = int(rng.choice([*_CELLS, 2, 4, 7, 6]))
                size = _CELLS.get(kind) or int(rng.integers(1 if kind == 2 else 3, 7))
                chosen = rng.integers(0, count, size)
                own_faces.append([])
            own_corners += chosen.tolist()
            own_ends.append(len(own_corners))
            own_types.append(kind)
        group = [
            encoding.element(np.array(own_corners, index), "connectivity"),
            encoding.element(np.array(own_ends, index), "offsets"),
            encoding.element(np.array(own_types, "u1"), "types"),
        ]
        if 42 in own_types:
            group += _face_elements(encoding, own_faces, index, in_lists=in_lists)
        rng.shuffle(group)
        written.end_piece(
            f'<Piece NumberOfPoints="{count}" NumberOfCells="{cells[number]}">'
            + written.data("PointData", point_arrays[number])
            + written.data("CellData", cell_arrays[number])
            + written.data("Points", [("Points", own_points)])
            + f"<Cells>{''.join(group)}</Cells></Piece>"
        )
        start, offset = sum(map(len, coordinates)), len(corners)
        coordinates.append(own_points)
        corners += [corner + start for corner in own_corners]
        ends += [end + offset for end in own_ends]
        types += own_types
        faces += [[[corner + start for corner in face] for face in cell] for cell in own_faces]
    if sum(points) == 0:
        return "must"
    _add_mesh(written, np.concatenate(coordinates), corners, ends, types)
    if 42 in types:
        _add_faces(written, faces)
    _add_data(written, "point_data", point_arrays, points)
    _add_data(written, "cell_data", cell_arrays, cells)
    return ""


def _face_elements(encoding, cells, index: str, *, in_lists: bool) -> list[str]:
    """Faces of polyhedra: as one list of counts and points, or as four arrays."""
    if not in_lists:
        stream: list[int] = []
        ends = []
        for faces in cells:
            if faces:
                stream.append(len(faces))
                for face in faces:
                    stream += [len(face), *face]
            ends.append(len(stream) if faces else -1)
        return [
            encoding.element(np.array(stream, index), "faces"),
            encoding.element(np.array(ends, index), "faceoffsets"),
        ]
    faces = [face for cell in cells for face in cell]
    numbers = np.cumsum([len(cell) for cell in cells])
    arrays = {
        "face_connectivity": np.concatenate(faces),
        "face_offsets": np.cumsum([len(face) for face in faces]),
        "polyhedron_to_faces": np.arange(len(faces)),
        "polyhedron_offsets": numbers,
    }
    return [
        encoding.element(values.astype(index), name, tuples=True) for name, values in arrays.items()
    ]


def _add_mesh(written: Written, points, corners, ends, types) -> None:
    written.add("points", points)
    if types:
        written.add("cells/connectivity", np.array(corners, "i8"))
        written.add("cells/offsets", np.array([0, *ends], "i8"))
        written.add("cells/types", np.array(types, "u1"))


def _add_faces(written: Written, cells) -> None:
    faces = [face for cell in cells for face in cell]
    written.add("cells/face_connectivity", np.concatenate(faces).astype("i8"))
    written.add("cells/face_offsets", np.cumsum([0, *map(len, faces)]))
    written.add("cells/polyhedron_to_faces", np.arange(len(faces)))
    written.add("cells/polyhedron_offsets", np.cumsum([0, *map(len, cells)]))


def _add_data(written: Written, prefix: str, arrays, sizes) -> None:
    """Add the arrays of all pieces that have points, joined."""
    taken: dict[str, object] = {}
    for number in range(len(arrays[0])):
        joined = [piece[number][1] for piece in arrays]
        name = put(taken, f"{prefix}/{encoded_name(arrays[0][number][0])}", None)
        written.add(name, np.concatenate(joined))


def write_surface(written: Written, pieces: int) -> str:
    """A surface of vertices, lines, polygons and strips."""
    rng = written.encoding.rng
    points = _counts(rng, pieces)
    dtype, index = str(rng.choice(["f4", "f8"])), _index_type(rng)
    lists = ("Verts", "Lines", "Polys", "Strips")
    least = {"Verts": 1, "Lines": 2, "Polys": 3, "Strips": 3}
    cells = [
        {name: [rng.integers(0, count, int(rng.integers(least[name], least[name] + 3)))
                for _ in range(int(rng.choice([0, 0, 1, 2, 3])))] if count else []
         for name in lists}
        for count in points
    ]  # fmt: skip
    sizes = [sum(map(len, piece.values())) for piece in cells]
    point_arrays, cell_arrays = _common_arrays(rng, points), _common_arrays(rng, sizes)
    coordinates = [_draw_points(rng, count, dtype) for count in points]
    for number, piece in enumerate(cells):
        tags = "".join(f' NumberOf{name}="{len(piece[name])}"' for name in lists)
        groups = ""
        for name in lists:
            ends = np.cumsum([len(cell) for cell in piece[name]])
            joined = np.concatenate([np.zeros(0, index), *piece[name]]).astype(index)
            groups += written.data(
                name, [("connectivity", joined), ("offsets", ends.astype(index))]
            )
        written.end_piece(
            f'<Piece NumberOfPoints="{points[number]}"{tags}>'
            + written.data("PointData", point_arrays[number])
            + written.data("CellData", cell_arrays[number])
            + written.data("Points", [("Points", coordinates[number])])
            + f"{groups}</Piece>"
        )
    if sum(points) == 0:
        return "must"
    starts = np.cumsum([0, *points])
    runs, types, order = [], [], []
    firsts = np.cumsum([0, *sizes])
    for name in lists:
        for number, piece in enumerate(cells):
            runs += [cell + starts[number] for cell in piece[name]]
            types += surface_types(name, np.array([len(cell) for cell in piece[name]])).tolist()
            before = sum(len(piece[other]) for other in lists[: lists.index(name)])
            order += [firsts[number] + before + i for i in range(len(piece[name]))]
    corners = np.concatenate(runs).tolist() if runs else []
    ends = np.cumsum([len(run) for run in runs]).tolist()
    _add_mesh(written, np.concatenate(coordinates), corners, ends, types)
    _add_data(written, "point_data", point_arrays, points)
    taken: dict[str, object] = {}
    for number in range(len(cell_arrays[0])):
        name = put(taken, f"cell_data/{encoded_name(cell_arrays[0][number][0])}", None)
        joined = np.concatenate([piece[number][1] for piece in cell_arrays])
        written.add(name, joined[np.array(order, "i8")])
    return ""


def write_grid(written: Written, pieces: int) -> str:
    """Image data, a rectilinear or a curvilinear grid, cut along one axis."""
    rng = written.encoding.rng
    sizes = rng.choice([1, 2, 2, 3, 4, 5], 3)
    low = rng.integers(-3, 4, 3) if rng.random() < 0.4 else np.zeros(3, int)
    extent = [int(n) for axis in range(3) for n in (low[axis], low[axis] + sizes[axis] - 1)]
    axis = int(np.argmax(sizes))
    cuts = np.linspace(low[axis], low[axis] + sizes[axis] - 1, pieces + 1).astype(int)
    bounds = sorted({int(cut) for cut in cuts})
    if len(bounds) == 1:
        bounds *= 2
    shape = tuple(int(n) for n in sizes[::-1])
    cell_shape = tuple(max(1, n - 1) for n in shape)
    fields = draw_arrays(rng, int(np.prod(shape)))
    cell_fields = draw_arrays(rng, int(np.prod(cell_shape)))
    written.grid_attributes = f' WholeExtent="{" ".join(map(str, extent))}"'
    dtype = str(rng.choice(["f4", "f8"]))
    places: dict[str, np.ndarray] = {}
    if written.kind == "vti":
        _draw_image(written, rng, extent)
    elif written.kind == "vtr":
        for letter, size in zip("xyz", sizes, strict=True):
            places[letter] = np.cumsum(rng.random(int(size)) + 0.01).astype(dtype)
            written.add(f"coordinates/{letter}", places[letter])
    else:
        places["points"] = _draw_points(rng, int(np.prod(shape)), dtype)
        written.add("points", places["points"].reshape(*shape, 3))
    if any(extent[::2]):
        written.sample.attributes["extent"] = extent
    for first, last in itertools.pairwise(bounds):
        own = [*extent]
        own[2 * axis : 2 * axis + 2] = first, last
        at = tuple(
            slice(own[2 * i] - extent[2 * i], own[2 * i + 1] - extent[2 * i] + 1) for i in (2, 1, 0)
        )
        at_cells = tuple(
            slice(0, 1) if n == 1 else slice(box.start, box.stop - 1)
            for n, box in zip(shape, at, strict=True)
        )
        text = f'<Piece Extent="{" ".join(map(str, own))}">'
        text += written.data("PointData", _cut(fields, shape, at))
        text += written.data("CellData", _cut(cell_fields, cell_shape, at_cells))
        if written.kind == "vts":
            text += written.data("Points", _cut([("Points", places["points"])], shape, at))
        if written.kind == "vtr":
            own_axes = [(letter, places[letter][at["zyx".index(letter)]]) for letter in "xyz"]
            text += written.data("Coordinates", own_axes)
        written.end_piece(f"{text}</Piece>")
    for prefix, arrays, whole in (
        ("fields", fields, shape),
        ("cell_fields", cell_fields, cell_shape),
    ):
        for name, values in arrays:
            path = put(written.sample.arrays, f"{prefix}/{encoded_name(name)}", None)
            written.add(path, values.reshape(*whole, *values.shape[1:]))
    return ""


def _cut(arrays, shape, box) -> list:
    """The part of each array that lies in a box, with its tuples in one row again."""
    parts = []
    for name, values in arrays:
        part = values.reshape(*shape, *values.shape[1:])[box]
        parts.append((name, part.reshape(-1, *values.shape[1:])))
    return parts


def _draw_image(written: Written, rng, extent: list[int]) -> None:
    origin, spacing = rng.standard_normal(3), rng.random(3) + 0.1
    direction = np.eye(3)
    if rng.random() < 0.3:
        direction = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
        words = " ".join(str(float(n)) for n in direction.reshape(-1))
        written.grid_attributes += f' Direction="{words}"'
        written.sample.attributes["direction"] = direction.reshape(-1).tolist()
    for name, values in (("Origin", origin), ("Spacing", spacing)):
        written.grid_attributes += f' {name}="{" ".join(str(float(n)) for n in values)}"'
    start = direction @ (spacing * np.array(extent[::2]))
    written.sample.attributes["origin"] = (origin + start).tolist()
    written.sample.attributes["spacing"] = spacing.tolist()
