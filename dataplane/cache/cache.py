"""`Cache`: the blocks of remote objects on the local SSD, shared by every process of the user.

The cache of a directory is the files in it; a `Cache` is one process's way to them. It attaches to
the directory at the first use, opens entries, fetches what is missing, and keeps to the budget. The
rooms below do the work: `directory` and `files` (what lies where), `session` (who is there, what a
crash left), `budget` (room and eviction), `entries` (open entries), `fetch` and `fill` (downloads,
one per block and host), `reader` and `plan` (the two ways to ask for bytes).

When the directory cannot be used (missing, full, read-only, failing, another version) reads go
straight to the store, with one warning; the directory is tried again after a while
(`suspension.py`).

Thread-safe. The order in which locks may be held, across processes too, is in docs/locks.md.

After a fork the child starts anew: descriptors, threads, jobs, locks and counters are its own.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import threading
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Self

from dataplane import _native, process_exit
from dataplane.cache.attachment import Attachment
from dataplane.cache.closed import closed_error
from dataplane.cache.config import CacheConfig
from dataplane.cache.disk import locks, unusable
from dataplane.cache.disk.circuit_breaker import Suspension
from dataplane.cache.disk.directory import Directory, link_failure
from dataplane.cache.disk.liveness import Hold
from dataplane.cache.entries.encryption import Sealer
from dataplane.cache.entries.open_entries import Entry
from dataplane.cache.eviction.working_set import Rotations
from dataplane.cache.fetch.download import Filler
from dataplane.cache.fetch.prefetch_buffer import Awaited
from dataplane.cache.fetch.scheduler import Fetcher, Job
from dataplane.cache.gauges import directory_gauges
from dataplane.cache.object import CachedObject
from dataplane.cache.plan import Plan, PlannedRead
from dataplane.errors import CacheError
from dataplane.stores.base import Buffer, ObjectInfo, Store
from dataplane.telemetry import Counters, logger, offer_gauges
from dataplane.weak_registry import Alive

__all__ = ["Cache"]

_CLOSE_S = 10.0
_EXIT_S = 1.0  # downloads that do not end by then, of all caches, end with the process
_REFUSED_S = 5.0  # an entry that does not open
_MAX_REFUSED = 1024  # entries that are known not to open
# These say something about one entry: too large for the file system, or a link in its place.
_ENTRY_ERRORS = frozenset({errno.EFBIG, errno.ELOOP, errno.EISDIR})


class Cache:
    """A process's way to the cache directory named by `config`. Pickles as its configuration.

    Args:
        config: where the cache is and how large it may grow.
        counters: where it counts; see `dataplane.cache.metrics`.

    Example:
        cache = Cache(CacheConfig(dir=Path("/ssd/cache")))
        blob = cache.open(store, store.head("run1/fields.bin"))
        header = blob.read(0, 4096)
    """

    def __init__(self, config: CacheConfig, *, counters: Counters | None = None) -> None:
        self.config = config
        self.counters = counters if counters is not None else Counters()
        self._closed = False
        self._warned = False
        self._start()
        _live.add(self)
        offer_gauges(self, Cache._gauges)

    def _start(self) -> None:
        self._attach_lock = threading.Lock()
        self._attachment: Attachment | None = None
        self._suspension = Suspension()
        self._refused: dict[str, float] = {}
        self.sealer = Sealer.of(self.config)
        self.rotations = Rotations()
        self._awaited = Awaited(self.config.prefetch_memory_bytes)
        self._plans: Alive[Plan] = Alive()
        filler = Filler(
            self.counters,
            self.rotations.of,
            self._awaited,
            self._on_disk_error,
            self._on_no_room,
            place_at=self._place_at,
            direct_io=self.config.direct_io,
        )
        self._fetcher = Fetcher(
            self.config.fetch_threads,
            self.request_bytes,
            filler.attempt,
            lambda key: self._awaited.is_pinned(*key),
        )

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

    def open(self, store: Store, info: ObjectInfo) -> CachedObject:
        """Name an object version to read. Makes no request and opens no file."""
        return CachedObject(self, store, info)

    def plan(self, reads: Iterable[PlannedRead], *, window_bytes: int | None = None) -> Plan:
        """Start fetching a plan in order, ahead of its reader.

        Args:
            reads: the reads to come, in order; iterated by a thread of its own, as far as needed.
            window_bytes: how far ahead of `Plan.advance`; the configuration's by default, and
                never more than half of the budget.

        Raises:
            CacheError: the cache is closed.
        """
        if self._closed:
            raise closed_error()
        window = window_bytes if window_bytes is not None else self.config.prefetch_window_bytes
        if self.config.size_bytes is not None:
            window = min(window, self.config.size_bytes // 2)
        plan = Plan(self, self._awaited, reads, window)
        self._plans.add(plan)
        return plan

    def hold(self, source: CachedObject) -> Hold:
        """Keep what is cached of an object from being evicted until the hold is closed.

        It ends with this process, however that ends, and when the directory is replaced. Without a
        usable directory it does nothing.
        """
        attachment = self._attached()
        return Hold(attachment.session.live if attachment is not None else None, source.name)

    def usage_bytes(self) -> int:
        """Bytes of disk space that the cache takes, of all processes; 0 when it cannot be used."""
        attachment = self._attached()
        return attachment.budget.used_bytes if attachment is not None else 0

    def close(self, *, wait_s: float = _CLOSE_S) -> None:
        """End plans and downloads and leave the directory. Idempotent.

        Args:
            wait_s: how long to wait for downloads that are under way.
        """
        if self._closed:
            return
        self._closed = True
        with _shared_lock:
            if _shared.get(self.config) is self:
                del _shared[self.config]
        until_s = time.monotonic() + wait_s
        for plan in self._plans:
            plan.close(wait_s=max(0.0, until_s - time.monotonic()))
        with self._attach_lock:
            attachment = self._attachment
        if attachment is not None:
            attachment.places.close()  # a download that waits for one must not be waited for
        self._fetcher.close(max(0.0, until_s - time.monotonic()))
        with self._attach_lock:
            attachment, self._attachment = self._attachment, None
        if attachment is not None:
            attachment.close()

    # For the rooms of this package.

    def entry(self, source: CachedObject) -> Entry | None:
        """Return the open entry of an object, or None when reads must go to the store.

        Raises:
            CacheError: the cache is closed.
        """
        attachment = self._attached()
        if attachment is None:
            return None
        if self._refused and self._refused.get(source.name, 0.0) > time.monotonic():
            return None
        try:
            return attachment.entries.get(source.name, source.spec)
        except (CacheError, ValueError, OverflowError) as err:
            self._refuse(source, err)
        except OSError as err:
            if err.errno in _ENTRY_ERRORS:
                self._refuse(source, err)
            else:
                self._on_disk_error(err)
        return None

    def held(self, name: str) -> dict[int, Buffer]:
        """Return the blocks of an entry that are in memory for a plan, by number."""
        return self._awaited.held_of(name)

    def existing(self, source: CachedObject) -> _native.BlockMap | None:
        """Return the block map of an object that has an entry; makes none, marks none as open."""
        if self._attachment is None and not os.path.lexists(self.config.dir):
            return None  # to look for something is no reason to make a directory
        attachment = self._attached()
        if attachment is None:
            return None
        session = attachment.session
        return session.files.inspect(source.name, session.verify_tag)

    @property
    def request_bytes(self) -> int:
        """Most that one download asks for: all under way take a quarter of the budget at most."""
        config = self.config
        request_bytes = config.request_bytes
        if config.size_bytes is not None:
            request_bytes = min(request_bytes, config.size_bytes // (4 * config.fetch_threads))
        return max(config.block_bytes, request_bytes)

    def is_under_way(self, source: CachedObject, block: int) -> bool:
        """Whether this process is downloading or writing a block."""
        return self._fetcher.is_under_way((source.name, block))

    def submit(
        self, source: CachedObject, entry: Entry, blocks: Iterable[int], due_s: float | None = None
    ) -> list[Job]:
        """Ask for blocks of an object to be downloaded, for a plan until `due_s`, or at once."""
        return self._fetcher.submit(
            source.name, blocks, entry, source.store, source.info, due_s=due_s
        )

    def cancel(self, jobs: Iterable[Job]) -> None:
        """Drop planned downloads that have not begun and that no reader waits for."""
        self._fetcher.cancel(jobs)

    def _place_at(self, store: str) -> AbstractContextManager[None]:
        attachment = self._attachment
        return attachment.places.at(store) if attachment is not None else contextlib.nullcontext()

    def _gauges(self) -> dict[str, float]:
        attachment = self._attachment
        if attachment is None:
            return {}
        shared: dict[str, float] = {}
        if self._speaks_for(attachment.session.directory):
            shared = directory_gauges(attachment.session)
            shared["cache_budget_bytes"] = attachment.budget.limit_bytes()
        return shared | {
            "cache_jobs": len(self._fetcher._jobs),
            "cache_plan_bytes": sum(plan.ahead_bytes for plan in self._plans),
            "cache_memory_bytes": self._awaited.held_bytes,
        }

    def _speaks_for(self, own: Directory) -> bool:
        """Whether this is the first of the process's caches in a directory, which counts once."""
        for cache in _live:
            if (used := cache._attachment) is not None and used.session.directory.is_same(own):
                return cache is self
        return False

    def _attached(self) -> Attachment | None:
        attachment = self._attachment
        if attachment is not None and not self._suspension.is_on():
            return attachment
        if self._closed:
            raise closed_error()
        if not self._suspension.is_due():
            return None
        with self._attach_lock:
            if self._attachment is not None and not self._suspension.is_on():
                return self._attachment
            if not self._suspension.is_due():
                return None
            return self._attach_locked()

    def _attach_locked(self) -> Attachment | None:
        """Attach to the directory, or again when it is no longer the one that was opened."""
        old = self._attachment
        try:
            if old is not None and not old.session.directory.is_current():
                old.close()
                old = None
            if old is None:
                old = Attachment.to(
                    self.config, self.counters, self.sealer, self._awaited.is_pinned
                )
        except (OSError, CacheError) as err:
            self._attachment = None
            self._suspend(err)
            return None
        self._attachment = old
        self._suspension.end()
        unusable.forget(self.config.dir)
        return old

    def _refuse(self, source: CachedObject, err: Exception) -> None:
        """Remember that an entry does not open; the others may."""
        if len(self._refused) >= _MAX_REFUSED:
            self._refused = {}
        self._refused[source.name] = time.monotonic() + _REFUSED_S
        self._warn_once(f"cannot cache {source!r}: {err}")

    def _on_disk_error(self, err: OSError) -> None:
        self._suspend(err)

    def _on_no_room(self) -> None:
        size = self.config.size_bytes
        limit = "a tenth of the disk must stay free" if size is None else f"{size} bytes are full"
        self._warn_once(f"the cache {self.config.dir} has no room for a block: {limit}")

    def _suspend(self, err: Exception) -> None:
        self._suspension.begin()
        if isinstance(err, OSError):
            err = link_failure(err, self.config.dir) or err
        text = f"cannot use the cache directory {self.config.dir}: {err}"
        if unusable.is_news(self.config.dir):
            self._warn_once(text)
        else:
            logger.debug("%s", text)

    def _warn_once(self, text: str) -> None:
        if self._warned:
            logger.debug("%s", text)
            return
        self._warned = True
        logger.warning("%s; reading from the store instead", text)

    def _reset_after_fork(self) -> None:
        for plan in self._plans:
            plan.forget_after_fork()
        # The parent's lock may have been held by a thread that the child does not have.
        self.counters = Counters()
        self._start()


_live: Alive[Cache] = Alive()
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
