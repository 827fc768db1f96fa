"""Encoded chunks are what other libraries read."""

from __future__ import annotations

import multiprocessing
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zstandard
from numcodecs import blosc as numcodecs_blosc

from dataplane.codecs import encode_chunk, encode_chunks, parse_pipeline, reference
from dataplane.errors import ConfigError
from tests.codecs.cases import BIG, BYTES, CHAINS, CRC, ZSTD, blosc, chain_for, values


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
    pipeline = parse_pipeline(chain_for(CHAINS[name], np.dtype("f4")), "f4")
    chunks = [values((5000,), "f4", seed) for seed in range(12)]
    alone = [encode_chunk(chunk, pipeline) for chunk in chunks]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda chunk: encode_chunk(chunk, pipeline), chunks * 4)) == alone * 4


@pytest.mark.parametrize("name", CHAINS)
def test_any_number_of_native_threads_encodes_the_same_bytes(name: str) -> None:
    dtype = "f4"
    pipeline = parse_pipeline(chain_for(CHAINS[name], np.dtype(dtype)), dtype)
    chunks = [values((4000 + 100 * seed,), dtype, seed) for seed in range(9)]
    alone = [encode_chunk(chunk, pipeline) for chunk in chunks]
    for threads in (1, 2, 5):
        assert encode_chunks(chunks, pipeline, threads=threads) == alone


def test_no_chunks_encode_to_nothing() -> None:
    assert encode_chunks([], parse_pipeline([BYTES], "f4"), threads=3) == []


@pytest.mark.parametrize("threads", [0, 257])
def test_a_senseless_number_of_threads_is_refused(threads: int) -> None:
    with pytest.raises(ConfigError, match="threads"):
        encode_chunks([np.zeros(3, "f4")], parse_pipeline([BYTES], "f4"), threads=threads)


@pytest.mark.parametrize("cname", ["lz4", "zstd"])
def test_bit_shuffled_chunks_of_any_length_compress(cname: str) -> None:
    """Readers skip bit shuffle where elements do not come in eights; whole chunks must not be."""
    array = np.arange(3 * 15_625, dtype="i4") // 3
    chain = [BYTES, blosc(cname, "bitshuffle", clevel=1)]
    encoded = encode_chunk(array, parse_pipeline(chain, "i4"))
    assert len(encoded) * 10 < array.nbytes
    assert numcodecs_blosc.decompress(encoded) == array.tobytes()


def test_a_forked_child_encodes_too() -> None:
    """The parent's threads are not there after a fork; an encoder that waits for them hangs."""
    pipeline = parse_pipeline(CHAINS["blosc-lz4-shuffle"], "f4")
    chunks = [values((5000,), "f4", seed) for seed in range(8)]
    expected = encode_chunks(chunks, pipeline, threads=3)
    context = multiprocessing.get_context("fork")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # this test is about threads and fork
        with context.Pool(1) as pool:
            child = pool.apply_async(_encode_in_child, (chunks,)).get(30)
    assert child == expected


def _encode_in_child(chunks: list[np.ndarray]) -> list[bytes]:
    return encode_chunks(chunks, parse_pipeline(CHAINS["blosc-lz4-shuffle"], "f4"), threads=3)


def test_a_chunk_of_another_type_is_refused() -> None:
    with pytest.raises(ConfigError, match="float64 cannot be encoded as float32"):
        encode_chunk(np.zeros(3), parse_pipeline([BYTES], "f4"))


def test_a_chunk_beyond_the_limit_is_refused() -> None:
    huge = np.broadcast_to(np.zeros(1, "u1"), (2**31,))
    with pytest.raises(ConfigError, match="too large"):
        encode_chunk(huge, parse_pipeline([BYTES], "u1"))
