"""Why a training step waited: from what the network did between it and the step before.

- `start`: the first batch of an epoch, which nothing was done for before (but for what the plan
  fetches of the next epoch);
- `decode`: its bytes were there, and decoding was not done;
- `bandwidth`: requests shared all the bandwidth that the host has;
- `connection`: the connections that may be open at once were each at their own limit;
- `first byte`: these connections mostly waited for first bytes;
- `cache`: most of what came meanwhile had been downloaded before, and would have been on the disk
  of a larger cache. `limit` says what held up the download itself.

Pure functions and values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from dataplane.planning.network import Busy

__all__ = ["CAUSES", "Cause", "Meanwhile", "Wait", "why"]

Cause: TypeAlias = Literal["start", "decode", "bandwidth", "connection", "first byte", "cache"]

CAUSES: dict[Cause, str] = {
    "start": "the first batch of an epoch, for which nothing is ready",
    "decode": "decoding: more --workers, or a faster codec",
    "bandwidth": "the bandwidth of the host",
    "connection": "the bandwidth of a connection: more fetch_threads",
    "first byte": "first bytes, with so many requests at once: more fetch_threads",
    "cache": "a cache that is too small, for what had been downloaded before",
}
"""What each cause means, and what helps."""


@dataclass(frozen=True, slots=True)
class Wait:
    """A step that waited.

    Attributes:
        step: its number in the epoch.
        wait_s: how long.
        cause: why.
        limit: what held up the download, where the cause is the cache; else as `cause`.
        stands_for: steps that wait like this one: above 1 in a coarsened run, where the others were
            not simulated.
    """

    step: int
    wait_s: float
    cause: Cause
    limit: Cause
    stands_for: float = 1.0

    @property
    def total_s(self) -> float:
        """Time that all steps waited that it stands for."""
        return self.wait_s * self.stands_for


@dataclass(frozen=True, slots=True)
class Meanwhile:
    """What happened between a step and the one before.

    Attributes:
        before: time that requests had spent by then.
        after: and by now.
        fetched_bytes: bytes downloaded.
        again_bytes: of those, what had been downloaded before.
    """

    before: Busy
    after: Busy
    fetched_bytes: int
    again_bytes: int


def why(step: int, wait_s: float, decode_s: float, meanwhile: Meanwhile) -> Wait:
    """Return why a step waited.

    Args:
        step: its number in the epoch.
        wait_s: how long it waited.
        decode_s: how much of that its bytes were there for.
        meanwhile: what happened since the step before.
    """
    before, after = meanwhile.before, meanwhile.after
    spent: dict[Cause, float] = {
        "bandwidth": after.shared_s - before.shared_s,
        "connection": after.single_s - before.single_s,
        "first byte": after.first_byte_s - before.first_byte_s,
    }
    limit: Cause = max(spent, key=lambda cause: spent[cause])
    if step == 0:
        return Wait(step, wait_s, "start", limit)
    if 2 * decode_s >= wait_s:
        return Wait(step, wait_s, "decode", "decode")
    if 2 * meanwhile.again_bytes > meanwhile.fetched_bytes:
        return Wait(step, wait_s, "cache", limit)
    return Wait(step, wait_s, limit, limit)
