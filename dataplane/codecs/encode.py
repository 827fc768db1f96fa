"""Making the stored bytes of chunks, for the writer of packed datasets.

`encode_chunk` makes one chunk's bytes in the calling thread, `encode_chunks` those of many chunks
with several threads in one call; both give the same bytes, which depend on nothing but the elements
and the pipeline. The native module shuffles, compresses and adds the checksum, with the GIL
released. What is left to Python is what it is good at: element types, byte order, strides.
Thread-safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dataplane import _native
from dataplane.codecs.pipeline import BloscSettings, Pipeline, ZstdSettings
from dataplane.errors import ConfigError

__all__ = ["encode_chunk", "encode_chunks"]

_BLOSC_INNER: Final = {"lz4": 0, "lz4hc": 1, "zstd": 2}
"""The numbers are those of BloscInner in native/core/encode/blosc_encode.hpp."""
_ZSTD_DEFAULT_LEVEL: Final = 3
"""The library's; asked for by its number, so that a change of the library changes no dataset."""


def encode_chunk(array: npt.NDArray[Any], pipeline: Pipeline) -> bytes:
    r"""Return the stored bytes of one whole chunk.

    Args:
        array: the chunk, any strides; edge chunks come padded to the full chunk shape.
        pipeline: its codec chain.

    Raises:
        ConfigError: the chunk's element type is not the pipeline's, or it is too large.

    Example:
        >>> from dataplane.codecs import parse_pipeline
        >>> encode_chunk(np.arange(3, dtype="u1"), parse_pipeline(["bytes"], "u1"))
        b'\x00\x01\x02'
    """
    return encode_chunks([array], pipeline)[0]


def encode_chunks(
    arrays: Sequence[npt.NDArray[Any]], pipeline: Pipeline, *, threads: int = 1
) -> list[bytes]:
    """Return the stored bytes of each of several whole chunks.

    Args:
        arrays: as for `encode_chunk`.
        pipeline: the codec chain of all of them.
        threads: most threads that encode, the calling one included; 1 stays in it.

    Raises:
        ConfigError: as for `encode_chunk`, or the number of threads is not 1 to 256.

    Example:
        >>> from dataplane.codecs import parse_pipeline
        >>> chunks = [np.full(1000, n, "u1") for n in range(3)]
        >>> encoded = encode_chunks(chunks, parse_pipeline(["bytes", "crc32c"], "u1"), threads=2)
        >>> [len(chunk) for chunk in encoded]
        [1004, 1004, 1004]
    """
    flat = [_stored_elements(array, pipeline).data for array in arrays]
    settings: dict[str, Any] = {}
    if isinstance(pipeline.settings, BloscSettings):
        blosc = pipeline.settings
        settings = {
            "inner": _BLOSC_INNER[blosc.cname],
            "level": blosc.clevel,
            "shuffle": blosc.shuffle,
            "typesize": blosc.typesize,
            "block_bytes": blosc.blocksize,
        }
    elif isinstance(pipeline.settings, ZstdSettings):
        settings = {
            "zstd_level": pipeline.settings.level or _ZSTD_DEFAULT_LEVEL,
            "zstd_checksum": pipeline.settings.checksum,
        }
    try:
        return _native.encode(
            flat, codec=int(pipeline.codec), crc32c=pipeline.crc32c, threads=threads, **settings
        )
    except ValueError as err:
        raise ConfigError(f"chunks cannot be encoded: {err}") from err


def _stored_elements(array: npt.NDArray[Any], pipeline: Pipeline) -> npt.NDArray[Any]:
    """Return a chunk's elements as the compressor gets them: order, byte order and shuffle."""
    if array.dtype.newbyteorder("=") != pipeline.dtype:
        raise ConfigError(f"a chunk of {array.dtype} cannot be encoded as {pipeline.dtype}")
    if array.nbytes > _native.max_chunk_bytes:
        raise ConfigError(
            f"a chunk of {array.nbytes} bytes is too large (at most {_native.max_chunk_bytes})",
            hint="choose smaller chunks",
        )
    stored = pipeline.dtype.newbyteorder(">" if pipeline.big_endian else "<")
    elements = np.ascontiguousarray(array, dtype=stored)
    if not pipeline.shuffle:
        return elements
    if elements.nbytes % pipeline.shuffle:
        raise ConfigError(
            f"a chunk of {elements.nbytes} bytes cannot be shuffled by {pipeline.shuffle} bytes"
        )
    planes = elements.reshape(-1).view(np.uint8).reshape(-1, pipeline.shuffle).T
    return np.ascontiguousarray(planes).reshape(-1)
