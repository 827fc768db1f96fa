"""Series of files: which datasets they give, with which keys, times and names."""

import pytest

from dataplane.pack import open_source, pack
from tests.pack.collection_files import (
    attributes_of,
    plan_of,
    reasons_of,
    write_pvd,
    write_series,
    write_vtu,
)


def test_parts_without_times_are_one_step_and_get_no_time(tmp_path):
    for name in "ab":
        write_vtu(tmp_path / f"{name}.vtu")
    write_pvd(tmp_path / "s.pvd", 'part="0" file="a.vtu"', 'part="1" file="b.vtu"')
    assert attributes_of(tmp_path) == {
        f"s-0000-part{n}": {"series": "s", "timestep": 0, "part": n, "group": ""} for n in (0, 1)
    }


def test_files_without_times_and_parts_are_numbered_parts(tmp_path):
    for name in "ab":
        write_vtu(tmp_path / f"{name}.vtu")
    write_pvd(tmp_path / "s.pvd", 'file="a.vtu"', 'file="b.vtu"')
    assert [*attributes_of(tmp_path)] == ["s-0000-part0", "s-0000-part1"]


def test_an_entry_that_is_repeated_is_packed_once_and_renames_nothing(tmp_path):
    for name in "abc":
        write_vtu(tmp_path / f"{name}.vtu")
    once = [f'timestep="{n}" file="{name}.vtu"' for n, name in enumerate("abc")]
    write_pvd(tmp_path / "s.pvd", *once, 'timestep="1.0" file="./b.vtu"', once[2])
    assert [*plan_of(tmp_path)] == ["s-0000", "s-0001", "s-0002"]


def test_a_restart_that_overlaps_keeps_both_and_renames_nothing_else(tmp_path):
    for name in ("a", "b", "c", "again_b"):
        write_vtu(tmp_path / f"{name}.vtu")
    names = [(0, "a"), (1, "b"), (1, "again_b"), (2, "c")]
    write_pvd(tmp_path / "s.pvd", *(f'timestep="{t}" part="0" file="{n}.vtu"' for t, n in names))
    planned = plan_of(tmp_path)
    assert {key: item.path.name for key, item in planned.items()} == {
        "s-0000": "a.vtu",
        "s-0001": "b.vtu",
        "s-0001-2": "again_b.vtu",
        "s-0002": "c.vtu",
    }
    assert planned["s-0001-2"].attributes == {"series": "s", "timestep": 1, "time": 1.0}


def test_a_file_that_stays_the_same_belongs_to_each_step_that_lists_it(tmp_path):
    for name in ("a", "b", "wall"):
        write_vtu(tmp_path / f"{name}.vtu")
    entries = [
        f'timestep="{n}" part="{part}" file="{file}.vtu"'
        for n, name in enumerate("ab")
        for part, file in enumerate((name, "wall"))
    ]
    write_pvd(tmp_path / "s.pvd", *entries)
    assert len(plan_of(tmp_path)) == 4


def test_names_of_parts_are_kept(tmp_path):
    for name in "ab":
        write_vtu(tmp_path / f"{name}.vtu")
    write_pvd(
        tmp_path / "s.pvd",
        'timestep="0" file="a.vtu" part="0" name="inlet"',
        'timestep="0" file="b.vtu" part="1" name="wall" group="walls"',
    )
    named = attributes_of(tmp_path)
    assert [(a["part"], a["part_number"], a["group"]) for a in named.values()] == [
        ("inlet", 0, ""),
        ("wall", 1, "walls"),
    ]
    assert [*named] == ["s-0000-part0", "s-0000-part1"]


def test_a_second_series_adds_what_the_larger_does_not_list_and_says_so_once(tmp_path):
    for name in "abcd":
        write_vtu(tmp_path / f"{name}.vtu")
    times = {name: f'timestep="{n}" file="{name}.vtu"' for n, name in enumerate("abcd")}
    write_pvd(tmp_path / "a_last.pvd", times["c"], times["d"])
    write_pvd(tmp_path / "copy.pvd", times["a"], times["b"], times["c"])
    write_pvd(tmp_path / "whole.pvd", times["a"], times["b"], times["c"])
    assert {k: i.path.name for k, i in plan_of(tmp_path).items()} == {
        "copy-0000": "a.vtu",
        "copy-0001": "b.vtu",
        "copy-0002": "c.vtu",
        "a_last-0001": "d.vtu",
    }
    assert reasons_of(tmp_path) == [
        f"1 of its 2 files is packed through {tmp_path}/copy.pvd",
        f"its 3 files are packed through {tmp_path}/copy.pvd",
    ]
    # A note, at which a strict pack does not stop.
    summary = pack([tmp_path], (tmp_path / "ds").as_uri(), on_error="fail")
    assert summary.samples == 4


def test_a_json_series_gives_its_times_and_is_called_after_its_files(tmp_path):
    write_vtu(tmp_path / "a.vtu", 1)
    write_vtu(tmp_path / "b.vtu", 4)
    write_series(
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
        write_vtu(tmp_path / f"{name}.vtu")
    write_series(tmp_path / "s.series", {"name": "b.vtu"}, {"name": "a.vtu"})
    planned = plan_of(tmp_path)
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
    (told,) = reasons_of(tmp_path / "s.series")
    assert reason in told
    assert "\n" not in told
