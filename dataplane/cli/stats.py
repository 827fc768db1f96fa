"""`dataplane stats`: live metrics of the processes that use the cache.

On a terminal the view is drawn again and again, until Ctrl-C, which is the way to end it and so no
failure. Anything else that reads the output gets one look, or with `--interval` one after the
other. Every figure is shown at any width: where a process does not fit one line it gets two, below
headings of two lines, and where that does not fit, a name beside each figure.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

import click
from rich.console import Console, Group
from rich.live import Live
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from dataplane.cache import CacheConfig
from dataplane.cache.admin import ProcessFigures, Session, disk_room, read_published
from dataplane.cli.cache_directory import DIR_OPTION, attached
from dataplane.cli.options import FiniteRange, cache_config, metrics_options
from dataplane.cli.text import grid, output, piece_lines, plural, printable
from dataplane.errors import ConfigError
from dataplane.units import format_bytes, format_count, format_rate

__all__ = ["stats"]

_NAMES = (">pid", "program")
_UPPER = ("read", "from store", "cached", "waiting", "ahead")
_LOWER = ("errors", "evicted", "corrupt", "jobs", "")
_INTERVAL_S = 1.0
_ANY_WIDTH = 10_000  # to ask a table how wide it would like to be
_MIN_SPAN_S = 0.5  # figures are published once a second; rates over less are noise


@click.command()
@click.option(
    "--once",
    is_flag=True,
    help="Print once and end, as without a terminal; rates are those since the start.",
)
@click.option(
    "--interval",
    type=FiniteRange(min=0.2, max=3600),
    metavar="SECONDS",
    help="How often to look (1 by default); goes on without a terminal, too.",
)
@metrics_options(
    "Serve the figures of all of them to Prometheus, and print none (0: any free port)."
)
@DIR_OPTION
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print JSON with every counter and gauge, a line per look.",
)
def stats(
    *,
    once: bool,
    interval: float | None,
    metrics_port: int | None,
    metrics_host: str,
    cache_dir: Path | None,
    as_json: bool,
) -> None:
    """Watch the loaders, mounts and other processes that use the cache.

    Shown for each: how much it reads, how much of that comes from the store and not from the cache,
    the time its readers wait, evictions and corrupt blocks, what is being downloaded, and what a
    plan has ahead of its reader. The counters are explained in docs/metrics.md.

    On a terminal it goes on until Ctrl-C, which returns 0. Without one it prints once and ends,
    unless --interval is given.

    With --metrics-port it is the one Prometheus endpoint of the host: every figure of every process
    that uses the cache directory, with labels pid and program. It may start before they do.
    """
    if metrics_port is not None:
        if once or interval or as_json:
            raise ConfigError(
                "--metrics-port serves until Ctrl-C and prints no figures: "
                "leave --once, --interval and --json out"
            )
        _serve(metrics_port, metrics_host, cache_config(cache_dir))
        return
    console = output()
    # Not rich's idea of a terminal: FORCE_COLOR, which CI systems set, must not go on forever.
    on_terminal = sys.stdout.isatty()
    with attached(cache_config(cache_dir)) as session:
        if once or not (on_terminal or interval):
            _print(session, console, [], as_json=as_json)
            return
        with suppress(KeyboardInterrupt):
            if as_json or not on_terminal or console.is_dumb_terminal:
                _lines(session, console, interval or _INTERVAL_S, as_json=as_json)
            else:
                _watch(session, console, interval or _INTERVAL_S)


def _serve(port: int, host: str, config: CacheConfig) -> None:
    """Serve the figures of the host until Ctrl-C."""
    from dataplane.prometheus import serve_host_metrics  # its HTTP server is for this use only

    with suppress(KeyboardInterrupt), serve_host_metrics(port, config, host=host) as server:
        place = f"[{host}]" if ":" in host else host
        click.echo(
            f"serving the figures of {config.dir} at http://{place}:{server.port}/metrics; "
            "Ctrl-C ends it",
            err=True,
        )
        threading.Event().wait()


def _lines(session: Session, console: Console, interval_s: float, *, as_json: bool) -> None:
    """Print one look below the other."""
    before: list[ProcessFigures] = []
    while True:
        before = _print(session, console, before, as_json=as_json)
        sys.stdout.flush()  # the reader of the pipe needs it now
        time.sleep(interval_s)


def _print(
    session: Session, console: Console, before: list[ProcessFigures], *, as_json: bool
) -> list[ProcessFigures]:
    """Print one look; return the figures to compare the next one with."""
    now = read_published(session)
    if as_json:
        click.echo(json.dumps(_document(session, now), ensure_ascii=False))
    else:
        console.print(_view(session, now, before, console))
    return _kept(before, now)


def _watch(session: Session, console: Console, interval_s: float) -> None:
    """Draw each look in the place of the one before; the last one stays."""
    before: list[ProcessFigures] = []
    with Live(console=console, auto_refresh=False) as live:
        while True:
            now = read_published(session)
            live.update(_view(session, now, before, console), refresh=True)
            before = _kept(before, now)
            time.sleep(interval_s)


def _kept(before: list[ProcessFigures], now: list[ProcessFigures]) -> list[ProcessFigures]:
    """Keep the older figures of a process until there are newer ones to compare with."""
    older = {(process.pid, process.started_s): process for process in before}
    kept = []
    for process in now:
        old = older.get((process.pid, process.started_s))
        is_new = old is None or process.written_s - old.written_s >= _MIN_SPAN_S
        kept.append(process if is_new or old is None else old)
    return kept


def _document(session: Session, processes: list[ProcessFigures]) -> dict[str, Any]:
    disk_bytes, free_bytes = disk_room(session)
    return {
        "dir": str(session.directory.path),
        "time_s": round(time.time(), 3),
        "used_bytes": max(0, session.usage.used),
        "disk_bytes": disk_bytes,
        "disk_free_bytes": free_bytes,
        "processes": [
            {
                "pid": process.pid,
                "program": process.program,
                "started_s": process.started_s,
                "written_s": process.written_s,
                "size_bytes": process.size_bytes,
                "counters": dict(process.counters),
                "gauges": dict(process.gauges),
            }
            for process in processes
        ],
    }


def _view(
    session: Session,
    now: list[ProcessFigures],
    before: list[ProcessFigures],
    console: Console,
) -> Group:
    _, free_bytes = disk_room(session)
    used = max(0, session.usage.used)
    head = Text(
        f"{session.directory.path}: {format_bytes(used)} used, {format_bytes(free_bytes)} of the "
        f"disk free, {format_count(len(now))} {plural('process', len(now))}"
    )
    if not now:
        return Group(head)
    older = {(process.pid, process.started_s): process for process in before}
    rows = [_cells(process, older.get((process.pid, process.started_s))) for process in now]
    table = grid(*_NAMES, *(f">{name}" for name in (*_UPPER, *_LOWER) if name))
    for process, (upper, lower) in zip(now, rows, strict=True):
        table.add_row(str(process.pid), Text(printable(process.program)), *upper, *lower)
    if _is_within(console, table):
        return Group(head, table)
    headings = [f"{name}\n" for name in _NAMES]
    headings += [f">{a}\n{b}" for a, b in zip(_UPPER, _LOWER, strict=True)]
    folded = grid(*headings)
    for process, (upper, lower) in zip(now, rows, strict=True):
        figures = (f"{a}\n{b}" for a, b in zip_longest(upper, lower, fillvalue=""))
        folded.add_row(str(process.pid), Text(printable(process.program)), *figures)
    if _is_within(console, folded):
        return Group(head, folded)
    return Group(head, *(Text(line) for line in _narrow(console.width, now, rows)))


def _is_within(console: Console, table: Table) -> bool:
    """Whether a table is as wide as it would like to be."""
    unlimited = console.options.update(max_width=_ANY_WIDTH)
    return Measurement.get(console, unlimited, table).maximum <= console.width


def _narrow(
    width: int,
    processes: list[ProcessFigures],
    rows: list[tuple[tuple[str, ...], tuple[str, ...]]],
) -> Iterator[str]:
    """Yield a line for each process, and below it its figures with their names."""
    names = [name for name in (*_UPPER, *_LOWER) if name]
    for process, (upper, lower) in zip(processes, rows, strict=True):
        yield from piece_lines([f"pid {process.pid}", process.program], width)
        figures = zip(names, (*upper, *lower), strict=True)
        pieces = [f"{name} {figure}" for name, figure in figures if figure]
        yield from piece_lines(pieces, width, indent=2)


def _cells(
    process: ProcessFigures, before: ProcessFigures | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Write the figures of `_UPPER` and `_LOWER` of one process.

    Rates are those since the look before, or since its start; counts are since then.
    """
    counters = process.counters
    since_s = process.started_s if before is None else before.written_s
    past: Mapping[str, float] = {} if before is None else before.counters
    span_s = max(_MIN_SPAN_S, process.written_s - since_s)

    def grown(*names: str) -> float:
        return sum(counters.get(name, 0) - past.get(name, 0) for name in names)

    read = grown("cache_hit_bytes", "cache_miss_bytes", "cache_passthrough_bytes")
    fetched = grown("cache_fetch_bytes", "cache_passthrough_bytes")
    errors = sum(
        value
        for name, value in counters.items()
        if name.startswith("store_errors_") or name == "cache_fetch_errors"
    )
    gauges = process.gauges
    upper = (
        format_rate(read / span_s),
        format_rate(fetched / span_s),
        # Bytes fetched ahead of their reader did not come from the cache's disk.
        f"{max(0.0, 1 - fetched / read):.0%}" if read else "",
        f"{grown('cache_wait_s') / span_s:.2f} s/s",
        format_bytes(gauges.get("cache_plan_bytes", 0)),
    )
    lower = (
        format_count(int(errors)),
        format_bytes(counters.get("cache_evicted_bytes", 0)),
        format_count(int(counters.get("cache_blocks_corrupt", 0))),
        format_count(int(gauges.get("cache_jobs", 0))),
    )
    return upper, lower
