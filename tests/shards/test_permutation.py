"""Permuted meshes are the same meshes: every cell still joins the same places."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from dataplane.errors import FormatError
from dataplane.shards import DatasetIndex, SourceArray, SourceSample
from dataplane.shards.permutation import permutation_order
from dataplane.stores import Store

from .reading import read_sample

SEED = 11


def mesh(points: int = 300, cells: int = 200, **extra: SourceArray) -> SourceSample:
    """Triangles and quads with a value per point and per cell that identifies it."""
    rng = np.random.default_rng(3)
    sizes = rng.integers(3, 5, cells)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    arrays = {
        "points": SourceArray(rng.random((points, 3), np.float32), ("point", "axis")),
        "point_data/id": SourceArray(np.arange(points), ("point",)),
        "cells/connectivity": SourceArray(
            rng.integers(0, points, offsets[-1]).astype(np.int32), ("corner",)
        ),
        "cells/offsets": SourceArray(offsets, ("cell_bound",)),
        "cells/types": SourceArray(np.where(sizes == 3, 5, 9).astype(np.uint8), ("cell",)),
        "cell_data/id": SourceArray(np.arange(cells), ("cell",)),
        "history": SourceArray(rng.random((4, points)), ("time", "point")),
    }
    return SourceSample("mesh", arrays | extra)


def corners(arrays: dict[str, np.ndarray]) -> dict[int, list[int]]:
    """The point identities that each cell identity joins."""
    ids, offsets = arrays["point_data/id"], arrays["cells/offsets"]
    return {
        int(cell): ids[arrays["cells/connectivity"][offsets[i] : offsets[i + 1]]].tolist()
        for i, cell in enumerate(arrays["cell_data/id"])
    }


def source(sample: SourceSample) -> dict[str, np.ndarray]:
    return {name: array.values for name, array in sample.arrays.items()}


def test_a_permuted_mesh_is_the_same_mesh(pack: Callable[..., Store]) -> None:
    sample = mesh()
    store = pack(sample, permute_seed=SEED, chunk_bytes=1024)
    stored, before = read_sample(store, "mesh"), source(sample)
    points, cells = stored["point_data/id"], stored["cell_data/id"]
    assert not np.array_equal(points, before["point_data/id"])
    assert not np.array_equal(cells, before["cell_data/id"])
    assert sorted(points) == sorted(before["point_data/id"])
    np.testing.assert_array_equal(stored["points"], before["points"][points])
    np.testing.assert_array_equal(stored["history"], before["history"][:, points])
    np.testing.assert_array_equal(stored["cells/types"], before["cells/types"][cells])
    assert corners(stored) == corners(before)
    assert stored["cells/connectivity"].dtype == np.int32


def test_the_order_is_the_documented_function_and_is_recorded(pack: Callable[..., Store]) -> None:
    store = pack(mesh(), permute_seed=SEED)
    order = permutation_order(SEED, "mesh", "point", 300)
    np.testing.assert_array_equal(read_sample(store, "mesh")["point_data/id"], order)
    record = DatasetIndex.load(store)[0].attributes["dataplane"]
    assert record == {"permute_seed": SEED, "permuted": ["point", "cell"]}


def test_the_order_never_changes_between_versions() -> None:
    # Datasets in the field were written with exactly this order.
    assert permutation_order(7, "case", "point", 8).tolist() == EXPECTED_POINT_ORDER
    assert permutation_order(7, "case", "cell", 8).tolist() != EXPECTED_POINT_ORDER
    assert permutation_order(8, "case", "point", 8).tolist() != EXPECTED_POINT_ORDER


EXPECTED_POINT_ORDER = [4, 1, 2, 3, 5, 7, 0, 6]


def test_without_a_seed_nothing_moves(pack: Callable[..., Store]) -> None:
    store = pack(mesh())
    for name, values in source(mesh()).items():
        np.testing.assert_array_equal(read_sample(store, "mesh")[name], values)
    assert "dataplane" not in DatasetIndex.load(store)[0].attributes


def test_fixed_size_cells_are_rows(pack: Callable[..., Store]) -> None:
    tets = np.array([[0, 1, 2, 3], [4, 5, 6, -1], [7, 8, 9, 0]])
    sample = SourceSample(
        "tets",
        {
            "id": SourceArray(np.arange(10), ("point",)),
            "connectivity": SourceArray(tets, ("cell", "corner")),
            "cell_id": SourceArray(np.arange(3), ("cell",)),
        },
    )
    stored = read_sample(pack(sample, permute_seed=SEED), "tets")
    for row, cell in zip(stored["connectivity"], stored["cell_id"], strict=True):
        joined = [int(stored["id"][p]) if p >= 0 else -1 for p in row]
        assert joined == tets[cell].tolist()


def test_polyhedra_keep_their_cells_and_renumber_their_faces(pack: Callable[..., Store]) -> None:
    faces = np.arange(12) % 7
    extra = {
        "cells/face_connectivity": SourceArray(faces, ("face_corner",)),
        "cells/face_offsets": SourceArray(np.arange(0, 13, 3)),
        "cells/polyhedron_to_faces": SourceArray(np.arange(4)),
        "cells/polyhedron_offsets": SourceArray(np.zeros(201, np.int64), ("cell_bound",)),
    }
    store = pack(mesh(**extra), permute_seed=SEED)
    stored = read_sample(store, "mesh")
    np.testing.assert_array_equal(stored["cell_data/id"], np.arange(200))
    np.testing.assert_array_equal(stored["point_data/id"][stored["cells/face_connectivity"]], faces)
    assert corners(stored) == corners(source(mesh()))
    assert DatasetIndex.load(store)[0].attributes["dataplane"]["permuted"] == ["point"]


def test_an_array_of_unknown_meaning_among_the_cells_stops_the_permutation(
    pack: Callable[..., Store],
) -> None:
    extra = {"cells/mystery": SourceArray(np.arange(5))}
    store = pack(mesh(**extra), permute_seed=SEED)
    np.testing.assert_array_equal(read_sample(store, "mesh")["point_data/id"], np.arange(300))
    assert DatasetIndex.load(store)[0].attributes["dataplane"]["permuted"] == []


def test_an_array_may_say_that_it_holds_point_numbers(pack: Callable[..., Store]) -> None:
    wall = SourceArray(np.array([5, 17, 299]), ("wall",), attributes={"index_of": "point"})
    stored = read_sample(pack(mesh(wall=wall), permute_seed=SEED), "mesh")
    assert stored["point_data/id"][stored["wall"]].tolist() == [5, 17, 299]


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("other", SourceArray(np.zeros(299), ("point",)), "disagree on the number of points"),
        ("two", SourceArray(np.zeros((3, 3)), ("cell", "cell")), "two cell dimensions"),
        ("a/connectivity", SourceArray(np.array([300])), "refers to point 300 of 300"),
        ("b/connectivity", SourceArray(np.array([0.5])), "point numbers as float64"),
        ("cells/offsets", SourceArray(np.full(201, 5)), "do not divide"),
    ],
)
def test_meshes_that_do_not_fit_together_are_refused(
    name: str, array: SourceArray, message: str, pack: Callable[..., Store]
) -> None:
    with pytest.raises(FormatError, match=message):
        pack(mesh(**{name: array}), permute_seed=SEED)


def test_contiguous_runs_are_uniform_samples() -> None:
    # The mean of a run of 1000 among 100,000 lies within 5 standard errors of the mean of all.
    order = permutation_order(1, "big", "point", 100_000)
    runs = order.reshape(100, 1000).mean(axis=1)
    standard_error = 100_000 / np.sqrt(12) / np.sqrt(1000)
    assert np.abs(runs - 50_000).max() < 5 * standard_error


def test_an_array_of_cells_and_points_is_gathered_along_both(pack: Callable[..., Store]) -> None:
    incidence = np.arange(200 * 300, dtype="f4").reshape(200, 300)
    numbered = {
        "point_data/id": SourceArray(np.arange(300), ("point",), None, {}),
        "cell_data/id": SourceArray(np.arange(200), ("cell",), None, {}),
        "incidence": SourceArray(incidence, ("cell", "point"), None, {}),
    }
    sample = SourceSample("s", numbered, {})
    read = read_sample(pack(sample, permute_seed=1), "s")
    points, cells = read["point_data/id"], read["cell_data/id"]
    assert sorted(points) == list(range(300))
    assert np.array_equal(read["incidence"], incidence[np.ix_(cells, points)])
