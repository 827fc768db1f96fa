"""The route of a pass: decode on the CPU, or copy streams and decode on the device; and why.

    cpu   decoding and copying overlap, so a batch takes the longer of
          decoded / decode speed  and  decoded / link speed
    gpu   staging overlaps with the device's work, so it takes the longer of
          staged / staging speed  and  staged / link speed + decoded / inflation + decoded / placing

`choose` compares these estimates for one batch (its ratio and its codecs) and speeds that were
measured on this machine (`speeds.py`). The device also runs the training step, so it has to be
clearly better there: `MARGIN`. A route that lacks something, such as nvCOMP or memory, is not
chosen, and the choice says so. Pure functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from dataplane.codecs import ChunkTable, Codec
from dataplane.gpu.nvcomp import SCRATCH_PART_BYTES
from dataplane.units import format_bytes

__all__ = ["Choice", "Decode", "Load", "Route", "Speeds", "choose", "load_of"]

Decode = Literal["auto", "cpu", "gpu"]
Route = Literal["cpu", "gpu"]

MARGIN: Final = 0.8
"""The gpu route is taken when it needs less than this share of the time of the cpu route."""

MEMORY_SHARE: Final = 0.25
"""Share of the device's free memory that the gpu route may take for what it drops afterwards."""

ZSTD_SCRATCH: Final = 3.2
"""Bytes of scratch memory per decoded byte of zstd."""


@dataclass(frozen=True, slots=True)
class Speeds:
    """Speeds of a machine, in bytes per second.

    Attributes:
        link: copies from pinned memory to the device.
        decode: decoded bytes of the native decoder, with the loader's threads, by codec.
        stage: staged bytes of gathering streams, likewise.
        inflate: decoded bytes of inflation on the device, by codec.
        place: decoded bytes of un-shuffling and placing there.
    """

    link: float
    decode: Mapping[str, float]
    stage: float
    inflate: Mapping[str, float]
    place: float


@dataclass(frozen=True, slots=True)
class Load:
    """What one batch is.

    Attributes:
        decoded_bytes: of all elements.
        staged_bytes: of its compressed streams.
        by_codec: decoded bytes by codec: `lz4`, `zstd`.
    """

    decoded_bytes: int
    staged_bytes: int
    by_codec: Mapping[str, int]

    @property
    def ratio(self) -> float:
        """How many decoded bytes there are for each staged one."""
        return self.decoded_bytes / max(1, self.staged_bytes)

    @property
    def device_bytes(self) -> int:
        """Memory of the device that the gpu route takes beside the batch itself."""
        at_once = min(self.by_codec.get("zstd", 0), SCRATCH_PART_BYTES)
        scratch = int(at_once * ZSTD_SCRATCH)
        return self.staged_bytes + self.decoded_bytes + scratch


@dataclass(frozen=True, slots=True)
class Choice:
    """A route, and why.

    Attributes:
        route: route of the batches.
        why: reason, one line.
        is_fallback: whether the other one was better and is not there.
    """

    route: Route
    why: str
    is_fallback: bool = False


def load_of(table: ChunkTable, streams: Any, decoded_bytes: int) -> Load:
    """Return what a batch is, by its staged streams."""
    sizes = streams["decoded_bytes"].astype(np.int64)
    return Load(
        decoded_bytes=decoded_bytes,
        staged_bytes=int(streams["nbytes"].sum()) + table.rows.nbytes,
        by_codec={
            codec.name.lower(): int(sizes[streams["codec"] == codec].sum())
            for codec in (Codec.LZ4, Codec.ZSTD)
            if (streams["codec"] == codec).any()
        },
    )


def choose(
    load: Load, speeds: Speeds | None, *, missing: str = "", free_bytes: int | None = None
) -> Choice:
    """Choose the route of batches like one.

    Args:
        load: that batch.
        speeds: measured speeds; None where nothing could be measured.
        missing: what the gpu route lacks, or nothing.
        free_bytes: free memory of the device, where it is known.

    Example:
        >>> fast = Speeds(50e9, {"lz4": 4e9}, 10e9, {"lz4": 100e9}, 500e9)
        >>> choose(Load(1 << 30, 1 << 28, {"lz4": 1 << 30}), fast).route
        'gpu'
    """
    if missing:
        return Choice("cpu", missing, is_fallback=True)
    if free_bytes is not None and load.device_bytes > free_bytes * MEMORY_SHARE:
        return Choice(
            "cpu",
            f"decoding a batch on the device takes {format_bytes(load.device_bytes)} of its "
            f"memory, and {format_bytes(free_bytes)} are free",
            is_fallback=True,
        )
    if speeds is None:
        return Choice("cpu", "no speeds were measured")
    if not load.decoded_bytes:
        return Choice("cpu", "the batch is empty")
    here_s = max(_over(load, speeds.decode), load.decoded_bytes / speeds.link)
    there_s = max(
        load.staged_bytes / speeds.stage,
        load.staged_bytes / speeds.link
        + _over(load, speeds.inflate)
        + load.decoded_bytes / speeds.place,
    )
    route: Route = "gpu" if there_s < MARGIN * here_s else "cpu"
    return Choice(
        route,
        f"ratio {load.ratio:.2f}: estimated {_speed(load, here_s)} decoded on the CPU, "
        f"{_speed(load, there_s)} on the device",
    )


def _over(load: Load, speeds: Mapping[str, float]) -> float:
    """Return the seconds of the decoded bytes of each codec at its speed."""
    slowest = min(speeds.values())
    known = sum(load.by_codec.values())
    rest_s = max(0, load.decoded_bytes - known) / max(speeds.values())  # fill values
    return rest_s + sum(
        nbytes / speeds.get(codec, slowest) for codec, nbytes in load.by_codec.items()
    )


def _speed(load: Load, seconds: float) -> str:
    return f"{load.decoded_bytes / max(seconds, 1e-12) / 1e9:.1f} GB/s"
