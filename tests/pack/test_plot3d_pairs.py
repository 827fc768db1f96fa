"""Which PLOT3D grid a solution belongs to: by name, by number, by size, or none."""

import numpy as np
import pytest

from dataplane.errors import FormatError
from dataplane.pack import open_source
from dataplane.pack.plan import plan_sources
from dataplane.pack.source import Unreadable


def _grid(path, shape=(3, 4, 5), scale=0.5):
    points = np.random.default_rng(1).standard_normal((3, *shape)).astype("<f4") * scale
    path.write_bytes(np.array(shape[::-1], "<i4").tobytes() + points.tobytes())


def _solution(path, shape=(3, 4, 5), density=1.0):
    values = np.random.default_rng(2).standard_normal((5, *shape)).astype("<f4")
    values[0] = density
    conditions = np.array([0.5, 1.0, 2e6, density], "<f4")
    header = np.array(shape[::-1], "<i4").tobytes()
    path.write_bytes(header + conditions.tobytes() + values.tobytes())


def _read(*paths):
    """Return {key: (density, solution's name, attributes)} of what is packed."""
    found = {}
    for planned in plan_sources(paths):
        if isinstance(planned, Unreadable):
            raise planned.error()
        companions = [path.name for path in planned.companions]
        found[planned.key] = (planned.path.name, companions, dict(planned.attributes))
    return found


def test_numbered_solutions_are_the_steps_of_one_grid(tmp_path):
    _grid(tmp_path / "case.xyz")
    for number in (1, 2, 10):
        _solution(tmp_path / f"case.{number}.q", density=number)
    samples = list(open_source(tmp_path))
    assert [sample.key for sample in samples] == ["case-0000", "case-0001", "case-0002"]
    for step, (sample, density) in enumerate(zip(samples, (1, 2, 10), strict=True)):
        assert np.all(sample.arrays["fields/Density"].values == density)
        assert sample.arrays["points"].values.shape == (3, 4, 5, 3)
        attributes = {name: sample.attributes[name] for name in ("series", "timestep", "time")}
        assert attributes == {"series": "case", "timestep": step, "time": float(density)}
        names = [file["name"] for file in sample.attributes["source"]["files"]]
        assert names == ["case.xyz", f"case.{density}.q"]


def test_any_file_of_a_series_gives_its_own_steps_under_the_same_keys(tmp_path):
    _grid(tmp_path / "case.xyz")
    for number in (1, 2):
        _solution(tmp_path / f"case.{number:04d}.q", density=number)
    both = _read(tmp_path)
    assert [*both] == ["case-0000", "case-0001"]
    assert _read(tmp_path / "case.xyz") == both
    assert _read(tmp_path / "case.0001.q", tmp_path / "case.0002.q") == both
    assert _read(tmp_path / "case.0002.q", tmp_path / "case.xyz") == both
    assert _read(tmp_path / "case.0002.q") == {"case-0001": both["case-0001"]}


def test_a_solution_of_another_name_goes_with_the_only_grid_of_its_size(tmp_path):
    _grid(tmp_path / "grid.x")
    _grid(tmp_path / "other.x", shape=(2, 2, 7))
    _solution(tmp_path / "sol.q")
    found = _read(tmp_path)
    assert found == {"sol": ("grid.x", ["sol.q"], {}), "other": ("other.x", [], {})}
    assert _read(tmp_path / "sol.q") == {"sol": found["sol"]}
    assert _read(tmp_path / "grid.x") == {"sol": found["sol"]}


def test_numbered_solutions_of_another_name_are_a_series_too(tmp_path):
    _grid(tmp_path / "grid.x")
    for number in (100, 200):
        _solution(tmp_path / f"sol.{number}.q")
    assert _read(tmp_path) == {
        "sol-0000": ("grid.x", ["sol.100.q"], {"series": "sol", "timestep": 0}),
        "sol-0001": ("grid.x", ["sol.200.q"], {"series": "sol", "timestep": 1}),
    }


def test_a_solution_that_fits_two_grids_is_refused(tmp_path):
    _grid(tmp_path / "a.x")
    _grid(tmp_path / "b.x")
    _solution(tmp_path / "sol.q")
    with pytest.raises(FormatError, match=r"fits 2 grids of its folder \(a\.x, b\.x\)"):
        list(open_source(tmp_path / "sol.q"))


def test_a_solution_that_fits_no_grid_is_refused(tmp_path):
    _grid(tmp_path / "a.x", shape=(2, 2, 2))
    _solution(tmp_path / "sol.q")
    with pytest.raises(FormatError, match=r"without its grid .* fits no other grid of its folder"):
        list(open_source(tmp_path / "sol.q"))


def test_a_grid_of_every_step_keeps_its_own_solution(tmp_path):
    for number in (1, 2):
        _grid(tmp_path / f"case.{number}.xyz")
        _solution(tmp_path / f"case.{number}.q")
    assert _read(tmp_path) == {
        "case_1": ("case.1.xyz", ["case.1.q"], {}),
        "case_2": ("case.2.xyz", ["case.2.q"], {}),
    }


def test_a_step_of_another_size_is_refused_alone(tmp_path):
    _grid(tmp_path / "case.xyz")
    _solution(tmp_path / "case.1.q")
    _solution(tmp_path / "case.2.q", shape=(2, 2, 2))
    samples = open_source(tmp_path)
    assert next(samples).key == "case-0000"
    with pytest.raises(FormatError, match=r"step 0001 \(case\.2\.q\): case\.2\.q: no layout"):
        next(samples)


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        (
            "water.xyz",
            "3\nwater\nO 0.0 0.0 0.12\nH 0.0 0.76 -0.47\nH 0 -0.76 -0.47\n",
            "a molecule",
        ),
        ("methane.xyz", "5\n\n 6 0.0 0.0 1e-3\n", "a molecule"),
        ("cloud.xyz", "# x y z\n0.5 1.5 2.5\n1.0 2.0 3.0\n", "a point cloud"),
        ("cloud.xyz", "-1.5, 2.25, 3e2, 17\n", "a point cloud"),
        ("case.x", " 1\n 5 4 3\n 0.0 0.1 0.2\n", "a PLOT3D file in text"),
        ("case.q", "5 4 3\n0.8 0.0 1e6 0.0\n", "a PLOT3D file in text"),
        ("table.g", "title Ship\n", "text, not binary PLOT3D"),
    ],
)
def test_text_of_other_programs_is_named_for_what_it_is(tmp_path, name, content, what):
    (tmp_path / name).write_text(content)
    with pytest.raises(FormatError, match=f"{name}: it is {what}"):
        list(open_source(tmp_path / name))


def test_a_pointer_or_an_archive_under_a_name_of_plot3d_is_named(tmp_path):
    for content, what in (
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "a Git LFS pointer",
        ),
        (b"\x1f\x8b\x08\x00" + bytes(30), "gzip data"),
        (b"<!DOCTYPE html><html></html>", "an HTML page"),
    ):
        (tmp_path / "case.xyz").write_bytes(content)
        with pytest.raises(FormatError, match=f"it is {what}"):
            list(open_source(tmp_path / "case.xyz"))
