"""VTK XML files are read exactly, or refused: values are neither made up nor lost nor shifted."""

import base64
from contextlib import ExitStack

import numpy as np
import pytest

pytest.importorskip("vtkmodules", reason="the vtk extra is not installed")

from dataplane.errors import FormatError
from dataplane.pack.vtk.prepare import prepare
from tests.pack.reading import read_one, refused
from tests.pack.xml_files import Writer, ascii_array, mesh, mesh_piece, wrap

_POINTS = np.random.default_rng(0).random((30, 3))
_P = np.arange(30) + 0.5
_POINTS_ARRAY = ascii_array("Points", "0 0 0 " * 4, components=3).encode()
_FORMS = [
    (encoding, order, word, compressor)
    for encoding in ("inline", "base64", "raw")
    for order in "<>"
    for word in ("u4", "u8")
    for compressor in (None, "zlib", "lzma")
]


def _values(path, content, name="point_data/p"):
    return read_one(path, content).arrays[name].values.tolist()


def _refused_before_vtk(path, content, reason):
    path.write_bytes(content)
    with ExitStack() as stack, pytest.raises(FormatError, match=reason):
        prepare(path, str(path), (), stack)


def _mesh(writer, p=_P, points=30):
    data = writer.array("p", p)
    body = (
        f'<Piece NumberOfPoints="{points}" NumberOfCells="2"><PointData>{data}</PointData>'
        f"<CellData>{writer.array('c', np.arange(6, dtype='f4').reshape(2, 3))}</CellData>"
        f"<Points>{writer.array('Points', _POINTS)}</Points>"
        f"<Cells>{writer.array('connectivity', np.arange(7))}"
        f"{writer.array('offsets', np.array([3, 7]))}"
        f"{writer.array('types', np.array([5, 10], 'u1'))}</Cells></Piece>"
    )
    return writer.file("UnstructuredGrid", body)


@pytest.mark.parametrize(("encoding", "order", "word", "compressor"), _FORMS)
def test_every_encoding_gives_the_values(tmp_path, encoding, order, word, compressor):
    sample = read_one(tmp_path / "case.vtu", _mesh(Writer(encoding, order, word, compressor)))
    arrays = {name: array.values for name, array in sample.arrays.items()}
    assert arrays["point_data/p"].tolist() == _P.tolist()
    assert arrays["points"].tolist() == _POINTS.tolist()
    assert arrays["cell_data/c"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert arrays["cells/connectivity"].tolist() == list(range(7))


@pytest.mark.parametrize(("encoding", "order", "word", "compressor"), _FORMS)
def test_arrays_of_another_length_are_refused_in_every_encoding(
    tmp_path, encoding, order, word, compressor
):
    for p in (_P[:-1], np.append(_P, 1.0), _P[:0]):
        content = _mesh(Writer(encoding, order, word, compressor), p)
        reason = rf"array 'p': expected 30 values, got {len(p)}"
        _refused_before_vtk(tmp_path / "case.vtu", content, reason)


@pytest.mark.parametrize("encoding", ["inline", "base64", "raw"])
@pytest.mark.parametrize("compressor", [None, "zlib"])
def test_headers_that_announce_other_lengths_are_refused(tmp_path, encoding, compressor):
    content = _mesh(Writer(encoding, compressor=compressor))
    right = Writer(encoding, compressor=compressor).encoded(_P.tobytes())
    words = 1 if compressor is None else 3
    for number in range(words):
        for value in (0, 1, 7, 2**16, 2**31, 2**32 - 1):
            if encoding == "raw":
                changed = bytearray(right)
                changed[4 * number : 4 * number + 4] = value.to_bytes(4, "little")
            else:
                stop = 8 if compressor is None else 16
                header = bytearray(base64.b64decode(right[:stop]))
                if header[4 * number : 4 * number + 4] == value.to_bytes(4, "little"):
                    continue
                header[4 * number : 4 * number + 4] = value.to_bytes(4, "little")
                changed = base64.b64encode(header) + right[stop:]
            damaged = content.replace(right, bytes(changed), 1)
            _refused_before_vtk(tmp_path / "case.vtu", damaged, "array 'p'")


@pytest.mark.parametrize("encoding", ["inline", "base64", "raw"])
@pytest.mark.parametrize("compressor", [None, "zlib"])
def test_every_prefix_of_an_array_is_refused(tmp_path, encoding, compressor):
    writer = Writer(encoding, compressor=compressor)
    content = _mesh(writer)
    right = writer.encoded(_P.tobytes())
    for size in range(len(right)):
        cut = content.replace(right, right[:size], 1)
        _refused_before_vtk(tmp_path / "case.vtu", cut, "array '[pc]'|its points|of Cells")


@pytest.mark.parametrize("compressor", [None, "zlib"])
def test_base64_in_lines_is_read(tmp_path, compressor):
    writer = Writer("inline", compressor=compressor)
    content = _mesh(writer)
    text = writer.encoded(_P.tobytes())
    lines = b"\n".join(text[at : at + 76] for at in range(0, len(text), 76))
    assert (
        _values(tmp_path / "case.vtu", content.replace(text, b"\n" + lines + b"\n")) == _P.tolist()
    )


def test_a_header_with_padding_of_its_own_is_read(tmp_path):
    writer = Writer("inline")
    content = _mesh(writer)
    text = writer.encoded(_P.tobytes())
    apart = base64.b64encode((240).to_bytes(4, "little")) + base64.b64encode(_P.tobytes())
    assert _values(tmp_path / "case.vtu", content.replace(text, apart)) == _P.tolist()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text[:100], "characters are missing"),
        (lambda text: text[:50] + b"?" + text[51:], "holds b'\\?'"),
        (lambda text: text[:50] + b"=" + text[51:], "holds b'='"),
        (lambda text: text + b"AAAA", "4 characters follow its values"),
        (lambda text: text[:-4], "characters are missing"),
    ],
)
def test_damaged_base64_is_refused(tmp_path, change, reason):
    writer = Writer("inline")
    text = writer.encoded(_P.tobytes())
    refused(tmp_path / "case.vtu", _mesh(writer).replace(text, change(text)), reason)


@pytest.mark.parametrize(
    ("text", "kind", "values"),
    [
        ("1 -inf inf 2", "Float64", [1, -np.inf, np.inf, 2]),
        ("1 -inf inf 2", "Float32", [1, -np.inf, np.inf, 2]),
        ("-Infinity +inf INF infinity", "Float64", [-np.inf, np.inf, np.inf, np.inf]),
        ("+1 .5 5. -1E+05", "Float64", [1, 0.5, 5, -1e5]),
        ("\n 0.1\t1e-320\r\n 1e-101 4 ", "Float64", [0.1, 1e-320, 1e-101, 4]),
        ("1.00000005960464477539062500000000000000000001 -inf 1 2", "Float32", None),
        ("255 0 007 +5", "UInt8", [255, 0, 7, 5]),
        ("-128 127 0 1", "Int8", [-128, 127, 0, 1]),
        ("18446744073709551615 0 1 2", "UInt64", [2**64 - 1, 0, 1, 2]),
        ("-9223372036854775808 0 1 2", "Int64", [-(2**63), 0, 1, 2]),
    ],
)
@pytest.mark.parametrize("compressor", ["", *("ZLib", "LZ4", "LZMA")])
def test_numbers_in_text_are_read_exactly(tmp_path, text, kind, values, compressor):
    content = mesh(ascii_array("p", text, kind))
    if compressor:
        content = content.replace(
            b'header_type="UInt64"', f'compressor="vtk{compressor}DataCompressor"'.encode()
        )
    if values is None:  # just above the middle of two float32
        values = [float(np.nextafter(np.float32(1), np.float32(2))), -np.inf, 1, 2]
    found = read_one(tmp_path / "case.vtu", content).arrays["point_data/p"].values
    assert found.tolist() == values
    assert found.dtype.name == kind.lower()


def test_nan_in_text_is_read(tmp_path):
    for text in ("nan 1 2 -NaN", "NAN 1 2 nan"):
        values = _values(tmp_path / "case.vtu", mesh(ascii_array("p", text)))
        assert np.isnan([values[0], values[3]]).all()
        assert values[1:3] == [1, 2]


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        ("1 2 3", "Float64", "expected 4 values, got 3"),
        ("1 2 3 4 5", "Float64", "expected 4 values, got 5"),
        ("1 2 nan 4 5", "Float64", "expected 4 values, got 5"),
        ("", "Float64", "expected 4 values, got 0"),
        ("1.0-101 2 3 4", "Float64", "'1.0-101', which is no float64"),
        ("1.0D-10 2 3 4", "Float64", "'1.0D-10', which is no float64"),
        ("1 2 3 1.#INF", "Float64", "'1.#INF', which is no float64"),
        ("1 2 3 1.2.3", "Float64", "'1.2.3', which is no float64"),
        ("1 2 3 1e5e5", "Float64", "'1e5e5', which is no float64"),
        ("1 2 3 1e", "Float64", "'1e', which is no float64"),
        ("1 2 3 .", "Float64", "'.', which is no float64"),
        ("1 2 -inf 4x", "Float64", "'4x', which is no float64"),
        ("1 2 -inf 1-5", "Float64", "'1-5', which is no float64"),
        ("1 2 -inf 1e400", "Float64", "too large for float64"),
        ("1 2 -inf 1e39", "Float32", "too large for float32"),
        ("1e400 2 3 4", "Float64", "'p'|\"p\""),
        ("1,2,3,4", "Float64", "no float64"),
        ("300 2 3 4", "UInt8", "300, which is no uint8"),
        ("-1 2 3 4", "UInt8", "'-1', which is no uint8"),
        ("128 2 3 4", "Int8", "128, which is no int8"),
        ("-5 2 3 4", "UInt32", "'-5', which is no uint32"),
        ("70000 2 3 4", "UInt16", '"p" from PointData'),
        ("3000000000 2 3 4", "Int32", '"p" from PointData'),
        ("18446744073709551616 2 3 4", "UInt64", '"p" from PointData'),
        ("9223372036854775808 2 3 4", "Int64", '"p" from PointData'),
        ("1.0 2 3 4", "Int32", "'1.0', which is no int32"),
        ("1 2 3 four", "Int32", "'four', which is no int32"),
    ],
)
def test_text_that_is_no_such_numbers_is_refused(tmp_path, text, kind, reason):
    refused(tmp_path / "case.vtu", mesh(ascii_array("p", text, kind)), reason)


def test_a_large_text_is_counted_across_its_parts(tmp_path, monkeypatch):
    from dataplane.pack.vtk import text

    monkeypatch.setattr(text, "_STEP_BYTES", 64)
    numbers = " ".join(map(repr, np.random.default_rng(0).random(500).tolist()))
    content = numbers.encode()
    dtype = np.dtype("f8")
    for stop in range(0, len(content), 13):
        expected = len(content[:stop].split())
        assert text.count_numbers(content, 0, stop, dtype) == expected or (
            content[:stop].endswith((b"e", b"e-"))
        )


def test_arrays_of_one_name_are_both_kept(tmp_path):
    arrays = [ascii_array("p", f"{n} 2 3 4") for n in (1, 5, 9)]
    cells = ascii_array("p", "7") + ascii_array("p", "8")
    fields = cells.replace("format", 'NumberOfTuples="1" format')
    fields = f"<FieldData>{fields}</FieldData>"
    sample = read_one(tmp_path / "case.vtu", mesh("".join(arrays), cells, fields))
    found = {name: array.values.reshape(-1)[0] for name, array in sample.arrays.items()}
    assert [found[f"point_data/p{n}"] for n in ("", "~2", "~3")] == [1, 5, 9]
    assert [found[f"cell_data/p{n}"] for n in ("", "~2")] == [7, 8]
    assert [found[f"global_data/p{n}"] for n in ("", "~2")] == [7, 8]
    assert sample.arrays["point_data/p~3"].attributes["name"] == "p"


def test_arrays_without_a_name_are_called_unnamed(tmp_path):
    arrays = ascii_array(None, "1 2 3 4") + ascii_array("", "5 6 7 8")
    sample = read_one(tmp_path / "case.vtu", mesh(arrays))
    assert sample.arrays["point_data/unnamed"].values.tolist() == [1, 2, 3, 4]
    assert sample.arrays["point_data/unnamed~2"].values.tolist() == [5, 6, 7, 8]
    assert sample.arrays["point_data/unnamed"].attributes["name"] == ""


@pytest.mark.parametrize("name", ["a>b", "1 &lt; 2 &amp; &quot;3&quot;", "p/q é 名"])
def test_names_hold_any_character(tmp_path, name):
    sample = read_one(tmp_path / "case.vtu", mesh(ascii_array(name, "1 2 3 4")))
    (array,) = [array for key, array in sample.arrays.items() if key.startswith("point_data/")]
    assert array.values.tolist() == [1, 2, 3, 4]
    plain = name.replace("&lt;", "<").replace("&quot;", '"').replace("&amp;", "&")
    assert array.attributes["name"] == plain


@pytest.mark.parametrize("name", ["TimeValue", "TIME"])
def test_the_time_of_a_file_is_an_attribute_and_kept(tmp_path, name):
    fields = ascii_array(name, "2.5", "Float32", more='NumberOfTuples="1"')
    sample = read_one(tmp_path / "case.vtu", mesh(fields=f"<FieldData>{fields}</FieldData>"))
    assert sample.attributes["time"] == 2.5
    assert sample.arrays[f"global_data/{name}"].values.tolist() == [2.5]


def test_field_data_that_does_not_say_how_long_it_is_is_read(tmp_path):
    writer = Writer("inline")
    fields = ascii_array("a", "1 2 3 4", components=2) + writer.array("b", np.array([5.0, 6.0]))
    content = mesh(fields=f"<FieldData>{fields}</FieldData>").replace(b"UInt64", b"UInt32", 1)
    sample = read_one(tmp_path / "case.vtu", content)
    assert sample.arrays["global_data/a"].values.tolist() == [[1, 2], [3, 4]]
    assert sample.arrays["global_data/b"].values.tolist() == [5, 6]


@pytest.mark.parametrize("count", [1, 3])
def test_text_arrays_of_another_length_are_refused(tmp_path, count):
    array = (
        f'<Array type="String" Name="s" NumberOfTuples="{count}" format="ascii">97 0 98 0</Array>'
    )
    content = mesh(fields=f"<FieldData>{array}</FieldData>")
    refused(tmp_path / "case.vtu", content, f"array 's': expected {count} values, got 2")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b'NumberOfComponents="3"', b'NumberOfComponents="2"', "points need 3 components, got 2"),
        (b'NumberOfComponents="3"', b"", "points need 3 components, got 1"),
        (b">0 1 2 3<", b">0 1 2 3 0<", "'connectivity' of Cells: expected 4 values.* got 5"),
        (b">0 1 2 3<", b">0 1 2<", "connectivity"),
        (b">0 1 2 3<", b">0 1 2 4<", "refer to number 4"),
        (b">4<", b">4 4<", "'offsets' of Cells: expected 1 values, got 2"),
        (b">10<", b">10 5<", "'types' of Cells: expected 1 values, got 2"),
        (b'NumberOfPoints="4"', b'NumberOfPoints="5"', "its points: expected 15 values, got 12"),
        (b'NumberOfPoints="4"', b'NumberOfPoints="x"', "declares NumberOfPoints 'x'"),
        (b'type="Float64"', b'type="Float"', "its type is 'Float'"),
        (b'format="ascii"', b'format="binary"', "base64"),
        (b'format="ascii"', b'format="appended" offset="0"', "the file has no appended data"),
        (b"LittleEndian", b"MiddleEndian", "byte order is 'MiddleEndian'"),
        (b"<Points>", b"<Points>%b</Points><Points>" % _POINTS_ARRAY, "a second <Points>"),
        (b'<?xml version="1.0"?>', b'<!DOCTYPE a [<!ENTITY b "c">]>', "document type"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path, old, new, reason):
    content = mesh()
    assert old in content
    refused(tmp_path / "case.vtu", content.replace(old, new, 1), reason)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content + b"\n" * 6000,
        lambda content: content.replace(b"?>", b"?><!-- " + b"long " * 4000 + b"-->", 1),
        lambda content: content.replace(b"?>", b"?><!-- <VTKFile type='no'> -->", 1),
        lambda content: b"\xef\xbb\xbf" + content,
    ],
)
def test_what_stands_around_the_file_does_not_matter(tmp_path, change):
    content = change(mesh(ascii_array("p", "1 2 3 4")))
    assert _values(tmp_path / "case.vtu", content) == [1, 2, 3, 4]


def test_large_files_are_mapped_and_edited_like_small_ones(tmp_path, monkeypatch):
    numbers = np.random.default_rng(0).random(60_000)
    text = " ".join(map(repr, numbers.tolist()))
    piece = mesh_piece(60_000, [[0, 1, 2]], ascii_array("p", f"-inf {text[text.index(' ') :]}"))
    content = wrap(piece)
    assert len(content) > 1 << 20
    found = read_one(tmp_path / "case.vtu", content).arrays["point_data/p"].values
    assert found[0] == -np.inf
    assert found[1:].tolist() == numbers[1:].tolist()
