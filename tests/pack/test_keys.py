"""Keys of samples: what is damaged or in an archive changes no key of another."""

import os
import shutil

import numpy as np

from dataplane.pack import pack
from dataplane.shards import DatasetIndex
from dataplane.stores import open_store
from tests.pack.collection_files import (
    write_case,
    write_pvd,
    write_vtu,
)


def _mixed(folder):
    """Fill a folder with files whose keys collide, and with collections."""
    for name in ("a.b.vtu", "a b.vtu", "a_b.vtu", "s/0.vtu", "s/1.vtu"):
        write_vtu(folder / name)
    np.save(folder / "a_b.npy", np.zeros(3))
    np.savez(folder / "case.npz", p=np.zeros(3))
    write_case(folder)
    write_pvd(folder / "run.pvd", *(f'timestep="{n}" file="s/{n}.vtu"' for n in range(2)))
    (folder / "par.pvtu").write_text(
        '<VTKFile type="PUnstructuredGrid" byte_order="LittleEndian"><PUnstructuredGrid>'
        '<PPointData><PDataArray type="Float64" Name="p"/></PPointData>'
        '<PPoints><PDataArray type="Float64" NumberOfComponents="3"/></PPoints>'
        '<Piece Source="p0.vtu"/><Piece Source="p1.vtu"/></PUnstructuredGrid></VTKFile>'
    )
    for number in range(2):
        write_vtu(folder / f"p{number}.vtu")


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
