"""`PerProcessStore`: a remote store whose client is made at its first use in each process.

So opening a store costs nothing and asks nothing, and it pickles as its URL and configuration.

Fork needs care: obstore's runtime threads exist only in the process that first used it, and in a
child made by fork every request would wait for them for ever. So a forked child of a process that
used obstore goes on through fsspec, where the package for the scheme is installed: slower, but
right. Where it is not, the error says what to do. A child made by spawn, or by fork before the
first use, gets obstore like any other process.

Thread-safe: one lock around the making of the client, which makes no request.
"""

from __future__ import annotations

import os
import threading

from dataplane.errors import ConfigError, StoreError
from dataplane.stores.base import Store, StoreConfig
from dataplane.stores.clients.fsspec import FsspecStore, check_protocol
from dataplane.stores.forwarder import StoreForwarder
from dataplane.stores.urls import OBSTORE_SCHEMES, Location, identity_of
from dataplane.telemetry import logger

__all__ = ["PerProcessStore"]


class _Runtime:
    """The process that obstore's runtime belongs to; inherited by forked children."""

    def __init__(self) -> None:
        self.pid: int | None = None
        self.abandoned: list[Store] = []
        self.warned = False

    def is_usable(self) -> bool:
        return self.pid is None or self.pid == os.getpid()

    def claim(self) -> None:
        self.pid = os.getpid()


_runtime = _Runtime()


class PerProcessStore(StoreForwarder):
    """A store that hands every call to this process's client. See the module's text."""

    def __init__(self, location: Location, config: StoreConfig) -> None:
        self._location = location
        self._config = config
        self._identity = identity_of(location, config)
        self._through_fsspec = location.scheme not in OBSTORE_SCHEMES or bool(
            config.storage_options
        )
        if self._through_fsspec:
            check_protocol(location)
        self._lock = threading.Lock()
        self._store: Store | None = None
        self._pid = os.getpid()

    def __reduce__(self) -> tuple[object, ...]:
        return (PerProcessStore, (self._location, self._config))

    @property
    def url(self) -> str:
        return self._location.url

    @property
    def identity(self) -> str:
        return self._identity

    def full_key(self, key: str) -> str:
        prefix = self._location.prefix.strip("/")
        return f"{prefix}/{key}" if prefix else key

    def close(self) -> None:
        if self._pid == os.getpid():
            with self._lock:
                store, self._store = self._store, None
            if store is not None:
                store.close()

    @property
    def _inner(self) -> Store:
        if self._pid != os.getpid():
            # The lock may have been held at the fork, and the client must not even be dropped.
            if self._store is not None:
                _runtime.abandoned.append(self._store)
            self._lock = threading.Lock()
            self._store = None
            self._pid = os.getpid()
        store = self._store
        if store is None:
            with self._lock:
                store = self._store = self._store or self._make()
        return store

    def _make(self) -> Store:
        if self._through_fsspec:
            return FsspecStore(self._location, self._config)
        if _runtime.is_usable():
            # Imported here: a process that reads only local folders starts without obstore.
            from dataplane.stores.clients.object_store import RemoteStore

            _runtime.claim()
            return RemoteStore(self._location, self._config)
        try:
            store = FsspecStore(self._location, self._config)
        except ConfigError as err:
            raise StoreError(
                f"{self.url} cannot be read in a process made by fork, since its parent has "
                f"used a remote store and {err.message}",
                hint="start workers with multiprocessing_context='spawn', or "
                + (err.hint or "install the package"),
            ) from err
        if not _runtime.warned:
            _runtime.warned = True
            logger.warning(
                "%s is read through fsspec, which is slower: this process was made by fork; "
                "workers started with 'spawn' or 'forkserver' do better",
                self.url,
            )
        return store
