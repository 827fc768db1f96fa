"""Errors of a URL without a dataset: nothing is there, or something else.

The two are different errors with different exit codes: `NotFound` (a typing error in the URL, or
data that was not copied yet) and `FormatError` (files that are to be packed first, or a part of a
dataset in the place of the whole). One listing tells them apart, and where it finds nothing, a look
for an object of that name; where a server cannot list, all that is known is that the index is not
there.

Makes requests, holds no state; thread-safe.
"""

from __future__ import annotations

from contextlib import closing

from dataplane.errors import (
    BucketNotFound,
    ConfigError,
    DataplaneError,
    FormatError,
    NotFound,
    StoreError,
)
from dataplane.shards.index_schema import INDEX_KEY, SHARD_NAME
from dataplane.stores.base import Store
from dataplane.stores.open import OpenedStore
from dataplane.stores.urls import OBSTORE_SCHEMES
from dataplane.units import format_bytes

__all__ = ["why_no_index"]


def why_no_index(store: Store) -> DataplaneError:
    """Return the error for a store that has no index: nothing is there, or something else is."""
    try:
        if not _is_empty(store):
            return FormatError(
                f"{store.url} is not a packed dataset: it has no {INDEX_KEY}",
                hint="pack one with `dataplane pack`; an interrupted pack leaves no index",
            )
        nothing = NotFound(f"there is nothing below {store.url}", hint="check the URL")
    except BucketNotFound as err:
        return err
    except NotFound as err:
        nothing = err
    except StoreError:  # plain web servers cannot list; all that is known is that it is not there
        nothing = NotFound(f"there is no {INDEX_KEY} at {store.url}", hint="check the URL")
    return _what_object(store) or nothing


def _is_empty(store: Store) -> bool:
    """Whether nothing is below a store's URL; takes no long listing."""
    if store.identity.partition("://")[0].partition("+")[0] in OBSTORE_SCHEMES:
        return next(iter(store.list()), None) is None  # these list page by page, others everything
    level = store.list_level("")
    return not (level.objects or level.prefixes)


def _what_object(store: Store) -> FormatError | None:
    """Describe the object whose URL was taken for a dataset's; None when there is none."""
    if not isinstance(store, OpenedStore):
        return None
    try:
        parent, key = store.around()
    except ConfigError:
        return None
    with closing(parent):
        size_bytes = _size_bytes(parent, key)
        if size_bytes is None:
            return None
        kind = "a file" if store.identity.startswith("file:") else "an object"
        what = f"{kind} of {format_bytes(size_bytes)}"
        if _size_bytes(parent, INDEX_KEY) is None:
            return FormatError(
                f"{store.url} is {what}, not a packed dataset",
                hint="a dataset is the folder around its index.parquet; make one of files on a "
                "local disk or a mount with `dataplane pack FILE DEST_URL`",
            )
        if key == INDEX_KEY:
            what = "the index of a packed dataset"
        elif SHARD_NAME.fullmatch(key):
            what = f"a shard ({format_bytes(size_bytes)}) of a packed dataset"
        return FormatError(
            f"{store.url} is {what}, not the dataset itself", hint=f"that is {parent.url}"
        )


def _size_bytes(store: Store, key: str) -> int | None:
    try:
        return store.head(key).size_bytes
    except (StoreError, ConfigError):
        return None
