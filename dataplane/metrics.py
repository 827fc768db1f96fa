"""Every counter and gauge by name, and the two ways out: a dictionary and a Prometheus endpoint.

`stats()` is for programs. `serve_metrics()` answers Prometheus over HTTP, from this process, on the
loopback interface unless told otherwise: the figures name no object and hold no secret, but there
is no access control either. Names on the wire are `dataplane_<name>` with `_s` written out as
`_seconds`, and `_total` behind counters, as Prometheus wants it.

What a running process publishes in its cache directory is `dataplane.cache.publish`.
Pure functions apart from the server, which has a thread of its own, dp-metrics.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from dataplane.cache.counters import CACHE_COUNTERS
from dataplane.errors import ConfigError
from dataplane.extras import missing_package
from dataplane.telemetry import gauges, totals

if TYPE_CHECKING:
    from prometheus_client.core import Metric

__all__ = ["COUNTERS", "GAUGES", "MetricsServer", "describe", "serve_metrics", "stats"]

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
"""What each counter counts. One that ends in `_` is a family; its members' names say the rest."""

GAUGES: Mapping[str, str] = MappingProxyType(
    {
        "cache_used_bytes": "disk space that the cache takes, of all processes",
        "cache_jobs": "blocks that are being downloaded or wait for that",
        "cache_plan_bytes": "bytes of blocks inside the windows of plans",
        "cache_memory_bytes": "bytes of downloaded blocks held in memory for their reader",
        "loader_queue_": "finished items that wait for the next stage, by stage",
        "mount_open_files": "files that are open in mounts",
    }
)
"""What each gauge says; families as in `COUNTERS`."""

_LABELS = {"store_errors_": "kind", "mount_errors_": "errno", "loader_queue_": "stage"}
_MAX_PORT = 65_535


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
        for family in _LABELS:
            if family in documented and name.startswith(family):
                return family, name[len(family) :], documented[family]
    return None


def serve_metrics(port: int, *, host: str = "127.0.0.1") -> MetricsServer:
    """Answer Prometheus at `http://host:port/metrics` until the server is closed or we end.

    Needs the extra `metrics`.

    Args:
        port: to listen at; 0 takes a free one, which `MetricsServer.port` tells.
        host: the address to listen at. Whoever reaches it may read the figures.

    Raises:
        ConfigError: nobody can listen there, or prometheus_client is missing.

    Example:
        >>> import dataplane as dp
        >>> server = dp.serve_metrics(9400)  # doctest: +SKIP
    """
    if not 0 <= port <= _MAX_PORT:
        raise ConfigError(f"a metrics port is 0 to {_MAX_PORT}, got {port}")
    try:
        import prometheus_client
    except ImportError as err:
        raise missing_package("serving metrics", "prometheus_client") from err
    registry = prometheus_client.CollectorRegistry()
    registry.register(_Figures())
    prometheus_client.ProcessCollector(registry=registry)
    try:
        server, thread = prometheus_client.start_http_server(port, host, registry)
    except (OSError, OverflowError) as err:
        raise ConfigError(
            f"cannot serve metrics on {host}:{port}: {err}", hint="choose another port"
        ) from err
    return MetricsServer(server, thread)


class MetricsServer:
    """A running endpoint; made by `serve_metrics`. A context manager."""

    def __init__(self, server: Any, thread: threading.Thread) -> None:
        self._server = server
        self._thread = thread
        thread.name = "dp-metrics"

    @property
    def port(self) -> int:
        """The port that it listens at."""
        return int(self._server.server_port)

    def close(self) -> None:
        """Stop answering. Idempotent."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _Figures:
    """Gives Prometheus the figures of the moment at which it asks."""

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        yield from _families(totals(), CounterMetricFamily)
        yield from _families(gauges(), GaugeMetricFamily)

    def describe(self) -> Iterable[Metric]:
        return ()  # so that nothing is collected at registration


def _families(figures: Mapping[str, float], kind: Any) -> Iterator[Metric]:
    families: dict[str, Any] = {}
    for name, value in figures.items():
        family, member, meaning = describe(name) or (name, "", "undocumented")
        label = _LABELS.get(family)
        metric = families.get(family)
        if metric is None:
            metric = families[family] = kind(
                _wire_name(family), meaning, labels=[label] if label else None
            )
            if label is None:
                metric.add_metric([], value)
        if label is not None:
            metric.add_metric([member], value)
    yield from families.values()


def _wire_name(family: str) -> str:
    name = family.rstrip("_")
    return f"dataplane_{name[:-2]}_seconds" if name.endswith("_s") else f"dataplane_{name}"
