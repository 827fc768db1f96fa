"""Reference decoder: the same table decoded by other libraries and NumPy, slow and obviously right.

The oracle of the native decoder's tests, and a way to find out which of the two is wrong about a
file. It takes the same arguments as `dataplane.codecs.decode` (no threads), fails in the same cases
with a `DecodeError`, and shares no code with the native module but the table.

Not for use on the read path: everything is copied several times and each row runs Python. It needs
numcodecs and zstandard, of the `dev` extra.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import zstandard
from numcodecs import Shuffle, blosc, lz4

from dataplane.codecs.pipeline import Codec
from dataplane.codecs.table import FLAG_CRC32C, ChunkTable, Convert
from dataplane.errors import ChecksumMismatch, ConfigError, DecodeError, Truncated
from dataplane.stores import Buffer

__all__ = ["crc32c", "decode"]

_STORED_AS: Final[dict[Convert, np.dtype[Any]]] = {
    Convert.F64_TO_F32: np.dtype(np.float64),
    Convert.F16_TO_F32: np.dtype(np.float16),
    Convert.BF16_TO_F32: np.dtype(np.uint16),
}

_POLYNOMIAL: Final = 0x82F63B78
"""CRC-32C, reflected. Source: RFC 3720, section 12.1."""


def decode(
    table: ChunkTable, sources: Sequence[Buffer], destinations: Sequence[npt.NDArray[Any]]
) -> None:
    """Decode every row of `table` from `sources` into `destinations`.

    Raises:
        DecodeError: a row cannot be decoded.
        ConfigError: a row's box does not fit its destination.
    """
    for row in table.rows:
        ndim = int(row["ndim"])
        destination = destinations[int(row["destination"])]
        start = row["destination_start"][:ndim].astype(np.intp)
        extent = row["extent"][:ndim].astype(np.intp)
        if destination.ndim != ndim or (start + extent > destination.shape).any():
            raise ConfigError(f"a box of {extent} at {start} leaves its {destination.shape} array")
        box: Any = (..., *(slice(s, s + n) for s, n in zip(start, extent, strict=True)))
        target = destination[box]  # a view, also of a 0-d array
        if row["codec"] == Codec.FILL:
            element = row["fill"].tobytes()[: destination.itemsize]
            target[...] = np.frombuffer(element, destination.dtype)[0]
            continue
        shape = tuple(int(n) for n in row["chunk_shape"][:ndim])
        convert = Convert(row["convert"])
        stored: np.dtype[Any] = _STORED_AS.get(convert, destination.dtype)
        elements = np.frombuffer(_bytes_of(row, sources, shape), stored)
        if row["swap_bytes"]:
            elements = elements.byteswap()
        if convert is Convert.BF16_TO_F32:
            elements = (elements.astype(np.uint32) << 16).view(np.float32)
        begin = row["chunk_start"][:ndim].astype(np.intp)
        wanted = tuple(slice(b, b + n) for b, n in zip(begin, extent, strict=True))
        with np.errstate(over="ignore"):
            target[...] = elements.reshape(shape)[wanted]


def _bytes_of(row: Any, sources: Sequence[Buffer], shape: tuple[int, ...]) -> bytes:
    """Return the decoded bytes of a whole chunk."""
    start, length = int(row["source_offset"]), int(row["source_nbytes"])
    encoded = bytes(memoryview(sources[int(row["source"])])[start : start + length])
    if len(encoded) != length:
        raise Truncated(f"the source ends {length - len(encoded)} bytes early")
    if row["flags"] & FLAG_CRC32C:
        if len(encoded) < 4:
            raise Truncated("no room for a checksum")
        encoded, stored = encoded[:-4], int.from_bytes(encoded[-4:], "little")
        if crc32c(encoded) != stored:
            raise ChecksumMismatch(f"expected {stored:#010x}, got {crc32c(encoded):#010x}")
    expected = int(np.prod(shape, dtype=np.int64)) * int(row["itemsize"])
    try:
        decoded = _decompress(Codec(row["codec"]), encoded, expected)
    except (RuntimeError, ValueError, zstandard.ZstdError) as error:
        raise DecodeError(f"{Codec(row['codec']).name}: {error}") from error
    if len(decoded) != expected:
        raise DecodeError(f"expected {expected} bytes, got {len(decoded)}")
    if row["shuffle"]:
        return bytes(Shuffle(int(row["shuffle"])).decode(decoded))
    return decoded


def _decompress(codec: Codec, encoded: bytes, expected: int) -> bytes:
    if codec is Codec.RAW:
        return encoded
    if codec is Codec.ZSTD:
        return zstandard.ZstdDecompressor().decompress(encoded, max_output_size=expected)
    if not encoded:
        raise ValueError("nothing there")
    if codec is Codec.LZ4:
        return bytes(lz4.decompress(encoded))
    if len(encoded) < 16 or int.from_bytes(encoded[12:16], "little") != len(encoded):
        raise ValueError("the frame is not as long as it says")
    return bytes(blosc.decompress(encoded))


def crc32c(buffer: bytes) -> int:
    """Return the CRC-32C of `buffer`, bit by bit.

    Example:
        >>> hex(crc32c(b"123456789"))
        '0xe3069283'
    """
    crc = 0xFFFFFFFF
    for byte in buffer:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _entry(index: int) -> int:
    for _ in range(8):
        index = (index >> 1) ^ (_POLYNOMIAL if index & 1 else 0)
    return index


_TABLE: Final = tuple(_entry(index) for index in range(256))
