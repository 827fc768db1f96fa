"""Cells of VTK meshes as `cells/connectivity`, `cells/offsets`, `cells/types`. Reads no file.

Cell i is the point numbers `connectivity[offsets[i]:offsets[i + 1]]`, its shape is VTK's number
`types[i]`. An unstructured grid has exactly these arrays. A surface keeps four lists, vertices,
lines, polygons and strips; they follow each other in this order, which is that of its cell data,
and get the types that VTK would name. Polyhedra add their faces under the names of VTKHDF.

Integers keep the width that VTK gives them. Everything that a file declares is checked here, since
VTK itself does not: a point number outside the mesh would crash a later user of it.
Thread-safe: no state. Source: VTK's vtkCellType.h; the VTKHDF file format, UnstructuredGrid.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.errors import FormatError
from dataplane.pack.source import Converted
from dataplane.pack.vtk.arrays import values_of
from dataplane.shards import SourceArray

__all__ = ["add_grid_cells", "add_surface_cells"]

Integers = npt.NDArray[Any]

VTK_VERTEX = 1
VTK_POLY_VERTEX = 2
VTK_LINE = 3
VTK_POLY_LINE = 4
VTK_TRIANGLE = 5
VTK_TRIANGLE_STRIP = 6
VTK_POLYGON = 7
VTK_QUAD = 9
VTK_POLYHEDRON = 42


def add_grid_cells(converted: Converted, grid: Any, label: str) -> None:
    """Add the cells of a vtkUnstructuredGrid.

    Raises:
        FormatError: the cells refer to points that are not there, or do not fit together.
    """
    count = grid.GetNumberOfCells()
    if count == 0:
        return
    cells = grid.GetCells()
    connectivity = values_of(cells.GetConnectivityArray())
    offsets = values_of(cells.GetOffsetsArray())
    types = values_of(grid.GetCellTypes())
    _add_cells(converted, connectivity, offsets, types, label)
    _check(grid.GetNumberOfPoints(), count, connectivity, offsets, label)
    if np.any(types == VTK_POLYHEDRON):
        _add_polyhedra(converted, grid, label)


def add_surface_cells(converted: Converted, surface: Any, label: str) -> None:
    """Add the cells of a vtkPolyData: vertices, lines, polygons, strips.

    Raises:
        FormatError: the cells refer to points that are not there, or do not fit together.
    """
    points = surface.GetNumberOfPoints()
    parts: list[tuple[Integers, Integers, Integers]] = []
    for cells, special, otherwise in (
        (surface.GetVerts(), {1: VTK_VERTEX}, VTK_POLY_VERTEX),
        (surface.GetLines(), {2: VTK_LINE}, VTK_POLY_LINE),
        (surface.GetPolys(), {3: VTK_TRIANGLE, 4: VTK_QUAD}, VTK_POLYGON),
        (surface.GetStrips(), {}, VTK_TRIANGLE_STRIP),
    ):
        if cells is None or cells.GetNumberOfCells() == 0:
            continue
        connectivity = values_of(cells.GetConnectivityArray())
        offsets = values_of(cells.GetOffsetsArray())
        _check(points, cells.GetNumberOfCells(), connectivity, offsets, label)
        types = np.full(len(offsets) - 1, otherwise, np.uint8)
        lengths = np.diff(offsets)
        for length, kind in special.items():
            types[lengths == length] = kind
        parts.append((connectivity, offsets, types))
    if not parts:
        return
    connectivity = np.concatenate([part[0] for part in parts]) if len(parts) > 1 else parts[0][0]
    starts = np.cumsum([0, *(len(part[0]) for part in parts)])
    offsets = parts[0][1]
    for start, part in zip(starts[1:-1], parts[1:], strict=True):
        offsets = np.concatenate([offsets, part[1][1:] + start.astype(part[1].dtype)])
    types = np.concatenate([part[2] for part in parts])
    _add_cells(converted, connectivity, offsets, types, label)


def _add_cells(
    converted: Converted, connectivity: Integers, offsets: Integers, types: Integers, label: str
) -> None:
    if len(types) != len(offsets) - 1:
        raise FormatError(f"{label}: {len(types)} cell types for {len(offsets) - 1} cells")
    converted.arrays["cells/connectivity"] = SourceArray(connectivity, ("corner",))
    converted.arrays["cells/offsets"] = SourceArray(offsets, ("cell_bound",))
    converted.arrays["cells/types"] = SourceArray(types, ("cell",))


def _add_polyhedra(converted: Converted, grid: Any, label: str) -> None:
    """Add the faces of polyhedral cells; cells of other shapes have an empty run of faces."""
    faces, locations = grid.GetPolyhedronFaces(), grid.GetPolyhedronFaceLocations()
    if faces is None or locations is None:
        raise FormatError(f"{label}: it has polyhedra without faces")
    face_points = values_of(faces.GetConnectivityArray())
    face_offsets = values_of(faces.GetOffsetsArray())
    cell_faces = values_of(locations.GetConnectivityArray())
    cell_offsets = values_of(locations.GetOffsetsArray())
    where = f"{label}: faces"
    _check(grid.GetNumberOfPoints(), faces.GetNumberOfCells(), face_points, face_offsets, where)
    _check(faces.GetNumberOfCells(), grid.GetNumberOfCells(), cell_faces, cell_offsets, where)
    converted.arrays["cells/face_connectivity"] = SourceArray(
        face_points, ("face_corner",), attributes={"index_of": "point"}
    )
    converted.arrays["cells/face_offsets"] = SourceArray(face_offsets, ("face_bound",))
    converted.arrays["cells/polyhedron_to_faces"] = SourceArray(cell_faces, ("cell_face",))
    converted.arrays["cells/polyhedron_offsets"] = SourceArray(cell_offsets, ("cell_bound",))


def _check(
    numbered: int, count: int, connectivity: Integers, offsets: Integers, label: str
) -> None:
    """Check `count` runs of numbers below `numbered`."""
    if len(offsets) != count + 1:
        raise FormatError(f"{label}: {len(offsets)} cell offsets for {count} cells")
    if offsets[0] != 0 or offsets[-1] != len(connectivity) or np.any(offsets[1:] < offsets[:-1]):
        raise FormatError(
            f"{label}: its cell offsets do not rise from 0 to {len(connectivity)}, "
            f"the length of its connectivity"
        )
    if len(connectivity) and (connectivity.min() < 0 or connectivity.max() >= numbered):
        raise FormatError(
            f"{label}: its cells refer to number {connectivity.max()}, "
            f"but there are only {numbered} to refer to"
        )
