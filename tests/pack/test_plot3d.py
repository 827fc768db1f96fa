"""PLOT3D: every layout is found out, and the real pair equals what VTK's own reader gives."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest

from dataplane.errors import FormatError
from dataplane.pack import open_source
from dataplane.pack.plot3d.pairs import pair_name

SHAPES = [(4, 3, 5), (2, 6, 3)]


def _record(content, order, *, framed):
    length = np.array([len(content)], f"{order}i4").tobytes()
    return length + content + length if framed else content


def _write(folder, *, order="<", size=4, multi=False, framed=False, blanking=False, tail=b""):
    """Write a pair; return points, blanking and solution of each block as [component,z,y,x]."""
    rng = np.random.default_rng(1)
    shapes = SHAPES if multi else SHAPES[:1]
    head = b""
    if multi:
        head += _record(np.array([len(shapes)], f"{order}i4").tobytes(), order, framed=framed)
    sizes = np.array([shape[::-1] for shape in shapes], f"{order}i4").tobytes()
    head += _record(sizes, order, framed=framed)
    grid, solution, blocks = head, head, []
    for shape in shapes:
        points = rng.standard_normal((3, *shape)).astype(f"{order}f{size}")
        blank = rng.integers(0, 2, shape).astype(f"{order}i4")
        conditions = np.array([0.9, 2.5, 1e6, 0.125], f"{order}f{size}")
        values = rng.standard_normal((5, *shape)).astype(f"{order}f{size}")
        coordinates = points.tobytes() + (blank.tobytes() if blanking else b"")
        grid += _record(coordinates, order, framed=framed)
        solution += _record(conditions.tobytes(), order, framed=framed)
        solution += _record(values.tobytes(), order, framed=framed)
        blocks.append((points, blank, values))
    (folder / "casexyz.bin").write_bytes(grid)
    (folder / "caseq.bin").write_bytes(solution + tail)
    return blocks


@pytest.mark.parametrize(
    ("order", "size", "multi", "framed", "blanking"),
    [*itertools.product("<>", (4, 8), (False, True), (False, True), (False, True))],
)
def test_every_layout_is_read(tmp_path, order, size, multi, framed, blanking):
    blocks = _write(tmp_path, order=order, size=size, multi=multi, framed=framed, blanking=blanking)
    samples = list(open_source(tmp_path / "casexyz.bin"))
    assert [s.key for s in samples] == (["case-0000", "case-0001"] if multi else ["case"])
    for sample, (points, blank, values) in zip(samples, blocks, strict=True):
        arrays = {name: array.values for name, array in sample.arrays.items()}
        assert arrays["points"].dtype == np.dtype(f"<f{size}")
        assert np.array_equal(arrays["points"], np.moveaxis(points, 0, -1))
        assert np.array_equal(arrays["fields/Density"], values[0])
        assert np.array_equal(arrays["fields/Momentum"], np.moveaxis(values[1:4], 0, -1))
        assert np.array_equal(arrays["fields/StagnationEnergy"], values[4])
        assert ("fields/IBlank" in arrays) == blanking
        if blanking:
            assert np.array_equal(arrays["fields/IBlank"], blank)
        assert sample.attributes["plot3d"]["reynolds"] == 1e6
        assert sample.attributes["plot3d"]["time"] == 0.125


def test_the_real_pair_equals_what_vtk_reads(simulation_files):
    pv = pytest.importorskip("pyvista", reason="the vtk extra is not installed")

    reader = pv.MultiBlockPlot3DReader(simulation_files / "bluntfinxyz.bin")
    reader.add_q_files(simulation_files / "bluntfinq.bin")
    reader.auto_detect_format = True
    block = reader.read()[0]
    for name in ("bluntfinxyz.bin", "bluntfinq.bin"):
        (sample,) = open_source(simulation_files / name)
        assert sample.key == "bluntfin"
        arrays = {name: array.values for name, array in sample.arrays.items()}
        assert arrays["points"].shape == (*block.dimensions[::-1], 3)
        assert np.array_equal(arrays["points"].reshape(-1, 3), block.points)
        for field in ("Density", "Momentum", "StagnationEnergy"):
            expected = np.asarray(block.point_data[field])
            found = arrays[f"fields/{field}"]
            assert found.dtype == expected.dtype
            assert np.array_equal(found.reshape(expected.shape), expected)


def test_a_grid_without_a_solution_is_points_alone(tmp_path):
    _write(tmp_path)
    (tmp_path / "caseq.bin").unlink()
    (sample,) = open_source(tmp_path / "casexyz.bin")
    assert [*sample.arrays] == ["points"]


def test_a_solution_without_a_grid_is_refused(tmp_path):
    _write(tmp_path)
    (tmp_path / "casexyz.bin").unlink()
    with pytest.raises(FormatError, match="solution without its grid"):
        list(open_source(tmp_path / "caseq.bin"))


def test_a_solution_of_another_grid_is_refused(tmp_path):
    _write(tmp_path, multi=True)
    other = (tmp_path / "caseq.bin").read_bytes()
    _write(tmp_path)
    (tmp_path / "caseq.bin").write_bytes(other)
    with pytest.raises(FormatError, match=r"caseq.bin: no layout .* 5×3×4"):
        list(open_source(tmp_path / "casexyz.bin"))


def test_zeros_that_fill_the_last_disk_block_of_a_solution_are_no_fault(tmp_path):
    _write(tmp_path)
    size = (tmp_path / "caseq.bin").stat().st_size
    _write(tmp_path, tail=bytes(-size % 512))
    assert len(list(open_source(tmp_path / "casexyz.bin"))) == 1


@pytest.mark.parametrize("framed", [False, True])
@pytest.mark.parametrize("tail", [b"\0", bytes(484), b"\1" * 512, bytes(1024)])
def test_any_other_bytes_after_a_solution_are_refused(tmp_path, tail, framed):
    _write(tmp_path, tail=tail, framed=framed)
    with pytest.raises(FormatError, match=r"caseq\.bin: no layout of a PLOT3D solution"):
        list(open_source(tmp_path / "casexyz.bin"))


@pytest.mark.parametrize("framed", [False, True])
@pytest.mark.parametrize("tail", [b"\0", bytes(484), bytes(1024)])
def test_any_bytes_after_a_grid_are_refused(tmp_path, tail, framed):
    _write(tmp_path, framed=framed)
    grid = tmp_path / "casexyz.bin"
    grid.write_bytes(grid.read_bytes() + tail)
    with pytest.raises(FormatError, match=r"casexyz\.bin: no layout of a binary PLOT3D grid"):
        list(open_source(grid))


def test_sizes_that_no_file_could_hold_are_refused(tmp_path):
    for sizes in ([2**31 - 1] * 3, [-1, 2, 2], [0, 0, 0]):
        content = np.array(sizes, "<i4").tobytes() + bytes(range(1, 255)) * 2
        (tmp_path / "casexyz.bin").write_bytes(content)
        with pytest.raises(FormatError, match=r"no layout|filled with zeros"):
            list(open_source(tmp_path / "casexyz.bin"))


@pytest.mark.parametrize(
    ("name", "pair"),
    [
        ("bluntfinxyz.bin", ("bluntfin", "grid")),
        ("bluntfinq.bin", ("bluntfin", "solution")),
        ("case_grid.bin", ("case", "grid")),
        ("case.xyz", ("case", "grid")),
        ("case.q", ("case", "solution")),
        ("q.bin", None),
        ("model.bin", None),
        ("caseq.vtk", None),
    ],
)
def test_pairs_are_known_by_their_names(name, pair):
    assert pair_name(Path(name)) == pair


def test_a_file_that_is_cut_while_it_is_read_is_refused(tmp_path):
    _write(tmp_path, multi=True)
    samples = open_source(tmp_path / "casexyz.bin")
    next(samples)
    os.truncate(tmp_path / "caseq.bin", 100)
    with pytest.raises(FormatError, match=r"caseq\.bin: it was cut while it was read"):
        next(samples)
