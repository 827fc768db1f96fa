"""Samples from VTK datasets: the place of each array, for each kind of dataset.

- Unstructured grids and surfaces: `points` [N,3], `cells/…`, `point_data/…`, `cell_data/…`.
- Regular grids (image data, rectilinear): `fields/…` [z,y,x(,c)] at points, `cell_fields/…` at
  cells, with `origin` and `spacing` as attributes, or `coordinates/x|y|z`. Cell fields have
  dimensions of their own, since a grid of n points has n - 1 cells per direction.
- Curvilinear grids: the same, and `points` [z,y,x,3].
- Field data of any of them: `global_data/…`.

VTK stores x fastest, so [z,y,x] is its memory as it is: `.reshape(-1)` gives VTK's order back.
Thread-safe: no state.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from dataplane.errors import FormatError
from dataplane.pack.source import Converted, Converter, SourceFile, describe_source
from dataplane.pack.vtk.arrays import ArrayGroup, add_arrays, values_of
from dataplane.pack.vtk.cells import add_grid_cells, add_surface_cells
from dataplane.pack.vtk.read import read_legacy, read_xml
from dataplane.shards import SourceArray, SourceSample

__all__ = ["VTK_CONVERTERS"]

_AXES = ("x", "y", "z")
_POINT_AXES = ("z", "y", "x")
_CELL_AXES = ("z_cell", "y_cell", "x_cell")
_TIME_ARRAYS = ("TimeValue", "TIME")
"""Field data in which writers put the time of a file: ParaView's; deal.II's and VisIt's."""


def _convert_xml(source: SourceFile) -> Iterator[SourceSample]:
    """Convert a VTK XML file (`.vtu .vtp .vti .vtr .vts`, and the parallel `.pvtu`, …)."""
    dataset, left_out = read_xml(source.path, source.label, source.companions)
    notes = {"arrays_left_out": left_out} if left_out else {}
    yield _sample(source, dataset, notes)


def _convert_legacy(source: SourceFile) -> Iterator[SourceSample]:
    """Convert a legacy VTK file (`.vtk`)."""
    yield _sample(source, read_legacy(source.path, source.label), {})


VTK_CONVERTERS: dict[str, Converter] = {
    "vtk": _convert_legacy,
    **{
        f"{parallel}{name}": _convert_xml
        for name in ("vti", "vtp", "vtr", "vts", "vtu")
        for parallel in ("", "p")
    },
}
"""Converters by format. VTK can crash over a damaged file, so they run in subprocesses."""


def _sample(source: SourceFile, dataset: Any, notes: dict[str, Any]) -> SourceSample:
    label = source.label
    if dataset.GetNumberOfPoints() < 1:
        raise FormatError(f"{label}: it holds no points")
    converted = Converted()
    if dataset.IsA("vtkUnstructuredGrid"):
        _add_points(converted, dataset)
        add_grid_cells(converted, dataset, label)
        _add_mesh_data(converted, dataset, label)
    elif dataset.IsA("vtkPolyData"):
        _add_points(converted, dataset)
        add_surface_cells(converted, dataset, label)
        _add_mesh_data(converted, dataset, label)
    elif any(
        dataset.IsA(f"vtk{kind}") for kind in ("ImageData", "RectilinearGrid", "StructuredGrid")
    ):
        _add_grid(converted, dataset, label)
    else:
        raise FormatError(f"{label}: a {dataset.GetClassName()} is not a mesh or grid")
    group = ArrayGroup("global_data", None, None, None)
    add_arrays(converted, dataset.GetFieldData(), group, label)
    attributes: dict[str, Any] = {"dataset": _dataset_kind(dataset), **notes}
    for name in _TIME_ARRAYS:
        time = converted.arrays.get(f"global_data/{name}")
        if time is not None and time.values.size == 1:
            attributes["time"] = float(time.values.reshape(-1)[0])
            break
    attributes |= converted.attributes
    return SourceSample(source.key, converted.arrays, attributes | describe_source(source))


def _dataset_kind(dataset: Any) -> str:
    kind = str(dataset.GetClassName()).removeprefix("vtk")
    return "ImageData" if kind == "StructuredPoints" else kind  # its name in legacy files


def _add_points(converted: Converted, dataset: Any) -> None:
    points = values_of(dataset.GetPoints().GetData())
    converted.arrays["points"] = SourceArray(points, ("point", "c"))


def _add_mesh_data(converted: Converted, mesh: Any, label: str) -> None:
    points, cells = mesh.GetNumberOfPoints(), mesh.GetNumberOfCells()
    group = ArrayGroup("point_data", points, None, ("point",))
    add_arrays(converted, mesh.GetPointData(), group, label)
    group = ArrayGroup("cell_data", cells, None, ("cell",))
    add_arrays(converted, mesh.GetCellData(), group, label)


def _add_grid(converted: Converted, grid: Any, label: str) -> None:
    extent = list(grid.GetExtent())
    nx, ny, nz = (high - low + 1 for low, high in zip(extent[::2], extent[1::2], strict=True))
    shape = (nz, ny, nx)
    # VTK gives a flat direction one layer of cells of a lower dimension.
    cell_shape = tuple(max(1, n - 1) for n in shape)
    if int(np.prod(shape, dtype=np.int64)) != grid.GetNumberOfPoints():
        raise FormatError(
            f"{label}: a grid of {nx}×{ny}×{nz} cannot have {grid.GetNumberOfPoints()} points"
        )
    if grid.IsA("vtkImageData"):
        converted.attributes |= _image_geometry(grid)
    elif grid.IsA("vtkRectilinearGrid"):
        for axis in _AXES:
            coordinates = values_of(getattr(grid, f"Get{axis.upper()}Coordinates")())
            converted.arrays[f"coordinates/{axis}"] = SourceArray(coordinates, (axis,))
    else:
        points = values_of(grid.GetPoints().GetData()).reshape(*shape, 3)
        converted.arrays["points"] = SourceArray(points, (*_POINT_AXES, "c"))
    if any(extent[::2]):
        converted.attributes["extent"] = extent
    group = ArrayGroup(
        "fields", grid.GetNumberOfPoints(), shape, _POINT_AXES, {"association": "point"}
    )
    add_arrays(converted, grid.GetPointData(), group, label)
    group = ArrayGroup(
        "cell_fields", grid.GetNumberOfCells(), cell_shape, _CELL_AXES, {"association": "cell"}
    )
    add_arrays(converted, grid.GetCellData(), group, label)


def _image_geometry(image: Any) -> dict[str, Any]:
    """Return origin (of element [0,0,0]), spacing, and the axes' directions unless trivial."""
    origin = list(image.GetOrigin())
    if any(image.GetExtent()[::2]):
        origin = list(image.GetPoint(0))
    geometry: dict[str, Any] = {"origin": origin, "spacing": list(image.GetSpacing())}
    matrix = image.GetDirectionMatrix()
    direction = [matrix.GetElement(row, column) for row in range(3) for column in range(3)]
    if not np.array_equal(np.reshape(direction, (3, 3)), np.eye(3)):
        geometry["direction"] = direction
    return geometry
