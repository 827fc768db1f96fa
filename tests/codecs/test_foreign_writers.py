"""Chunks that other Zarr implementations wrote, read from their shard files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataplane.codecs import ChunkTable, decode, parse_pipeline
from tests.codecs.cases import BYTES, CRC, blosc, values

SHAPE, SHARD, CHUNK = (40, 24, 18), (40, 24, 20), (8, 8, 5)

BIG_ENDIAN = {"name": "bytes", "configuration": {"endian": "big"}}
ZSTD = {"name": "zstd", "configuration": {"level": 3, "checksum": False}}
FRAMES = {"typesize": 4, "clevel": 5, "blocksize": 0}
INNER: dict[str, list[Any]] = {
    "raw": [BYTES],
    "blosc-lz4": [BYTES, blosc("lz4", "shuffle", **FRAMES)],
    "blosc-lz4-bit": [BYTES, blosc("lz4", "bitshuffle", **FRAMES), CRC],
    "blosc-zstd": [BYTES, blosc("zstd", "shuffle", **FRAMES), CRC],
    "blosc-zstd-none": [BYTES, blosc("zstd", "noshuffle", **FRAMES)],
    "zstd": [BYTES, ZSTD, CRC],
    "big-endian": [BIG_ENDIAN, ZSTD],
}


def write_zarr_python(folder: Path, array: np.ndarray, inner: list[Any]) -> None:
    zarr = pytest.importorskip("zarr")
    from zarr.codecs import ShardingCodec

    codec = ShardingCodec.from_dict(
        {
            "name": "sharding_indexed",
            "configuration": {
                "chunk_shape": list(CHUNK),
                "codecs": inner,
                "index_codecs": [BYTES, CRC],
            },
        }
    )  # fmt: skip
    z = zarr.create(store=str(folder), shape=SHAPE, chunks=(40, 24, 20), dtype="f4", codecs=[codec],
                    zarr_format=3, fill_value=-1)  # fmt: skip
    z[...] = array


def write_tensorstore(folder: Path, array: np.ndarray, inner: list[Any]) -> None:
    tensorstore = pytest.importorskip("tensorstore")
    sharding = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": list(CHUNK),
            "codecs": inner,
            "index_codecs": [BYTES, CRC],
        },
    }
    metadata = {
        "shape": list(SHAPE),
        "data_type": "float32",
        "fill_value": -1,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(SHARD)}},
        "codecs": [sharding],
    }
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder)}}
    store = tensorstore.open(spec | {"metadata": metadata}, create=True).result()
    store.write(array).result()


@pytest.mark.parametrize("write", [write_zarr_python, write_tensorstore])
@pytest.mark.parametrize("name", INNER)
def test_shards_of_other_writers_decode(tmp_path: Path, write: Any, name: str) -> None:
    array = values(SHAPE, "f4")
    array[:16, :8] = -1  # all fill value: writers leave these chunks out
    write(tmp_path / "a", array, INNER[name])
    metadata = json.loads((tmp_path / "a" / "zarr.json").read_text())
    (sharding,) = metadata["codecs"]
    pipeline = parse_pipeline(sharding["configuration"]["codecs"], "f4")
    (shard,) = [p for p in (tmp_path / "a").rglob("*") if p.is_file() and p.suffix != ".json"]
    source = shard.read_bytes()
    grid = [-(-n // c) for n, c in zip(SHARD, CHUNK, strict=True)]
    index = np.frombuffer(source[-4 - 16 * int(np.prod(grid)) : -4], "<u8").reshape(*grid, 2)
    # Inner chunks beyond the array's shape exist in the shard, but not in the array's own grid.
    index = index[tuple(slice(-(-n // c)) for n, c in zip(SHAPE, CHUNK, strict=True))].reshape(
        -1, 2
    )
    table = ChunkTable.for_box(
        shape=SHAPE, chunk_shape=CHUNK, dtype="f4", pipeline=pipeline,
        offsets=index[:, 0].copy(), nbytes=index[:, 1].copy(), fill_value=metadata["fill_value"],
    )  # fmt: skip
    out = np.empty(SHAPE, "f4")
    decode(table, [source], [out], threads=2)
    assert np.array_equal(out, array)
    assert (table.rows["codec"] == 4).sum() == 8
