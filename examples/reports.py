"""What a training example tells: progress lines, and on request the samples of every step."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import dataplane as dp

__all__ = ["Progress", "SampleLog"]


class Progress:
    """Rates and losses of one epoch.

    The loader's wait is the time that the loop stood still for want of a batch. The first batch of
    a pass always has to be waited for, and counts.
    """

    def __init__(self, loader: dp.DataLoader[Any], world_size: int) -> None:
        self._loader = loader
        self._world_size = world_size
        self._losses: list[float] = []
        self._began = self._since = (time.perf_counter(), 0.0, 0)

    def count(self, loss: float) -> None:
        """Count a step of all ranks."""
        self._losses.append(loss)

    def line(self) -> str:
        """Return the last loss, and the figures since the last line."""
        since, self._since = self._since, self._now()
        return f"loss {self._losses[-1]:.4f}, {self._rates(since, self._since)}"

    def summary(self) -> str:
        """Return the mean loss and the figures of the epoch."""
        if not self._losses:
            return "was finished before"
        loss = sum(self._losses) / len(self._losses)
        return f"loss {loss:.4f}, {self._rates(self._began, self._now())}"

    def _now(self) -> tuple[float, float, int]:
        stats = self._loader.stats()
        return time.perf_counter(), stats.wait_s, stats.samples

    def _rates(self, start: tuple[float, float, int], stop: tuple[float, float, int]) -> str:
        elapsed_s, wait_s, samples = (b - a for a, b in zip(start, stop, strict=True))
        rate = samples * self._world_size / elapsed_s
        return f"{rate:.1f} samples/s, loader wait {wait_s / elapsed_s:.0%}"


class SampleLog:
    """A file of JSON lines, one for each step of each rank; without a path, nothing.

    All ranks append to one file: a line is one write, which the system does not mix with others.
    """

    def __init__(self, path: Path | None) -> None:
        self._file: IO[bytes] | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, **values: object) -> None:
        """Add a line of these values."""
        if self._file is not None:
            self._file.write(json.dumps(values).encode() + b"\n")
