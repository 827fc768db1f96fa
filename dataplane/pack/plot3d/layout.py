"""Layouts of PLOT3D files, and those that fit a file by its sizes and record lengths.

A PLOT3D file names neither its byte order nor its word size, nor whether it is 2D or 3D, whether a
block count comes first, whether Fortran's record lengths stand around each record, or whether the
grid carries an `iblank` per point. Every combination is tried. One fits when it takes exactly the
bytes of the file and every record length, leading and trailing, is the one that it should be.
Whether the values agree as well is for `detect`. A few pages of a file are read here.
Thread-safe: no state.

Source: PLOT3D User's Manual, NASA TM-101067, chapter 8.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from dataplane.errors import FormatError

__all__ = [
    "FileBytes",
    "Layout",
    "Shape",
    "SolutionFit",
    "block_sizes",
    "fitting_grids",
    "fitting_solutions",
    "layouts",
    "record_length",
]

_MAX_BLOCKS = 100_000
_PADDED_TO_BYTES = 512
"""Some writers of solutions filled their last disk block with zeros."""

Shape: TypeAlias = tuple[int, ...]


class FileBytes:
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


@dataclass(frozen=True, slots=True)
class Layout:
    """The properties of a PLOT3D file that the file does not state."""

    byte_order: str
    float_bytes: int
    dimensions: int
    block_count_first: bool
    record_lengths: bool
    blanking: bool = False

    @property
    def around(self) -> int:
        """Bytes of one record length, or 0."""
        return 4 * self.record_lengths

    @property
    def floats(self) -> np.dtype[Any]:
        """Type of the stored floats."""
        return np.dtype(f"{self.byte_order}f{self.float_bytes}")

    @property
    def integers(self) -> np.dtype[Any]:
        """Type of the stored integers."""
        return np.dtype(f"{self.byte_order}i4")

    @property
    def variables(self) -> int:
        """Values per point of a solution: density, momentum, stagnation energy."""
        return self.dimensions + 2

    def header_bytes(self, blocks: int) -> int:
        """Bytes before the first block."""
        numbers = self.dimensions * blocks + self.block_count_first
        return 4 * numbers + 2 * self.around * (1 + self.block_count_first)

    def grid_record_bytes(self, points: int) -> int:
        """Bytes of one block's coordinates and `iblank`, without record lengths."""
        return points * (self.dimensions * self.float_bytes + 4 * self.blanking)

    def grid_bytes(self, shapes: tuple[Shape, ...]) -> int:
        """Bytes of a whole grid file."""
        records = sum(self.grid_record_bytes(math.prod(shape)) for shape in shapes)
        return self.header_bytes(len(shapes)) + records + 2 * self.around * len(shapes)

    def __str__(self) -> str:
        order = "little endian" if self.byte_order == "<" else "big endian"
        parts = [f"{self.dimensions}D", f"{8 * self.float_bytes} bit", order]
        parts += ["block count"] * self.block_count_first
        parts += ["record lengths"] * self.record_lengths
        parts += ["iblank"] * self.blanking
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class SolutionFit:
    """A layout that fits a solution, with the numbers of values per point and of zeros behind."""

    layout: Layout
    variables: int
    padding_bytes: int

    @property
    def is_plain(self) -> bool:
        """Whether it has the variables of PLOT3D and no others."""
        return self.variables == self.layout.variables


@functools.cache
def layouts(*, blanking: bool) -> tuple[Layout, ...]:
    """Every layout, those with record lengths first, 3D before 2D."""
    return tuple(
        Layout(order, size, dimensions, count, records, blank)
        for records, dimensions, order, size, count, blank in itertools.product(
            (True, False), (3, 2), "<>", (4, 8), (False, True), (False, True)
        )
        if blanking or not blank
    )


def block_sizes(content: FileBytes, layout: Layout) -> tuple[Shape, ...] | None:
    """Read the block sizes as ([z,]y,x), or None when this layout cannot mean them."""
    at, blocks = 0, 1
    if layout.block_count_first:
        record = _integers(content, at, 1, layout)
        if record is None or not 1 <= record[0] <= _MAX_BLOCKS:
            return None
        blocks = int(record[0])
        at += 4 + 2 * layout.around
    record = _integers(content, at, layout.dimensions * blocks, layout)
    # A block larger than the file cannot be in it; this also bounds every product below.
    if record is None or record.min() < 1 or record.max() > len(content):
        return None
    return tuple(tuple(map(int, size[::-1])) for size in record.reshape(-1, layout.dimensions))


def fitting_grids(content: FileBytes) -> Iterator[tuple[Layout, tuple[Shape, ...]]]:
    """Every layout of a grid, with its block sizes, that takes exactly the bytes of the file."""
    for layout in layouts(blanking=True):
        shapes = block_sizes(content, layout)
        if shapes is None or layout.grid_bytes(shapes) != len(content):
            continue
        at = layout.header_bytes(len(shapes))
        for shape in shapes:
            stop = _record_stop(content, at, layout.grid_record_bytes(math.prod(shape)), layout)
            if stop is None:
                break
            at = stop
        else:
            yield layout, shapes


def fitting_solutions(content: FileBytes, shapes: tuple[Shape, ...]) -> list[SolutionFit]:
    """Every layout that fits a solution of a grid with these blocks; without padding, if any is."""
    fits = []
    for layout in layouts(blanking=False):
        if layout.dimensions != len(shapes[0]) or block_sizes(content, layout) != shapes:
            continue
        fit = (_framed if layout.record_lengths else _unframed)(content, layout, shapes)
        if fit is not None:
            fits.append(fit)
    return [fit for fit in fits if not fit.padding_bytes] or fits


def record_length(content: FileBytes, at: int, layout: Layout) -> int | None:
    """Read the record length at a place, or None beyond the end."""
    if at + 4 > len(content):
        return None
    return int(content[at : at + 4].view(layout.integers)[0])


def _record_stop(content: FileBytes, at: int, size_bytes: int, layout: Layout) -> int | None:
    """Return the end of a record whose lengths are both `size_bytes`, or None."""
    stop = at + size_bytes + layout.around
    if stop + layout.around > len(content):
        return None
    if layout.record_lengths and any(
        record_length(content, place, layout) != size_bytes for place in (at, stop)
    ):
        return None
    return stop + layout.around


def _integers(
    content: FileBytes, at: int, count: int, layout: Layout
) -> npt.NDArray[np.int32] | None:
    """Read a record of `count` integers, or None where it does not fit."""
    if _record_stop(content, at, 4 * count, layout) is None:
        return None
    start = at + layout.around
    return content[start : start + 4 * count].view(layout.integers).astype(np.int32)


def _framed(content: FileBytes, layout: Layout, shapes: tuple[Shape, ...]) -> SolutionFit | None:
    """Walk through the records of a solution: conditions and variables of each block."""
    at = layout.header_bytes(len(shapes))
    variables = None
    for shape in shapes:
        stop = _record_stop(content, at, 4 * layout.float_bytes, layout)
        length = None if stop is None else record_length(content, stop, layout)
        value_bytes = math.prod(shape) * layout.float_bytes
        if stop is None or length is None or length < 1 or length % value_bytes:
            return None
        if variables not in {None, length // value_bytes}:
            return None
        variables = length // value_bytes
        after = _record_stop(content, stop, length, layout)
        if after is None:
            return None
        at = after
    padding = _padding(content, at)
    return None if padding is None or variables is None else SolutionFit(layout, variables, padding)


def _unframed(content: FileBytes, layout: Layout, shapes: tuple[Shape, ...]) -> SolutionFit | None:
    conditions = 4 * layout.float_bytes * len(shapes)
    value_bytes = sum(map(math.prod, shapes)) * layout.float_bytes
    before = layout.header_bytes(len(shapes)) + conditions
    variables, rest = divmod(len(content) - before, value_bytes)
    if variables >= 1 and rest == 0:
        return SolutionFit(layout, variables, 0)
    padding = _padding(content, before + layout.variables * value_bytes)
    return None if padding is None else SolutionFit(layout, layout.variables, padding)


def _padding(content: FileBytes, stop: int) -> int | None:
    """Return the number of zeros that fill the last disk block, or None if others follow."""
    tail = len(content) - stop
    if tail == 0:
        return 0
    whole = 0 < tail < _PADDED_TO_BYTES and len(content) % _PADDED_TO_BYTES == 0
    return tail if whole and not content[stop:].any() else None
