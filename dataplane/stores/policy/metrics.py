"""Metrics of a store: counters of its requests and bytes, attempt by attempt.

| counter | counts |
|---|---|
| `store_get_requests` | ranged reads sent, failed ones and repeated ones included |
| `store_get_bytes` | bytes that arrived through them |
| `store_get_s` | time in them, summed over threads, without waits for a slot or a new attempt |
| `store_head_requests`, `store_list_requests`, `store_delete_requests` | calls of that kind |
| `store_put_requests`, `store_put_bytes`, `store_put_s` | writes, bytes written, time in them |
| `store_errors_<kind>` | attempts that failed, by the `kind` of `dataplane.errors` |
| `store_not_found` | attempts with the response "no such key", which is no failure: readers probe |
| `store_retries` | attempts after the first (added by `retry.py`) |
| `store_hedges`, `store_hedges_won` | late reads sent again; of them, second responses taken |
| `store_wait_s` | time spent waiting for a slot (added by `limit.py`) |

Thread-safe, as `Counters` is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

from dataplane.errors import BucketNotFound, DataplaneError, NotFound
from dataplane.stores.base import Buffer, Listing, ObjectInfo, Store
from dataplane.stores.forwarder import StoreWrapper
from dataplane.telemetry import Counters

__all__ = ["MetricsStore"]


class MetricsStore(StoreWrapper):
    """A store whose requests are counted."""

    def __init__(
        self, inner: Store, counters: Counters, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        super().__init__(inner)
        self._counters = counters
        self._clock = clock

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        self._counters.add("store_list_requests")
        try:
            yield from self._inner.list(prefix)
        except DataplaneError as err:
            self._count_error(err)
            raise

    def list_level(self, prefix: str = "") -> Listing:
        self._counters.add("store_list_requests")
        try:
            return self._inner.list_level(prefix)
        except DataplaneError as err:
            self._count_error(err)
            raise

    def head(self, key: str) -> ObjectInfo:
        self._counters.add("store_head_requests")
        try:
            return self._inner.head(key)
        except DataplaneError as err:
            self._count_error(err)
            raise

    def get_range(self, key: str, start: int, stop: int, *, if_match: str | None = None) -> Buffer:
        begun_s = self._clock()
        arrived = 0
        try:
            content = self._inner.get_range(key, start, stop, if_match=if_match)
            arrived = stop - start
            return content
        except DataplaneError as err:
            self._count_error(err)
            raise
        finally:
            if stop > start:
                self._counters.add_all(
                    {
                        "store_get_requests": 1,
                        "store_get_bytes": arrived,
                        "store_get_s": self._clock() - begun_s,
                    }
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
        pieces = self._inner.stream_range(
            key, start, stop, piece_bytes=piece_bytes, if_match=if_match
        )
        if stop > start:
            self._counters.add("store_get_requests")
        try:
            while True:
                begun_s = self._clock()
                try:
                    piece = next(pieces, None)
                finally:
                    self._counters.add("store_get_s", self._clock() - begun_s)
                if piece is None:
                    return
                # Now, not at the end: the reader of its bytes finds them counted.
                self._counters.add("store_get_bytes", memoryview(piece).nbytes)
                yield piece
                del piece
        except DataplaneError as err:
            self._count_error(err)
            raise
        finally:
            pieces.close()

    def put(self, key: str, data: Buffer | os.PathLike[str]) -> ObjectInfo:
        begun_s = self._clock()
        written = 0
        try:
            info = self._inner.put(key, data)
            written = _size_bytes(data)
            return info
        except DataplaneError as err:
            self._count_error(err)
            raise
        finally:
            self._counters.add_all(
                {
                    "store_put_requests": 1,
                    "store_put_bytes": written,
                    "store_put_s": self._clock() - begun_s,
                }
            )

    def delete(self, key: str) -> None:
        self._counters.add("store_delete_requests")
        try:
            self._inner.delete(key)
        except DataplaneError as err:
            self._count_error(err)
            raise

    def _count_error(self, err: DataplaneError) -> None:
        if isinstance(err, NotFound) and not isinstance(err, BucketNotFound):
            # A response like any other: a Zarr reader asks for metadata and chunks that may not be
            # there. A caller that needed the key counts its own failure (`cache_fetch_errors`).
            self._counters.add("store_not_found")
        else:
            self._counters.add(f"store_errors_{err.kind}")


def _size_bytes(data: Buffer | os.PathLike[str]) -> int:
    if isinstance(data, os.PathLike):
        return Path(data).stat().st_size
    return memoryview(data).nbytes
