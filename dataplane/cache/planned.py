"""Reads that a plan is made of: one by one, or many as arrays.

A plan of small samples has thousands of reads per second, of few blocks. As arrays they cost no
Python object each, and what they come to, which block is needed by which steps, is found for all of
them at once. Values; pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dataplane.cache.object import CachedObject

__all__ = ["BlockUses", "PlannedRead", "PlannedTable"]

_MAX_BLOCKS = 1 << 40  # of an object


@dataclass(frozen=True, slots=True)
class PlannedRead:
    """One read to come: bytes `[start, stop)` of an object, needed by `step`.

    `epoch` counts the passes over the data from the plan's first on; steps go on over their ends.
    `is_guest` says whether it is of a sample that another node owns, where samples have owners.
    """

    source: CachedObject
    start: int
    stop: int
    step: int
    epoch: int = 0
    is_guest: bool | None = None


@dataclass(frozen=True, slots=True, eq=False)
class PlannedTable:
    """Many reads to come, of one epoch, in the order of their steps.

    Attributes:
        sources: objects that are read.
        source: int[n], index of the object of each read.
        starts: uint64[n], first bytes.
        stops: uint64[n], where they end; a read may be empty.
        steps: int64[n], step that needs each, never falling.
        epoch: as in `PlannedRead`.
        is_guest: as in `PlannedRead`, of all of them.
    """

    sources: Sequence[CachedObject]
    source: npt.NDArray[np.integer]
    starts: npt.NDArray[np.uint64]
    stops: npt.NDArray[np.uint64]
    steps: npt.NDArray[np.int64]
    epoch: int = 0
    is_guest: bool | None = None

    def block_uses(self) -> BlockUses:
        """Return which blocks the steps need."""
        has = self.stops > self.starts
        starts, stops = self.starts[has].astype(np.int64), self.stops[has].astype(np.int64)
        lengths = np.array([source.spec.block_bytes for source in self.sources], np.int64)
        block_bytes = lengths[self.source[has]]
        first = starts // block_bytes
        counts = (stops - 1) // block_bytes - first + 1
        row = np.repeat(np.arange(len(first)), counts)
        place = np.arange(len(row)) - (np.cumsum(counts) - counts)[row]
        keys = self.source[has].astype(np.int64)[row] * _MAX_BLOCKS + first[row] + place
        return BlockUses(self.sources, keys, self.steps[has][row], self.epoch, self.is_guest)

    def block_numbers(
        self, firsts: Sequence[int]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return which blocks the steps need, numbered over all objects.

        Args:
            firsts: number of the first block of each object.

        Returns:
            int64[n], the blocks; int64[n], the step that needs each, never falling.
        """
        uses = self.block_uses()
        source, block = np.divmod(uses.keys, _MAX_BLOCKS)
        return np.asarray(firsts, np.int64)[source] + block, uses.steps


@dataclass(frozen=True, slots=True, eq=False)
class BlockUses:
    """Blocks that steps need, in the order of the steps.

    Attributes:
        sources: objects that are read.
        keys: int64[n], the object and the block as one number.
        steps: int64[n], step that needs it, never falling.
        epoch: as in `PlannedRead`.
        is_guest: as in `PlannedRead`.
    """

    sources: Sequence[CachedObject]
    keys: npt.NDArray[np.int64]
    steps: npt.NDArray[np.int64]
    epoch: int
    is_guest: bool | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, part: slice) -> BlockUses:
        return dataclasses.replace(self, keys=self.keys[part], steps=self.steps[part])

    def last_uses(self) -> list[PlannedRead]:
        """Return a read of each block, by first use, for the last step that needs it."""
        keys, first = np.unique(self.keys, return_index=True)
        _, last = np.unique(self.keys[::-1], return_index=True)
        order = np.argsort(first)
        return self._reads(keys[order], self.steps[len(self.keys) - 1 - last[order]])

    def runs(self) -> list[PlannedRead]:
        """Return reads of all uses; blocks that follow each other and one step needs are one."""
        is_first = np.ones(len(self), bool)
        is_first[1:] = (np.diff(self.keys) != 1) | (np.diff(self.steps) != 0)
        first = np.flatnonzero(is_first)
        counts = np.diff(np.append(first, len(self)))
        return self._reads(self.keys[first], self.steps[first], counts)

    def end_of_run(self, place: int) -> int:
        """Return the first place from `place` on that does not cut such a run: 1 to the length."""
        keys, steps = self.keys, self.steps
        while (
            place < len(keys)
            and keys[place] == keys[place - 1] + 1
            and steps[place] == steps[place - 1]
        ):
            place += 1
        return place

    def _reads(
        self,
        keys: npt.NDArray[np.int64],
        steps: npt.NDArray[np.int64],
        counts: npt.NDArray[np.int64] | None = None,
    ) -> list[PlannedRead]:
        """Return the reads of so many blocks from each of `keys` on; of one by default."""
        if counts is None:
            counts = np.ones(len(keys), np.int64)
        reads = []
        for key, step, count in zip(keys.tolist(), steps.tolist(), counts.tolist(), strict=True):
            source = self.sources[key // _MAX_BLOCKS]
            block_bytes = source.spec.block_bytes
            start = key % _MAX_BLOCKS * block_bytes
            stop = min(start + count * block_bytes, source.info.size_bytes)
            reads.append(PlannedRead(source, start, stop, step, self.epoch, self.is_guest))
        return reads
