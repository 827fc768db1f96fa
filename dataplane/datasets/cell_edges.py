"""Edges of the cells of meshes: pairs of points, by the type of each cell. Pure functions.

Source: VTK file formats, "Linear cell types in VTK", for the numbers of types and the order of the
corners of each.
"""

from __future__ import annotations

import torch

from dataplane.errors import LoaderError

__all__ = ["edges_of_cells"]

_RING = ((0, 1), (1, 2), (2, 3), (3, 0))
_OF_PIXEL = ((0, 1), (1, 3), (3, 2), (2, 0))
_UP = ((0, 4), (1, 5), (2, 6), (3, 7))
_NONE: tuple[tuple[int, int], ...] = ()
_FIXED: dict[int, tuple[int, tuple[tuple[int, int], ...]]] = {
    1: (1, _NONE),  # vertex
    3: (2, ((0, 1),)),  # line
    5: (3, ((0, 1), (1, 2), (2, 0))),  # triangle
    8: (4, _OF_PIXEL),
    9: (4, _RING),  # quadrilateral
    10: (4, ((0, 1), (1, 2), (2, 0), (0, 3), (1, 3), (2, 3))),  # tetrahedron
    11: (8, (*_OF_PIXEL, *((a + 4, b + 4) for a, b in _OF_PIXEL), *_UP)),  # voxel
    12: (8, (*_RING, *((a + 4, b + 4) for a, b in _RING), *_UP)),  # hexahedron
    13: (6, (*((0, 1), (1, 2), (2, 0)), *((3, 4), (4, 5), (5, 3)), *((0, 3), (1, 4), (2, 5)))),
    14: (5, (*_RING, (0, 4), (1, 4), (2, 4), (3, 4))),  # pyramid
}
"""Of each type with a fixed number of corners: that number, and which corners an edge joins."""

_POLY_VERTEX, _POLY_LINE, _STRIP, _POLYGON = 2, 4, 6, 7


def edges_of_cells(
    corners: torch.Tensor, starts: torch.Tensor, sizes: torch.Tensor, types: torch.Tensor
) -> torch.Tensor:
    """Return the edges of cells, each once in each direction, in ascending order.

    Args:
        corners: int64[n], point numbers of the corners, cell after cell.
        starts: int64[cells], where the corners of each cell begin.
        sizes: int64[cells], how many there are.
        types: VTK's number of the type of each cell, [cells].

    Returns:
        int64[2, edges]. A corner that a cell names twice makes no edge with itself.

    Raises:
        LoaderError: a type has no edges that are known here, or a cell has another number of
            corners than its type.
    """
    pairs = [corners.new_empty((0, 2))]
    for kind in torch.unique(types).tolist():
        chosen = types == kind
        pairs.append(_of_type(kind, corners, starts[chosen], sizes[chosen]))
    joined = torch.cat(pairs)
    joined = joined[joined[:, 0] != joined[:, 1]]
    both = torch.cat([joined, joined.flip(1)])
    edges: torch.Tensor = torch.unique(both, dim=0)
    return edges.T.contiguous()


def _of_type(
    kind: int, corners: torch.Tensor, starts: torch.Tensor, sizes: torch.Tensor
) -> torch.Tensor:
    """Return the edges of cells of one type: [edges, 2]."""
    if kind in _FIXED:
        count, table = _FIXED[kind]
        if not bool((sizes == count).all()):
            raise LoaderError(
                f"a cell of VTK's type {kind} has {count} corners, and one here has "
                f"{int(sizes[sizes != count][0])}"
            )
        joins = torch.tensor(table, dtype=torch.int64, device=corners.device).reshape(-1, 2)
        pairs: torch.Tensor = corners[starts[:, None, None] + joins].reshape(-1, 2)
        return pairs
    if kind == _POLY_VERTEX:
        return corners.new_empty((0, 2))
    if kind not in (_POLY_LINE, _STRIP, _POLYGON):
        raise LoaderError(
            f"cells of VTK's type {kind} have no edges that are known here: these are of linear "
            "cells, and not of polyhedra",
            hint="pack edges of your own, int64 [E, 2], and name them: edges=…",
        )
    found = []
    for step in (1, 2) if kind == _STRIP else (1,):
        firsts, places = _each(starts, sizes, 0 if kind == _POLYGON else step)
        nexts = places + step
        if kind == _POLYGON:
            cell_starts, cell_sizes = firsts
            nexts = cell_starts + (nexts - cell_starts) % cell_sizes
        found.append(torch.stack([corners[places], corners[nexts]], 1))
    return torch.cat(found)


def _each(
    starts: torch.Tensor, sizes: torch.Tensor, less: int
) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return the places of the corners of cells, but for the last `less` of each.

    Returns:
        Start and size of the cell of each corner, and the place of the corner.
    """
    counts = (sizes - less).clamp(min=0)
    of_cell = torch.repeat_interleave(counts)
    before = counts.cumsum(0) - counts
    within = torch.arange(len(of_cell), device=starts.device) - before[of_cell]
    return (starts[of_cell], sizes[of_cell]), starts[of_cell] + within
