"""Series and trees of blocks: which datasets they give, with which keys, times and names."""

import base64
import json
import os
import shutil

import numpy as np
import pytest

from dataplane.errors import FormatError
from dataplane.pack import open_source, pack
from dataplane.pack.plan import plan_sources
from dataplane.pack.source import SourceFile, Unreadable
from dataplane.shards import DatasetIndex
from dataplane.stores import open_store

_TIME = (
    "<FieldData><DataArray type='{kind}' Name='TimeValue' NumberOfTuples='1' format='{format}'>"
    "{text}</DataArray></FieldData>"
)


def _vtu(path, value=0.0):
    """Write a triangle whose point field `p` is `value` everywhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        '<VTKFile type="UnstructuredGrid" version="1.0" byte_order="LittleEndian">'
        '<UnstructuredGrid><Piece NumberOfPoints="3" NumberOfCells="1"><PointData>'
        f'<DataArray type="Float64" Name="p" format="ascii">{value} {value} {value}</DataArray>'
        '</PointData><Points><DataArray type="Float64" NumberOfComponents="3" format="ascii">'
        "0 0 0 1 0 0 0 1 0</DataArray></Points><Cells>"
        '<DataArray type="Int64" Name="connectivity" format="ascii">0 1 2</DataArray>'
        '<DataArray type="Int64" Name="offsets" format="ascii">3</DataArray>'
        '<DataArray type="UInt8" Name="types" format="ascii">5</DataArray>'
        "</Cells></Piece></UnstructuredGrid></VTKFile>"
    )


def _pvd(path, *entries):
    lines = "".join(f"<DataSet {entry}/>" for entry in entries)
    path.write_text(f'<VTKFile type="Collection"><Collection>{lines}</Collection></VTKFile>')


def _vtm(path, tree, after="", attributes=""):
    kind = "vtkMultiBlockDataSet"
    path.write_text(f'<VTKFile type="{kind}"{attributes}><{kind}>{tree}</{kind}>{after}</VTKFile>')


def _series(path, *files):
    path.write_text(json.dumps({"file-series-version": "1.0", "files": files}))


def _planned(*paths):
    return {item.key: item for item in plan_sources([*paths]) if isinstance(item, SourceFile)}


def _reasons(*paths):
    return [item.reason for item in plan_sources([*paths]) if isinstance(item, Unreadable)]


def _attributes(*paths):
    return {key: item.attributes for key, item in _planned(*paths).items()}


# --- series -------------------------------------------------------------------------------------


def test_parts_without_times_are_one_step_and_get_no_time(tmp_path):
    for name in "ab":
        _vtu(tmp_path / f"{name}.vtu")
    _pvd(tmp_path / "s.pvd", 'part="0" file="a.vtu"', 'part="1" file="b.vtu"')
    assert _attributes(tmp_path) == {
        f"s-0000-part{n}": {"series": "s", "timestep": 0, "part": n, "group": ""} for n in (0, 1)
    }


def test_files_without_times_and_parts_are_numbered_parts(tmp_path):
    for name in "ab":
        _vtu(tmp_path / f"{name}.vtu")
    _pvd(tmp_path / "s.pvd", 'file="a.vtu"', 'file="b.vtu"')
    assert [*_attributes(tmp_path)] == ["s-0000-part0", "s-0000-part1"]


def test_an_entry_that_is_repeated_is_packed_once_and_renames_nothing(tmp_path):
    for name in "abc":
        _vtu(tmp_path / f"{name}.vtu")
    once = [f'timestep="{n}" file="{name}.vtu"' for n, name in enumerate("abc")]
    _pvd(tmp_path / "s.pvd", *once, 'timestep="1.0" file="./b.vtu"', once[2])
    assert [*_planned(tmp_path)] == ["s-0000", "s-0001", "s-0002"]


def test_a_restart_that_overlaps_keeps_both_and_renames_nothing_else(tmp_path):
    for name in ("a", "b", "c", "again_b"):
        _vtu(tmp_path / f"{name}.vtu")
    names = [(0, "a"), (1, "b"), (1, "again_b"), (2, "c")]
    _pvd(tmp_path / "s.pvd", *(f'timestep="{t}" part="0" file="{n}.vtu"' for t, n in names))
    planned = _planned(tmp_path)
    assert {key: item.path.name for key, item in planned.items()} == {
        "s-0000": "a.vtu",
        "s-0001": "b.vtu",
        "s-0001-2": "again_b.vtu",
        "s-0002": "c.vtu",
    }
    assert planned["s-0001-2"].attributes == {"series": "s", "timestep": 1, "time": 1.0}


def test_a_file_that_stays_the_same_belongs_to_each_step_that_lists_it(tmp_path):
    for name in ("a", "b", "wall"):
        _vtu(tmp_path / f"{name}.vtu")
    entries = [
        f'timestep="{n}" part="{part}" file="{file}.vtu"'
        for n, name in enumerate("ab")
        for part, file in enumerate((name, "wall"))
    ]
    _pvd(tmp_path / "s.pvd", *entries)
    assert len(_planned(tmp_path)) == 4


def test_names_of_parts_are_kept(tmp_path):
    for name in "ab":
        _vtu(tmp_path / f"{name}.vtu")
    _pvd(
        tmp_path / "s.pvd",
        'timestep="0" file="a.vtu" part="0" name="inlet"',
        'timestep="0" file="b.vtu" part="1" name="wall" group="walls"',
    )
    named = _attributes(tmp_path)
    assert [(a["part"], a["part_number"], a["group"]) for a in named.values()] == [
        ("inlet", 0, ""),
        ("wall", 1, "walls"),
    ]
    assert [*named] == ["s-0000-part0", "s-0000-part1"]


def test_a_second_series_adds_what_the_larger_does_not_list_and_says_so_once(tmp_path):
    for name in "abcd":
        _vtu(tmp_path / f"{name}.vtu")
    times = {name: f'timestep="{n}" file="{name}.vtu"' for n, name in enumerate("abcd")}
    _pvd(tmp_path / "a_last.pvd", times["c"], times["d"])
    _pvd(tmp_path / "copy.pvd", times["a"], times["b"], times["c"])
    _pvd(tmp_path / "whole.pvd", times["a"], times["b"], times["c"])
    assert {k: i.path.name for k, i in _planned(tmp_path).items()} == {
        "copy-0000": "a.vtu",
        "copy-0001": "b.vtu",
        "copy-0002": "c.vtu",
        "a_last-0001": "d.vtu",
    }
    assert _reasons(tmp_path) == [
        f"1 of its 2 files is packed through {tmp_path}/copy.pvd",
        f"its 3 files are packed through {tmp_path}/copy.pvd",
    ]
    # A note, at which a strict pack does not stop.
    summary = pack([tmp_path], (tmp_path / "ds").as_uri(), on_error="fail")
    assert summary.samples == 4


def test_a_json_series_gives_its_times_and_is_called_after_its_files(tmp_path):
    _vtu(tmp_path / "a.vtu", 1)
    _vtu(tmp_path / "b.vtu", 4)
    _series(
        tmp_path / "s.vtu.series", {"name": "b.vtu", "time": 1.5}, {"name": "a.vtu", "time": 0.5}
    )
    samples = [*open_source(tmp_path)]
    assert [(s.key, s.attributes["time"], s.attributes["timestep"]) for s in samples] == [
        ("s-0000", 0.5, 0),
        ("s-0001", 1.5, 1),
    ]
    assert [s.arrays["point_data/p"].values[0] for s in samples] == [1, 4]


def test_a_json_series_without_times_keeps_its_order_and_invents_none(tmp_path):
    for name in "ab":
        _vtu(tmp_path / f"{name}.vtu")
    _series(tmp_path / "s.series", {"name": "b.vtu"}, {"name": "a.vtu"})
    planned = _planned(tmp_path)
    assert [item.path.name for item in planned.values()] == ["b.vtu", "a.vtu"]
    assert planned["s-0001"].attributes == {"series": "s", "timestep": 1}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "it is not valid JSON"),
        ("[" * 100_000, "its content is not that of a .series file"),
        ('{"a":' * 100_000, "it is not valid JSON"),
        ("{}", "it has no list of files"),
        ('{"files": {}}', "it has no list of files"),
        ('{"files": []}', "it lists no data sets"),
        ('{"files": [7]}', "its file 0 has no name"),
        ('{"files": [{"name": ""}]}', "its file 0 has no name"),
        ('{"files": [{"name": "a.vtu", "time": NaN}]}', "its file 0 has no valid time: nan"),
        ('{"files": [{"name": "a.vtu", "time": true}]}', "its file 0 has no valid time: True"),
        ('{"files": [{"name": "a.vtu", "time": [1]}]}', "its file 0 has no valid time: [1]"),
        ('{"files": [{"name": "a\\u0000.vtu"}]}', "which is no file name"),
    ],
)
def test_a_damaged_json_series_is_refused_in_one_line(tmp_path, content, reason):
    (tmp_path / "s.series").write_text(content)
    (told,) = _reasons(tmp_path / "s.series")
    assert reason in told
    assert "\n" not in told


# --- trees of blocks ----------------------------------------------------------------------------

_TREE = (
    '<DataSet index="0" name="internal" file="case/internal.vtu"/>'
    '<Block index="1" name="boundary">'
    '<DataSet index="0" name="inlet 1" file="case\\boundary\\inlet.vtu"/>'
    '<DataSet index="1" name="nothing"/></Block>'
)


def _case(folder, name="case", time="100"):
    _vtu(folder / "case" / "internal.vtu", 1)
    _vtu(folder / "case" / "boundary" / "inlet.vtu", 4)
    after = _TIME.format(kind="Float64", format="ascii", text=time) if time else ""
    _vtm(folder / f"{name}.vtm", _TREE, after)


def test_blocks_have_the_names_and_the_time_of_their_tree(tmp_path):
    _case(tmp_path)
    internal, inlet = open_source(tmp_path)
    assert (internal.key, inlet.key) == ("case-internal", "case-boundary-inlet_1")
    kept = ("collection", "block", "group", "time")
    assert [[s.attributes.get(name) for name in kept] for s in (internal, inlet)] == [
        ["case", "internal", None, 100.0],
        ["case", "boundary/inlet 1", "boundary", 100.0],
    ]
    assert inlet.arrays["point_data/p"].values.tolist() == [4, 4, 4]


@pytest.mark.parametrize("header", ["UInt32", "UInt64"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_time_that_is_stored_inline_is_read(tmp_path, header, order):
    _case(tmp_path)
    word = order + ("u4" if header == "UInt32" else "u8")
    text = np.array([8], word).tobytes() + np.array([2.5], f"{order}f8").tobytes()
    after = _TIME.format(kind="Float64", format="binary", text=base64.b64encode(text).decode())
    byte_order = "LittleEndian" if order == "<" else "BigEndian"
    attributes = f' header_type="{header}" byte_order="{byte_order}"'
    _vtm(tmp_path / "case.vtm", _TREE, after, attributes)
    assert {a["time"] for a in _attributes(tmp_path).values()} == {2.5}


def test_a_time_that_is_none_is_not_made_up(tmp_path):
    _case(tmp_path, time="nan")
    assert all("time" not in said for said in _attributes(tmp_path).values())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("not a number", "its TimeValue is damaged"),
        ("1.4 9133", "its TimeValue declares '1' values, it has 2"),
    ],
)
def test_a_time_that_is_not_what_it_declares_is_refused(tmp_path, text, reason):
    _case(tmp_path, time=text)
    assert reason in _reasons(tmp_path)[0]


def test_a_series_of_trees_gives_its_own_times_and_the_names_of_blocks(tmp_path):
    for number in range(2):
        _case(tmp_path / f"t{number}")
    _pvd(tmp_path / "run.pvd", *(f'timestep="{n}.5" file="t{n}/case.vtm"' for n in range(2)))
    assert {
        key: (said["time"], said["series"], said["timestep"], said["block"])
        for key, said in _attributes(tmp_path).items()
    } == {
        "run-0000-internal": (0.5, "run", 0, "internal"),
        "run-0000-boundary-inlet_1": (0.5, "run", 0, "boundary/inlet 1"),
        "run-0001-internal": (1.5, "run", 1, "internal"),
        "run-0001-boundary-inlet_1": (1.5, "run", 1, "boundary/inlet 1"),
    }
    (tmp_path / "run.pvd").unlink()
    _series(tmp_path / "run.vtm.series", *({"name": f"t{n}/case.vtm"} for n in range(2)))
    timed = _attributes(tmp_path)
    assert [*timed][2:] == ["run-0001-internal", "run-0001-boundary-inlet_1"]
    assert {said["time"] for said in timed.values()} == {100.0}  # the trees' own


def test_what_vtk_writes_is_read_as_vtk_means_it(tmp_path):
    pv = pytest.importorskip("pyvista", reason="the vtk extra is not installed")
    inner = pv.MultiBlock({"inlet": pv.Plane(), "none": None})
    whole = pv.MultiBlock({"internal": pv.Box().cast_to_unstructured_grid(), "boundary": inner})
    whole.add_field_data([100.0], "TimeValue")
    whole.save(tmp_path / "mb.vtm")
    samples = {s.key: s for s in open_source(tmp_path)}
    assert [*samples] == ["mb-internal", "mb-boundary-inlet"]
    assert {s.attributes["time"] for s in samples.values()} == {100.0}
    points = samples["mb-boundary-inlet"].arrays["points"].values
    assert np.array_equal(points, inner["inlet"].points)


def test_partitions_are_told_apart_and_grouped_by_their_assembly(tmp_path):
    vtk = pytest.importorskip("vtkmodules.all", reason="the vtk extra is not installed")
    collection = vtk.vtkPartitionedDataSetCollection()
    for number, (name, partitions) in enumerate((("fluid", 2), ("wall", 1))):
        block = vtk.vtkPartitionedDataSet()
        for partition in range(partitions):
            plane = vtk.vtkPlaneSource()
            plane.Update()
            block.SetPartition(partition, plane.GetOutput())
        collection.SetPartitionedDataSet(number, block)
        collection.GetMetaData(number).Set(vtk.vtkCompositeDataSet.NAME(), name)
    assembly = vtk.vtkDataAssembly()
    assembly.SetRootNodeName("case")
    assembly.AddDataSetIndex(assembly.AddNode("zones", 0), 0)
    assembly.AddDataSetIndex(assembly.AddNode("patch", assembly.AddNode("boundary", 0)), 1)
    collection.SetDataAssembly(assembly)
    for kind, data in (
        ("PartitionedDataSetCollection", collection),
        ("PartitionedDataSet", collection.GetPartitionedDataSet(0)),
    ):
        writer = getattr(vtk, f"vtkXML{kind}Writer")()
        writer.SetInputData(data)
        writer.SetFileName(str(tmp_path / f"{kind}.{writer.GetDefaultFileExtension()}"))
        assert writer.Write() == 1
    whole, one = "PartitionedDataSetCollection", "PartitionedDataSet"
    assert _attributes(tmp_path) == {
        f"{one}-0": {"collection": one, "partition": 0},
        f"{one}-1": {"collection": one, "partition": 1},
        f"{whole}-fluid-0": {
            "collection": whole,
            "block": "fluid",
            "group": "zones",
            "partition": 0,
        },
        f"{whole}-fluid-1": {
            "collection": whole,
            "block": "fluid",
            "group": "zones",
            "partition": 1,
        },
        f"{whole}-wall": {"collection": whole, "block": "wall", "group": "boundary/patch"},
    }


def test_blocks_without_names_get_numbers_and_long_names_a_hash(tmp_path):
    _vtu(tmp_path / "a.vtu")
    _vtu(tmp_path / "b.vtu")
    long = "x" * 400
    _vtm(
        tmp_path / "case.vtm",
        f'<DataSet index="3" file="a.vtu"/><DataSet name="{long}" file="b.vtu"/>',
    )
    first, second = _planned(tmp_path)
    assert first == "case-block3"
    assert len(second) == 200
    assert second.startswith("case-xxx")


def test_a_block_that_is_missing_costs_only_itself(tmp_path):
    _case(tmp_path)
    (tmp_path / "case" / "internal.vtu").unlink()
    assert [*_planned(tmp_path)] == ["case-boundary-inlet_1"]
    assert _reasons(tmp_path) == ["it cannot be read: No such file or directory"]


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        ("", "it lists no data sets"),
        ('<DataSet file="case.vtm"/>', "it refers to itself, or through too many others"),
        ('<DataSet file="s.pvd"/>', "a .pvd cannot be a block"),
        ('<DataSet file="."/>', "it is not a regular file"),
        ('<DataSet file="pipe"/>', "it is not a regular file"),
        ('<DataSet index="-1" file="a.vtu"/>', "a block has the index '-1'"),
        (f'<DataSet name="{"x" * 501}" file="a.vtu"/>', "a part's name has 501 characters"),
        ('<DataSet name="a" gile="a.vtu"/>', "its block a names no file"),
        ('<DataSeu name="a" file="a.vtu"/>', "it has an unknown element <DataSeu>"),
        ("<Block>" * 40 + "</Block>" * 40, "its blocks are nested more than 32 deep"),
        ("<DataAssembly encoding='base64'>?</DataAssembly>", "its data assembly is damaged"),
    ],
)
def test_a_hostile_tree_is_refused_in_one_line(tmp_path, tree, reason):
    _vtu(tmp_path / "a.vtu")
    _pvd(tmp_path / "s.pvd", 'timestep="0" file="a.vtu"')
    os.mkfifo(tmp_path / "pipe")
    _vtm(tmp_path / "case.vtm", tree)
    (told,) = _reasons(tmp_path / "case.vtm")
    assert reason in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ('DataSet part="-1" file="a.vtu"', "has no valid part: -1"),
        ('DataSet part="x" file="a.vtu"', "has no valid part: x"),
        ('DataSet tjmestep="3" file="a.vtu"', "has no timestep, but an unknown 'tjmestep'"),
        ('DataSeu timestep="3" file="a.vtu"', "it has an unknown element <DataSeu>"),
    ],
)
def test_an_entry_that_is_damaged_is_not_read_as_another(tmp_path, entry, reason):
    _vtu(tmp_path / "a.vtu")
    (tmp_path / "s.pvd").write_text(
        f'<VTKFile type="Collection"><Collection><{entry}/></Collection></VTKFile>'
    )
    (told,) = _reasons(tmp_path / "s.pvd")
    assert reason in told


@pytest.mark.parametrize(
    ("values", "attributes", "reason"),
    [
        ({"format": "cscii", "text": "1"}, "", "it is stored as 'cscii'"),
        ({"format": "binary", "text": "AAAA"}, ' compressor="x"', "buffer"),
        ({"format": "binary", "text": "CAAAAAAAAAAAAA=="}, "", "bytes, expected 8"),
    ],
)
def test_a_time_that_is_damaged_is_refused(tmp_path, values, attributes, reason):
    _case(tmp_path)
    _vtm(tmp_path / "case.vtm", _TREE, _TIME.format(kind="Float64", **values), attributes)
    (told,) = _reasons(tmp_path / "case.vtm")
    assert "its TimeValue is damaged" in told
    assert reason in told


def test_trees_that_refer_to_each_other_are_named_and_hide_nothing(tmp_path):
    _vtu(tmp_path / "a.vtu")
    _vtm(tmp_path / "x.vtm", '<DataSet name="y" file="y.vtm"/><DataSet name="a" file="a.vtu"/>')
    _vtm(tmp_path / "y.vtm", '<DataSet name="x" file="x.vtm"/>')
    assert [item.path.name for item in _planned(tmp_path).values()] == ["a.vtu"]
    assert any("refers to itself" in reason for reason in _reasons(tmp_path))


def test_trees_that_multiply_are_refused_at_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("dataplane.pack.collections.MAX_REFERENCES", 50)
    _vtu(tmp_path / "a.vtu")
    for number in range(4):
        below = f"t{number + 1}.vtm" if number < 3 else "a.vtu"
        tree = "".join(f'<DataSet name="{n}" file="{below}"/>' for n in range(10))
        _vtm(tmp_path / f"t{number}.vtm", tree)
    assert len(_planned(tmp_path / "t0.vtm")) <= 50
    assert "one of more than 50 files" in _reasons(tmp_path / "t0.vtm")[0]


def test_a_reference_out_of_an_archive_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    _vtu(tmp_path / "a.vtu")
    _vtm(tmp_path / "in" / "case.vtm", '<DataSet file="..\\a.vtu"/>')
    _series(tmp_path / "in" / "s.series", {"name": str(tmp_path / "a.vtu")})
    for name in ("case.vtm", "s.series"):
        archive = shutil.make_archive(str(tmp_path / name), "zip", tmp_path / "in", name)
        with pytest.raises(FormatError, match="outside the archive"):
            list(open_source(archive))


def test_a_copy_of_a_tree_in_an_archive_is_left_out(tmp_path):
    _case(tmp_path / "in")
    _case(tmp_path / "in" / "copy")
    archive = shutil.make_archive(str(tmp_path / "all"), "zip", tmp_path / "in")
    assert [s.key for s in open_source(archive)] == ["case-internal", "case-boundary-inlet_1"]


# --- keys ---------------------------------------------------------------------------------------


def _mixed(folder):
    """Fill a folder with files whose keys collide, and with collections."""
    for name in ("a.b.vtu", "a b.vtu", "a_b.vtu", "s/0.vtu", "s/1.vtu"):
        _vtu(folder / name)
    np.save(folder / "a_b.npy", np.zeros(3))
    np.savez(folder / "case.npz", p=np.zeros(3))
    _case(folder)
    _pvd(folder / "run.pvd", *(f'timestep="{n}" file="s/{n}.vtu"' for n in range(2)))
    (folder / "par.pvtu").write_text(
        '<VTKFile type="PUnstructuredGrid" byte_order="LittleEndian"><PUnstructuredGrid>'
        '<PPointData><PDataArray type="Float64" Name="p"/></PPointData>'
        '<PPoints><PDataArray type="Float64" NumberOfComponents="3"/></PPoints>'
        '<Piece Source="p0.vtu"/><Piece Source="p1.vtu"/></PUnstructuredGrid></VTKFile>'
    )
    for number in range(2):
        _vtu(folder / f"p{number}.vtu")


def _empty(path):
    path.write_bytes(b"")


def _overwrite(path):
    path.write_bytes(b"<html>404</html>")


def _cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def _keys_by_source(sources, url):
    pack([sources], url)
    index = DatasetIndex.load(open_store(url))
    return {index[i].attributes["source"]["name"]: key for i, key in enumerate(index.keys)}


def test_damage_in_one_file_changes_no_key_of_another(tmp_path):
    _mixed(tmp_path / "in")
    healthy = _keys_by_source(tmp_path / "in", (tmp_path / "healthy").as_uri())
    assert len(healthy) == 10
    assert healthy["in/a_b.vtu"] == "a_b-4"
    for number, (name, damage, lost) in enumerate(
        (
            ("a b.vtu", _cut, "a b.vtu"),
            ("a b.vtu", _empty, "a b.vtu"),
            ("a.b.vtu", _overwrite, "a.b.vtu"),
            ("s/0.vtu", _overwrite, "s/0.vtu"),
            ("case/internal.vtu", _empty, "case/internal.vtu"),
            ("p0.vtu", os.unlink, "par.pvtu"),
        )
    ):
        path = tmp_path / "in" / name
        content = path.read_bytes()
        damage(path)
        keys = _keys_by_source(tmp_path / "in", (tmp_path / str(number)).as_uri())
        path.write_bytes(content)
        assert keys == {k: v for k, v in healthy.items() if k != f"in/{lost}"}


def test_members_of_archives_take_no_key_that_a_file_has(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "packed").mkdir()
    for name, value in (("in/case.npy", 1), ("packed/case.npy", 2)):
        np.save(tmp_path / name, np.full(3, value))
    shutil.make_archive(str(tmp_path / "packed" / "a"), "zip", tmp_path / "in")  # before case.npy
    assert _keys_by_source(tmp_path / "packed", (tmp_path / "ds").as_uri()) == {
        "packed/case.npy": "case",
        "packed/a.zip/case.npy": "case-2",
    }


def test_blocks_of_a_grid_are_called_after_it_whatever_else_has_its_name(tmp_path):
    np.save(tmp_path / "case.npy", np.zeros(3))
    sizes = np.array([2, 2, 3, 4, 3, 2, 3], "<i4").tobytes()
    points = np.random.default_rng(1).standard_normal(3 * (2 * 3 * 4 + 3 * 2 * 3))
    (tmp_path / "case.xyz").write_bytes(sizes + points.astype("<f8").tobytes())
    pack([tmp_path / "case.npy", tmp_path / "case.xyz"], (tmp_path / "ds").as_uri())
    index = DatasetIndex.load(open_store((tmp_path / "ds").as_uri()))
    assert [*index.keys] == ["case", "case-0000", "case-0001"]
