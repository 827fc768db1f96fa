"""What tests look at inside of a loader: the one place that knows how it is built."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import dataplane as dp
from dataplane.cache.plan import Plan
from dataplane.loader.epoch_iterator import Pass
from dataplane.loader.known_batches import KnownBatches
from dataplane.loader.pipeline import Pipeline
from dataplane.loader.prefetcher import PlannedReads, Prefetcher, pass_reads
from dataplane.loader.shared_messages import Connection
from dataplane.loader.worker_process import WorkerProcess


def indices_of(loader: dp.DataLoader[Any], epoch: int) -> Iterator[int]:
    """The samples of an epoch, in the order in which they are read."""
    known = loader._place._known
    assert known is not None
    sampler, batch_size = known
    assert sampler.seed is not None
    return (int(index) for index in sampler.order(sampler.seed, batch_size).indices(epoch))


def prefetcher_of(loader: dp.DataLoader[Any]) -> Prefetcher:
    """The prefetcher of its latest pass."""
    assert loader._ahead is not None
    return loader._ahead


def reads_of_pass(reader: PlannedReads, feed: KnownBatches) -> list[Any]:
    """The reads that are planned for the rest of an epoch, batch by batch."""
    return [*pass_reads(reader, ([batch] for batch in feed.ahead()), feed.order)]


def plan_of(loader: dp.DataLoader[Any]) -> Plan:
    """The plan of reads of its latest pass."""
    return prefetcher_of(loader)._plan


def plan_lock(loader: dp.DataLoader[Any]) -> AbstractContextManager[object]:
    """The lock of that plan."""
    return plan_of(loader)._lock


def epoch_of_plan(loader: dp.DataLoader[Any]) -> int:
    """The epoch of its latest pass, counted from the first that its plan was made for."""
    return prefetcher_of(loader)._epoch


def is_pass_over(loader: dp.DataLoader[Any]) -> bool:
    """Whether its latest pass has read everything, so that the next may take the plan over."""
    return prefetcher_of(loader)._is_over


def ready_count(batches: Pass) -> int:
    """The number of batches that are ready and not yet taken."""
    return len(batches.pipeline._channels[-1])


def end_as_at_exit(pipeline: Pipeline) -> None:
    """The end of a pipeline that is still referred to when the process ends."""
    pipeline._stop.cancel()


@contextmanager
def being_waited_for(worker: WorkerProcess) -> Iterator[None]:
    """As while another thread is inside of `Popen.wait`: `poll` does not look then."""
    process = worker._child.process
    with process._waitpid_lock:  # type: ignore[attr-defined]  # CPython's
        assert process.poll() is None
        yield


def connection_of(worker: WorkerProcess) -> Connection:
    """The connection to a worker process."""
    return worker._child.connection


def segments_made(sender: Connection) -> int:
    """The number of segments that were made for messages of this end."""
    return sender._pool._made


def segments_lent(sender: Connection) -> int:
    """The number of segments that the other end has for itself, as far as this one knows."""
    return len(sender._pool._lent)


def segments_free(sender: Connection) -> int:
    """The number of segments that wait for the next message of this end."""
    return len(sender._pool._free)


def segments_mapped(receiver: Connection) -> int:
    """The number of segments of the other end that may still be written to."""
    return len(receiver._table._mappings)
