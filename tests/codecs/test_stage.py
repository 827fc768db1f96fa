"""Staged streams, inflated on the CPU by other libraries, are what `decode` gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lz4.block
import numpy as np
import pytest
import zstandard

from dataplane import _native
from dataplane.codecs import (
    STAGE_ALIGN,
    STREAM_DTYPE,
    ChunkTable,
    Codec,
    decode,
    stage,
    staged_bytes,
)
from dataplane.errors import ChecksumMismatch, ConfigError, DecodeError, FormatError
from tests.codecs.cases import BYTES, CHAINS, CRC, Stored, blosc, values

SHAPE, CHUNK = (40, 33), (16, 33)


def aligned(size: int, extra: int = 0) -> np.ndarray:
    """Return `size` bytes that begin `extra` bytes after a boundary, all of them 0xEE."""
    memory = np.full(size + 2 * STAGE_ALIGN, 0xEE, np.uint8)
    start = -memory.ctypes.data % STAGE_ALIGN + extra
    return memory[start : start + size]


def inflate(stream: np.void, buffer: np.ndarray) -> bytes:
    """Inflate one stream with nothing but LZ4 or zstd."""
    encoded = buffer[int(stream["offset"]) :][: int(stream["nbytes"])].tobytes()
    size = int(stream["decoded_bytes"])
    if stream["codec"] == Codec.LZ4:
        return lz4.block.decompress(encoded, uncompressed_size=size)
    decoder = zstandard.ZstdDecompressor().decompressobj()
    return decoder.decompress(encoded) + decoder.flush()


def unshuffled(chunk: bytes, streams: np.ndarray) -> bytes:
    """Undo the shuffle of every block of a chunk, with NumPy."""
    out = bytearray(chunk)
    seen = set()
    for stream in streams:
        size, typesize = int(stream["block_bytes"]), int(stream["typesize"])
        # Blocks are as long as the first, but for the last one.
        begin = int(stream["decoded_start"]) // int(streams["block_bytes"][0])
        begin *= int(streams["block_bytes"][0])
        if begin in seen:
            continue
        seen.add(begin)
        count = size // typesize
        whole = np.frombuffer(chunk, np.uint8, count * typesize, begin)
        if stream["shuffle"] == 1:
            plain = whole.reshape(typesize, count).T
        elif stream["shuffle"] == 2:
            bits = np.unpackbits(whole, bitorder="little").reshape(typesize, 8, count)
            plain = np.packbits(bits.transpose(2, 0, 1), axis=2, bitorder="little")
        else:
            continue
        out[begin : begin + count * typesize] = plain.tobytes()
    return bytes(out)


def chunks_of(table: ChunkTable, streams: np.ndarray, buffer: np.ndarray) -> list[bytes | None]:
    chunks: list[bytes | None] = []
    for row in range(len(table)):
        mine = streams[streams["row"] == row]
        if not len(mine):
            chunks.append(None)
            continue
        parts = [inflate(stream, buffer) for stream in mine]
        starts = np.cumsum([0, *map(len, parts)])[:-1]
        assert mine["decoded_start"].tolist() == starts.tolist()
        chunks.append(unshuffled(b"".join(parts), mine))
    return chunks


def check(stored: Stored, threads: int = 1) -> np.ndarray:
    table = stored.table()
    buffer = aligned(staged_bytes(table, [stored.source]))
    streams = stage(table, [stored.source], buffer, threads=threads)
    assert not (streams["offset"] % STAGE_ALIGN).any()
    ends = streams["offset"] + streams["nbytes"]
    assert (streams["offset"][1:] >= ends[:-1]).all()
    assert int(ends[-1]) == len(buffer)
    for row, chunk in enumerate(chunks_of(table, streams, buffer)):
        one = ChunkTable(table.rows[row : row + 1].copy())
        one.rows["extent"] = one.rows["chunk_shape"]
        one.rows["destination_start"] = 0
        if chunk is None:
            assert table.rows["codec"][row] == Codec.FILL
            continue
        out = np.empty(stored.chunk_shape, stored.array.dtype)
        decode(one, [stored.source], [out])
        if stored.pipeline.big_endian:
            out = out.byteswap()
        assert chunk == out.tobytes()
    return streams


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", CHAINS)
def test_inflated_streams_are_the_chunks(name: str, threads: int) -> None:
    stored = Stored(values(SHAPE, "f4"), CHUNK, CHAINS[name], missing=(1,))
    check(stored, threads)


@pytest.mark.parametrize("dtype", ["u1", "i2", "f8"])
@pytest.mark.parametrize("cname", ["lz4", "zstd"])
@pytest.mark.parametrize("shuffle", ["noshuffle", "shuffle", "bitshuffle"])
def test_blocks_and_planes_of_every_width(dtype: str, cname: str, shuffle: str) -> None:
    chain = [BYTES, blosc(cname, shuffle, blocksize=4096)]
    check(Stored(values((3, 20_000), dtype), (1, 20_000), chain))


@pytest.mark.parametrize("cname", ["lz4", "zstd"])
@pytest.mark.parametrize("count", [1, 14, 15, 16, 269, 270, 271, 65_536, 300_001])
def test_noise_is_wrapped_so_that_it_inflates_too(cname: str, count: int) -> None:
    noise = np.random.default_rng(count).integers(0, 256, count, np.uint8)
    streams = check(Stored(noise, (count,), [BYTES, blosc(cname, "noshuffle")]))
    # A run of literals costs a 255th, a raw zstd block three bytes.
    assert streams["nbytes"].sum() <= count + count // 255 + 16


def test_a_table_without_streams_needs_no_room() -> None:
    stored = Stored(values((8,), "f4"), (4,), CHAINS["raw"], missing=(0, 1))
    assert staged_bytes(stored.table(), [stored.source]) == 0
    assert len(stage(stored.table(), [stored.source], aligned(0))) == 0
    empty = ChunkTable(stored.table().rows[:0])
    assert len(stage(empty, [], aligned(0))) == 0


def test_what_is_beyond_the_streams_is_not_written_and_gaps_are_zero() -> None:
    stored = Stored(values(SHAPE, "f4"), CHUNK, CHAINS["blosc-lz4-shuffle"])
    table = stored.table()
    needed = staged_bytes(table, [stored.source])
    buffer = aligned(needed + 100)
    streams = stage(table, [stored.source], buffer)
    assert (buffer[needed:] == 0xEE).all()
    ends = (streams["offset"] + streams["nbytes"])[:-1].astype(int)
    for end, start in zip(ends, streams["offset"][1:].astype(int), strict=True):
        assert not buffer[end:start].any()


def test_a_buffer_that_is_too_small_or_begins_elsewhere_is_refused() -> None:
    stored = Stored(values(SHAPE, "f4"), CHUNK, CHAINS["blosc-lz4-shuffle"])
    table = stored.table()
    needed = staged_bytes(table, [stored.source])
    small = aligned(needed - 1)
    with pytest.raises(ConfigError, match=f"need {needed} bytes, the buffer has {needed - 1}"):
        stage(table, [stored.source], small)
    assert (small == 0xEE).all()
    shifted = aligned(needed, extra=4)
    with pytest.raises(ConfigError, match="4 bytes after a multiple of 16"):
        stage(table, [stored.source], shifted)
    assert (shifted == 0xEE).all()
    with pytest.raises(ConfigError, match="threads"):
        stage(table, [stored.source], aligned(needed), threads=0)


@pytest.mark.parametrize("name", ["blosc-lz4-shuffle-crc32c", "zstd-crc32c", "raw-crc32c"])
def test_checksums_are_checked(name: str) -> None:
    stored = Stored(values(SHAPE, "f4"), CHUNK, CHAINS[name])
    source = bytearray(stored.source)
    source[int(stored.offsets[2]) + 7] ^= 1
    with pytest.raises(ChecksumMismatch, match="the third"):
        staged_bytes(stored.table(), [bytes(source)], threads=2, describe=lambda _: "the third")


@pytest.mark.parametrize("name", ["raw", "lz4", "blosc-lz4-shuffle", "blosc-zstd-shuffle"])
def test_every_prefix_is_refused(name: str) -> None:
    stored = Stored(values((300,), "f4"), (300,), CHAINS[name])
    table = stored.table()
    for size in range(int(stored.nbytes[0])):
        table.rows["source_nbytes"] = size
        if name == "lz4" and size >= 4:
            continue  # what is in an LZ4 block is not looked at
        with pytest.raises(DecodeError):
            staged_bytes(table, [stored.source])


def test_frames_with_lying_numbers_never_stage_more_than_they_hold() -> None:
    stored = Stored(values((900,), "f4"), (900,), CHAINS["blosc-small-blocks"])
    table = stored.table()
    rng = np.random.default_rng(0)
    for _ in range(2000):
        source = bytearray(stored.source)
        at = 4 * int(rng.integers(0, 24))
        source[at : at + 4] = int(rng.integers(0, 2**32) >> rng.integers(0, 32)).to_bytes(
            4, "little"
        )
        try:
            needed = staged_bytes(table, [bytes(source)])
        except (DecodeError, FormatError):
            continue
        streams = stage(table, [bytes(source)], aligned(needed))
        assert int(streams["decoded_bytes"].sum()) == 3600


def test_the_records_have_the_native_layout() -> None:
    layout: Mapping[str, Any] = _native.staged_stream_layout
    assert dict(STREAM_DTYPE.fields) == {
        name: (STREAM_DTYPE[name], offset) for name, (offset, _) in layout.items()
    }
    assert all(STREAM_DTYPE[name].itemsize == size for name, (_, size) in layout.items())
    assert STREAM_DTYPE.itemsize == 48


def test_tables_of_several_arrays_stage_together() -> None:
    parts = [
        Stored(values(SHAPE, "f4"), CHUNK, CHAINS["blosc-lz4-shuffle"]),
        Stored(values(SHAPE, "i4"), CHUNK, [BYTES, blosc("zstd", "bitshuffle"), CRC]),
    ]
    table = ChunkTable.concatenate(
        [part.table(source=i, destination=i) for i, part in enumerate(parts)]
    )
    sources = [part.source for part in parts]
    buffer = aligned(staged_bytes(table, sources))
    streams = stage(table, sources, buffer, threads=2)
    assert set(streams["codec"][streams["row"] < 3]) == {Codec.LZ4}
    assert set(streams["codec"][streams["row"] >= 3]) == {Codec.ZSTD}
    chunks = chunks_of(table, streams, buffer)
    assert chunks[0] == parts[0].array[:16].tobytes()
    assert chunks[3] == parts[1].array[:16].tobytes()
