"""Detection of the one layout that a PLOT3D file has, by the layouts that fit and by its values.

Record lengths prove a layout, with coordinates that are finite and `iblank` that are small. Without
record lengths coordinates have to be below 1e15 and not denormal (as integers read as floats are).
A file that was cut can then have exactly the size of another layout, so two more things are asked:
no block size stands where the first coordinate belongs, and 32-bit floats are not the halves of
64-bit ones (of two neighbouring words one is then the leading half, near 1, and the other anything
or zero). No layout, or more than one, is refused.

One cut remains that nothing can tell: a single block without record lengths that ends exactly where
its `iblank` begins is the same grid without `iblank`. Values are looked at in pieces of some
megabytes. Thread-safe: no state.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.errors import FormatError
from dataplane.pack.plot3d.layout import (
    FileBytes,
    Layout,
    Shape,
    block_sizes,
    fitting_grids,
    fitting_solutions,
    layouts,
    record_length,
)

__all__ = ["detect_grid", "detect_solution", "sizes_text"]

_LARGEST_FLOAT = 1e15
_LARGEST_IBLANK = 1_000_000
"""Wall marks and numbers of neighbouring blocks are far below, bits of a float far above."""
_LARGEST_SIZE = 1 << 16
"""Largest number that is taken for a block size where the first coordinate belongs."""
_CHUNK_VALUES = 1 << 20
_UNLIKE_BITS = 16
"""Neighbouring values of a field rarely differ by more powers of two than this."""
_MOST_SHOWN = 4


def detect_grid(content: FileBytes, label: str) -> tuple[Layout, tuple[Shape, ...]]:
    """Find the one layout of a grid, and its block sizes.

    Raises:
        FormatError: none is proven, or more than one.
    """
    fitting = [*fitting_grids(content)]
    framed = [found for found in fitting if found[0].record_lengths]
    sound, doubts = [], []
    for layout, shapes in framed or fitting:
        doubt = _grid_doubt(content, layout, shapes)
        if doubt is None:
            sound.append((layout, shapes))
        else:
            doubts.append(f"it would be {sizes_text(shapes)} points ({layout}), but {doubt}")
    if len(sound) == 1:
        return sound[0]
    if sound:
        names = " and ".join(f"{sizes_text(shapes)} ({layout})" for layout, shapes in sound)
        raise FormatError(f"{label}: its {len(content)} bytes fit more than one grid: {names}")
    reason = doubts[0] if doubts else _nearest_grid(content)
    raise FormatError(
        f"{label}: no layout of a binary PLOT3D grid fits its {len(content)} bytes{reason and ': '}"
        f"{reason}",
        hint="copy it again if it was cut; text and function files are not supported",
    )


def detect_solution(content: FileBytes, shapes: tuple[Shape, ...], label: str) -> Layout:
    """Find the one layout of a solution whose block sizes are those of its grid.

    Raises:
        FormatError: none is proven, or more than one.
    """
    fitting = fitting_solutions(content, shapes)
    plain = [fit.layout for fit in fitting if fit.is_plain]
    sound = [layout for layout in plain if layout.record_lengths]
    doubts = []
    for layout in () if sound else plain:
        doubt = _solution_doubt(content, layout, shapes)
        if doubt is None:
            sound.append(layout)
        else:
            doubts.append(f"it would be {layout}, but {doubt}")
    if len(sound) == 1:
        return sound[0]
    if sound:
        names = " and ".join(f"({layout})" for layout in sound)
        raise FormatError(f"{label}: its {len(content)} bytes fit more than one solution: {names}")
    sizes = sizes_text(shapes)
    for fit in fitting:
        if not fit.is_plain:
            raise FormatError(
                f"{label}: it has {fit.variables} variables per point of the grid's {sizes}, "
                f"expected {fit.layout.variables} (density, momentum, stagnation energy)",
                hint="write a plain PLOT3D solution, or convert it to a VTK file",
            )
    reason = doubts[0] if doubts else _overflow_header(content, shapes)
    raise FormatError(
        f"{label}: no layout of a PLOT3D solution fits its {len(content)} bytes "
        f"and the grid's size {sizes}{reason and ': '}{reason}"
    )


def sizes_text(shapes: tuple[Shape, ...]) -> str:
    """Block sizes as messages show them: `20×10, 5×6`."""
    shown = ["×".join(map(str, shape[::-1])) for shape in shapes[:_MOST_SHOWN]]
    return ", ".join(shown) + (", …" if len(shapes) > _MOST_SHOWN else "")


def _grid_doubt(content: FileBytes, layout: Layout, shapes: tuple[Shape, ...]) -> str | None:
    """Return the reason to doubt the values of a grid, or None."""
    start = at = layout.header_bytes(len(shapes))
    first = int(content[at : at + 4].view(layout.integers)[0])
    if not layout.record_lengths and 1 <= first <= _LARGEST_SIZE:
        return f"the size {first} stands where its first coordinate belongs"
    anything = False
    for shape in shapes:
        at += layout.around
        points = math.prod(shape)
        stop = at + layout.dimensions * points * layout.float_bytes
        for values in _chunks(content, at, stop, layout.floats):
            if layout.record_lengths:
                wrong = ~np.isfinite(values)
            else:
                wrong = _suspicious(values, _LARGEST_FLOAT)
            if wrong.any():
                return f"{values[wrong][0]:.6g} stands where a coordinate belongs"
            anything |= bool(values.any())
        at = stop
        if layout.blanking:
            for values in _chunks(content, at, at + 4 * points, layout.integers):
                worst = int(np.abs(values.astype(np.int64)).max())
                if worst > _LARGEST_IBLANK:
                    return f"{worst} stands where an iblank belongs"
            at += 4 * points
        at += layout.around
    if layout.record_lengths:
        return None
    return _halves_doubt(content, start, layout) if anything else "all its coordinates are zero"


def _solution_doubt(content: FileBytes, layout: Layout, shapes: tuple[Shape, ...]) -> str | None:
    """Return the reason to doubt a solution without record lengths; results may be infinite."""
    start = at = layout.header_bytes(len(shapes))
    for shape in shapes:
        stop = at + 4 * layout.float_bytes
        values = content[at:stop].view(layout.floats)
        wrong = _suspicious(values, math.inf)
        if wrong.any():
            return f"{values[wrong][0]:.6g} stands where a flow condition belongs"
        at = stop + layout.variables * math.prod(shape) * layout.float_bytes
    return _halves_doubt(content, start, layout)


def _chunks(
    content: FileBytes, start: int, stop: int, dtype: np.dtype[Any]
) -> Iterator[npt.NDArray[Any]]:
    step = _CHUNK_VALUES * dtype.itemsize
    for at in range(start, stop, step):
        yield content[at : min(at + step, stop)].view(dtype)


def _suspicious(values: npt.NDArray[Any], limit: float) -> npt.NDArray[Any]:
    """Mask of values that are no number, not below a limit, or denormal."""
    with np.errstate(invalid="ignore"):  # bits that are no number
        size = np.abs(values)
        denormal = (size > 0) & (size < np.finfo(values.dtype).tiny)
        wrong: npt.NDArray[Any] = ~(size < limit) | denormal
        return wrong


def _halves_doubt(content: FileBytes, start: int, layout: Layout) -> str | None:
    """Return the doubt that 32-bit floats are the halves of 64-bit ones, two words by two."""
    if layout.float_bytes != 4:
        return None
    unlike = pairs = 0
    words = (len(content) - start) // 8 * 2
    for values in _chunks(content, start, start + 4 * words, np.dtype(f"{layout.byte_order}u4")):
        bits = values.reshape(-1, 2) & 0x7FFFFFFF
        something = bits != 0
        exponents = (bits >> 23).astype(np.int32)
        far = np.abs(exponents[:, 0] - exponents[:, 1]) > _UNLIKE_BITS
        unlike += int(np.count_nonzero(something.any(axis=1) & (far | ~something.all(axis=1))))
        pairs += int(np.count_nonzero(something.any(axis=1)))
    if 3 * unlike <= 2 * pairs:
        return None
    return "its values look like the halves of 64-bit floats"


def _nearest_grid(content: FileBytes) -> str:
    """Size of a grid with this header, when one layout or more can mean the header."""
    for layout in layouts(blanking=True):
        shapes = block_sizes(content, layout) if layout.record_lengths else None
        if shapes is None:
            continue
        length = record_length(content, layout.header_bytes(len(shapes)), layout)
        if length == layout.grid_record_bytes(math.prod(shapes[0])):
            expected = layout.grid_bytes(shapes)
            if expected == len(content):
                return f"a record length of {sizes_text(shapes)} points ({layout}) is not right"
            return f"{sizes_text(shapes)} points ({layout}) take {expected}"
    for layout in layouts(blanking=False):
        shapes = block_sizes(content, layout)
        if shapes is not None and layout.grid_bytes(shapes) > len(content):
            return f"{sizes_text(shapes)} points ({layout}) take {layout.grid_bytes(shapes)}"
    return ""


def _overflow_header(content: FileBytes, shapes: tuple[Shape, ...]) -> str:
    """Recognise the header of an OVERFLOW solution: two numbers of variables after the sizes."""
    for layout in layouts(blanking=False):
        numbers = [size for shape in shapes for size in shape[::-1]]
        if len(shapes) > 1 and not layout.block_count_first:
            continue
        at = (4 + 2 * layout.around) * layout.block_count_first + layout.around
        stop = at + 4 * (len(numbers) + 2)
        if stop > len(content):
            continue
        found = content[at:stop].view(layout.integers).tolist()
        if found[:-2] == numbers and 1 <= found[-2] <= 1000 and 0 <= found[-1] <= found[-2]:
            return f"it has an OVERFLOW header, with {found[-2]} variables per point"
    return ""
