"""Warming: objects are brought into the cache ahead of their readers; what is missing is listed.

A *need* is a range of an object. Needs are turned into blocks, each once, in the order of the first
need of it. What is missing is fetched by a plan (`Cache.plan`), whose reader is this module: it
takes block after block, so downloads overlap and stay within the plan's window.

Not here: which objects a URL stands for (`dataplane.cli.warm`). Thread-safe; holds no state.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from dataplane.cache.cache import Cache
from dataplane.cache.object import CachedObject
from dataplane.cache.planned import PlannedRead
from dataplane.errors import NoSpace
from dataplane.units import format_bytes

__all__ = ["Missing", "Need", "WarmState", "look", "warm"]

_SETTLE_S = 30.0  # for blocks that are still being written when the last reader has its bytes
_SETTLE_POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes `[start, stop)` of an object that shall be in the cache."""

    source: CachedObject
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Missing:
    """A block that is not in the cache: bytes `[start, stop)` of an object."""

    source: CachedObject
    block: int
    start: int
    stop: int


@dataclass(slots=True)
class WarmState:
    """State of what is needed: how much of it is in the cache. Bytes are those of whole blocks.

    Attributes:
        objects: number of objects that are needed.
        needed_bytes: bytes of all blocks that are needed.
        missing: blocks that are not there, in the order in which they are needed.
        missing_bytes: bytes of those.
        fetched_bytes: bytes fetched so far.
    """

    objects: int = 0
    needed_bytes: int = 0
    missing: list[Missing] = field(default_factory=list)
    missing_bytes: int = 0
    fetched_bytes: int = 0


def look(cache: Cache, needs: Iterable[Need]) -> WarmState:
    """Find out what is missing; makes no request.

    Raises:
        CacheError: the cache is closed.
    """
    state = WarmState()
    sources: dict[str, CachedObject] = {}
    seen: dict[str, set[int]] = {}
    for need in needs:
        source = sources.setdefault(need.source.name, need.source)
        blocks = seen.setdefault(source.name, set())
        size, block_bytes = source.info.size_bytes, source.spec.block_bytes
        entry = cache.existing(source.name)
        stop = min(need.stop, size) if need.start < need.stop else 0
        for block in range(need.start // block_bytes, -(-stop // block_bytes)):
            if block in blocks:
                continue
            blocks.add(block)
            first, last = block * block_bytes, min((block + 1) * block_bytes, size)
            state.needed_bytes += last - first
            if entry is None or not entry.is_ready(block):
                state.missing.append(Missing(source, block, first, last))
                state.missing_bytes += last - first
    state.objects = len(sources)
    return state


def warm(
    cache: Cache, needs: Iterable[Need], progress: Callable[[WarmState], None] = lambda _: None
) -> WarmState:
    """Fetch what is missing and look again.

    Returns:
        What is still missing, if the cache could not keep all of it.

    Raises:
        NoSpace: it cannot all fit the budget.
        StoreError: an object could not be read; what was fetched before stays.
    """
    needed = list(needs)
    state = look(cache, needed)
    progress(state)
    _check_room(cache, state)
    reads = [
        PlannedRead(missing.source, missing.start, missing.stop, step)
        for step, missing in enumerate(state.missing)
    ]
    buffer = memoryview(bytearray(max((read.stop - read.start for read in reads), default=0)))
    with cache.plan(reads) as ahead:
        for step, read in enumerate(reads):
            read.source.read_into(read.start, read.stop, buffer[: read.stop - read.start])
            state.fetched_bytes += read.stop - read.start
            ahead.advance(step + 1)
            progress(state)
    return _settled(cache, needed, state.fetched_bytes)


def _check_room(cache: Cache, state: WarmState) -> None:
    size = cache.config.size_bytes
    if size is not None and state.needed_bytes > size:
        raise NoSpace(
            f"{format_bytes(state.needed_bytes)} do not fit the cache's budget of "
            f"{format_bytes(size)}",
            hint="raise --cache-size, or warm a part with --prefix or --plan",
        )


def _settled(cache: Cache, needs: list[Need], fetched_bytes: int) -> WarmState:
    """Look again, once what was handed out before it was written has been written."""
    deadline = time.monotonic() + _SETTLE_S
    state = look(cache, needs)
    is_busy = True
    while state.missing and is_busy and time.monotonic() < deadline:
        # Asked before the look: a block may be written between the two.
        is_busy = any(cache.is_under_way((item.source.name, item.block)) for item in state.missing)
        if is_busy:
            time.sleep(_SETTLE_POLL_S)
        state = look(cache, needs)
    state.fetched_bytes = fetched_bytes
    return state
