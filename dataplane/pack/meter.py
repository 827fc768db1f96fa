"""Progress of the read of one file, set by the process that reads, polled by the one that waits.

The number lies in a memory file of eight bytes that both have open, so setting and polling cost a
system call each and neither waits for the other. A `Meter` stands for it in the engine: its
progress is 0 until a converter sets `measure`. Thread-safe.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable

__all__ = ["Meter", "read_fraction", "say_fraction"]

_FRACTION = struct.Struct("<d")


class Meter:
    """Progress of the read of one source.

    Attributes:
        measure: function for the fraction, 0 to 1, of the step that is under way.
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
        """Set the fraction to 1: all of it was read."""
        self.measure = lambda: 1.0


def say_fraction(handle: int, fraction: float) -> None:
    """Write the fraction, 0 to 1, that was read."""
    os.pwrite(handle, _FRACTION.pack(fraction), 0)


def read_fraction(handle: int) -> float:
    """Return the fraction written last; any other value, which damage may write, is 0."""
    content = os.pread(handle, _FRACTION.size, 0)
    fraction = _FRACTION.unpack(content)[0] if len(content) == _FRACTION.size else 0.0
    return float(fraction) if 0.0 <= fraction <= 1.0 else 0.0
