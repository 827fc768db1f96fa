"""Metrics: every counter and gauge with its meaning and its name in Prometheus; and `stats`.

`stats()` gives a program the figures of its process. Names on the wire are `dataplane_<name>` with
`_s` written out as `_seconds`, and `_total` behind counters; the endpoint is
`dataplane.prometheus`. What a running process publishes in its cache directory is
`dataplane.cache.maintenance.process_statistics`. Tables and pure functions, apart from `stats`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from dataplane.cache.metrics import CACHE_COUNTERS
from dataplane.telemetry import gauges, totals

__all__ = ["COUNTERS", "DIRECTORY_GAUGES", "GAUGES", "LABELS", "describe", "stats", "wire_name"]

COUNTERS: Mapping[str, str] = MappingProxyType(
    {
        **CACHE_COUNTERS,
        "store_get_requests": "ranged reads sent, failed and repeated ones included",
        "store_get_bytes": "bytes that arrived through them",
        "store_get_s": "seconds in them, summed over threads, without waits",
        "store_head_requests": "objects asked about",
        "store_list_requests": "listings",
        "store_delete_requests": "objects removed",
        "store_put_requests": "objects written",
        "store_put_bytes": "bytes of those",
        "store_put_s": "seconds in writes, summed over threads",
        "store_errors_": "attempts that failed, by kind of error",
        "store_not_found": "attempts answered with `no such key`; probes, so no errors",
        "store_retries": "attempts after the first",
        "store_wait_s": "seconds spent waiting for a turn at the store",
        "store_hedges": "late reads that were sent a second time",
        "store_hedges_won": "of those, the ones whose second answer came first",
        "dataset_samples_reread": "samples read again past the cache because they did not decode",
        "dataset_samples_skipped": "bad samples that were left out",
        "dataset_samples_replaced": "bad samples that another was put in the place of",
        "mount_opens": "files opened",
        "mount_reads": "reads answered",
        "mount_read_bytes": "bytes of those",
        "mount_listings": "levels listed in the store",
        "mount_levels_evicted": "listed levels forgotten for room",
        "mount_probes": "names asked for one by one",
        "mount_hidden_keys": "keys that are no file names",
        "mount_errors_": "calls that failed, by errno",
    }
)
"""Meaning of each counter. One that ends in `_` is a family; its members' names say the rest."""

GAUGES: Mapping[str, str] = MappingProxyType(
    {
        "cache_used_bytes": "disk space that the cache takes, of all processes",
        "cache_budget_bytes": "disk space that it may take: its budget, or what the disk leaves it",
        "cache_disk_bytes": "size of the file system that the cache is on",
        "cache_disk_free_bytes": "of that, what is free for the user",
        "cache_jobs": "blocks that are being downloaded or wait for that",
        "cache_plan_bytes": "bytes of blocks inside the windows of plans",
        "cache_memory_bytes": "bytes of downloaded blocks held in memory for their reader",
        "processes": "processes that use the cache; from the endpoint of a host only",
        "loader_queue_": "finished items that wait for the next stage, by stage",
        "mount_open_files": "files that are open in mounts",
    }
)
"""Meaning of each gauge; families as in `COUNTERS`."""

DIRECTORY_GAUGES = frozenset({"cache_used_bytes", "cache_disk_bytes", "cache_disk_free_bytes"})
"""Those that are of a cache directory, and so the same for all processes that use it."""

LABELS: Mapping[str, str] = MappingProxyType(
    {"store_errors_": "kind", "mount_errors_": "errno", "loader_queue_": "stage"}
)
"""The label that a family's members differ in."""


def stats() -> dict[str, float]:
    """Return all counters and gauges of this process by name.

    Example:
        >>> import dataplane as dp
        >>> dp.stats().get("cache_hit_bytes", 0)  # doctest: +SKIP
        4294967296
    """
    return totals() | gauges()


def describe(name: str) -> tuple[str, str, str] | None:
    """Return family, label value and meaning of a counter or gauge; None for an unknown one."""
    for documented in (COUNTERS, GAUGES):
        if name in documented:
            return name, "", documented[name]
        for family in LABELS:
            if family in documented and name.startswith(family):
                return family, name[len(family) :], documented[family]
    return None


def wire_name(family: str) -> str:
    """Return what Prometheus calls a counter (without `_total`) or a gauge."""
    name = family.rstrip("_")
    return f"dataplane_{name[:-2]}_seconds" if name.endswith("_s") else f"dataplane_{name}"
