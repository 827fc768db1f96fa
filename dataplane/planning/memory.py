"""Memory that a process of a run will take, on average at its most.

What a process has before its first batch is measured here, in this process, which has opened the
same dataset with the same libraries: interpreter, torch, the index. The rest are the limits of the
queues, as far as the simulation has filled them.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

from dataplane.planning.simulator import Setup

__all__ = ["MemoryEstimate", "estimate_memory"]


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Resident memory of a process by what takes it, bytes.

    Attributes:
        process_bytes: interpreter, libraries and the index, as measured here.
        window_bytes: blocks held for their reader.
        request_bytes: blocks that are coming.
        compressed_bytes: batches that were read and not decoded.
        decoded_bytes: batches that were decoded, the loop's own and its last one included.
    """

    process_bytes: int
    window_bytes: int
    request_bytes: int
    compressed_bytes: int
    decoded_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return sum(asdict(self).values())

    @staticmethod
    def of_this_process() -> int:
        """Return the resident memory of this process, bytes."""
        # Source: proc(5), statm: the second number is resident pages.
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


def estimate_memory(
    process_bytes: int,
    setup: Setup,
    *,
    block_bytes: int,
    held_bytes: int,
    packed_bytes: float,
    decoded_bytes: float,
    steps: int,
) -> MemoryEstimate:
    """Return the memory of a process of a run.

    Args:
        process_bytes: before its first batch.
        setup: what was simulated.
        block_bytes: length of a block.
        held_bytes: most bytes of blocks that the window held.
        packed_bytes: compressed bytes of a batch.
        decoded_bytes: decoded bytes of a batch.
        steps: steps of an epoch: no more batches wait.
    """
    stages = setup.stages
    reading = min(stages.read_capacity + stages.read_threads, steps)
    waiting = 0 if stages.decodes_inline else min(stages.decode_capacity, steps)
    # One that is being decoded, one that the loop has, and the one before that it still refers to.
    decoded = waiting + 3
    # Of a request the block that comes is in memory, and the one before it, which is written.
    under_way = 2 * setup.downloads.threads * block_bytes
    return MemoryEstimate(
        process_bytes=process_bytes,
        window_bytes=held_bytes,
        request_bytes=under_way,
        compressed_bytes=round(reading * packed_bytes),
        decoded_bytes=round(decoded * decoded_bytes),
    )
