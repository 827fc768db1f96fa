"""VTK XML as programs other than VTK write it: what VTK understands is read, and as it does."""

import base64
import time
import zlib
from contextlib import ExitStack

import numpy as np
import pytest

pytest.importorskip("vtkmodules", reason="the vtk extra is not installed")

from dataplane.pack.vtk.prepare import prepare
from tests.pack.reading import read_one, refused
from tests.pack.xml_files import ascii_array, mesh, mesh_piece, surface_piece, wrap

_MESH = mesh(ascii_array("p", "1 2 3 4", "Float32"))


def _values(path, content, name="p"):
    return read_one(path, content).arrays[f"point_data/{name}"].values.tolist()


def _appended(attributes, values):
    """A file whose array `p` is at byte 28 of base64 appended data."""
    blocks = [
        base64.b64encode(np.array([16], "u4").tobytes() + np.array(block, "f4").tobytes())
        for block in ([9, 9, 9, 9], values)
    ]
    array = f'<DataArray type="Float32" Name="p" {attributes}>1 2 3 4</DataArray>'
    end = b'<AppendedData encoding="base64">_' + b"".join(blocks) + b"</AppendedData></VTKFile>"
    content = mesh(array).replace(b"UInt64", b"UInt32")
    return content.replace(b"</VTKFile>", end)


@pytest.mark.parametrize(
    ("attributes", "values"),
    [
        ('format="append" offset="28"', [5, 6, 7, 8]),
        ('format="Appended" offset=" 28 "', [5, 6, 7, 8]),
        ('format="appended" offset="+28"', [5, 6, 7, 8]),
        ('format="ascii" offset="28"', [5, 6, 7, 8]),
        ('offset="28.0"', [5, 6, 7, 8]),
        ('format="ascii" offset=""', [1, 2, 3, 4]),
        ('format="ASCII"', [1, 2, 3, 4]),
        ('format="Ascii"', [1, 2, 3, 4]),
        ("", [1, 2, 3, 4]),
    ],
)
def test_values_are_where_vtk_looks_for_them(tmp_path, attributes, values):
    assert _values(tmp_path / "case.vtu", _appended(attributes, [5, 6, 7, 8])) == values


@pytest.mark.parametrize("offset", ["-1", "x", " ", "1e1", "2 8", "28x", "28.7", "\u0662\u0668"])
def test_places_that_vtk_reads_in_part_are_refused(tmp_path, offset):
    content = _appended(f'format="appended" offset="{offset}"', [5, 6, 7, 8])
    content = content.replace(b"\xd9\xa2\xd9\xa8", "\u0662\u0668".encode())
    refused(tmp_path / "case.vtu", content, "array 'p': its offset is")


@pytest.mark.parametrize("count", ["0", "", "1.0", "+1", " 1 "])
def test_one_component_is_written_in_many_ways(tmp_path, count):
    one = _MESH.replace(
        b'Name="p" NumberOfComponents="1"', f'Name="p" NumberOfComponents="{count}"'.encode()
    )
    assert one != _MESH or count == "1"
    assert _values(tmp_path / "case.vtu", one) == [1, 2, 3, 4]
    rewritten = one.replace(b">1 2 3 4<", b">1 2 nan 4<")
    found = _values(tmp_path / "nan.vtu", rewritten)
    assert found[:2] == [1, 2]
    assert np.isnan(found[2])


@pytest.mark.parametrize("count", ["-1", "x", "1.5", "1x", "\u0661"])
def test_components_that_are_no_number_are_refused(tmp_path, count):
    content = _MESH.replace(
        b'Name="p" NumberOfComponents="1"', f'Name="p" NumberOfComponents="{count}"'.encode()
    )
    refused(tmp_path / "case.vtu", content, "number of components is")


def test_points_alone_with_types_of_no_components_are_read(tmp_path):
    points = ascii_array("points", "0 0 0 1 0 0", "Float32", 3)
    types = '<DataArray Name="types" NumberOfComponents="0" format="ascii" type="Float32"/>'
    body = (
        f'<Piece NumberOfPoints="2" NumberOfCells="0"><Points>{points}</Points>'
        f"<Cells>{types}</Cells></Piece>"
    )
    found = read_one(tmp_path / "case.vtu", wrap(body)).arrays
    assert found["points"].values.tolist() == [[0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("points", ["4.0", "+4", " 4. "])
def test_numbers_of_points_may_have_a_decimal_point(tmp_path, points):
    content = _MESH.replace(b'NumberOfPoints="4"', f'NumberOfPoints="{points}"'.encode())
    content = content.replace(b'NumberOfCells="1"', b'NumberOfCells="1.0"')
    assert _values(tmp_path / "case.vtu", content) == [1, 2, 3, 4]


@pytest.mark.parametrize("points", ["4.5", "4x", "", "4e0", "\u0664"])
def test_numbers_of_points_that_are_no_count_are_refused(tmp_path, points):
    content = _MESH.replace(b'NumberOfPoints="4"', f'NumberOfPoints="{points}"'.encode())
    refused(tmp_path / "case.vtu", content, "which is no count")


@pytest.mark.parametrize("form", ["ascii", "binary"])
def test_a_type_per_point_is_read_where_all_are_the_same(tmp_path, form):
    def content(types):
        text = " ".join(map(str, types))
        if form == "binary":
            size = np.array([len(types)], "u8").tobytes()
            text = base64.b64encode(size + bytes(types)).decode()
        return _MESH.replace(b'format="ascii" >10<', f'format="{form}" >{text}<'.encode())

    path = tmp_path / "case.vtu"
    assert read_one(path, content([10] * 4)).arrays["cells/types"].values.tolist() == [10]
    refused(path, content([10, 10, 10, 0]), "'types' of Cells: expected 1 values, got 4")


def test_offsets_of_no_cells_may_be_a_zero(tmp_path):
    lines = f"<Lines>{{}}{ascii_array('connectivity', '', 'Int32')}</Lines></Piece>"
    content = wrap(surface_piece(3, [], Polys=[]), "PolyData").decode()
    content = content.replace('NumberOfLines="0"', 'NumberOfLines=""', 1)
    kept, _, rest = content.partition("<Lines>")
    content = kept + rest.partition("</Lines>")[2]
    for text in ("0", "5", "0 0"):
        array = ascii_array("offsets", text, "Int32")
        changed = content.replace("</Piece>", lines.format(array), 1).encode()
        if text == "0":
            found = read_one(tmp_path / "case.vtp", changed).arrays
            assert found["points"].values.shape == (3, 3)
        else:
            refused(tmp_path / "case.vtp", changed, "'offsets' of Lines: expected 0 values")


@pytest.mark.parametrize("text", ["", " \n", "<!-- nothing -->"])
def test_text_of_no_values_is_empty(tmp_path, text):
    array = f'<Array type="String" Name="s" NumberOfTuples="0" format="ascii">{text}</Array>'
    numbers = ascii_array("n", text, "UInt8", more='NumberOfTuples="0"')
    fields = f"<FieldData>{array}{numbers}</FieldData>"
    sample = read_one(tmp_path / "case.vtu", wrap(fields + mesh_piece(3, [[0, 1, 2]])))
    assert sample.attributes["text"] == {"global_data/s": []}
    assert sample.arrays["global_data/n"].values.size == 0


@pytest.mark.parametrize("header", [[1, 0, 0, 8], [0, 0, 0, 0], [0, 0, 0], [1, 32768, 0, 8]])
def test_no_values_are_compressed_in_several_ways(tmp_path, header):
    blocks = zlib.compress(b"") if header[0] else b""
    text = (base64.b64encode(np.array(header, "u8").tobytes()) + base64.b64encode(blocks)).decode()
    array = f'<DataArray type="Float64" Name="n" NumberOfTuples="{{}}" format="binary">{text}'
    piece = mesh_piece(3, [[0, 1, 2]])
    for tuples in (0, 1):
        fields = f"<FieldData>{array.format(tuples)}</DataArray></FieldData>"
        content = wrap(fields + piece, more='compressor="vtkZLibDataCompressor"')
        if tuples or header[1]:
            refused(tmp_path / "case.vtu", content, "array 'n': expected")
        else:
            assert read_one(tmp_path / "case.vtu", content).arrays["global_data/n"].values.size == 0


@pytest.mark.parametrize(
    "text",
    [
        "1 2 3 4<!-- 5 -->",
        "<!-- a -->1 2 3 4",
        "1 2 <!-- 9 -->3 4",
        "1 <!-- a > b --> 2 3 <!----> 4",
    ],
)
def test_comments_between_values_are_passed_over(tmp_path, text):
    array = ascii_array("p", text, "Float32") + ascii_array("q", "5 6 7 8", "Float32")
    sample = read_one(tmp_path / "case.vtu", mesh(array))
    assert sample.arrays["point_data/p"].values.tolist() == [1, 2, 3, 4]
    assert sample.arrays["point_data/q"].values.tolist() == [5, 6, 7, 8]


def test_a_comment_within_a_number_is_no_space(tmp_path):
    content = mesh(ascii_array("p", "1 2<!-- -->3 4", "Float32"))
    refused(tmp_path / "case.vtu", content, "array 'p': expected 4 values, got 3")


@pytest.mark.parametrize(("before", "behind"), [("", "<PointData/>"), ("<PointData/>", "")])
def test_a_group_without_arrays_does_not_hide_the_other(tmp_path, before, behind):
    content = _MESH.replace(b"<PointData>", before.encode() + b"<PointData>")
    content = content.replace(b"</PointData>", b"</PointData>" + behind.encode())
    assert _values(tmp_path / "case.vtu", content) == [1, 2, 3, 4]


def test_two_groups_with_arrays_are_refused(tmp_path):
    more = f"</PointData><PointData>{ascii_array('q', '1 2 3 4')}</PointData>".encode()
    content = _MESH.replace(b"</PointData>", more)
    refused(tmp_path / "case.vtu", content, "a second <PointData>")


@pytest.mark.parametrize("more", ["", ' SYSTEM "vtk.dtd"', " [<!ELEMENT a ANY>]"])
def test_a_document_type_without_entities_is_read(tmp_path, more):
    content = _MESH.replace(b"?>", f"?>\n<!DOCTYPE VTKFile{more}>".encode(), 1)
    assert _values(tmp_path / "case.vtu", content) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "declared", ['<!ENTITY one "1">', '<!ATTLIST DataArray format CDATA "binary">']
)
def test_a_document_type_that_declares_values_is_refused(tmp_path, declared):
    content = _MESH.replace(b"?>", f"?>\n<!DOCTYPE VTKFile [{declared}]>".encode(), 1)
    refused(tmp_path / "case.vtu", content, "entities or attributes of a document type")


@pytest.mark.parametrize("kind", ["UInt8", "Int32"])
def test_ghost_levels_keep_their_name_and_values(tmp_path, kind):
    arrays = ascii_array("vtkGhostLevels", "0 1 2 3", kind)
    arrays += ascii_array("vtkGhostType", "8 0 8 0", "UInt8")
    found = read_one(tmp_path / "case.vtu", mesh(arrays)).arrays
    assert found["point_data/vtkGhostLevels"].values.tolist() == [0, 1, 2, 3]
    assert found["point_data/vtkGhostLevels"].attributes["name"] == "vtkGhostLevels"
    assert found["point_data/vtkGhostType"].values.tolist() == [8, 0, 8, 0]


def _parallel_levels(folder, second):
    for name, arrays in (("0", ascii_array("vtkGhostLevels", "0 1 2", "UInt8")), ("1", second)):
        piece = mesh_piece(3, [[0, 1, 2]], arrays)
        (folder / f"{name}.vtu").write_bytes(wrap(piece))
    body = (
        '<PPointData><PDataArray type="UInt8" Name="vtkGhostLevels"/></PPointData>'
        '<PPoints><PDataArray type="Float64" NumberOfComponents="3"/></PPoints>'
        '<Piece Source="0.vtu"/><Piece Source="1.vtu"/>'
    )
    return wrap(body, "PUnstructuredGrid")


def test_ghost_levels_of_parallel_files_are_kept_or_missed(tmp_path):
    content = _parallel_levels(tmp_path, ascii_array("vtkGhostLevels", "3 0 2", "UInt8"))
    assert _values(tmp_path / "case.pvtu", content, "vtkGhostLevels") == [0, 1, 2, 3, 0, 2]
    content = _parallel_levels(tmp_path, "")
    refused(tmp_path / "case.pvtu", content, "vtkGhostLevels.* is not in piece 1")


@pytest.mark.parametrize("named", ['Name="p"', ""])
def test_the_check_of_many_arrays_of_one_name_takes_time_by_their_number(tmp_path, named):
    arrays = f'<DataArray type="UInt8" {named} format="ascii">1 2 3 4</DataArray>' * 4000
    path = tmp_path / "case.vtu"
    path.write_bytes(mesh(arrays))
    begin = time.thread_time()
    with ExitStack() as stack:
        prepared = prepare(path, "case.vtu", (), stack)
    assert len(prepared.types["PointData"]) == 4000
    assert time.thread_time() - begin < 10  # it took minutes when each looked at all before it


@pytest.mark.parametrize(("kind", "size"), [("Int32", 4), ("Int64", 8)])
def test_surfaces_in_pieces_keep_the_type_of_their_numbers(tmp_path, kind, size):
    piece = surface_piece(3, [7], Polys=[[0, 1, 2]]).replace("Int64", kind)
    found = read_one(tmp_path / "case.vtp", wrap(piece + piece, "PolyData")).arrays
    assert found["cells/connectivity"].values.dtype.itemsize == size
    assert found["cells/offsets"].values.dtype.itemsize == size


def test_surfaces_in_pieces_of_different_types_of_numbers_get_the_wider(tmp_path):
    wide = surface_piece(3, [7], Polys=[[0, 1, 2]])
    content = wrap(wide.replace("Int64", "Int32") + wide, "PolyData")
    found = read_one(tmp_path / "case.vtp", content).arrays
    assert found["cells/connectivity"].values.dtype == np.int64
    assert found["cells/connectivity"].values.tolist() == [0, 1, 2, 3, 4, 5]
