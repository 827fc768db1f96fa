"""The request log of the endpoint, in order of arrival, for tests to assert on.

A client has its response before the server's thread has finished its bookkeeping, so reading the
log first waits for the requests that are open at that moment. The log is bounded: the oldest
records go first, and are counted.

Thread-safe; one lock, held for a few operations. Readers wait on its condition.
"""

from __future__ import annotations

import threading
import time
from collections import deque

from dataplane_testing.s3.model import RequestRecord

__all__ = ["RequestLog"]

SETTLE_S = 2.0


class RequestLog:
    """A bounded log of requests."""

    def __init__(self, max_records: int) -> None:
        self._condition = threading.Condition()
        self._records: deque[RequestRecord] = deque(maxlen=max_records)
        self._open: set[int] = set()
        self._next_index = 0
        self._waiting = 0

    def begin(self) -> int:
        """Open a record; returns its index."""
        with self._condition:
            index = self._next_index
            self._next_index += 1
            self._open.add(index)
            return index

    def end(self, record: RequestRecord) -> None:
        """Close a record with the outcome."""
        with self._condition:
            self._open.discard(record.index)
            self._records.append(record)
            if self._waiting:
                self._condition.notify_all()

    def records(self, settle_s: float = SETTLE_S) -> list[RequestRecord]:
        """Return the records in order of arrival.

        Requests open at the call are waited for, at most `settle_s`; one that takes longer (a
        stall, say) is in a later call's result.
        """
        deadline_s = time.monotonic() + settle_s
        with self._condition:
            asked_at = self._next_index
            self._waiting += 1
            try:
                while any(index < asked_at for index in self._open):
                    left_s = deadline_s - time.monotonic()
                    if left_s <= 0 or not self._condition.wait(left_s):
                        break
            finally:
                self._waiting -= 1
            return sorted(self._records, key=lambda record: record.index)

    def clear(self) -> None:
        """Forget all records, those of requests that are open now included when they end soon."""
        self.records()
        with self._condition:
            self._records.clear()
