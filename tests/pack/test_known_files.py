"""Files that were once read wrong, or refused although they are valid: each with its right answer.

The files are in `files/`. A row says what reading one has to give, bit by bit, or which words the
refusal has to hold.
"""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("vtkmodules", reason="the vtk extra is not installed")

from dataplane.errors import FormatError
from dataplane.pack import open_source
from tests.pack.corpus.law import compare
from tests.pack.corpus.model import Sample

FILES = Path(__file__).parent / "files"
INF = float("inf")


def _floats(*values):
    return np.array(values, np.float64)


def _values(values):
    return values if isinstance(values, np.ndarray) else _floats(*values)


def _cells(*runs, types):
    return {
        "cells/connectivity": np.concatenate(runs),
        "cells/offsets": np.cumsum([0, *map(len, runs)]),
        "cells/types": np.array(types, np.uint8),
    }


def tetra(attributes=None, **arrays):
    """The one tetrahedron that most files hold, with arrays at its points."""
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float64)
    data = {f"point_data/{name}": _values(values) for name, values in arrays.items()}
    cells = _cells([0, 1, 2, 3], types=[10])
    return Sample({"points": corners, **cells, **data}, attributes or {})


def triangle(number, **attributes):
    """One of the two triangles that series and collections are made of."""
    x = 5.0 * number
    corners = _floats(x, 0, 0, x + 1, 0, 0, x, 1, 0).reshape(3, 3)
    p = _floats(1, 2, 3) + 3 * number
    return Sample(
        {"points": corners, **_cells([0, 1, 2], types=[5]), "point_data/p": p}, attributes
    )


def both_triangles(**more):
    first, second = triangle(0), triangle(1)
    arrays = {
        "points": np.concatenate([first.arrays["points"], second.arrays["points"]]),
        **_cells([0, 1, 2], [3, 4, 5], types=[5, 5]),
        "point_data/p": _floats(1, 2, 3, 4, 5, 6),
    }
    return Sample({**arrays, **{f"point_data/{name}": values for name, values in more.items()}})


def cloud():
    """A hundred points and p = 0.5, 1.5, … 99.5."""
    points = np.random.default_rng(0).random((100, 3))
    return Sample({"points": points, "point_data/p": np.arange(100) + 0.5})


def _plot3d(folder, grid, solution=None):
    """A grid of 5×4×3 points in one block without record lengths, float32, and its solution."""
    shape = (3, 4, 5)
    content = np.fromfile(FILES / folder / grid, "<f4", offset=12).reshape(3, *shape)
    arrays = {"points": np.moveaxis(content, 0, -1)}
    if solution:
        values = np.fromfile(FILES / folder / solution, "<f4", offset=28).reshape(5, *shape)
        arrays |= {
            "fields/Density": values[0],
            "fields/Momentum": np.moveaxis(values[1:4], 0, -1),
            "fields/StagnationEnergy": values[4],
        }
    return Sample(arrays)


def planes():
    """A 2D grid of two blocks, 20×10 and 5×6, within records: x = 1.0, 1.5, …"""
    content = (FILES / "30_plot3d_2d_two_blocks" / "c_xyz.bin").read_bytes()
    samples, at = [], 36
    for ny, nx in ((10, 20), (6, 5)):
        values = np.frombuffer(content, "<f4", 2 * ny * nx, at + 4).reshape(2, ny, nx)
        samples.append(Sample({"points": np.moveaxis(values, 0, -1)}))
        at += 8 + values.nbytes
    assert samples[0].arrays["points"][0, :3, 0].tolist() == [1.0, 1.5, 2.0]
    return samples


def timed_tetra():
    """The time that deal.II and VisIt write."""
    sample = tetra(attributes={"time": 2.5})
    sample.arrays["global_data/TIME"] = np.array([2.5], np.float32)
    sample.arrays["global_data/CYCLE"] = np.array([7], np.float32)
    return sample


def numbers(**arrays):
    return Sample({name: np.array(values) for name, values in arrays.items()})


READ = {
    "01_base64_one_line_control.vtp": [cloud()],
    "01_base64_wrapped_76.vtp": [cloud()],
    "07_ascii_negative_infinity.vtu": [tetra(p=(1, -INF, INF, 2))],
    "08_duplicate_names.vtu": [tetra(p=(1, 2, 3, 4), **{"p~2": (5, 6, 7, 8)})],
    "08_duplicate_names.vtk": [tetra(p=(1, 2, 3, 4), **{"p~2": (5, 6, 7, 8)})],
    "10_blank_line_before_ASCII.vtk": [tetra(p=np.float32([1, 2, 3, 4]))],
    "11_values_begin_on_header_line.vtk": [
        Sample(
            {
                "points": np.array([[0, 0, 0], [1, 0, 0]], np.float32),
                **_cells([0, 1], types=[3]),
            }
        )
    ],
    "12_no_final_newline.vtk": [tetra(p=(1, 2, 3, 4))],
    "13_pvd_parts_without_times": [triangle(0, part=0, time=None), triangle(1, part=1, time=None)],
    "14_pvd_same_entry_thrice": [triangle(0, time=0.0)],
    "14_two_pvd_one_series": [triangle(0, time=0.0), triangle(1, time=1.0)],
    "15_pvd_part_names": [
        triangle(0, time=0.0, part="inlet", part_number=0),
        triangle(1, time=0.0, part="wall", part_number=1),
    ],
    "16_vtm_tree": [triangle(0, time=100.0), triangle(1, time=100.0)],
    "16_series_json": [triangle(0, time=0.5), triangle(1, time=1.5)],
    "17_pvtu_empty_piece_without_arrays": [triangle(1)],
    "18_pvtu_windows_path": [triangle(0)],
    "19_pvtu_declares_float32": [both_triangles()],
    "19_pvtu_undeclared_array": [both_triangles(q=_floats(7, 8, 9, 10, 11, 12))],
    "20_trailing_blank_lines.vtu": [tetra()],
    "20_long_comment_first.vtu": [tetra()],
    "21_array_without_name.vtu": [tetra(unnamed=(1, 2, 3, 4), **{"unnamed~2": (5, 6, 7, 8)})],
    "23_npz_dict_beside_arrays.npz": [numbers(p=[0.0, 1, 2, 3])],
    "23_npz_readme_member.npz": [numbers(p=[0.0, 1, 2])],
    "25_TIME_field_of_dealii.vtu": [timed_tetra()],
    "30_plot3d_2d_two_blocks": planes(),
    "32_plot3d_q_series": [
        _plot3d("32_plot3d_q_series", "case.xyz", "case.0001.q"),
        _plot3d("32_plot3d_q_series", "case.xyz", "case.0002.q"),
    ],
    "32_plot3d_different_stems": [_plot3d("32_plot3d_different_stems", "grid.x", "sol.q")],
}
REFUSED = {
    "02_base64_cut.vtp": "'p'",
    "03_piece_smaller_than_whole.vti": "extent",
    "04_short_coordinates.vtr": "coordinates",
    "05_ascii_array_too_long.vtu": "expected 4 values, got 5",
    "05_fortran_exponent_without_E.vtu": "'1.0-101'",
    "06_second_piece_lacks_array.vtu": "'p'",
    "22_git_lfs_pointer.vtu": "Git LFS pointer",
    "22_gzip_named_vtu.vtu": "gzip",
    "23_npy_pickled_dict.npy": "pickled",
    "24_points_two_components.vtu": "3 components",
    "31_plot3d_cut": "cut",
    "32_plot3d_q_six_variables": "variables",
}


def test_every_file_has_a_row():
    assert sorted([*READ, *REFUSED]) == sorted(path.name for path in FILES.iterdir())


@pytest.mark.parametrize("name", READ)
def test_what_is_valid_is_read_bit_by_bit(name):
    compare(list(open_source(FILES / name)), READ[name])


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_damaged_or_not_supported_is_refused_with_the_reason(name):
    with pytest.raises(FormatError, match=name) as caught:
        list(open_source(FILES / name))
    assert REFUSED[name] in str(caught.value)
    assert "\n" not in str(caught.value)
