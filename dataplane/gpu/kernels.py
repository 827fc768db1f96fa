"""The Triton kernel that un-shuffles inflated chunks and places their elements.

One program makes a tile of elements of one row's box. For each of them it finds the element's place
in the chunk, then, byte by byte, where un-shuffled bytes are in what the streams inflated to, and
puts the bytes together in a register: reversed, cast and scaled there, and stored once. Reading is
coalesced where planes are long (neighbouring elements have neighbouring bytes in every plane), and
so is writing where rows are.

Everything that does not change within a group of rows is a constant of the compiled kernel
(`tables.Group`). With TRITON_INTERPRET=1 in the environment when this module is imported the same
code runs on CPU tensors, which is how the tests run it. Imported only by `placement.py`, and only
when a kernel is needed: it needs Triton. No state; thread-safe.
"""

from __future__ import annotations

# Nothing of Triton's that is itself a compiled function (`tl.zeros_like`) is used: those are made
# when Triton is imported, and so run interpreted only where the environment said so by then.
import triton
import triton.language as tl

from dataplane.codecs import MAX_DIMS
from dataplane.gpu import tables

__all__ = ["place_tiles"]

_ADDRESS = tl.constexpr(tables.COL_ADDRESS)
_ELEMENTS = tl.constexpr(tables.COL_ELEMENTS)
_CHUNK_BYTES = tl.constexpr(tables.COL_CHUNK_BYTES)
_BLOCK_BYTES = tl.constexpr(tables.COL_BLOCK_BYTES)
_STREAM_BYTES = tl.constexpr(tables.COL_STREAM_BYTES)
_FIRST_STREAM = tl.constexpr(tables.COL_FIRST_STREAM)
_SPLIT = tl.constexpr(tables.COL_SPLIT)
_FULL_BLOCKS = tl.constexpr(tables.COL_FULL_BLOCKS)
_TYPESIZE = tl.constexpr(tables.COL_TYPESIZE)
_FIRST_ELEMENT = tl.constexpr(tables.COL_FIRST_ELEMENT)
_FILL = tl.constexpr(tables.COL_FILL)
_SCALE = tl.constexpr(tables.COL_SCALE)
_SHIFT = tl.constexpr(tables.COL_SHIFT)
_EXTENT = tl.constexpr(tables.COL_EXTENT)
_CHUNK_STEP = tl.constexpr(tables.COL_CHUNK_STEP)
_PLACE_STEP = tl.constexpr(tables.COL_PLACE_STEP)
_COLUMNS = tl.constexpr(tables.COLUMNS)
_MAX_DIMS = tl.constexpr(MAX_DIMS)


@triton.jit
def _stored_at(inflated, starts, row, block, position, mask, SPLIT: tl.constexpr):
    """Return the byte at `position` of a block, as it was inflated."""
    if SPLIT:
        stream_bytes = tl.load(row + _STREAM_BYTES).to(tl.int32)
        split = tl.load(row + _SPLIT).to(tl.int32)
        full = tl.load(row + _FULL_BLOCKS).to(tl.int32)
        part = tl.where(block < full, position // stream_bytes, 0)
        stream = block * split + part  # the last block follows the streams of the full ones
        offset = position - part * stream_bytes
    else:
        stream = block
        offset = position
    first = tl.load(row + _FIRST_STREAM)
    start = tl.load(starts + first + stream, mask=mask, other=0)
    return tl.load(inflated + start + offset, mask=mask, other=0).to(tl.uint32)


@triton.jit
def _byte(
    inflated, starts, row, block, at, count, element, plane, mask,
    SHUFFLE: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """Return byte `plane` of element `element` of a block of `count` elements.

    `at` is where that byte was before it was shuffled, and still is where it was not.
    """
    if SHUFFLE == 0:
        return _stored_at(inflated, starts, row, block, at, mask, SPLIT)
    elif SHUFFLE == 1:
        position = tl.where(element < count, plane * count + element, at)
        return _stored_at(inflated, starts, row, block, position, mask, SPLIT)
    else:
        inside = (element < count) & (count % 8 == 0)
        found = _stored_at(inflated, starts, row, block, at, mask & ~inside, SPLIT)
        for k in tl.static_range(8):
            position = (plane * 8 + k) * (count // 8) + element // 8
            bits = _stored_at(inflated, starts, row, block, position, mask & inside, SPLIT)
            found |= tl.where(inside, ((bits >> (element % 8).to(tl.uint32)) & 1) << k, 0)
        return found


@triton.jit
def _number(
    inflated, starts, row, item, mask, BYTES: tl.constexpr, SKIP: tl.constexpr,
    ITEMSIZE: tl.constexpr, SHUFFLE: tl.constexpr, SWAP: tl.constexpr, SPLIT: tl.constexpr,
    EVEN: tl.constexpr, WORD: tl.constexpr,
):  # fmt: skip
    """Return bytes SKIP to SKIP + BYTES of the chunk's elements `item` as an unsigned number."""
    block_bytes = tl.load(row + _BLOCK_BYTES).to(tl.int32)
    chunk_bytes = tl.load(row + _CHUNK_BYTES).to(tl.int32)
    typesize = tl.load(row + _TYPESIZE).to(tl.int32)
    value = (item * 0).to(WORD)
    if EVEN:
        per_block = block_bytes // ITEMSIZE
        block = item // per_block
        element = item - block * per_block
        count = tl.minimum(block_bytes, chunk_bytes - block * block_bytes) // ITEMSIZE
    for b in tl.static_range(BYTES):
        stored = SKIP + b
        if SWAP:
            stored = (SKIP + b) // SWAP * SWAP + SWAP - 1 - (SKIP + b) % SWAP
        if EVEN:
            found = _byte(
                inflated, starts, row, block, element * ITEMSIZE + stored, count, element, stored,
                mask, SHUFFLE, SPLIT,
            )  # fmt: skip
        else:
            place = item * ITEMSIZE + stored
            its_block = place // block_bytes
            at = place - its_block * block_bytes
            size = tl.minimum(block_bytes, chunk_bytes - its_block * block_bytes)
            its_element = at // typesize
            found = _byte(
                inflated, starts, row, its_block, at, size // typesize, its_element,
                at - its_element * typesize, mask, SHUFFLE, SPLIT,
            )  # fmt: skip
        value |= found.to(WORD) << (8 * b)
    return value


@triton.jit
def _store(
    address, number, row, mask, SCALED: tl.constexpr, COMPUTED: tl.constexpr,
    PLACED: tl.constexpr, TO_BFLOAT: tl.constexpr,
):  # fmt: skip
    """Scale numbers, and store them as elements of a floating type, rounded to nearest.

    bfloat16 is rounded with integers, which every backend does alike; a NaN becomes the quiet one.
    """
    if SCALED:
        scale = tl.load(row + _SCALE).to(tl.float64, bitcast=True).to(COMPUTED)
        shift = tl.load(row + _SHIFT).to(tl.float64, bitcast=True).to(COMPUTED)
        number = number * scale + shift
    if TO_BFLOAT:
        single = number.to(tl.float32)
        bits = single.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        bits = tl.where(single == single, bits, 0x7FC0).to(tl.uint16)  # noqa: PLR0124 - not NaN
        tl.store(address.to(tl.pointer_type(tl.uint16)), bits, mask=mask)
    else:
        tl.store(address.to(tl.pointer_type(PLACED)), number.to(PLACED), mask=mask)


@triton.jit
def place_tiles(
    inflated, starts, rows, tiles,
    TILE: tl.constexpr, NDIM: tl.constexpr, ITEMSIZE: tl.constexpr, SHUFFLE: tl.constexpr,
    SWAP: tl.constexpr, FILL: tl.constexpr, SPLIT: tl.constexpr, EVEN: tl.constexpr,
    COPY: tl.constexpr, SCALED: tl.constexpr, BFLOAT: tl.constexpr, WORD: tl.constexpr,
    STORED: tl.constexpr, COMPUTED: tl.constexpr, PLACED: tl.constexpr,
    TO_BFLOAT: tl.constexpr,
):  # fmt: skip
    """Place the tiles of a group, one by each program.

    `inflated` is uint8[...], what the streams inflated to; `starts` int64[streams], where each
    begins in it; `rows` int64[n, COLUMNS] of `tables`; `tiles` int32[programs, 2], the row and the
    first element of its box. The constants are those of `placement.constants_of`.
    """
    program = tl.program_id(0)
    row = rows + tl.load(tiles + program * 2).to(tl.int64) * _COLUMNS
    index = tl.load(tiles + program * 2 + 1) + tl.arange(0, TILE)
    mask = index < tl.load(row + _ELEMENTS)
    left = index.to(tl.int32)
    item = left * 0 + tl.load(row + _FIRST_ELEMENT).to(tl.int32)
    place = (left * 0).to(tl.int64)
    for d in tl.static_range(NDIM):
        extent = tl.load(row + _EXTENT + _MAX_DIMS - 1 - d).to(tl.int32)
        at = left % extent
        left = left // extent
        item += at * tl.load(row + _CHUNK_STEP + _MAX_DIMS - 1 - d).to(tl.int32)
        place += at.to(tl.int64) * tl.load(row + _PLACE_STEP + _MAX_DIMS - 1 - d)
    address = tl.load(row + _ADDRESS) + place
    if COPY and ITEMSIZE == 16:
        for half in tl.static_range(2):
            if FILL:
                value = (item * 0).to(tl.uint64) + tl.load(row + _FILL + half).to(
                    tl.uint64, bitcast=True
                )
            else:
                value = _number(
                    inflated, starts, row, item, mask, 8, 8 * half, ITEMSIZE, SHUFFLE, SWAP, SPLIT,
                    EVEN, tl.uint64,
                )  # fmt: skip
            tl.store((address + 8 * half).to(tl.pointer_type(tl.uint64)), value, mask=mask)
    elif FILL:
        # The fill value is an element as the table's destination has it: only scaling is left.
        word = tl.load(row + _FILL).to(tl.uint64, bitcast=True).to(WORD)
        value = (item * 0).to(WORD) + word
        if COPY:
            tl.store(address.to(tl.pointer_type(WORD)), value, mask=mask)
        else:
            number = value.to(STORED, bitcast=True).to(COMPUTED)
            _store(address, number, row, mask, SCALED, COMPUTED, PLACED, TO_BFLOAT)
    else:
        value = _number(
            inflated, starts, row, item, mask, ITEMSIZE, 0, ITEMSIZE, SHUFFLE, SWAP, SPLIT, EVEN,
            WORD,
        )  # fmt: skip
        if COPY:
            tl.store(address.to(tl.pointer_type(WORD)), value, mask=mask)
        else:
            if BFLOAT:
                number = (value.to(tl.uint32) << 16).to(tl.float32, bitcast=True).to(COMPUTED)
            else:
                number = value.to(STORED, bitcast=True).to(COMPUTED)
            _store(address, number, row, mask, SCALED, COMPUTED, PLACED, TO_BFLOAT)
