"""Batch sources: a loader's batches of indices, from a known order or a sampler of the user's.

A source is read twice: by the reading stage, and, further ahead, by the cache's plan. For a known
order both simply compute it. A user's sampler can be iterated only once and may draw from torch's
global generator, so it is advanced in the training thread alone, at fixed points (`LOOKAHEAD`
batches at the start, one more per batch yielded): what it draws never depends on timing.

`batches()` and `ahead()` may be iterated from any one thread each; `advance` and `close` belong to
the consumer. `close` ends both iterations, also while they wait.
"""

from __future__ import annotations

import contextlib
import operator
import queue
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from dataplane.datasets.order import global_order, rank_count, rank_positions
from dataplane.errors import LoaderError

__all__ = ["LOOKAHEAD", "BatchSource", "Indices", "KnownBatches", "KnownOrder", "SamplerBatches"]

LOOKAHEAD = 64
"""Number of batches that a user's sampler runs ahead of the training loop."""

Indices: TypeAlias = list[int]


class BatchSource(Protocol):
    """A source of batches of indices. See the module's text."""

    def batches(self) -> Iterator[Indices]:
        """Yield the batches for the reading stage."""
        ...

    def ahead(self) -> Iterator[Indices]:
        """Yield the same batches again, for the plan."""
        ...

    def advance(self) -> None:
        """Say that the consumer asks for another batch."""
        ...

    def close(self) -> None:
        """End both iterations. Idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class KnownOrder:
    """The order of one rank, a pure function of (seed, epoch, rank, world size, start).

    Attributes:
        length: length of the dataset.
        shuffle: whether to permute it anew each epoch.
        seed: seed of the permutations.
        rank: rank of this process.
        world_size: number of ranks.
        batch_size: samples per batch and rank.
        drop_last: whether to leave incomplete batches and an uneven tail out.
    """

    length: int
    shuffle: bool
    seed: int
    rank: int
    world_size: int
    batch_size: int
    drop_last: bool

    def count(self, start: int = 0) -> int:
        """Return how many samples this rank reads from global place `start` on."""
        return rank_count(
            self.length, world_size=self.world_size, start=start, drop_last=self.drop_last
        )

    def indices(self, epoch: int, start: int = 0) -> npt.NDArray[np.int64]:
        """Return this rank's samples of an epoch from global place `start` on: int64[count]."""
        order = global_order(self.length, seed=self.seed, epoch=epoch, shuffle=self.shuffle)
        positions = rank_positions(
            self.length,
            rank=self.rank,
            world_size=self.world_size,
            start=start,
            drop_last=self.drop_last,
        )
        taken: npt.NDArray[np.int64] = order[positions]
        return taken

    def consumed(self, start: int, batches: int) -> int:
        """Return the global place after `batches` more batches on every rank."""
        return start + min(batches * self.batch_size, self.count(start)) * self.world_size


class KnownBatches:
    """The rest of an epoch of a known order; its length is the number of batches."""

    def __init__(self, order: KnownOrder, epoch: int, start: int) -> None:
        self.order = order
        self.epoch = epoch
        self.start = start
        self._indices = order.indices(epoch, start)
        self._size = order.batch_size
        count = len(self._indices)
        self._stop = count - count % self._size if order.drop_last else count
        self._closed = False

    def __len__(self) -> int:
        return (self._stop + self._size - 1) // self._size

    def batches(self) -> Iterator[Indices]:
        """Yield the batches for the reading stage."""
        for first in range(0, self._stop, self._size):
            if self._closed:
                return
            yield self._indices[first : min(first + self._size, self._stop)].tolist()

    ahead = batches

    def advance(self) -> None:
        """Do nothing: the whole order is known."""

    def close(self) -> None:
        """End both iterations. Idempotent."""
        self._closed = True


@dataclass(frozen=True, slots=True)
class _End:
    """The end of a sampler, with an error or without."""

    error: Exception | None = None


class SamplerBatches:
    """Batches of a user's sampler or batch sampler.

    Args:
        sampler: iterable of lists of indices, or of single ones.
        skip: number of batches to pass over, to resume behind them.
        length: length of the dataset; negative indices count from its end.
    """

    def __init__(self, sampler: Iterable[object], *, skip: int, length: int) -> None:
        self._items = iter(sampler)
        self._length = length
        self._queues: tuple[queue.SimpleQueue[Indices | _End], ...] = (
            queue.SimpleQueue(),
            queue.SimpleQueue(),
        )
        self._done = False
        for _ in range(skip):
            if next(self._items, None) is None:
                break
        for _ in range(LOOKAHEAD):
            self.advance()

    def batches(self) -> Iterator[Indices]:
        """Yield the batches for the reading stage."""
        return _drain(self._queues[0])

    def ahead(self) -> Iterator[Indices]:
        """Yield the same batches again, for the plan."""
        with contextlib.suppress(Exception):  # of the sampler: `batches` raises it to the user
            yield from _drain(self._queues[1])

    def advance(self) -> None:
        """Draw one more batch from the sampler."""
        if self._done:
            return
        item: Indices | _End
        try:
            item = self._checked(next(self._items))
        except StopIteration:
            item = _End()
        except Exception as err:
            item = _End(err)
        self._done = isinstance(item, _End)
        for waiting in self._queues:
            waiting.put(item)

    def close(self) -> None:
        """End both iterations. Idempotent."""
        self._done = True
        for waiting in self._queues:
            waiting.put(_End())

    def _checked(self, item: object) -> Indices:
        plain: Any = item.tolist() if hasattr(item, "tolist") else item  # arrays and tensors
        indices: Sequence[Any] = plain if isinstance(plain, Sequence) else [plain]
        try:
            numbers = [operator.index(i) for i in indices]
        except TypeError as err:
            raise LoaderError(f"the sampler yielded {item!r}, which is no index or list") from err
        for number in numbers:
            if not -self._length <= number < self._length:
                raise IndexError(
                    f"the sampler yielded sample {number} of a dataset of {self._length}"
                )
        return [number % self._length for number in numbers]


def _drain(waiting: queue.SimpleQueue[Indices | _End]) -> Iterator[Indices]:
    while not isinstance(item := waiting.get(), _End):
        yield item
    if item.error is not None:
        raise item.error
