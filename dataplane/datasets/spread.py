"""Shuffles of several looks at each sample, spread over windows of samples.

A sample that is read for one look has its bytes at hand for the others, so they should follow soon;
in one batch they would be alike. Each epoch draws an order of the samples and cuts it into windows;
the looks at all samples of a window are permuted, and windows follow one another.

Values that are not changed once made; safe from any thread.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dataplane.datasets.keyed import Array, check_seed, checked_places, keys_of
from dataplane.datasets.permutations import Permutation
from dataplane.errors import ConfigError

__all__ = ["DEFAULT_LOOKS_WINDOW", "Spread"]

DEFAULT_LOOKS_WINDOW = 128
"""Samples whose looks are mixed."""

_OF_SAMPLES, _OF_WINDOWS = 0x6C6F6F31, 0x6C6F6F32  # purposes of keys
_WINDOWS_KEPT = 8


@dataclass(frozen=True, slots=True)
class Spread:
    """The rule of a shuffle of looks: number `sample * looks + look`.

    Attributes:
        length: number of looks of an epoch, at all samples.
        looks: looks at each sample.
        window: samples whose looks are mixed.
    """

    length: int
    looks: int
    window: int = DEFAULT_LOOKS_WINDOW
    kind = "shuffled"
    is_drawn = True
    repeats = False

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ConfigError(f"shuffle_window must be at least 1 sample, got {self.window}")

    @property
    def details(self) -> str:
        """Name of looks and window."""
        return f"{self.looks} looks, {self.window}"

    @property
    def quality(self) -> float:
        """Probability that two looks of a window are at two samples, beside two of the dataset."""
        if self.length <= self.looks:
            return 1.0
        at_once = self.window * self.looks
        sizes = np.full(-(-self.length // at_once), at_once, np.float64)
        sizes[-1] = self.length - (len(sizes) - 1) * at_once
        apart = 1 - (self.looks - 1) / np.maximum(sizes - 1, 1)
        of_dataset = 1 - (self.looks - 1) / (self.length - 1)
        return float((apart * sizes).sum() / self.length / of_dataset)

    def of_samples(self, count: int) -> Spread:
        """Return the rule for a dataset of another length."""
        return Spread(count, self.looks, self.window)

    def of_epoch(self, seed: int, epoch: int) -> _SpreadEpoch:
        """Return the global order of an epoch.

        Raises:
            ConfigError: seed or epoch is out of range.
        """
        check_seed(seed, epoch)
        return _SpreadEpoch(self, seed, epoch)


class _SpreadEpoch:
    def __init__(self, rule: Spread, seed: int, epoch: int) -> None:
        self._length = rule.length
        self._looks = rule.looks
        self._at_once = rule.window * rule.looks
        (key,) = keys_of(_OF_SAMPLES, seed, epoch, count=1)
        self._samples = Permutation(rule.length // rule.looks, int(key), 0)

        def permutation(window: int) -> Permutation:
            (key,) = keys_of(_OF_WINDOWS, seed, epoch, window, count=1)
            size = min(self._at_once, rule.length - window * self._at_once)
            return Permutation(size, int(key), 0)

        # Safe from any thread; two that miss at once make equal ones.
        self._permutation = functools.lru_cache(_WINDOWS_KEPT)(permutation)

    def __len__(self) -> int:
        return self._length

    def read(self, positions: npt.ArrayLike) -> tuple[Array, None]:
        places = checked_places(positions, what="position", length=self._length)
        flat = places.reshape(-1)
        window = flat // self._at_once
        mixed = np.empty_like(flat)
        for number in np.unique(window).tolist():
            which, start = window == number, number * self._at_once
            mixed[which] = start + self._permutation(number).at(flat[which] - start)
        turn, look = np.divmod(mixed, self._looks)
        found: Array = self._samples.at(turn) * self._looks + look
        return found.reshape(places.shape), None
