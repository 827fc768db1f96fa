"""Throttle of background work: a share of a core, until it is told to stop. Not thread-safe."""

from __future__ import annotations

import threading
import time

__all__ = ["Throttle"]


class Throttle:
    """Throttle to a share of a core; says when to stop.

    Args:
        stopped: event that ends the work; None for work that is not stopped.
        share: share of a core; 1 never rests.
    """

    def __init__(self, stopped: threading.Event | None = None, share: float = 1.0) -> None:
        self._stopped = stopped
        self._share = share
        self._began_s = time.monotonic()

    def is_over(self) -> bool:
        """Whether to stop."""
        return self._stopped is not None and self._stopped.is_set()

    def rest(self) -> None:
        """Sleep for as long as the share asks for, after the work since the last rest."""
        worked_s = time.monotonic() - self._began_s
        if self._share < 1 and self._stopped is not None:
            self._stopped.wait(worked_s * (1 / self._share - 1))
        self._began_s = time.monotonic()
