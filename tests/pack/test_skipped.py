"""Lines that say what was left out, and the names of formats that pack does not read."""

import numpy as np
import pytest

from dataplane.errors import FormatError
from dataplane.pack import pack
from dataplane.pack.plan import plan_sources
from dataplane.pack.skipped import counted_lines
from dataplane.pack.source import Unreadable


def _unknown(*labels):
    return [Unreadable(label, "unknown", asked_for=False, group="") for label in labels]


@pytest.mark.parametrize(
    ("name", "content", "group", "hint"),
    [
        ("case.foam", b"", "OpenFOAM case", "foamToVTK"),
        ("U", b"FoamFile\n{\n", "OpenFOAM file", "foamToVTK"),
        ("a.cgns", b"x", "CGNS file", "ParaView"),
        ("a.e", b"CDF\x01...", "Exodus II file", "meshio"),
        ("a.exo", b"\x89HDF\r\n\x1a\n...", "Exodus II file", "meshio"),
        ("a.h5", b"\x89HDF\r\n\x1a\n...", "HDF5 file", "h5py"),
        ("a.HDF5", b"\x89HDF\r\n\x1a\n...", "HDF5 file", "h5py"),
        ("a.vtkhdf", b"\x89HDF\r\n\x1a\n...", "VTKHDF file", "ParaView"),
        ("a.xdmf", b"<Xdmf/>", "XDMF file", "meshio"),
        ("a.stl", b"solid", "STL surface", "PyVista"),
        ("a.nc", b"CDF\x05...", "NetCDF file", "xarray"),
        ("a.case", b"FORMAT\ntype: ensight gold", "EnSight case", "ParaView"),
        ("a.msh", b"$MeshFormat", "Gmsh or Fluent mesh", "meshio"),
        ("a.dat", b' title = "x"', "Tecplot text file", "meshio"),
        ("a.plt", b"#!TDV112", "Tecplot binary file", "ParaView"),
        (
            "a.vth",
            b'<VTKFile type="vtkOverlappingAMR">',
            "VTK file of the type vtkOverlappingAMR",
            "",
        ),
        ("a.dat", b"1 2 3", "", ""),
        ("a.h5", b"no HDF5", "", ""),
        ("a.txt", b"", "", ""),
    ],
)
def test_formats_of_others_are_named_with_what_to_do(tmp_path, name, content, group, hint):
    (tmp_path / name).write_bytes(content)
    (item,) = plan_sources([tmp_path])
    assert (item.group, item.asked_for) == (group, False)
    assert hint in (item.hint or "")
    (item,) = plan_sources([tmp_path / name])
    assert item.asked_for
    assert len(f"skipped {counted_lines([item] * 200)[0]}") <= 100


def test_an_empty_file_of_ours_is_damaged_and_not_counted(tmp_path):
    (tmp_path / "a.vtm").write_bytes(b"")
    (item,) = plan_sources([tmp_path])
    assert (item.reason, item.asked_for, item.group) == ("it is empty", True, None)


def test_unknown_files_are_one_line_with_the_counts_of_their_suffixes():
    labels = ["a/U", "a/p", "b.py", "log.1", "log.22", "log.333"]
    assert counted_lines(_unknown(*labels)) == [
        "6 files of unknown formats: 3 .N (e.g. log.1), 2 without suffix (e.g. U), 1 .py (b.py)"
    ]


def test_a_line_is_never_wider_than_a_hundred_columns_and_counts_everything():
    labels = [
        f"/a/long/path/to/x{'x' * n}.{chr(97 + n)}{chr(97 + k)}"
        for n in range(26)
        for k in range(3)
    ]
    (line,) = counted_lines(_unknown(*labels))
    assert len(f"skipped {line}") <= 100
    assert line.startswith("78 files of unknown formats: 1 .aa (x.aa), ")
    told = [int(part.split()[0]) for part in line.partition(": ")[2].split(", ")]
    assert sum(told) == 78


def test_other_reasons_for_what_was_not_asked_for_are_one_line_each():
    links = [Unreadable(f"d/{n}", "a link is not followed", asked_for=False) for n in range(3)]
    assert counted_lines([*links, Unreadable("d/x", "listed twice", asked_for=False)]) == [
        "3 sources (e.g. d/0): a link is not followed",
        "d/x: listed twice",
    ]
    assert counted_lines([Unreadable("a.vtu", "it is empty")]) == []


def test_a_folder_of_a_foreign_case_says_so_when_nothing_is_packed(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(40):
        (tmp_path / "in" / f"u{number}").write_bytes(b"FoamFile {}")
    with pytest.raises(FormatError, match=r"nothing was packed: 40 OpenFOAM files .*foamToVTK"):
        pack([tmp_path / "in"], (tmp_path / "ds").as_uri())
    np.save(tmp_path / "in" / "a.npy", np.zeros(3))
    summary = pack([tmp_path / "in"], (tmp_path / "ds").as_uri(), on_error="fail")
    assert len(summary.skipped) == 40
