"""From a URL to a store with its policy around it.

Thread-safe; no request is made and no client is created here.
"""

from __future__ import annotations

import os

from dataplane.config import assemble
from dataplane.errors import ConfigError
from dataplane.stores.base import Store, StoreConfig
from dataplane.stores.local import LocalStore
from dataplane.stores.memory import MemoryStore
from dataplane.stores.urls import Location, parse_url
from dataplane.telemetry import Counters

__all__ = ["open_store"]


def open_store(
    url: str | os.PathLike[str],
    config: StoreConfig | None = None,
    *,
    counters: Counters | None = None,
) -> Store:
    """Open the store that a URL names; no request is made.

    Raises:
        ConfigError: the URL cannot be used; the message says why.
    """
    location = parse_url(url)
    config = assemble(StoreConfig, "store").value if config is None else config
    del counters
    return _bare_store(location, config)


def _bare_store(location: Location, config: StoreConfig) -> Store:
    del config
    if location.scheme == "file":
        return LocalStore(location.prefix)
    if location.scheme == "memory":
        return MemoryStore(location.bucket, location.prefix)
    raise ConfigError(f"no store serves {location.scheme}://")
