"""What the inner codec chain of a Zarr v3 array means here: parsing and validation, no bytes.

Read and written: an optional `bytes` codec (either byte order), an optional `numcodecs.shuffle`, at
most one compressor out of `blosc` (lz4, lz4hc, zstd), `zstd` and `numcodecs.lz4`, and an optional
`crc32c` at the end.
Anything else is a `FormatError` that names the codec. The metadata may come from anywhere, so
every value is checked.

Source: Zarr v3 core specification, codecs `bytes`, `blosc`, `crc32c`; zarr-extensions `zstd`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, TypeAlias

import numpy as np

from dataplane.errors import FormatError

__all__ = ["BloscSettings", "Codec", "Pipeline", "ZstdSettings", "parse_pipeline"]

_BLOSC_COMPRESSORS: Final = ("lz4", "lz4hc", "zstd")
_BLOSC_SHUFFLES: Final = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
_MAX_TYPESIZE: Final = 255
_MAX_CODECS: Final = 8
_ITEM_BYTES: Final = (1, 2, 4, 8, 16)


class Codec(IntEnum):
    """How the bytes of a chunk are compressed; numbered as in native/core/base/chunk.hpp."""

    RAW = 0
    ZSTD = 1
    LZ4 = 2
    BLOSC = 3
    FILL = 4
    """Nothing is stored: the chunk is all fill value. Only in rows, never in a pipeline."""


@dataclass(frozen=True, slots=True)
class BloscSettings:
    """How to write Blosc frames; reading needs none of it.

    Attributes:
        cname: `lz4`, `lz4hc` or `zstd`.
        clevel: 0 (stored) to 9.
        shuffle: 0 none, 1 bytes, 2 bits.
        typesize: bytes that are shuffled together, normally the element size.
        blocksize: bytes per block, 0 to let the library choose.
    """

    cname: str = "lz4"
    clevel: int = 5
    shuffle: int = 1
    typesize: int = 1
    blocksize: int = 0


@dataclass(frozen=True, slots=True)
class ZstdSettings:
    """How to write zstd frames.

    Attributes:
        level: compression level; 0 is the library's default.
        checksum: whether a frame ends with its own checksum.
    """

    level: int = 0
    checksum: bool = False


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A codec chain that this package can read and write.

    Attributes:
        dtype: element type in the byte order of this machine.
        codec: the compressor.
        big_endian: whether elements are stored with their most significant byte first.
        crc32c: whether four bytes of CRC-32C end each chunk.
        shuffle: element size of a byte shuffle before the compressor, 0 for none. The shuffle
            within Blosc frames is not meant: a frame says so itself.
        settings: how to write; None for compressors that have no settings.
    """

    dtype: np.dtype[Any]
    codec: Codec
    big_endian: bool = False
    crc32c: bool = False
    settings: BloscSettings | ZstdSettings | None = None
    shuffle: int = 0

    @property
    def swap_bytes(self) -> int:
        """Width of the numbers whose bytes are reversed on the way, 0 for none."""
        if not self.big_endian or self.dtype.itemsize == 1:
            return 0
        return self.dtype.itemsize // (2 if self.dtype.kind == "c" else 1)


def parse_pipeline(
    codecs: Sequence[Mapping[str, Any] | str], dtype: np.dtype[Any] | type | str
) -> Pipeline:
    """Turn the inner codec chain of Zarr v3 metadata into a `Pipeline`.

    Args:
        codecs: the `codecs` member of the metadata, or of `sharding_indexed` within it.
        dtype: element type of the array; its byte order is ignored, the `bytes` codec has it.

    Raises:
        FormatError: a codec, a setting or the element type is not supported.

    Example:
        >>> chain = [{"name": "bytes", "configuration": {"endian": "little"}},
        ...          {"name": "zstd", "configuration": {"level": 3}}, {"name": "crc32c"}]
        >>> pipeline = parse_pipeline(chain, "float32")
        >>> pipeline.codec.name, pipeline.crc32c
        ('ZSTD', True)
    """
    element = _check_dtype(dtype)
    steps = [_split(codec) for codec in _check_chain(codecs)]
    big_endian = False
    if steps and steps[0][0] == "bytes":
        big_endian = _parse_bytes(steps.pop(0)[1], element)
    crc32c = bool(steps) and steps[-1][0] == "crc32c"
    if crc32c:
        steps.pop()
    shuffle = 0
    if steps and steps[0][0] == "numcodecs.shuffle":
        shuffle = _parse_shuffle(steps.pop(0)[1], element)
    if not steps:
        return Pipeline(element, Codec.RAW, big_endian, crc32c, shuffle=shuffle)
    name, configuration = steps.pop(0)
    if name not in _COMPRESSORS:
        raise FormatError(
            f"codec {name!r} cannot be read here",
            hint="supported: bytes, then numcodecs.shuffle, then one of "
            + ", ".join(_COMPRESSORS)
            + ", then crc32c",
        )
    if steps:
        raise FormatError(f"codec {steps[0][0]!r} cannot follow {name!r} in a codec chain")
    codec, settings = _COMPRESSORS[name](configuration, element)
    if shuffle and codec is Codec.BLOSC:
        raise FormatError("codec 'blosc' cannot follow 'numcodecs.shuffle': it shuffles itself")
    return Pipeline(element, codec, big_endian, crc32c, settings, shuffle)


def _check_dtype(dtype: np.dtype[Any] | type | str) -> np.dtype[Any]:
    element = np.dtype(dtype).newbyteorder("=")
    if element.kind not in "biufc" or element.itemsize not in _ITEM_BYTES or element.char == "g":
        raise FormatError(
            f"elements of type {element} cannot be decoded",
            hint="supported: bool, integers, floats of 2 to 8 bytes and complex numbers",
        )
    return element


def _check_chain(codecs: object) -> list[object]:
    if not isinstance(codecs, Sequence) or isinstance(codecs, str | bytes):
        raise FormatError(f"codecs must be a list, got {type(codecs).__name__}")
    if len(codecs) > _MAX_CODECS:
        raise FormatError(f"a chain of {len(codecs)} codecs is too long (at most {_MAX_CODECS})")
    return list(codecs)


def _split(codec: object) -> tuple[str, Mapping[str, Any]]:
    """Return a codec's name and configuration; the short form is the name alone."""
    if isinstance(codec, str):
        return codec, {}
    if not isinstance(codec, Mapping) or not isinstance(codec.get("name"), str):
        raise FormatError(f"a codec must be an object with a name, got {codec!r:.100}")
    configuration = codec.get("configuration") or {}
    if not isinstance(configuration, Mapping):
        raise FormatError(f"the configuration of codec {codec['name']!r} must be an object")
    return codec["name"], configuration


def _parse_bytes(configuration: Mapping[str, Any], dtype: np.dtype[Any]) -> bool:
    endian = configuration.get("endian")
    if endian is None and dtype.itemsize == 1:
        return False
    if endian not in ("little", "big"):
        raise FormatError(f"codec 'bytes': endian must be 'little' or 'big', got {endian!r}")
    return bool(endian == "big")


def _parse_shuffle(configuration: Mapping[str, Any], dtype: np.dtype[Any]) -> int:
    """Return the element size of the shuffle, 0 where it changes nothing."""
    limit = range(_MAX_TYPESIZE + 1)
    size = _integer("numcodecs.shuffle", configuration, "elementsize", limit, 4)
    if size % dtype.itemsize != 0 and size > 1:
        raise FormatError(
            f"codec 'numcodecs.shuffle': elementsize {size} is no multiple of {dtype} elements"
        )
    return size if size > 1 else 0


def _integer(
    name: str, configuration: Mapping[str, Any], key: str, bounds: range, default: int
) -> int:
    value = configuration.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value not in bounds:
        raise FormatError(
            f"codec {name!r}: {key} must be an integer from {bounds[0]} to {bounds[-1]}, "
            f"got {value!r:.50}"
        )
    return value


def _parse_blosc(
    configuration: Mapping[str, Any], dtype: np.dtype[Any]
) -> tuple[Codec, BloscSettings]:
    cname = configuration.get("cname", "zstd")
    if cname not in _BLOSC_COMPRESSORS:
        raise FormatError(
            f"codec 'blosc': compressor {cname!r:.50} cannot be read here",
            hint="supported: " + ", ".join(_BLOSC_COMPRESSORS),
        )
    shuffle = configuration.get("shuffle", "noshuffle")
    if not isinstance(shuffle, str) or shuffle not in _BLOSC_SHUFFLES:
        raise FormatError(f"codec 'blosc': unknown shuffle {shuffle!r:.50}")
    limit = range(_MAX_TYPESIZE + 1)[1:]
    settings = BloscSettings(
        cname=cname,
        clevel=_integer("blosc", configuration, "clevel", range(10), 5),
        shuffle=_BLOSC_SHUFFLES[shuffle],
        typesize=_integer("blosc", configuration, "typesize", limit, dtype.itemsize),
        blocksize=_integer("blosc", configuration, "blocksize", range(2**31), 0),
    )
    return Codec.BLOSC, settings


def _parse_zstd(configuration: Mapping[str, Any], _: np.dtype[Any]) -> tuple[Codec, ZstdSettings]:
    checksum = configuration.get("checksum", False)
    if not isinstance(checksum, bool):
        raise FormatError(f"codec 'zstd': checksum must be a boolean, got {checksum!r:.50}")
    level = _integer("zstd", configuration, "level", range(-131072, 23), 0)
    return Codec.ZSTD, ZstdSettings(level, checksum)


def _parse_lz4(_: Mapping[str, Any], __: np.dtype[Any]) -> tuple[Codec, None]:
    return Codec.LZ4, None


_Parser: TypeAlias = Callable[
    [Mapping[str, Any], np.dtype[Any]], tuple[Codec, BloscSettings | ZstdSettings | None]
]
_COMPRESSORS: Final[Mapping[str, _Parser]] = {
    "blosc": _parse_blosc,
    "zstd": _parse_zstd,
    "numcodecs.lz4": _parse_lz4,
}
