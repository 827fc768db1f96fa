"""Clean-up of a cache directory by hand: `dataplane cache gc` and `clear`.

Both go by the rules of eviction (`budget.py`): a block is emptied under its claim, so readers in
other processes see a miss and never wrong bytes, and what is pinned or leased stays. `clear` also
leaves alone what another process has open, unless it is told not to: that is safe, but its readers
would download it again.

Thread-safe; holds no state of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dataplane import _native
from dataplane.cache.disk.entry_identity import EntryIdentity, Scope, page_rounded
from dataplane.cache.disk.session import Session
from dataplane.cache.eviction.budget import Budget
from dataplane.telemetry import Counters

__all__ = ["Cleared", "clear", "collect"]

_LAST_TICK = (1 << 64) - 1


@dataclass(slots=True)
class Cleared:
    """Result of a clean-up.

    Attributes:
        blocks: number of blocks that were emptied.
        freed_bytes: space given back, that of removed files included.
        entries: number of entries whose files were removed.
        kept_in_use: number of entries left because another process has them open.
        kept_pinned: number of entries left because they are pinned.
        kept_held: number of entries left because they are leased, as by a mount.
        kept_bytes: bytes of the blocks of all three that would have gone.
        over_bytes: bytes that `collect` could not free although the budget asks for it.
    """

    blocks: int = 0
    freed_bytes: int = 0
    entries: int = 0
    kept_in_use: int = 0
    kept_pinned: int = 0
    kept_held: int = 0
    kept_bytes: int = 0
    over_bytes: int = 0


def collect(session: Session, *, size_bytes: int | None, max_age_s: float | None = None) -> Cleared:
    """Empty blocks that were not used for a while, then what is over the budget.

    Args:
        session: session in the directory.
        size_bytes: budget, or None to leave a tenth of the file system free.
        max_age_s: age of the last access above which blocks are emptied.
    """
    done = Cleared()
    if session.usage.uncounted:
        session.reconcile()
    if max_age_s is not None:
        before = max(0, time.time_ns() - int(max_age_s * 1e9))
        _sweep(session, done, before, lambda _: True, pinned=False, in_use=True)
    counters = Counters()
    budget = Budget(session, size_bytes, counters)
    done.freed_bytes += budget.enforce()
    done.blocks += int(counters["cache_evicted_blocks"])
    done.entries += int(counters["cache_removed_entries"])
    done.over_bytes = budget.over_bytes()
    return done


def clear(
    session: Session, *, scope: Scope | None = None, pinned: bool = False, in_use: bool = False
) -> Cleared:
    """Empty all entries, or those of a part of a store, and remove their files.

    Args:
        session: session in the directory.
        scope: part of a store to restrict it to.
        pinned: whether to empty those that the user has pinned, too. Leased ones stay all the same.
        in_use: whether to empty those that another process has open, too.
    """
    done = Cleared()

    def covers(entry: _native.BlockMap) -> bool:
        return scope is None or scope.covers(EntryIdentity.parse(entry.identity))

    _sweep(session, done, _LAST_TICK, covers, pinned=pinned, in_use=in_use)
    return done


def _sweep(
    session: Session,
    done: Cleared,
    before_tick: int,
    covers: Callable[[_native.BlockMap], bool],
    *,
    pinned: bool,
    in_use: bool,
) -> None:
    """Empty the blocks that were last used before a moment, entry by entry."""
    for name in session.files.names():
        entry = session.files.inspect(name, session.verify_tag)
        if entry is not None:
            if not covers(entry):
                continue
            if session.live.is_held(name):
                done.kept_held += _keep(entry, before_tick, done)
                continue
            if not pinned and session.protection.is_pinned(name, session.files):
                done.kept_pinned += _keep(entry, before_tick, done)
                continue
            if not in_use and session.files.is_open(name):
                done.kept_in_use += _keep(entry, before_tick, done)
                continue
            _empty(session, entry, before_tick, done)
        # Gives back nothing when blocks are left, or when a process has the entry open.
        del entry
        freed = session.files.remove_unused(name)
        session.usage.add_used(-freed)
        done.freed_bytes += freed
        done.entries += freed > 0


def _used_before(entry: _native.BlockMap, before_tick: int) -> list[int]:
    blocks = np.frombuffer(entry.ready_blocks(), np.uint64).reshape(-1, 2)
    chosen: list[int] = blocks[blocks[:, 1] <= before_tick, 0].tolist()
    return chosen


def _keep(entry: _native.BlockMap, before_tick: int, done: Cleared) -> bool:
    """Count what stays of an entry; False when nothing of it would have gone."""
    blocks = _used_before(entry, before_tick)
    size, step = entry.size_bytes, entry.block_bytes
    done.kept_bytes += sum(min(step, size - block * step) for block in blocks)
    return bool(blocks)


def _empty(session: Session, entry: _native.BlockMap, before_tick: int, done: Cleared) -> None:
    for block in _used_before(entry, before_tick):
        if not entry.try_claim(block):
            continue
        try:
            freed = page_rounded(entry.evict(block, before_tick))
        finally:
            entry.release(block)
        session.usage.add_used(-freed)
        done.freed_bytes += freed
        done.blocks += freed > 0
