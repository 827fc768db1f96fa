"""What a parallel VTK file and its pieces say together is read, or refused where it differs."""

import numpy as np
import pytest

pytest.importorskip("vtkmodules", reason="the vtk extra is not installed")

from tests.pack.reading import read_one, refused
from tests.pack.xml_files import (
    Writer,
    ascii_array,
    mesh,
    mesh_piece,
    surface_piece,
    wrap,
)

_TRIANGLE = [[0, 1, 2]]
_POINTS = '<PPoints><PDataArray type="Float64" NumberOfComponents="3"/></PPoints>'
_LISTED = '<PPointData><PDataArray type="Float64" Name="p"/></PPointData>'


def _fields(*arrays):
    return f"<FieldData>{''.join(arrays)}</FieldData>"


def _time(value, kind="Float64"):
    return ascii_array("TimeValue", value, kind, more='NumberOfTuples="1"')


def _piece(first):
    return mesh_piece(3, _TRIANGLE, ascii_array("p", f"{first} {first + 1} {first + 2}"))


def _parallel(folder, contents, kind="UnstructuredGrid", head="", listed=_LISTED):
    suffix = {"UnstructuredGrid": "vtu", "PolyData": "vtp"}[kind]
    names = [f"m_{number}.{suffix}" for number in range(len(contents))]
    for name, content in zip(names, contents, strict=True):
        (folder / name).write_bytes(content)
    sources = "".join(f'<Piece Source="{name}"/>' for name in names)
    path = folder / f"m.p{suffix}"
    path.write_bytes(wrap(f"{head}{listed}{_POINTS}{sources}", f"P{kind}"))
    return path


def _values(sample, name):
    return sample.arrays[f"global_data/{name}"].values.tolist()


def _surface(fields):
    piece = surface_piece(3, [7], Polys=_TRIANGLE)
    return wrap(fields + piece, "PolyData")


def _polyhedra(fields):
    faces = "4 3 0 1 2 3 0 1 3 3 1 2 3 3 0 2 3"
    more = ascii_array("faces", faces, "Int64") + ascii_array("faceoffsets", "17", "Int64")
    piece = mesh_piece(4, [[0, 1, 2, 3]]).replace("</Cells>", f"{more}</Cells>")
    return wrap(fields + piece.replace(">10<", ">42<"))


@pytest.mark.parametrize("kind", ["PolyData", "UnstructuredGrid"])
def test_field_data_of_all_pieces_is_kept_where_they_are_read_one_by_one(tmp_path, kind):
    write = _surface if kind == "PolyData" else _polyhedra
    contents = [write(_fields(ascii_array("A", 1))), write(_fields(ascii_array("B", "2 3")))]
    listed = '<PCellData><PDataArray type="Float64" Name="q"/></PCellData>'
    path = _parallel(tmp_path, contents, kind, listed=listed if kind == "PolyData" else "")
    sample = read_one(path)
    assert _values(sample, "A") == [1]
    assert _values(sample, "B") == [2, 3]


def test_field_data_that_differs_between_pieces_is_refused(tmp_path):
    for second, shown in (
        (_time("0.75"), "Float64 0.75"),
        (_time("0.5", "Float32"), "Float32 0.5"),
        (ascii_array("TimeValue", "0.5 0.5"), "Float64 0.5 0.5"),
    ):
        contents = [wrap(_fields(_time("0.5")) + _piece(1)), wrap(_fields(second) + _piece(4))]
        reason = (
            f"'TimeValue' of FieldData is Float64 0.5 in piece m_0.vtu and {shown} in .*m_1.vtu"
        )
        refused(_parallel(tmp_path, contents), None, reason)
    same = [wrap(_fields(_time("0.5")) + _piece(first)) for first in (1, 4)]
    assert read_one(_parallel(tmp_path, same)).attributes["time"] == 0.5


def test_the_time_of_a_rank_without_points_is_kept(tmp_path):
    contents = [wrap(_fields(_time("0.5")) + mesh_piece(0, [])), wrap(_piece(1)), wrap(_piece(4))]
    sample = read_one(_parallel(tmp_path, contents))
    assert sample.attributes["time"] == 0.5
    assert sample.arrays["point_data/p"].values.tolist() == [1, 2, 3, 4, 5, 6]


def test_field_data_of_the_header_is_kept_and_must_be_that_of_the_pieces(tmp_path):
    bare = [wrap(_piece(1)), wrap(_piece(4))]
    sample = read_one(_parallel(tmp_path, bare, head=_fields(_time("0.5"))))
    assert _values(sample, "TimeValue") == [0.5]
    timed = [wrap(_fields(_time("0.5")) + _piece(first)) for first in (1, 4)]
    assert _values(read_one(_parallel(tmp_path, timed, head=_fields(_time("0.5")))), "TimeValue")
    other = _parallel(tmp_path, timed, head=_fields(_time("0.6")))
    refused(other, None, "0.6 in the header and .* 0.5")


@pytest.mark.parametrize("encoding", ["inline", "base64", "raw"])
@pytest.mark.parametrize(("order", "compressor"), [("<", None), (">", "zlib")])
def test_field_data_of_every_encoding_is_put_together(tmp_path, encoding, order, compressor):
    writer = Writer(encoding, order, compressor=compressor)
    more = 'NumberOfTuples="2" ComponentName0="a" ComponentName1="b" '
    arrays = writer.array("V", np.array([[1.5, 2], [3, 4]]), more)
    arrays += writer.array("N", np.arange(100, dtype="i4"), 'NumberOfTuples="100" ')
    text = '<Array type="String" Name="t" NumberOfTuples="2" format="ascii">97 0 98 99 0</Array>'
    second = writer.file("UnstructuredGrid", _fields(arrays, text) + _piece(4))
    head = _fields(ascii_array("none", "", more='NumberOfTuples="0"'), text)
    sample = read_one(_parallel(tmp_path, [wrap(_piece(1)), second], head=head))
    assert _values(sample, "V") == [[1.5, 2], [3, 4]]
    assert sample.arrays["global_data/V"].attributes["components"] == ["a", "b"]
    assert _values(sample, "N") == list(range(100))
    assert sample.arrays["global_data/N"].values.dtype == np.int32
    assert _values(sample, "none") == []
    assert sample.attributes["text"] == {"global_data/t": ["a", "bc"]}


def test_bits_and_units_of_field_data_are_put_together(tmp_path):
    key = '<InformationKey name="UNITS_LABEL" location="vtkDataArray">m</InformationKey>'
    length = (
        f'<DataArray type="Float64" Name="L" NumberOfTuples="1" format="ascii">2{key}</DataArray>'
    )
    bits = ascii_array("bits", "1 0 1", "Bit", more='NumberOfTuples="3"')
    contents = [wrap(_piece(1)), wrap(_fields(length, bits) + _piece(4))]
    sample = read_one(_parallel(tmp_path, contents))
    assert _values(sample, "L") == [2]
    assert sample.arrays["global_data/L"].units == "m"
    assert _values(sample, "bits") == [1, 0, 1]


def test_field_data_beside_the_dataset_or_in_a_piece_is_read(tmp_path):
    path, fields = tmp_path / "case.vtu", _fields(_time("0.5"))
    plain = mesh()
    for old, new in (
        (b"<UnstructuredGrid >", f"{fields}<UnstructuredGrid >"),
        (b"</UnstructuredGrid>", f"</UnstructuredGrid>{fields}"),
        (b"<PointData>", f"{fields}<PointData>"),
    ):
        assert old in plain
        assert read_one(path, plain.replace(old, new.encode())).attributes["time"] == 0.5


def test_arrays_where_none_belong_are_refused(tmp_path):
    path, plain, extra = tmp_path / "case.vtu", mesh(), ascii_array("z", "1 2 3 4")
    for old, new in (
        (b"<PointData>", f"<Foo>{extra}</Foo><PointData>"),
        (b"<PointData>", f"<Coordinates>{extra}</Coordinates><PointData>"),
        (b"<PointData>", f"{extra}<PointData>"),
        (b"<Piece ", f"<PointData>{extra}</PointData><Piece "),
        (b"</UnstructuredGrid>", f"</UnstructuredGrid>{extra}"),
    ):
        refused(path, plain.replace(old, new.encode()), "array 'z' lies in <")
    assert read_one(path, plain.replace(b"<PointData>", b"<Foo><Bar/></Foo><PointData>"))


def test_appended_data_that_begins_with_other_text_is_refused(tmp_path):
    writer, path = Writer("raw"), tmp_path / "case.vtu"
    fields = _fields(writer.array("V", np.arange(3), 'NumberOfTuples="3" '))
    content = writer.file("UnstructuredGrid", fields + _piece(1))
    assert _values(read_one(path, content.replace(b">_", b">\n _")), "V") == [0, 1, 2]
    refused(path, content.replace(b">_", b">\nlost _"), "does not begin with _")


def test_faces_of_a_cell_that_is_no_polyhedron_are_refused(tmp_path):
    path, content = tmp_path / "case.vtu", _polyhedra("")
    assert "cells/face_connectivity" in read_one(path, content).arrays
    refused(path, content.replace(b">42<", b">10<"), "faces of cells that are no polyhedra")


def test_an_array_that_the_header_lists_and_no_piece_has_is_refused(tmp_path):
    more = '<PCellData><PDataArray type="Float64" Name="gone"/></PCellData>'
    path = _parallel(tmp_path, [wrap(_piece(1)), wrap(_piece(4))], listed=_LISTED + more)
    refused(path, None, "lists the array 'gone' of CellData, which no piece has")
    points = mesh_piece(3, [], ascii_array("p", "1 2 3"))
    sample = read_one(_parallel(tmp_path, [wrap(points)], listed=_LISTED + more))
    assert sample.arrays["point_data/p"].values.tolist() == [1, 2, 3]


def test_a_header_without_whitespace_keeps_what_is_put_before_what_is_replaced(tmp_path):
    cells = ascii_array("c", "9")
    contents = [
        wrap(mesh_piece(3, _TRIANGLE, ascii_array("p", "1 2 3", "Float64"), cells))
        for _ in range(2)
    ]
    wrong = _LISTED.replace("Float64", "Float32")
    sample = read_one(_parallel(tmp_path, contents, listed=wrong))
    assert sample.arrays["cell_data/c"].values.tolist() == [9, 9]
    assert sample.arrays["point_data/p"].values.dtype == np.float64


# Grids of 5 x 2 x 2 points; the value at a point is its number in the whole.
_WHOLE = "0 4 0 1 0 1"


def _numbers(x0, x1):
    return " ".join(str(x + 5 * row) for row in range(4) for x in range(x0, x1 + 1))


def _box(x0, x1, cell_data=""):
    return (
        f'<Piece Extent="{x0} {x1} 0 1 0 1">'
        f"<PointData>{ascii_array('p', _numbers(x0, x1))}</PointData>"
        f"<CellData>{cell_data}</CellData></Piece>"
    )


def _image(whole, *boxes, place='Origin="0 0 0" Spacing="1 1 1"'):
    return wrap("".join(boxes), "ImageData", f'WholeExtent="{whole}" {place}')


_PLACE = 'Origin="0 0 0" Spacing="1 1 1"'


def _parallel_image(folder, contents, extents, place=_PLACE):
    for number, content in enumerate(contents):
        (folder / f"m_{number}.vti").write_bytes(content)
    pieces = "".join(
        f'<Piece Extent="{extent}" Source="m_{number}.vti"/>'
        for number, extent in enumerate(extents)
    )
    path = folder / "m.pvti"
    path.write_bytes(wrap(_LISTED + pieces, "PImageData", f'WholeExtent="{_WHOLE}" {place}'))
    return path


def _all_points(sample):
    return sample.arrays["fields/p"].values.reshape(-1).tolist() == list(range(20))


_HALVES = ("0 2 0 1 0 1", "2 4 0 1 0 1")


def test_pieces_of_one_grid_may_share_no_points_where_cells_have_no_values(tmp_path):
    path = tmp_path / "case.vti"
    for boxes in ([(0, 2), (3, 4)], [(3, 4), (0, 2)], [(2, 2), (0, 1), (3, 3), (4, 4)]):
        assert _all_points(read_one(path, _image(_WHOLE, *(_box(*box) for box in boxes))))
    with_cells = [_box(0, 2, ascii_array("c", "1 2")), _box(3, 4, ascii_array("c", "4"))]
    refused(path, _image(_WHOLE, *with_cells), "do not cover")
    refused(path, _image(_WHOLE, _box(0, 1), _box(3, 4)), "do not cover")


def test_curvilinear_and_rectilinear_pieces_may_share_no_points(tmp_path):
    def piece(x0, x1, kind):
        axes = [ascii_array("x", " ".join(str(x * x) for x in range(x0, x1 + 1)))]
        axes += [ascii_array(axis, "0 1") for axis in "yz"]
        spots = "".join(
            f"{x * x} {y} {z} " for z in (0, 1) for y in (0, 1) for x in range(x0, x1 + 1)
        )
        points = f"<Points>{ascii_array('Points', spots, components=3)}</Points>"
        place = points if kind == "vts" else f"<Coordinates>{''.join(axes)}</Coordinates>"
        return _box(x0, x1).replace("</Piece>", f"{place}</Piece>")

    for suffix, kind in (("vts", "StructuredGrid"), ("vtr", "RectilinearGrid")):
        body = piece(0, 2, suffix) + piece(3, 4, suffix)
        content = wrap(body, kind, f'WholeExtent="{_WHOLE}"')
        sample = read_one(tmp_path / f"case.{suffix}", content)
        assert _all_points(sample)
        places = sample.arrays["coordinates/x" if suffix == "vtr" else "points"].values
        assert (places if suffix == "vtr" else places[1, 1, :, 0]).tolist() == [0, 1, 4, 9, 16]


def test_a_piece_file_may_state_the_extent_of_the_whole(tmp_path):
    whole = [_image(_WHOLE, _box(0, 2)), _image(_WHOLE, _box(2, 4))]
    assert _all_points(read_one(_parallel_image(tmp_path, whole, _HALVES)))
    wider = [_image("0 3 0 1 0 1", _box(0, 3)), whole[1]]
    assert _all_points(read_one(_parallel_image(tmp_path, wider, _HALVES)))
    split = [_image("0 2 0 1 0 1", _box(0, 1), _box(2, 2)), whole[1]]
    assert _all_points(read_one(_parallel_image(tmp_path, split, _HALVES)))
    short = [_image(_WHOLE, _box(0, 1)), whole[1]]
    parallel = _parallel_image(tmp_path, short, _HALVES)
    refused(parallel, None, "piece m_0.vti: .* expected 0 2 0 1 0 1")


def test_a_grid_without_points_among_the_pieces_is_passed_over(tmp_path):
    empty = "0 -1 0 -1 0 -1"
    nothing = f'<Piece Extent="{empty}"><PointData></PointData></Piece>'
    assert _all_points(read_one(tmp_path / "case.vti", _image(_WHOLE, _box(0, 4), nothing)))
    contents = [_image(_WHOLE, _box(0, 4)), _image(empty, nothing, place='Origin="7 7 7"')]
    assert _all_points(read_one(_parallel_image(tmp_path, contents, (_WHOLE, empty))))
    refused(_parallel_image(tmp_path, contents, _HALVES), None, "m_1.vti: .* got nothing")


def test_the_place_of_a_parallel_image_is_what_its_parts_state(tmp_path):
    place = 'Origin="5 0 0" Spacing="0.5 1 1"'
    contents = [_image(_WHOLE, _box(0, 2), place=place), _image(_WHOLE, _box(2, 4), place=place)]
    for head in ("", 'Origin="5 0 0"', 'Origin="5.0 0 0" Spacing=".5 1 1"'):
        sample = read_one(_parallel_image(tmp_path, contents, _HALVES, head))
        assert sample.attributes["origin"] == [5, 0, 0]
        assert sample.attributes["spacing"] == [0.5, 1, 1]
    for head, name in (('Origin="9 9 9"', "Origin: 9 9 9 and 5 0 0"), (_PLACE, "Origin")):
        refused(_parallel_image(tmp_path, contents, _HALVES, head), None, f"different {name}")
