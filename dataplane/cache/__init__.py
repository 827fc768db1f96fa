"""The local SSD cache shared by every process of the user on the host.

`Cache.open` gives a `CachedObject`, whose reads download each missing block once per cache.
`Cache.plan` fetches a plan of reads ahead of its reader. Counters: `CACHE_COUNTERS`.
"""

from dataplane.cache.cache import Cache
from dataplane.cache.config import CacheConfig, CacheWarning
from dataplane.cache.metrics import CACHE_COUNTERS
from dataplane.cache.object import CachedObject
from dataplane.cache.plan import Plan
from dataplane.cache.planned import PlannedRead, PlannedTable

__all__ = [
    "CACHE_COUNTERS",
    "Cache",
    "CacheConfig",
    "CacheWarning",
    "CachedObject",
    "Plan",
    "PlannedRead",
    "PlannedTable",
]
