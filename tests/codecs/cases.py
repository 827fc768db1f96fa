"""Arrays, chains and tables for the tests of the codecs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from dataplane.codecs import ChunkTable, Pipeline, encode_chunk, parse_pipeline

BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
BIG = {"name": "bytes", "configuration": {"endian": "big"}}
CRC = {"name": "crc32c"}
MISSING = 2**64 - 1


def blosc(cname: str = "lz4", shuffle: str = "shuffle", **more: Any) -> dict[str, Any]:
    return {"name": "blosc", "configuration": {"cname": cname, "shuffle": shuffle, **more}}


ZSTD = {"name": "zstd", "configuration": {"level": 1, "checksum": True}}
LZ4 = {"name": "numcodecs.lz4"}
SHUFFLE = {"name": "numcodecs.shuffle", "configuration": {"elementsize": "as the array's"}}

CHAINS: dict[str, list[Mapping[str, Any]]] = {
    "raw": [BYTES],
    "raw-crc32c": [BYTES, CRC],
    "big-endian": [BIG],
    "zstd": [BYTES, ZSTD],
    "zstd-crc32c": [BYTES, ZSTD, CRC],
    "lz4": [BYTES, LZ4],
    "blosc-lz4-noshuffle": [BYTES, blosc("lz4", "noshuffle")],
    "blosc-lz4-shuffle": [BYTES, blosc("lz4", "shuffle")],
    "blosc-lz4-shuffle-crc32c": [BYTES, blosc("lz4", "shuffle"), CRC],
    "blosc-lz4-bitshuffle": [BYTES, blosc("lz4", "bitshuffle")],
    "blosc-lz4hc-shuffle": [BYTES, blosc("lz4hc", "shuffle", clevel=3)],
    "blosc-zstd-noshuffle": [BYTES, blosc("zstd", "noshuffle", clevel=1)],
    "blosc-zstd-shuffle": [BYTES, blosc("zstd", "shuffle", clevel=1)],
    "blosc-zstd-bitshuffle-crc32c": [BYTES, blosc("zstd", "bitshuffle", clevel=1), CRC],
    "blosc-stored": [BYTES, blosc("lz4", "shuffle", clevel=0)],
    "blosc-small-blocks": [BYTES, blosc("lz4", "shuffle", blocksize=512)],
    "blosc-odd-typesize": [BYTES, blosc("zstd", "shuffle", typesize=3)],
    "shuffle-zstd": [BYTES, SHUFFLE, ZSTD],
    "shuffle-lz4-big-endian-crc32c": [BIG, SHUFFLE, LZ4, CRC],
    "blosc-bitshuffle-big-endian": [BIG, blosc("zstd", "bitshuffle")],
    "blosc-odd-typesize-big-endian": [BIG, blosc("lz4", "shuffle", typesize=3)],
    "blosc-noshuffle-big-endian": [BIG, blosc("lz4", "noshuffle")],
    "blosc-big-endian": [BIG, blosc("zstd", "shuffle"), CRC],
}


def chain_for(chain: list[Mapping[str, Any]], dtype: np.dtype[Any]) -> list[Mapping[str, Any]]:
    """A chain with the element size of its shuffle filled in."""
    sized = {"name": SHUFFLE["name"], "configuration": {"elementsize": dtype.itemsize}}
    return [sized if step is SHUFFLE else step for step in chain]


def values(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> np.ndarray:
    """Smooth with a little noise, so that some byte planes compress and others are stored."""
    dtype = np.dtype(dtype)
    rng = np.random.default_rng(seed)
    count = int(np.prod(shape, dtype=np.int64))
    smooth = np.sin(np.arange(count) / 50) * 100 + rng.standard_normal(count) / 100
    if dtype.kind == "c":
        return (smooth + 1j * smooth[::-1]).astype(dtype).reshape(shape)
    if dtype.kind == "b":
        return (smooth > 0).reshape(shape)
    return (
        np.abs(smooth).astype(dtype).reshape(shape)
        if dtype.kind == "u"
        else smooth.astype(dtype).reshape(shape)
    )


class Stored:
    """An array encoded chunk by chunk into one buffer, as a shard holds it.

    Chunks have a gap of three bytes between them; those in `missing` are not stored.
    """

    def __init__(
        self,
        array: np.ndarray,
        chunk_shape: tuple[int, ...],
        chain: list[Mapping[str, Any]],
        missing: tuple[int, ...] = (),
        fill_value: Any = 0,
    ) -> None:
        self.array = array.copy()
        self.chunk_shape = chunk_shape
        self.fill_value = fill_value
        self.pipeline: Pipeline = parse_pipeline(chain_for(chain, array.dtype), array.dtype)
        grid = [range(-(-n // c)) for n, c in zip(array.shape, chunk_shape, strict=True)]
        source = bytearray()
        offsets, nbytes = [], []
        for number, index in enumerate(itertools.product(*grid)):
            place = tuple(
                slice(i * c, (i + 1) * c) for i, c in zip(index, chunk_shape, strict=True)
            )
            if number in missing:
                self.array[place] = fill_value
                offsets.append(MISSING)
                nbytes.append(MISSING)
                continue
            chunk = np.full(chunk_shape, fill_value, array.dtype)
            part = array[place]
            chunk[tuple(slice(n) for n in part.shape)] = part
            encoded = encode_chunk(chunk, self.pipeline)
            offsets.append(len(source))
            nbytes.append(len(encoded))
            source += encoded + b"gap"
        self.source = bytes(source)
        self.offsets = np.array(offsets, np.uint64)
        self.nbytes = np.array(nbytes, np.uint64)

    def table(self, box: Any = None, **more: Any) -> ChunkTable:
        return ChunkTable.for_box(
            shape=self.array.shape,
            chunk_shape=self.chunk_shape,
            dtype=self.array.dtype,
            pipeline=self.pipeline,
            offsets=self.offsets,
            nbytes=self.nbytes,
            fill_value=self.fill_value,
            box=box,
            **more,
        )

    def wanted(self, box: Any) -> np.ndarray:
        return self.array if box is None else self.array[tuple(slice(lo, hi) for lo, hi in box)]
