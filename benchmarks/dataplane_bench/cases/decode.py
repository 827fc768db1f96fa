"""The decode case: throughput of Zarr v3 arrays, beside rivals on the same files and ceilings.

`decode_data` generates and stores the arrays. Every system finds the files in the page cache: ours,
blosc2 and numcodecs map them, the others read them through their own stores. Destinations that are
allocated once begin at a multiple of 64 bytes for every system that has one, as tensors do.

Ceilings. Of whole arrays: the codec alone (each stream decompressed into scratch that stays in the
cache, nothing un-shuffled or placed), and memcpy of the decoded array, by as many threads. Of crops
and runs: the cost of the whole array, scaled to the blocks that the selection touches.
"""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from dataplane.errors import ConfigError
from dataplane_bench import callgrind
from dataplane_bench.cases import decode_data, decode_systems
from dataplane_bench.cases.decode_data import CODECS, WHOLE_ARRAYS, Box, Sizes
from dataplane_bench.model import Case, Row, System, summarise
from dataplane_bench.rivals import decoders
from dataplane_bench.rounds import run_rounds, start_all

__all__ = [
    "CHUNK_BYTES",
    "CODECS",
    "SELECTIONS",
    "WHOLE_ARRAYS",
    "DecodeOptions",
    "Sizes",
    "run",
]

SELECTIONS = ("whole", "crop", "run")
CHUNK_BYTES = (16 << 10, 64 << 10, 256 << 10, 512 << 10, 2 << 20)


@dataclasses.dataclass(frozen=True, slots=True)
class DecodeOptions:
    """Options of the decode case.

    Attributes:
        data: arrays that are read whole, of `WHOLE_ARRAYS`.
        selections: selections, of `SELECTIONS`; crops and runs have data of their own.
        codecs: names from `CODECS`.
        chunk_bytes: decoded sizes of inner chunks.
        threads: thread counts, one comparison each.
        rounds: counted rounds; one more warms up.
        seed: seed of the data, the selections and the order of systems.
        sizes: sizes of data and selections.
        count_instructions: whether to run our decoder and the codec alone under callgrind, too.
    """

    data: tuple[str, ...] = ("turbulence",)
    selections: tuple[str, ...] = SELECTIONS
    codecs: tuple[str, ...] = ("blosc-zstd", "blosc-lz4")
    chunk_bytes: tuple[int, ...] = (64 << 10, 512 << 10)
    threads: tuple[int, ...] = (1,)
    rounds: int = 7
    seed: int = 0
    sizes: Sizes = dataclasses.field(default_factory=Sizes)
    count_instructions: bool = False

    def __post_init__(self) -> None:
        for given, known in (
            (self.data, WHOLE_ARRAYS),
            (self.selections, SELECTIONS),
            (self.codecs, CODECS),
        ):
            for name in given:
                if name not in known:
                    raise ConfigError(f"unknown name {name!r}", hint=f"one of {', '.join(known)}")


def run(options: DecodeOptions, progress: Callable[[str], None]) -> list[Row]:
    """Run every comparison and return its rows.

    Raises:
        ConfigError: instructions are to be counted and valgrind is not installed.
    """
    if options.count_instructions:
        callgrind.require_valgrind()
    rows: list[Row] = []
    for dataset, array, selection, boxes in _inputs(options, progress):
        for codec in options.codecs:
            for chunk_bytes in options.chunk_bytes:
                with tempfile.TemporaryDirectory(prefix="dataplane-bench-") as folder:
                    progress(f"writing {dataset}, {codec}")
                    path = Path(folder) / "array"
                    decode_data.write(path, array, codec, chunk_bytes)
                    case = Case("decode", dataset, codec, chunk_bytes, selection, "page cache")
                    comparison = _Comparison(case, path, boxes)
                    for threads in options.threads:
                        rows += _compare(comparison, threads, options, progress)
    return rows


def _inputs(
    options: DecodeOptions, progress: Callable[[str], None]
) -> Iterator[tuple[str, npt.NDArray[Any], str, tuple[Box, ...] | None]]:
    """Make (name, array, selection, boxes), one array at a time."""
    sizes, seed = options.sizes, options.seed
    if "whole" in options.selections:
        for name in options.data:
            progress(f"generating {name}")
            array = decode_data.generate(name, sizes, seed)
            yield _title(name, array), array, "whole", None
    if "crop" in options.selections:
        progress("generating a volume")
        array = decode_data.generate("volume", sizes, seed)
        boxes = decode_data.crops(array.shape, sizes.crop_edge, sizes.count, seed)
        yield _title("turbulence", array), array, f"{sizes.count} crops {sizes.crop_edge}³", boxes
    if "run" in options.selections:
        progress("generating points")
        array = decode_data.generate("points", sizes, seed)
        boxes = decode_data.runs(array.shape, sizes.run, sizes.count, seed)
        yield _title("points", array), array, f"{sizes.count} runs of {sizes.run:,}", boxes


def _title(name: str, array: npt.NDArray[Any]) -> str:
    return f"{name} {array.dtype}[{','.join(map(str, array.shape))}]"


@dataclasses.dataclass(frozen=True, slots=True)
class _Comparison:
    """One stored array and the boxes that are read of it."""

    case: Case
    path: Path
    boxes: tuple[Box, ...] | None


def _compare(
    comparison: _Comparison,
    threads: int,
    options: DecodeOptions,
    progress: Callable[[str], None],
) -> list[Row]:
    case, path, boxes = comparison.case, comparison.path, comparison.boxes
    assert case.codec is not None
    ours = decode_systems.OurDecoder
    contenders: list[tuple[str, int, Callable[[], System]]] = [
        (ours.name, threads, functools.partial(ours, path, threads, boxes)),
        *(
            (rival.name, threads, functools.partial(rival, path, threads, boxes))
            for rival in decoders.DECODERS
            if case.codec in rival.codecs
        ),
    ]
    if boxes is None:
        codec, memcpy = decode_systems.CodecAlone, decode_systems.Memcpy
        ceiling = codec.name
        contenders += [
            (codec.name, threads, functools.partial(codec, path, threads)),
            (memcpy.name, threads, functools.partial(memcpy, path, threads)),
        ]
    else:
        needed = decode_systems.NeededBytes
        ceiling = needed.name
        contenders.append((needed.name, threads, functools.partial(needed, path, threads, boxes)))
    alive, costs = run_rounds(
        start_all(contenders, progress),
        rounds=options.rounds,
        warmup=1,
        seed=options.seed,
        progress=progress,
    )
    rows = summarise(case, alive, costs, ceiling=ceiling)
    return _with_instructions(rows, comparison, progress) if options.count_instructions else rows


def _with_instructions(
    rows: Sequence[Row], comparison: _Comparison, progress: Callable[[str], None]
) -> list[Row]:
    """Add instruction counts to our row and, of whole arrays, to that of the codec alone."""
    array = decode_systems.StoredArray(comparison.path, comparison.boxes)
    works = {
        decode_systems.OurDecoder.name: "decode",
        decode_systems.CodecAlone.name: "inflate_only",
    }
    counted = []
    for row in rows:
        work = works.get(row.system)
        if work is not None:
            progress(f"counting instructions of {row.system}")
            per_byte = callgrind.instructions_per_byte(work, array.table, array.encoded, array.outs)
            row = dataclasses.replace(row, instructions_per_byte=per_byte)  # noqa: PLW2901
        counted.append(row)
    return counted
