"""How far the read of one file is: said by the process that reads, asked by the one that waits.

The number crosses in a memory file of eight bytes that both have open, so saying and asking cost a
system call each and neither waits for the other. A `Meter` is what stands for it in the engine: it
has no progress to tell until a converter gives it some. Thread-safe.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable

__all__ = ["Meter", "read_fraction", "say_fraction"]

_FRACTION = struct.Struct("<d")


class Meter:
    """How much of one source was read.

    Attributes:
        measure: gives the fraction, 0 to 1, of the step that is under way.
    """

    __slots__ = ("_most", "measure")

    def __init__(self) -> None:
        self.measure: Callable[[], float] = float
        self._most = 0.0

    def fraction(self) -> float:
        """Return the fraction that was read; it never falls, though a read may have many steps."""
        self._most = max(self._most, self.measure())
        return self._most

    def finish(self) -> None:
        """Say that all of it was read."""
        self.measure = lambda: 1.0


def say_fraction(handle: int, fraction: float) -> None:
    """Write the fraction, 0 to 1, that was read."""
    os.pwrite(handle, _FRACTION.pack(fraction), 0)


def read_fraction(handle: int) -> float:
    """Return what was said last; anything else than a fraction, which damage may write, is 0."""
    content = os.pread(handle, _FRACTION.size, 0)
    fraction = _FRACTION.unpack(content)[0] if len(content) == _FRACTION.size else 0.0
    return float(fraction) if 0.0 <= fraction <= 1.0 else 0.0
