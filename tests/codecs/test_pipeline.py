"""Parsing codec chains: what is accepted, and what is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dataplane.codecs import Codec, parse_pipeline
from dataplane.errors import FormatError
from tests.codecs.cases import BIG, BYTES, CRC, LZ4, ZSTD, blosc


def shuffle(size: int) -> dict[str, Any]:
    return {"name": "numcodecs.shuffle", "configuration": {"elementsize": size}}


@pytest.mark.parametrize(("size", "expected"), [(0, 0), (1, 0), (4, 4), (8, 8), (252, 252)])
def test_a_shuffle_before_the_compressor_is_understood(size: int, expected: int) -> None:
    pipeline = parse_pipeline([BYTES, shuffle(size), ZSTD, CRC], "f4")
    assert (pipeline.codec, pipeline.shuffle) == (Codec.ZSTD, expected)
    assert parse_pipeline([BYTES, shuffle(size)], "f4").shuffle == expected


@pytest.mark.parametrize(
    ("chain", "codec", "crc32c", "big_endian"),
    [
        ([], Codec.RAW, False, False),
        ([BYTES], Codec.RAW, False, False),
        ([BIG, CRC], Codec.RAW, True, True),
        ([CRC], Codec.RAW, True, False),
        ([BYTES, ZSTD], Codec.ZSTD, False, False),
        ([BYTES, LZ4, CRC], Codec.LZ4, True, False),
        ([BYTES, blosc("lz4hc")], Codec.BLOSC, False, False),
        ([BIG, blosc("zstd"), CRC], Codec.BLOSC, True, True),
        ([BYTES, "zstd", "crc32c"], Codec.ZSTD, True, False),
    ],
)
def test_supported_chains_are_understood(
    chain: Any, codec: Codec, crc32c: bool, big_endian: bool
) -> None:
    pipeline = parse_pipeline(chain, "f4")
    assert (pipeline.codec, pipeline.crc32c, pipeline.big_endian) == (codec, crc32c, big_endian)


@pytest.mark.parametrize(
    ("dtype", "swap"), [("u1", 0), ("?", 0), ("i2", 2), (">f4", 4), ("c8", 4), ("c16", 8)]
)
def test_big_endian_numbers_are_swapped_by_their_width(dtype: str, swap: int) -> None:
    assert parse_pipeline([BIG], dtype).swap_bytes == swap
    assert parse_pipeline([BYTES], dtype).swap_bytes == 0


def test_blosc_settings_default_to_the_element_size() -> None:
    settings = parse_pipeline([BYTES, blosc("zstd", "bitshuffle", clevel=7)], "f8").settings
    assert settings is not None
    assert (settings.cname, settings.shuffle, settings.clevel) == ("zstd", 2, 7)  # type: ignore[union-attr]
    assert settings.typesize == 8  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("chain", "match"),
    [
        ([{"name": "gzip", "configuration": {"level": 5}}], "'gzip' cannot be read"),
        ([BYTES, {"name": "transpose"}], "'transpose'"),
        ([{"name": "sharding_indexed"}], "'sharding_indexed'"),
        ([BYTES, shuffle(3), ZSTD], "elementsize 3 is no multiple"),
        ([BYTES, shuffle(256), ZSTD], "elementsize must be"),
        ([BYTES, shuffle(4), blosc()], "shuffles itself"),
        ([BYTES, ZSTD, shuffle(4)], "cannot follow"),
        ([BYTES, ZSTD, LZ4], "'numcodecs.lz4' cannot follow 'zstd'"),
        ([BYTES, CRC, ZSTD], "'crc32c' cannot be read"),
        ([BYTES, CRC, CRC], "'crc32c'"),
        ([ZSTD, BYTES], "'bytes' cannot follow"),
        ([{"name": "bytes"}], "endian"),
        ([{"name": "bytes", "configuration": {"endian": "middle"}}], "endian"),
        ([BYTES, blosc("blosclz")], "'blosclz'"),
        ([BYTES, blosc("zlib")], "'zlib'"),
        ([BYTES, blosc(["lz4"])], "cannot be read"),  # type: ignore[arg-type]
        ([BYTES, blosc("lz4", "sideways")], "shuffle"),
        ([BYTES, blosc("lz4", 1)], "shuffle"),  # type: ignore[arg-type]
        ([BYTES, blosc("lz4", clevel=10)], "clevel"),
        ([BYTES, blosc("lz4", clevel=True)], "clevel"),
        ([BYTES, blosc("lz4", typesize=0)], "typesize"),
        ([BYTES, blosc("lz4", typesize=256)], "typesize"),
        ([BYTES, blosc("lz4", blocksize=-1)], "blocksize"),
        ([BYTES, {"name": "zstd", "configuration": {"level": 23}}], "level"),
        ([BYTES, {"name": "zstd", "configuration": {"checksum": 1}}], "checksum"),
        ([BYTES, {"name": "zstd", "configuration": [1]}], "configuration"),
        ([BYTES, {"codec": "zstd"}], "object with a name"),
        ([BYTES, 7], "object with a name"),
        ("bytes", "must be a list"),
        ({"name": "bytes"}, "must be a list"),
        ([BYTES] * 9, "too long"),
    ],
)
def test_other_chains_are_refused_by_name(chain: Any, match: str) -> None:
    with pytest.raises(FormatError, match=match):
        parse_pipeline(chain, "f4")


@pytest.mark.parametrize("dtype", ["U4", "S3", "O", "M8[s]", "V8", "g", [("x", "f4")]])
def test_elements_that_are_not_numbers_are_refused(dtype: Any) -> None:
    with pytest.raises(FormatError, match="cannot be decoded"):
        parse_pipeline([BYTES], np.dtype(dtype))
