"""Connections to one store in simulated time: first bytes, and bandwidth that they share.

A request waits `first_byte_s`, then its bytes come at the rate of a connection, or at an equal
share of the bandwidth of all where that is less (processor sharing). All connections that transfer
have the same rate at any moment, so one number, the bytes that each has had so far, says for all of
them when their next block is whole: a step costs a heap operation, however many there are.

Also kept: how much time the requests spent waiting for first bytes, sharing the whole bandwidth,
and at the rate of a connection, which says later why a batch came late.

Not thread-safe; belongs to one simulation.
"""

from __future__ import annotations

import heapq
import itertools
import math
from dataclasses import dataclass, field

__all__ = ["Network", "NetworkSettings", "Transfer"]

_UNLIMITED = 1e15  # bytes per second


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """What a store and the way to it can do, for one host.

    Attributes:
        first_byte_s: time from a request to the first byte of its response.
        bandwidth_bytes_per_s: of all connections together; None for no limit.
        connection_bytes_per_s: of one connection; None for no limit.
    """

    first_byte_s: float
    bandwidth_bytes_per_s: float | None = None
    connection_bytes_per_s: float | None = None

    def available(self, connections: int, request_bytes: float) -> float:
        """Return what a number of connections can bring, in bytes per second.

        Args:
            connections: requests under way at once.
            request_bytes: bytes of a request, on average.
        """
        total = self.bandwidth_bytes_per_s or _UNLIMITED
        one = min(self.connection_bytes_per_s or _UNLIMITED, total)
        request_s = self.first_byte_s + request_bytes / one
        return min(total, connections * request_bytes / request_s) if request_bytes else total


@dataclass(slots=True, eq=False)
class Transfer:
    """One request: blocks that come one after another.

    Attributes:
        rank: rank that made it.
        blocks: numbers of its blocks.
        lengths: length of each, bytes.
        kept: whether each has room on the disk.
        done: number of blocks that have come.
    """

    rank: int
    blocks: list[int]
    lengths: list[int]
    kept: list[bool]
    done: int = 0


@dataclass(slots=True)
class Busy:
    """Time that requests spent, all together: seconds."""

    first_byte_s: float = 0.0
    shared_s: float = 0.0
    single_s: float = 0.0

    def copy(self) -> Busy:
        """Return the figures of now."""
        return Busy(self.first_byte_s, self.shared_s, self.single_s)


@dataclass(slots=True)
class Network:
    """The connections of one host.

    Attributes:
        settings: what they can do.
        busy: what they spent their time with.
        active: number of requests under way.
    """

    settings: NetworkSettings
    busy: Busy = field(default_factory=Busy)
    active: int = 0
    _now_s: float = 0.0
    _had_bytes: float = 0.0  # by each connection that transfers, since the beginning
    _transferring: int = 0
    _first_bytes: list[tuple[float, int, Transfer]] = field(default_factory=list)
    _next_blocks: list[tuple[float, int, Transfer]] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def begin(self, transfer: Transfer, now_s: float) -> None:
        """Send a request."""
        self.active += 1
        due_s = now_s + self.settings.first_byte_s
        heapq.heappush(self._first_bytes, (due_s, next(self._numbers), transfer))

    def next_s(self) -> float:
        """Return when something comes next; infinity while nothing is under way."""
        first_s = self._first_bytes[0][0] if self._first_bytes else math.inf
        return min(first_s, self._block_s())

    def step(self, now_s: float) -> Transfer | None:
        """Let time pass to `next_s()`; return the request of which a block has come.

        Returns:
            The request, whose `done` counts the block; None where it was a first byte.
        """
        is_block = self._block_s() <= now_s
        self.pass_to(now_s)
        if not is_block:
            transfer = heapq.heappop(self._first_bytes)[2]
            self._transferring += 1
            self._expect(transfer, self._had_bytes)
            return None
        self._had_bytes, _, transfer = heapq.heappop(self._next_blocks)
        transfer.done += 1
        if transfer.done < len(transfer.blocks):
            self._expect(transfer, self._had_bytes)
        else:
            self._transferring -= 1
            self.active -= 1
        return transfer

    def pass_to(self, now_s: float) -> None:
        """Let time pass, in which nothing comes."""
        passed_s = now_s - self._now_s
        if passed_s <= 0:
            return
        rate, is_shared = self._rate()
        self._had_bytes += rate * passed_s if self._transferring else 0.0
        self.busy.first_byte_s += passed_s * len(self._first_bytes)
        if is_shared:
            self.busy.shared_s += passed_s * self._transferring
        else:
            self.busy.single_s += passed_s * self._transferring
        self._now_s = now_s

    def _expect(self, transfer: Transfer, had_bytes: float) -> None:
        target = had_bytes + transfer.lengths[transfer.done]
        heapq.heappush(self._next_blocks, (target, next(self._numbers), transfer))

    def _block_s(self) -> float:
        if not self._next_blocks:
            return math.inf
        left = max(0.0, self._next_blocks[0][0] - self._had_bytes)
        return self._now_s + left / self._rate()[0]

    def _rate(self) -> tuple[float, bool]:
        """Return the rate of a connection, and whether it is a share of the whole."""
        one = self.settings.connection_bytes_per_s or _UNLIMITED
        share = (self.settings.bandwidth_bytes_per_s or _UNLIMITED) / max(self._transferring, 1)
        return min(one, share), share < one
