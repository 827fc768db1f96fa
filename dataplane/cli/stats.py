"""`dataplane stats`: what the processes that use the cache are doing, live."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from dataplane.cache.inventory import disk_room
from dataplane.cache.publish import ProcessFigures, read_published
from dataplane.cache.session import Session
from dataplane.cli.cache_directory import DIR_OPTION, attached
from dataplane.cli.options import cache_config
from dataplane.cli.text import grid, output, plural, printable
from dataplane.units import format_bytes, format_count, format_rate

__all__ = ["stats"]

_WIDE = 110
_HEADINGS = (">pid", "program", ">read", ">from store", ">cached", ">waiting", ">corrupt")
_WIDE_HEADINGS = (">errors", ">evicted", ">jobs", ">ahead")
_MIN_SPAN_S = 0.5  # figures are published once a second; rates over less are noise


@click.command()
@click.option("--once", is_flag=True, help="Print once and end; rates are those since the start.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.2, max=3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to look.",
)
@DIR_OPTION
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print JSON with every counter and gauge; without --once, a line per look.",
)
def stats(*, once: bool, interval: float, cache_dir: Path | None, as_json: bool) -> None:
    """Watch the loaders, mounts and other processes that use the cache.

    Shown for each: how much it reads, how much of that comes from the store and not from the cache,
    the time its readers wait, evictions and corrupt blocks, what is being downloaded, and what a
    plan has ahead of its reader. The counters are explained in docs/metrics.md. Ctrl-C ends it.
    """
    with attached(cache_config(cache_dir)) as session:
        if as_json or once:
            _print(session, once=once, interval_s=interval, as_json=as_json)
        else:
            _watch(session, interval)


def _print(session: Session, *, once: bool, interval_s: float, as_json: bool) -> None:
    before: list[ProcessFigures] = []
    while True:
        now = read_published(session)
        if as_json:
            click.echo(json.dumps(_document(session, now), ensure_ascii=False))
        else:
            console = output()
            console.print(_view(session, now, before, is_wide=console.width >= _WIDE))
        if once:
            return
        before = now
        time.sleep(interval_s)


def _watch(session: Session, interval_s: float) -> None:
    console = Console(highlight=False)
    before: list[ProcessFigures] = []
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            now = read_published(session)
            is_wide = console.width >= _WIDE
            live.update(_view(session, now, before, is_wide=is_wide), refresh=True)
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
    *,
    is_wide: bool,
) -> Group:
    _, free_bytes = disk_room(session)
    used = max(0, session.usage.used)
    head = Text(
        f"{session.directory.path}: {format_bytes(used)} used, {format_bytes(free_bytes)} of the "
        f"disk free, {format_count(len(now))} {plural('process', len(now))}"
    )
    headings = [*_HEADINGS, *(_WIDE_HEADINGS if is_wide else ())]
    table = grid(*headings)
    older = {(process.pid, process.started_s): process for process in before}
    for process in now:
        cells = _cells(process, older.get((process.pid, process.started_s)))
        table.add_row(*cells[: len(headings)])
    return Group(head, table) if now else Group(head)


def _cells(process: ProcessFigures, before: ProcessFigures | None) -> list[Text | str]:
    """Write one process: rates since the look before, or since its start; counts since then."""
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
    return [
        str(process.pid),
        Text(printable(process.program)),
        format_rate(read / span_s),
        format_rate(fetched / span_s),
        # What was fetched ahead of its reader did not come from the cache's disk.
        f"{max(0.0, 1 - fetched / read):.0%}" if read else "",
        f"{grown('cache_wait_s') / span_s:.2f} s/s",
        format_count(int(counters.get("cache_blocks_corrupt", 0))),
        format_count(int(errors)),
        format_bytes(counters.get("cache_evicted_bytes", 0)),
        format_count(int(gauges.get("cache_jobs", 0))),
        format_bytes(gauges.get("cache_plan_bytes", 0)),
    ]
