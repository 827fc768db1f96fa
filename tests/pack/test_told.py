"""What a pack leaves out is told: once, in whole words, in the summary and as JSON."""

import json
import os
import pty
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from click.testing import CliRunner

from dataplane.cli.main import cli
from dataplane.errors import FormatError
from dataplane.pack import open_source, pack
from tests.pack.xml_files import ascii_array, mesh_piece, wrap

_PICKLED = "it holds pickled objects, which are not read"


def _run(*arguments):
    return CliRunner().invoke(cli, ["pack", *map(str, arguments)])


def _on_terminal(folder, *arguments):
    """Return what a pack writes to stderr where that is a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    command = [sys.executable, "-m", "dataplane", "pack", *map(str, arguments)]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=theirs, env=environment
    ) as child:
        os.close(theirs)
        written = b""
        try:
            while piece := os.read(ours, 1 << 16):
                written += piece
        except OSError:  # the other end is closed
            pass
        os.close(ours)
    assert child.returncode == 0
    return written.decode()


def _npz_with_dict(path):
    np.savez(path, p=np.arange(3.0), params=np.array({"mach": 0.8}))


def _series_twice(folder):
    for number in range(2):
        values = ascii_array("p", f"{number} 1 2")
        (folder / f"s{number}.vtu").write_bytes(wrap(mesh_piece(3, [[0, 1, 2]], values)))
    steps = "".join(f'<DataSet timestep="{n}" file="s{n}.vtu"/>' for n in range(2))
    for name in ("s.pvd", "s_copy.pvd"):
        (folder / name).write_text(
            f'<VTKFile type="Collection"><Collection>{steps}</Collection></VTKFile>'
        )


def test_what_samples_lack_is_told_up_to_a_limit_and_listed_whole_in_json(tmp_path):
    sources = tmp_path / "sources"
    sources.mkdir()
    for number in range(22):
        _npz_with_dict(sources / f"case{number:02d}.npz")
    done = _run(sources, (tmp_path / "ds").as_uri(), "--json")
    assert done.stderr.splitlines() == [
        *(f"left out of {sources}/case{n:02d}.npz: 'params.npy' ({_PICKLED})" for n in range(20)),
        "left out of 2 more samples (--json lists them all)",
    ]
    document = json.loads(done.stdout)
    assert document["skipped"] == []
    assert document["left_out"] == [
        {"source": f"{sources}/case{n:02d}.npz", "what": "'params.npy'", "reason": _PICKLED}
        for n in range(22)
    ]


def test_a_sample_that_lacks_things_for_two_reasons_counts_once(tmp_path):
    for number in range(12):
        _npz_with_dict(tmp_path / f"case{number:02d}.npz")
        with zipfile.ZipFile(tmp_path / f"case{number:02d}.npz", "a") as archive:
            archive.writestr("README.txt", "hello")
    done = _run(tmp_path, (tmp_path / "ds").as_uri())
    told = done.stderr.splitlines()
    assert told[18:] == [
        f"left out of {tmp_path}/case09.npz: 'params.npy' ({_PICKLED})",
        f"left out of {tmp_path}/case09.npz: 'README.txt' (it is no array)",
        "left out of 2 more samples (--json lists them all)",
    ]


def test_the_summary_counts_samples_that_lack_something(tmp_path):
    _npz_with_dict(tmp_path / "case.npz")
    done = _run(tmp_path / "case.npz", (tmp_path / "ds").as_uri())
    assert done.stdout.splitlines()[-1].rstrip() == "left out  parts of 1 sample, named above"


def test_a_member_of_an_archive_is_named_with_the_archive(tmp_path):
    _npz_with_dict(tmp_path / "case.npz")
    with zipfile.ZipFile(tmp_path / "runs.zip", "w") as archive:
        archive.write(tmp_path / "case.npz", "deep/case.npz")
    summary = pack(tmp_path / "runs.zip", "memory://told-of-archive")
    assert summary.left_out == ((f"{tmp_path}/runs.zip/deep/case.npz", "'params.npy'", _PICKLED),)


def test_an_array_of_some_pieces_is_told_with_its_file_and_not_logged(tmp_path):
    pytest.importorskip("vtkmodules", reason="the vtk extra is not installed")
    for number, more in enumerate(("", ascii_array("q", "1 2 3"))):
        piece = mesh_piece(3, [[0, 1, 2]], more, place=float(number))
        (tmp_path / f"m_{number}.vtu").write_bytes(wrap(piece))
    body = "<PPointData/><PCellData/>"
    body += '<PPoints><PDataArray type="Float64" NumberOfComponents="3"/></PPoints>'
    body += '<Piece Source="m_0.vtu"/><Piece Source="m_1.vtu"/>'
    (tmp_path / "m.pvtu").write_bytes(wrap(body, "PUnstructuredGrid"))
    done = _run(tmp_path / "m.pvtu", (tmp_path / "ds").as_uri())
    reason = "only some pieces have it, and the header does not list it"
    assert done.stderr == f"left out of {tmp_path}/m.pvtu: array 'q' ({reason})\n"


def test_a_series_that_is_packed_through_another_is_a_note_and_not_skipped(tmp_path):
    pytest.importorskip("vtkmodules", reason="the vtk extra is not installed")
    _series_twice(tmp_path)
    done = _run(tmp_path, (tmp_path / "ds").as_uri(), "--json", "--on-error", "fail")
    assert done.exit_code == 0
    note = f"its 2 files are packed through {tmp_path}/s.pvd"
    assert done.stderr == f"note: {tmp_path}/s_copy.pvd: {note}\n"
    document = json.loads(done.stdout)
    assert (document["samples"], document["skipped"]) == (2, [])
    assert document["notes"] == [{"source": f"{tmp_path}/s_copy.pvd", "note": note}]


def test_a_folder_is_read_past_files_of_other_formats_up_to_what_is_damaged(tmp_path):
    (tmp_path / "Copyright.txt").write_text("all rights reserved")
    with pytest.raises(FormatError, match=r"holds nothing that is read: .*Copyright\.txt"):
        list(open_source(tmp_path))
    np.save(tmp_path / "A.npy", np.zeros(2))
    assert [sample.key for sample in open_source(tmp_path)] == ["A"]
    (tmp_path / "b.npy").write_bytes(b"\x93NUMPY nonsense")
    with pytest.raises(FormatError, match=r"b\.npy"):
        list(open_source(tmp_path))


@pytest.mark.parametrize(
    ("name", "words"),
    [("c.h5", "an HDF5 file"), ("c.nc", "a NetCDF file"), ("c.stl", "STL"), ("c.dat", "empty")],
)
def test_an_empty_file_is_named_by_a_suffix_that_only_one_format_has(tmp_path, name, words):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(FormatError, match=words):
        list(open_source(tmp_path / name))


def test_a_pack_that_refused_all_says_each_reason_once(tmp_path):
    np.save(tmp_path / "a.npy", np.array([np.nan]))
    done = _run(tmp_path / "a.npy", (tmp_path / "ds").as_uri(), "--fail-on-nan")
    (reason,) = done.stderr.splitlines()
    assert reason.startswith(f"skipped {tmp_path}/a.npy: ")
    assert isinstance(done.exception, FormatError)
    assert str(done.exception) == "nothing was packed: every source was skipped, as said above"


def test_a_terminal_gets_whole_words_and_no_bar_stays(tmp_path):
    _npz_with_dict(tmp_path / "case_of_a_name_that_is_long.npz")
    np.savez(tmp_path / "z.npz", p=np.zeros(3))
    written = _on_terminal(tmp_path, ".", "ds", "--round", "X=4")
    assert written.splitlines() == [
        "left out of ./case_of_a_name_that_is_long.npz: 'params.npy' (it holds pickled",
        "objects, which are not read)",
        "note: no array matched --round X=…",
    ]


@pytest.mark.parametrize("name", ["pack", "warm", "mount"])
def test_help_fits_into_80_columns(name):
    done = CliRunner().invoke(cli, [name, "--help"], terminal_width=80)
    assert max(map(len, done.stdout.splitlines())) <= 80
