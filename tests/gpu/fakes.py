"""A device whose copies are made late, in order: who writes memory too early spoils them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


class LateEvent:
    """Done when all that was queued before it has run."""

    def __init__(self, device: LateDevice, place: int) -> None:
        self._device = device
        self.place = place

    def wait(self) -> None:
        self._device.log.append(f"wait {self.place}")
        self._device.run_until(self.place)


class LateDevice:
    """A device that runs nothing until an event is waited for.

    `log` has what happened, in order. Tensors are on the CPU.
    """

    def __init__(self) -> None:
        self.log: list[str] = []
        self._queue: list[Callable[[], object]] = []
        self._ran = 0
        self._lock = threading.Lock()
        self.handed: list[tuple[int, int]] = []

    @property
    def torch_device(self) -> torch.device:
        return torch.device("cpu")

    def pinned(self, nbytes: int) -> torch.Tensor:
        self.log.append("pinned")
        return torch.empty(nbytes, dtype=torch.uint8)

    def side(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def copy(self, source: torch.Tensor, target: torch.Tensor) -> None:
        self.log.append("copy")
        self._queue.append(lambda: target.copy_(source))

    def mark(self) -> LateEvent:
        self.log.append(f"mark {len(self._queue)}")
        return LateEvent(self, len(self._queue))

    def hand_over(self, tensors: Iterable[torch.Tensor], event: Any) -> None:
        self.handed.append((len(list(tensors)), event.place))

    def run_until(self, place: int) -> None:
        # The loop and the stage may both wait; what ran twice would read memory that is used anew.
        with self._lock:
            while self._ran < place:
                self._queue[self._ran]()
                self._ran += 1

    @property
    def ran(self) -> int:
        return self._ran
