"""`dataplane cache verify`, `gc` and `clear`: maintain the cache: check it, and make it smaller."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from dataplane.cache.admin import Cleared, VerifyReport, collect, remove_other_version
from dataplane.cache.admin import clear as clear_cache
from dataplane.cache.admin import verify as verify_blocks
from dataplane.cli.cache_directory import (
    DIR_OPTION,
    JSON_OPTION,
    attached,
    say_nothing_there,
    scope_in,
)
from dataplane.cli.options import cache_config, cache_options, store_config, store_options
from dataplane.cli.text import plural, printable
from dataplane.errors import CacheError, ConfigError, Corrupt
from dataplane.units import (
    format_bytes,
    format_count,
    format_duration,
    format_rate,
    parse_duration,
)

__all__ = ["clear", "gc", "verify"]

_SHOWN_BAD = 20
_MAX_THREADS = 64


@click.command()
@click.argument("url", required=False)
@click.option(
    "--threads",
    type=click.IntRange(1, _MAX_THREADS),
    help="Blocks checked at once; by default one per CPU, 8 at most.",
)
@DIR_OPTION
@store_options
@JSON_OPTION
def verify(
    url: str | None,
    *,
    threads: int | None,
    cache_dir: Path | None,
    endpoint_url: str | None,
    region: str | None,
    anonymous: bool | None,
    as_json: bool,
) -> None:
    """Check cached blocks against their checksums.

    All of them, or those at and below URL. Blocks are read from the disk, not from memory. A bad
    one is dropped, so that its next reader downloads it again, and the command returns 5. Others
    may use the cache meanwhile; readers check blocks themselves at their first use after a boot, so
    this is for disks in doubt.
    """
    store = store_config(endpoint_url, region, anonymous=anonymous)
    config = cache_config(cache_dir)
    with (
        attached(config) as session,
        _shown_progress(None if url else session.usage.used) as show,
    ):
        scope = scope_in(session, url, store) if url else None
        began = time.monotonic()
        report = verify_blocks(
            session,
            scope=scope,
            threads=threads or min(8, len(os.sched_getaffinity(0))),
            progress=show,
        )
        duration_s = time.monotonic() - began
    is_absent = url is not None and not (report.entries or report.damaged_entries)
    if as_json or not is_absent:
        _print_verified(report, duration_s, as_json=as_json)
    if is_absent:
        say_nothing_there(config, url)
    bad = report.corrupt_blocks + report.unreadable_blocks
    if bad or report.damaged_entries:
        raise Corrupt(
            f"{bad} of {report.blocks} blocks and {report.damaged_entries} entries were bad",
            hint="they are dropped and will be downloaded again; if this repeats, look at the disk",
        )


@click.command()
@cache_options
@click.option(
    "--max-age",
    metavar="TIME",
    help="Also empty blocks that were not used for so long: 12h, 7d, 2w.",
)
@JSON_OPTION
def gc(
    cache_dir: Path | None, cache_size: int | None, *, max_age: str | None, as_json: bool
) -> None:
    """Bring the cache within its budget now.

    Loaders and mounts do this by themselves when they need room. Least recently used blocks go
    first. What is pinned, or open in a mount, stays; when the cache cannot come within its budget
    for that, the command returns 5.
    """
    config = cache_config(cache_dir, cache_size)
    max_age_s = parse_duration(max_age) if max_age is not None else None
    with attached(config) as session:
        done = collect(session, size_bytes=config.size_bytes, max_age_s=max_age_s)
        used = max(0, session.usage.used)
    _print_cleared(done, used, as_json=as_json)
    if not as_json:
        for it in _kept(done):
            click.echo(f"left {format_count(it.count)} {plural('object', it.count)}: {it.why}")
    if done.over_bytes:
        limit = (
            "a tenth of the disk is to stay free"
            if config.size_bytes is None
            else f"the budget is {format_bytes(config.size_bytes)}"
        )
        raise CacheError(
            f"{format_bytes(used)} are still used, {format_bytes(done.over_bytes)} too many: "
            f"{limit}",
            hint="the rest is pinned, held or being read; see: dataplane cache ls",
        )


@click.command()
@click.argument("url", required=False)
@click.option("--force", is_flag=True, help="Also empty what other processes have open.")
@click.option("--pinned", is_flag=True, help="Also empty what is pinned; the pins stay.")
@click.option(
    "--other-version",
    is_flag=True,
    help="Remove a cache that another release of dataplane wrote, pins too.",
)
@DIR_OPTION
@store_options
@JSON_OPTION
def clear(
    url: str | None,
    *,
    force: bool,
    pinned: bool,
    other_version: bool,
    cache_dir: Path | None,
    endpoint_url: str | None,
    region: str | None,
    anonymous: bool | None,
    as_json: bool,
) -> None:
    """Empty the cache, or what it holds of URL and all below it.

    When anything stays, the command says why and returns 5. What is pinned stays unless --pinned is
    given, and what another process has open unless --force is; that is safe, its readers download
    again. What is open in a mount stays in any case.

    A cache that another release wrote is left alone unless --other-version is given, which removes
    it as a whole and does nothing to a cache of this release.
    """
    store = store_config(endpoint_url, region, anonymous=anonymous)
    config = cache_config(cache_dir)
    if other_version:
        if url or pinned:
            raise ConfigError("--other-version removes all of a cache: leave URL and --pinned out")
        _clear_other_version(config.dir, force=force, as_json=as_json)
        return
    with attached(config) as session:
        scope = scope_in(session, url, store) if url else None
        done = clear_cache(session, scope=scope, pinned=pinned, in_use=force)
        used = max(0, session.usage.used)
    kept = done.kept_pinned + done.kept_held + done.kept_in_use
    is_absent = url is not None and not (done.entries or done.blocks or kept)
    if as_json or not is_absent:
        _print_cleared(done, used, as_json=as_json)
    if is_absent:
        say_nothing_there(config, url)
    if kept:
        raise CacheError(
            f"{format_count(kept)} {plural('object', kept)} of {format_bytes(done.kept_bytes)} "
            "stayed in the cache: " + ", ".join(f"{it.count} {it.why}" for it in _kept(done)),
            hint="; ".join(it.remedy for it in _kept(done)),
        )


def _clear_other_version(path: Path, *, force: bool, as_json: bool) -> None:
    try:
        done = remove_other_version(path, in_use=force)
    except OSError as err:
        raise CacheError(f"cannot remove the cache {path}: {err}") from err
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(done), indent=1))
    elif done.version is None:
        click.echo(f"dataplane: no cache of another version is at {path}", err=True)
    else:
        click.echo(
            f"freed {format_bytes(done.freed_bytes)}: {format_count(done.files)} "
            f"{plural('file', done.files)} of a cache of version {done.version} removed"
        )
    if done.kept:
        raise CacheError(
            f"{len(done.kept)} {plural('name', len(done.kept))} in {path} stayed, which this "
            f"release does not know or may not remove: {printable(', '.join(done.kept[:3]))}",
            hint="look at what they are, and remove them by hand",
        )


@dataclasses.dataclass(frozen=True, slots=True)
class _Kept:
    """Objects that stayed for one reason: their number, and the way to release them."""

    count: int
    why: str
    remedy: str


def _kept(done: Cleared) -> list[_Kept]:
    reasons = (
        _Kept(done.kept_pinned, "pinned", "--pinned empties what is pinned"),
        _Kept(done.kept_held, "open in a mount", "what a mount has open goes after its umount"),
        _Kept(done.kept_in_use, "in use by other processes", "--force empties what others use"),
    )
    return [it for it in reasons if it.count]


@contextmanager
def _shown_progress(total: int | None) -> Iterator[Callable[[VerifyReport], None]]:
    console = Console(stderr=True, highlight=False)
    bar = Progress(
        TextColumn("checked{task.fields[bad]}"),  # an empty column of its own would cost a cell
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = bar.add_task("verify", total=total, bad="")

    def show(report: VerifyReport) -> None:
        bad = report.corrupt_blocks + report.unreadable_blocks
        bar.update(task, completed=report.checked_bytes, bad=f" [red]{bad} bad" if bad else "")

    with bar:
        yield show


def _print_verified(report: VerifyReport, duration_s: float, *, as_json: bool) -> None:
    if as_json:
        document: dict[str, Any] = dataclasses.asdict(report)
        document["duration_s"] = round(duration_s, 3)
        click.echo(json.dumps(document, indent=1, ensure_ascii=False))
        return
    rate = format_rate(report.checked_bytes / duration_s) if duration_s else ""
    click.echo(
        f"checked {format_count(report.blocks)} {plural('block', report.blocks)} of "
        f"{format_count(report.entries)} {plural('object', report.entries)}: "
        f"{format_bytes(report.checked_bytes)} in {format_duration(duration_s)} ({rate})"
    )
    for bad in report.bad[:_SHOWN_BAD]:
        click.echo(
            f"  dropped bytes {bad.start} to {bad.stop} of "
            f"{printable(f'{bad.store}/{bad.key}')}: {bad.reason}"
        )


def _print_cleared(done: Cleared, used_bytes: int, *, as_json: bool) -> None:
    if as_json:
        document = dataclasses.asdict(done) | {"used_bytes": used_bytes}
        click.echo(json.dumps(document, indent=1))
        return
    click.echo(
        f"freed {format_bytes(done.freed_bytes)}: {format_count(done.blocks)} "
        f"{plural('block', done.blocks)}, {format_count(done.entries)} "
        f"{plural('object', done.entries)} removed; {format_bytes(used_bytes)} in use"
    )
