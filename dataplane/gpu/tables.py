"""Tables that tell a placing kernel what to do, made with NumPy: no Python runs per chunk.

What a batch's streams inflate to lies in one buffer, each at a start of its own. A row of the chunk
table wants a box of its chunk's elements; this module turns rows, stream records and destinations
into one row of `int64` per chunk with addresses and strides, and cuts the boxes into tiles, each
the work of one program of a kernel. Rows that need the same code are grouped (`Group`).

A chunk in inflated form is a row of blocks of `block_bytes`, the last one shorter perhaps. A full
block is one stream, or `split` streams of equal length; a last block that is shorter is one. So the
stream that holds a byte is found by two divisions, and the chunk need not lie in one piece.

Columns are named by the constants `COL_…`. Pure functions; thread-safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from dataplane.codecs import MAX_DIMS, Codec
from dataplane.codecs.table import Convert
from dataplane.errors import ConfigError, DecodeError
from dataplane.gpu.elements import PLAIN, Normalise, Rule, rule_of

__all__ = ["COLUMNS", "Group", "groups_of", "tiles_of"]

COL_ADDRESS: Final = 0
"""Address of the box's first element in the destination."""
COL_ELEMENTS: Final = 1
"""Elements of the box."""
COL_CHUNK_BYTES: Final = 2
COL_BLOCK_BYTES: Final = 3
COL_STREAM_BYTES: Final = 4
"""Decoded bytes of one stream of a full block."""
COL_FIRST_STREAM: Final = 5
"""Number of the chunk's first stream."""
COL_SPLIT: Final = 6
"""Streams of a full block."""
COL_FULL_BLOCKS: Final = 7
COL_TYPESIZE: Final = 8
COL_FIRST_ELEMENT: Final = 9
"""The box's first element, counted in the chunk."""
COL_FILL: Final = 10
"""Two columns: one element as its destination holds it."""
COL_SCALE: Final = 12
"""Bits of a float64, and so the next."""
COL_SHIFT: Final = 13
COL_EXTENT: Final = 14
"""MAX_DIMS columns, outermost first; 1 in front of the array's own dimensions."""
COL_CHUNK_STEP: Final = COL_EXTENT + MAX_DIMS
"""Elements between neighbours in the chunk."""
COL_PLACE_STEP: Final = COL_CHUNK_STEP + MAX_DIMS
"""Bytes between neighbours in the destination."""
COLUMNS: Final = COL_PLACE_STEP + MAX_DIMS


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Rows that are placed by the same code.

    Attributes:
        rows: int64[n, COLUMNS].
        numbers: int64[n], which rows of the chunk table they are.
        rule: how elements are made.
        itemsize: bytes of a stored element.
        shuffle: 0 none, 1 bytes, 2 bits.
        swap: width of the numbers whose bytes are reversed, 0 for none.
        is_fill: whether nothing is stored, and all elements are the fill value.
        is_split: whether blocks consist of several streams.
        is_even: whether blocks hold whole elements, and shuffle elements as they are.
        ndim: dimensions that any of them has, at least 1.
    """

    rows: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int64]
    rule: Rule
    itemsize: int
    shuffle: int
    swap: int
    is_fill: bool
    is_split: bool
    is_even: bool
    ndim: int


def groups_of(
    rows: npt.NDArray[Any],
    streams: npt.NDArray[Any],
    destinations: Sequence[torch.Tensor],
    normalise: Sequence[Normalise] | None = None,
) -> list[Group]:
    """Return the tables for placing all rows.

    Args:
        rows: CHUNK_DTYPE[n].
        streams: STREAM_DTYPE[m], as `stage` returns them for these rows.
        destinations: tensors that `rows["destination"]` counts, all on one device, strided or not.
        normalise: what is done to the elements of each destination; nothing by default.

    Raises:
        ConfigError: a box leaves its destination, has another number of dimensions, or another
            element size; or there is no such conversion.
        DecodeError: the streams of a chunk are not laid out as those of blocks are.
    """
    asked = [PLAIN] * len(destinations) if normalise is None else list(normalise)
    if len(asked) != len(destinations):
        raise ConfigError(f"{len(destinations)} destinations and {len(asked)} normalisations")
    if not len(rows):
        return []
    table = np.zeros((len(rows), COLUMNS), np.int64)
    _place_boxes(table, rows, destinations)
    shuffle = _lay_streams(table, rows, streams)
    table[:, COL_FILL : COL_FILL + 2] = np.ascontiguousarray(rows["fill"]).view(np.int64)
    fill = rows["codec"] == Codec.FILL
    itemsize = rows["itemsize"].astype(np.int64)
    rules: dict[Rule, int] = {}
    of_row = np.zeros(len(rows), np.int64)
    cases = (rows["destination"].astype(np.int64) * 256 + rows["convert"]) * 2 + fill
    for case in np.unique(cases).tolist():
        which = cases == case
        number, convert = divmod(case // 2, 256)
        rule = _rule(Convert(convert), destinations[number], asked[number], is_fill=case % 2 == 1)
        if case % 2:
            itemsize[which] = rule.stored_bytes
        of_row[which] = rules.setdefault(rule, len(rules))
        scale = np.array([asked[number].scale, asked[number].shift], np.float64)
        table[which, COL_SCALE : COL_SHIFT + 1] = scale.view(np.int64)
        odd = np.flatnonzero(itemsize[which] != rule.stored_bytes)
        if len(odd):
            raise ConfigError(
                f"a chunk of elements of {int(itemsize[which][odd[0]])} bytes is to go to a tensor "
                f"of {destinations[number].dtype}, which takes elements of {rule.stored_bytes}"
            )
    split = table[:, COL_SPLIT] > 1
    even = (table[:, COL_BLOCK_BYTES] % itemsize == 0) & (
        (shuffle == 0) | (table[:, COL_TYPESIZE] == itemsize)
    )
    # Streams of a split block that is not shuffled cut elements apart.
    even &= ~split | (shuffle != 0)
    swap = np.where(fill, 0, rows["swap_bytes"]).astype(np.int64)
    key = np.column_stack(
        (
            of_row,
            itemsize,
            np.where(fill, 0, shuffle),
            swap,
            fill,
            np.where(fill, 0, split),
            np.where(fill, 0, even),
        )
    )
    found, inverse = np.unique(key, axis=0, return_inverse=True)
    names = list(rules)
    return [
        Group(
            table[which],
            which,
            names[int(one[0])],
            itemsize=int(one[1]),
            shuffle=int(one[2]),
            swap=int(one[3]),
            is_fill=bool(one[4]),
            is_split=bool(one[5]),
            is_even=bool(one[6]),
            ndim=max(1, int(rows["ndim"][which].max())),
        )
        for number, one in enumerate(found)
        for which in [np.flatnonzero(inverse.reshape(-1) == number)]
    ]


def tiles_of(group: Group, tile_elements: int) -> npt.NDArray[np.int32]:
    """Cut the boxes of a group into tiles: int32[n, 2], the row and its first element."""
    elements = group.rows[:, COL_ELEMENTS]
    counts = -(-elements // tile_elements)
    row = np.repeat(np.arange(len(counts)), counts)
    first = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.column_stack((row, first * tile_elements)).astype(np.int32)


def _rule(convert: Convert, destination: torch.Tensor, asked: Normalise, *, is_fill: bool) -> Rule:
    if is_fill and convert is not Convert.NONE:
        # A fill value is one element as the table means its destination: converted already.
        return rule_of(Convert.NONE, destination.dtype, replace(asked, stored=np.dtype(np.float32)))
    return rule_of(convert, destination.dtype, asked)


def _place_boxes(
    table: npt.NDArray[np.int64], rows: npt.NDArray[Any], destinations: Sequence[torch.Tensor]
) -> None:
    """Fill in where boxes are in their chunks and in their destinations."""
    count = len(destinations)
    if int(rows["destination"].max()) >= count:
        raise ConfigError(f"a row goes to destination {int(rows['destination'].max())} of {count}")
    ndim = np.array([one.ndim for one in destinations])
    shapes = np.ones((count, MAX_DIMS), np.int64)
    steps = np.zeros((count, MAX_DIMS), np.int64)
    address = np.array([one.data_ptr() for one in destinations], np.uint64).view(np.int64)
    for number, one in enumerate(destinations):
        size = one.element_size()
        shapes[number, MAX_DIMS - one.ndim :] = one.shape
        steps[number, MAX_DIMS - one.ndim :] = [step * size for step in one.stride()]
        aligned = min(size, 8)
        if one.numel() and one.data_ptr() % aligned:
            raise ConfigError(
                f"destination {number} of {one.dtype} begins at an address that is no multiple of "
                f"{aligned}"
            )
    of_row = rows["destination"]
    if (ndim[of_row] != rows["ndim"]).any():
        bad = int(np.flatnonzero(ndim[of_row] != rows["ndim"])[0])
        raise ConfigError(
            f"row {bad} has {int(rows['ndim'][bad])} dimensions, its destination has "
            f"{int(ndim[of_row[bad]])}"
        )
    extent = _from_the_right(rows["extent"], rows["ndim"], 1)
    chunk_shape = _from_the_right(rows["chunk_shape"], rows["ndim"], 1)
    chunk_start = _from_the_right(rows["chunk_start"], rows["ndim"], 0)
    start = _from_the_right(rows["destination_start"], rows["ndim"], 0)
    leaves = (start + extent > shapes[of_row]).any(axis=1)
    leaves |= (chunk_start + extent > chunk_shape).any(axis=1)
    if leaves.any():
        bad = int(np.flatnonzero(leaves)[0])
        raise ConfigError(
            f"row {bad}: a box of {extent[bad].tolist()} at {start[bad].tolist()} leaves its "
            f"destination of {shapes[of_row[bad]].tolist()}, or its chunk"
        )
    chunk_step = np.ones_like(chunk_shape)
    chunk_step[:, :-1] = np.cumprod(chunk_shape[:, :0:-1], axis=1)[:, ::-1]
    table[:, COL_ADDRESS] = address[of_row] + (start * steps[of_row]).sum(axis=1)
    table[:, COL_ELEMENTS] = extent.prod(axis=1)
    table[:, COL_CHUNK_BYTES] = chunk_shape.prod(axis=1) * rows["itemsize"]
    table[:, COL_FIRST_ELEMENT] = (chunk_start * chunk_step).sum(axis=1)
    table[:, COL_EXTENT:COL_CHUNK_STEP] = extent
    table[:, COL_CHUNK_STEP:COL_PLACE_STEP] = chunk_step
    table[:, COL_PLACE_STEP:COLUMNS] = steps[of_row]


def _from_the_right(
    values: npt.NDArray[Any], ndim: npt.NDArray[np.uint8], missing: int
) -> npt.NDArray[np.int64]:
    """Return what counts dimensions from the first so that their last stands in the last column."""
    result = np.full(values.shape, missing, np.int64)
    for count in np.unique(ndim).tolist():
        which = np.flatnonzero(ndim == count)
        if count:
            result[which, MAX_DIMS - count :] = values[which, :count]
    return result


def _lay_streams(
    table: npt.NDArray[np.int64], rows: npt.NDArray[Any], streams: npt.NDArray[Any]
) -> npt.NDArray[np.int64]:
    """Fill in how the inflated streams of each row are laid out; return the shuffle of each."""
    has = rows["codec"] != Codec.FILL
    counts = np.bincount(streams["row"], minlength=len(rows))
    if len(counts) != len(rows) or ((counts > 0) != has).any():
        raise DecodeError("the streams are not those of the rows: some have none, or too many")
    first = np.cumsum(counts) - counts
    shuffle = np.zeros(len(rows), np.int64)
    np.maximum.at(shuffle, streams["row"], streams["shuffle"].astype(np.int64))
    stored = np.flatnonzero(has)
    table[:, [COL_BLOCK_BYTES, COL_STREAM_BYTES, COL_SPLIT, COL_TYPESIZE]] = 1
    if not len(stored):
        return shuffle
    heads = streams[first[stored]]
    block, stream = (
        heads["block_bytes"].astype(np.int64),
        heads["decoded_bytes"].astype(np.int64),
    )
    chunk = table[stored, COL_CHUNK_BYTES]
    full = chunk // np.maximum(block, 1)
    split = block // np.maximum(stream, 1)
    table[stored, COL_BLOCK_BYTES] = block
    table[stored, COL_STREAM_BYTES] = stream
    table[stored, COL_FIRST_STREAM] = first[stored]
    table[stored, COL_SPLIT] = split
    table[stored, COL_FULL_BLOCKS] = full
    table[stored, COL_TYPESIZE] = heads["typesize"]
    # What the kernel computes from these numbers must be what the records say, stream by stream.
    of = np.cumsum(has)[streams["row"]] - 1
    number = np.arange(len(streams)) - first[streams["row"]]
    in_full = number < (full * split)[of]
    start = np.where(in_full, number * stream[of], (full * block)[of])
    size = np.where(in_full, stream[of], (chunk - full * block)[of])
    wrong = (start != streams["decoded_start"]) | (size != streams["decoded_bytes"])
    expected = full * split + (chunk > full * block)
    if wrong.any() or (counts[stored] != expected).any() or (stream * split != block).any():
        raise DecodeError("the streams of a chunk do not add up to its blocks")
    return shuffle
