"""Permutations of an epoch: a pure function of (n, seed, epoch), at any position, in O(1) memory.

`Permutation(n, seed, epoch)` answers where a position goes (`at`) and where a sample comes from
(`inverse`), for any few of them, without the others. It is defined in two ways, by length:

- up to `SORTED_SAMPLES` samples, it is the stable order of n raw outputs of PCG64: a permutation
  drawn evenly from all there are. Its table takes two bytes a sample.
- beyond, it is a Feistel network over pairs `(left, right)` with `x = left * b + right`, where
  `a = ⌈√n⌉` and `b = ⌈n/a⌉`. `ROUNDS` times in turn, a keyed hash of the one part is added to
  the other, modulo `a` or `b`; each round can be undone, so all of them are a bijection of
  `range(a * b)`. What comes out at `n` or above is put in again until it does not (cycle walking):
  less than one in `√n` does, so nearly all are done at once.

Five rounds of random functions are told apart from a random permutation only by the whole code
book of many keys (Patarin, "Generic attacks on Feistel schemes", ASIACRYPT 2001; for unequal
parts with modular addition: Black, Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002);
eight are taken. This is no cipher: who knows a few samples may find the others out.

Whole-number arithmetic alone, so equal on every machine and NumPy version. Not changed once made;
safe from any thread.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from dataplane.datasets.keyed import Array, check_seed, checked_places, keys_of
from dataplane.errors import ConfigError

__all__ = ["MAX_SAMPLES", "SORTED_SAMPLES", "Permutation", "permutation"]

SORTED_SAMPLES = 1 << 16
"""Longest order that is sorted. Of the definition: another number is another order."""

MAX_SAMPLES = 1 << 48
"""Longest order: a part of a pair then has 24 bits, which a product with 40 bits of hash keeps."""

ROUNDS = 8
_PURPOSE = 0x7065726D  # of the keys
_AT_ONCE = 1 << 14
"""Positions that are computed at once: their numbers stay in the processor's cache."""

_Words = npt.NDArray[np.uint64]
_FIRST, _SECOND = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_HALF, _LOW, _HIGH = np.uint64(32), np.uint64(24), np.uint64(40)


class Permutation:
    """The permutation of an epoch, a pure function of (n, seed, epoch): what `shuffle=True` reads.

    `at` returns the samples at some positions, `inverse` the positions of some samples, for any few
    of them without the others, in O(1) memory. It is the same on every machine. Up to 65,536
    samples it is drawn evenly from all permutations there are; beyond, it is a Feistel network with
    cycle walking. Not changed once made; safe from any thread.

    Args:
        n: number of samples, at most 2^48.
        seed: seed, 0 to 2^64 - 1.
        epoch: epoch, 0 and up.

    Raises:
        ConfigError: an argument is out of range.

    Example:
        >>> order = Permutation(10**9, seed=7, epoch=0)
        >>> samples = order.at([0, 1, 999_999_999])
        >>> order.inverse(samples).tolist()
        [0, 1, 999999999]
    """

    def __init__(self, n: int, seed: int, epoch: int) -> None:
        if not 0 <= n <= MAX_SAMPLES:
            raise ConfigError(f"cannot order {n} samples")
        check_seed(seed, epoch)
        self._length = n
        self._table: npt.NDArray[np.uint16] | None = None
        if n <= SORTED_SAMPLES:
            bits = np.random.PCG64(np.random.SeedSequence([seed, epoch])).random_raw(n)
            # A stable sort makes equal keys (probability n² / 2^65) a bias of nothing, not a
            # difference between machines.
            self._table = np.argsort(bits, kind="stable").astype(np.uint16)
            return
        left = math.isqrt(n - 1) + 1
        self._sizes = np.uint64(left), np.uint64(-(-n // left))
        self._keys = keys_of(_PURPOSE, n, seed, epoch, count=ROUNDS)

    def __len__(self) -> int:
        return self._length

    def at(self, positions: npt.ArrayLike) -> Array:
        """Return the sample at each position: int64, in the shape of `positions`.

        Raises:
            IndexError: a position is not from 0 to n - 1.
        """
        places = checked_places(positions, what="position", length=self._length)
        if self._table is not None:
            return self._table[places].astype(np.int64)
        return self._walked(places, range(ROUNDS), undo=False)

    def inverse(self, samples: npt.ArrayLike) -> Array:
        """Return the position of each sample: int64, in the shape of `samples`.

        Raises:
            IndexError: there is no such sample.
        """
        places = checked_places(samples, what="sample", length=self._length)
        if self._table is not None:
            of_sample = np.empty(self._length, np.int64)
            of_sample[self._table] = np.arange(self._length)
            return of_sample[places]
        return self._walked(places, range(ROUNDS)[::-1], undo=True)

    def _walked(self, places: Array, rounds: range, *, undo: bool) -> Array:
        flat = places.reshape(-1)
        out = np.empty(flat.shape, np.int64)
        for first in range(0, len(flat), _AT_ONCE):
            part = flat[first : first + _AT_ONCE].astype(np.uint64)
            part = self._passed(part, rounds, undo=undo)
            while (beyond := np.flatnonzero(part >= self._length)).size:
                part[beyond] = self._passed(part[beyond], rounds, undo=undo)
            out[first : first + _AT_ONCE] = part
        return out.reshape(places.shape)

    def _passed(self, numbers: _Words, rounds: range, *, undo: bool) -> _Words:
        """Return what the rounds make of numbers below `a * b`."""
        sizes = self._sizes
        left = numbers // sizes[1]
        parts = left, numbers - left * sizes[1]
        hashed, spare = np.empty_like(left), np.empty_like(left)
        for number in rounds:
            changed, other, size = parts[number % 2], parts[1 - number % 2], sizes[number % 2]
            np.add(other, self._keys[number], out=hashed)
            np.multiply(hashed, _FIRST, out=hashed)
            np.right_shift(hashed, _HALF, out=spare)
            np.bitwise_xor(hashed, spare, out=hashed)
            np.multiply(hashed, _SECOND, out=hashed)
            # The 40 upper bits as a fraction, times the size.
            np.right_shift(hashed, _LOW, out=hashed)
            np.multiply(hashed, size, out=hashed)
            np.right_shift(hashed, _HIGH, out=hashed)
            # A difference below zero wraps around to a large number, so the smaller one is right.
            if undo:
                np.subtract(changed, hashed, out=changed)
                np.add(changed, size, out=spare)
            else:
                np.add(changed, hashed, out=changed)
                np.subtract(changed, size, out=spare)
            np.minimum(changed, spare, out=changed)
        whole: _Words = parts[0] * sizes[1] + parts[1]
        return whole


def permutation(n: int, *, seed: int, epoch: int) -> Array:
    """Return the global order of a shuffled epoch: a permutation of `range(n)`, all of it.

    Equal arguments give equal orders on every machine and NumPy version.

    Args:
        n: number of samples.
        seed: seed, 0 to 2^64 - 1.
        epoch: epoch, 0 and up.

    Returns:
        int64[n].

    Raises:
        ConfigError: an argument is out of range.

    Example:
        >>> sorted(permutation(5, seed=7, epoch=0).tolist())
        [0, 1, 2, 3, 4]
    """
    return Permutation(n, seed, epoch).at(np.arange(n, dtype=np.int64))
