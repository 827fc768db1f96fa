"""Shared parts of the commands on a cache directory: options, attaching, parts of stores.

A part of a store is named by a URL and the options of its store, or as `dataplane cache ls` prints
it: the store's identity, a slash, the key. Where both differ (`s3+http://host/bucket/key`
for an S3 server other than AWS), the second needs no options, since it names the server.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import click

from dataplane.cache import CacheConfig
from dataplane.cache.admin import Catalog, Scope, Session, Totals, add_up, walk
from dataplane.cli.text import printable
from dataplane.errors import CacheError
from dataplane.stores import open_store
from dataplane.stores.base import StoreConfig
from dataplane.telemetry import logger

__all__ = [
    "DIR_OPTION",
    "JSON_OPTION",
    "attached",
    "refreshed",
    "say_nothing_there",
    "scope_in",
    "scope_of",
    "totals_of",
]

# Schemes that begin no URL, or (az) that a URL never means: its second part is the account.
_IDENTITY_ONLY = re.compile(r"[A-Za-z][A-Za-z0-9.-]*\+|az://")

DIR_OPTION = click.option(
    "--cache-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Cache directory (also DATAPLANE_CACHE_DIR; default ~/.cache/dataplane).",
)
JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@contextmanager
def attached(config: CacheConfig, *, create: bool = False) -> Iterator[Session]:
    """Use a cache directory for a command.

    Raises:
        CacheError: it is not there (unless `create`), or cannot be used.
    """
    if not create and not config.dir.exists():
        raise CacheError(
            f"there is no cache at {config.dir}",
            hint="it is made at the first read; name another with --cache-dir",
        )
    try:
        session = Session(config.dir, sharing=config.sharing)
    except OSError as err:
        raise CacheError(f"cannot use the cache directory {config.dir}: {err}") from err
    with closing(session):
        yield session


def say_nothing_there(config: CacheConfig, url: str | None) -> None:
    """Write to stderr that the cache holds nothing of a URL, which may be a typing error.

    It is no failure: a script that empties or checks an absent object has its result.
    """
    what = "nothing" if url is None else f"nothing of {printable(url)}"
    click.echo(f"dataplane: {what} is in the cache {config.dir}", err=True)


def scope_of(url: str, config: StoreConfig, prefix: str | None = None) -> Scope:
    """Return the part of a store that a URL, and a prefix below it, names; makes no request."""
    with closing(open_store(url, config)) as store:
        if prefix is not None:
            return Scope(store.identity, store.full_key(prefix), is_prefix=True)
        return Scope(store.identity, store.full_key("").strip("/"))


def scope_in(session: Session, url: str, config: StoreConfig, prefix: str | None = None) -> Scope:
    """Return the part of a store that a URL names, or a name printed by `dataplane cache ls`."""
    if _IDENTITY_ONLY.match(url):
        stores = {*totals_of(session).stores, *(pin.scope.store for pin in session.pins.load())}
        found = [it for it in stores if url.rstrip("/") == it or url.startswith(f"{it}/")]
        if found or "+http" in url.partition("://")[0]:
            # A name that is not in the cache is a store of that name, of which nothing is there.
            store = max(found, key=len, default=url)
            key = url[len(store) :].strip("/")
            if prefix is not None:
                return Scope(store, f"{key}/{prefix}" if key else prefix, is_prefix=True)
            return Scope(store, key)
    return scope_of(url, config, prefix)


def totals_of(session: Session) -> Totals:
    """Return the totals of the cache."""
    catalog = refreshed(session)
    if catalog is not None:
        with suppress(sqlite3.Error, OSError):
            return catalog.totals()
    return add_up(walk(session))


def refreshed(session: Session) -> Catalog | None:
    """Return the catalog, brought up to date; None when that cannot be."""
    catalog = Catalog(session.directory)
    try:
        catalog.refresh(session)
    except (sqlite3.Error, OSError) as err:  # a full disk, a link in its place, a long transaction
        logger.debug("the catalog of %s cannot be used: %s", session.directory.path, err)
        return None
    return catalog
