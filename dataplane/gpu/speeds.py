"""Speeds of link, decoder and device, measured once per process.

A few megabytes of smooth float32 are packed as datasets are (Blosc, byte shuffle, LZ4 and zstd),
and every step of both routes runs over them until `MEASURE_S` are over, after a first run that
counts for nothing: it pins, allocates and compiles. The figures are for choosing a route, not for
reports: a ratio of two of them is what counts. On a busy machine they are what is left.

`measured` keeps the figures by device, number of threads and inflater. Thread-safe; two threads
that ask at once may both measure.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch

from dataplane.codecs import (
    ChunkTable,
    decode,
    encode_chunks,
    parse_pipeline,
    stage,
    staged_bytes,
)
from dataplane.gpu.device import Device
from dataplane.gpu.inflate import Inflater
from dataplane.gpu.placement import place
from dataplane.gpu.ring import PinnedRing
from dataplane.gpu.route import Speeds

__all__ = ["measured", "sample_chunks"]

CHUNK_BYTES: Final = 256 << 10
MEASURE_S: Final = 0.05
_MAX_RUNS: Final = 20
_CODECS: Final = ("lz4", "zstd")

_known: dict[tuple[str, int, type], Speeds] = {}


def measured(
    device: Device, inflater: Inflater, *, threads: int, sample_bytes: int = 32 << 20
) -> Speeds:
    """Return the speeds of this machine, measured at the first call.

    Args:
        device: device.
        inflater: what inflates there.
        threads: native threads of the loader.
        sample_bytes: decoded size of what is measured with.
    """
    key = (str(device.torch_device), threads, type(inflater))
    if key in _known:
        return _known[key]
    return _known.setdefault(key, _measure(device, inflater, threads, sample_bytes))


def _measure(device: Device, inflater: Inflater, threads: int, sample_bytes: int) -> Speeds:
    ring = PinnedRing(device, slots=1)
    decode_speed, inflate_speed = {}, {}
    stage_speed = place_speed = link_speed = float("inf")
    count = max(1, sample_bytes // CHUNK_BYTES)
    for cname in _CODECS:
        table, source = sample_chunks(cname, count)
        decoded = count * CHUNK_BYTES
        out = torch.empty(decoded // 4, dtype=torch.float32)
        slot = ring.acquire()
        into = slot.bytes(decoded).view(torch.float32)
        buffer = slot.bytes(staged_bytes(table, [source])).numpy()

        def on_device(work: Callable[[], Any]) -> Callable[[], None]:
            def run() -> None:
                with device.side():
                    work()
                    event = device.mark()
                event.wait()

            return run

        def decode_once(table: Any = table, source: Any = source, into: Any = into) -> None:
            decode(table, [source], [into.numpy()], threads=threads)

        def stage_once(table: Any = table, source: Any = source, buffer: Any = buffer) -> Any:
            return stage(table, [source], buffer.data, threads=threads)

        decode_speed[cname] = decoded / _seconds(decode_once)
        streams = stage_once()
        stage_speed = min(stage_speed, len(buffer) / _seconds(stage_once))
        with device.side():  # whose memory nothing of the training loop's may still be reading
            on = torch.empty(len(out), dtype=torch.float32, device=device.torch_device)
        link_speed = min(
            link_speed,
            decoded / _seconds(on_device(functools.partial(device.copy, into, on))),
        )
        with device.side():
            staged = slot.upload(buffer)
            inflation = inflater.inflate(staged, streams, slot, str)

        def inflate_once(staged: Any = staged, streams: Any = streams, slot: Any = slot) -> None:
            inflater.inflate(staged, streams, slot, str)

        def place_once(
            table: Any = table, streams: Any = streams, found: Any = inflation, slot: Any = slot,
            on: Any = on,
        ) -> None:  # fmt: skip
            place(table.rows, streams, found.starts, found.memory, [on], upload=slot.upload)

        inflate_speed[cname] = decoded / _seconds(on_device(inflate_once))
        place_speed = min(place_speed, decoded / _seconds(on_device(place_once)))
        ring.release(slot, None)
    return Speeds(link_speed, decode_speed, stage_speed, inflate_speed, place_speed)


def sample_chunks(cname: str, count: int) -> tuple[ChunkTable, bytes]:
    """Return a table of chunks of smooth float32 with a little noise, and their bytes."""
    pipeline = parse_pipeline(
        [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "blosc", "configuration": {"cname": cname, "clevel": 1, "shuffle": "shuffle"}},
        ],
        np.dtype(np.float32),
    )
    elements = CHUNK_BYTES // 4
    rng = np.random.default_rng(0)
    chunk = np.sin(np.arange(elements) / 500).astype(np.float32)
    chunk += rng.standard_normal(elements).astype(np.float32) / 1000
    chunk = np.round(chunk, 3)
    (encoded,) = encode_chunks([chunk], pipeline)
    table = ChunkTable.for_box(
        shape=(elements * count,),
        chunk_shape=(elements,),
        dtype=np.dtype(np.float32),
        pipeline=pipeline,
        offsets=np.arange(count, dtype=np.uint64) * np.uint64(len(encoded)),
        nbytes=np.full(count, len(encoded), np.uint64),
    )
    return table, encoded * count


def _seconds(run: Callable[[], Any]) -> float:
    """Return the shortest time of a run."""
    run()
    best = float("inf")
    began = time.perf_counter()
    for _ in range(_MAX_RUNS):
        before = time.perf_counter()
        run()
        after = time.perf_counter()
        best = min(best, after - before)
        if after - began > MEASURE_S:
            break
    return max(best, 1e-9)
