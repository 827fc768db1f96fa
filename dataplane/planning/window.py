"""The plan of one rank in simulated time: which blocks enter its window, in order, and when.

The policy is that of `cache.plan`: reads enter in the order of the steps while the window has room
and not too many downloads are asked for; a block stays until the last step in the window that needs
it is over; of the next epoch no more than a limit enters before it begins. Blocks that were
downloaded are held in memory while they are in the window and the memory has room.

Not thread-safe; belongs to one simulation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dataplane.planning.downloads import Downloads
from dataplane.planning.host_disk import HostDisk
from dataplane.planning.reads import EpochReads

__all__ = ["Window", "WindowPolicy"]


@dataclass(frozen=True, slots=True)
class WindowPolicy:
    """How far a plan goes ahead.

    Attributes:
        window_bytes: most bytes ahead of the reader.
        next_epoch_bytes: of those, most that are of the next epoch.
        memory_bytes: most bytes that are held in memory.
        least_jobs: blocks that may be asked for, whatever their length.
        most_job_bytes: bytes that may be asked for.
    """

    window_bytes: int
    next_epoch_bytes: int
    memory_bytes: int
    least_jobs: int
    most_job_bytes: int


class Window:
    """The window of one rank.

    Args:
        policy: how far it goes.
        disk: disk of the host.
        lengths: length of each block; may grow.
        reads_of: function that returns the reads of an epoch; None behind the last one.
        rank: number of the rank on its host.
    """

    def __init__(
        self,
        policy: WindowPolicy,
        disk: HostDisk,
        lengths: list[int],
        reads_of: Callable[[int], EpochReads | None],
        rank: int = 0,
    ) -> None:
        self._policy = policy
        self._disk = disk
        self._rank = rank
        self._lengths = lengths
        self._reads_of = reads_of
        self.downloads: Downloads  # set by the one who makes both
        self._reads = reads_of(0)
        self._planned_epoch = 0
        self._base = 0  # step of the plan at which the planned epoch begins
        self._place = 0  # of the next use in the planned epoch
        self._has_begun = False
        self._step = 0
        self._epoch = 0
        self._last_use: dict[int, int] = {}  # step of the plan, of each block of the running epoch
        self._last_step: dict[int, int] = {}
        self._by_step: dict[int, list[int]] = {}
        self._next_epoch: set[int] = set()
        self._next_epoch_bytes = 0
        self._held: dict[int, int] = {}
        self._held_bytes = 0
        self.ahead_bytes = 0
        self.peak_held_bytes = 0

    def is_planned(self, block: int) -> bool:
        """Whether a block is in the window."""
        return block in self._last_step

    def needs(self, block: int, epoch: int) -> bool:
        """Whether an epoch is the running one, and the block has still to be read in it."""
        return epoch == self._epoch and self._last_use.get(block, -1) >= self._step

    def has(self, block: int) -> bool:
        """Whether a block can be read at once."""
        return block in self._disk or block in self._held

    def take(self, block: int, now_s: float) -> None:
        """Hold a block that has come, if it is planned and there is room."""
        del now_s
        length = self._lengths[block]
        if (
            block in self._last_step
            and block not in self._held
            and self._held_bytes + length <= self._policy.memory_bytes
        ):
            self._held[block] = length
            self._held_bytes += length
            self.peak_held_bytes = max(self.peak_held_bytes, self._held_bytes)

    def begin_epoch(self, epoch: int) -> None:
        """Say that the reader begins an epoch."""
        self._epoch = epoch
        reads = self._reads_of(epoch)
        assert reads is not None
        steps = (self._step + step for step in reads.steps)
        self._last_use = dict(zip(reads.blocks, steps, strict=True))
        self._next_epoch.clear()
        self._next_epoch_bytes = 0

    def advance(self, step: int) -> None:
        """Say that the reader is done with the steps below `step`, counted over all epochs."""
        for done in range(self._step, step):
            for block in self._by_step.pop(done, ()):
                if self._last_step.get(block) == done:
                    del self._last_step[block]
                    self.ahead_bytes -= self._lengths[block]
                    self._held_bytes -= self._held.pop(block, 0)
        self._step = max(self._step, step)

    def pump(self, now_s: float) -> None:
        """Let as many reads enter as there is room for, and ask for what is missing."""
        while (reads := self._reads) is not None:
            blocks, steps, count = reads.blocks, reads.steps, len(reads.blocks)
            while self._place < count:
                block, step = blocks[self._place], self._base + steps[self._place]
                if step >= self._step and not self._enter(block, step, now_s):
                    return
                if reads.guests is not None:
                    is_guest = reads.guests[self._place]
                    self._disk.note_kind(block, self._rank, is_guest=is_guest)
                self._place += 1
            self._base += reads.step_count
            self._place, self._has_begun = 0, False
            self._planned_epoch += 1
            self._reads = self._reads_of(self._planned_epoch)

    def _enter(self, block: int, step: int, now_s: float) -> bool:
        """Let a block into the window, or have it stay for longer; False where it must wait."""
        known = self._last_step.get(block)
        length = self._lengths[block]
        epoch = self._planned_epoch
        if not self._may_enter(block, length, now_s, is_known=known is not None):
            return False
        if not self._has_begun:
            self._has_begun = True
            self._disk.begin_pass(now_s, self._rank)
        if epoch > self._epoch and block not in self._next_epoch:
            self._next_epoch.add(block)
            self._next_epoch_bytes += length
        if known is None:
            self.ahead_bytes += length
        if known is None or known < step:
            self._last_step[block] = step
            self._by_step.setdefault(step, []).append(block)
        if not self.has(block):
            self.downloads.submit(block, epoch, is_demanded=False)
        return True

    def _may_enter(self, block: int, length: int, now_s: float, *, is_known: bool) -> bool:
        policy = self._policy
        if self._planned_epoch > self._epoch:
            grown = self._next_epoch_bytes + (0 if block in self._next_epoch else length)
            limit = min(policy.next_epoch_bytes, policy.window_bytes // 2)
            if grown > limit or self._planned_epoch > self._epoch + 1:
                return False
        if is_known:
            return True
        window = policy.window_bytes
        if self._disk.is_full(now_s, self._rank):
            window = min(window, policy.memory_bytes)
        if self.ahead_bytes + length > window and self._last_step:
            return False
        jobs = len(self.downloads)
        return jobs < policy.least_jobs or jobs * length < policy.most_job_bytes
