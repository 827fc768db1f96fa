"""What the commands that work on a cache directory share: options, attaching, parts of stores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import click

from dataplane.cache import CacheConfig
from dataplane.cache.session import Session
from dataplane.cache.spec import Scope
from dataplane.cli.text import printable
from dataplane.errors import CacheError
from dataplane.stores import open_store
from dataplane.stores.base import StoreConfig

__all__ = ["DIR_OPTION", "JSON_OPTION", "attached", "say_nothing_there", "scope_of"]

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
    if not create and not config.dir.is_dir():
        raise CacheError(
            f"there is no cache at {config.dir}",
            hint="it is made at the first read; name another with --cache-dir",
        )
    try:
        session = Session(config.dir)
    except OSError as err:
        raise CacheError(f"cannot use the cache directory {config.dir}: {err}") from err
    with closing(session):
        yield session


def say_nothing_there(config: CacheConfig, url: str | None) -> None:
    """Say on stderr that the cache holds nothing of a URL, which may be a typing error.

    It is no failure: a script that empties or checks what is not there has what it wants.
    """
    what = "nothing" if url is None else f"nothing of {printable(url)}"
    click.echo(f"dataplane: {what} is in the cache {config.dir}", err=True)


def scope_of(url: str, config: StoreConfig, prefix: str | None = None) -> Scope:
    """Return the part of a store that a URL, and a prefix below it, names; makes no request."""
    with closing(open_store(url, config)) as store:
        if prefix is not None:
            return Scope(store.identity, store.full_key(prefix), is_prefix=True)
        return Scope(store.identity, store.full_key("").strip("/"))
