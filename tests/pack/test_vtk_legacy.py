"""Legacy VTK files of every version and section are walked to their end, and not beyond."""

import numpy as np
import pytest

pv = pytest.importorskip("pyvista", reason="the vtk extra is not installed")

from dataplane.errors import FormatError  # noqa: E402
from dataplane.pack import open_source  # noqa: E402
from dataplane.pack.vtk.legacy import check_legacy  # noqa: E402
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
        (f"{HEAD}DATASET POLYDATA\nPOINTS 3 float\n1 2 3 \n4 5 6 \n7 8 9", "its last number"),
        (f"{HEAD}DATASET POLYDATA\nPOINTS 4 float\n{'1.25 ' * 11}1.2", "its last number"),
        (f"{HEAD}DATASET POLYDATA\nPOINTS 1 float\n1 2 3e", "'3e', which is no float32"),
        (f"{HEAD}DATASET POLYDATA\nPOINTS 1 float\n1 2 1.0-101\n", "'1.0-101', which is no float"),
        (f"{HEAD}DATASET POLYDATA\nPOINTS 1 float\n1 2 3 4\n", "unknown section '4'"),
        (f"{HEAD}DATASET POLYDATA\nPOINTS 1 float\n1 2\nLINES 0 0\n", "'LINES', which is no"),
        (f"{HEAD}DATASET POLYDATA\nPOINTS 1 int\n1 2 3.5\n", "'3.5', which is no int32"),
        (f"{HEAD}DATASET POLYDATA\nPOINTS 1 int\n1 2 4294967297\n", "4294967297, which is no int"),
        (f"{HEAD}DATASET POLYDATA\nPOINTS 1 int\n1 2 inf\n", "'inf', which is no int32"),
        (f"{HEAD}DATASET POLYDATA\nDATASET POLYDATA\n", "second section 'dataset'"),
        (f"{HEAD}DATASET TABLE\n", "'TABLE', which is no mesh"),
        (f"{HEAD}DATASET STRUCTURED_POINTS\nSPACING 1 1 1\n", "no dimensions section"),
        (f"{HEAD}DATASET STRUCTURED_POINTS\nDIMENSIONS 2 0 1\n", "sizes 2×0×1"),
        (f"{HEAD}DATASET STRUCTURED_GRID\nDIMENSIONS 2 1 1\nPOINTS 1 int\n1 2 3\n", "1 points"),
        (
            f"{HEAD}DATASET UNSTRUCTURED_GRID\nPOINTS 1 int\n1 2 3\nCELLS 1 2\n1 0\n",
            "0 cell types for 1 cells",
        ),
        (
            f"{HEAD}DATASET UNSTRUCTURED_GRID\nCELLS 1 2\n1 0\nCELL_TYPES 1\n256\n",
            "256, which is not between 0 and 255",
        ),
        ("# vtk DataFile Version 7.0\nt\nASCII\n", "unknown version 7"),
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


TETRA = """# vtk DataFile Version 3.0
title
{blank}ASCII
DATASET UNSTRUCTURED_GRID
POINTS 4 double
0 0 0 1 0 0 0 1 0 0 0 1
CELLS 1 5
4 0 1 2 3
CELL_TYPES 1
10
POINT_DATA 4
"""
SCALARS = "SCALARS {name} double 1\nLOOKUP_TABLE default\n{values}\n"


def _open(path, text):
    path.write_bytes(text.encode())
    (sample,) = open_source(path)
    return sample


def test_a_blank_line_before_the_encoding_is_no_fault(tmp_path):
    text = TETRA.format(blank="\n \n") + SCALARS.format(name="p", values="1 2 3 4")
    sample = _open(tmp_path / "case.vtk", text)
    assert sample.arrays["point_data/p"].values.tolist() == [1, 2, 3, 4]
    assert sample.arrays["cells/connectivity"].values.tolist() == [0, 1, 2, 3]


def test_values_may_begin_on_the_line_of_their_header(tmp_path):
    head = "# vtk DataFile Version 3.0\ntitle\nASCII\nDATASET POLYDATA\n"
    sample = _open(tmp_path / "case.vtk", f"{head}POINTS 2 float 0 0 0 1\n0 0\nLINES 1 3 2\n0\n1\n")
    assert sample.arrays["points"].values.tolist() == [[0, 0, 0], [1, 0, 0]]
    assert sample.arrays["cells/connectivity"].values.tolist() == [0, 1]
    assert sample.arrays["cells/types"].values.tolist() == [3]


def test_a_whole_file_needs_no_newline_at_its_end(tmp_path):
    text = TETRA.format(blank="") + SCALARS.format(name="p", values="1 2 3 4")
    sample = _open(tmp_path / "case.vtk", text.rstrip())
    assert sample.arrays["point_data/p"].values.tolist() == [1, 2, 3, 4]


def test_arrays_of_one_name_are_all_kept(tmp_path):
    text = TETRA.format(blank="")
    for first in (1, 5, 9):
        values = " ".join(map(str, range(first, first + 4)))
        text += SCALARS.format(name="p", values=values)
    text += "FIELD f 2\np 1 4 int\n13 14 15 16\nq 1 4 int\n1 1 1 1\n"
    text += "CELL_DATA 1\n" + SCALARS.format(name="p", values="7")
    sample = _open(tmp_path / "case.vtk", text)
    found = {name: array.values.tolist() for name, array in sample.arrays.items()}
    assert found["point_data/p"] == [1, 2, 3, 4]
    assert found["point_data/p~2"] == [5, 6, 7, 8]
    assert found["point_data/p~3"] == [9, 10, 11, 12]
    assert found["point_data/p~4"] == [13, 14, 15, 16]
    assert found["point_data/q"] == [1, 1, 1, 1]
    assert found["cell_data/p"] == [7]
    assert sample.arrays["point_data/p~2"].attributes["name"] == "p"


@pytest.mark.parametrize(("written", "name"), [("50%", "50%"), ("a%2", "a%2"), ("%25%zz", "%%zz")])
def test_a_percent_sign_that_encodes_nothing_stays_in_the_name(tmp_path, written, name):
    text = TETRA.format(blank="") + SCALARS.format(name=written, values="1 2 3 4")
    sample = _open(tmp_path / "case.vtk", text)
    names = [array.attributes["name"] for array in sample.arrays.values() if array.attributes]
    assert names == [name]


def test_infinities_and_nan_of_text_files_are_kept(tmp_path):
    text = TETRA.format(blank="") + SCALARS.format(name="p", values="-inf inf nan -1e-300")
    values = _open(tmp_path / "case.vtk", text).arrays["point_data/p"].values
    assert np.array_equal(values, [-np.inf, np.inf, np.nan, -1e-300], equal_nan=True)


def test_a_name_that_is_no_utf8_is_refused_with_its_name(tmp_path):
    text = TETRA.format(blank="") + SCALARS.format(name="Gr\xf6sse", values="1 2 3 4")
    (tmp_path / "case.vtk").write_bytes(text.encode("latin-1"))
    with pytest.raises(FormatError, match="array name 'Grösse' is no UTF-8"):
        list(open_source(tmp_path / "case.vtk"))


@pytest.mark.parametrize("binary", [True, False])
def test_bits_of_several_components_are_read(tmp_path, binary):
    bits = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 0], [1, 1, 1]])
    head = TETRA.format(blank="").encode()
    values = b"FIELD f 1\nb 3 4 bit\n" + " ".join(map(str, bits.ravel())).encode() + b"\n"
    if binary:
        points = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], ">f8").tobytes()
        head = b"# vtk DataFile Version 3.0\nt\nBINARY\nDATASET POLYDATA\nPOINTS 4 double\n"
        head += points + b"\nPOINT_DATA 4\n"
        values = b"FIELD f 1\nb 3 4 bit\n" + np.packbits(bits.ravel()).tobytes() + b"\n"
    (tmp_path / "case.vtk").write_bytes(head + values)
    (sample,) = open_source(tmp_path / "case.vtk")
    assert sample.arrays["point_data/b"].values.tolist() == bits.tolist()


@pytest.mark.parametrize("cells", ["CELLS 1 5\n3 0 1 2 3", "CELLS 2 5\n4 0 1 2 3"])
def test_cell_lists_that_do_not_add_up_are_refused(tmp_path, cells):
    text = TETRA.format(blank="").replace("CELLS 1 5\n4 0 1 2 3", cells)
    text = text.replace(
        "CELL_TYPES 1\n10", "CELL_TYPES 2\n10 10" if "CELLS 2" in cells else "CELL_TYPES 1\n10"
    )
    (tmp_path / "case.vtk").write_text(text)
    with pytest.raises(FormatError, match=r"case\.vtk"):
        list(open_source(tmp_path / "case.vtk"))


def _found(sample):
    return {
        name: array.values.tolist()
        for name, array in sample.arrays.items()
        if not name.startswith("cells/")
    }


UNIT = "INFORMATION 1\nNAME UNITS_LABEL LOCATION vtkDataArray\nDATA Pa\n"
STRINGS = "INFORMATION 1\nNAME NO_SUCH LOCATION vtkArray\nDATA 2\none\ntwo\n"
NUMBER = "INFORMATION 1\nNAME NO_SUCH LOCATION vtkArray\nDATA 2\n"


BLOCKS = (
    *("COMPONENT_NAMES\nX\n", "COMPONENT_NAMES\nX\n \t\n", "INFORMATION 0\n", UNIT, ""),
    *(f"{UNIT}COMPONENT_NAMES\nX\n", UNIT.replace("1", "3"), STRINGS, NUMBER),
)


@pytest.mark.parametrize("block", BLOCKS)
def test_metadata_ends_with_its_last_line_without_an_empty_one(tmp_path, block):
    text = TETRA.format(blank="") + SCALARS.format(name="p", values="1 2 3 4")
    text += f"METADATA\n{block}" + SCALARS.format(name="q", values="5 6 7 8")
    text += f"FIELD f 3\na 1 4 int\n1 2 3 4\nMETADATA\n{block}b%zz 1 4 int\n5 6 7 8\n"
    text += f"metadata_c 1 4 int\n9 9 9 9\nMETADATA\n{block}"
    text += "CELL_DATA 1\n" + SCALARS.format(name="r", values="7")
    text = text.replace(
        "CELLS", f"METADATA\n{block.replace('X', 'X%0AY%0AZ')}CELLS".replace("%0A", "\n")
    )
    sample = _open(tmp_path / "case.vtk", text)
    found = _found(sample)
    assert found.pop("points")[3] == [0, 0, 1]
    assert found == {
        "point_data/p": [1, 2, 3, 4],
        "point_data/q": [5, 6, 7, 8],
        "point_data/a": [1, 2, 3, 4],
        "point_data/b%25zz": [5, 6, 7, 8],
        "point_data/metadata_c": [9, 9, 9, 9],
        "cell_data/r": [7],
    }
    names = (sample.arrays["point_data/p"].attributes or {}).get("components")
    assert names == (["X"] if "COMPONENT_NAMES" in block else None)


def test_a_component_without_a_name_does_not_end_metadata(tmp_path):
    text = TETRA.format(blank="") + "VECTORS v int\n" + "1 2 3\n" * 4
    text += "METADATA\nCOMPONENT_NAMES\n\ny\n\n" + UNIT + "\n"
    sample = _open(tmp_path / "case.vtk", text + SCALARS.format(name="q", values="5 6 7 8"))
    assert sample.arrays["point_data/q"].values.tolist() == [5, 6, 7, 8]
    assert sample.arrays["point_data/v"].attributes["components"] == ["", "y", ""]


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        ("COMPONENT_NAMES\nVECTORS u float\n", "'VECTORS u float' where the name of component 1"),
        ("INFORMATION 1\nNAME UNITS_LABEL LOCATION vtkDataArray\n", "without its DATA"),
        ("UNITS Pa\n", "unknown section 'units'"),
    ],
)
def test_metadata_that_is_incomplete_or_unknown_is_refused(tmp_path, block, reason):
    text = TETRA.format(blank="") + SCALARS.format(name="p", values="1 2 3 4")
    (tmp_path / "case.vtk").write_text(f"{text}METADATA\n{block}CELL_DATA 1\n")
    with pytest.raises(FormatError, match=reason):
        list(open_source(tmp_path / "case.vtk"))


@pytest.mark.parametrize("version", ["3.0 by Foo", "4.2.1", "2.0\t"])
def test_more_words_or_numbers_may_follow_the_version(tmp_path, version):
    text = TETRA.format(blank="").replace("3.0", version)
    sample = _open(tmp_path / "case.vtk", text + SCALARS.format(name="p", values="1 2 3 4"))
    assert sample.arrays["point_data/p"].values.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(("ratio", "ok"), [("1 2.50 3", True), ("1 2 3", False)])
def test_spacing_may_stand_twice_when_it_is_the_same(tmp_path, ratio, ok):
    text = f"{HEAD}DATASET STRUCTURED_POINTS\nDIMENSIONS 2 1 1\nORIGIN 0 0 0\nSPACING 1 2.5 3\n"
    text += f"ASPECT_RATIO {ratio}\nPOINT_DATA 2\n" + SCALARS.format(name="p", values="1 2")
    (tmp_path / "case.vtk").write_text(text)
    if ok:
        (sample,) = open_source(tmp_path / "case.vtk")
        assert sample.attributes["spacing"] == [1, 2.5, 3]
        return
    with pytest.raises(FormatError, match=r"the spacings \[1.0, 2.5, 3.0\] and \[1.0, 2.0, 3.0\]"):
        list(open_source(tmp_path / "case.vtk"))


@pytest.mark.parametrize("dtype", ["float", "double", "int"])
@pytest.mark.parametrize("components", [1, 3])
def test_an_empty_array_of_field_data_is_read(tmp_path, dtype, components):
    field = f"FIELD FieldData 3\nr 1 1 int\n3\nq {components} 0 {dtype}\n\nz 1 2 int\n4 5\nPOINTS"
    text = TETRA.format(blank="").replace("POINTS", field)
    sample = _open(tmp_path / "case.vtk", text + SCALARS.format(name="p", values="1 2 3 4"))
    empty = sample.arrays["global_data/q"].values
    assert empty.dtype == {"float": "f4", "double": "f8", "int": "i4"}[dtype]
    assert empty.shape == ((0,) if components == 1 else (0, 3))
    assert sample.arrays["global_data/z"].values.tolist() == [4, 5]
    assert sample.arrays["point_data/p"].values.tolist() == [1, 2, 3, 4]
