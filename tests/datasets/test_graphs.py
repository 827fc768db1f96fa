"""Batches as graphs of PyTorch Geometric are what its own collation makes of the samples."""

from __future__ import annotations

import itertools
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dataplane as dp
from dataplane.datasets.cell_edges import edges_of_cells
from dataplane.errors import ConfigError, LoaderError, MissingPackage
from dataplane.shards import SourceArray, SourceSample
from tests.datasets.packed import Packed, pack

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit, which it calls
    geometric = pytest.importorskip("torch_geometric.data", reason="the extra pyg is not installed")

_CELLS = {  # VTK's type: corners, of cells that follow each other in a mesh
    1: 1, 2: 3, 3: 2, 4: 5, 5: 3, 6: 6, 7: 5, 8: 4, 9: 4, 10: 4, 11: 8, 12: 8, 13: 6, 14: 5,
}  # fmt: skip


def mesh(number: int) -> dict[str, np.ndarray]:
    """A mesh of cells of every type, whose size varies."""
    rng = np.random.default_rng(number)
    count = 20 + 3 * number
    types = rng.permutation([*_CELLS] * (1 + number % 2)).astype("u1")
    sizes = [_CELLS[int(kind)] for kind in types]
    corners = np.concatenate([rng.permutation(count)[:size] for size in sizes])
    return {
        "points": rng.standard_normal((count, 3)).astype("f4"),
        "point_data/pressure": rng.standard_normal(count).astype("f4"),
        "point_data/normals": rng.standard_normal((count, 3)).astype("f4"),
        "point_data/label": rng.integers(0, 9, count),
        "cells/connectivity": corners.astype("i4"),
        "cells/offsets": np.cumsum([0, *sizes]),
        "cells/types": types,
        "links": rng.integers(0, count, (7 + number, 2)),
        "global_data/mach": np.array(0.1 * number),
        "cell_data/stress": rng.standard_normal(len(types)),
    }


@pytest.fixture(scope="module")
def meshes(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    samples = [
        SourceSample(f"m{number}", {name: SourceArray(it) for name, it in mesh(number).items()})
        for number in range(5)
    ]
    return pack(tmp_path_factory.mktemp("meshes"), samples)


def one_batch(packed: Packed, names: list[str] | None = None, **options: Any) -> dict[str, Any]:
    return next(iter(dp.DataLoader(dp.Dataset(packed.url, names), batch_size=4, **options)))


def check_same(got: Any, wanted: Any) -> None:
    assert set(got.keys()) == set(wanted.keys())
    for name, value in wanted.to_dict().items():
        if isinstance(value, torch.Tensor):
            assert got[name].dtype == value.dtype, name
            assert torch.equal(got[name], value), name
        else:
            assert got[name] == value


def test_it_is_what_geometric_s_own_collation_makes(meshes: Packed) -> None:
    batch = one_batch(meshes)
    graphs = dp.to_pyg(
        batch,
        x=["point_data/normals", "point_data/pressure"],
        y="point_data/label",
        edges="links",
    )
    samples = [mesh(number) for number in range(4)]
    wanted = geometric.Batch.from_data_list([
        geometric.Data(
            pos=torch.from_numpy(one["points"]),
            x=torch.from_numpy(
                np.column_stack([one["point_data/normals"], one["point_data/pressure"]])
            ),
            y=torch.from_numpy(one["point_data/label"]),
            mach=torch.from_numpy(one["global_data/mach"])[None],
            edge_index=torch.from_numpy(one["links"]).T,
            key=f"m{number}",
        )
        for number, one in enumerate(samples)
    ])  # fmt: skip
    check_same(graphs, wanted)
    assert graphs.num_graphs == 4
    assert graphs.num_nodes == wanted.num_nodes
    for got, other in zip(graphs.to_data_list(), wanted.to_data_list(), strict=True):
        check_same(got, other)
    check_same(geometric.Batch.from_data_list(graphs.to_data_list()), wanted)


def test_arrays_of_points_are_attributes_and_views(meshes: Packed) -> None:
    batch = one_batch(meshes)
    graphs = dp.to_pyg(batch, edges=False)
    for attribute, name in (
        ("pos", "points"),
        ("pressure", "point_data/pressure"),
        ("normals", "point_data/normals"),
        ("mach", "global_data/mach"),
        ("ptr", "points.offsets"),
    ):
        assert graphs[attribute].data_ptr() == batch[name].data_ptr()
    assert "edge_index" not in graphs
    assert "x" not in graphs
    one = dp.to_pyg(batch, x="point_data/normals", edges=False)
    assert one.x.data_ptr() == batch["point_data/normals"].data_ptr()
    assert dp.to_pyg(batch, x="point_data/pressure").x.shape == (len(batch["points"]), 1)


def test_stacked_points_are_nodes_as_well(tmp_path: Path) -> None:
    values = np.random.default_rng(1).standard_normal((3, 10, 3)).astype("f4")
    samples = [
        SourceSample(f"s{n}", {
            "points": SourceArray(one, ("point", "c")),
            "point_data/p": SourceArray(one[:, 0].copy(), ("point",)),
        })
        for n, one in enumerate(values)
    ]  # fmt: skip
    packed = pack(tmp_path, samples, permute_seed=1)
    run = dp.points(4)
    loader = dp.DataLoader(dp.Dataset(packed.url, {"points": run, "point_data/p": run}), 3, seed=1)
    (batch,) = loader
    graphs = dp.to_pyg(batch)
    assert graphs.ptr.tolist() == [0, 4, 8, 12]
    assert torch.equal(graphs.pos, batch["points"].reshape(12, 3))
    assert torch.equal(graphs.pos[:, 0], graphs.p)
    assert torch.equal(graphs[1].pos, batch["points"][1])
    assert graphs.batch.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def edges_by_vtk(one: dict[str, np.ndarray]) -> set[tuple[int, int]]:
    """The edges of a mesh as VTK's own cells have them, in both directions."""
    found = set()
    bounds = one["cells/offsets"]
    vtk = pytest.importorskip("vtkmodules.vtkCommonDataModel")
    for kind, start, stop in zip(one["cells/types"], bounds, bounds[1:], strict=False):
        corners = one["cells/connectivity"][start:stop].tolist()
        cell = vtk.vtkGenericCell()
        cell.SetCellType(int(kind))
        cell.GetPointIds().SetNumberOfIds(len(corners))
        cell.GetPoints().SetNumberOfPoints(len(corners))
        for place, corner in enumerate(corners):
            cell.GetPointIds().SetId(place, corner)
        if kind in (3, 4):  # of lines VTK says that they have none
            found |= set(itertools.pairwise(corners))
        elif kind == 6:
            triangles = zip(corners, corners[1:], corners[2:], strict=False)
            found |= {pair for each in triangles for pair in itertools.combinations(each, 2)}
        else:
            for number in range(cell.GetNumberOfEdges()):
                ids = cell.GetEdge(number).GetPointIds()
                found.add((ids.GetId(0), ids.GetId(1)))
    return found | {(b, a) for a, b in found}


def test_edges_of_cells_are_those_of_vtk(meshes: Packed) -> None:
    graphs = dp.to_pyg(one_batch(meshes))
    for number in range(4):
        edges = graphs[number].edge_index
        assert edges.dtype is torch.int64
        pairs = [tuple(pair) for pair in edges.T.tolist()]
        assert pairs == sorted(edges_by_vtk(mesh(number)))
    assert graphs.edge_index.is_contiguous()


def test_every_type_of_cell_has_the_edges_of_vtk() -> None:
    for kind, size in _CELLS.items():
        one = {
            "cells/offsets": np.array([0, size]),
            "cells/types": np.array([kind]),
            "cells/connectivity": np.arange(size),
        }
        found = edges_of_cells(
            torch.arange(size), torch.tensor([0]), torch.tensor([size]), torch.tensor([kind])
        )
        assert [tuple(pair) for pair in found.T.tolist()] == sorted(edges_by_vtk(one)), kind


def test_a_corner_that_is_named_twice_makes_no_edge_with_itself() -> None:
    found = edges_of_cells(
        torch.tensor([4, 4, 2]), torch.tensor([0]), torch.tensor([3]), torch.tensor([5])
    )
    assert found.tolist() == [[2, 4], [4, 2]]


@pytest.mark.parametrize(
    ("kind", "size", "message"),
    [(10, 5, "has 4 corners, and one here has 5"), (42, 8, "type 42"), (24, 10, "type 24")],
)
def test_cells_without_known_edges_are_refused(kind: int, size: int, message: str) -> None:
    with pytest.raises(LoaderError, match=message):
        edges_of_cells(
            torch.arange(size), torch.tensor([0]), torch.tensor([size]), torch.tensor([kind])
        )


@pytest.mark.parametrize("form", ["padded", "nested"])
def test_other_forms_of_ragged_arrays_are_refused(meshes: Packed, form: Any) -> None:
    with pytest.raises(ConfigError, match="neither stacked nor concatenated"):
        dp.to_pyg(one_batch(meshes, ragged_as=form))


def test_what_does_not_fit_is_refused(meshes: Packed) -> None:
    batch = one_batch(meshes)
    for given, error, message in (
        ({"pos": "positions"}, ConfigError, "no array 'positions'"),
        ({"x": "cell_data/stress"}, LoaderError, "not of the same points"),
        ({"x": ["point_data/pressure"] * 2}, ConfigError, "twice"),
        ({"x": ["point_data/pressure", "point_data/label"]}, LoaderError, "element types"),
        ({"edges": "points"}, ConfigError, "edges are pairs"),
        ({"edges": "lines"}, ConfigError, "no array 'lines'"),
    ):
        with pytest.raises(error, match=message):
            dp.to_pyg(batch, **given)
    for name in ("point_data/x", "point_data/face_index", "point_data/batch", "point_data/mach"):
        with pytest.raises(ConfigError, match="cannot be an attribute"):
            dp.to_pyg(renamed(batch, "point_data/label", name), edges=False)


def renamed(batch: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    return {name.replace(old, new): value for name, value in batch.items()}


def test_point_numbers_beyond_a_mesh_are_refused_though_the_next_one_has_points(
    meshes: Packed,
) -> None:
    batch = one_batch(meshes)
    for bad in (-1, len(mesh(0)["points"])):
        links = batch["links"].clone()
        links[0, 0] = bad
        with pytest.raises(LoaderError, match="names points that its mesh does not have"):
            dp.to_pyg({**batch, "links": links}, edges="links")


def test_offsets_that_do_not_part_the_corners_are_refused(meshes: Packed) -> None:
    batch = one_batch(meshes)
    for place, value in ((0, 1), (3, 10**6), (len(mesh(0)["cells/offsets"]) - 1, 5)):
        offsets = batch["cells/offsets"].clone()
        offsets[place] = value
        with pytest.raises(LoaderError, match="does not part"):
            dp.to_pyg({**batch, "cells/offsets": offsets})


def test_edges_between_some_of_the_points_are_refused(meshes: Packed) -> None:
    batch = one_batch(meshes)
    batch["points.weight"] = torch.tensor([1.0, 1.0, 2.0, 1.0], dtype=torch.float64)
    with pytest.raises(LoaderError, match="some of the points"):
        dp.to_pyg(batch)
    assert "edge_index" not in dp.to_pyg(batch, edges=False)
    batch["points.weight"][:] = 1
    assert dp.to_pyg(batch).edge_index.shape[0] == 2


def test_without_the_package_the_error_says_which_extra_brings_it(
    meshes: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch_geometric", None)
    monkeypatch.delitem(sys.modules, "torch_geometric.data")
    with pytest.raises(MissingPackage, match=r"torch_geometric.*\[pyg\]"):
        dp.to_pyg(one_batch(meshes))


def test_edges_are_between_the_points_that_they_were_between(tmp_path: Path) -> None:
    """A run of all points is all of them in their order; of fewer there are no edges."""
    count = 8
    line = {
        "points": SourceArray(np.c_[np.arange(count), np.zeros((count, 2))], ("point", "c")),
        "cells/connectivity": SourceArray(np.repeat(np.arange(count), 2)[1:-1]),
        "cells/offsets": SourceArray(np.arange(0, 2 * count - 1, 2)),
        "cells/types": SourceArray(np.full(count - 1, 3, "u1")),
    }
    packed = pack(tmp_path, [SourceSample("m", line)], permute_seed=1)
    for selection in (dp.points(8), dp.points(8, short="repeat"), dp.points(9, short="whole")):
        arrays = {**{name: dp.whole() for name in line}, "points": selection}
        (batch,) = dp.DataLoader(dp.Dataset(packed.url, arrays, cache=False), 1, seed=3)
        graph = dp.to_pyg(batch)
        first, second = graph.pos[:, 0][graph.edge_index]
        assert (first - second).abs().tolist() == [1.0] * 14
    arrays["points"] = dp.points(7)
    (batch,) = dp.DataLoader(dp.Dataset(packed.url, arrays, cache=False), 1, seed=3)
    with pytest.raises(LoaderError, match="some of the points"):
        dp.to_pyg(batch)
