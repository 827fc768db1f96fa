"""Why there is no dataset at a URL: nothing is there, or something else.

The two are different errors with different exit codes: `NotFound` (a typing error in the URL, or
data that was not copied yet) and `FormatError` (files that are to be packed first). One listing
tells them apart; where a server cannot list, all that is known is that the index is not there.

Makes requests, holds no state; thread-safe.
"""

from __future__ import annotations

from pathlib import Path

from dataplane.errors import DataplaneError, FormatError, NotFound, StoreError
from dataplane.shards.index_schema import INDEX_KEY
from dataplane.stores.base import Store
from dataplane.stores.urls import OBSTORE_SCHEMES

__all__ = ["why_no_index"]


def why_no_index(store: Store) -> DataplaneError:
    """Return the error for a store that has no index: nothing is there, or something else is."""
    try:
        is_empty = _is_empty(store)
    except NotFound as err:
        path = Path("/", store.full_key(""))
        if not (store.identity.startswith("file:") and path.is_file()):
            return err
        return FormatError(
            f"{path} is a file, not a packed dataset", hint="pack it with `dataplane pack`"
        )
    except StoreError:  # plain web servers cannot list; all that is known is that it is not there
        return NotFound(f"there is no {INDEX_KEY} at {store.url}", hint="check the URL")
    if is_empty:
        return NotFound(f"there is nothing below {store.url}", hint="check the URL")
    return FormatError(
        f"{store.url} is not a packed dataset: it has no {INDEX_KEY}",
        hint="pack one with `dataplane pack`; an interrupted pack leaves no index",
    )


def _is_empty(store: Store) -> bool:
    """Whether nothing is below a store's URL; takes no long listing."""
    if store.identity.partition("://")[0].partition("+")[0] in OBSTORE_SCHEMES:
        return next(iter(store.list()), None) is None  # these list page by page, others everything
    level = store.list_level("")
    return not (level.objects or level.prefixes)
