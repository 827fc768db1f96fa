"""Object stores behind one contract: ranged reads, listings, writes."""

from dataplane.stores.base import Buffer, Listing, ObjectInfo, Store, StoreConfig
from dataplane.stores.open import open_store
from dataplane.stores.urls import split_url

__all__ = [
    "Buffer",
    "Listing",
    "ObjectInfo",
    "Store",
    "StoreConfig",
    "open_store",
    "split_url",
]
