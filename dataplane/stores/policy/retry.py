"""Retries with exponential back-off: full jitter, within a deadline, heeding the store's wish.

An error is tried again when its class says so (`retryable`: throttling, time-outs, broken
connections, failures of the server). Before attempt n+1 the wrapper waits a random time between 0
and `min(MAX_PAUSE_S, BASE_PAUSE_S · 2ⁿ)`; full jitter spreads the clients of a throttled store
best (Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015). When the
store names a pause (`Retry-After`) it waits at least that long. It gives up after `max_attempts`,
or when the pause would end after `deadline_s` (`metadata_deadline_s` for calls that describe and
list, which a user at a terminal waits for); the error then says how often and how long it tried.

All calls of a store may be repeated: reads trivially, `put` and `delete` because they replace or
remove a whole object. A listing that breaks off is begun again and continues after the last key
that was handed out, a stream of bytes after the last byte. Adds to the counter `store_retries`.
Thread-safe: no state between calls.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeVar

from dataplane.errors import DataplaneError
from dataplane.stores.base import Buffer, Listing, ObjectInfo, Store
from dataplane.stores.failures import retry_after_s
from dataplane.stores.forwarder import StoreWrapper
from dataplane.telemetry import Counters, logger
from dataplane.units import format_duration

__all__ = ["RetryPolicy", "RetryStore"]

ResultT = TypeVar("ResultT")

BASE_PAUSE_S = 0.1
MAX_PAUSE_S = 20.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Limits of the attempts at a call; clock, sleep and chance can be replaced by tests.

    Attributes:
        max_attempts: most attempts at one call.
        deadline_s: time for all of them, pauses included.
        clock: clock of monotonic seconds.
        sleep: function that waits.
        uniform: function that draws a pause.
        metadata_deadline_s: the same time, for a call that describes or lists.
        try_s: most time that is counted of one attempt. A request is given up by then; a listing of
            many pages may take longer, and its last page must not be the first without a retry.
    """

    max_attempts: int
    deadline_s: float
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    uniform: Callable[[float, float], float] = field(default=random.uniform)
    metadata_deadline_s: float = math.inf
    try_s: float = math.inf

    def pause_s(self, attempt: int, err: DataplaneError) -> float:
        """Return the pause after the failed attempt number `attempt` (from 1)."""
        ceiling = min(MAX_PAUSE_S, BASE_PAUSE_S * 2.0 ** min(attempt - 1, 32))
        return max(self.uniform(0.0, ceiling), retry_after_s(err) or 0.0)

    def for_metadata(self) -> RetryPolicy:
        """Return the policy of calls that describe and list."""
        deadline_s = min(self.deadline_s, self.metadata_deadline_s)
        return replace(self, deadline_s=deadline_s, try_s=self.metadata_deadline_s / 2)


class RetryStore(StoreWrapper):
    """A store whose transient failures are tried again."""

    def __init__(self, inner: Store, policy: RetryPolicy, counters: Counters) -> None:
        super().__init__(inner)
        self._policy = policy
        self._metadata_policy = policy.for_metadata()
        self._counters = counters

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        last = ""
        attempts = _Attempts(self._metadata_policy, self._counters)
        while True:
            try:
                for info in self._inner.list(prefix):
                    if info.key > last:
                        yield info
                        last = info.key
                        attempts.reset()
                return
            except DataplaneError as err:
                attempts.failed(err, f"list {self.url}/{prefix}")

    def list_level(self, prefix: str = "") -> Listing:
        return self._run(
            lambda: self._inner.list_level(prefix), prefix, "list", policy=self._metadata_policy
        )

    def head(self, key: str) -> ObjectInfo:
        return self._run(lambda: self._inner.head(key), key, "head", policy=self._metadata_policy)

    def get_range(self, key: str, start: int, stop: int, *, if_match: str | None = None) -> Buffer:
        try:
            return self._inner.get_range(key, start, stop, if_match=if_match)
        except DataplaneError as err:
            first = err
        return self._run(
            lambda: self._inner.get_range(key, start, stop, if_match=if_match),
            key,
            f"read [{start}, {stop})",
            first,
        )

    def stream_range(
        self,
        key: str,
        start: int,
        stop: int,
        *,
        piece_bytes: int,
        if_match: str | None = None,
    ) -> Generator[Buffer, None, None]:
        """Read in pieces; after a failure go on behind the last byte that was handed out."""
        position = start
        attempts: _Attempts | None = None
        while True:
            pieces = self._inner.stream_range(
                key, position, stop, piece_bytes=piece_bytes, if_match=if_match
            )
            try:
                with contextlib.closing(pieces):
                    for piece in pieces:
                        position += memoryview(piece).nbytes
                        if attempts is not None:
                            attempts.reset()
                        yield piece
                        del piece  # it must not be kept while the next one comes
                return
            except DataplaneError as err:
                if if_match is None and position > start:
                    raise  # the rest might be of another version
                attempts = attempts or _Attempts(self._policy, self._counters)
                attempts.failed(err, f"read [{position}, {stop}) {self.url}/{key}")

    def put(self, key: str, data: Buffer | os.PathLike[str]) -> ObjectInfo:
        return self._run(lambda: self._inner.put(key, data), key, "write")

    def delete(self, key: str) -> None:
        self._run(lambda: self._inner.delete(key), key, "delete")

    def _run(
        self,
        call: Callable[[], ResultT],
        key: str,
        action: str,
        first: DataplaneError | None = None,
        *,
        policy: RetryPolicy | None = None,
    ) -> ResultT:
        attempts = _Attempts(policy or self._policy, self._counters)
        what = f"{action} {self.url}/{key}"
        if first is not None:
            attempts.failed(first, what)
        while True:
            try:
                return call()
            except DataplaneError as err:
                attempts.failed(err, what)


class _Attempts:
    """The attempts at one call."""

    def __init__(self, policy: RetryPolicy, counters: Counters) -> None:
        self._policy = policy
        self._counters = counters
        self._begun_s = self._try_begun_s = policy.clock()
        self._spent_s = 0.0
        self._count = 0

    def reset(self) -> None:
        """Count from here: progress was made."""
        if self._count:
            self._count = 0
            self._spent_s = 0.0
            self._begun_s = self._try_begun_s = self._policy.clock()

    def failed(self, err: DataplaneError, what: str) -> None:
        """Wait before the next attempt, or raise the error when there is none."""
        if not err.retryable:
            raise err
        policy = self._policy
        self._count += 1
        failed_s = policy.clock()
        elapsed_s = failed_s - self._begun_s
        self._spent_s += min(failed_s - self._try_begun_s, policy.try_s)
        pause_s = policy.pause_s(self._count, err)
        if self._count >= policy.max_attempts or self._spent_s + pause_s > policy.deadline_s:
            tries = "1 attempt" if self._count == 1 else f"{self._count} attempts"
            raise type(err)(
                f"{err.message}; gave up after {tries} in {format_duration(elapsed_s)} ({what})",
                hint=err.hint,
            ) from err
        logger.debug(
            "attempt %d to %s failed (%s); next in %.2f s", self._count, what, err, pause_s
        )
        self._counters.add("store_retries")
        policy.sleep(pause_s)
        self._try_begun_s = policy.clock()
        self._spent_s += self._try_begun_s - failed_s
