"""Attachment of a process to a cache directory: its parts there, made and closed together.

Thread-safe, as its parts are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from dataplane.cache.config import CacheConfig
from dataplane.cache.disk.host_semaphore import HostSemaphore
from dataplane.cache.disk.session import Session
from dataplane.cache.entries.encryption import Sealer
from dataplane.cache.entries.open_entries import EntryTable
from dataplane.cache.eviction.budget import Budget
from dataplane.cache.eviction.catalog import Catalog
from dataplane.cache.maintenance.background import BackgroundMaintenance
from dataplane.cache.maintenance.process_statistics import ProcessStatistics
from dataplane.cache.read.prefetch_buffer import PrefetchBuffer
from dataplane.telemetry import Counters

__all__ = ["Attachment"]


@dataclass(frozen=True, slots=True)
class Attachment:
    """A process's attachment to one cache directory."""

    session: Session
    budget: Budget
    entries: EntryTable
    statistics: ProcessStatistics
    background: BackgroundMaintenance
    host_semaphore: HostSemaphore

    @classmethod
    def to(
        cls,
        config: CacheConfig,
        counters: Counters,
        sealer: Sealer | None,
        buffer: PrefetchBuffer,
    ) -> Self:
        """Attach to the directory of a configuration.

        Args:
            config: configuration of the cache.
            counters: counters to add to.
            sealer: encryption of blocks, or None.
            buffer: prefetch buffer of this process.

        Raises:
            CacheError: the directory cannot be used.
            OSError: the file system refused.
        """
        session = Session(config.dir, sharing=config.sharing)
        catalog = Catalog(session.directory)
        budget = Budget(session, config.size_bytes, counters, buffer, catalog)
        return cls(
            session,
            budget,
            EntryTable(session, budget, counters, sealer),
            ProcessStatistics(session, config.size_bytes),
            # Twice: what is handed to its reader keeps its room until it is written.
            BackgroundMaintenance(session, 2 * config.fetch_threads * config.block_bytes),
            HostSemaphore(session.directory, config.host_requests, counters),
        )

    def close(self) -> None:
        """Leave the directory."""
        self.host_semaphore.close()
        self.background.close()
        self.statistics.close()
        self.entries.close()
        self.session.close()
