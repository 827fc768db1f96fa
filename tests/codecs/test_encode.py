"""Encoded chunks are what other libraries read."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zstandard
from numcodecs import blosc as numcodecs_blosc

from dataplane.codecs import encode_chunk, parse_pipeline, reference
from dataplane.errors import ConfigError
from tests.codecs.cases import BIG, BYTES, CHAINS, CRC, ZSTD, blosc, values


def test_blosc_frames_carry_the_settings() -> None:
    array = values((1000,), "f8")
    chain = [BYTES, blosc("zstd", "shuffle", clevel=3, typesize=8, blocksize=2048)]
    encoded = encode_chunk(array, parse_pipeline(chain, "f8"))
    assert numcodecs_blosc.decompress(encoded) == array.tobytes()
    assert encoded[3] == 8
    assert int.from_bytes(encoded[8:12], "little") == 2048
    assert encoded[2] >> 5 == 4


def test_zstd_frames_carry_their_length_and_checksum() -> None:
    array = values((1000,), "f4")
    encoded = encode_chunk(array, parse_pipeline([BYTES, ZSTD], "f4"))
    parameters = zstandard.get_frame_parameters(encoded)
    assert parameters.content_size == array.nbytes
    assert parameters.has_checksum


def test_the_checksum_is_little_endian_at_the_end() -> None:
    encoded = encode_chunk(np.arange(5, dtype="u1"), parse_pipeline([BYTES, CRC], "u1"))
    assert encoded == bytes(range(5)) + reference.crc32c(bytes(range(5))).to_bytes(4, "little")


def test_big_endian_chunks_are_written_so() -> None:
    encoded = encode_chunk(np.array([1], "u4"), parse_pipeline([BIG], "u4"))
    assert encoded == b"\0\0\0\1"


def test_strided_chunks_are_written_in_c_order() -> None:
    array = values((20, 30), "f4")
    pipeline = parse_pipeline([BYTES], "f4")
    assert encode_chunk(array.T[::2], pipeline) == np.ascontiguousarray(array.T[::2]).tobytes()


@pytest.mark.parametrize("name", ["zstd-crc32c", "blosc-lz4-shuffle", "blosc-zstd-shuffle"])
def test_threads_encode_the_same_bytes(name: str) -> None:
    pipeline = parse_pipeline(CHAINS[name], "f4")
    chunks = [values((5000,), "f4", seed) for seed in range(12)]
    alone = [encode_chunk(chunk, pipeline) for chunk in chunks]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda chunk: encode_chunk(chunk, pipeline), chunks * 4)) == alone * 4


def test_a_chunk_of_another_type_is_refused() -> None:
    with pytest.raises(ConfigError, match="float64 cannot be encoded as float32"):
        encode_chunk(np.zeros(3), parse_pipeline([BYTES], "f4"))


def test_a_chunk_beyond_the_limit_is_refused() -> None:
    huge = np.broadcast_to(np.zeros(1, "u1"), (2**31,))
    with pytest.raises(ConfigError, match="too large"):
        encode_chunk(huge, parse_pipeline([BYTES], "u1"))
