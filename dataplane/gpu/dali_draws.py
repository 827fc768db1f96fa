"""Draws: random numbers that are a function of (seed, epoch, sample, operation).

What an operation draws for a sample must depend on nothing else: not on the batch that the sample
meets others in, on workers, ranks, or what was drawn before. So there is no generator with a state
that is handed on. A `Draw` hashes the numbers that name it, with a counter behind them, and reads
the digest as numbers (BLAKE2b in counter mode). They are the same with every version of Python,
NumPy and DALI.

A `Draw` belongs to one thread.
"""

from __future__ import annotations

import hashlib
import math
import struct

import numpy as np
import numpy.typing as npt

__all__ = ["Draw", "DrawSource"]

_WORDS = struct.Struct("<8Q")
_UNIT = 2.0**-53


class DrawSource:
    """Source of the draws of a sample: one stream for each operation.

    Args:
        seed: seed of the pass.
        epoch: epoch, as far as it has part in the order.
        key: key of the sample.
        place: place in the order, where one sample may come several times in an epoch; else -1.
    """

    def __init__(self, *, seed: int, epoch: int, key: str, place: int = -1) -> None:
        self._name = f"{seed}/{epoch}/{place}/{key}".encode()

    def of(self, operation: int) -> Draw:
        """Return the numbers of an operation, from the first on."""
        return Draw(self._name, operation)


class Draw:
    """Random numbers of one operation for one sample.

    Args:
        name: name of the sample in its epoch.
        operation: number of the operation.
    """

    def __init__(self, name: bytes, operation: int) -> None:
        self._base = hashlib.blake2b(name, salt=operation.to_bytes(8, "little"))
        self._block = 0
        self._words: list[int] = []

    def word(self) -> int:
        """Return a whole number from [0, 2**64)."""
        if not self._words:
            digest = self._base.copy()
            digest.update(b"\0" + self._block.to_bytes(8, "little"))
            self._block += 1
            self._words = list(reversed(_WORDS.unpack(digest.digest())))
        return self._words.pop()

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Return a number from [low, high)."""
        return low + (high - low) * ((self.word() >> 11) * _UNIT)

    def integer(self, count: int) -> int:
        """Return a whole number from [0, count); `count` is at least 1 and far below 2**64."""
        return (self.word() * count) >> 64

    def happens(self, probability: float) -> bool:
        """Say whether something of that probability happens."""
        return self.uniform() < probability

    def log_uniform(self, low: float, high: float) -> float:
        """Return a factor from [low, high), as likely to enlarge as to shrink."""
        return math.exp(self.uniform(math.log(low), math.log(high)))

    def direction(self) -> npt.NDArray[np.float64]:
        """Return a unit vector, x, y, z, uniform on the sphere: float64[3]."""
        z = self.uniform(-1.0, 1.0)
        angle = self.uniform(0.0, 2.0 * math.pi)
        radius = math.sqrt(max(0.0, 1.0 - z * z))
        return np.array([radius * math.cos(angle), radius * math.sin(angle), z])
