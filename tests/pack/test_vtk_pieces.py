"""Pieces of VTK XML files, in one file or several, are put together exactly, or refused."""

import logging

import numpy as np
import pytest

pv = pytest.importorskip("pyvista", reason="the vtk extra is not installed")

from dataplane.errors import FormatError  # noqa: E402
from dataplane.pack import open_source  # noqa: E402
from tests.pack.reading import read_one, refused  # noqa: E402
from tests.pack.xml_files import (  # noqa: E402
    ascii_array,
    grid,
    mesh_piece,
    surface_piece,
    wrap,
)

_TRIANGLE = [[0, 1, 2]]


def _piece(first, kind="Float64", more="", cells=_TRIANGLE):
    values = ascii_array("p", f"{first} {first + 1} {first + 2}", kind)
    return mesh_piece(3, cells, values + more, place=float(first))


_EMPTY = mesh_piece(0, [])


def _parallel(folder, pieces, listed=(("Float64", "p"),), sources=None, attributes=""):
    """Write the pieces of a `.pvtu` and the file; return its path."""
    names = [f"m_{number}.vtu" for number in range(len(pieces))]
    for name, piece in zip(names, pieces, strict=True):
        (folder / name).write_bytes(wrap(piece))
    arrays = "".join(f'<PDataArray type="{kind}" Name="{name}"/>' for kind, name in listed)
    body = (
        f"<PPointData {attributes}>{arrays}</PPointData><PCellData></PCellData>"
        '<PPoints><PDataArray type="Float64" NumberOfComponents="3"/></PPoints>'
    )
    body += "".join(f'<Piece Source="{source}"/>' for source in sources or names)
    path = folder / "m.pvtu"
    path.write_bytes(wrap(body, "PUnstructuredGrid"))
    return path


def _p(sample, name="point_data/p"):
    return sample.arrays[name].values.tolist()


def test_pieces_of_one_file_follow_each_other(tmp_path):
    sample = read_one(tmp_path / "case.vtu", wrap(_piece(1) + _EMPTY + _piece(4)))
    assert _p(sample) == [1, 2, 3, 4, 5, 6]
    assert _p(sample, "cells/connectivity") == [0, 1, 2, 3, 4, 5]
    assert sample.arrays["points"].values[:, 0].tolist() == [1, 2, 3, 4, 5, 6]


def test_an_array_that_a_piece_lacks_is_refused(tmp_path):
    bare = mesh_piece(3, _TRIANGLE)
    for pieces, lacking in ((_piece(1) + bare, 1), (bare + _piece(1), 0)):
        reason = f"'p' of PointData is not in piece {lacking}"
        refused(tmp_path / "case.vtu", wrap(pieces), reason)


def test_pieces_of_different_types_are_refused(tmp_path):
    for kind in ("Float32", "Int64"):
        reason = f"'p' of PointData is Float64 in piece 0 and {kind} in piece 1"
        refused(tmp_path / "case.vtu", wrap(_piece(1) + _piece(4, kind)), reason)


def test_a_piece_that_refers_to_points_of_another_is_refused(tmp_path):
    content = wrap(_piece(1) + _piece(4, cells=[[0, 1, 3]]))
    refused(tmp_path / "case.vtu", content, "piece 1: its cells refer to number 3")
    content = wrap(_piece(1, cells=[[0, 1, 3]]) + _piece(4))
    refused(tmp_path / "case.vtu", content, "piece 0: its cells refer to number 3")


def test_lengths_that_only_add_up_over_all_pieces_are_refused(tmp_path):
    content = wrap(_piece(1) + _piece(4))
    parts = content.split(b">0 1 2<")
    assert len(parts) == 3
    content = parts[0] + b">0 1 2 0<" + parts[1] + b">0 1<" + parts[2]
    refused(tmp_path / "case.vtu", content, "connectivity|Cannot read cell")


def test_points_without_cells_may_come_first(tmp_path):
    # VTK then takes the point numbers of the second piece for those of the first.
    sample = read_one(tmp_path / "case.vtu", wrap(_piece(1, cells=[]) + _piece(4)))
    assert _p(sample, "cells/connectivity") == [3, 4, 5]
    assert _p(sample) == [1, 2, 3, 4, 5, 6]


def test_surfaces_in_pieces_keep_numbers_and_cell_data_together(tmp_path):
    # As they come: lists that begin in a later piece, and strips beside polygons.
    content = wrap(
        surface_piece(3, [1, 2, 3], Verts=[[0]], Lines=[[0, 1]], Polys=_TRIANGLE)
        + surface_piece(
            4, [4, 5, 6, 7], Lines=[[2, 3]], Polys=[[1, 2, 3]], Strips=[[0, 1, 2, 3]] * 2
        )
        + surface_piece(1, [8], Verts=[[0]]),
        "PolyData",
    )
    sample = read_one(tmp_path / "case.vtp", content)
    assert _p(sample, "cells/types") == [1, 1, 3, 3, 5, 5, 6, 6]
    assert _p(sample, "cells/connectivity") == [
        *(0, 7),
        *(0, 1, 5, 6),
        *(0, 1, 2, 4, 5, 6),
        *(3, 4, 5, 6, 3, 4, 5, 6),
    ]
    # Cell data of a piece follow its verts, lines, polygons and strips.
    assert _p(sample, "cell_data/q") == [1, 8, 2, 4, 3, 5, 6, 7]


def test_polyhedra_after_other_cells_keep_their_faces(tmp_path):
    faces = ascii_array("faces", "4 3 0 1 2 3 0 1 3 3 1 2 3 3 0 2 3", "Int64")
    faces += ascii_array("faceoffsets", "17", "Int64")
    second = mesh_piece(4, [[0, 1, 2, 3]]).replace(">10<", ">42<")
    second = second.replace("</Cells>", f"{faces}</Cells>")
    sample = read_one(tmp_path / "case.vtu", wrap(mesh_piece(3, _TRIANGLE) + second))
    assert _p(sample, "cells/face_connectivity") == [3, 4, 5, 3, 4, 6, 4, 5, 6, 3, 5, 6]
    assert _p(sample, "cells/polyhedron_offsets") == [0, 0, 4]
    shorter = second.replace("3 0 2 3<", "3 0 2 3 7<")
    refused(tmp_path / "case.vtu", wrap(shorter), "'faces' of Cells: expected 17 values, got 18")


def test_pieces_must_cover_the_whole_grid(tmp_path):
    path = tmp_path / "case.vti"
    values = [" ".join(map(str, range(12))), " ".join(map(str, range(12, 24)))]
    whole, first, second = "0 4 0 1 0 1", "0 2 0 1 0 1", "2 4 0 1 0 1"
    sample = read_one(path, grid(whole, [first, second], values))
    assert sample.arrays["fields/p"].values[0, 0].tolist() == [0, 1, 12, 13, 14]
    assert sample.attributes["origin"] == [1, 2, 3]
    refused(path, grid(whole, [first], values[:1]), "1 pieces do not cover its extent")
    refused(path, grid(whole, [second], values[:1]), "do not cover")
    refused(path, grid(whole, [first, first], values), "do not cover")
    refused(path, grid("0 3 0 1 0 1", [first, second], values), "outside the whole extent")
    refused(path, grid(whole, [], []), "got nothing")
    shifted = ["0 2 0 1 0 1", "4 6 0 1 0 1"]
    refused(path, grid("0 6 0 1 0 1", shifted, values), "do not cover")


def test_flat_grids_in_pieces_are_read(tmp_path):
    content = grid("0 2 0 1 5 5", ["0 1 0 1 5 5", "1 2 0 1 5 5"], ["0 1 2 3", "1 9 3 8"])
    sample = read_one(tmp_path / "case.vti", content)
    assert sample.arrays["fields/p"].values.tolist() == [[[0, 1, 9], [2, 3, 8]]]


@pytest.mark.parametrize(
    ("name", "value"), [("Origin", "1 2"), ("Spacing", "1 1 1.1.1"), ("Origin", "1 2 3 4")]
)
def test_places_of_a_grid_that_are_no_three_numbers_are_refused(tmp_path, name, value):
    content = grid("0 1 0 1 0 1", ["0 1 0 1 0 1"], ["1 2 3 4 5 6 7 8"]).decode()
    old = 'Origin="1 2 3"' if name == "Origin" else 'Spacing="0.5 0.5 0.5"'
    content = content.replace(old, f'{name}="{value}"').encode()
    refused(tmp_path / "case.vti", content, f"its {name} is '{value}', expected 3 numbers")


def test_too_few_coordinates_are_refused(tmp_path):
    path = tmp_path / "case.vtr"
    pv.RectilinearGrid(np.r_[0.0, 1, 3], np.r_[0.0, 2], np.r_[0.0, 1]).save(path, binary=False)
    content = path.read_bytes()
    assert _p(read_one(path), "coordinates/x") == [0, 1, 3]
    cut = content.replace(b"0 1 3", b"0 1", 1)
    refused(path, cut, "its x coordinates: expected 3 values, got 2")


def test_an_empty_rank_without_arrays_is_passed_over(tmp_path):
    sample = read_one(_parallel(tmp_path, [_EMPTY, _piece(4), _EMPTY]))
    assert _p(sample) == [4, 5, 6]
    assert _p(sample, "cells/connectivity") == [0, 1, 2]
    assert len(sample.attributes["source"]["files"]) == 4


def test_paths_of_windows_lead_to_the_pieces(tmp_path):
    (tmp_path / "pieces").mkdir()
    (tmp_path / "pieces" / "m_0.vtu").write_bytes(wrap(_piece(1)))
    path = _parallel(tmp_path, [_piece(9)], sources=["pieces\\m_0.vtu"])
    assert _p(read_one(path)) == [1, 2, 3]


def test_values_have_the_type_of_the_pieces_and_not_of_the_header(tmp_path):
    pieces = [_piece(1), _piece(4)]
    path = _parallel(tmp_path, pieces, [("Float32", "p")], attributes='Scalars="p"')
    path.write_bytes(path.read_bytes().replace(b'"Float64" NumberOf', b'"Float32" NumberOf'))
    sample = read_one(path)
    assert sample.arrays["point_data/p"].values.dtype == np.float64
    assert sample.arrays["points"].values.dtype == np.float64
    assert sample.arrays["point_data/p"].attributes["vtk_role"] == "Scalars"
    assert _p(sample) == [1, 2, 3, 4, 5, 6]


def test_arrays_that_the_header_does_not_list_are_kept(tmp_path):
    pieces = [_piece(1, more=ascii_array("q", "7 8 9")), _piece(4, more=ascii_array("q", "1 2 3"))]
    sample = read_one(_parallel(tmp_path, pieces))
    assert _p(sample, "point_data/q") == [7, 8, 9, 1, 2, 3]
    assert "arrays_left_out" not in sample.attributes


def test_an_array_of_some_pieces_is_left_out_with_a_note(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "dataplane")
    path = _parallel(tmp_path, [_piece(1), _piece(4, more=ascii_array("q", "1 2 3"))])
    sample = read_one(path)
    assert "point_data/q" not in sample.arrays
    assert sample.attributes["arrays_left_out"] == ["q"]
    assert any("left out: array 'q'" in record.getMessage() for record in caplog.records)


def test_a_listed_array_that_a_piece_lacks_is_refused(tmp_path):
    path = _parallel(tmp_path, [_piece(1), mesh_piece(3, _TRIANGLE)])
    refused(path, path.read_bytes(), "'p' of PointData is not in piece 1")


def test_pieces_are_checked_as_files_are(tmp_path):
    path = _parallel(tmp_path, [_piece(1), _piece(4).replace("4 5 6", "4 5 6 7")])
    refused(path, path.read_bytes(), r"piece m_1\.vtu: array 'p': expected 3 values, got 4")
    path = _parallel(tmp_path, [_piece(1), _piece(4).replace("4 5 6", "4 -inf 6")])
    assert _p(read_one(path)) == [1, 2, 3, 4, -np.inf, 6]
    doubled = ascii_array("p", "7 8 9")
    path = _parallel(tmp_path, [_piece(1, more=doubled), _piece(4, more=doubled)])
    assert _p(read_one(path), "point_data/p~2") == [7, 8, 9, 7, 8, 9]


def test_surfaces_in_several_files_keep_numbers_and_cell_data_together(tmp_path):
    pieces = [
        surface_piece(3, [1, 2], Verts=[[0]], Strips=[[0, 1, 2]]),
        surface_piece(3, [3, 4], Polys=[[2, 1, 0]], Strips=[[0, 1, 2]]),
    ]
    for number, piece in enumerate(pieces):
        (tmp_path / f"m_{number}.vtp").write_bytes(wrap(piece, "PolyData"))
    body = '<PCellData><PDataArray type="Float64" Name="q"/></PCellData><PPoints>'
    body += '<PDataArray type="Float64" NumberOfComponents="3"/></PPoints>'
    body += '<Piece Source="m_0.vtp"/><Piece Source="m_1.vtp"/>'
    sample = read_one(tmp_path / "m.pvtp", wrap(body, "PPolyData"))
    assert _p(sample, "cells/connectivity") == [0, 5, 4, 3, 0, 1, 2, 3, 4, 5]
    assert _p(sample, "cell_data/q") == [1, 3, 2, 4]


def test_grids_in_several_files_are_put_together_or_refused(tmp_path):
    path = tmp_path / "m.pvti"
    extents = ["0 1 0 1 0 1", "1 2 0 1 0 1"]
    for number, extent in enumerate(extents):
        values = " ".join(str(10 * number + n) for n in range(8))
        (tmp_path / f"m_{number}.vti").write_bytes(grid(extent, [extent], [values]))
    listed = '<PPointData><PDataArray type="Float32" Name="p"/></PPointData>'
    pieces = [f'<Piece Extent="{e}" Source="m_{n}.vti"/>' for n, e in enumerate(extents)]
    where = 'WholeExtent="{}" Origin="1 2 3" Spacing="0.5 0.5 0.5"'

    def content(whole, pieces):
        return wrap(listed + "".join(pieces), "PImageData", where.format(whole))

    sample = read_one(path, content("0 2 0 1 0 1", pieces))
    assert sample.arrays["fields/p"].values.dtype == np.float64
    assert sample.arrays["fields/p"].values[0].tolist() == [[0, 10, 11], [2, 12, 13]]
    refused(path, content("0 3 0 1 0 1", pieces), "do not cover")
    moved = [pieces[0], pieces[1].replace(extents[1], "1 3 0 1 0 1")]
    refused(path, content("0 3 0 1 0 1", moved), r"m_1\.vti: .* got 1 2 0 1 0 1")


def _turned_image(folder):
    """Image data in two pieces with axes of its own, as VTK writes it."""
    from vtkmodules.vtkIOParallelXML import vtkXMLPImageDataWriter

    image = pv.ImageData(dimensions=(3, 3, 3), origin=(1, 2, 3))
    image.SetExtent(1, 3, 0, 2, 0, 2)
    image.direction_matrix = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    image.point_data["p"] = np.arange(27.0)
    writer = vtkXMLPImageDataWriter()
    writer.SetFileName(str(folder / "m.pvti"))
    writer.SetNumberOfPieces(2)
    writer.SetEndPiece(1)
    writer.SetInputData(image)
    writer.Write()
    return image


def test_parallel_image_data_keeps_its_direction(tmp_path):
    image = _turned_image(tmp_path)
    sample = read_one(tmp_path / "m.pvti")
    assert sample.attributes["direction"] == image.direction_matrix.ravel().tolist()
    assert sample.attributes["origin"] == list(image.GetPoint(0)) == [1, 3, 3]


def test_pieces_of_different_directions_are_refused(tmp_path):
    _turned_image(tmp_path)
    first = next(iter(sorted(tmp_path.glob("m_*.vti"))))
    turned = first.read_bytes().replace(b'"0 -1 0 1 0 0 0 0 1"', b'"0 1 0 1 0 0 0 0 -1"')
    first.write_bytes(turned)
    with pytest.raises(FormatError, match="its parts have different Direction: 0 1 0 1 0"):
        list(open_source(tmp_path / "m.pvti"))


@pytest.mark.parametrize("origin", ["1e999 0 0", "0 0", "0 0 0`0"])
def test_an_origin_that_is_no_three_numbers_is_refused(tmp_path, origin):
    path = tmp_path / "m.vti"
    pv.ImageData(dimensions=(2, 2, 2), origin=(7, 0, 0)).save(path)
    changed = path.read_bytes().replace(b'Origin="7 0 0"', f'Origin="{origin}"'.encode())
    refused(path, changed, "its Origin")


@pytest.mark.parametrize("suffix", ["pvti", "pvtr", "pvts", "pvtu", "pvtp"])
def test_parallel_files_that_vtk_writes_equal_the_whole(tmp_path, suffix):
    from vtkmodules import vtkIOParallelXML

    image = pv.ImageData(dimensions=(7, 4, 3))
    mesh = {
        "pvti": image,
        "pvtr": image.cast_to_rectilinear_grid(),
        "pvts": image.cast_to_structured_grid(),
        "pvtu": image.cast_to_unstructured_grid(),
        "pvtp": image.extract_surface(algorithm="dataset_surface"),
    }[suffix]
    mesh.point_data["p"] = np.arange(mesh.n_points) + 0.5
    mesh.cell_data["q"] = np.arange(3 * mesh.n_cells).reshape(-1, 3)
    mesh.field_data["TimeValue"] = np.array([2.5])
    kind = type(mesh).__name__
    writer = getattr(vtkIOParallelXML, f"vtkXMLP{kind}Writer")()
    writer.SetInputData(mesh)
    writer.SetFileName(str(tmp_path / f"m.{suffix}"))
    writer.SetNumberOfPieces(3)
    writer.SetStartPiece(0)
    writer.SetEndPiece(2)
    writer.Write()
    sample = read_one(tmp_path / f"m.{suffix}")
    assert len(sample.attributes["source"]["files"]) == 4
    if suffix in {"pvtu", "pvtp"}:  # without MPI, VTK writes the whole mesh as each piece
        grid = mesh if suffix == "pvtu" else mesh.cast_to_unstructured_grid()
        numbers = [grid.cell_connectivity + n * mesh.n_points for n in range(3)]
        assert _p(sample, "cells/connectivity") == np.concatenate(numbers).tolist()
        assert _p(sample) == [*mesh["p"]] * 3
        assert _p(sample, "cell_data/q") == mesh["q"].tolist() * 3
    else:
        assert sample.arrays["fields/p"].values.reshape(-1).tolist() == list(mesh["p"])
        assert np.array_equal(
            sample.arrays["cell_fields/q"].values.reshape(-1, 3), mesh.cell_data["q"]
        )
