"""PLOT3D grids and solutions: a pair of files without names, types or a magic number.

A grid file holds the size of each block and its x, y, z; a solution file holds, per block, four
flow conditions and density, three components of momentum, and stagnation energy. What they do not
say has to be found out: byte order, 32 or 64 bits, whether a block count comes first, whether
Fortran's record lengths stand around each record, whether the grid carries an `iblank` per point.
Every combination is tried; the one whose size is that of the file is taken, an exact fit before
one with a short tail (some writers pad their files), and the record lengths must match as well.
Only 3D binary files are read; text, 2D and function files are not.

A file is read piece by piece, and nothing is allocated before the sizes fit. Thread-safe: no
state.

Source: PLOT3D User's Manual, NASA TM-101067, chapter 8; the names are those of VTK's reader.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.errors import FormatError
from dataplane.pack.source import SourceFile, describe_source
from dataplane.shards import SourceArray, SourceSample

__all__ = ["convert_plot3d", "pair_name"]

_MAX_BLOCKS = 100_000
_MAX_TAIL_BYTES = 4096
_CONDITIONS = ("mach", "alpha", "reynolds", "time")
_AXES = ("z", "y", "x")
_GRID_ENDINGS = ("xyz", "grid")
_SOLUTION_ENDINGS = ("q",)
_SUFFIXES = (".bin", ".xyz", ".q", ".p3d", ".g", ".x")

Shape = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class _Layout:
    """What a PLOT3D file does not say about itself."""

    byte_order: str
    float_bytes: int
    block_count_first: bool
    record_lengths: bool
    blanking: bool


def pair_name(path: Path) -> tuple[str, str] | None:
    """Say which pair a file belongs to by its name, and whether it is its `grid` or `solution`.

    Example:
        >>> pair_name(Path("bluntfinxyz.bin")), pair_name(Path("case1.q"))
        (('bluntfin', 'grid'), ('case1', 'solution'))
        >>> pair_name(Path("weights.bin"))
    """
    if path.suffix.lower() not in _SUFFIXES:
        return None
    whole = path.name[: -len(path.suffix)]
    suffix = path.suffix.lower().removeprefix(".")
    if suffix in {"xyz", "g", "x", "p3d"}:
        return whole, "grid"
    if suffix == "q":
        return whole, "solution"
    for endings, role in ((_GRID_ENDINGS, "grid"), (_SOLUTION_ENDINGS, "solution")):
        for ending in endings:
            if whole.lower().endswith(ending) and len(whole) > len(ending):
                return whole[: -len(ending)].rstrip("-_. "), role
    return None


def convert_plot3d(source: SourceFile) -> Iterator[SourceSample]:
    """Convert a grid and, where it has one, its solution: one sample per block.

    The grid is `source.path`, the solution its companion.
    """
    with ExitStack() as files:
        yield from _convert(source, files)


def _convert(source: SourceFile, files: ExitStack) -> Iterator[SourceSample]:
    label = source.label
    grid = _Content(files.enter_context(source.path.open("rb", buffering=0)), label)
    layout, shapes = _detect_grid(grid, label)
    solution = None
    if source.companions:
        where = f"{label}: {source.companions[0].name}"
        opened = files.enter_context(source.companions[0].open("rb", buffering=0))
        solution = _Content(opened, where)
        solution_layout = _detect_solution(solution, shapes, layout, where)
        results = _solution_blocks(solution, solution_layout, shapes)
    described = describe_source(source)
    for number, (shape, block) in enumerate(
        zip(shapes, _grid_blocks(grid, layout, shapes), strict=True)
    ):
        arrays = dict(block)
        attributes: dict[str, Any] = {"dataset": "StructuredGrid", **described}
        if solution is not None:
            conditions, fields = next(results)
            arrays |= fields
            attributes["plot3d"] = conditions
        if len(shapes) > 1:
            attributes |= {"block": number, "blocks": len(shapes)}
        key = source.key if len(shapes) == 1 else f"{source.key}-{number:04d}"
        assert arrays["points"].values.shape[:3] == shape
        yield SourceSample(key, arrays, attributes)


class _Content:
    """The bytes of an open file, read as they are asked for.

    Not mapped: a mapped file that is cut meanwhile ends the process (SIGBUS).
    """

    def __init__(self, file: FileIO, label: str) -> None:
        self._label = label
        self._handle = file.fileno()
        self._size_bytes = os.fstat(self._handle).st_size
        if self._size_bytes < 16:
            raise FormatError(f"{label}: {self._size_bytes} bytes are no PLOT3D file")

    def __len__(self) -> int:
        return self._size_bytes

    def __getitem__(self, part: slice) -> npt.NDArray[np.uint8]:
        start, stop, _ = part.indices(self._size_bytes)
        content = np.empty(max(0, stop - start), np.uint8)
        read_bytes = 0
        while read_bytes < len(content):  # a read gives at most 2 GiB
            count = os.preadv(self._handle, [content[read_bytes:].data], start + read_bytes)
            if count == 0:
                raise FormatError(
                    f"{self._label}: it was cut while it was read: {self._size_bytes} bytes "
                    f"at first, now {start + read_bytes}"
                )
            read_bytes += count
        return content


def _layouts(*, blanking: bool) -> Iterator[_Layout]:
    for order, size, count, records, blank in itertools.product(
        "<>", (4, 8), (False, True), (False, True), (False, True) if blanking else (False,)
    ):
        yield _Layout(order, size, count, records, blank)


def _detect_grid(content: _Content, label: str) -> tuple[_Layout, tuple[Shape, ...]]:
    best: tuple[int, _Layout, tuple[Shape, ...]] | None = None
    for layout in _layouts(blanking=True):
        shapes = _shapes(content, layout)
        if shapes is None:
            continue
        tail = len(content) - _header_bytes(layout, len(shapes))
        for shape in shapes:
            points = int(np.prod(shape, dtype=object))
            record = points * (3 * layout.float_bytes + 4 * layout.blanking)
            tail -= record + 8 * layout.record_lengths
        if 0 <= tail <= _MAX_TAIL_BYTES and (best is None or tail < best[0]):
            best = tail, layout, shapes
    if best is None:
        raise FormatError(
            f"{label}: no layout of a 3D binary PLOT3D grid fits its {len(content)} bytes",
            hint="text, 2D and function files are not supported",
        )
    return best[1], best[2]


def _detect_solution(
    content: _Content, shapes: tuple[Shape, ...], grid: _Layout, label: str
) -> _Layout:
    """Find the layout whose block sizes are those of the grid; the grid's own wins a tie."""
    best: tuple[int, bool, _Layout] | None = None
    for layout in _layouts(blanking=False):
        if _shapes(content, layout) != shapes:
            continue
        tail = len(content) - _header_bytes(layout, len(shapes))
        for shape in shapes:
            points = int(np.prod(shape, dtype=object))
            tail -= (4 + 5 * points) * layout.float_bytes + 16 * layout.record_lengths
        other = (layout.byte_order, layout.float_bytes) != (grid.byte_order, grid.float_bytes)
        if 0 <= tail <= _MAX_TAIL_BYTES and (best is None or (tail, other) < best[:2]):
            best = tail, other, layout
    if best is None:
        sizes = ", ".join("×".join(map(str, shape[::-1])) for shape in shapes[:4])
        raise FormatError(
            f"{label}: no layout of a PLOT3D solution fits its {len(content)} bytes "
            f"and the grid's size {sizes}"
        )
    return best[2]


def _header_bytes(layout: _Layout, blocks: int) -> int:
    numbers = 3 * blocks + layout.block_count_first
    records = 1 + layout.block_count_first
    return 4 * numbers + 8 * records * layout.record_lengths


def _shapes(content: _Content, layout: _Layout) -> tuple[Shape, ...] | None:
    """Read the block sizes as [z,y,x], or None when they cannot be meant by this layout."""
    at = 0
    blocks = 1
    if layout.block_count_first:
        record = _integers(content, at, 1, layout)
        if record is None or not 1 <= record[0] <= _MAX_BLOCKS:
            return None
        blocks = int(record[0])
        at += 4 + 8 * layout.record_lengths
    record = _integers(content, at, 3 * blocks, layout)
    # A block larger than the file cannot be in it; this also bounds every product below.
    if record is None or record.min() < 1 or record.max() > len(content):
        return None
    return tuple((int(z), int(y), int(x)) for x, y, z in record.reshape(-1, 3))


def _integers(
    content: _Content, at: int, count: int, layout: _Layout
) -> npt.NDArray[np.int32] | None:
    """Read `count` integers, their record lengths checked, or None where they do not fit."""
    around = 4 * layout.record_lengths
    stop = at + around + 4 * count
    if stop + around > len(content):
        return None
    dtype = np.dtype(f"{layout.byte_order}i4")
    if layout.record_lengths:
        before, after = content[at : at + 4], content[stop : stop + 4]
        if any(int(length.view(dtype)[0]) != 4 * count for length in (before, after)):
            return None
    return content[at + around : stop].view(dtype).astype(np.int32)


def _grid_blocks(
    content: _Content, layout: _Layout, shapes: tuple[Shape, ...]
) -> Iterator[dict[str, SourceArray]]:
    at = _header_bytes(layout, len(shapes))
    for shape in shapes:
        at += 4 * layout.record_lengths
        points, at = _components(content, at, shape, 3, layout)
        arrays = {"points": SourceArray(points, (*_AXES, "c"))}
        if layout.blanking:
            count = int(np.prod(shape))
            blank = content[at : at + 4 * count].view(f"{layout.byte_order}i4")
            arrays["fields/IBlank"] = _field("IBlank", blank.reshape(shape).astype("<i4"))
            at += 4 * count
        at += 4 * layout.record_lengths
        yield arrays


def _solution_blocks(
    content: _Content, layout: _Layout, shapes: tuple[Shape, ...]
) -> Iterator[tuple[dict[str, float], dict[str, SourceArray]]]:
    at = _header_bytes(layout, len(shapes))
    around = 4 * layout.record_lengths
    floats = np.dtype(f"{layout.byte_order}f{layout.float_bytes}")
    for shape in shapes:
        at += around
        numbers = content[at : at + 4 * floats.itemsize].view(floats)
        conditions = dict(zip(_CONDITIONS, map(float, numbers), strict=True))
        at += 4 * floats.itemsize + 2 * around
        density, at = _components(content, at, shape, 1, layout)
        momentum, at = _components(content, at, shape, 3, layout)
        energy, at = _components(content, at, shape, 1, layout)
        at += around
        yield (
            conditions,
            {
                "fields/Density": _field("Density", density[..., 0]),
                "fields/Momentum": _field("Momentum", momentum),
                "fields/StagnationEnergy": _field("StagnationEnergy", energy[..., 0]),
            },
        )


def _components(
    content: _Content, at: int, shape: Shape, count: int, layout: _Layout
) -> tuple[npt.NDArray[Any], int]:
    """Read `count` whole components one after the other into [z,y,x,count], little endian."""
    points = int(np.prod(shape))
    stop = at + count * points * layout.float_bytes
    floats = np.dtype(f"{layout.byte_order}f{layout.float_bytes}")
    values = np.empty((*shape, count), floats.newbyteorder("<"))
    for component in range(count):
        start = at + component * points * layout.float_bytes
        stored = content[start : start + points * layout.float_bytes]
        values[..., component] = stored.view(floats).reshape(shape)
    return values, stop


def _field(name: str, values: npt.NDArray[Any]) -> SourceArray:
    names = (*_AXES, "c")[: values.ndim]
    return SourceArray(values, names, None, {"name": name, "association": "point"})
