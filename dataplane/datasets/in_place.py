"""Samples decoded where their bytes lie: in the cache's file, or in blocks just downloaded.

Functions of a plan and a shard as the cache sees it; thread-safe.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.cache import CachedObject
from dataplane.cache.read.ranges import pack_ranges
from dataplane.codecs import Codec, join_rows
from dataplane.datasets.plan import SamplePlan
from dataplane.datasets.samples import FetchedSample

__all__ = ["MIN_VIEWED_SHARE", "mapped_sample", "viewed_sample"]

MIN_MAPPED_BYTES = 4 << 20
"""Least length of a range that is decoded in place: a cold mapping is read in pieces as long."""

MIN_VIEWED_SHARE = 0.5
"""Least part of a sample's bytes that is in memory, for it to be decoded there: the rest is copied
from the disk, which costs more than decoding it where it is."""

MAX_MAPPED_SAMPLES = 64
"""Most samples that wait to be decoded in place: each may hold three descriptors of its own."""

MAX_MAPPED_SPANS = 16
"""Most ranges of a sample that are decoded in place: each costs a few system calls."""


def mapped_sample(plan: SamplePlan, source: CachedObject) -> FetchedSample | None:
    """Leave the chunks of a sample in the cache's file, to be decoded there; None if impossible."""
    if not 0 < len(plan.spans) <= MAX_MAPPED_SPANS or _Waiting.count() >= MAX_MAPPED_SAMPLES:
        return None
    if min(stop - start for start, stop in plan.spans) < MIN_MAPPED_BYTES:
        return None
    ranges = source.mapped(plan.spans)
    if ranges is None:
        return None
    if len(ranges) == 1:
        return FetchedSample(plan, ranges, plan.rows, _Waiting())
    rows, stored, span, offset = _spread(plan)
    rows["source"][stored] = span
    rows["source_offset"][stored] = offset
    return FetchedSample(plan, ranges, rows, _Waiting())


class _Waiting:
    """A sample that waits to be decoded in place; counted for as long as it is referred to.

    Both counters only go up, by one call of C each: a finalizer takes no lock.
    """

    _begun = itertools.count()
    _ended = itertools.count()

    def __init__(self) -> None:
        next(self._begun)

    def __del__(self) -> None:
        next(self._ended)

    @classmethod
    def count(cls) -> int:
        """Return how many there are in this process."""
        begun, ended = (
            int(repr(counter)[len("count(") : -1]) for counter in (cls._begun, cls._ended)
        )
        return begun - ended


def _spread(plan: SamplePlan) -> tuple[npt.NDArray[Any], ...]:
    """Return a copy of the rows, the numbers of those that are stored, their spans and offsets."""
    rows = join_rows([plan.rows])
    stored = np.flatnonzero(rows["codec"] != Codec.FILL)
    firsts = pack_ranges(plan.spans)[:, 2]
    packed = rows["source_offset"][stored]
    span = np.searchsorted(firsts, packed, side="right") - 1
    return rows, stored, span, packed - firsts[span]


def viewed_sample(plan: SamplePlan, source: CachedObject) -> FetchedSample:
    """Find the chunks of a sample in the memory of blocks that were just downloaded."""
    rows, stored, span, offset = _spread(plan)
    starts = offset + np.array(plan.spans, np.uint64).reshape(-1, 2)[span, 0]
    views = source.views(starts, starts + rows["source_nbytes"][stored])
    rows["source"][stored] = views.source
    rows["source_offset"][stored] = views.offset
    return FetchedSample(plan, views.sources, rows)
