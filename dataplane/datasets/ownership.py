"""Ownership: which node's cache is to have a sample, and global batches dealt to nodes by it.

Each sample has an *owner*, one of the nodes, and a *second owner*: a pure function of the sample's
number, the number of samples and the number of nodes, which no seed and no epoch has part in. So
caches of M nodes that have space for 1/M of a dataset each hold all of it together, and no node
asks another what it has.

A global batch is the same set of samples as without this; only who reads which of them is other.
Each node takes exactly its share:

- Samples are gone through in an order of their own, the same in all epochs. Each goes to its owner,
  as long as that has room.
- Those that are left over go to their second owner in the same way. So the samples that overflow
  are mostly the same ones in each epoch, and overflow to the same node.
- What is still left over fills the nodes that have room, the first ones first.

A node's samples are dealt to its ranks evenly. A batch that is padded at the end of an epoch is
dealt as without ownership: frameworks rely on where the repeated samples are.

*Owners.* Runs of neighbours, one sample or several that share blocks of the cache, are permuted and
cut into equal parts, one a node. A hash would give nodes unequal parts, by a tenth where a node has
a hundred samples, and what a node owns beyond its share it never gets to read. The parts of one
node more are those of one less, each with its end cut off for the new node: no more samples than
that one needs change their owner.

Pure functions and values; safe from any thread.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dataplane.datasets.keyed import Array, keys_of, random_bits
from dataplane.datasets.order import EpochOrder, rank_count, rank_positions
from dataplane.datasets.permutations import SORTED_SAMPLES, Permutation
from dataplane.errors import ConfigError

__all__ = ["NodeTurns", "Nodes", "deal"]

# Never to be changed: caches are full of what these numbers say.
_SEED = 0x6E6F6465_6F776E73
_SECOND, _PRECEDENCE = 0x6E6F6432, 0x6E6F6470


@dataclass(frozen=True, slots=True)
class Nodes:
    """The nodes of a job, and how samples are theirs.

    Attributes:
        count: number of nodes.
        samples: number of samples of the dataset.
        run: number of neighbours that are owned together.

    Raises:
        ConfigError: a number is out of range.
    """

    count: int
    samples: int
    run: int = 1

    def __post_init__(self) -> None:
        for name, least in (("count", 1), ("samples", 0), ("run", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"nodes: {name} must be at least {least}")

    def owners(self, samples: Array) -> Array:
        """Return the node that owns each sample: int64, in the shape of `samples`.

        Raises:
            IndexError: there is no such sample.
        """
        runs = -(-self.samples // self.run)
        if runs <= SORTED_SAMPLES:
            places: Array = _places(runs)[samples // self.run]
        else:
            places = _permutation(runs).inverse(samples // self.run)
        starts, nodes = _parts(runs, self.count)
        owners: Array = nodes[np.searchsorted(starts, places, side="right") - 1]
        return owners

    def second_owners(self, samples: Array, owners: Array) -> Array:
        """Return the node that each sample overflows to, its owner being full.

        Args:
            samples: int64[...].
            owners: what `owners` gives for them.

        Returns:
            int64[...], each another node than the owner, if there are others.
        """
        if self.count == 1:
            return owners
        bits = random_bits(_keys(_SECOND), samples // self.run)
        step = (bits % np.uint64(self.count - 1)).astype(np.int64) + 1
        second: Array = (owners + step) % self.count
        return second


def deal(samples: Array, nodes: Nodes) -> Array:
    """Return which node reads each sample of some global batches.

    Args:
        samples: int64[batches, size], of which size divides by the number of nodes.
        nodes: the nodes.

    Returns:
        int64[batches, size]; each row has each node equally often.
    """
    batches, size = samples.shape
    flat = samples.ravel()
    # A bin is a node of one batch; all batches are dealt at once.
    base = np.repeat(np.arange(batches) * nodes.count, size)
    room = np.full(batches * nodes.count, size // nodes.count)
    bins = np.empty(len(flat), np.int64)
    # By the run, whose samples then overflow together; stable, so that equal ones have an order.
    left = np.argsort(random_bits(_keys(_PRECEDENCE), flat // nodes.run), kind="stable")
    owners = nodes.owners(flat)
    for wanted in (owners, nodes.second_owners(flat, owners)):
        asked = base[left] + wanted[left]
        by_bin = np.argsort(asked, kind="stable")
        of_bin = asked[by_bin]
        is_in = np.empty(len(left), bool)
        is_in[by_bin] = np.arange(len(left)) - np.searchsorted(of_bin, of_bin) < room[of_bin]
        bins[left[is_in]] = asked[is_in]
        room -= np.bincount(asked[is_in], minlength=len(room))
        left = left[~is_in]
    left = left[np.argsort(base[left], kind="stable")]
    bins[left] = np.repeat(np.arange(len(room)), room)
    return (bins % nodes.count).reshape(batches, size)


@dataclass(frozen=True, slots=True)
class NodeTurns:
    """What `rank_positions` is for ranks that take turns, where samples go to nodes.

    Attributes:
        nodes: the nodes. Rank `r` is on node `r // (world_size / count)`.
        rank: rank.
        world_size: number of ranks; the number of nodes divides it.
        batch_size: samples per batch and rank.
        drop_last: whether to cut a tail that does not divide by `world_size`, not pad it.
        is_by_batch: whether a rank takes neighbours of what its node gets, and not every so many.
    """

    nodes: Nodes
    rank: int
    world_size: int
    batch_size: int
    drop_last: bool = False
    is_by_batch: bool = False

    def positions(self, order: EpochOrder, start: int, first: int, stop: int) -> Array:
        """Return the positions of the global order of this rank's samples `first` to `stop`.

        Args:
            order: global order of the epoch.
            start: number of positions that the world has consumed already.
            first: number of the rank's first sample, counted from `start`.
            stop: number behind its last one; past the end there are none.

        Returns:
            int64[stop - first], shorter at the end.
        """
        n, size, whole = len(order), self.batch_size, self.batch_size * self.world_size
        count = rank_count(n, world_size=self.world_size, start=start, drop_last=self.drop_last)
        stop = min(stop, count)
        if first >= stop:
            return np.empty(0, np.int64)
        number, end = first // size, -(-stop // size)
        # Batches that are neither short nor padded, all at once; there is at most one other.
        even = max(min(end, count // size, (n - start) // whole), number)
        parts = [self._of_node(order, start + number * whole, even - number, size)]
        for short in range(even, end):
            length = min(size, count - short * size)
            if start + short * whole + length * self.world_size <= n:
                parts.append(self._of_node(order, start + short * whole, 1, length))
            else:
                parts.append(self._by_turns(n, start, short * size, short * size + length))
        skipped = first - number * size
        return np.concatenate(parts)[skipped : skipped + stop - first]

    def _of_node(self, order: EpochOrder, start: int, batches: int, length: int) -> Array:
        """Return this rank's positions in batches of `length` samples a rank, one by one."""
        if batches == 0:
            return np.empty(0, np.int64)
        size = length * self.world_size
        positions = np.arange(start, start + batches * size, dtype=np.int64)
        samples = order.read(positions)[0].reshape(batches, size)
        node_ranks = self.world_size // self.nodes.count
        node, local = divmod(self.rank, node_ranks)
        taken = positions[(deal(samples, self.nodes) == node).ravel()]
        shape = (batches, node_ranks, length) if self.is_by_batch else (batches, length, node_ranks)
        mine = taken.reshape(shape)
        of_rank: Array = mine[:, local] if self.is_by_batch else mine[:, :, local]
        return of_rank.ravel()

    def _by_turns(self, n: int, start: int, first: int, stop: int) -> Array:
        return rank_positions(
            n,
            rank=self.rank,
            world_size=self.world_size,
            start=start,
            drop_last=self.drop_last,
            block=self.batch_size if self.is_by_batch else 1,
            first=first,
            stop=stop,
        )


@functools.lru_cache(maxsize=4)
def _places(runs: int) -> npt.NDArray[np.int64]:
    """Return the place of each run in the permutation of the runs, which are few."""
    places = _permutation(runs).inverse(np.arange(runs, dtype=np.int64))
    places.flags.writeable = False
    return places


@functools.lru_cache(maxsize=4)
def _parts(runs: int, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return where stretches of places begin that one node owns, and which: int64[k] each."""
    parts: list[list[tuple[int, int]]] = [[(0, runs)]]
    for new in range(1, count):
        cut: list[tuple[int, int]] = []
        for node, stretches in enumerate(parts):
            # ceil((runs - node) / count) never grows with the count, and sums up to the runs.
            excess = -(-(runs - node) // new) + (runs - node) // -(new + 1)
            while excess > 0:
                start, stop = stretches.pop()
                middle = max(start, stop - excess)
                if middle > start:
                    stretches.append((start, middle))
                cut.append((middle, stop))
                excess -= stop - middle
        parts.append(cut)
    owned = sorted((start, node) for node, some in enumerate(parts) for start, _ in some)
    table = np.array(owned, np.int64).reshape(-1, 2)
    table.flags.writeable = False
    return table[:, 0], table[:, 1]


@functools.lru_cache(maxsize=4)
def _permutation(runs: int) -> Permutation:
    return Permutation(runs, _SEED, 0)


@functools.lru_cache(maxsize=2)
def _keys(purpose: int) -> npt.NDArray[np.uint64]:
    return keys_of(purpose, count=2)
