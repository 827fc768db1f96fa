"""Every counter that the cache keeps, with its meaning: the one place where they are documented.

A forked child starts with fresh counters.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["CACHE_COUNTERS"]

CACHE_COUNTERS: Mapping[str, str] = MappingProxyType(
    {
        "cache_hits": "reads (ranges of a table, blocks shown) answered wholly from memory or disk",
        "cache_hit_bytes": "bytes of those reads",
        "cache_misses": "reads that had to wait for at least one block",
        "cache_miss_bytes": "bytes of those reads",
        "cache_wait_s": "seconds that readers waited for blocks",
        "cache_leases_refused": "mapped reads that were copied after all, and count twice as reads",
        "cache_fetches": "blocks downloaded",
        "cache_fetch_bytes": "bytes of those blocks",
        "cache_fetch_errors": "downloads of blocks that the store refused or broke",
        "cache_place_wait_s": "seconds that downloads waited because of `host_requests`",
        "cache_places_overrun": "downloads beyond `host_requests`, after no place came free",
        "cache_blocks_corrupt": "blocks whose bytes did not match their checksum; fetched again",
        "cache_io_errors": "blocks that the local disk could not read; fetched again",
        "cache_maps_rebuilt": "entries thrown away because their files were damaged",
        "cache_evicted_blocks": "blocks evicted by this process",
        "cache_evicted_bytes": "bytes of blocks evicted by this process",
        "cache_removed_entries": "entries removed by this process because they held no block",
        "cache_uncached_blocks": "downloaded blocks that found no room in the cache",
        "cache_passthrough_reads": "reads served by the store because the cache was not usable",
        "cache_passthrough_bytes": "bytes of those reads",
        "cache_prefetch_blocks": "blocks that a plan asked for before their reader did",
        "cache_prefetch_errors": "planned blocks that could not be fetched; their reader sees why",
    }
)
