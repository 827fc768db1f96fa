"""Making the bytes of one chunk, for the writer of packed datasets.

Not performance-critical in the way decoding is: numcodecs and zstandard do the work, with the GIL
released, so that a pool of threads packs in parallel. Thread-safe: zstd contexts are per thread,
and Blosc is used through its context interface, without its global lock and its own threads,
which do not survive fork.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import zstandard
from numcodecs import blosc, lz4

from dataplane import _native
from dataplane.codecs.pipeline import BloscSettings, Codec, Pipeline, ZstdSettings
from dataplane.errors import ConfigError

__all__ = ["ENCODERS", "encode_chunk"]

_local = threading.local()


def encode_chunk(array: npt.NDArray[Any], pipeline: Pipeline) -> bytes:
    r"""Return the stored bytes of one whole chunk.

    Args:
        array: the chunk, any strides; edge chunks come padded to the full chunk shape.
        pipeline: its codec chain.

    Raises:
        ConfigError: the chunk's element type is not the pipeline's, or Blosc cannot hold it.

    Example:
        >>> from dataplane.codecs import parse_pipeline
        >>> encode_chunk(np.arange(3, dtype="u1"), parse_pipeline(["bytes"], "u1"))
        b'\x00\x01\x02'
    """
    if array.dtype.newbyteorder("=") != pipeline.dtype:
        raise ConfigError(f"a chunk of {array.dtype} cannot be encoded as {pipeline.dtype}")
    if array.nbytes > _native.max_chunk_bytes:
        raise ConfigError(
            f"a chunk of {array.nbytes} bytes is too large (at most {_native.max_chunk_bytes})",
            hint="choose smaller chunks",
        )
    stored = pipeline.dtype.newbyteorder(">" if pipeline.big_endian else "<")
    flat = np.ascontiguousarray(array, dtype=stored).reshape(-1).view(np.uint8)
    encoded = ENCODERS[pipeline.codec](flat, pipeline.settings)
    if pipeline.crc32c:
        encoded += _native.crc32c(encoded).to_bytes(4, "little")
    return encoded


def _encode_raw(flat: npt.NDArray[np.uint8], _: object) -> bytes:
    return flat.tobytes()


def _encode_blosc(flat: npt.NDArray[np.uint8], settings: object) -> bytes:
    assert isinstance(settings, BloscSettings)
    # Without this, calls from the main thread go through the library's global state and threads.
    blosc.use_threads = False
    # The library takes the type size from the buffer's item size.
    size = settings.typesize if flat.size % settings.typesize == 0 else 1
    items = flat.view(np.dtype((np.void, size))) if size > 1 else flat
    return bytes(
        blosc.compress(
            items, settings.cname.encode(), settings.clevel, settings.shuffle, settings.blocksize
        )
    )


def _encode_zstd(flat: npt.NDArray[np.uint8], settings: object) -> bytes:
    assert isinstance(settings, ZstdSettings)
    compressors: dict[ZstdSettings, zstandard.ZstdCompressor]
    compressors = _local.__dict__.setdefault("compressors", {})
    compressor = compressors.get(settings)
    if compressor is None:
        # The library's default is asked for by its number: 0 means something else to zstandard.
        compressor = zstandard.ZstdCompressor(
            level=settings.level or 3, write_checksum=settings.checksum, write_content_size=True
        )
        compressors[settings] = compressor
    return compressor.compress(flat.data)


def _encode_lz4(flat: npt.NDArray[np.uint8], _: object) -> bytes:
    return bytes(lz4.compress(flat))


ENCODERS: Final[Mapping[Codec, Callable[[npt.NDArray[np.uint8], object], bytes]]] = (
    MappingProxyType(
        {
            Codec.RAW: _encode_raw,
            Codec.ZSTD: _encode_zstd,
            Codec.LZ4: _encode_lz4,
            Codec.BLOSC: _encode_blosc,
        }
    )
)
"""Compressor to the function that writes it: (bytes of the chunk, settings) -> compressed bytes."""
