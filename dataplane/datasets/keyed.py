"""Random bits as a pure function of numbers: keys of a seed and an epoch, and bits at any place.

A key is raw output of PCG64, seeded by `SeedSequence` with words of 32 bits: NumPy promises that
both never change, and promises it of nothing above them (NEP 19). Everything behind the keys is
whole-number arithmetic modulo 2^64, the same on every machine.

`random_bits` is SplitMix64 read at any place: the counter, times an odd constant, on top of a key,
through a finalizer, with a second key in its middle.
Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.

Pure functions; safe from any thread.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dataplane.errors import ConfigError

__all__ = ["MAX_SEED", "Array", "check_seed", "checked_places", "keys_of", "random_bits"]

Array = npt.NDArray[np.int64]
_Words = npt.NDArray[np.uint64]

MAX_SEED = 2**64 - 1

_WORD_BITS = 32
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SHIFT_1, _SHIFT_2, _SHIFT_3 = np.uint64(30), np.uint64(27), np.uint64(31)


def check_seed(seed: int, epoch: int) -> None:
    """Refuse what is no seed or epoch.

    Raises:
        ConfigError: `seed` is not from 0 to 2^64 - 1, or `epoch` is negative or as large.
    """
    if not 0 <= seed <= MAX_SEED:
        raise ConfigError(f"seed must be from 0 to 2**64 - 1, got {seed}")
    if not 0 <= epoch <= MAX_SEED:
        raise ConfigError(f"epoch must be at least 0, got {epoch}")


def keys_of(*numbers: int, count: int) -> _Words:
    """Return keys that unequal lists of numbers do not share: uint64[count].

    Args:
        numbers: whole numbers from 0 to 2^64 - 1; the first one says what the keys are for.
        count: number of keys.
    """
    words = [part for number in numbers for part in (number % 2**_WORD_BITS, number >> _WORD_BITS)]
    raw = np.random.PCG64(np.random.SeedSequence(words)).random_raw(count)
    return np.asarray(raw, np.uint64)


def random_bits(keys: _Words, places: Array) -> _Words:
    """Return 64 random bits for each place.

    Args:
        keys: two keys, of `keys_of`.
        places: int64[n], 0 and up.

    Returns:
        uint64[n].
    """
    bits = places.astype(np.uint64)
    bits += np.uint64(1)
    bits *= _GAMMA
    bits += keys[0]
    bits ^= bits >> _SHIFT_1
    bits *= _FIRST
    bits ^= keys[1]
    bits ^= bits >> _SHIFT_2
    bits *= _SECOND
    bits ^= bits >> _SHIFT_3
    return bits


def checked_places(values: npt.ArrayLike, *, what: str, length: int) -> Array:
    """Return places as an array, if each is from 0 to `length` - 1.

    Raises:
        IndexError: one is not.
        ConfigError: they are no whole numbers.
    """
    found = np.asarray(values)
    if found.size == 0:
        return found.astype(np.int64)
    if found.dtype.kind not in "iu":
        raise ConfigError(f"a {what} is a whole number, got an array of {found.dtype}")
    low, high = int(found.min()), int(found.max())
    if low < 0 or high >= length:
        wrong = low if low < 0 else high
        raise IndexError(f"{what} {wrong} of an order of {length}")
    return found.astype(np.int64, copy=False)
