"""Shape of an array's inner chunks: a pure function of shape, item size and names.

A chunk should hold about `chunk_bytes` decoded bytes: large enough that its request and its header
cost little, small enough that a crop or a run of points fetches little that it does not need.

The algorithm starts from the whole array and halves (rounding up) the longest dimension that may
be split until the chunk is within a factor √2 of the target, so that volumes end in cubes, tables
of points in runs of rows, and edge chunks are nearly full: sides differ by the rounding only.

- Dimensions named `t`, `time` or `step` are cut to single steps when a step is large (a quarter
  of the target or more), since steps are read one by one; shorter steps are grouped.
- In `[point, …]` and `[cell, …]` arrays only the rows are split. Elsewhere trailing dimensions of
  at most 16 entries (vector and tensor components) stay whole, spatial names excepted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = [
    "ROW_DIMENSIONS",
    "SPATIAL_DIMENSIONS",
    "TIME_DIMENSIONS",
    "component_count",
    "inner_chunk_shape",
]

TIME_DIMENSIONS = frozenset({"t", "time", "step"})
ROW_DIMENSIONS = frozenset({"point", "cell"})
SPATIAL_DIMENSIONS = frozenset({"x", "y", "z", "r", "theta", "phi", "lat", "lon"})
_MAX_COMPONENTS = 16
_MAX_WHOLE_ROW_BYTES = 4096


def component_count(
    shape: Sequence[int], dimension_names: Sequence[str | None] | None = None
) -> int:
    """Return the number of components (of vectors, tensors) in the last dimension; 0 for scalars.

    Example:
        >>> component_count((1000, 3)), component_count((64, 64, 3), ("x", "y", "z"))
        (3, 0)
    """
    if len(shape) < 2 or not 1 < shape[-1] <= _MAX_COMPONENTS:
        return 0
    if len(shape) > 2 and shape[-2] <= _MAX_COMPONENTS:
        return 0  # a matrix per point or a thin box: its last dimension means nothing by itself
    name = dimension_names[-1] if dimension_names else None
    return 0 if name in SPATIAL_DIMENSIONS | TIME_DIMENSIONS else shape[-1]


def inner_chunk_shape(
    shape: Sequence[int],
    itemsize: int,
    chunk_bytes: int,
    dimension_names: Sequence[str | None] | None = None,
) -> tuple[int, ...]:
    """Choose the inner chunk shape of an array.

    Args:
        shape: elements per dimension.
        itemsize: bytes per element.
        chunk_bytes: target of a chunk's decoded bytes.
        dimension_names: a name per dimension, or None.

    Returns:
        Elements per dimension, each at least 1, none beyond the array except where that is empty.

    Example:
        >>> inner_chunk_shape((128, 128, 128), 4, 256 << 10, ("z", "y", "x"))
        (32, 32, 64)
        >>> inner_chunk_shape((10, 64, 64, 64, 3), 4, 256 << 10, ("t", "z", "y", "x", "c"))
        (1, 16, 32, 32, 3)
        >>> inner_chunk_shape((1_000_000, 3), 4, 256 << 10)
        (15625, 3)
    """
    chunk = [max(1, n) for n in shape]
    names = list(dimension_names) if dimension_names is not None else [None] * len(chunk)
    limit = chunk_bytes * math.sqrt(2)
    _group_steps(chunk, names, itemsize, chunk_bytes)
    splittable = _splittable(chunk, names, itemsize)
    # Each stage may split more: first the dimensions that readers select by, then time, components.
    for stage in (splittable, set(range(len(chunk)))):
        parts = [1] * len(chunk)
        whole = list(chunk)
        while math.prod(chunk) * itemsize > limit:
            candidates = [d for d in stage if chunk[d] > 1]
            if not candidates:
                break
            # The first of equal sides: the slowest dimension, whose runs in memory stay long.
            longest = max(candidates, key=lambda d: (chunk[d], -d))
            parts[longest] *= 2
            chunk[longest] = -(-whole[longest] // parts[longest])
    return tuple(chunk)


def _group_steps(
    chunk: list[int], names: Sequence[str | None], itemsize: int, chunk_bytes: int
) -> None:
    """Cut the time dimension to as many steps as a chunk should hold."""
    for d, name in enumerate(names):
        if name not in TIME_DIMENSIONS or len(chunk) == 1:
            continue
        step_bytes = math.prod(chunk) // chunk[d] * itemsize
        steps = 1 if step_bytes * 4 >= chunk_bytes else max(1, chunk_bytes // step_bytes)
        runs = -(-chunk[d] // min(steps, chunk[d]))
        chunk[d] = -(-chunk[d] // runs)


def _splittable(chunk: Sequence[int], names: Sequence[str | None], itemsize: int) -> set[int]:
    """Return the dimensions that readers select by."""
    free = set(range(len(chunk)))
    if not free:
        return free
    if names[0] in ROW_DIMENSIONS:
        return {0}
    is_table = len(chunk) == 2 and names[1] not in SPATIAL_DIMENSIONS and chunk[1] < chunk[0]
    if is_table and chunk[1] * itemsize <= _MAX_WHOLE_ROW_BYTES:
        return {0}
    for d in reversed(range(1, len(chunk))):
        if chunk[d] > _MAX_COMPONENTS or names[d] in SPATIAL_DIMENSIONS:
            break
        free.discard(d)
    times = {d for d in free if names[d] in TIME_DIMENSIONS}
    return free - times or free
