"""What pyvista says a dataset holds, under the names of a packed sample."""

import numpy as np
import pyvista as pv

from dataplane.pack.names import array_segment


def expected_arrays(mesh):
    """Arrays of a pyvista dataset by their names in a sample."""
    arrays = _mesh(mesh) if isinstance(mesh, pv.PolyData | pv.UnstructuredGrid) else _grid(mesh)
    for name in mesh.field_data:
        values = np.asarray(mesh.field_data[name])
        if values.dtype.kind not in "US":
            arrays[f"global_data/{array_segment(name)}"] = values
    return arrays


def _mesh(mesh):
    arrays = {"points": np.asarray(mesh.points)}
    grid = mesh if isinstance(mesh, pv.UnstructuredGrid) else mesh.cast_to_unstructured_grid()
    if grid.n_cells:
        arrays["cells/connectivity"] = grid.cell_connectivity
        modern = hasattr(grid, "cell_offsets")  # the older name warns where there is a newer one
        arrays["cells/offsets"] = grid.cell_offsets if modern else grid.offset
        arrays["cells/types"] = grid.celltypes
    for name in mesh.point_data:
        arrays[f"point_data/{array_segment(name)}"] = np.asarray(mesh.point_data[name])
    for name in mesh.cell_data:
        arrays[f"cell_data/{array_segment(name)}"] = np.asarray(mesh.cell_data[name])
    return arrays


def _grid(mesh):
    arrays = {}
    shape = tuple(mesh.dimensions[::-1])
    cells = tuple(max(1, n - 1) for n in shape)
    if isinstance(mesh, pv.RectilinearGrid):
        for axis in "xyz":
            arrays[f"coordinates/{axis}"] = np.asarray(getattr(mesh, axis))
    if isinstance(mesh, pv.StructuredGrid):
        arrays["points"] = np.asarray(mesh.points).reshape(*shape, 3)
    for prefix, data, extent in (
        ("fields", mesh.point_data, shape),
        ("cell_fields", mesh.cell_data, cells),
    ):
        for name in data:
            values = np.asarray(data[name])
            arrays[f"{prefix}/{array_segment(name)}"] = values.reshape(*extent, *values.shape[1:])
    return arrays


def assert_same_arrays(found, expected):
    """Compare two mappings of arrays: names, types, shapes and every bit."""
    assert set(found) == set(expected)
    for name, values in expected.items():
        mine = np.asarray(found[name])
        assert mine.dtype == values.dtype, name
        assert mine.shape == values.shape, name
        assert mine.tobytes() == np.ascontiguousarray(values).tobytes(), name


def values_of(sample):
    """Arrays of a SourceSample by name."""
    return {name: array.values for name, array in sample.arrays.items()}
