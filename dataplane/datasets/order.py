"""The order in which samples are read, as a pure function of (seed, epoch, rank, world size).

There is one order per `(seed, epoch)`, the same on every rank: the *global order*. A rule says what
it is, `InOrder` and `Shuffled` here, others in modules of their own; what a rule gives for an epoch
is asked for the samples at any few positions, and holds no table of all of them.

At world size `w` the ranks take turns along the global order: rank `r` takes the positions
`start + r`, `start + r + w`, … where `start` is the number of samples that the whole world has
consumed already. So a run that stops at any step can go on at the exact sample with another world
size, another number of workers or another batch size, and no order has to be stored.

Ranks must take equally many steps, or a collective operation hangs at the end of the epoch. As in
`torch.utils.data.DistributedSampler`, the order is made to divide by `w`:

- by default the end is padded: positions past the end wrap to the beginning of the global order, so
  at most `w - 1` samples are seen twice in an epoch;
- with `drop_last` the tail is cut: at most `w - 1` samples are not seen in an epoch.

A rule may give one sample several times in an epoch. The *look* of a position then tells them
apart: what is drawn for a sample (a part of it, an augmentation) may depend on it, and so be other
each time.

This module knows nothing of batches, files or torch. Pure functions and values that are not changed
once made; safe from any thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from dataplane.datasets.keyed import Array, checked_places
from dataplane.datasets.permutations import Permutation
from dataplane.errors import ConfigError

__all__ = [
    "EpochOrder",
    "InOrder",
    "OrderRule",
    "Shuffled",
    "global_order",
    "rank_count",
    "rank_positions",
]


class EpochOrder(Protocol):
    """The global order of one epoch."""

    def __len__(self) -> int:
        """Return the number of positions."""
        ...

    def read(self, positions: npt.ArrayLike) -> tuple[Array, Array | None]:
        """Return the samples at positions, and their looks.

        Args:
            positions: int64[k], each from 0 to the length - 1.

        Returns:
            int64[k] and int64[k]; None for the looks where no sample comes twice in an epoch.

        Raises:
            IndexError: there is no such position.
        """
        ...


class OrderRule(Protocol):
    """What gives each epoch its global order. Rules that compare equal give equal orders."""

    @property
    def kind(self) -> str:
        """Name of the kind, which states carry."""
        ...

    @property
    def details(self) -> str:
        """Name of all else that makes the order, beside kind, dataset, seed and epoch; or empty."""
        ...

    @property
    def is_drawn(self) -> bool:
        """Whether seed and epoch have part in the order."""
        ...

    @property
    def repeats(self) -> bool:
        """Whether a sample may come several times in an epoch, so that there are looks."""
        ...

    @property
    def quality(self) -> float:
        """Quality of the shuffle: 0 for the order of the dataset, 1 for a full shuffle."""
        ...

    @property
    def length(self) -> int:
        """Number of positions of an epoch."""
        ...

    def of_samples(self, count: int) -> Self:
        """Return the rule for a dataset that has another length by now.

        Raises:
            ConfigError: it cannot be told.
        """
        ...

    def of_epoch(self, seed: int, epoch: int) -> EpochOrder:
        """Return the global order of an epoch.

        Raises:
            ConfigError: seed or epoch is out of range.
        """
        ...


@dataclass(frozen=True, slots=True)
class InOrder:
    """The order of the dataset: a rule, and the order of each epoch at once."""

    length: int
    kind = "sequential"
    details = ""
    is_drawn = False
    repeats = False
    quality = 0.0

    def __len__(self) -> int:
        return self.length

    def of_samples(self, count: int) -> InOrder:
        """Return the rule for a dataset of another length."""
        return InOrder(count)

    def of_epoch(self, seed: int, epoch: int) -> InOrder:
        """Return itself."""
        del seed, epoch
        return self

    def read(self, positions: npt.ArrayLike) -> tuple[Array, None]:
        """Return the positions: they are the samples."""
        return checked_places(positions, what="position", length=self.length), None


@dataclass(frozen=True, slots=True)
class Shuffled:
    """The rule of a shuffle: one permutation per seed and epoch."""

    length: int
    kind = "shuffled"
    details = ""
    is_drawn = True
    repeats = False
    quality = 1.0

    def of_samples(self, count: int) -> Shuffled:
        """Return the rule for a dataset of another length."""
        return Shuffled(count)

    def of_epoch(self, seed: int, epoch: int) -> EpochOrder:
        """Return the global order of an epoch."""
        return _Permuted(Permutation(self.length, seed, epoch))


@dataclass(frozen=True, slots=True)
class _Permuted:
    permutation: Permutation

    def __len__(self) -> int:
        return len(self.permutation)

    def read(self, positions: npt.ArrayLike) -> tuple[Array, None]:
        return self.permutation.at(positions), None


def global_order(n: int, *, seed: int, epoch: int, shuffle: bool) -> Array:
    """Return the order of an epoch before it is dealt to ranks: shuffled, or 0 … n - 1."""
    rule: OrderRule = Shuffled(n) if shuffle else InOrder(n)
    return rule.of_epoch(seed, epoch).read(np.arange(n, dtype=np.int64))[0]


def rank_count(n: int, *, world_size: int = 1, start: int = 0, drop_last: bool = False) -> int:
    """Return how many samples each rank takes from `start` to the end of the epoch.

    It is the same number on every rank: the rest divided by `world_size`, rounded up, or down with
    `drop_last`.

    Raises:
        ConfigError: a number is out of range.
    """
    if n < 0:
        raise ConfigError(f"cannot order {n} samples")
    if world_size < 1:
        raise ConfigError(f"world_size must be at least 1, got {world_size}")
    if start < 0:
        raise ConfigError(f"start must be at least 0, got {start}")
    rest = max(n - start, 0)
    return rest // world_size if drop_last else -(-rest // world_size)


def rank_positions(
    n: int,
    *,
    rank: int = 0,
    world_size: int = 1,
    start: int = 0,
    drop_last: bool = False,
    block: int = 1,
    first: int = 0,
    stop: int | None = None,
) -> Array:
    """Return positions of the global order that one rank takes, in order: all, or some of them.

    Args:
        n: length of the global order.
        rank: rank, 0 to `world_size` - 1.
        world_size: number of ranks that share the order.
        start: number of samples that the world has consumed already, all ranks together.
        drop_last: whether to cut a tail that does not divide by `world_size`, not pad it.
        block: how many neighbours a rank takes in its turn; fewer in the last one.
        first: number of the rank's positions to leave out at the beginning.
        stop: number of the rank's positions to end before; by default, and at most, all.

    Returns:
        int64[stop - first], each from 0 to n - 1; without `first` and `stop`
        int64[rank_count(...)].

    Raises:
        ConfigError: a number is out of range.

    Example:
        >>> [rank_positions(5, rank=r, world_size=2).tolist() for r in (0, 1)]
        [[0, 2, 4], [1, 3, 0]]
    """
    count = rank_count(n, world_size=world_size, start=start, drop_last=drop_last)
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank must be from 0 to {world_size - 1}, got {rank}")
    if block < 1:
        raise ConfigError(f"block must be at least 1, got {block}")
    if first < 0:
        raise ConfigError(f"first must be at least 0, got {first}")
    place = np.arange(first, count if stop is None else min(stop, count), dtype=np.int64)
    turn = place - place % block
    length = np.minimum(block, count - turn)
    positions = start + turn * world_size + rank * length + place % block
    # Only padding goes past the end; with more ranks than samples it goes around several times.
    wrapped: Array = positions % n if count else positions
    return wrapped
