"""`Cache`: the blocks of remote objects on the local SSD, shared by every process of the user.

The cache of a directory is the files in it; a `Cache` is one process's handle on them. It attaches
to the directory at the first use, opens entries, fetches what is missing, and keeps to the budget.
README.md is the map of the modules that do the work.

When the directory cannot be used (missing, full, read-only, failing, another version) reads go
straight to the store, with one warning; the directory is tried again after a while (`guard`).

Thread-safe. The order in which locks may be held, across processes too, is in docs/locks.md.

After a fork the child starts anew: descriptors, threads, jobs, locks and counters are its own.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
from collections.abc import Iterable
from typing import Self

from dataplane import process_exit
from dataplane.cache.closed import closed_error
from dataplane.cache.config import CacheConfig
from dataplane.cache.core import CacheCore
from dataplane.cache.disk import locks
from dataplane.cache.disk.directory import Directory
from dataplane.cache.disk.liveness import Lease
from dataplane.cache.gauges import directory_gauges
from dataplane.cache.object import CachedObject
from dataplane.cache.plan import Plan
from dataplane.cache.planned import PlannedRead, PlannedTable
from dataplane.errors import CacheError
from dataplane.stores.base import ObjectInfo, Store
from dataplane.telemetry import Counters, offer_gauges
from dataplane.weak_registry import WeakRegistry

__all__ = ["Cache"]

_CLOSE_S = 10.0
_EXIT_S = 1.0  # downloads that do not end by then, of all caches, end with the process


class Cache(CacheCore):
    """A process's handle on the cache directory named by `config`. Pickles as its configuration.

    Args:
        config: directory and budget of the cache.
        counters: counters to add to; see `dataplane.cache.metrics`.

    Example:
        cache = Cache(CacheConfig(dir=Path("/ssd/cache")))
        blob = cache.open(store, store.head("run1/fields.bin"))
        header = blob.read(0, 4096)
    """

    def __init__(self, config: CacheConfig, *, counters: Counters | None = None) -> None:
        super().__init__(config, counters if counters is not None else Counters())
        self._closed = False
        self._plans: WeakRegistry[Plan] = WeakRegistry()
        _live.add(self)
        offer_gauges(self, Cache._gauges)

    @classmethod
    def shared(cls, config: CacheConfig) -> Cache:
        """Return the process's cache for `config`, making it at the first call."""
        with _shared_lock:
            cache = _shared.get(config)
            if cache is None or cache._closed:
                cache = _shared[config] = cls(config)
            return cache

    def __reduce__(self) -> tuple[object, ...]:
        return (Cache.shared, (self.config,))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def open(
        self, store: Store, info: ObjectInfo, *, block_bytes: int | None = None
    ) -> CachedObject:
        """Name an object version to read. Makes no request and opens no file.

        Args:
            store: store of the object.
            info: the object version.
            block_bytes: length of its blocks, by default the configuration's; what is cached in
                blocks of another length is another entry.
        """
        return CachedObject(self, store, info, block_bytes)

    def plan(
        self, reads: Iterable[PlannedRead | PlannedTable], *, window_bytes: int | None = None
    ) -> Plan:
        """Start fetching a plan in order, ahead of its reader.

        Args:
            reads: the reads to come, in order; iterated by a thread of its own, as far as needed.
            window_bytes: most bytes ahead of `Plan.advance`; the configuration's by default, and
                never more than half of the budget.

        Raises:
            CacheError: the cache is closed.
        """
        if self._closed:
            raise closed_error()
        window = window_bytes if window_bytes is not None else self.config.prefetch_window_bytes
        if self.config.size_bytes is not None:
            window = min(window, self.config.size_bytes // 2)
        plan = Plan(self, reads, window)
        self._plans.add(plan)
        return plan

    def lease(self, source: CachedObject) -> Lease:
        """Keep what is cached of an object from being evicted until the lease is closed.

        It ends with this process, however that ends, and when the directory is replaced. Without a
        usable directory it does nothing.
        """
        attachment = self.guard.attached()
        return Lease(attachment.session.live if attachment is not None else None, source.name)

    def usage_bytes(self) -> int:
        """Bytes of disk space that the cache takes, of all processes; 0 when it cannot be used."""
        attachment = self.guard.attached()
        return attachment.budget.used_bytes if attachment is not None else 0

    def close(self, *, wait_s: float = _CLOSE_S) -> None:
        """End plans and downloads and leave the directory. Idempotent.

        Args:
            wait_s: longest wait for downloads that are under way.
        """
        if self._closed:
            return
        self._closed = True
        self.guard.refuse()
        with _shared_lock:
            if _shared.get(self.config) is self:
                del _shared[self.config]
        until_s = time.monotonic() + wait_s
        for plan in self._plans:
            plan.close(wait_s=max(0.0, until_s - time.monotonic()))
        self.guard.end_waits()
        self.end_downloads(max(0.0, until_s - time.monotonic()))
        self.guard.close()

    def _gauges(self) -> dict[str, float]:
        attachment = self.guard.current
        if attachment is None:
            return {}
        shared: dict[str, float] = {}
        if self._speaks_for(attachment.session.directory):
            shared = directory_gauges(attachment.session)
            shared["cache_budget_bytes"] = attachment.budget.limit_bytes()
        return shared | {
            "cache_jobs": self.job_count,
            "cache_plan_bytes": sum(plan.ahead_bytes for plan in self._plans),
            "cache_memory_bytes": self.buffer.held_bytes,
        }

    def _speaks_for(self, own: Directory) -> bool:
        """Whether this is the first of the process's caches in a directory, which counts once."""
        for cache in _live:
            if (used := cache.guard.current) is not None and used.session.directory.is_same(own):
                return cache is self
        return False

    def _reset_after_fork(self) -> None:
        for plan in self._plans:
            plan.forget_after_fork()
        self._plans = WeakRegistry()
        # The parent's locks may have been held by threads that the child does not have.
        self.restart()
        if self._closed:
            self.guard.refuse()


_live: WeakRegistry[Cache] = WeakRegistry()
_shared: dict[CacheConfig, Cache] = {}
_shared_lock = threading.Lock()


def _after_fork_in_child() -> None:
    global _shared_lock  # noqa: PLW0603 - see _reset_after_fork
    _shared_lock = threading.Lock()
    locks.close_inherited()
    for cache in _live:
        cache._reset_after_fork()


def _close_all() -> None:
    process_exit.begin()
    until_s = time.monotonic() + _EXIT_S
    for cache in _live:
        with contextlib.suppress(OSError, CacheError):
            cache.close(wait_s=max(0.0, until_s - time.monotonic()))


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_close_all)
