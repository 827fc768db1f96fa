"""Every kind of VTK dataset, in every file format, equals what pyvista reads."""

import numpy as np
import pytest

pv = pytest.importorskip("pyvista", reason="the vtk extra is not installed")

from dataplane.pack import open_source  # noqa: E402
from tests.pack.oracle import assert_same_arrays, expected_arrays, values_of  # noqa: E402


def _fields(mesh, seed=0):
    """Give a mesh arrays of many types and shapes at points, cells and as a whole."""
    rng = np.random.default_rng(seed)
    for data, count in ((mesh.point_data, mesh.n_points), (mesh.cell_data, mesh.n_cells)):
        data["pressure, static"] = rng.standard_normal(count)
        data["velocity"] = rng.standard_normal((count, 3)).astype(np.float32)
        data["stress/total"] = rng.standard_normal((count, 9))
        data["ids"] = np.arange(count) * 2**33
        data["flags"] = rng.integers(0, 255, count).astype(np.uint8)
    mesh.field_data["TimeValue"] = np.array([0.25])
    mesh.field_data["table"] = rng.standard_normal((4, 2))
    return mesh


def _image():
    return _fields(pv.ImageData(dimensions=(5, 4, 3), spacing=(0.1, 0.2, 0.3), origin=(1, 2, 3)))


def _rectilinear():
    return _fields(pv.RectilinearGrid(np.r_[0.0, 1, 3], np.r_[0.0, 2, 5, 9], np.r_[0.0, 1]))


def _structured():
    x, y, z = np.meshgrid(np.arange(4.0), np.arange(3.0), np.arange(2.0), indexing="ij")
    return _fields(pv.StructuredGrid(x, y + 0.1 * x, z))


def _unstructured():
    mesh = pv.Sphere(theta_resolution=6, phi_resolution=5).delaunay_3d()
    return _fields(mesh.merge(pv.Box().cast_to_unstructured_grid(), merge_points=False))


def _surface():
    # Vertices, lines, polygons of 3, 4 and 5 points, and a strip: all lists of a vtkPolyData.
    points = np.random.default_rng(1).random((9, 3))
    return _fields(
        pv.PolyData(
            points,
            verts=[1, 0, 2, 1, 2],
            lines=[2, 0, 1, 3, 1, 2, 3],
            faces=[3, 0, 1, 2, 4, 2, 3, 4, 5, 5, 4, 5, 6, 7, 8],
            strips=[4, 0, 1, 2, 3],
        )
    )


MAKERS = {
    "vti": _image,
    "vtr": _rectilinear,
    "vts": _structured,
    "vtu": _unstructured,
    "vtp": _surface,
}


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("suffix", MAKERS)
def test_xml_files_equal_what_pyvista_reads(tmp_path, suffix, binary):
    path = tmp_path / f"case.{suffix}"
    MAKERS[suffix]().save(path, binary=binary)
    (sample,) = open_source(path)
    assert_same_arrays(values_of(sample), expected_arrays(pv.read(path)))
    assert sample.key == "case"
    assert sample.attributes["time"] == 0.25


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("kind", MAKERS)
def test_legacy_files_equal_what_pyvista_reads(tmp_path, kind, binary):
    path = tmp_path / "case.vtk"
    MAKERS[kind]().save(path, binary=binary)
    (sample,) = open_source(path)
    assert_same_arrays(values_of(sample), expected_arrays(pv.read(path)))


@pytest.mark.parametrize("name", ["hexbeam.vtk", "rectilinear.vtk", "uniform.vtk", "globe.vtk"])
def test_files_that_pyvista_ships_equal_what_it_reads(name):
    path = f"{pv.examples.dir_path}/{name}"
    (sample,) = open_source(path)
    assert_same_arrays(values_of(sample), expected_arrays(pv.read(path)))


@pytest.mark.parametrize("name", ["can.vtu", "carotid.vtk", "cth.vtr"])
def test_real_results_equal_what_pyvista_reads(simulation_files, name):
    (sample,) = open_source(simulation_files / name)
    assert_same_arrays(values_of(sample), expected_arrays(pv.read(simulation_files / name)))


def test_arrays_have_dimension_names_and_their_original_names(tmp_path):
    _unstructured().save(tmp_path / "case.vtu")
    (sample,) = open_source(tmp_path / "case.vtu")
    stress = sample.arrays["point_data/stress%2Ftotal"]
    assert stress.dimension_names == ("point", "c")
    assert stress.attributes["name"] == "stress/total"
    assert sample.arrays["cell_data/ids"].dimension_names == ("cell",)
    assert sample.arrays["cell_data/pressure, static"].values.dtype == np.float64


def test_grid_arrays_are_views_in_vtk_order(tmp_path):
    _image().save(tmp_path / "case.vti")
    (sample,) = open_source(tmp_path / "case.vti")
    velocity = sample.arrays["fields/velocity"]
    assert velocity.dimension_names == ("z", "y", "x", "c")
    assert velocity.values.shape == (3, 4, 5, 3)
    assert velocity.values.flags.c_contiguous
    cells = sample.arrays["cell_fields/velocity"]
    assert cells.dimension_names == ("z_cell", "y_cell", "x_cell", "c")
    assert cells.attributes["association"] == "cell"
    assert sample.attributes["origin"] == [1, 2, 3]
    assert sample.attributes["spacing"] == [0.1, 0.2, 0.3]


def test_an_image_cut_from_a_larger_one_keeps_its_place(tmp_path):
    image = _image().extract_subset((1, 4, 1, 3, 0, 2))
    image.save(tmp_path / "case.vti")
    (sample,) = open_source(tmp_path / "case.vti")
    assert sample.attributes["origin"] == pytest.approx(pv.read(tmp_path / "case.vti").points[0])


def test_a_flat_grid_has_one_layer_of_cells(tmp_path):
    image = _fields(pv.ImageData(dimensions=(5, 4, 1)))
    image.save(tmp_path / "flat.vti")
    (sample,) = open_source(tmp_path / "flat.vti")
    assert_same_arrays(values_of(sample), expected_arrays(pv.read(tmp_path / "flat.vti")))
    assert sample.arrays["cell_fields/flags"].values.shape == (1, 3, 4)


def test_units_and_component_names_are_kept(tmp_path):
    from vtkmodules.vtkCommonCore import vtkDataArray

    image = _image()
    array = image.GetPointData().GetArray("velocity")
    array.GetInformation().Set(vtkDataArray.UNITS_LABEL(), "m/s")
    for number, name in enumerate(("u", "v", "w")):
        array.SetComponentName(number, name)
    image.save(tmp_path / "case.vti")
    (sample,) = open_source(tmp_path / "case.vti")
    velocity = sample.arrays["fields/velocity"]
    assert velocity.units == "m/s"
    assert velocity.attributes["components"] == ["u", "v", "w"]
    assert sample.arrays["fields/flags"].units is None


def test_text_becomes_attributes_up_to_a_limit(tmp_path):
    image = _image()
    image.field_data["title"] = ["blunt fin", "run 3"]
    image.field_data["novel"] = ["x" * 100_000]
    image.save(tmp_path / "case.vti")
    (sample,) = open_source(tmp_path / "case.vti")
    assert sample.attributes["text"] == {"global_data/title": ["blunt fin", "run 3"]}
    (left_out,) = sample.attributes["text_left_out"]
    assert left_out == {"name": "global_data/novel", "values": 1, "characters": 100_000}


def test_polyhedra_keep_their_faces(tmp_path):
    from vtkmodules.vtkCommonDataModel import VTK_POLYHEDRON

    # A tetrahedron given by its faces, and a hexahedron that has none.
    faces = [4, 3, 0, 1, 2, 3, 0, 1, 3, 3, 1, 2, 3, 3, 0, 2, 3]
    mesh = pv.UnstructuredGrid(
        [len(faces), *faces], [VTK_POLYHEDRON], np.random.default_rng(0).random((4, 3))
    )
    mesh = mesh.merge(pv.Box().cast_to_unstructured_grid(), merge_points=False)
    mesh.save(tmp_path / "case.vtu")
    (sample,) = open_source(tmp_path / "case.vtu")
    arrays = values_of(sample)
    cell = int(np.flatnonzero(arrays["cells/types"] == VTK_POLYHEDRON)[0])
    first, last = arrays["cells/polyhedron_offsets"][cell : cell + 2]
    found = []
    for face in arrays["cells/polyhedron_to_faces"][first:last]:
        start, stop = arrays["cells/face_offsets"][face : face + 2]
        found.append(list(arrays["cells/face_connectivity"][start:stop]))
    expected = [list(f.point_ids) for f in pv.read(tmp_path / "case.vtu").get_cell(cell).faces]
    assert found == expected
    assert sample.arrays["cells/face_connectivity"].attributes == {"index_of": "point"}
    assert len(arrays["cells/polyhedron_offsets"]) == mesh.n_cells + 1


def test_unnamed_and_double_names_stay_apart(tmp_path):
    from vtkmodules.util.numpy_support import numpy_to_vtk

    from dataplane.pack.source import Converted
    from dataplane.pack.vtk.arrays import ArrayGroup, add_arrays

    image = pv.ImageData(dimensions=(2, 2, 2))
    for value, name in ((1.0, ""), (2.0, "unnamed")):
        array = numpy_to_vtk(np.full(8, value), deep=True)
        array.SetName(name)
        image.GetPointData().AddArray(array)
    converted = Converted()
    group = ArrayGroup("fields", 8, (2, 2, 2), ("z", "y", "x"))
    add_arrays(converted, image.GetPointData(), group, "test")
    assert [*converted.arrays] == ["fields/unnamed", "fields/unnamed~2"]
    assert [a.attributes["name"] for a in converted.arrays.values()] == ["", "unnamed"]


def test_ghost_arrays_are_ordinary_arrays(tmp_path):
    grid = _unstructured()
    grid.cell_data["vtkGhostType"] = np.zeros(grid.n_cells, np.uint8)
    grid.save(tmp_path / "case.vtu")
    (sample,) = open_source(tmp_path / "case.vtu")
    assert sample.arrays["cell_data/vtkGhostType"].values.dtype == np.uint8


def test_a_point_cloud_without_cells_has_no_cell_arrays(tmp_path):
    from vtkmodules.vtkIOXML import vtkXMLUnstructuredGridWriter

    grid = pv.UnstructuredGrid()
    grid.points = np.random.default_rng(0).random((5, 3))
    grid.point_data["p"] = np.arange(5.0)
    writer = vtkXMLUnstructuredGridWriter()
    writer.SetInputData(grid)
    writer.SetFileName(str(tmp_path / "cloud.vtu"))
    writer.Write()
    (sample,) = open_source(tmp_path / "cloud.vtu")
    assert sorted(sample.arrays) == ["point_data/p", "points"]


def test_the_source_is_described_and_nothing_depends_on_the_place(tmp_path):
    import hashlib

    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        _image().save(tmp_path / folder / "case.vti")
    (first,), (second,) = (open_source(tmp_path / f / "case.vti") for f in "ab")
    content = (tmp_path / "a" / "case.vti").read_bytes()
    assert first.attributes["source"] == {
        "name": "case.vti",
        "format": "vti",
        "files": [
            {
                "name": "case.vti",
                "size_bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
        ],
    }
    assert first.attributes == second.attributes
