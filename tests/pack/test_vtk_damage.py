"""Damaged and hostile VTK files are errors that name the file; never prints, never silent holes."""

import re
import threading

import numpy as np
import pytest

pv = pytest.importorskip("pyvista", reason="the vtk extra is not installed")

from dataplane.errors import FormatError  # noqa: E402
from dataplane.pack import open_source  # noqa: E402
from dataplane.pack.vtk.read import _tidied  # noqa: E402
from tests.pack.oracle import assert_same_arrays, expected_arrays, values_of  # noqa: E402


def _write(path, *, binary=True):
    grid = pv.Sphere(theta_resolution=12, phi_resolution=12).cast_to_unstructured_grid()
    grid.point_data["p"] = np.random.default_rng(0).standard_normal(grid.n_points)
    grid.cell_data["q"] = np.random.default_rng(1).standard_normal((grid.n_cells, 3))
    grid.save(path, binary=binary)
    return path.read_bytes()


def _damaged(path, content):
    path.write_bytes(content)
    with pytest.raises(FormatError) as caught:
        list(open_source(path))
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("binary", [True, False])
def test_a_file_cut_anywhere_is_refused_without_a_word_on_stderr(tmp_path, capfd, binary):
    path = tmp_path / "case.vtu"
    content = _write(path, binary=binary)
    end = content.rindex(b"</VTKFile>")
    for size in [1, 20, *range(100, end, max(1, end // 40)), end, end + 5]:
        _damaged(path, content[:size])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("binary", [True, False])
def test_a_legacy_file_cut_anywhere_is_refused_or_read_whole(tmp_path, capfd, binary):
    path = tmp_path / "case.vtk"
    content = _write(path, binary=binary)
    path.write_bytes(content)
    expected = expected_arrays(pv.read(path))
    outcomes = []
    for size in range(0, len(content), max(1, len(content) // 40)):
        path.write_bytes(content[:size])
        try:
            (sample,) = open_source(path)
        except FormatError:
            continue
        outcomes.append(size)
        # A legacy file does not say how many arrays it has: one that was cut between two of them
        # is a sound file with fewer. What is there must be right.
        found = values_of(sample)
        for name, values in found.items():
            assert np.array_equal(values, expected[name]), (name, size)
    assert len(outcomes) < 10
    assert capfd.readouterr() == ("", "")


def test_flipped_bytes_are_refused_or_harmless(tmp_path, capfd):
    path = tmp_path / "case.vtu"
    content = _write(path)
    rng = np.random.default_rng(0)
    refused = 0
    for at in rng.integers(0, len(content), 60):
        flipped = bytearray(content)
        flipped[at] ^= 0xFF
        path.write_bytes(flipped)
        try:
            for sample in open_source(path):
                sample.check()
                cells = values_of(sample).get("cells/connectivity")
                if cells is not None and len(cells):
                    assert cells.max() < len(values_of(sample)["points"])
        except FormatError:
            refused += 1
    assert refused > 20
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("declared", ["99999999999999999", "-3"])
def test_a_header_that_lies_about_its_size_is_refused_before_memory_is_taken(tmp_path, declared):
    path = tmp_path / "case.vtu"
    content = _write(path)
    lying = re.sub(rb'NumberOfPoints="\d+"', b'NumberOfPoints="%s"' % declared.encode(), content)
    assert "declares" in _damaged(path, lying)


def test_an_extent_that_lies_is_refused(tmp_path):
    path = tmp_path / "case.vti"
    image = pv.ImageData(dimensions=(3, 3, 3))
    image.point_data["p"] = np.arange(27.0)
    image.save(path)
    lying = path.read_bytes().replace(b'Extent="0 2 0 2 0 2"', b'Extent="0 99999 0 99999 0 99999"')
    assert "declares" in _damaged(path, lying)


@pytest.mark.parametrize("extent", ["0 2 0 - 0 1", "0-2 0 2 0 2", "0 2 0 2", "0 2 0 2 0 2 0"])
def test_an_extent_that_is_no_six_numbers_is_refused(tmp_path, extent):
    path = tmp_path / "case.vti"
    pv.ImageData(dimensions=(3, 3, 3)).save(path)
    changed = path.read_bytes().replace(b'Extent="0 2 0 2 0 2"', f'Extent="{extent}"'.encode())
    assert "extent" in _damaged(path, changed)


@pytest.mark.parametrize("tail", [b"", b"\n", b"\x85\n"])
def test_a_legacy_file_cut_after_its_scalars_line_is_refused(tmp_path, tail):
    head = b"# vtk DataFile Version 3.0\nt\nASCII\nDATASET STRUCTURED_POINTS\nDIMENSIONS 2 1 1\n"
    data = b"POINT_DATA 2\nSCALARS p float 1\n"
    assert "LOOKUP_TABLE" in _damaged(tmp_path / "case.vtk", head + data + tail)


def test_cells_that_refer_to_missing_points_are_refused(tmp_path):
    path = tmp_path / "case.vtk"
    points = "POINTS 3 float\n0 0 0 1 0 0 0 1 0\n"
    head = "# vtk DataFile Version 3.0\nt\nASCII\nDATASET UNSTRUCTURED_GRID\n"
    cells = "CELLS 1 4\n3 0 1 7\nCELL_TYPES 1\n5\n"
    assert "refer to number 7" in _damaged(path, (head + points + cells).encode())


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("case.vtu", b"", "it is empty"),
        ("case.vtu", b"<html>404</html>", "it is an HTML page"),
        ("case.vtu", b"mesh 1 2 3", "its content is not that of a .vtu file"),
        ("case.vth", b'<VTKFile type="vtkOverlappingAMR"></VTKFile>', "is not supported"),
        ("case.vtk", b"# vtk DataFile Version 3.0\nt\nASCII\nDATASET NONSENSE\n", "case.vtk"),
        ("case.vtk", b"# vtk DataFile Version 3.0\nt\nASCII\nDATASET POLYDATA\n", "no points"),
    ],
)
def test_what_is_no_dataset_is_refused_with_the_reason(tmp_path, name, content, reason):
    assert reason in _damaged(tmp_path / name, content)


def test_a_type_of_several_lines_is_shown_in_one(tmp_path):
    content = b'<VTKFile type="vtkMultiBlock>\n<DataSet index="0"/></VTKFile>'
    assert "vtkMultiBlock> <DataSet index=" in _damaged(tmp_path / "case.vtm", content)
    assert "\n" not in _damaged(tmp_path / "case.vtm", content)


def test_a_suffix_does_not_matter_when_the_content_says_what_it_is(tmp_path):
    image = pv.ImageData(dimensions=(3, 3, 3))
    image.point_data["p"] = np.arange(27.0)
    image.save(tmp_path / "case.vti")
    (tmp_path / "case.vti").rename(tmp_path / "case.vtu")
    (sample,) = open_source(tmp_path / "case.vtu")
    assert sample.attributes["dataset"] == "ImageData"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            "ERROR: In vtkXMLReader.cxx, line 21\nvtkXMLDataReader (0x55d0c4a1e2f0): Error 9\n\n",
            "Error 9",
        ),
        ("Cannot read vtkFloatArray (0x7f3094dbef90) at\n  0x7f3094dbef90, of 12", "at, of 12"),
    ],
)
def test_reasons_hold_no_addresses(said, reason):
    assert _tidied(said).endswith(reason)
    assert "0x" not in _tidied(said)


def test_warnings_are_no_errors(simulation_files, capfd):
    # can.vtu carries keys of a module that readers need not have; VTK warns about each.
    (sample,) = open_source(simulation_files / "can.vtu")
    assert len(sample.arrays) == 19
    assert capfd.readouterr() == ("", "")


def test_an_error_in_one_thread_does_not_touch_a_read_in_another(tmp_path):
    good, bad = tmp_path / "good.vtu", tmp_path / "bad.vtu"
    content = _write(good)
    bad.write_bytes(content.replace(b'Name="p"', b'Name="p" format="nonsense"'))
    expected = expected_arrays(pv.read(good))
    refused = []

    def read_bad():
        for _ in range(20):
            with pytest.raises(FormatError):
                list(open_source(bad))
            refused.append(1)

    thread = threading.Thread(target=read_bad)
    thread.start()
    for _ in range(20):
        (sample,) = open_source(good)
        assert_same_arrays(values_of(sample), expected)
    thread.join()
    assert len(refused) == 20
