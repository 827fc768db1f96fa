"""The reads of a run, epoch by epoch: which blocks each step of a rank needs, in the real order.

The order is that of `loader.known_batches.KnownOrder`, the byte ranges those that the loader's own
plan is made of (`loader.prefetcher.pass_reads`), so that random parts are drawn as they will be in
training. A dataset that is too large for that is coarsened: of every `stride` groups of
neighbouring samples one is kept, in every epoch the same ones, in the order that they have. As long
as the cache is made smaller by the same factor, hit rates stay what they are (the same idea as
SHARDS: Waldspurger et al., "Efficient MRC Construction with SHARDS", FAST 2015).

Not thread-safe; the dataset is only asked for plans and never reads a shard.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dataplane.cache import PlannedRead, PlannedTable
from dataplane.datasets.dataset import Dataset
from dataplane.datasets.draws import Draws
from dataplane.datasets.looks import Looked
from dataplane.datasets.reader import SAMPLE_ERRORS, SampleReader
from dataplane.loader.batch_source import Indices
from dataplane.loader.known_batches import KnownBatches, KnownOrder
from dataplane.loader.prefetcher import pass_reads
from dataplane.planning.blocks import BlockTable

__all__ = ["Coarsening", "DatasetReads", "EpochReads", "coarsen"]

_STRETCH = 1024  # samples that are planned at once, as the loader does
_PROBED = 64  # samples whose sizes stand for all, where selections are planned one by one
_GROUP_BLOCKS = 16  # a group of samples has so many blocks at least: groups share those at its ends
_LEAST_GROUPS = 8  # that must be kept


@dataclass(frozen=True, slots=True, eq=False)
class EpochReads:
    """What one rank reads in one epoch.

    Attributes:
        blocks: number of each block that is used, in the order of the plan.
        steps: step that uses it, within the epoch; never falling.
        bounds: place in `blocks` at which each step begins, and the end: steps + 1 numbers.
        decoded: bytes of elements of each step.
        packed: compressed bytes that each step reads.
        guests: whether each use is of samples alone that another node owns; None where ranks take
            turns.
    """

    blocks: Sequence[int]
    steps: Sequence[int]
    bounds: Sequence[int]
    decoded: Sequence[int]
    packed: Sequence[int]
    guests: Sequence[bool] | None = None

    @property
    def step_count(self) -> int:
        """Number of steps."""
        return len(self.decoded)

    @classmethod
    def of(
        cls,
        blocks: npt.NDArray[np.int64],
        steps: npt.NDArray[np.int64],
        decoded: npt.NDArray[np.int64],
        packed: npt.NDArray[np.int64],
        guests: npt.NDArray[np.bool_] | None = None,
    ) -> EpochReads:
        """Return the reads of blocks by steps; of equal uses the first stays: that of an owner."""
        count = len(decoded)
        if len(blocks):
            width = int(blocks.max()) + 1
            first = np.sort(np.unique(steps * width + blocks, return_index=True)[1])
            blocks, steps = blocks[first], steps[first]
            guests = None if guests is None else guests[first]
        bounds = np.searchsorted(steps, np.arange(count + 1))
        return cls(
            blocks.tolist(),
            steps.tolist(),
            bounds.tolist(),
            decoded.tolist(),
            packed.tolist(),
            None if guests is None else guests.tolist(),
        )


@dataclass(frozen=True, slots=True)
class Coarsening:
    """Which samples are simulated: of every `stride` groups of `group` samples, the first.

    Attributes:
        stride: 1 for all samples.
        group: neighbouring samples of a group.
    """

    stride: int = 1
    group: int = 1

    def keeps(self, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return which samples, by their number in the dataset, are simulated."""
        kept: npt.NDArray[np.bool_] = samples // self.group % self.stride == 0
        return kept


def coarsen(samples: int, uses: float, most_uses: float, sample_blocks: float) -> Coarsening:
    """Return how to keep a simulation within a number of uses of blocks.

    Args:
        samples: numbers of samples of the dataset.
        uses: uses of blocks of all its epochs, about.
        most_uses: most that are simulated.
        sample_blocks: blocks of a sample, on average.
    """
    group = max(1, round(_GROUP_BLOCKS / max(sample_blocks, 1e-9)))
    stride = int(min(np.ceil(uses / most_uses), samples // (group * _LEAST_GROUPS)))
    return Coarsening(stride, group) if stride > 1 else Coarsening()


class DatasetReads:
    """The reads of a dataset by the ranks of one host.

    Args:
        dataset: dataset, opened with a cache, which is never used.
        orders: order of each rank.
        seed: seed of what selections draw.
        table: numbers of blocks.
        coarsening: which samples are simulated.
    """

    def __init__(
        self,
        dataset: Dataset,
        orders: Sequence[KnownOrder],
        seed: int,
        table: BlockTable,
        coarsening: Coarsening,
    ) -> None:
        self._reader = dataset.reader().drawing(Draws(seed, 0))
        self._orders = orders
        self._table = table
        self._coarsening = coarsening
        self._mean = mean_sizes(self._reader)

    def of(self, rank: int, epoch: int) -> EpochReads:
        """Return what a rank of the host reads in an epoch."""
        order = self._orders[rank]
        blocks: list[npt.NDArray[np.int64]] = []
        steps: list[npt.NDArray[np.int64]] = []
        guests: list[npt.NDArray[np.bool_]] = []
        decoded: list[int] = []
        packed: list[int] = []
        for batches in _stretches(self._batches(rank, epoch)):
            reads = pass_reads(self._reader, [batches], order, first_step=len(decoded), epoch=epoch)
            for read in reads:
                found = self._uses(read)
                blocks.append(found[0])
                steps.append(found[1])
                guests.append(np.full(len(found[0]), bool(read.is_guest)))
            for batch in batches:
                sizes = self._sizes(batch)
                decoded.append(sizes[0])
                packed.append(sizes[1])
        nothing = [np.zeros(0, np.int64)]
        return EpochReads.of(
            np.concatenate([*nothing, *blocks]),
            np.concatenate([*nothing, *steps]),
            np.array(decoded, np.int64),
            np.array(packed, np.int64),
            None if order.nodes is None else np.concatenate([np.zeros(0, bool), *guests]),
        )

    def _batches(self, rank: int, epoch: int) -> Iterator[Indices]:
        order, coarsening = self._orders[rank], self._coarsening
        if coarsening.stride == 1:
            yield from KnownBatches(order, epoch, 0).batches()
            return
        of_rank, size = order.of_epoch(epoch), order.batch_size
        numbers: list[int] = []
        looks: list[int] = []
        at_once = of_rank.at_once
        for first in range(0, len(of_rank), at_once):
            samples, of_samples = of_rank.read(first, min(first + at_once, len(of_rank)))
            # By the sample on the disk: the looks and tiles of one have the same blocks.
            kept = coarsening.keeps(self._reader.planner.numbering.split_many(samples)[0])
            numbers += samples[kept].tolist()
            looks += [] if of_samples is None else of_samples[kept].tolist()
            whole = len(numbers) - len(numbers) % size
            for place in range(0, whole, size):
                yield _batch(numbers, looks, place, size)
            numbers, looks = numbers[whole:], looks[whole:]
        if numbers and not order.drop_last:
            yield _batch(numbers, looks, 0, size)

    def _uses(
        self, read: PlannedRead | PlannedTable
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the blocks that reads use, and the step of each use."""
        if isinstance(read, PlannedTable):
            if not len(read.sources):
                return np.zeros(0, np.int64), np.zeros(0, np.int64)
            return read.block_numbers([self._table.first_of(one) for one in read.sources])
        block_bytes = read.source.spec.block_bytes
        last = -(-read.stop // block_bytes) if read.stop > read.start else 0
        numbers = np.arange(read.start // block_bytes, last, dtype=np.int64)
        numbers += self._table.first_of(read.source)
        return numbers, np.full(len(numbers), read.step, np.int64)

    def _sizes(self, batch: Sequence[int]) -> tuple[int, int]:
        """Return the decoded and the packed bytes of a batch."""
        plan = self._reader.planner.plan_many(np.array(batch, np.int64)) if batch else None
        if plan is not None:
            return plan.decoded_bytes, plan.packed_bytes
        return round(self._mean[0] * len(batch)), round(self._mean[1] * len(batch))


def mean_sizes(reader: SampleReader) -> tuple[float, float]:
    """Return the decoded and the packed bytes of a sample, on average over some of them."""
    length = len(reader.planner.numbering)
    decoded, packed = [], []
    for index in np.unique(np.linspace(0, max(length - 1, 0), _PROBED).astype(int)).tolist():
        try:
            plan = reader.planner.plan(index)
        except (*SAMPLE_ERRORS, IndexError):
            continue
        decoded.append(sum(part.nbytes for part in plan.parts if part is not None))
        packed.append(plan.packed_bytes)
    return (float(np.mean(decoded)), float(np.mean(packed))) if decoded else (0.0, 0.0)


def _batch(numbers: list[int], looks: list[int], place: int, size: int) -> Indices:
    batch = numbers[place : place + size]
    return Looked(batch, looks[place : place + size]) if looks else batch


def _stretches(batches: Iterator[Indices]) -> Iterator[list[Indices]]:
    stretch: list[Indices] = []
    samples = 0
    for batch in batches:
        stretch.append(batch)
        samples += len(batch)
        if samples >= _STRETCH:
            yield stretch
            stretch, samples = [], 0
    if stretch:
        yield stretch
