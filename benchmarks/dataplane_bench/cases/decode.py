"""How fast one Zarr v3 array decodes, beside other readers of the same files and two ceilings.

The input is a turbulent float32 field that zarr-python writes as one shard per codec and inner
chunk size. Every system finds the files in the page cache: ours, blosc2 and numcodecs map them, the
others read them through their own stores. The ceilings are the codec alone (each stream
decompressed into scratch that stays in the cache, nothing un-shuffled or placed) and memcpy of the
decoded array.
"""

from __future__ import annotations

import dataclasses
import functools
import mmap
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dataplane.codecs import ChunkTable, codec_alone, decode, parse_pipeline
from dataplane.errors import ConfigError
from dataplane.testing.generate import turbulence
from dataplane_bench.model import CEILING_PREFIX, OUR_SYSTEM, Case, Cost, Row, System, summarise
from dataplane_bench.rivals import decoders
from dataplane_bench.rounds import run_rounds, start_all, timed

__all__ = ["CODECS", "DecodeOptions", "run"]

CODECS = ("blosc-zstd", "blosc-lz4")
_CNAME: dict[str, Literal["zstd", "lz4"]] = {"blosc-zstd": "zstd", "blosc-lz4": "lz4"}
_LEVEL = {"blosc-zstd": 1, "blosc-lz4": 5}
_CEILING = f"{CEILING_PREFIX}codec"


@dataclasses.dataclass(frozen=True, slots=True)
class DecodeOptions:
    """What to decode and how often.

    Attributes:
        edge: elements per edge of the cube; the array is float32[4, edge, edge, edge].
        codecs: names from `CODECS`.
        chunk_bytes: decoded sizes of inner chunks.
        threads: thread counts, one comparison each.
        rounds: counted rounds; one more warms up.
        seed: of the field and of the order of systems.
    """

    edge: int = 128
    codecs: tuple[str, ...] = CODECS
    chunk_bytes: tuple[int, ...] = (64 << 10, 512 << 10)
    threads: tuple[int, ...] = (1,)
    rounds: int = 7
    seed: int = 0


def run(options: DecodeOptions, progress: Callable[[str], None]) -> list[Row]:
    """Run every comparison and return its rows."""
    rows: list[Row] = []
    components = [
        turbulence((options.edge,) * 3, seed=(options.seed, component)) for component in range(4)
    ]
    field = np.stack(components)
    with tempfile.TemporaryDirectory(prefix="dataplane-bench-") as folder:
        for codec in options.codecs:
            for chunk_bytes in options.chunk_bytes:
                path = Path(folder) / f"{codec}-{chunk_bytes}"
                _write(path, field, codec, chunk_bytes)
                for threads in options.threads:
                    case = Case(
                        "decode",
                        f"turbulence float32 4×{options.edge}³",
                        codec=codec,
                        chunk_bytes=chunk_bytes,
                        selection="whole",
                        state="page cache",
                    )
                    rows += _compare(case, path, threads, options, progress)
    return rows


def _compare(
    case: Case,
    path: Path,
    threads: int,
    options: DecodeOptions,
    progress: Callable[[str], None],
) -> list[Row]:
    contenders: list[tuple[str, int, Callable[[], System]]] = [
        (OUR_SYSTEM, threads, functools.partial(OurDecoder, path, threads)),
        *((d.name, threads, functools.partial(d, path, threads)) for d in decoders.DECODERS),
        (_CEILING, threads, functools.partial(CodecAlone, path, threads)),
        (Memcpy.name, 1, functools.partial(Memcpy, path, 1)),
    ]
    alive, costs = run_rounds(
        start_all(contenders, progress),
        rounds=options.rounds,
        warmup=1,
        seed=options.seed,
        progress=progress,
    )
    return summarise(case, alive, costs, ceiling=_CEILING)


class _OurArray:
    """The benchmark's array, ready for our decoder: bytes, chunk table, destination."""

    def __init__(self, path: Path) -> None:
        meta, shard_path, offsets, nbytes = decoders.read_shard_index(path)
        sharding = meta["codecs"][0]["configuration"]
        dtype = np.dtype(meta["data_type"])
        shape = tuple(meta["shape"])
        with shard_path.open("rb") as stream:
            self.encoded = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        self.out = np.empty(shape, dtype)
        self.table = ChunkTable.for_box(
            shape=shape,
            chunk_shape=tuple(sharding["chunk_shape"]),
            dtype=dtype,
            pipeline=parse_pipeline(sharding["codecs"], dtype),
            offsets=offsets,
            nbytes=nbytes,
            fill_value=meta["fill_value"],
            box=None,
            source=0,
            source_start=0,
            destination=0,
            destination_start=None,
        )


class OurDecoder:
    """`dataplane.codecs.decode`, from the mapped shard into a destination allocated once."""

    name = OUR_SYSTEM

    def __init__(self, path: Path, threads: int) -> None:
        self.threads = threads
        self._array = _OurArray(path)

    def run(self) -> Cost:
        """Decode the whole array."""
        array = self._array

        def work() -> int:
            decode(array.table, [array.encoded], [array.out], threads=self.threads)
            return int(array.out.nbytes)

        return timed(work, samples=1)

    def close(self) -> None:
        """Nothing stays open."""


class CodecAlone:
    """The ceiling: every stream decompressed into scratch, no un-shuffle, no placement."""

    name = _CEILING

    def __init__(self, path: Path, threads: int) -> None:
        self.threads = threads
        self._array = _OurArray(path)

    def run(self) -> Cost:
        """Decompress every stream once."""
        array = self._array

        def work() -> int:
            codec_alone(array.table, [array.encoded], threads=self.threads)
            return int(array.out.nbytes)

        return timed(work, samples=1)

    def close(self) -> None:
        """Nothing stays open."""


class Memcpy:
    """The ceiling of ceilings: the decoded array copied to memory that is allocated once."""

    name = f"{CEILING_PREFIX}memcpy"

    def __init__(self, path: Path, threads: int) -> None:
        self.threads = threads
        shape = _OurArray(path).out.shape
        self._from = np.ones(shape, np.float32)
        self._to = np.empty_like(self._from)

    def run(self) -> Cost:
        """Copy once."""

        def work() -> int:
            np.copyto(self._to, self._from)
            return int(self._to.nbytes)

        return timed(work, samples=1)

    def close(self) -> None:
        """Nothing stays open."""


def chunk_shape_for(shape: Sequence[int], itemsize: int, chunk_bytes: int) -> tuple[int, ...]:
    """Halve the longest edge until a chunk of one component fits `chunk_bytes`.

    Raises:
        ConfigError: the edges cannot be halved evenly that far.
    """
    chunk = [1, *shape[1:]]
    while int(np.prod(chunk)) * itemsize > chunk_bytes:
        longest = max(range(len(chunk) - 1, 0, -1), key=lambda axis: chunk[axis])
        longest = next(axis for axis in range(1, len(chunk)) if chunk[axis] == chunk[longest])
        if chunk[longest] % 2:
            raise ConfigError(f"cannot cut {tuple(shape)} into chunks of {chunk_bytes} bytes")
        chunk[longest] //= 2
    return tuple(chunk)


def _write(path: Path, field: npt.NDArray[Any], codec: str, chunk_bytes: int) -> None:
    import zarr
    from zarr.codecs import BloscCodec

    if codec not in CODECS:
        raise ConfigError(f"unknown codec {codec!r}", hint=f"one of {', '.join(CODECS)}")
    array = zarr.create_array(
        store=str(path),
        shape=field.shape,
        dtype=field.dtype,
        shards=field.shape,
        chunks=chunk_shape_for(field.shape, field.itemsize, chunk_bytes),
        compressors=BloscCodec(
            cname=_CNAME[codec],
            clevel=_LEVEL[codec],
            shuffle="shuffle",
            typesize=field.itemsize,
        ),
        fill_value=0,
    )
    array[...] = field
