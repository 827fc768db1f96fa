"""The batches of one rank in simulated time: read, decoded, taken by the training loop.

The stages are those of `loader.stages`: some threads read batches in order, each done when its
blocks are there; one decodes; a few batches may wait behind each. Without workers the training loop
decodes by itself. When decoding of a batch begins, the plan lets go of the steps before it.

Not thread-safe; belongs to one simulation.
"""

from __future__ import annotations

from dataclasses import dataclass

from dataplane.planning.downloads import Downloads
from dataplane.planning.host_disk import HostDisk
from dataplane.planning.reads import EpochReads
from dataplane.planning.window import Window

__all__ = ["Batches", "StagePolicy"]


@dataclass(frozen=True, slots=True)
class StagePolicy:
    """The stages of a loader.

    Attributes:
        read_threads: batches that are read at once.
        read_capacity: compressed batches that may wait.
        decode_capacity: decoded batches that may wait.
        decodes_inline: whether the training loop decodes.
        decode_bytes_per_s: rate of decoding, in decoded bytes; None for no limit.
    """

    read_threads: int
    read_capacity: int
    decode_capacity: int
    decodes_inline: bool
    decode_bytes_per_s: float | None


class Batches:
    """The batches of one rank, an epoch at a time.

    Args:
        policy: stages of the loader.
        window: plan of the rank.
        downloads: downloads of the rank.
        disk: disk of the host.
    """

    def __init__(
        self, policy: StagePolicy, window: Window, downloads: Downloads, disk: HostDisk
    ) -> None:
        self._policy = policy
        self._window = window
        self._downloads = downloads
        self._disk = disk
        self._reads: EpochReads | None = None
        self._epoch = 0
        self._base = 0
        self._next_read = self._next_decode = 0
        self.next_take = 0
        self._is_decoding = False
        self._missing: dict[int, int] = {}  # batches being read, and the blocks they wait for
        self._waiting: dict[int, list[int]] = {}  # blocks, and the batches that wait for them
        self.read_s: dict[int, float] = {}  # when batches were read; those that are not taken
        self._decoded: set[int] = set()

    def begin_epoch(self, epoch: int, reads: EpochReads) -> None:
        """Begin a pass."""
        self._base += self._reads.step_count if self._reads is not None else 0
        self._epoch, self._reads = epoch, reads
        # Where ranks were coarsened to unequal numbers of steps, the last ones were not taken.
        self._window.advance(self._base)
        self._next_read = self._next_decode = self.next_take = 0
        self._is_decoding = False
        self._missing.clear()
        self._waiting.clear()
        self.read_s.clear()
        self._decoded.clear()
        self._window.begin_epoch(epoch)

    @property
    def _now(self) -> EpochReads:
        """The reads of the present epoch."""
        assert self._reads is not None
        return self._reads

    @property
    def can_take(self) -> bool:
        """Whether the next batch is there; to be decoded, where the training loop does that."""
        if self._policy.decodes_inline:
            return self.next_take in self.read_s
        return self.next_take in self._decoded

    def take(self) -> float:
        """Take the next batch; return how long the training loop decodes it, in seconds."""
        number = self.next_take
        self.next_take += 1
        self._decoded.discard(number)
        self.read_s.pop(number - 1, None)
        if not self._policy.decodes_inline:
            return 0.0
        self._next_decode = number + 1
        self._window.advance(self._base + number + 1)
        return self._decode_s(number)

    def on_block(self, block: int, now_s: float) -> None:
        """Note that a block has come."""
        for number in self._waiting.pop(block, ()):
            self._missing[number] -= 1
            if not self._missing[number]:
                self._finish_read(number, now_s)

    def decoded(self, number: int) -> None:
        """Note that a batch was decoded."""
        self._is_decoding = False
        self._decoded.add(number)

    def go_on(self, now_s: float) -> tuple[int, float] | None:
        """Begin what can begin now.

        Returns:
            The batch of which decoding has begun, and how long that takes; None where none has.
        """
        self._read(now_s)
        if self._policy.decodes_inline or self._is_decoding:
            return None
        number = self._next_decode
        is_placed = number - 1 < self.next_take + self._policy.decode_capacity
        if number not in self.read_s or not is_placed:
            return None
        self._is_decoding = True
        self._next_decode += 1
        self._window.advance(self._base + number + 1)
        return number, self._decode_s(number)

    def _decode_s(self, number: int) -> float:
        rate = self._policy.decode_bytes_per_s
        return self._now.decoded[number] / rate if rate else 0.0

    def _read(self, now_s: float) -> None:
        """Begin to read as many batches as there are threads for."""
        policy, reads = self._policy, self._now
        while self._next_read < reads.step_count:
            room = self._next_decode + policy.read_capacity
            # Threads that have read a batch for which there is no room yet are busy as well.
            stuck = sum(number >= room for number in self.read_s)
            if len(self._missing) + stuck >= policy.read_threads:
                return
            number = self._next_read
            self._next_read += 1
            self._begin_read(number, now_s)

    def _begin_read(self, number: int, now_s: float) -> None:
        bounds = self._now.bounds
        blocks = self._now.blocks[bounds[number] : bounds[number + 1]]
        missing = [block for block in blocks if not self._window.has(block)]
        self._missing[number] = len(missing)
        if not missing:
            self._finish_read(number, now_s)
            return
        for block in missing:
            self._waiting.setdefault(block, []).append(number)
        for block in missing:
            self._downloads.submit(block, self._epoch, is_demanded=True)

    def _finish_read(self, number: int, now_s: float) -> None:
        del self._missing[number]
        self.read_s[number] = now_s
        bounds = self._now.bounds
        self._disk.use(self._now.blocks[bounds[number] : bounds[number + 1]], now_s)
