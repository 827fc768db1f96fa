"""Pieces of a VTK XML file: points and cells of each, and the values that its arrays must hold.

A piece of a mesh gives its numbers of points and cells; a piece of a grid gives an extent, and the
pieces of a grid must cover the whole extent, since VTK allocates the whole and fills only the parts
it gets.
Pure functions, no state.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from dataplane.errors import FormatError
from dataplane.pack.vtk.attributes import parse_count

__all__ = [
    "CELL_LISTS",
    "MAX_COMPRESSION",
    "Extent",
    "Geometry",
    "PieceSize",
    "check_cover",
    "clipped",
    "geometry_of",
    "is_empty",
    "parse_extent",
    "parse_geometry",
    "piece_size",
]

Extent: TypeAlias = tuple[int, int, int, int, int, int]

CELL_LISTS = {
    "UnstructuredGrid": {"Cells": "NumberOfCells"},
    "PolyData": {
        "Verts": "NumberOfVerts",
        "Lines": "NumberOfLines",
        "Polys": "NumberOfPolys",
        "Strips": "NumberOfStrips",
    },
}
"""Per kind of mesh: the groups that hold cells in the order of cell data, and their counts."""
MAX_COMPRESSION = 1100
"""Decoded bytes that one stored byte can stand for: deflate reaches 1032, LZ4 and LZMA less on
VTK's blocks of at most some megabytes."""
_INTEGER = re.compile(r"[+-]?\d{1,18}")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


_GEOMETRY = {"Origin": "0 0 0", "Spacing": "1 1 1", "Direction": "1 0 0 0 1 0 0 0 1"}


@dataclass(frozen=True, slots=True)
class Geometry:
    """Place of image data: point (0, 0, 0), distances, and the axes row by row."""

    origin: tuple[float, ...]
    spacing: tuple[float, ...]
    direction: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class PieceSize:
    """Points and cells of a piece; cells per list of a mesh, or points per axis of a grid."""

    points: int
    cells: int
    lists: Mapping[str, int]
    axes: tuple[int, ...] = ()


def piece_size(kind: str, attributes: Mapping[str, str], file_bytes: int, label: str) -> PieceSize:
    """Return the size of a piece by its attributes.

    Raises:
        FormatError: they are missing, no numbers, or more than the file could hold.
    """
    if kind in CELL_LISTS:
        points = _count(attributes, "NumberOfPoints", label)
        lists = {
            group: _count(attributes, count, label) for group, count in CELL_LISTS[kind].items()
        }
        size = PieceSize(points, sum(lists.values()), lists)
    else:
        extent = parse_extent(attributes.get("Extent", ""), label)
        axes = tuple(max(0, high - low + 1) for low, high in _bounds(extent))
        nx, ny, nz = axes
        cells = 0
        if nx and ny and nz:
            cells = max(1, nx - 1) * max(1, ny - 1) * max(1, nz - 1)
        size = PieceSize(nx * ny * nz, cells, {}, axes)
    for declared in (size.points, size.cells):
        if declared > file_bytes * MAX_COMPRESSION:
            raise FormatError(
                f"{label}: its header declares {declared} elements, which cannot be in "
                f"a file of {file_bytes} bytes"
            )
    return size


def _count(attributes: Mapping[str, str], name: str, label: str) -> int:
    text = attributes.get(name, "")
    if not text and name not in {"NumberOfPoints", "NumberOfCells"}:
        return 0
    count = parse_count(text)
    if count is None:
        raise FormatError(f"{label}: its header declares {name} {text[:40]!r}, which is no count")
    return count


def parse_extent(text: str, label: str) -> Extent:
    """Parse the six numbers of an extent.

    Raises:
        FormatError: they are no six numbers.
    """
    words = text.split()
    if len(words) != 6 or not all(map(_INTEGER.fullmatch, words)):
        raise FormatError(f"{label}: it has the extent {text[:80]!r}, expected six numbers")
    x0, x1, y0, y1, z0, z1 = map(int, words)
    return x0, x1, y0, y1, z0, z1


def parse_geometry(attributes: Mapping[str, str], label: str) -> Geometry:
    """Parse origin, spacing and direction of image data, which VTK reads as far as it can.

    Raises:
        FormatError: one of them is not as many finite numbers as it needs.
    """
    found = {}
    for name, default in _GEOMETRY.items():
        text = attributes.get(name, default)
        words = text.split()
        values = tuple(float(word) for word in words if _NUMBER.fullmatch(word))
        if len(values) != len(words) or len(words) != len(default.split()):
            raise FormatError(
                f"{label}: its {name} is {text[:80]!r}, expected {len(default.split())} numbers"
            )
        if not all(map(math.isfinite, values)):
            raise FormatError(f"{label}: its {name} {text[:80]!r} is too large")
        found[name] = values
    return geometry_of(found)


def geometry_of(stated: Mapping[str, tuple[float, ...]]) -> Geometry:
    """Place of image data, as far as it is stated; the rest is as VTK has it."""
    return Geometry(
        *(
            stated.get(name, tuple(map(float, default.split())))
            for name, default in _GEOMETRY.items()
        )
    )


def clipped(extent: Extent, to: Extent) -> Extent:
    """Part of an extent that lies in another."""
    x, y, z = (
        (max(low, first), min(high, last))
        for (low, high), (first, last) in zip(_bounds(extent), _bounds(to), strict=True)
    )
    return (*x, *y, *z)


def is_empty(extent: Extent) -> bool:
    """Whether there is no point in an extent."""
    return any(low > high for low, high in _bounds(extent))


def _bounds(extent: Extent) -> list[tuple[int, int]]:
    return list(zip(extent[::2], extent[1::2], strict=True))


def check_cover(whole: Extent, pieces: Sequence[Extent], label: str, *, cells: bool = True) -> None:
    """Check that pieces cover every cell of the whole extent, and lie in it. They may overlap.

    The bounds of the pieces cut each axis into intervals; within a box of such intervals, either
    all cells are covered by a piece or none. So one flag per box is enough, a layer at a time.
    Where values lie at points only, pieces may be next to each other: then `cells` is false, and
    every point must be covered.

    Raises:
        FormatError: they do not.
    """
    filled = [piece for piece in pieces if not is_empty(piece)]
    spans: list[np.ndarray] = []
    for axis, (low, high) in enumerate(_bounds(whole)):
        span = np.array([_bounds(piece)[axis] for piece in filled], np.int64).reshape(-1, 2)
        if np.any(span[:, 0] < low) or np.any(span[:, 1] > high):
            raise FormatError(f"{label}: a piece lies outside the whole extent {_shown(whole)}")
        spans.append(_half_open(span, flat=high == low or not cells))
    (x_edges, x_spans), (y_edges, y_spans), (z_edges, z_spans) = (
        _indexed(span, *bounds)
        for span, bounds in zip(spans, _half_open_bounds(whole, cells), strict=True)
    )
    for layer in range(len(z_edges) - 1):
        covered = np.zeros((len(y_edges) - 1, len(x_edges) - 1), bool)
        for number in np.flatnonzero((z_spans[:, 0] <= layer) & (layer < z_spans[:, 1])):
            covered[slice(*y_spans[number]), slice(*x_spans[number])] = True
        if not covered.all():
            shown = "; ".join(map(_shown, filled[:3])) + ("; …" if len(filled) > 3 else "")
            raise FormatError(
                f"{label}: its {len(filled)} pieces do not cover its extent: "
                f"expected {_shown(whole)}, got {shown or 'nothing'}"
            )


def _half_open_bounds(whole: Extent, cells: bool) -> list[tuple[int, int]]:
    return [(low, high if cells and high > low else high + 1) for low, high in _bounds(whole)]


def _half_open(span: np.ndarray, *, flat: bool) -> np.ndarray:
    """Cells of each piece along an axis (a flat one has one layer of them), or points."""
    return span + np.array([0, 1]) if flat else span


def _indexed(span: np.ndarray, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    edges = np.unique(np.concatenate([span.reshape(-1), [low, high]]))
    return edges, np.searchsorted(edges, span)


def _shown(extent: Extent) -> str:
    return " ".join(map(str, extent))
