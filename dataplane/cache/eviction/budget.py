"""Budget: how much of the disk the cache may take, and eviction down to it when it is full.

`Budget.reserve` is asked before a block is written and answers whether there is room, after
evicting if need be. The bytes in use are one number shared by all processes (the usage file), so
the budget holds across them. Without a budget, the cache leaves a tenth of the file system free;
with one, a hundredth, of its space and of its files.

Eviction is done by one process at a time, under the eviction lock: it empties the least recently
used blocks of all entries (`lru`) until a slack below the budget is reached. It passes over entries
that are pinned (`disk.pins`), and over blocks that are being filled (another downloader holds their
claim), that were used since the look, or that are in the prefetch buffer, and for a planned
download over its working set (`working_set`).
Entries with a lease go when nothing else can.
Readers need no warning: their optimistic read (a seqlock) turns a block that goes away under them
into a miss.

When each entry had to be looked at, what is really there is counted too; when the shared number has
drifted far from it (a process was killed between reserving and filling), it is corrected.

Thread-safe. No lock of this process is held while the disk works.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable

from dataplane.cache.disk import locks
from dataplane.cache.disk.entry_identity import page_rounded
from dataplane.cache.disk.reconcile import UsageFlows
from dataplane.cache.disk.session import Session
from dataplane.cache.eviction.catalog import Catalog
from dataplane.cache.eviction.lru import Candidate, LruOrder
from dataplane.cache.eviction.working_set import WorkingSet
from dataplane.cache.read.prefetch_buffer import PrefetchBuffer
from dataplane.telemetry import Counters

__all__ = ["MAX_SLACK_BYTES", "SLACK_SHARE", "Budget", "excess_bytes", "has_files"]

_FREE_SHARE = 10  # without a budget, 1/10 of the file system stays free
_FLOOR_SHARE = 100  # with a budget, 1/100, whatever the budget is
SLACK_SHARE = 20  # an eviction goes on to 1/20 below the budget, so that not every fill evicts
MAX_SLACK_BYTES = 4 << 30
_DRIFT_BYTES = 64 << 20  # smaller differences may be fills under way
_FILES_PER_ENTRY = 4  # with the folder that it may be the first in
_EVICT_WAIT_S = 5.0  # for another process's eviction
_EVICT_POLL_S = 0.005
_HOPELESS_S = 0.1  # after an eviction that found nothing to evict


def has_files(status: os.statvfs_result) -> bool:
    """Whether a file system has files left for an entry, but for the hundredth of others."""
    # Some file systems (btrfs) make them as needed and say 0.
    floor = max(status.f_files // _FLOOR_SHARE, _FILES_PER_ENTRY)
    return status.f_files == 0 or status.f_favail > floor


def excess_bytes(
    status: os.statvfs_result,
    size_bytes: int | None,
    used_bytes: int,
    *,
    unwritten: int = 0,
    unreserved: int = 0,
) -> int:
    """Return the bytes over a budget; what is below it, negative.

    Args:
        status: status of the file system.
        size_bytes: the budget, or None to leave a tenth of the file system free.
        used_bytes: bytes that the cache takes.
        unwritten: bytes that are not on the disk yet.
        unreserved: bytes of them that are not among the used ones.
    """
    free = status.f_bavail * status.f_frsize - unwritten
    share = _FREE_SHARE if size_bytes is None else _FLOOR_SHARE
    excess = status.f_blocks * status.f_frsize // share - free
    if size_bytes is None:
        return excess
    return max(excess, used_bytes + unreserved - size_bytes)


class Budget:
    """Room for blocks, shared by all processes of one cache directory.

    Args:
        session: this process's session in the directory.
        size_bytes: the budget, or None to leave a tenth of the file system free.
        counters: counters of evictions.
        buffer: prefetch buffer of this process, whose blocks stay.
        catalog: lower bounds of the last access times of entries, for the order (`lru`).
    """

    def __init__(
        self,
        session: Session,
        size_bytes: int | None,
        counters: Counters,
        buffer: PrefetchBuffer | None = None,
        catalog: Catalog | None = None,
    ) -> None:
        self._session = session
        self._size_bytes = size_bytes
        self._counters = counters
        self._buffer = buffer
        self._lru = LruOrder(session, catalog)
        self._hopeless_until_s = 0.0
        self.on_pressure: Callable[[], None] = lambda: None
        """Called before empty entries are removed: let go of those that need not be open."""

    @property
    def used_bytes(self) -> int:
        """Bytes of disk space that the cache takes, of all processes."""
        return max(0, self._session.usage.used)

    def limit_bytes(self) -> int:
        """Bytes that the cache may take as things stand: its budget, or what the disk leaves it."""
        return max(0, self._session.usage.used - self._excess(0))

    def reserve_free(self, length: int) -> bool:
        """Take `length` bytes if there is room for them as things are: nothing is evicted.

        Args:
            length: length of whole blocks, of which an object's last may be shorter.
        """
        wanted = page_rounded(length)
        if self._excess(wanted, wanted) > 0:
            return False
        return self._take(wanted, lambda: self._excess(wanted) <= 0)

    def reserve(
        self, length: int, working_set: WorkingSet | None = None, *, is_guest: bool = False
    ) -> bool:
        """Take `length` bytes, evicting others if need be; False when there is no room.

        Args:
            length: length of the block.
            working_set: working set of the block: nothing but guests of it is evicted for it.
            is_guest: whether the block is a guest itself, for which no other goes.
        """
        is_full = working_set is not None and working_set.is_full_for(is_guest=is_guest)
        wanted = page_rounded(length)
        # Not taken and given back for every block of every epoch: a count would never be sure.
        if is_full and self._excess(wanted, wanted) > 0:
            return False

        def has_room() -> bool:
            if self._excess(wanted) <= 0:
                return True
            if is_full:
                return False
            found = self._make_room(wanted, working_set, is_guest=is_guest)
            if not found and working_set is not None:
                working_set.mark_full(is_guest=is_guest)
            return found

        return self._take(wanted, has_room)

    def _take(self, wanted: int, has_room: Callable[[], bool]) -> bool:
        """Take bytes, and give them back unless there is room for them; after an error, too."""
        stays = False
        self._session.usage.add_used(wanted)
        try:
            stays = has_room()
        finally:
            if not stays:
                self._session.usage.add_used(-wanted)
        return stays

    def has_files(self) -> bool:
        """Whether the file system has files left for an entry, but for the hundredth of others."""
        return has_files(os.fstatvfs(self._session.directory.fd))

    def release(self, length: int) -> None:
        """Give back what `reserve` took and was not written."""
        self._session.usage.add_used(-page_rounded(length))

    def add(self, length: int) -> None:
        """Count files that are there or gone already."""
        self._session.usage.add_used(length)

    def enforce(self) -> int:
        """Evict what is over the budget now; return the bytes freed."""
        with locks.hold(self._session.directory.fd, locks.EVICT_BYTE):
            excess = self._excess(0)
            return self._evict(excess) if excess > 0 else 0

    def over_bytes(self) -> int:
        """Bytes that the cache takes beyond its budget; 0 for an empty one on a full disk."""
        return max(0, min(self._excess(0), self.used_bytes))

    def free(self, length: int) -> int:
        """Evict at least `length` bytes if possible, also below the budget; for a full disk."""
        with locks.hold(self._session.directory.fd, locks.EVICT_BYTE, wait=False) as held:
            return self._evict(length) if held else 0

    def _excess(self, unwritten: int, unreserved: int = 0) -> int:
        """Bytes over the budget, given bytes that are not on the disk, and of them not reserved."""
        return excess_bytes(
            os.fstatvfs(self._session.directory.fd),
            self._size_bytes,
            self._session.usage.used,
            unwritten=unwritten,
            unreserved=unreserved,
        )

    def _make_room(self, wanted: int, working_set: WorkingSet | None, *, is_guest: bool) -> bool:
        size = self._size_bytes
        if size is not None and wanted > size:
            return False
        slack = min((size if size is not None else 1 << 40) // SLACK_SHARE, MAX_SLACK_BYTES)
        deadline = time.monotonic() + _EVICT_WAIT_S
        while (now := time.monotonic()) < deadline:
            with locks.hold(self._session.directory.fd, locks.EVICT_BYTE, wait=False) as held:
                # The last holder of the lock may have made the room.
                excess = self._excess(wanted)
                if excess <= 0:
                    return True
                # Emptying the cache would not do, or it is full of what may not go.
                if excess > self.used_bytes or now < self._hopeless_until_s:
                    return False
                if held and not self._evict(excess, slack, working_set, is_guest=is_guest):
                    if working_set is None:
                        self._hopeless_until_s = time.monotonic() + _HOPELESS_S
                    return self._excess(wanted) <= 0
            if not held:
                time.sleep(_EVICT_POLL_S)
        return False

    def _evict(
        self,
        goal: int,
        slack: int = 0,
        working_set: WorkingSet | None = None,
        *,
        is_guest: bool = False,
    ) -> int:
        """Empty the least recently used blocks; the caller holds the eviction lock.

        Args:
            goal: bytes to free, also at the cost of entries that are leased.
            slack: bytes to free on top of that, if those that are not leased have them.
            working_set: working set that must stay.
            is_guest: whether its guests must stay, too.
        """
        flows = UsageFlows.of(self._session.usage)
        total = self._lru.refresh()
        if total is not None:
            flows.correct(self._session.usage, total, least=_DRIFT_BYTES)
        protection, files = self._session.protection, self._session.files
        keeps: Callable[[Candidate], bool] = self._is_planned_block
        if working_set is not None:
            keeps = self._keeps(working_set, guests=is_guest)
        freed = self._remove_empty()
        freed += self._evict_blocks(
            goal + slack - freed, lambda name: protection.covers(name, files), keeps
        )
        # The listing was of a while ago: what came since may be all there is.
        if freed < goal and self._lru.refresh(at_once=True) is None:
            freed += self._evict_blocks(
                goal - freed, lambda name: protection.covers(name, files), keeps
            )
        # A file that is open must not fill the cache with itself and then be read past it.
        if freed < goal:
            freed += self._evict_blocks(
                goal - freed, lambda name: protection.is_pinned(name, files), keeps
            )
        return freed + self._remove_empty()

    def _is_planned_block(self, candidate: Candidate) -> bool:
        return self._buffer is not None and self._buffer.is_pinned(candidate.name, candidate.block)

    def _keeps(self, working_set: WorkingSet, *, guests: bool) -> Callable[[Candidate], bool]:
        def keeps(candidate: Candidate) -> bool:
            name, block = candidate.name, candidate.block
            is_of_set = working_set.keeps(name, candidate.tick)
            if is_of_set and (guests or not working_set.is_guest(name, block)):
                return True
            return self._is_planned_block(candidate)

        return keeps

    def _evict_blocks(
        self, goal: int, skip: Callable[[str], bool], keeps: Callable[[Candidate], bool]
    ) -> int:
        evicted = blocks = 0
        with contextlib.closing(self._lru.candidates(skip)) as candidates:
            for candidate in candidates:
                # Only now, so that the candidate that is looked at is the one not yet decided.
                if evicted >= goal:
                    break
                if not keeps(candidate):
                    freed = self._empty(candidate)
                    evicted += freed
                    blocks += freed > 0
        self._counters.add_all({"cache_evicted_blocks": blocks, "cache_evicted_bytes": evicted})
        return evicted

    def _empty(self, candidate: Candidate) -> int:
        entry, block = candidate.entry, candidate.block
        if not entry.try_claim(block):
            return 0
        try:
            freed = page_rounded(entry.evict(block, candidate.tick))
        finally:
            entry.release(block)
        self._session.usage.add_used(-freed)
        return freed

    def _remove_empty(self) -> int:
        """Remove the files of entries that hold no block and that no process has open."""
        names = self._lru.take_empty()
        if not names:
            return 0
        self.on_pressure()
        freed = [self._session.files.remove_unused(name) for name in names]
        self._session.usage.add_used(-sum(freed))
        self._counters.add("cache_removed_entries", sum(count > 0 for count in freed))
        return sum(freed)
