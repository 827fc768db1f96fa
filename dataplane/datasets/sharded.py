"""Shuffles by shards: shards in a drawn order, samples mixed within windows of several shards.

For data that is expensive to read here and there. Each epoch draws an order of the shards and cuts
it into windows of about `window` shards, as even as can be; the samples of a window are permuted,
and windows follow one another. So at any time the bytes of few shards are read, while each sample
of a batch may come from any shard of its window.

*Quality* says how near that is to a full shuffle: the probability that two samples of one window
are of different shards, over all samples, divided by the same for two samples of the dataset. 1 is
a full shuffle, 0 the order of the dataset; with shards of one size it is near `1 - 1 / window`.

A shard here is the samples of a view that lie in one shard. Held are 8 bytes a shard, in an epoch
24 more, and 8 bytes a sample only where the samples of a shard do not stand together in the view.

Values that are not changed once made; safe from any thread.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dataplane.datasets.keyed import Array, check_seed, checked_places, keys_of
from dataplane.datasets.permutations import Permutation
from dataplane.errors import ConfigError

__all__ = ["DEFAULT_WINDOW", "Sharded"]

DEFAULT_WINDOW = 16
"""Shards whose samples are mixed."""

_OF_SHARDS, _OF_WINDOWS = 0x73686431, 0x73686432  # purposes of keys
_WINDOWS_KEPT = 8
_EPOCHS_MEASURED = 4


@dataclass(frozen=True, slots=True)
class Sharded:
    """The rule of a shuffle by shards. Made by `Sharded.of`.

    Attributes:
        length: number of samples.
        window: shards whose samples are mixed.
        details: name of window and shards, by content.
    """

    length: int
    window: int
    details: str
    _sizes: Array = field(repr=False, compare=False)
    _members: Array | None = field(repr=False, compare=False)
    kind = "shards"
    is_drawn = True
    repeats = False

    @classmethod
    def of(cls, shards: npt.NDArray[np.integer], window: int = DEFAULT_WINDOW) -> Sharded:
        """Return the rule for samples that lie in certain shards.

        Args:
            shards: number of the shard of each sample, int[n].
            window: shards whose samples are mixed, at least 1.

        Raises:
            ConfigError: `window` is not positive.
        """
        if window < 1:
            raise ConfigError(f"shuffle_window must be at least 1 shard, got {window}")
        found = np.asarray(shards, np.int64)
        bounds = np.flatnonzero(np.diff(found, prepend=-1, append=-1)) if len(found) else found
        members = None
        if len(np.unique(found)) < len(bounds) - 1:  # a shard's samples stand apart
            members = np.argsort(found, kind="stable").astype(np.int64)
            bounds = np.flatnonzero(np.diff(found[members], prepend=-1, append=-1))
        sizes = np.diff(bounds).astype(np.int64)
        digest = hashlib.blake2b(sizes.astype("<i8").tobytes(), digest_size=8)
        if members is not None:
            digest.update(members.astype("<i8").tobytes())
        return cls(len(found), window, f"{window} of {digest.hexdigest()}", sizes, members)

    @property
    def shards(self) -> int:
        """Number of shards."""
        return len(self._sizes)

    @property
    def quality(self) -> float:
        """Nearness to a full shuffle, 0 to 1; see the module's text. The mean of a few epochs."""
        apart = 1 - _alike(self._sizes, np.array([0, len(self._sizes)]))
        if apart <= 0:
            return 1.0
        epochs = [self.of_epoch(0, epoch) for epoch in range(_EPOCHS_MEASURED)]
        return float(np.mean([1 - epoch.alike for epoch in epochs])) / apart

    def of_samples(self, count: int) -> Sharded:
        """Return itself: the shards are those of certain samples.

        Raises:
            ConfigError: there is another number of samples by now.
        """
        if count != self.length:
            raise ConfigError(
                f"shuffle='shards' knows the shards of {self.length} samples, and the dataset has "
                f"{count} by now",
                hint="make another DataLoader",
            )
        return self

    def of_epoch(self, seed: int, epoch: int) -> _ShardedEpoch:
        """Return the global order of an epoch.

        Raises:
            ConfigError: seed or epoch is out of range.
        """
        check_seed(seed, epoch)
        return _ShardedEpoch(self, self._sizes, self._members, seed, epoch)


class _ShardedEpoch:
    def __init__(
        self, rule: Sharded, sizes: Array, members: Array | None, seed: int, epoch: int
    ) -> None:
        self._length = rule.length
        self._members = members
        count = len(sizes)
        (key,) = keys_of(_OF_SHARDS, seed, epoch, count=1)
        visited = Permutation(count, int(key), 0).at(np.arange(count))
        self._sizes = sizes[visited]
        # Where each shard begins, along the order of the visit and in the view, in that order.
        self._first = np.cumsum(self._sizes) - self._sizes
        self._in_view = (np.cumsum(sizes) - sizes)[visited]
        windows = -(-count // rule.window)
        self._bounds = np.arange(windows + 1) * count // max(windows, 1)
        self._starts = np.append(self._first, rule.length)[self._bounds]

        def permutation(window: int) -> Permutation:
            (key,) = keys_of(_OF_WINDOWS, seed, epoch, window, count=1)
            return Permutation(int(self._starts[window + 1] - self._starts[window]), int(key), 0)

        # Safe from any thread; two that miss at once make equal ones.
        self._permutation = functools.lru_cache(_WINDOWS_KEPT)(permutation)

    def __len__(self) -> int:
        return self._length

    @property
    def alike(self) -> float:
        """Probability that two samples of a window are of one shard."""
        return _alike(self._sizes, self._bounds)

    def read(self, positions: npt.ArrayLike) -> tuple[Array, None]:
        places = checked_places(positions, what="position", length=self._length).reshape(-1)
        window = np.searchsorted(self._starts, places, side="right") - 1
        mixed = np.empty_like(places)
        for number in np.unique(window).tolist():
            which, start = window == number, self._starts[number]
            mixed[which] = start + self._permutation(number).at(places[which] - start)
        shard = np.searchsorted(self._first, mixed, side="right") - 1
        samples: Array = self._in_view[shard] + mixed - self._first[shard]
        return (samples if self._members is None else self._members[samples]), None


def _alike(sizes: Array, bounds: Array) -> float:
    """Return the probability that two samples of a window are of one shard, over all samples.

    Args:
        sizes: samples of each shard.
        bounds: where windows begin and end among the shards.
    """
    if not len(sizes):
        return 0.0
    sums = np.add.reduceat(sizes, bounds[:-1]).astype(np.float64)
    pairs = np.add.reduceat(sizes * (sizes - 1), bounds[:-1])
    # A sample that is alone in its window is counted as alike to whatever is beside it.
    of_windows = np.divide(pairs, sums - 1, out=sums.copy(), where=sums > 1)
    return float(of_windows.sum() / sizes.sum())
