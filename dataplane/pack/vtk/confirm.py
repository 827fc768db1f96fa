"""Comparison of VTK's output with the findings of the check of the file. Reads no file.

Lengths that only other arrays give are compared here: VTK takes the length of a connectivity from
the last offset of its piece, so the numbers of its output between two pieces must be as long as the
connectivity that the file holds, and refer to points of that piece. And all arrays of the file must
be there: VTK drops arrays without an error.

Names that arrays had only for VTK become their own again.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dataplane.errors import FormatError
from dataplane.pack.vtk.arrays import values_of
from dataplane.pack.vtk.cells import VTK_POLYHEDRON
from dataplane.pack.vtk.check import DTYPES, ArrayType
from dataplane.pack.vtk.pieces import CELL_LISTS
from dataplane.pack.vtk.prepare import Prepared

__all__ = ["check_faces", "confirm"]

_FACE_ARRAYS = ("face_connectivity", "face_offsets", "polyhedron_to_faces")


def confirm(output: Any, prepared: Prepared, label: str) -> None:
    """Check VTK's output, and give its arrays their own names and image data its own place.

    Raises:
        FormatError: it is not what the file holds.
    """
    if prepared.kind in CELL_LISTS:
        points = sum(piece.size.points for piece in prepared.pieces)
        cells = sum(piece.size.cells for piece in prepared.pieces)
        found = (output.GetNumberOfPoints(), output.GetNumberOfCells())
        if found != (points, cells):
            raise FormatError(
                f"{label}: VTK read {found[0]} points and {found[1]} cells, "
                f"expected {points} and {cells}"
            )
        for group in CELL_LISTS[prepared.kind]:
            _confirm_cells(output, prepared, group, label)
    if prepared.kind == "UnstructuredGrid":
        _confirm_faces(output, prepared, label)
    if prepared.geometry is not None:
        output.SetOrigin(*prepared.geometry.origin)
        output.SetSpacing(*prepared.geometry.spacing)
        output.SetDirectionMatrix(*prepared.geometry.direction)
    for name, kind in prepared.types.get("Points", {}).items():
        _confirm_array(output.GetPoints().GetData(), name, kind, label)
    for group in ("PointData", "CellData", "FieldData"):
        collection = getattr(output, f"Get{group}")()
        for name, kind in prepared.types.get(group, {}).items():
            _confirm_array(collection.GetAbstractArray(name), name, kind, label)
        for name, own_name in prepared.names.get(group, {}).items():
            array = collection.GetAbstractArray(name)
            if array is not None:
                array.SetName(own_name)


def _confirm_array(array: Any, name: str, kind: ArrayType, label: str) -> None:
    if array is None:
        raise FormatError(f"{label}: VTK did not read the array {name!r}")
    if array.GetNumberOfComponents() != kind.components:
        raise FormatError(
            f"{label}: VTK read {array.GetNumberOfComponents()} components of the array {name!r}, "
            f"expected {kind.components}"
        )
    if kind.type in DTYPES:
        wanted, found = np.dtype(DTYPES[kind.type]), values_of(array).dtype
        if found.kind != wanted.kind or found.itemsize < wanted.itemsize:
            raise FormatError(
                f"{label}: VTK read the array {name!r} as {found.name}, expected {wanted.name}"
            )


def _confirm_cells(output: Any, prepared: Prepared, group: str, label: str) -> None:
    """Compare the connectivity of each piece with the length of that in the file."""
    cells = getattr(output, f"Get{group}")()
    counts = [piece.size.lists[group] for piece in prepared.pieces]
    total = sum(counts)
    if cells is None or cells.GetNumberOfCells() != total:
        if total or (cells is not None and cells.GetNumberOfCells()):
            raise FormatError(f"{label}: VTK did not read {total} cells of {group}")
        return
    if not total:
        return
    offsets = values_of(cells.GetOffsetsArray())
    connectivity = values_of(cells.GetConnectivityArray())
    bounds = offsets[np.cumsum([0, *counts])].tolist()
    first_point = 0
    for number, piece in enumerate(prepared.pieces):
        start, stop = bounds[number : number + 2]
        held = piece.cell_lengths.get((group, "connectivity"), 0)
        where = f"{label}: piece {number}" if len(prepared.pieces) > 1 else label
        if stop - start != held:
            raise FormatError(
                f"{where}: array 'connectivity' of {group}: expected {stop - start} values, "
                f"as its offsets say, got {held}"
            )
        own = connectivity[start:stop]
        last_point = first_point + piece.size.points
        if len(prepared.pieces) > 1 and len(own):
            low, high = int(own.min()), int(own.max())
            if low < first_point or high >= last_point:
                wrong = (low if low < first_point else high) - first_point
                raise FormatError(
                    f"{where}: its cells refer to number {wrong}, "
                    f"but there are only {piece.size.points} to refer to"
                )
        first_point = last_point


def _confirm_faces(output: Any, prepared: Prepared, label: str) -> None:
    """Compare the faces of polyhedra with the lengths of their arrays, in either form of them."""
    held = {
        name: sum(piece.cell_lengths.get(("Cells", name), 0) for piece in prepared.pieces)
        for name in (*_FACE_ARRAYS, "faces")
    }
    faces, locations = output.GetPolyhedronFaces(), output.GetPolyhedronFaceLocations()
    if not any(held.values()):
        return
    found = dict.fromkeys(held, 0)
    if faces is not None and locations is not None:
        found["face_connectivity"] = faces.GetNumberOfConnectivityIds()
        found["face_offsets"] = faces.GetNumberOfCells()
        found["polyhedron_to_faces"] = locations.GetNumberOfConnectivityIds()
        with_faces = np.diff(values_of(locations.GetOffsetsArray())) > 0
        types = values_of(output.GetCellTypesArray())
        if np.any(types[: len(with_faces)][with_faces] != VTK_POLYHEDRON):
            raise FormatError(f"{label}: it has faces of cells that are no polyhedra")
        polyhedra = int(np.count_nonzero(with_faces))
        # The older form is one run of numbers: per polyhedron its faces, per face its points.
        found["faces"] = polyhedra + found["face_offsets"] + found["face_connectivity"]
    for names in (_FACE_ARRAYS, ("faces",)):
        if not any(held[name] for name in names):
            continue
        for name in names:
            if held[name] != found[name]:
                raise FormatError(
                    f"{label}: array {name!r} of Cells: expected {found[name]} values, "
                    f"got {held[name]}"
                )


def check_faces(piece: Any, label: str) -> None:
    """Check that the faces of one piece refer to its own points.

    Raises:
        FormatError: they do not.
    """
    faces = piece.GetPolyhedronFaces() if piece.IsA("vtkUnstructuredGrid") else None
    if faces is None or not faces.GetNumberOfConnectivityIds():
        return
    numbers = values_of(faces.GetConnectivityArray())
    if numbers.min() < 0 or numbers.max() >= piece.GetNumberOfPoints():
        raise FormatError(
            f"{label}: its faces refer to number {numbers.max()}, "
            f"but there are only {piece.GetNumberOfPoints()} to refer to"
        )
