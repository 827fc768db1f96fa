"""Legacy VTK files of every version and section are walked to their end, and not beyond."""

import numpy as np
import pytest

pv = pytest.importorskip("pyvista", reason="the vtk extra is not installed")

from dataplane.errors import FormatError  # noqa: E402
from dataplane.pack import open_source  # noqa: E402
from dataplane.pack.vtk_legacy import check_legacy  # noqa: E402
from tests.pack.oracle import assert_same_arrays, expected_arrays, values_of  # noqa: E402

TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "f4", "f8")


def _everything(dataset):
    """Use every section that VTK's writer knows."""
    from vtkmodules.util.numpy_support import numpy_to_vtk
    from vtkmodules.vtkCommonCore import vtkBitArray, vtkIdTypeArray, vtkStringArray

    count = dataset.GetNumberOfPoints()
    rng = np.random.default_rng(0)
    data = dataset.GetPointData()

    def add(name, values):
        array = numpy_to_vtk(np.ascontiguousarray(values), deep=True)
        array.SetName(name)
        return array

    data.SetScalars(add("the scalars", rng.random((count, 2)).astype("f4")))
    data.SetVectors(add("vectors", rng.random((count, 3))))
    normals = rng.random((count, 3)).astype("f4")
    data.SetNormals(add("normals", normals / np.linalg.norm(normals, axis=1, keepdims=True)))
    data.SetTensors(add("tensors", rng.random((count, 9))))
    data.SetTCoords(add("texture", rng.random((count, 2)).astype("f4")))
    for type_name in TYPES:
        data.AddArray(add(f"of type {type_name}", rng.integers(0, 100, count).astype(type_name)))
    data.GetArray("vectors").SetComponentName(0, "u")
    ids = vtkIdTypeArray()
    ids.SetName("ids")
    bits = vtkBitArray()
    bits.SetName("bits")
    for number in range(count):
        ids.InsertNextValue(number)
        bits.InsertNextValue(number % 3 == 0)
    data.SetGlobalIds(ids)
    data.AddArray(bits)
    text = vtkStringArray()
    text.SetName("text")
    for value in ("", "short", "long " * 40, "very long " * 3000):
        text.InsertNextValue(value)
    dataset.GetFieldData().AddArray(text)
    dataset.GetFieldData().AddArray(add("table", rng.random((3, 2))))
    return dataset


def _dataset(kind):
    if kind == "grid":
        return pv.Sphere(theta_resolution=5, phi_resolution=5).cast_to_unstructured_grid()
    if kind == "surface":
        return pv.PolyData(
            np.random.default_rng(1).random((7, 3)),
            verts=[1, 0],
            lines=[2, 1, 2],
            faces=[3, 0, 1, 2, 4, 3, 4, 5, 6],
            strips=[4, 0, 1, 2, 3],
        )
    if kind == "image":
        return pv.ImageData(dimensions=(3, 4, 2))
    if kind == "rectilinear":
        return pv.RectilinearGrid(np.r_[0.0, 1, 3], np.r_[0.0, 2], np.r_[0.0, 1])
    axes = np.meshgrid(np.arange(3.0), np.arange(2.0), np.arange(2.0), indexing="ij")
    return pv.StructuredGrid(*axes)


def _write(dataset, path, *, binary, version):
    from vtkmodules.vtkIOLegacy import vtkDataSetWriter

    writer = vtkDataSetWriter()
    writer.SetInputData(dataset)
    writer.SetFileName(str(path))
    writer.SetFileVersion(version)
    if binary:
        writer.SetFileTypeToBinary()
    writer.Write()


@pytest.mark.parametrize("version", [42, 51])
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("kind", ["grid", "surface", "image", "rectilinear", "structured"])
def test_files_with_every_section_are_whole_and_equal_pyvista(tmp_path, kind, binary, version):
    path = tmp_path / "case.vtk"
    _write(_everything(_dataset(kind)), path, binary=binary, version=version)
    (sample,) = open_source(path)
    expected = expected_arrays(pv.read(path))
    for name, values in expected.items():
        if name.endswith("/bits"):  # pyvista gives bits as int8, VTK itself as uint8
            expected[name] = values.astype(np.uint8)
    assert_same_arrays(values_of(sample), expected)
    assert sample.attributes["text"]["global_data/text"][2] == "long " * 40


@pytest.mark.parametrize("version", [42, 51])
@pytest.mark.parametrize("binary", [True, False])
def test_a_cut_inside_any_values_is_noticed(tmp_path, binary, version):
    path = tmp_path / "case.vtk"
    _write(_dataset("surface"), path, binary=binary, version=version)
    content = path.read_bytes()
    start = content.index(b"POINTS")
    last = content.rindex(b"TRIANGLE_STRIPS")
    for size in range(start, len(content.rstrip()), 3):
        path.write_bytes(content[:size])
        # A cut just before a section leaves a file that says nothing of it.
        if content[size:].lstrip().split(None, 1)[0].isupper() and size <= last:
            continue
        with pytest.raises(FormatError, match=r"case\.vtk"):
            list(open_source(path))


HEAD = "# vtk DataFile Version 3.0\ntitle\nASCII\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("nonsense\n", "no version"),
        ("# vtk DataFile Version 3.0\nt\nHEX\n", "neither ASCII nor BINARY"),
        (f"{HEAD}DATASET POLYDATA\nPOINTS 99999999999999 float\n1 2 3\n", "was cut"),
        (f"{HEAD}DATASET POLYDATA\nPOINTS -4 float\n", "where a number belongs"),
        (f"{HEAD}DATASET POLYDATA\nPOINTS {'9' * 30} float\n", "where a number belongs"),
        (f"{HEAD}DATASET POLYDATA\nPOINTS 1 quaternion\n1 2 3\n", "unknown type 'quaternion'"),
        (f"{HEAD}DATASET POLYDATA\nPOINTS 1\n", "incomplete section header"),
        (f"{HEAD}DATASET POLYDATA\nPOINTS 1 float\n1 2 3", "does not end with a newline"),
        (f"{HEAD}DATASET POLYDATA\nSURPRISE 1\n", "unknown section 'surprise'"),
        (f"{HEAD}FIELD f 2\na 1 1 float\n1\n", "ends where an array"),
        (f"{HEAD}FIELD f 1\na 1 3 string\nx\n", "ends within text"),
        (f"{HEAD}POINT_DATA 1\nSCALARS s float 1\nVALUES x\n", "where LOOKUP_TABLE belongs"),
    ],
)
def test_what_does_not_follow_the_format_is_refused(tmp_path, content, reason):
    path = tmp_path / "case.vtk"
    path.write_text(content)
    with pytest.raises(FormatError, match=f"case.vtk: .*{reason}"):
        check_legacy(path, "case.vtk")


def test_a_length_of_text_that_lies_is_refused(tmp_path):
    path = tmp_path / "case.vtk"
    head = HEAD.replace("ASCII", "BINARY") + "FIELD f 1\na 1 1 string\n"
    path.write_bytes(head.encode() + b"\x00" + b"\xff" * 7 + b"abc\n")
    with pytest.raises(FormatError, match="ends within text"):
        check_legacy(path, "case.vtk")
