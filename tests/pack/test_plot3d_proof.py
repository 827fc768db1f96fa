"""PLOT3D files are read in the one layout that is proven, or refused: cut, 2D, other variables."""

import itertools

import numpy as np
import pytest

from dataplane.errors import FormatError
from dataplane.pack import open_source
from dataplane.pack.plot3d.detect import detect_grid, detect_solution
from dataplane.pack.plot3d.layout import FileBytes

CUBE = [(3, 4, 5)]
PLANE = [(5, 4)]
PLANES = [(10, 20), (6, 5)]
LAYOUTS = [*itertools.product("<>", (4, 8), (False, True), (False, True))]


def _record(content, order, *, framed):
    length = np.array([len(content)], f"{order}i4").tobytes()
    return length + content + length if framed else content


def _header(shapes, order, *, framed, more=()):
    head = b""
    if len(shapes) > 1:
        head = _record(np.array([len(shapes)], f"{order}i4").tobytes(), order, framed=framed)
    sizes = [n for shape in shapes for n in shape[::-1]] + [*more]
    return head + _record(np.array(sizes, f"{order}i4").tobytes(), order, framed=framed)


def _coordinates(shape, scale):
    """Even steps along each axis, x first, as [component,[z,]y,x]; z is 0 when there is one."""
    axes = np.meshgrid(*(np.arange(1.0, n + 1) for n in shape), indexing="ij")[::-1]
    return np.stack([*axes[:2], *(0 * axis for axis in axes[2:])]) * scale


def _grid(shapes, order="<", size=4, framed=False, blanking=False, scale=0.1):
    content = _header(shapes, order, framed=framed)
    for shape in shapes:
        block = _coordinates(shape, scale).astype(f"{order}f{size}").tobytes()
        if blanking:
            block += np.ones(shape, f"{order}i4").tobytes()
        content += _record(block, order, framed=framed)
    return content


def _solution(shapes, variables, order="<", size=4, framed=False, more=()):
    content = _header(shapes, order, framed=framed, more=more)
    for shape in shapes:
        conditions = np.array([0.5, 1.0, 2e6, 3.25], f"{order}f{size}").tobytes()
        values = np.arange(1, 1 + variables * np.prod(shape)) / 7
        content += _record(conditions, order, framed=framed)
        content += _record(values.astype(f"{order}f{size}").tobytes(), order, framed=framed)
    return content


@pytest.mark.parametrize(("order", "size", "framed", "blanking"), LAYOUTS)
@pytest.mark.parametrize("shapes", [PLANE, PLANES])
def test_a_2d_grid_has_two_coordinates_and_two_components_of_momentum(
    tmp_path, shapes, order, size, framed, blanking
):
    (tmp_path / "case.xyz").write_bytes(_grid(shapes, order, size, framed, blanking))
    (tmp_path / "case.q").write_bytes(_solution(shapes, 4, order, size, framed))
    samples = list(open_source(tmp_path))
    assert len(samples) == len(shapes)
    for sample, shape in zip(samples, shapes, strict=True):
        points = sample.arrays["points"]
        expected = _coordinates(shape, 0.1).astype(f"<f{size}")
        assert points.dimension_names == ("y", "x", "c")
        assert points.values.dtype == expected.dtype
        assert np.array_equal(points.values, np.moveaxis(expected, 0, -1))
        values = (np.arange(1, 1 + 4 * np.prod(shape)) / 7).astype(f"<f{size}").reshape(4, *shape)
        momentum = sample.arrays["fields/Momentum"]
        assert momentum.dimension_names == ("y", "x", "c")
        assert np.array_equal(momentum.values, np.moveaxis(values[1:3], 0, -1))
        assert np.array_equal(sample.arrays["fields/Density"].values, values[0])
        assert np.array_equal(sample.arrays["fields/StagnationEnergy"].values, values[3])
        assert ("fields/IBlank" in sample.arrays) == blanking


def _prefixes(path, content):
    """Prefixes of a file, the longest first: all in whole words, of the others some."""
    path.write_bytes(content)
    with path.open("r+b", buffering=0) as file:
        for size in range(len(content) - 1, -1, -1):
            if size % 4 and size % 17:
                continue  # no layout has such a size
            file.truncate(size)
            yield size, file


@pytest.mark.parametrize(("order", "size", "framed", "blanking"), LAYOUTS)
@pytest.mark.parametrize("shapes", [[(2, 3, 4)], [(2, 2, 3), (2, 1, 3)], PLANE])
def test_every_prefix_of_a_grid_is_refused(tmp_path, shapes, order, size, framed, blanking):
    content = _grid(shapes, order, size, framed, blanking)
    path = tmp_path / "case.xyz"
    path.write_bytes(content)
    assert len(list(open_source(path))) == len(shapes)
    whole_without_iblank = None
    if blanking and not framed and len(shapes) == 1:
        # This prefix is, byte by byte, what a writer without iblank makes of the same grid.
        whole_without_iblank = len(_grid(shapes, order, size))
    for cut, file in _prefixes(path, content):
        if cut == whole_without_iblank:
            (sample,) = open_source(path)
            points = np.moveaxis(_coordinates(shapes[0], 0.1).astype(f"<f{size}"), 0, -1)
            assert [*sample.arrays] == ["points"]
            assert np.array_equal(sample.arrays["points"].values, points)
            continue
        with pytest.raises(FormatError, match=r"case\.xyz"):
            detect_grid(FileBytes(file, "case.xyz"), "case.xyz")


@pytest.mark.parametrize(
    ("order", "size", "framed"), [*itertools.product("<>", (4, 8), (False, True))]
)
@pytest.mark.parametrize("shapes", [[(2, 3, 4)], [(4, 3), (2, 5)]])
def test_every_prefix_of_a_solution_is_refused(tmp_path, shapes, order, size, framed):
    content = _solution(shapes, len(shapes[0]) + 2, order, size, framed)
    (tmp_path / "case.xyz").write_bytes(_grid(shapes))
    (tmp_path / "case.q").write_bytes(content)
    assert len(list(open_source(tmp_path))) == len(shapes)
    for _, file in _prefixes(tmp_path / "case.q", content):
        with pytest.raises(FormatError, match=r"case\.q"):
            detect_solution(FileBytes(file, "case.q"), tuple(shapes), "case.q")


def test_the_message_about_a_cut_grid_says_how_many_bytes_it_takes(tmp_path):
    content = _grid(CUBE, size=8, framed=True, blanking=True)
    assert len(content) == 1708
    (tmp_path / "case.xyz").write_bytes(content[:800])
    with pytest.raises(FormatError, match=r"its 800 bytes: 5×4×3 points \(3D, 64 bit.* take 1708"):
        list(open_source(tmp_path / "case.xyz"))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("scale", [0.1, 0.25, 1.0, 1 / 3, 12345.678])
@pytest.mark.parametrize("kept_bytes", [12 * 60, 16 * 60])
def test_halves_of_64_bit_floats_are_no_32_bit_grid(tmp_path, order, scale, kept_bytes):
    content = _grid(CUBE, order, 8, scale=scale)
    (tmp_path / "case.xyz").write_bytes(content[: 12 + kept_bytes])
    with pytest.raises(FormatError, match="no layout"):
        list(open_source(tmp_path / "case.xyz"))


@pytest.mark.parametrize(
    ("value", "framed"),
    [
        (np.nan, False),
        (np.inf, False),
        (1e20, False),
        (1e-42, False),
        (np.nan, True),
        (np.inf, True),
    ],
)
def test_values_that_are_no_coordinates_are_refused(tmp_path, value, framed):
    content = bytearray(_grid(CUBE, framed=framed))
    at = len(content) // 8 * 4 + 4 * framed
    content[at : at + 4] = np.array([value], "<f4").tobytes()
    (tmp_path / "case.xyz").write_bytes(content)
    with pytest.raises(FormatError, match="stands where a coordinate belongs"):
        list(open_source(tmp_path / "case.xyz"))


@pytest.mark.parametrize("value", [1e20, -3e38, 1e-42])
def test_record_lengths_prove_a_grid_of_any_finite_coordinates(tmp_path, value):
    content = bytearray(_grid(CUBE, framed=True))
    content[24:28] = np.array([value], "<f4").tobytes()
    (tmp_path / "case.xyz").write_bytes(content)
    (sample,) = open_source(tmp_path / "case.xyz")
    expected = np.moveaxis(_coordinates(CUBE[0], 0.1).astype("<f4"), 0, -1).copy()
    expected[0, 0, 0, 0] = value
    assert np.array_equal(sample.arrays["points"].values, expected)


def test_flow_conditions_of_any_size_are_read_without_record_lengths(tmp_path):
    content = bytearray(_solution(CUBE, 5))
    assert content[20:24] == np.array([2e6], "<f4").tobytes()
    content[20:24] = np.array([1e16], "<f4").tobytes()
    (tmp_path / "case.xyz").write_bytes(_grid(CUBE))
    (tmp_path / "case.q").write_bytes(content)
    (sample,) = open_source(tmp_path)
    assert sample.attributes["plot3d"]["reynolds"] == np.float32(1e16)


def test_a_record_length_that_is_not_the_declared_one_is_refused(tmp_path):
    content = bytearray(_grid(CUBE, framed=True))
    for at in (0, 16, 20, len(content) - 4):
        damaged = bytearray(content)
        damaged[at] ^= 1
        (tmp_path / "case.xyz").write_bytes(damaged)
        with pytest.raises(FormatError, match="no layout"):
            list(open_source(tmp_path / "case.xyz"))


@pytest.mark.parametrize("framed", [False, True])
def test_a_solution_of_six_variables_is_refused_and_counted(tmp_path, framed):
    (tmp_path / "case.xyz").write_bytes(_grid(CUBE))
    (tmp_path / "case.q").write_bytes(_solution(CUBE, 6, framed=framed))
    with pytest.raises(FormatError, match=r"case\.q: it has 6 variables per point .* expected 5"):
        list(open_source(tmp_path))


@pytest.mark.parametrize("framed", [False, True])
def test_the_header_of_an_overflow_solution_is_named(tmp_path, framed):
    (tmp_path / "case.xyz").write_bytes(_grid(CUBE))
    (tmp_path / "case.q").write_bytes(_solution(CUBE, 6, framed=framed, more=(6, 0)))
    with pytest.raises(FormatError, match="an OVERFLOW header, with 6 variables per point"):
        list(open_source(tmp_path))


def test_results_that_are_no_number_are_kept(tmp_path):
    content = bytearray(_solution(CUBE, 5))
    content[-4:] = np.array([np.nan], "<f4").tobytes()
    (tmp_path / "case.xyz").write_bytes(_grid(CUBE))
    (tmp_path / "case.q").write_bytes(content)
    (sample,) = open_source(tmp_path)
    energy = sample.arrays["fields/StagnationEnergy"].values
    assert np.isnan(energy[-1, -1, -1])
    assert np.isfinite(energy).sum() == 59
