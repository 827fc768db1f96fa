"""Batches as graphs of PyTorch Geometric: points are nodes, cells or stored pairs make the edges.

A `torch_geometric.data.Batch` is one graph of several that do not touch, its arrays concatenated:
the very layout of a batch with offsets. So arrays of points are taken as they are, and nothing is
copied but what `x` and `y` join, and edges. Functions without state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dataplane.datasets.cell_edges import edges_of_cells
from dataplane.datasets.layout import LENGTHS_SUFFIX, OFFSETS_SUFFIX, WEIGHT_SUFFIX
from dataplane.datasets.samples import KEY
from dataplane.errors import ConfigError, LoaderError
from dataplane.extras import missing_package

__all__ = ["to_pyg"]

_CELLS = ("cells/connectivity", "cells/offsets", "cells/types")
_POINT_DATA, _GLOBAL_DATA = "point_data/", "global_data/"
_TAKEN = frozenset({"pos", "x", "y", "key", "ptr", "edge_index", "edge_attr", "num_nodes", "face"})
"""Names of attributes that have a meaning of their own."""

Names = str | Sequence[str]


@dataclass(frozen=True, slots=True)
class _Joined:
    """An array of all samples, concatenated: [sum of N, ...], and int64[B + 1], where each lies."""

    values: torch.Tensor
    ptr: torch.Tensor


def to_pyg(
    batch: Mapping[str, Any],
    *,
    pos: str = "points",
    x: Names = (),
    y: Names = (),
    edges: str | bool = True,
) -> Any:
    """Return a batch as a `torch_geometric.data.Batch`.

    Its attributes: `pos`, the points; each other `point_data/<name>` and `global_data/<name>` as
    `<name>`; `edge_index`; `key`, the keys; `ptr` and `batch` as PyTorch Geometric has them. Other
    arrays are left out. Of a batch on a device it waits for what is known only there.

    Args:
        batch: batch of a `DataLoader`, with offsets where arrays are ragged.
        pos: array of positions, whose rows are the nodes.
        x: arrays of the nodes that are joined to `x`, [nodes, features]; they are then no
            attributes of their own.
        y: likewise, to `y`: what is to be learned. One name of single values gives [nodes].
        edges: array of pairs of points, [E, 2] in each sample, numbered within it, as they are; or
            True for the edges of the cells, each in both directions, where the batch has
            `cells/connectivity`, `cells/offsets` and `cells/types`; False for none.

    Returns:
        A batch of as many graphs as samples; `batch[i]` and `to_data_list()` take it apart.

    Raises:
        MissingPackage: torch_geometric is not installed.
        ConfigError: the batch has no such array, or a name cannot be that of an attribute.
        LoaderError: arrays do not fit together, or cells are of parts of meshes.

    Example:
        >>> for batch in loader:  # doctest: +SKIP
        ...     graphs = dp.to_pyg(batch, x="point_data/normals", y="point_data/pressure")
        ...     loss = (network(graphs.x, graphs.edge_index) - graphs.y).square().mean()
    """
    try:
        from torch_geometric.data import Batch
    except ModuleNotFoundError as err:
        if err.name is None or err.name.partition(".")[0] != "torch_geometric":
            raise
        raise missing_package("dataplane.to_pyg", "torch_geometric") from None
    nodes = _joined(batch, pos)
    inputs, targets = _names("x", x), _names("y", y)
    found: dict[str, _Joined] = {"pos": nodes}
    if inputs:
        found["x"] = _features(batch, inputs, nodes, pos, keeps_single=False)
    if targets:
        found["y"] = _features(batch, targets, nodes, pos, keeps_single=True)
    for name in batch:
        is_node = name.startswith(_POINT_DATA) and name not in {pos, *inputs, *targets}
        if is_node and not name.endswith((OFFSETS_SUFFIX, WEIGHT_SUFFIX)):
            attribute = _attribute(name.removeprefix(_POINT_DATA), found)
            found[attribute] = _of_nodes(batch, name, nodes, pos)
    count = len(nodes.ptr) - 1
    for name in batch:
        if name.startswith(_GLOBAL_DATA) and not name.endswith(OFFSETS_SUFFIX):
            attribute = _attribute(name.removeprefix(_GLOBAL_DATA), found)
            found[attribute] = _of_graphs(batch, name, nodes.ptr.device)
    increments = {name: nodes.ptr.new_zeros(count) for name in found}
    pairs = _edges(batch, edges, nodes, pos)
    if pairs is not None:
        found["edge_index"], increments["edge_index"] = pairs, nodes.ptr[:-1]
    made = Batch(**{name: one.values for name, one in found.items()})
    slices = {name: one.ptr for name, one in found.items()}
    if KEY in batch:
        made.key = list(batch[KEY])
        slices["key"] = torch.arange(count + 1)
        increments["key"] = None  # type: ignore[assignment]  # as of all that are no tensors
    made.ptr = nodes.ptr
    made.batch = torch.repeat_interleave(nodes.ptr.diff(), output_size=len(nodes.values))
    made._num_graphs, made._slice_dict, made._inc_dict = count, slices, increments
    return made


def _names(argument: str, given: Names) -> list[str]:
    names = [given] if isinstance(given, str) else list(given)
    if len(set(names)) != len(names):
        raise ConfigError(f"{argument} names an array twice: {', '.join(names)}")
    return names


def _joined(batch: Mapping[str, Any], name: str) -> _Joined:
    """Return an array of a batch, concatenated; a view.

    Raises:
        ConfigError: there is no such array, or it is in another form.
    """
    values = batch.get(name)
    if values is None:
        shown = ", ".join(map(repr, batch))
        raise ConfigError(f"the batch has no array {name!r}: it has {shown}")
    if not isinstance(values, torch.Tensor) or values.is_nested or name + LENGTHS_SUFFIX in batch:
        raise ConfigError(
            f"array {name!r} of the batch is neither stacked nor concatenated with offsets",
            hint="leave ragged_as of the loader at its default",
        )
    if name + OFFSETS_SUFFIX in batch:
        return _Joined(values, batch[name + OFFSETS_SUFFIX])
    if values.ndim < 2:
        raise ConfigError(f"array {name!r} has one value for each sample, and no rows")
    count, rows = values.shape[:2]
    ptr = torch.arange(count + 1, device=values.device) * rows
    return _Joined(values.flatten(0, 1), ptr)


def _of_nodes(batch: Mapping[str, Any], name: str, nodes: _Joined, pos: str) -> _Joined:
    """Return an array of the nodes.

    Raises:
        LoaderError: it has other rows than the positions.
    """
    found = _joined(batch, name)
    if not torch.equal(found.ptr, nodes.ptr):
        raise LoaderError(
            f"array {name!r} has {len(found.values)} rows in this batch, and {pos!r} has "
            f"{len(nodes.values)}, or they are of other samples: they are not of the same points",
            hint="select the same points of both",
        )
    return _Joined(found.values, nodes.ptr)


def _features(
    batch: Mapping[str, Any], names: Sequence[str], nodes: _Joined, pos: str, *, keeps_single: bool
) -> _Joined:
    """Return arrays of the nodes side by side: [nodes, features]; of one element type."""
    arrays = [_of_nodes(batch, name, nodes, pos).values for name in names]
    if len({array.dtype for array in arrays}) != 1:
        shown = ", ".join(f"{name}: {one.dtype}" for name, one in zip(names, arrays, strict=True))
        raise LoaderError(
            f"arrays that are joined have several element types: {shown}",
            hint="join those of one, or convert the batch's before",
        )
    if len(arrays) == 1 and (arrays[0].ndim == 2 or (keeps_single and arrays[0].ndim == 1)):
        return _Joined(arrays[0], nodes.ptr)
    flat = [array.reshape(len(array), -1) if array.numel() else _empty(array) for array in arrays]
    return _Joined(torch.cat(flat, 1), nodes.ptr)


def _empty(array: torch.Tensor) -> torch.Tensor:
    """Return an array without elements with its last dimensions made one."""
    features = 1
    for extent in array.shape[1:]:
        features *= extent
    return array.reshape(len(array), features)


def _of_graphs(batch: Mapping[str, Any], name: str, device: torch.device) -> _Joined:
    """Return an array of each graph: [B, ...], or, where it is ragged, its rows."""
    values = batch[name]
    if isinstance(values, torch.Tensor) and name + OFFSETS_SUFFIX not in batch:
        return _Joined(values, torch.arange(len(values) + 1, device=device))
    return _joined(batch, name)


def _attribute(name: str, found: Mapping[str, object]) -> str:
    """Return the name of an attribute.

    Raises:
        ConfigError: PyTorch Geometric gives it a meaning, or there is such an attribute.
    """
    if name in found or name in _TAKEN or "index" in name or "batch" in name:
        raise ConfigError(
            f"an array called {name!r} cannot be an attribute of a graph: there is one of that "
            "name, or PyTorch Geometric counts what has 'index' or 'batch' in its name upward "
            "from graph to graph",
            hint="leave the array out, name it in x= or y=, or rename it in the batch",
        )
    return name


def _edges(batch: Mapping[str, Any], edges: str | bool, nodes: _Joined, pos: str) -> _Joined | None:
    """Return int64[2, E] with its graphs side by side; None where there are to be no edges."""
    if edges is False or (edges is True and any(name not in batch for name in _CELLS)):
        return None
    weights = batch.get(pos + WEIGHT_SUFFIX)
    if weights is not None and bool((weights != 1).any()):
        raise LoaderError(
            f"{pos!r} are some of the points of each mesh, and edges are between all of them",
            hint="read whole points, or edges=False",
        )
    if edges is True:
        return _of_cells(batch, nodes)
    pairs = _joined(batch, str(edges))
    if pairs.values.ndim != 2 or pairs.values.shape[1] != 2:
        raise ConfigError(
            f"edges={edges!r} is [{', '.join(map(str, pairs.values.shape))}]: edges are pairs of "
            "points, [E, 2]"
        )
    ends = _numbered(pairs.values, pairs.ptr, nodes, str(edges))
    return _Joined(ends.T.contiguous(), pairs.ptr)


def _of_cells(batch: Mapping[str, Any], nodes: _Joined) -> _Joined:
    connectivity, bounds, types = (_joined(batch, name) for name in _CELLS)
    cells, ends = types.ptr.diff(), bounds.ptr.diff()
    if connectivity.values.ndim != 1 or not torch.equal(cells + 1, ends):
        raise LoaderError("cells/offsets has not one entry more than cells/types in each sample")
    corners = _numbered(connectivity.values, connectivity.ptr, nodes, _CELLS[0])
    is_last = torch.zeros(len(bounds.values), dtype=torch.bool, device=bounds.values.device)
    is_last[bounds.ptr[1:] - 1] = True
    is_first = is_last.roll(1)
    of_bounds = bounds.values.long()
    sizes = of_bounds[~is_first] - of_bounds[~is_last]
    of_cell = torch.repeat_interleave(cells)
    starts = of_bounds[~is_last] + connectivity.ptr[:-1][of_cell]
    is_whole = torch.equal(of_bounds[is_last], connectivity.ptr.diff())
    if not is_whole or bool((of_bounds[is_first] != 0).any()) or bool((sizes < 0).any()):
        raise LoaderError("cells/offsets does not part cells/connectivity into cells")
    found = edges_of_cells(corners, starts, sizes, types.values)
    return _Joined(found, torch.searchsorted(found[0].contiguous(), nodes.ptr))


def _numbered(numbers: torch.Tensor, ptr: torch.Tensor, nodes: _Joined, name: str) -> torch.Tensor:
    """Return point numbers of meshes as numbers of all nodes of the batch: int64, [n, ...].

    Raises:
        LoaderError: there are no such points.
    """
    of_sample = torch.repeat_interleave(ptr.diff())
    shape = (-1, *(1,) * (numbers.ndim - 1))
    counts = nodes.ptr.diff()[of_sample].reshape(shape)
    local = numbers.long()
    if bool(((local < 0) | (local >= counts)).any()):
        raise LoaderError(
            f"array {name!r} names points that its mesh does not have",
            hint="are all points of the mesh in the batch?",
        )
    return local + nodes.ptr[:-1][of_sample].reshape(shape)
