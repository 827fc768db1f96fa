"""Small runs to simulate, without a dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dataplane.planning.batches import StagePolicy
from dataplane.planning.blocks import BlockTable
from dataplane.planning.downloads import DownloadPolicy
from dataplane.planning.network import NetworkSettings
from dataplane.planning.reads import EpochReads
from dataplane.planning.simulator import HostSimulator, Setup
from dataplane.planning.window import WindowPolicy

BLOCK = 4096
Steps = Sequence[Sequence[int]]


def reads(steps: Steps, *, decoded: int = 0) -> EpochReads:
    """The reads of an epoch from the blocks of each of its steps."""
    blocks = [block for step in steps for block in step]
    numbers = [number for number, step in enumerate(steps) for _ in step]
    sizes = np.full(len(steps), decoded, np.int64)
    return EpochReads.of(np.array(blocks, np.int64), np.array(numbers, np.int64), sizes, sizes)


def setup(
    *,
    limit_blocks: int | None = None,
    window_blocks: int = 1000,
    memory_blocks: int = 1000,
    next_epoch_blocks: int = 0,
    network: NetworkSettings | None = None,
    threads: int = 4,
    request_blocks: int = 4,
    step_s: float = 1.0,
    decode_bytes_per_s: float | None = None,
    inline: bool = False,
    map_bytes: int = 8192,
) -> Setup:
    """A setup in blocks; a limit leaves room for the block map of one object beside."""
    return Setup(
        network=network or NetworkSettings(0.0),
        downloads=DownloadPolicy(threads, 0, request_blocks, 0),
        window=WindowPolicy(
            window_bytes=window_blocks * BLOCK,
            next_epoch_bytes=next_epoch_blocks * BLOCK,
            memory_bytes=memory_blocks * BLOCK,
            least_jobs=4 * threads,
            most_job_bytes=2 * threads * request_blocks * BLOCK,
        ),
        stages=StagePolicy(1, 2, 2, inline, decode_bytes_per_s),
        step_s=step_s,
        limit_bytes=None if limit_blocks is None else limit_blocks * BLOCK + map_bytes,
    )


def simulator(
    given: Setup, of: Callable[[int, int], EpochReads], *, blocks: int, epochs: int, ranks: int = 1
) -> HostSimulator:
    """A simulator of the reads of one object of some blocks."""
    table = BlockTable()
    assert table.add(blocks * BLOCK, BLOCK) == 0
    return HostSimulator(given, table, ranks=ranks, epochs=epochs, reads_of=of)


def shuffled(blocks: int, per_step: int) -> Callable[[int, int], EpochReads]:
    """Epochs that read every block once, each in another order."""

    def of(rank: int, epoch: int) -> EpochReads:
        order = np.random.default_rng([rank, epoch]).permutation(blocks).tolist()
        return reads([order[at : at + per_step] for at in range(0, blocks, per_step)])

    return of
