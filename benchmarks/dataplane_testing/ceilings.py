"""Measured ceilings: the best that the machine could do, for the ratios beside our own figures.

A ceiling runs on the same machine in the same minute as the system that it is compared with, and
does strictly less: it fetches bytes and drops them, or copies memory. Used by the demo and the
benchmarks.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from dataplane.stores import Store

__all__ = ["GET_BYTES", "GET_THREADS", "fetch_everything", "memcpy_seconds"]

GET_BYTES = 4 << 20  # the cache's default block
GET_THREADS = 8  # the cache's default downloads at once


def fetch_everything(store: Store, *, suffix: str = ".tar") -> int:
    """Read all objects that end in `suffix` as ranged GETs by the same client, and drop the bytes.

    Returns:
        The number of bytes that came.

    Raises:
        StoreError: a range could not be read.
    """

    def get(piece: tuple[str, int, int, str]) -> int:
        key, start, stop, etag = piece
        return len(store.get_range(key, start, stop, if_match=etag))

    def pieces() -> Iterator[tuple[str, int, int, str]]:
        for info in store.list():
            if info.key.endswith(suffix):
                for start in range(0, info.size_bytes, GET_BYTES):
                    yield info.key, start, min(start + GET_BYTES, info.size_bytes), info.etag

    with ThreadPoolExecutor(GET_THREADS, thread_name_prefix="dp-ceiling") as pool:
        return sum(pool.map(get, pieces()))


def memcpy_seconds(total_bytes: int, *, piece_bytes: int, rounds: int = 3) -> float:
    """Time one copy of `total_bytes` in pieces between two buffers that are allocated once.

    Returns:
        The fastest of `rounds`, in seconds.
    """
    source = np.ones(piece_bytes, np.uint8)
    target = np.empty_like(source)
    np.copyto(target, source)
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(-(-total_bytes // piece_bytes)):
            np.copyto(target, source)
        best = min(best, time.perf_counter() - start)
    return best
