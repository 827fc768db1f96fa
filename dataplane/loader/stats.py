"""Statistics of a loader so far, which show its bottleneck.

A pass owns a `Meter` and writes it from the training thread; `LoaderStats` is a snapshot of it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from dataplane.loader.device_batches import DeviceBatches
from dataplane.loader.pipeline import StageStats

__all__ = ["LoaderStats", "Meter"]


_HARDLY = 0.05
"""Share of its time that a training loop may wait before the loader counts as slow."""

_FEW = 3
"""Batches from which waits are compared; the first does not count, and one alone is chance."""


@dataclass(frozen=True, slots=True)
class LoaderStats:
    """Counters of one pass over a loader.

    Attributes:
        batches: number of batches that were yielded.
        samples: number of samples in them.
        decoded_bytes: size of their elements.
        read_bytes: compressed bytes that were read for them.
        first_batch_s: time from the start of the pass to its first batch; None before it.
        wait_s: time that the training loop waited for batches.
        elapsed_s: time since the start of the pass.
        stages: per stage `threads`, `items`, `busy_s`, `get_wait_s` (for input) and `put_wait_s`
            (for a slot in the output), all threads of the stage together.
    """

    batches: int
    samples: int
    decoded_bytes: int
    read_bytes: int
    first_batch_s: float | None
    wait_s: float
    elapsed_s: float
    stages: Mapping[str, Mapping[str, float]]
    device: str = ""
    decode: str = ""
    decode_reason: str = ""

    @property
    def bottleneck(self) -> str:
        """The slowest part: `consumer` when the loop hardly waits, else the busiest stage.

        The first batch is left out of it, since it always has to be waited for. Before the third
        batch it is `unknown`, since one wait says nothing.
        """
        if self.batches < _FEW:
            return "unknown"
        start_s = self.first_batch_s or 0.0
        if self.wait_s - start_s < _HARDLY * (self.elapsed_s - start_s):
            return "consumer"

        def load(name: str) -> float:
            return self.stages[name]["busy_s"] / self.stages[name]["threads"]

        return max(self.stages, key=load)

    def __repr__(self) -> str:
        figures = {"bottleneck": self.bottleneck, **self.as_dict()}
        return f"LoaderStats({', '.join(f'{name}={value!r}' for name, value in figures.items())})"

    def as_dict(self) -> dict[str, object]:
        """Return all figures and the bottleneck as plain values."""
        return {**asdict(self), "bottleneck": self.bottleneck}


@dataclass(slots=True)
class Meter:
    """Counts one pass. Attributes as in `LoaderStats`."""

    began_s: float = field(default_factory=time.perf_counter)
    batches: int = 0
    samples: int = 0
    decoded_bytes: int = 0
    read_bytes: int = 0
    first_batch_s: float | None = None
    wait_s: float = 0.0
    ended_s: float | None = None
    stages: list[StageStats] = field(default_factory=list)
    device: DeviceBatches | None = None

    def add(self, *, samples: int, decoded_bytes: int, read_bytes: int, wait_s: float) -> None:
        """Count a batch that is being yielded."""
        if self.first_batch_s is None:
            self.first_batch_s = time.perf_counter() - self.began_s
        self.batches += 1
        self.samples += samples
        self.decoded_bytes += decoded_bytes
        self.read_bytes += read_bytes
        self.wait_s += wait_s

    def snapshot(self) -> LoaderStats:
        """Return the figures so far."""
        ended = time.perf_counter() if self.ended_s is None else self.ended_s
        choice = None if self.device is None else self.device.choice
        return LoaderStats(
            batches=self.batches,
            samples=self.samples,
            decoded_bytes=self.decoded_bytes,
            read_bytes=self.read_bytes,
            first_batch_s=self.first_batch_s,
            wait_s=self.wait_s,
            elapsed_s=ended - self.began_s,
            stages={stage.name: stage.as_dict() for stage in self.stages},
            device="" if self.device is None else self.device.name,
            decode="" if choice is None else choice.route,
            decode_reason="" if choice is None else choice.why,
        )
