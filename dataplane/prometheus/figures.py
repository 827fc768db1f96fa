"""Collectors for Prometheus: metrics of this process, or of all that use a cache directory.

A collector gives the values at the time of the scrape, and holds nothing in between. Needs the
extra `metrics`, which is imported at the first scrape.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

from dataplane.cache.admin import Session, directory_gauges, is_in_use, read_published
from dataplane.cache.config import CacheConfig
from dataplane.distribution import version
from dataplane.metrics import DIRECTORY_GAUGES, LABELS, describe, wire_name
from dataplane.telemetry import gauges, totals

if TYPE_CHECKING:
    from prometheus_client.core import Metric

__all__ = ["HostFigures", "ProcessFigures"]

_Labelled = tuple[tuple[str, ...], Mapping[str, float]]
_PROCESS_LABELS = ("pid", "program")


class ProcessFigures:
    """A collector of the metrics of this process."""

    def collect(self) -> Iterator[Metric]:
        """Return the metrics as they are now."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        yield _build_info()
        yield from _families([((), totals())], CounterMetricFamily)
        yield from _families([((), gauges())], GaugeMetricFamily)

    def describe(self) -> Iterable[Metric]:
        """Return no metrics, so that nothing is collected at registration."""
        return ()


class HostFigures:
    """A collector of the metrics of all processes of a host that use a cache directory, by process.

    The directory is attached to for each scrape, so that a scrape neither keeps others from finding
    out that they are alone, nor stays with a directory that was removed.

    Args:
        config: configuration that names the directory. While it is not there or empty, no process
            uses it; a scrape does not make it a cache.
    """

    def __init__(self, config: CacheConfig) -> None:
        self._config = config

    def collect(self) -> Iterator[Metric]:
        """Return the metrics as they are now.

        Raises:
            CacheError: the directory cannot be used.
            OSError: the file system refused.
        """
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        yield _build_info()
        counted: list[_Labelled] = []
        standing: list[_Labelled] = []
        shared: dict[str, float] = {}
        if is_in_use(self._config.dir):
            with closing(Session(self._config.dir, sharing=self._config.sharing)) as session:
                shared = directory_gauges(session)
                processes = read_published(session)
            for process in processes:
                labels = (str(process.pid), process.program)
                counted.append((labels, process.counters))
                own = {k: v for k, v in process.gauges.items() if k not in DIRECTORY_GAUGES}
                standing.append((labels, own))
        shared["processes"] = len(counted)
        yield from _families([((), shared)], GaugeMetricFamily)
        yield from _families(counted, CounterMetricFamily, _PROCESS_LABELS)
        yield from _families(standing, GaugeMetricFamily, _PROCESS_LABELS)

    def describe(self) -> Iterable[Metric]:
        """Return no metrics, so that nothing is collected at registration."""
        return ()


@functools.cache
def _versions() -> Mapping[str, str]:
    return {"version": version(), "python": platform.python_version()}


def _build_info() -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    labels = _versions()
    metric = GaugeMetricFamily(
        "dataplane_build_info", "always 1; the labels say what runs", labels=list(labels)
    )
    metric.add_metric(list(labels.values()), 1)
    return metric


def _families(
    groups: Iterable[_Labelled], kind: Any, label_names: tuple[str, ...] = ()
) -> Iterator[Metric]:
    """Make one metric family per name, with a sample for each group that has it."""
    families: dict[str, Any] = {}
    for labels, figures in groups:
        for name, value in figures.items():
            family, member, meaning = describe(name) or (name, "", "undocumented")
            own = LABELS.get(family)
            metric = families.get(family)
            if metric is None:
                metric = families[family] = kind(
                    wire_name(family), meaning, labels=[*label_names, own] if own else label_names
                )
            metric.add_metric([*labels, member] if own else labels, value)
    yield from families.values()
