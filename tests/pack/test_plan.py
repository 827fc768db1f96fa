"""Which datasets files and folders hold, in which order, under which keys."""

from pathlib import Path

import numpy as np
import pytest

from dataplane.cli.pack import pack
from dataplane.errors import FormatError
from dataplane.pack import formats, open_source
from dataplane.pack.plan import plan_sources
from dataplane.pack.source import SourceFile, Unreadable


def _npy(path, values=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.arange(3) if values is None else values)


def _pvd(path, entries):
    lines = "".join(
        f'<DataSet timestep="{time}" part="{part}" file="{file}"/>' for time, part, file in entries
    )
    path.write_text(f'<VTKFile type="Collection"><Collection>{lines}</Collection></VTKFile>')


def _vti(path, value=0.0):
    pv = pytest.importorskip("pyvista", reason="the vtk extra is not installed")
    image = pv.ImageData(dimensions=(2, 2, 2))
    image.point_data["p"] = np.full(8, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def _keys(*paths):
    return [item.key for item in plan_sources([*paths]) if isinstance(item, SourceFile)]


def test_folders_are_searched_and_keys_have_the_folders_in_them(tmp_path):
    for name in ("run_2/case.npy", "run_1/case.npy", "top.npy", ".hidden.npy", ".git/x.npy"):
        _npy(tmp_path / name)
    assert _keys(tmp_path) == ["run_1-case", "run_2-case", "top"]


def test_the_order_does_not_depend_on_the_order_of_the_arguments(tmp_path):
    paths = [tmp_path / f"{name}.npy" for name in "bca"]
    for path in paths:
        _npy(path)
    assert _keys(*paths) == _keys(*reversed(paths)) == ["a", "b", "c"]


def test_a_file_named_twice_is_packed_once(tmp_path):
    _npy(tmp_path / "a.npy")
    assert _keys(tmp_path, tmp_path / "a.npy", tmp_path / "." / "a.npy") == ["a"]


def test_what_is_missing_is_named(tmp_path):
    (item,) = plan_sources([tmp_path / "nothing.vtu"])
    assert isinstance(item, Unreadable)
    assert item.reason == "no such file or folder"


@pytest.mark.parametrize("name", ["README.md", "Copyright.txt", "case.q1"])
def test_what_is_no_simulation_is_named_with_what_would_be(tmp_path, name):
    (tmp_path / name).write_text("# readme")
    (item,) = plan_sources([tmp_path / name])
    assert item.reason.startswith("not a simulation format that pack knows: .vtu, .vtp")
    assert item.asked_for
    (item,) = plan_sources([tmp_path])
    assert not item.asked_for


def test_each_suffix_is_named_where_a_file_is_refused_and_in_the_help(tmp_path):
    (tmp_path / "README.md").write_text("# readme")
    (item,) = plan_sources([tmp_path / "README.md"])
    named = {word.strip(",").removeprefix(".") for word in item.reason.split()}
    assert not formats._BY_SUFFIX - named
    helped = {word.strip("().,;").removeprefix(".") for word in pack.help.split()}
    assert not formats._BY_SUFFIX - helped


def test_an_unreadable_file_is_named(tmp_path, monkeypatch):
    _npy(tmp_path / "a.npy")

    def refuse(self, *_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    (item,) = plan_sources([tmp_path / "a.npy"])
    assert item.reason == "it cannot be read: Permission denied"


def test_a_series_takes_its_steps_in_the_order_of_time(tmp_path):
    for number in range(3):
        _vti(tmp_path / "steps" / f"s{number}.vti", number)
    _vti(tmp_path / "other.vti")
    _pvd(tmp_path / "flow.pvd", [(2.5, 0, "steps/s2.vti"), (0, 0, "steps/s0.vti")])
    planned = plan_sources([tmp_path])
    assert [item.key for item in planned] == ["flow-0000", "flow-0001", "other", "steps-s1"]
    samples = list(open_source(tmp_path / "flow.pvd"))
    assert [float(s.arrays["fields/p"].values[0, 0, 0]) for s in samples] == [0, 2]
    assert samples[1].attributes["time"] == 2.5
    assert samples[1].attributes["timestep"] == 1
    assert samples[1].attributes["series"] == "flow"
    assert samples[1].attributes["source"]["files"][0]["name"] == "s2.vti"


def test_parts_of_one_time_have_keys_of_their_own(tmp_path):
    _vti(tmp_path / "a.vti")
    _vti(tmp_path / "b.vti")
    _pvd(tmp_path / "flow.pvd", [(1, 0, "a.vti"), (1, 1, "b.vti")])
    assert _keys(tmp_path) == ["flow-0000-part0", "flow-0000-part1"]


def test_a_step_that_is_missing_does_not_hide_the_others(tmp_path):
    _vti(tmp_path / "a.vti")
    _pvd(tmp_path / "flow.pvd", [(0, 0, "a.vti"), (1, 0, "gone.vti"), (2, 0, "flow.pvd")])
    good, missing, itself = plan_sources([tmp_path / "flow.pvd"])
    assert good.key == "flow-0000"
    assert "gone.vti" in missing.label
    assert missing.reason == "it cannot be read: No such file or directory"
    assert itself.reason == "a .pvd cannot be a step of a series"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('<VTKFile type="Collection"></VTKFile>', "no <Collection>"),
        ('<VTKFile type="Collection"><Collection/></VTKFile>', "lists no data sets"),
        ('<VTKFile type="Collection"><Collection>', "not valid XML"),
        (
            '<VTKFile type="Collection"><Collection><DataSet timestep="x" file="a"/>'
            "</Collection></VTKFile>",
            "no valid time",
        ),
        (
            '<VTKFile type="Collection"><Collection><DataSet timestep="nan" file="a"/>'
            "</Collection></VTKFile>",
            "no valid time",
        ),
        (
            '<VTKFile type="Collection"><Collection><DataSet timestep="0"/></Collection></VTKFile>',
            "names no file",
        ),
    ],
)
def test_a_damaged_series_is_refused(tmp_path, content, reason):
    (tmp_path / "flow.pvd").write_text(content)
    with pytest.raises(FormatError, match=f"flow.pvd: .*{reason}"):
        list(open_source(tmp_path / "flow.pvd"))


def test_entities_that_expand_without_end_are_refused(tmp_path):
    levels = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 50}">' for n in range(1, 9))
    head = f'<!DOCTYPE VTKFile [<!ENTITY e0 "{"x" * 100}">{levels}]>'
    (tmp_path / "flow.pvd").write_text(
        f'{head}<VTKFile type="Collection"><Collection>&e8;</Collection></VTKFile>'
    )
    with pytest.raises(FormatError, match="not valid XML"):
        list(open_source(tmp_path / "flow.pvd"))


def _parallel(folder, pieces=2):
    """Write a .pvtu of two boxes, and return the meshes of its pieces."""
    pv = pytest.importorskip("pyvista", reason="the vtk extra is not installed")
    names, meshes = [], []
    for number in range(pieces):
        box = pv.Box(bounds=(number, number + 1, 0, 1, 0, 1)).cast_to_unstructured_grid()
        box.clear_data()
        box.point_data["p"] = np.arange(8.0) + 10 * number
        box.save(folder / f"piece{number}.vtu")
        names.append(f'<Piece Source="piece{number}.vtu"/>')
        meshes.append(box)
    # The same type as the pieces' points, which pyvista stores as float64 or float32.
    kind = "Float64" if meshes[0].points.dtype == np.float64 else "Float32"
    (folder / "case.pvtu").write_text(
        '<VTKFile type="PUnstructuredGrid" version="0.1" byte_order="LittleEndian">'
        '<PUnstructuredGrid GhostLevel="0">'
        '<PPointData><PDataArray type="Float64" Name="p"/></PPointData>'
        f'<PPoints><PDataArray type="{kind}" NumberOfComponents="3"/></PPoints>'
        f"{''.join(names)}</PUnstructuredGrid></VTKFile>"
    )
    return meshes


def test_a_parallel_file_is_one_sample_of_all_its_pieces(tmp_path):
    meshes = _parallel(tmp_path)
    assert _keys(tmp_path) == ["case"]
    (sample,) = open_source(tmp_path / "case.pvtu")
    arrays = {name: array.values for name, array in sample.arrays.items()}
    assert np.array_equal(arrays["points"], np.concatenate([m.points for m in meshes]))
    assert np.array_equal(
        arrays["point_data/p"], np.concatenate([m.point_data["p"] for m in meshes])
    )
    assert len(arrays["cells/types"]) == 12
    assert len(sample.attributes["source"]["files"]) == 3


def test_a_parallel_file_with_a_missing_or_cut_piece_is_refused(tmp_path):
    _parallel(tmp_path)
    content = (tmp_path / "piece1.vtu").read_bytes()
    (tmp_path / "piece1.vtu").write_bytes(content[: len(content) - 40])
    with pytest.raises(FormatError, match=r"case.pvtu: piece piece1.vtu: .* was cut"):
        list(open_source(tmp_path / "case.pvtu"))
    (tmp_path / "piece1.vtu").unlink()
    with pytest.raises(FormatError, match=r"case.pvtu: its piece piece1.vtu is missing"):
        list(open_source(tmp_path / "case.pvtu"))


def test_the_halves_of_a_pair_are_one_dataset(tmp_path, simulation_files):
    halves = [simulation_files / "bluntfinq.bin", simulation_files / "bluntfinxyz.bin"]
    for paths in (halves, halves[:1], halves[1:]):
        assert _keys(*paths) == ["bluntfin"]
