"""Discrete simulation of training on one host: its ranks, their plans, the disk, the network.

Events are first bytes and blocks that come, batches that are decoded, and training steps that end.
A step begins when every rank of the host has its batch (they wait for each other, as gradients are
summed), and takes `step_s`. What a step waited for, and what the network did meanwhile, is noted;
`causes` makes reasons of that.

What is left out: the disk is as fast as it is asked to be, other programs do nothing, planning
takes no time. Not thread-safe; one instance per run.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dataplane.planning.batches import Batches, StagePolicy
from dataplane.planning.blocks import BlockTable
from dataplane.planning.causes import Meanwhile, Wait, why
from dataplane.planning.downloads import DownloadPolicy, Downloads, HostDownloads, Tally
from dataplane.planning.host_disk import HostDisk
from dataplane.planning.network import Network, NetworkSettings
from dataplane.planning.reads import EpochReads
from dataplane.planning.window import Window, WindowPolicy

__all__ = ["EpochFigures", "HostSimulator", "Setup"]

_NO_WAIT_S = 1e-6


@dataclass(frozen=True, slots=True)
class Setup:
    """What is simulated.

    Attributes:
        network: connections of the host.
        downloads: how a process downloads.
        window: how far a plan goes ahead.
        stages: stages of a loader.
        step_s: time of a training step.
        limit_bytes: budget of the cache; None for no limit.
        foreign: blocks that are in the cache before and of no working set.
    """

    network: NetworkSettings
    downloads: DownloadPolicy
    window: WindowPolicy
    stages: StagePolicy
    step_s: float
    limit_bytes: int | None
    foreign: Sequence[int] = ()


@dataclass(slots=True)
class EpochFigures:
    """What an epoch comes to, on one host.

    Attributes:
        epoch: its number.
        steps: number of steps.
        elapsed_s: from its beginning to the end of its last step.
        first_batch_s: from its beginning to its first step.
        wait_s: time in which the training loops waited, the first batch included.
        needed_bytes: bytes of the blocks that it needs, each once.
        missed_bytes: of those, what had to be downloaded, whenever that was.
        fetched_bytes: bytes downloaded between its beginning and its end.
        again_bytes: of those, what had been downloaded before.
        requests: requests sent in that time.
        waits: steps that waited, with the cause.
    """

    epoch: int
    steps: int
    elapsed_s: float = 0.0
    first_batch_s: float = 0.0
    wait_s: float = 0.0
    needed_bytes: int = 0
    missed_bytes: int = 0
    fetched_bytes: int = 0
    again_bytes: int = 0
    requests: int = 0
    waits: list[Wait] = field(default_factory=list)

    @property
    def hit_rate(self) -> float:
        """Share of the needed bytes that were in the cache when the plan came to them."""
        return max(0.0, 1 - self.missed_bytes / self.needed_bytes) if self.needed_bytes else 1.0


class HostSimulator:
    """Simulation of the ranks of one host.

    Args:
        setup: what is simulated.
        table: lengths of blocks.
        ranks: number of ranks on the host.
        epochs: number of epochs.
        reads_of: function that returns what a rank reads in an epoch.
    """

    def __init__(
        self,
        setup: Setup,
        table: BlockTable,
        *,
        ranks: int,
        epochs: int,
        reads_of: Callable[[int, int], EpochReads],
    ) -> None:
        self._setup = setup
        self._table = table
        self._epochs = epochs
        self._reads_of = reads_of
        self._reads: dict[tuple[int, int], EpochReads] = {}
        self.disk = HostDisk(table, setup.limit_bytes, setup.foreign, self._is_pinned, ranks=ranks)
        self._network = Network(setup.network)
        self._host = HostDownloads(table, self.disk, self._network)
        self.windows: list[Window] = []
        self._batches: list[Batches] = []
        for rank in range(ranks):
            self._add(rank)
        self._now_s = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._to_go_on = set(range(ranks))
        self._taken: set[int] = set()
        self._ready_s = 0.0
        self._is_stepping = False
        self._having = 0  # ranks that have their batch
        self._step = 0
        self._figures: EpochFigures
        self._before = (self._network.busy.copy(), Tally())

    def run(
        self, is_enough: Callable[[list[EpochFigures]], bool] | None = None
    ) -> list[EpochFigures]:
        """Run the epochs; return the figures of each.

        Args:
            is_enough: function that looks at the figures so far, and says whether to stop.
        """
        done: list[EpochFigures] = []
        for epoch in range(self._epochs):
            done.append(self._run_epoch(epoch))
            for rank in range(len(self._batches)):
                self._reads.pop((rank, epoch), None)
            if is_enough is not None and is_enough(done):
                break
        # Only now: what is fetched ahead of an epoch was missed by that epoch.
        for figures in done:
            figures.missed_bytes = self._host.tally.missed_bytes[figures.epoch]
        return done

    def _add(self, rank: int) -> None:
        setup = self._setup
        window = Window(
            setup.window,
            self.disk,
            self._table.lengths,
            lambda epoch: self._known(rank, epoch),
            rank,
        )
        downloads = Downloads(
            rank,
            setup.downloads,
            self._host,
            window,
            lambda block, now_s: self._on_block(rank, block, now_s),
        )
        window.downloads = downloads
        self.windows.append(window)
        self._batches.append(Batches(setup.stages, window, downloads, self.disk))

    def _is_pinned(self, rank: int, block: int) -> bool:
        return self.windows[rank].is_planned(block)

    def _known(self, rank: int, epoch: int) -> EpochReads | None:
        """Return the reads of an epoch, one behind the last too: a loader foresees it."""
        if epoch > self._epochs:
            return None
        if (rank, epoch) not in self._reads:
            self._reads[rank, epoch] = self._reads_of(rank, epoch)
        return self._reads[rank, epoch]

    def _run_epoch(self, epoch: int) -> EpochFigures:
        reads = []
        for rank, batches in enumerate(self._batches):
            known = self._known(rank, epoch)
            assert known is not None
            batches.begin_epoch(epoch, known)
            reads.append(known)
        steps = min(one.step_count for one in reads)
        self._figures = figures = EpochFigures(epoch, steps)
        figures.needed_bytes = sum(
            self._table.lengths[block] for block in set().union(*(one.blocks for one in reads))
        )
        begun_s, tally = self._now_s, self._host.tally.copy()
        self._ready_s, self._step = self._now_s, 0
        self._before = (self._network.busy.copy(), tally)
        self._to_go_on.update(range(len(self._batches)))
        while self._step < steps:
            self._go_on()
            self._next_event()
        after = self._host.tally
        figures.elapsed_s = self._now_s - begun_s
        figures.fetched_bytes = after.nbytes - tally.nbytes
        figures.again_bytes = after.again_bytes - tally.again_bytes
        figures.requests = after.requests - tally.requests
        return figures

    def _next_event(self) -> None:
        event_s = self._events[0][0] if self._events else math.inf
        network_s = self._network.next_s()
        assert min(event_s, network_s) < math.inf, "nothing is under way, and training waits"
        if network_s <= event_s:
            self._now_s = max(self._now_s, network_s)
            transfer = self._network.step(network_s)
            if transfer is not None:
                self._host.on_block(transfer, self._now_s)
            return
        self._now_s, _, act = heapq.heappop(self._events)
        self._network.pass_to(self._now_s)
        act()

    def _after(self, delay_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self._now_s + delay_s, next(self._numbers), act))

    def _on_block(self, rank: int, block: int, now_s: float) -> None:
        self._batches[rank].on_block(block, now_s)
        self._to_go_on.add(rank)

    def _go_on(self) -> None:
        """Begin all that can begin now."""
        while self._to_go_on:
            rank = self._to_go_on.pop()
            self.windows[rank].pump(self._now_s)
            begun = self._batches[rank].go_on(self._now_s)
            # Only now: the threads wake up when several blocks have been asked for.
            self._host.ranks[rank].dispatch(self._now_s)
            if begun is not None:
                number, decode_s = begun
                self._after(decode_s, functools.partial(self._decoded, rank, number))
                self._to_go_on.add(rank)  # the plan was let go of a step
            if not self._is_stepping and rank not in self._taken and self._batches[rank].can_take:
                self._take(rank)

    def _decoded(self, rank: int, number: int) -> None:
        self._batches[rank].decoded(number)
        self._to_go_on.add(rank)

    def _take(self, rank: int) -> None:
        """Have the training loop of a rank take its batch, and decode it if it must."""
        batches = self._batches[rank]
        read_s = batches.read_s[batches.next_take]
        self._taken.add(rank)
        self._to_go_on.add(rank)
        inline_s = batches.take()
        if inline_s:
            self._after(inline_s, functools.partial(self._has_batch, read_s))
        else:
            self._has_batch(read_s)

    def _has_batch(self, read_s: float) -> None:
        """Begin the step if this was the last rank that waited for its batch."""
        self._having += 1
        if self._having < len(self._batches):
            return
        figures, busy, tally = self._figures, self._network.busy.copy(), self._host.tally.copy()
        wait_s = self._now_s - self._ready_s
        figures.wait_s += wait_s
        if self._step == 0:
            figures.first_batch_s = wait_s
        if wait_s > _NO_WAIT_S:
            since, had = self._before
            meanwhile = Meanwhile(
                since, busy, tally.nbytes - had.nbytes, tally.again_bytes - had.again_bytes
            )
            decode_s = self._now_s - max(read_s, self._ready_s)
            figures.waits.append(why(self._step, wait_s, decode_s, meanwhile))
        self._before = (busy, tally)
        self._is_stepping = True
        self._after(self._setup.step_s, self._end_step)

    def _end_step(self) -> None:
        self._is_stepping = False
        self._taken.clear()
        self._having = 0
        self._step += 1
        self._ready_s = self._now_s
        self._to_go_on.update(range(len(self._batches)))
