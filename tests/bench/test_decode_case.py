"""The parts of the decode benchmark that compute something."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataplane.codecs import ChunkTable, parse_pipeline
from dataplane.errors import ConfigError
from dataplane_bench import callgrind
from dataplane_bench.cases import decode_data
from dataplane_bench.cases.decode import DecodeOptions
from dataplane_bench.cases.decode_systems import Memcpy, OurDecoder, StoredArray
from dataplane_bench.rivals.decoders import Blosc2, Numcodecs, TensorStore, aligned_empty, batch_for
from tests.bench.inside import copies_of, delivered_by


@pytest.mark.parametrize(
    ("shape", "chunk_bytes", "expected"),
    [
        ((4, 128, 128, 128), 512 << 10, (1, 32, 64, 64)),
        ((256, 256, 256), 64 << 10, (16, 32, 32)),
        ((5_000_000, 3), 64 << 10, (5461, 3)),
        ((500_000,), 16 << 10, (4096,)),
        ((10,), 16 << 10, (10,)),
    ],
)
def test_chunks_hold_about_as_much_as_asked(
    shape: tuple[int, ...], chunk_bytes: int, expected: tuple[int, ...]
) -> None:
    assert decode_data.chunk_shape_for(shape, 4, chunk_bytes) == expected


def test_a_volume_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot cut"):
        decode_data.chunk_shape_for((9, 9, 9), 4, 64)


@pytest.mark.parametrize("field", ["data", "selections", "codecs"])
def test_unknown_names_are_refused_with_the_known_ones(field: str) -> None:
    names: Any = {field: ("nonsense",)}
    with pytest.raises(ConfigError, match="unknown name 'nonsense'"):
        DecodeOptions(**names)


def needed(shape: tuple[int, ...], chunk: tuple[int, ...], box: Any, block: int) -> int:
    """Bytes of the blocks of one blosc chunk that a box touches."""
    header = b"\2\1\x21\4" + bytes(4) + block.to_bytes(4, "little") + bytes(4)
    blosc: dict[str, Any] = {"name": "blosc", "configuration": {"cname": "lz4"}}
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    table = ChunkTable.for_box(
        shape=shape, chunk_shape=chunk, dtype="f4", pipeline=parse_pipeline([little, blosc], "f4"),
        offsets=np.zeros(1, np.uint64), nbytes=np.array([16], np.uint64), box=box,
    )  # fmt: skip
    return round(decode_data.needed_fraction(table, memoryview(header), 4) * 4)


def test_a_selection_needs_the_blocks_that_it_touches() -> None:
    cube = (8, 8, 8)  # 256 bytes per plane
    assert needed(cube, cube, [(0, 8)] * 3, 256) == 2048
    assert needed(cube, cube, [(2, 4), (0, 8), (0, 8)], 256) == 512
    assert needed(cube, cube, [(2, 4), (3, 4), (1, 2)], 256) == 512
    assert needed(cube, cube, [(7, 8), (7, 8), (7, 8)], 1000) == 48, "the last block is shorter"
    assert needed((100,), (100,), [(16, 33)], 64) == 128


def test_without_valgrind_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(ConfigError, match="valgrind") as caught:
        callgrind.require_valgrind()
    assert "apt-get install valgrind" in str(caught.value.hint)


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Path, np.ndarray]:
    array = np.arange(20_000 * 3, dtype="f4").reshape(-1, 3) / 7
    decode_data.write(tmp_path / "array", array, "blosc-lz4", 16 << 10)
    return tmp_path / "array", array


def test_readers_of_boxes_deliver_the_same_elements(stored: tuple[Path, np.ndarray]) -> None:
    path, array = stored
    boxes = decode_data.runs(array.shape, 3000, 3, seed=1)
    for reader in (OurDecoder, Blosc2, Numcodecs, TensorStore):
        system: Any = reader(path, 1, boxes)
        assert system.run().nbytes == 3 * 3000 * 12
        for out, ((start, stop), _) in zip(delivered_by(system), boxes, strict=True):
            assert np.array_equal(out, array[start:stop])
        system.close()


@pytest.mark.parametrize("threads", [1, 3])
def test_the_copy_ceiling_copies_every_byte(stored: tuple[Path, np.ndarray], threads: int) -> None:
    path, array = stored
    ceiling = Memcpy(path, threads)
    assert ceiling.run().nbytes == array.nbytes
    assert [bool((copy == 1).all()) for copy in copies_of(ceiling)] == [True] * threads
    assert sum(copy.nbytes for copy in copies_of(ceiling)) == array.nbytes
    ceiling.close()


def test_destinations_begin_at_a_cache_line() -> None:
    for nbytes in (4, 1000, 1 << 20):
        array = aligned_empty((nbytes // 4,), np.dtype("f4"))
        assert array.ctypes.data % 64 == 0
        assert array.nbytes == nbytes // 4 * 4
    for out, width in zip(
        batch_for([((2, 5),), ((0, 100),)], np.dtype("f4")), (3, 100), strict=True
    ):
        assert out.shape == (width,)
        assert out.ctypes.data % 64 == 0


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_instructions_are_counted_per_wanted_byte(stored: tuple[Path, np.ndarray]) -> None:
    array = StoredArray(stored[0], None)
    counted = callgrind.instructions_per_byte("decode", array.table, array.encoded, array.outs)
    assert 0.05 < counted < 20
