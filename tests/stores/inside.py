"""What tests look at inside of stores: the one place that knows how they are built."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from dataplane.stores import Store, versions
from dataplane.stores.base import Buffer
from dataplane.stores.clients import local, per_process
from dataplane.stores.clients.fsspec import FsspecStore
from dataplane.stores.clients.per_process import PerProcessStore
from dataplane.stores.http import connections
from dataplane.stores.policy import hedged_stream
from dataplane.stores.policy.hedge import HedgeStore
from dataplane.stores.policy.hedge_threshold import HedgeThreshold

FIRST_PIECE = hedged_stream._FIRST
"""The kind of the first piece of a stream."""
NEXT_PIECE = hedged_stream._NEXT
"""The kind of the pieces behind it."""

Write: TypeAlias = Callable[[int, Path | memoryview], None]
"""A function that writes the content of an object to an open file."""


def threshold_of(store: HedgeStore) -> HedgeThreshold:
    """What a store has learned of response times."""
    return store._latencies


def set_threshold(store: HedgeStore, threshold: HedgeThreshold) -> None:
    """Another threshold for a store, that knows already what is late."""
    store._latencies = threshold


def threshold_lock(store: HedgeStore) -> AbstractContextManager[object]:
    """The lock under which a store learns."""
    return threshold_of(store)._lock


def is_any_read_late(store: HedgeStore) -> bool:
    """Whether a read that runs in its caller's thread is late."""
    return store._is_any_late()


def ended_streams(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The streams, of those that begin from now on, that have said all they had to say."""
    over: list[object] = []
    run = hedged_stream._StreamAttempt.run

    def noted(stream: hedged_stream._StreamAttempt, pieces: Generator[Buffer, None, None]) -> None:
        run(stream, pieces)
        over.append(stream)

    monkeypatch.setattr(hedged_stream._StreamAttempt, "run", noted)
    return over


def client_of(store: PerProcessStore) -> Store | None:
    """The client of this process, if it was made."""
    return store._store


def obstore_runtime() -> per_process._Runtime:
    """The process that obstore's threads belong to, as far as this process knows."""
    return per_process._runtime


def file_system_of(store: FsspecStore) -> Any:
    """The file system of fsspec that serves a store."""
    return store._fs


def wrap_local_writes(monkeypatch: pytest.MonkeyPatch, wrap: Callable[[Write], Write]) -> None:
    """Objects in folders that are written by what `wrap` returns."""
    monkeypatch.setattr(local, "_fill", wrap(local._fill))


def close_connections() -> None:
    """An end of all connections of this process."""
    for pool in connections._pools:
        pool.close()


def forget_warnings() -> None:
    """Places without versions that were not warned of yet."""
    versions._told.clear()
