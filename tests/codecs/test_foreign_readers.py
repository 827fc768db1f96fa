"""Chunks that this project writes, read by the libraries that other people read them with."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numcodecs import blosc as numcodecs_blosc

from dataplane.codecs import encode_chunk, encode_chunks, parse_pipeline
from tests.codecs.cases import BYTES, CRC, LZ4, ZSTD, blosc, values

SHUFFLES = ["noshuffle", "shuffle", "bitshuffle"]
FRAMES = [
    pytest.param(cname, level, shuffle, id=f"{cname}-{level}-{shuffle}")
    for (cname, level), shuffle in itertools.product(
        [("lz4", 1), ("lz4", 9), ("lz4hc", 4), ("zstd", 1), ("zstd", 4)], SHUFFLES
    )
]
CHAINS: dict[str, list[Any]] = {
    f"blosc-{cname}-{shuffle}": [BYTES, blosc(cname, shuffle, typesize=4, clevel=4, blocksize=0)]
    for cname, shuffle in itertools.product(["lz4", "lz4hc", "zstd"], SHUFFLES)
} | {
    "blosc-crc32c": [BYTES, blosc("zstd", "shuffle", typesize=4, clevel=1, blocksize=2048), CRC],
    "blosc-stored": [BYTES, blosc("lz4", "shuffle", typesize=4, clevel=0, blocksize=0), CRC],
    "zstd-crc32c": [BYTES, ZSTD, CRC],
}


def frames_of(cname: str, level: int, shuffle: str) -> Iterator[tuple[bytes, bytes]]:
    """Elements of every width and chunks of every kind of length, and their frames."""
    for dtype in ("u1", "i2", "f4", "f8"):
        for count, blocksize in [(1, 0), (77, 0), (5003, 0), (100_001, 0), (20_000, 4096)]:
            array = values((count,), dtype, seed=count)
            more = {"clevel": level, "blocksize": blocksize}
            pipeline = parse_pipeline([BYTES, blosc(cname, shuffle, **more)], dtype)
            yield array.tobytes(), encode_chunk(array, pipeline)


@pytest.mark.parametrize(("cname", "level", "shuffle"), FRAMES)
def test_c_blosc_reads_every_frame(cname: str, level: int, shuffle: str) -> None:
    for elements, frame in frames_of(cname, level, shuffle):
        assert numcodecs_blosc.decompress(frame) == elements
        assert len(frame) <= len(elements) + 16


@pytest.mark.parametrize(("cname", "level", "shuffle"), FRAMES)
def test_blosc2_reads_every_frame(cname: str, level: int, shuffle: str) -> None:
    blosc2 = pytest.importorskip("blosc2")
    for elements, frame in frames_of(cname, level, shuffle):
        assert blosc2.decompress(frame) == elements


@pytest.mark.parametrize("size", [1, 100, 70_000])
def test_numcodecs_reads_lz4_chunks(size: int) -> None:
    numcodecs = pytest.importorskip("numcodecs")
    array = values((size,), "f4")
    encoded = encode_chunk(array, parse_pipeline([BYTES, LZ4], "f4"))
    assert bytes(numcodecs.LZ4().decode(encoded)) == array.tobytes()


class Written:
    """An array in a folder, as a Zarr v3 store holds it: metadata, and a file for every chunk."""

    def __init__(self, folder: Path, chain: list[Any]) -> None:
        self.folder = folder
        self.array = values((60, 50), "f4")
        chunk = (31, 50)
        document = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [60, 50],
            "data_type": "float32",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
            "chunk_key_encoding": {"name": "default"},
            "fill_value": 0.0,
            "codecs": chain,
            "attributes": {},
        }
        (folder / "c" / "0").mkdir(parents=True)
        (folder / "c" / "1").mkdir()
        (folder / "zarr.json").write_text(json.dumps(document))
        padded = np.zeros((62, 50), "f4")
        padded[:60] = self.array
        pipeline = parse_pipeline(chain, "f4")
        for i, encoded in enumerate(encode_chunks([padded[:31], padded[31:]], pipeline, threads=2)):
            (folder / "c" / str(i) / "0").write_bytes(encoded)


@pytest.fixture(params=CHAINS)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Written:
    return Written(tmp_path, CHAINS[request.param])


PIPELINES = ["zarr.core.codec_pipeline.BatchedCodecPipeline", "zarrs.ZarrsCodecPipeline"]


@pytest.mark.parametrize("codec_pipeline", PIPELINES)
def test_zarr_python_and_zarrs_read_every_chunk(written: Written, codec_pipeline: str) -> None:
    zarr = pytest.importorskip("zarr")
    pytest.importorskip(codec_pipeline.split(".")[0])
    with zarr.config.set({"codec_pipeline.path": codec_pipeline}):
        read = zarr.open_array(str(written.folder), mode="r")[...]
    np.testing.assert_array_equal(read, written.array)


def test_tensorstore_reads_every_chunk(written: Written) -> None:
    tensorstore = pytest.importorskip("tensorstore")
    kvstore = {"driver": "file", "path": str(written.folder)}
    store = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result()
    np.testing.assert_array_equal(store.read().result(), written.array)
