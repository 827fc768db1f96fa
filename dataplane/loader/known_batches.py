"""Batches of a known order: a pure function, computed as they are asked for.

`KnownOrder` is the order of one rank; `KnownBatches` the rest of one epoch of it, as a batch
source. Both iterations of it simply compute the batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.datasets.keyed import Array
from dataplane.datasets.looks import Looked
from dataplane.datasets.order import EpochOrder, OrderRule, rank_count, rank_positions
from dataplane.datasets.ownership import Nodes, NodeTurns
from dataplane.loader.batch_source import Indices

__all__ = ["AT_ONCE", "KnownBatches", "KnownOrder", "RankOrder"]

AT_ONCE = 4096
"""Indices that are computed at once: one by one they would cost more than they are worth."""


@dataclass(frozen=True, slots=True)
class KnownOrder:
    """The order of one rank, a pure function of (rule, seed, epoch, rank, world size, start).

    Attributes:
        rule: rule of the global order.
        seed: seed of it.
        rank: rank of this process.
        world_size: number of ranks.
        batch_size: samples per batch and rank.
        drop_last: whether to leave incomplete batches and an uneven tail out.
        is_by_batch: whether ranks take turns by the batch, and not by the sample.
        nodes: nodes that samples of a global batch go to; None where ranks take turns.
    """

    rule: OrderRule
    seed: int
    rank: int
    world_size: int
    batch_size: int
    drop_last: bool
    is_by_batch: bool = False
    nodes: Nodes | None = None

    def count(self, start: int = 0) -> int:
        """Return how many samples this rank reads from global place `start` on."""
        return rank_count(
            self.rule.length, world_size=self.world_size, start=start, drop_last=self.drop_last
        )

    def guests(self, samples: Indices) -> npt.NDArray[np.bool_] | None:
        """Return whether other nodes own samples: bool[n]; None where samples have no owners."""
        if self.nodes is None:
            return None
        owners = self.nodes.owners(np.asarray(samples, np.int64))
        node = self.rank // (self.world_size // self.nodes.count)
        is_guest: npt.NDArray[np.bool_] = owners != node
        return is_guest

    def of_epoch(self, epoch: int, start: int = 0) -> RankOrder:
        """Return this rank's order of an epoch, from global place `start` on."""
        return RankOrder(self, self.rule.of_epoch(self.seed, epoch), start)

    def indices(self, epoch: int, start: int = 0) -> Array:
        """Return all of this rank's samples of an epoch from `start` on: int64[count]."""
        return self.of_epoch(epoch, start).read(0, self.count(start))[0]

    def consumed(self, start: int, batches: int) -> int:
        """Return the global place after `batches` more batches on every rank."""
        return start + min(batches * self.batch_size, self.count(start)) * self.world_size


@dataclass(frozen=True, slots=True)
class RankOrder:
    """The samples of one rank in an epoch, computed as they are asked for.

    Attributes:
        known: order that it is of.
        of_world: global order of the epoch.
        start: place of the global order that it begins at.
    """

    known: KnownOrder
    of_world: EpochOrder
    start: int

    def __len__(self) -> int:
        return self.known.count(self.start)

    @property
    def at_once(self) -> int:
        """Number of this rank's samples to compute at once: whole batches."""
        known = self.known
        # To share a batch out by node, the samples of all ranks are computed.
        reach = known.batch_size * (1 if known.nodes is None else known.world_size)
        return max(AT_ONCE // reach, 1) * known.batch_size

    def positions(self, first: int, stop: int) -> Array:
        """Return the places in the global order of this rank's samples `first` to `stop`."""
        known = self.known
        if known.nodes is not None:
            turns = NodeTurns(
                known.nodes,
                known.rank,
                known.world_size,
                known.batch_size,
                drop_last=known.drop_last,
                is_by_batch=known.is_by_batch,
            )
            return turns.positions(self.of_world, self.start, first, stop)
        return rank_positions(
            len(self.of_world),
            rank=known.rank,
            world_size=known.world_size,
            start=self.start,
            drop_last=known.drop_last,
            block=known.batch_size if known.is_by_batch else 1,
            first=first,
            stop=stop,
        )

    def read(self, first: int, stop: int) -> tuple[Array, Array | None]:
        """Return this rank's samples `first` to `stop`, and their looks.

        Returns:
            int64[stop - first], shorter at the end, and as many looks, or None: see
            `datasets.order.EpochOrder.read`.
        """
        return self.of_world.read(self.positions(first, stop))

    def batch(self, number: int) -> tuple[Array, Array | None]:
        """Return the samples of batch `number` from `start` on, and their looks."""
        size = self.known.batch_size
        return self.read(number * size, (number + 1) * size)


class KnownBatches:
    """The rest of an epoch of a known order; its length is the number of batches.

    Batches are computed a few thousand samples at a time, by whoever iterates.

    Args:
        order: order.
        epoch: epoch.
        start: place of the global order that it begins at.
        is_next_known: whether the epoch after it has the same seed.
    """

    def __init__(
        self, order: KnownOrder, epoch: int, start: int, *, is_next_known: bool = True
    ) -> None:
        self.is_next_known = is_next_known
        self.order = order
        self.epoch = epoch
        self.start = start
        self._of_rank = order.of_epoch(epoch, start)
        self._size = order.batch_size
        count = len(self._of_rank)
        self._stop = count - count % self._size if order.drop_last else count
        self._closed = False

    def __len__(self) -> int:
        return (self._stop + self._size - 1) // self._size

    def batches(self) -> Iterator[Indices]:
        """Yield the batches for the reading stage."""
        at_once = self._of_rank.at_once
        for first in range(0, self._stop, at_once):
            samples, looks = self._of_rank.read(first, min(first + at_once, self._stop))
            numbers = samples.tolist()
            of_numbers = None if looks is None else looks.tolist()
            for place in range(0, len(numbers), self._size):
                if self._closed:
                    return
                batch = numbers[place : place + self._size]
                if of_numbers is not None:
                    batch = Looked(batch, of_numbers[place : place + self._size])
                yield batch

    ahead = batches

    def advance(self) -> None:
        """Do nothing: the whole order is known."""

    def note_yielded(self, number: int) -> None:
        """Do nothing: the place follows from the number of batches."""

    def sampler_state(self) -> tuple[int, Mapping[str, Any] | None]:
        """Return nothing: there is no sampler."""
        return 0, None

    def close(self) -> None:
        """End both iterations. Idempotent."""
        self._closed = True
