"""Pieces of a VTK XML file put together under the names of a packed sample, with NumPy alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.pack.corpus.model import Sample
from tests.pack.corpus.xml_grids import merge_grids
from tests.pack.corpus.xml_oracle import XmlFile, field_data, need, whole
from tests.pack.corpus.xml_pieces import ReadPiece, read_points, same_names

__all__ = ["assemble", "assemble_pieces", "merge_meshes", "read_xml", "surface_types"]

_MESHES = {"UnstructuredGrid", "PolyData"}
_GRIDS = {"ImageData", "RectilinearGrid", "StructuredGrid"}
_POLYHEDRON = 42
_LISTS = ("Verts", "Lines", "Polys", "Strips")


def read_xml(path: Path) -> list[Sample]:
    """Read one serial VTK XML file."""
    return [assemble(XmlFile(path.read_bytes()))]


def assemble(file: XmlFile) -> Sample:
    """Read all pieces of a file and put them together."""
    grid = file.root.find(file.kind)
    need(grid is not None, "no dataset")
    return assemble_pieces(file.kind, grid, [(file, piece) for piece in grid.findall("Piece")])


def assemble_pieces(kind: str, grid, pieces) -> Sample:
    """Put pieces together, each given with the file that it is in."""
    need(kind in _MESHES | _GRIDS, f"kind {kind}")
    sample = Sample({}, {"dataset": kind})
    if kind in _MESHES:
        read = _grid_piece if kind == "UnstructuredGrid" else _surface_piece
        merge_meshes(sample, [read(file, piece) for file, piece in pieces])
    else:
        merge_grids(kind, grid, pieces, sample)
    for file in {id(file): file for file, _ in pieces}.values():
        data = file.root.find(file.kind)
        field_data(file, data, sample)
    time = sample.arrays.get("global_data/TimeValue")
    if time is not None and time.size == 1:
        sample.attributes["time"] = float(time.reshape(-1)[0])
    need(sample.arrays, "no arrays")
    return sample


def _named(group, name: str):
    for element in () if group is None else group.findall("DataArray"):
        if element.get("Name") == name:
            return element
    return None


def _cells(file: XmlFile, group, cells: int, points: int):
    """Read connectivity and offsets, checked, with a leading zero."""
    if cells == 0:
        return np.zeros(0, "i8"), np.zeros(1, "i8")
    offsets = _named(group, "offsets")
    connectivity = _named(group, "connectivity")
    need(offsets is not None and connectivity is not None, "no cells")
    ends, _ = file.values(offsets, cells)
    need(ends.ndim == 1 and ends.dtype.kind in "iu", "offsets")
    bounds = np.concatenate([[0], ends.astype("i8")])
    need(np.all(np.diff(bounds) >= 0), "offsets fall")
    corners, _ = file.values(connectivity, int(bounds[-1]) if bounds[-1] < 1 << 40 else 0)
    need(corners.ndim == 1 and corners.dtype.kind in "iu", "connectivity")
    _in_range(corners, points)
    return corners.astype("i8"), bounds


def _in_range(numbers: np.ndarray, limit: int) -> None:
    need(not len(numbers) or (numbers.min() >= 0 and numbers.max() < limit), "point numbers")


def _grid_piece(file: XmlFile, piece) -> ReadPiece:
    read = ReadPiece(whole(piece.get("NumberOfPoints", "")), whole(piece.get("NumberOfCells", "")))
    read_points(file, piece, read)
    group = piece.find("Cells")
    corners, bounds = _cells(file, group, read.cells, read.points)
    types = np.zeros(0, "u1")
    if read.cells:
        element = _named(group, "types")
        need(element is not None, "no cell types")
        types, _ = file.values(element, read.cells)
        need(types.ndim == 1 and types.dtype.kind in "iu", "types")
        need(types.min() >= 0 and types.max() < 256, "types")
        types = types.astype("u1")
    read.lists.append((corners, bounds, types))
    if np.any(types == _POLYHEDRON):
        read.polyhedra = _polyhedra(file, group, types, read.points)
    read.read_data(file, piece, "point_data", "cell_data")
    return read


def _polyhedra(file: XmlFile, group, types: np.ndarray, points: int) -> list[np.ndarray]:
    """Read faces: their points and bounds, and per cell its faces and bounds."""
    if _named(group, "faces") is None:
        return _polyhedra_in_lists(file, group, types, points)
    ends, _ = file.values(_named_or_refused(group, "faceoffsets"), len(types))
    element = _named_or_refused(group, "faces")
    last = int(ends.max(initial=0))
    need(0 <= last < 1 << 40, "face offsets")
    faces, _ = file.values(element, last)
    face_points: list[int] = []
    bounds, cell_faces, cell_bounds = [0], [], [0]
    at = 0
    for kind, end in zip(types, ends, strict=True):
        if kind == _POLYHEDRON:
            need(at < end, "face offsets")
            count, at = int(faces[at]), at + 1
            need(count >= 0, "faces")
            for _ in range(count):
                need(at < end, "faces")
                size, at = int(faces[at]), at + 1
                need(0 <= size <= end - at, "faces")
                face_points += faces[at : at + size].tolist()
                at += size
                cell_faces.append(len(bounds) - 1)
                bounds.append(len(face_points))
            need(at == end, "faces")
        cell_bounds.append(len(cell_faces))
    need(at == len(faces), "faces")
    arrays = [np.array(values, "i8") for values in (face_points, bounds, cell_faces, cell_bounds)]
    _in_range(arrays[0], points)
    return arrays


def _polyhedra_in_lists(file: XmlFile, group, types, points: int) -> list[np.ndarray]:
    arrays = []
    ends, _ = file.values(_named_or_refused(group, "polyhedron_offsets"), len(types))
    cell_bounds = np.concatenate([[0], ends.astype("i8")])
    need(np.all(np.diff(cell_bounds) >= 0) and cell_bounds[-1] < 1 << 40, "polyhedron offsets")
    cell_faces, _ = file.values(
        _named_or_refused(group, "polyhedron_to_faces"), int(cell_bounds[-1])
    )
    element = _named_or_refused(group, "face_offsets")
    count = element.get("NumberOfTuples")
    faces = whole(count) if count else int(cell_faces.max(initial=-1)) + 1
    ends, _ = file.values(element, faces)
    bounds = np.concatenate([[0], ends.astype("i8")])
    need(np.all(np.diff(bounds) >= 0) and bounds[-1] < 1 << 40, "face offsets")
    face_points, _ = file.values(_named_or_refused(group, "face_connectivity"), int(bounds[-1]))
    arrays = [face_points.astype("i8"), bounds, cell_faces.astype("i8"), cell_bounds]
    _in_range(arrays[0], points)
    _in_range(arrays[2], faces)
    return arrays


def _named_or_refused(group, name: str):
    element = _named(group, name)
    need(element is not None, f"no {name}")
    return element


def surface_types(name: str, lengths: np.ndarray) -> np.ndarray:
    """Types of a surface's cells: what VTK would call them."""
    special, otherwise = {
        "Verts": ({1: 1}, 2),
        "Lines": ({2: 3}, 4),
        "Polys": ({3: 5, 4: 9}, 7),
        "Strips": ({}, 6),
    }[name]
    return np.array([special.get(int(length), otherwise) for length in lengths], "u1")


def _surface_piece(file: XmlFile, piece) -> ReadPiece:
    counts = [whole(piece.get(f"NumberOf{name}", "0")) for name in _LISTS]
    read = ReadPiece(whole(piece.get("NumberOfPoints", "")), sum(counts))
    read_points(file, piece, read)
    for name, count in zip(_LISTS, counts, strict=True):
        corners, bounds = _cells(file, piece.find(name), count, read.points)
        read.lists.append((corners, bounds, surface_types(name, np.diff(bounds))))
    read.read_data(file, piece, "point_data", "cell_data")
    return read


def merge_meshes(sample: Sample, pieces: list[ReadPiece]) -> None:
    """Put meshes one after the other."""
    need(any(piece.points for piece in pieces), "no points")
    full = [piece for piece in pieces if piece.points]
    points = [piece.places["points"] for piece in full]
    need(len({values.dtype for values in points}) == 1, "types of points differ")
    sample.arrays["points"] = np.concatenate(points)
    for piece in full:
        sample.any_nan.update(piece.any_nan)
    _merge_cells(sample, full)
    for name in same_names(full):
        if not name.startswith("cell_data/"):
            sample.arrays[name] = np.concatenate([piece.data[name] for piece in full])
            continue
        # Cells of a surface are ordered by their list, and then by their piece.
        parts = []
        for number in range(len(full[0].lists)):
            for piece in full:
                start = sum(len(one[2]) for one in piece.lists[:number])
                stop = start + len(piece.lists[number][2])
                parts.append(piece.data[name][start:stop])
        sample.arrays[name] = np.concatenate(parts)


def _merge_cells(sample: Sample, pieces: list[ReadPiece]) -> None:
    corners, bounds, types = [np.zeros(0, "i8")], [np.zeros(1, "i8")], [np.zeros(0, "u1")]
    starts = np.cumsum([0, *(piece.points for piece in pieces)])
    total = 0
    for number in range(len(pieces[0].lists)):
        for piece, start in zip(pieces, starts[:-1], strict=True):
            corner, bound, kind = piece.lists[number]
            corners.append(corner + start)
            bounds.append(bound[1:] + total)
            types.append(kind)
            total += len(corner)
    if sum(map(len, types)) == 0:
        return
    sample.arrays["cells/connectivity"] = np.concatenate(corners)
    sample.arrays["cells/offsets"] = np.concatenate(bounds)
    sample.arrays["cells/types"] = np.concatenate(types)
    if any(piece.polyhedra for piece in pieces):
        _merge_polyhedra(sample, pieces, starts)


def _merge_polyhedra(sample: Sample, pieces: list[ReadPiece], starts: np.ndarray) -> None:
    joined: list[list[np.ndarray]] = [
        [np.zeros(0, "i8")],
        [np.zeros(1, "i8")],
        [np.zeros(0, "i8")],
        [np.zeros(1, "i8")],
    ]
    for piece, start in zip(pieces, starts[:-1], strict=True):
        empty = [np.zeros(0, "i8"), np.zeros(1, "i8"), np.zeros(0, "i8")]
        parts = piece.polyhedra or [*empty, np.zeros(piece.cells + 1, "i8")]
        corners, faces, cell_faces = (
            sum(map(len, joined[0])),
            sum(map(len, joined[1])) - 1,
            sum(map(len, joined[2])),
        )
        joined[0].append(parts[0] + start)
        joined[1].append(parts[1][1:] + corners)
        joined[2].append(parts[2] + faces)
        joined[3].append(parts[3][1:] + cell_faces)
    names = ("face_connectivity", "face_offsets", "polyhedron_to_faces", "polyhedron_offsets")
    for name, values in zip(names, joined, strict=True):
        sample.arrays[f"cells/{name}"] = np.concatenate(values)
