"""What several checks look at, asked for by the first: its answer, or the error in its place.

Thread-safe; the others wait for the first.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from dataplane.errors import DataplaneError

__all__ = ["Once"]

ValueT = TypeVar("ValueT")


class Once(Generic[ValueT]):
    """A function that asks at its first call, and then remembers.

    Args:
        ask: function that asks.
    """

    def __init__(self, ask: Callable[[], ValueT]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._answers: list[ValueT] = []
        self._error: DataplaneError | None = None

    def __call__(self) -> ValueT:
        """Return the answer.

        Raises:
            DataplaneError: there was none.
        """
        with self._lock:
            if self._error is None and not self._answers:
                try:
                    self._answers.append(self._ask())
                except DataplaneError as err:
                    self._error = err
            if self._error is not None:
                raise self._error
            return self._answers[0]
