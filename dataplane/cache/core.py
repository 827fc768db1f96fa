"""The core of a cache: what reads and plans need of it, without knowing either.

It holds the open entries, the downloads and the blocks in memory together. `object` and `plan` are
built on it; `Cache` is the façade of all of them. Thread-safe, as its parts are.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable

from dataplane import _native
from dataplane.cache.config import CacheConfig
from dataplane.cache.disk.entry_identity import EntrySpec
from dataplane.cache.entries.encryption import Sealer
from dataplane.cache.entries.open_entries import Entry
from dataplane.cache.eviction.working_set import WorkingSets
from dataplane.cache.fetch.download import Downloader
from dataplane.cache.fetch.scheduler import Job
from dataplane.cache.guard import DirectoryGuard
from dataplane.cache.read.prefetch_buffer import BlockKey, PrefetchBuffer
from dataplane.errors import CacheError
from dataplane.stores.base import Buffer, ObjectInfo, Store
from dataplane.telemetry import Counters

__all__ = ["CacheCore"]

_REFUSED_S = 5.0  # an entry that does not open
_MAX_REFUSED = 1024  # entries that are known not to open
# These say something about one entry: too large for the file system, or a link in its place.
_ENTRY_ERRORS = frozenset({errno.EFBIG, errno.ELOOP, errno.EISDIR})


class CacheCore:
    """The parts behind one `Cache`: open entries, downloads, blocks in memory.

    Attributes:
        config: directory and budget of the cache.
        counters: counters to add to.
        sealer: encryption of blocks, or None.
        working_sets: working sets of the plans of this process.
        buffer: prefetch buffer of this process.
        guard: guard of the directory.
    """

    def __init__(self, config: CacheConfig, counters: Counters) -> None:
        self.config = config
        self._start(counters, warned=False)

    def restart(self) -> None:
        """Make every part anew, in a forked child: the old ones are those of its parent."""
        self._start(Counters(), warned=self.guard.warned)

    def _start(self, counters: Counters, *, warned: bool) -> None:
        self.counters = counters
        self.sealer = Sealer.of(self.config)
        self.working_sets = WorkingSets()
        self.buffer = PrefetchBuffer(self.config.prefetch_memory_bytes)
        self.guard = DirectoryGuard(self.config, counters, self.sealer, self.buffer, warned=warned)
        self._negative: dict[str, float] = {}  # entries that do not open, and until when
        self._downloader = Downloader(
            self.config,
            self.request_bytes,
            self.counters,
            self.working_sets,
            self.buffer,
            guard=self.guard,
        )

    @property
    def request_bytes(self) -> int:
        """Most bytes of one request: all under way take a quarter of the budget at most."""
        config = self.config
        request_bytes = config.request_bytes
        if config.size_bytes is not None:
            request_bytes = min(request_bytes, config.size_bytes // (4 * config.fetch_threads))
        return max(config.block_bytes, request_bytes)

    @property
    def job_count(self) -> int:
        """Number of downloads that are asked for and not done."""
        return self._downloader.scheduler.job_count

    def entry(self, name: str, spec: EntrySpec) -> Entry | None:
        """Return an open entry, or None when reads must go to the store.

        Raises:
            CacheError: the cache is closed.
        """
        attachment = self.guard.attached()
        if attachment is None:
            return None
        if self._negative and self._negative.get(name, 0.0) > time.monotonic():
            return None
        try:
            return attachment.entries.get(name, spec)
        except (CacheError, ValueError, OverflowError) as err:
            self._refuse(name, spec, err)
        except OSError as err:
            if err.errno in _ENTRY_ERRORS:
                self._refuse(name, spec, err)
            else:
                self.guard.on_disk_error(err)
        return None

    def existing(self, name: str) -> _native.BlockMap | None:
        """Return the block map of an entry that is there; makes none, marks none as open."""
        if self.guard.current is None and not os.path.lexists(self.config.dir):
            return None  # to look for something is no reason to make a directory
        attachment = self.guard.attached()
        if attachment is None:
            return None
        session = attachment.session
        return session.files.inspect(name, session.verify_tag)

    def held(self, name: str) -> dict[int, Buffer]:
        """Return the blocks of an entry that are in memory for a plan, by number."""
        return self.buffer.held_of(name)

    def is_under_way(self, key: BlockKey) -> bool:
        """Whether this process is downloading or writing a block."""
        return self._downloader.scheduler.is_under_way(key)

    def submit(
        self,
        entry: Entry,
        store: Store,
        info: ObjectInfo,
        blocks: Iterable[int],
        due_s: float | None = None,
    ) -> list[Job]:
        """Ask for blocks of an object to be downloaded, for a plan until `due_s`, or at once."""
        jobs = self._downloader.scheduler.submit(entry, store, info, blocks, due_s)
        self._downloader.start_threads()
        return jobs

    def cancel(self, jobs: Iterable[Job]) -> None:
        """Drop planned downloads that have not begun and that no reader waits for."""
        self._downloader.scheduler.cancel(jobs)

    def end_downloads(self, wait_s: float) -> None:
        """Cancel downloads that have not begun, and wait for the others; idempotent."""
        self._downloader.close(wait_s)

    def _refuse(self, name: str, spec: EntrySpec, err: Exception) -> None:
        """Remember that an entry does not open; the others may."""
        if len(self._negative) >= _MAX_REFUSED:
            self._negative = {}
        self._negative[name] = time.monotonic() + _REFUSED_S
        self.guard.warn_once(f"cannot cache {spec.key!r} of {spec.store}: {err}")
