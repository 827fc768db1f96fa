"""`open_store`: from a URL to a store with its policies around it.

Remote stores are `Retry(Limit(Hedge(Metrics(store))))`; local folders and memory have metrics only,
since they neither throttle nor break off. An opened store pickles as its URL and configuration: it
counts into counters of its own in another process. Thread-safe; no request is made, no client
created.
"""

from __future__ import annotations

import os

from dataplane.config import assemble
from dataplane.errors import ConfigError
from dataplane.stores.base import Store, StoreConfig
from dataplane.stores.clients.local import LocalStore
from dataplane.stores.clients.memory import MemoryStore
from dataplane.stores.clients.per_process import PerProcessStore
from dataplane.stores.forwarder import StoreWrapper
from dataplane.stores.keys import why_foreign
from dataplane.stores.policy.hedge import HedgeStore
from dataplane.stores.policy.limit import LimitStore
from dataplane.stores.policy.metrics import MetricsStore
from dataplane.stores.policy.retry import RetryPolicy, RetryStore
from dataplane.stores.urls import OBSTORE_SCHEMES, Location, parse_url, split_url
from dataplane.telemetry import Counters

__all__ = ["OpenedStore", "open_store"]


class OpenedStore(StoreWrapper):
    """A store from `open_store`, with the counters it adds to, and the means to open it again."""

    def __init__(self, inner: Store, url: str, config: StoreConfig, counters: Counters) -> None:
        super().__init__(inner)
        self._config = config
        self._opened_url = url
        self.counters = counters

    def around(self) -> tuple[Store, str]:
        """Return the store one level up, with the same settings, and this URL's name in it.

        Raises:
            ConfigError: the URL names a whole bucket or host.
        """
        root, key = split_url(self._opened_url)
        return open_store(root, self._config), key

    def __reduce__(self) -> tuple[object, ...]:
        return (open_store, (self._opened_url, self._config))

    def __repr__(self) -> str:
        return f"<store {self.url}>"


def open_store(
    url: str | os.PathLike[str],
    config: StoreConfig | None = None,
    *,
    counters: Counters | None = None,
) -> Store:
    """Open the store that a URL names; no request is made.

    `s3 gs az abfs http https` go through obstore, local folders and `memory://` are our own, and
    every other protocol, or any with `config.storage_options`, goes through fsspec.

    Args:
        url: a URL such as `s3://bucket/prefix`, or a path.
        config: settings; by default from the user's file and the environment.
        counters: counters to add to (see `metrics.py`); by default the store has its own.

    Raises:
        ConfigError: the URL cannot be used; the message says why.

    Example:
        >>> store = open_store("memory://example")
        >>> info = store.put("a.bin", b"hello")
        >>> bytes(store.get_range("a.bin", 1, 4, if_match=info.etag))
        b'ell'
    """
    location = parse_url(url)
    config = assemble(StoreConfig, "store").value if config is None else config
    counters = Counters() if counters is None else counters
    inner = _with_policy(location, config, counters)
    return OpenedStore(inner, location.url, config, counters)


def _with_policy(location: Location, config: StoreConfig, counters: Counters) -> Store:
    if not config.storage_options and location.scheme == "file":
        return MetricsStore(LocalStore(location.prefix), counters)
    if not config.storage_options and location.scheme == "memory":
        return MetricsStore(MemoryStore(location.bucket, location.prefix), counters)
    if not config.storage_options and location.scheme in OBSTORE_SCHEMES:
        _refuse_foreign(location)
    metered = MetricsStore(PerProcessStore(location, config), counters)
    reading = HedgeStore(metered, config.hedge_floor_s, counters) if config.hedge else metered
    limited = LimitStore(reading, config.max_concurrency, counters)
    policy = RetryPolicy(
        config.max_attempts, config.deadline_s, metadata_deadline_s=config.metadata_deadline_s
    )
    return RetryStore(limited, policy, counters)


def _refuse_foreign(location: Location) -> None:
    reason = why_foreign(location.prefix) if location.prefix else None
    if reason is not None:
        raise ConfigError(
            f"{location.url!r} cannot be addressed: {reason}",
            hint="rename such keys, or name a URL above them; they are left out there",
        )
