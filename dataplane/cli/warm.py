"""`dataplane warm`: bring objects into the cache ahead of their readers, or report missing ones."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from dataplane.cache import Cache
from dataplane.cache.warm import Need, WarmState, look
from dataplane.cache.warm import warm as warm_cache
from dataplane.cli.cache_directory import JSON_OPTION, attached
from dataplane.cli.options import (
    cache_config,
    cache_options,
    encrypt_option,
    store_config,
    store_options,
)
from dataplane.cli.text import plural, printable
from dataplane.cli.warm_ranges import wanted
from dataplane.errors import ConfigError
from dataplane.units import format_bytes, format_count, format_duration, format_rate

__all__ = ["warm"]

_INCOMPLETE = 1
_SHOWN_MISSING = 20

_EPILOG = """
\b
Examples:
  dataplane warm s3://bucket/cars                       all of a dataset
  dataplane warm s3://bucket/cars --prefix shard-00000  some of its keys
  dataplane warm s3://bucket/runs/fields.h5             one object
  dataplane warm s3://bucket/cars --plan reads.txt      the reads of a plan
  dataplane warm s3://bucket/cars --check || echo cold

\b
A plan has one read per line, a key below URL and a range of bytes; without a
range all of the object. Either kind of line may be used; # begins a comment.
  shard-000000.tar 0 4194304
  {"key": "shard 1.tar", "start": 4096, "stop": 8192}
"""


@click.command(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("url")
@click.option(
    "--prefix", "prefixes", multiple=True, metavar="TEXT", help="Only keys below URL that begin so."
)
@click.option(
    "--plan",
    type=click.File("r", encoding="utf-8"),
    help="Only the reads of this file, in its order; - is standard input.",
)
@click.option(
    "--check",
    is_flag=True,
    help="Fetch and make nothing; say what is missing, and return 1 if any is.",
)
@cache_options
@encrypt_option
@store_options
@JSON_OPTION
def warm(
    url: str,
    *,
    prefixes: tuple[str, ...],
    plan: IO[str] | None,
    check: bool,
    cache_dir: Path | None,
    cache_size: int | None,
    endpoint_url: str | None,
    region: str | None,
    anonymous: bool | None,
    as_json: bool,
) -> None:
    """Bring what is at URL into the cache, ahead of its readers.

    URL is a packed dataset, one object, or a bucket or folder, of which everything is taken. What
    is there already is not fetched again. Ctrl-C keeps what has come; the same command goes on from
    there. What was warmed can still be evicted: `dataplane cache pin` keeps it.
    """
    if plan is not None and prefixes:
        raise ConfigError("--plan and --prefix exclude each other", hint="a plan names its keys")
    config = cache_config(cache_dir, cache_size)
    settings = store_config(endpoint_url, region, anonymous=anonymous)
    began = time.monotonic()
    # Attached for a clear error: a Cache would only warn, and read past the directory.
    is_absent = check and not os.path.lexists(config.dir)
    with (
        nullcontext() if is_absent else attached(config, create=True),
        wanted(url, settings, prefixes, plan) as (store, ranges),
        Cache(config) as cache,
    ):
        needs = [Need(cache.open(store, it.info), it.start, it.stop) for it in ranges]
        if check:
            state = look(cache, needs)
        else:
            with _shown_progress() as show:
                state = warm_cache(cache, needs, show)
    _report(url, state, time.monotonic() - began, check=check, as_json=as_json)
    if state.missing:
        sys.exit(_INCOMPLETE)


@contextmanager
def _shown_progress() -> Iterator[Callable[[WarmState], None]]:
    console = Console(stderr=True, highlight=False)
    bar = Progress(
        TextColumn("warming"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = bar.add_task("warm", total=None)

    def show(state: WarmState) -> None:
        bar.update(task, total=state.missing_bytes, completed=state.fetched_bytes)

    with bar:
        yield show


def _report(url: str, state: WarmState, duration_s: float, *, check: bool, as_json: bool) -> None:
    missing = _missing_by_key(state)
    if as_json:
        document = {
            "url": url,
            "objects": state.objects,
            "needed_bytes": state.needed_bytes,
            "fetched_bytes": state.fetched_bytes,
            "missing_bytes": state.missing_bytes,
            "missing": [{"key": key, "bytes": count} for key, count in missing.items()],
            "duration_s": round(duration_s, 3),
        }
        click.echo(json.dumps(document, indent=1, ensure_ascii=False))
        return
    needed = (
        f"{format_bytes(state.needed_bytes)} of {format_count(state.objects)} "
        f"{plural('object', state.objects)}"
    )
    if not check and not missing and not state.fetched_bytes:
        click.echo(f"{needed}: all was in the cache, nothing fetched")
        return
    if not check:
        rate = format_rate(state.fetched_bytes / duration_s) if duration_s else ""
        click.echo(
            f"{needed}: {format_bytes(state.fetched_bytes)} fetched in "
            f"{format_duration(duration_s)} ({rate})"
        )
    if not missing:
        click.echo(f"{needed}: all in the cache" if check else "all in the cache")
        return
    click.echo(f"{format_bytes(state.missing_bytes)} of {needed} are missing:")
    for key, count in list(missing.items())[:_SHOWN_MISSING]:
        click.echo(f"  {format_bytes(count):>9}  {printable(key)}")
    if len(missing) > _SHOWN_MISSING:
        click.echo(f"  and {format_count(len(missing) - _SHOWN_MISSING)} more objects")


def _missing_by_key(state: WarmState) -> dict[str, int]:
    count: Counter[str] = Counter()
    for missing in state.missing:
        count[missing.source.info.key] += missing.stop - missing.start
    return dict(count)
