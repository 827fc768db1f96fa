"""Weighted draws: each position of an epoch gets a sample by its weight, with replacement.

The sample at position `p` is found in the table of cumulated weights by random bits that are a
function of (seed, epoch, p) alone. So draws are independent of each other, any position is found in
O(log n), and what a position gets depends on no rank, world size or batch. The table takes 8 bytes
a sample; no order is stored.

The table is whole numbers: cumulated weights as float64, one after the other, in units of 2^-62 of
their sum. A probability is thus exact to 2^-53 (a weight that is smaller than that part of the sum
may count as nothing), a weight of zero is never drawn, and the same weights give the same draws on
every machine.

Values that are not changed once made; safe from any thread.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.datasets.keyed import Array, check_seed, checked_places, keys_of, random_bits
from dataplane.errors import ConfigError

__all__ = ["Weighted"]

_PURPOSE = 0x77656967  # of the keys
_UNITS = 2**62
_SHIFT = np.uint64(2)  # from 64 random bits to a number below `_UNITS`


@dataclass(frozen=True, slots=True)
class Weighted:
    """The rule of weighted draws. Made by `Weighted.of`.

    Attributes:
        length: number of draws in an epoch.
        samples: number of samples.
        details: name of weights and length, by content.
    """

    length: int
    samples: int
    details: str
    _table: npt.NDArray[np.int64] = field(repr=False, compare=False)
    kind = "weighted"
    is_drawn = True
    repeats = True
    quality = 1.0

    @classmethod
    def of(cls, weights: npt.ArrayLike, samples: int, length: int | None = None) -> Weighted:
        """Return the rule of some weights.

        Args:
            weights: weight of each sample, float[n]; they need not sum to 1.
            samples: number of samples of the dataset.
            length: number of draws in an epoch; by default as many as samples.

        Raises:
            ConfigError: weights are no numbers, too many or too few, negative, not finite or all
                zero, or `length` is not positive.
        """
        table = _cumulated(_checked(weights, samples))
        length = samples if length is None else length
        if length < 1:
            raise ConfigError(f"num_samples must be at least 1, got {length}")
        digest = hashlib.blake2b(table.astype("<i8").tobytes(), digest_size=8)
        return cls(length, samples, f"{length} of {digest.hexdigest()}", table)

    def of_samples(self, count: int) -> Weighted:
        """Return itself: weights are of a certain number of samples.

        Raises:
            ConfigError: there is another number of samples by now.
        """
        if count != self.samples:
            raise ConfigError(
                f"there are weights for {self.samples} samples, and the dataset has {count} by now",
                hint="make another DataLoader",
            )
        return self

    def of_epoch(self, seed: int, epoch: int) -> _Draws:
        """Return the draws of an epoch.

        Raises:
            ConfigError: seed or epoch is out of range.
        """
        check_seed(seed, epoch)
        return _Draws(self, keys_of(_PURPOSE, seed, epoch, count=2))

    def find(self, bits: npt.NDArray[np.uint64]) -> Array:
        """Return the samples that random bits stand for, uint64[k]: int64[k]."""
        numbers = (bits >> _SHIFT).astype(np.int64)
        # The first whose cumulated weight is above the number; one without weight never is.
        found: Array = np.searchsorted(self._table, numbers, side="right").astype(np.int64)
        return found


@dataclass(frozen=True, slots=True)
class _Draws:
    """The draws of one epoch. The look of a position is the position."""

    rule: Weighted
    keys: npt.NDArray[np.uint64]

    def __len__(self) -> int:
        return self.rule.length

    def read(self, positions: npt.ArrayLike) -> tuple[Array, Array]:
        places = checked_places(positions, what="position", length=self.rule.length)
        return self.rule.find(random_bits(self.keys, places)), places


def _checked(weights: npt.ArrayLike, samples: int) -> npt.NDArray[np.float64]:
    try:
        plain: Any = weights.detach() if hasattr(weights, "detach") else weights  # of a gradient
        found = np.asarray(plain, np.float64)
    except (TypeError, ValueError) as err:
        raise ConfigError(f"weights must be numbers, got {weights!r:.60}") from err
    if found.ndim != 1:
        raise ConfigError(
            f"weights must be one number for each sample, got an array of {found.ndim} dimensions"
        )
    if len(found) != samples:
        raise ConfigError(f"there are {len(found)} weights for {samples} samples")
    wrong = np.flatnonzero(~np.isfinite(found))
    if len(wrong):
        raise ConfigError(
            f"weights must be finite, the one of sample {wrong[0]} is {found[wrong[0]]}"
        )
    wrong = np.flatnonzero(found < 0)
    if len(wrong):
        raise ConfigError(
            f"weights must not be negative, the one of sample {wrong[0]} is {found[wrong[0]]}"
        )
    if not found.any():
        raise ConfigError("all weights are zero: there is nothing to draw")
    return found


def _cumulated(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    # `cumsum` adds one after the other on every machine, which `sum` does not. Divided by the
    # largest first, the sum is finite.
    cumulated = np.cumsum(weights / weights.max())
    table: npt.NDArray[np.int64] = np.rint(cumulated / cumulated[-1] * _UNITS).astype(np.int64)
    return table
