"""Trees of blocks: which datasets they give, with which keys, times and names."""

import base64
import os
import shutil

import numpy as np
import pytest

from dataplane.errors import FormatError
from dataplane.pack import open_source
from tests.pack.collection_files import (
    TIME,
    TREE,
    attributes_of,
    plan_of,
    reasons_of,
    write_case,
    write_pvd,
    write_series,
    write_vtm,
    write_vtu,
)


def test_blocks_have_the_names_and_the_time_of_their_tree(tmp_path):
    write_case(tmp_path)
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
    write_case(tmp_path)
    word = order + ("u4" if header == "UInt32" else "u8")
    text = np.array([8], word).tobytes() + np.array([2.5], f"{order}f8").tobytes()
    after = TIME.format(kind="Float64", format="binary", text=base64.b64encode(text).decode())
    byte_order = "LittleEndian" if order == "<" else "BigEndian"
    attributes = f' header_type="{header}" byte_order="{byte_order}"'
    write_vtm(tmp_path / "case.vtm", TREE, after, attributes)
    assert {a["time"] for a in attributes_of(tmp_path).values()} == {2.5}


def test_a_time_that_is_none_is_not_made_up(tmp_path):
    write_case(tmp_path, time="nan")
    assert all("time" not in said for said in attributes_of(tmp_path).values())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("not a number", "its TimeValue is damaged"),
        ("1.4 9133", "its TimeValue declares '1' values, it has 2"),
    ],
)
def test_a_time_that_is_not_what_it_declares_is_refused(tmp_path, text, reason):
    write_case(tmp_path, time=text)
    assert reason in reasons_of(tmp_path)[0]


def test_a_series_of_trees_gives_its_own_times_and_the_names_of_blocks(tmp_path):
    for number in range(2):
        write_case(tmp_path / f"t{number}")
    write_pvd(tmp_path / "run.pvd", *(f'timestep="{n}.5" file="t{n}/case.vtm"' for n in range(2)))
    assert {
        key: (said["time"], said["series"], said["timestep"], said["block"])
        for key, said in attributes_of(tmp_path).items()
    } == {
        "run-0000-internal": (0.5, "run", 0, "internal"),
        "run-0000-boundary-inlet_1": (0.5, "run", 0, "boundary/inlet 1"),
        "run-0001-internal": (1.5, "run", 1, "internal"),
        "run-0001-boundary-inlet_1": (1.5, "run", 1, "boundary/inlet 1"),
    }
    (tmp_path / "run.pvd").unlink()
    write_series(tmp_path / "run.vtm.series", *({"name": f"t{n}/case.vtm"} for n in range(2)))
    timed = attributes_of(tmp_path)
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
    assert attributes_of(tmp_path) == {
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
    write_vtu(tmp_path / "a.vtu")
    write_vtu(tmp_path / "b.vtu")
    long = "x" * 400
    write_vtm(
        tmp_path / "case.vtm",
        f'<DataSet index="3" file="a.vtu"/><DataSet name="{long}" file="b.vtu"/>',
    )
    first, second = plan_of(tmp_path)
    assert first == "case-block3"
    assert len(second) == 200
    assert second.startswith("case-xxx")


def test_a_block_that_is_missing_costs_only_itself(tmp_path):
    write_case(tmp_path)
    (tmp_path / "case" / "internal.vtu").unlink()
    assert [*plan_of(tmp_path)] == ["case-boundary-inlet_1"]
    assert reasons_of(tmp_path) == ["it cannot be read: No such file or directory"]


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
    write_vtu(tmp_path / "a.vtu")
    write_pvd(tmp_path / "s.pvd", 'timestep="0" file="a.vtu"')
    os.mkfifo(tmp_path / "pipe")
    write_vtm(tmp_path / "case.vtm", tree)
    (told,) = reasons_of(tmp_path / "case.vtm")
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
    write_vtu(tmp_path / "a.vtu")
    (tmp_path / "s.pvd").write_text(
        f'<VTKFile type="Collection"><Collection><{entry}/></Collection></VTKFile>'
    )
    (told,) = reasons_of(tmp_path / "s.pvd")
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
    write_case(tmp_path)
    write_vtm(tmp_path / "case.vtm", TREE, TIME.format(kind="Float64", **values), attributes)
    (told,) = reasons_of(tmp_path / "case.vtm")
    assert "its TimeValue is damaged" in told
    assert reason in told


def test_trees_that_refer_to_each_other_are_named_and_hide_nothing(tmp_path):
    write_vtu(tmp_path / "a.vtu")
    write_vtm(
        tmp_path / "x.vtm", '<DataSet name="y" file="y.vtm"/><DataSet name="a" file="a.vtu"/>'
    )
    write_vtm(tmp_path / "y.vtm", '<DataSet name="x" file="x.vtm"/>')
    assert [item.path.name for item in plan_of(tmp_path).values()] == ["a.vtu"]
    assert any("refers to itself" in reason for reason in reasons_of(tmp_path))


def test_trees_that_multiply_are_refused_at_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("dataplane.pack.collections.MAX_REFERENCES", 50)
    write_vtu(tmp_path / "a.vtu")
    for number in range(4):
        below = f"t{number + 1}.vtm" if number < 3 else "a.vtu"
        tree = "".join(f'<DataSet name="{n}" file="{below}"/>' for n in range(10))
        write_vtm(tmp_path / f"t{number}.vtm", tree)
    assert len(plan_of(tmp_path / "t0.vtm")) <= 50
    assert "one of more than 50 files" in reasons_of(tmp_path / "t0.vtm")[0]


def test_a_reference_out_of_an_archive_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    write_vtu(tmp_path / "a.vtu")
    write_vtm(tmp_path / "in" / "case.vtm", '<DataSet file="..\\a.vtu"/>')
    write_series(tmp_path / "in" / "s.series", {"name": str(tmp_path / "a.vtu")})
    for name in ("case.vtm", "s.series"):
        archive = shutil.make_archive(str(tmp_path / name), "zip", tmp_path / "in", name)
        with pytest.raises(FormatError, match="outside the archive"):
            list(open_source(archive))


def test_a_copy_of_a_tree_in_an_archive_is_left_out(tmp_path):
    write_case(tmp_path / "in")
    write_case(tmp_path / "in" / "copy")
    archive = shutil.make_archive(str(tmp_path / "all"), "zip", tmp_path / "in")
    assert [s.key for s in open_source(archive)] == ["case-internal", "case-boundary-inlet_1"]
