"""PLOT3D grids and solutions: a pair of files without names, types or a magic number.

A grid file holds the size of each block and its x, y(, z); a solution file holds, per block, four
flow conditions and density, the components of momentum, and stagnation energy. `detect` finds the
one layout of a file among many, or refuses it; `pairs` finds the grid of a solution. Binary files
of whole blocks are read, 2D and 3D; text and function files are not.

A file is read piece by piece, and nothing is allocated before the sizes fit. Thread-safe: no
state.

Source: PLOT3D User's Manual, NASA TM-101067, chapter 8; the names are those of VTK's reader.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.pack.plot3d.detect import detect_grid, detect_solution
from dataplane.pack.plot3d.layout import FileBytes, Layout, Shape
from dataplane.pack.source import SourceFile, describe_source
from dataplane.shards import SourceArray, SourceSample

__all__ = ["convert_plot3d"]

_CONDITIONS = ("mach", "alpha", "reynolds", "time")
_AXES = ("z", "y", "x")


def convert_plot3d(source: SourceFile) -> Iterator[SourceSample]:
    """Convert a grid and, where it has one, its solution: one sample per block.

    The grid is `source.path`, the solution its companion.
    """
    with ExitStack() as files:
        yield from _convert(source, files)


def _convert(source: SourceFile, files: ExitStack) -> Iterator[SourceSample]:
    label = source.label
    grid = FileBytes(files.enter_context(source.path.open("rb", buffering=0)), label)
    layout, shapes = detect_grid(grid, label)
    results: Iterator[tuple[dict[str, float], dict[str, SourceArray]]] | None = None
    if source.companions:
        where = f"{label}: {source.companions[0].name}"
        opened = files.enter_context(source.companions[0].open("rb", buffering=0))
        solution = FileBytes(opened, where)
        results = _solution_blocks(solution, detect_solution(solution, shapes, where), shapes)
    described = describe_source(source)
    for number, block in enumerate(_grid_blocks(grid, layout, shapes)):
        arrays = dict(block)
        attributes: dict[str, Any] = {"dataset": "StructuredGrid", **described}
        if results is not None:
            conditions, fields = next(results)
            arrays |= fields
            attributes["plot3d"] = conditions
            if "timestep" in attributes:
                attributes["time"] = conditions["time"]
        if len(shapes) > 1:
            attributes |= {"block": number, "blocks": len(shapes)}
        key = source.key if len(shapes) == 1 else f"{source.stem_key or source.key}-{number:04d}"
        yield SourceSample(key, arrays, attributes)


def _grid_blocks(
    content: FileBytes, layout: Layout, shapes: tuple[Shape, ...]
) -> Iterator[dict[str, SourceArray]]:
    at = layout.header_bytes(len(shapes))
    for shape in shapes:
        at += layout.around
        points, at = _components(content, at, shape, layout.dimensions, layout)
        arrays = {"points": SourceArray(points, (*_axes(shape), "c"))}
        if layout.blanking:
            count = math.prod(shape)
            blank = content[at : at + 4 * count].view(layout.integers)
            arrays["fields/IBlank"] = _field("IBlank", blank.reshape(shape).astype("<i4"), shape)
            at += 4 * count
        at += layout.around
        yield arrays


def _solution_blocks(
    content: FileBytes, layout: Layout, shapes: tuple[Shape, ...]
) -> Iterator[tuple[dict[str, float], dict[str, SourceArray]]]:
    at = layout.header_bytes(len(shapes))
    for shape in shapes:
        at += layout.around
        numbers = content[at : at + 4 * layout.float_bytes].view(layout.floats)
        conditions = dict(zip(_CONDITIONS, map(float, numbers), strict=True))
        at += 4 * layout.float_bytes + 2 * layout.around
        density, at = _components(content, at, shape, 1, layout)
        momentum, at = _components(content, at, shape, layout.dimensions, layout)
        energy, at = _components(content, at, shape, 1, layout)
        at += layout.around
        yield (
            conditions,
            {
                "fields/Density": _field("Density", density[..., 0], shape),
                "fields/Momentum": _field("Momentum", momentum, shape),
                "fields/StagnationEnergy": _field("StagnationEnergy", energy[..., 0], shape),
            },
        )


def _components(
    content: FileBytes, at: int, shape: Shape, count: int, layout: Layout
) -> tuple[npt.NDArray[Any], int]:
    """Read `count` whole components one after the other into ([z,]y,x,count), little endian."""
    stop = at + count * math.prod(shape) * layout.float_bytes
    values = np.empty((*shape, count), layout.floats.newbyteorder("<"))
    component_bytes = (stop - at) // count
    for component in range(count):
        start = at + component * component_bytes
        stored = content[start : start + component_bytes]
        values[..., component] = stored.view(layout.floats).reshape(shape)
    return values, stop


def _axes(shape: Shape) -> tuple[str, ...]:
    return _AXES[-len(shape) :]


def _field(name: str, values: npt.NDArray[Any], shape: Shape) -> SourceArray:
    names = (*_axes(shape), "c")[: values.ndim]
    return SourceArray(values, names, None, {"name": name, "association": "point"})
