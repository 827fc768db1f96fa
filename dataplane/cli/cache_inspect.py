"""`dataplane cache info`, `ls`, `pin` and `unpin`: inspect the cache, and pin objects in it."""

from __future__ import annotations

import json
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from dataplane.cache import CacheConfig
from dataplane.cache.admin import EntryRow, Pin, Scope, Session, Totals, add_up, disk_room, walk
from dataplane.cli.cache_directory import (
    DIR_OPTION,
    JSON_OPTION,
    attached,
    refreshed,
    say_nothing_there,
    scope_in,
    scope_of,
    totals_of,
)
from dataplane.cli.options import cache_config, cache_options, store_config, store_options
from dataplane.cli.text import (
    Column,
    ago,
    fits,
    output,
    piece_lines,
    plural,
    print_fitted,
    print_pieces,
    printable,
)
from dataplane.errors import ConfigError
from dataplane.units import format_bytes, format_count

__all__ = ["info", "ls", "pin", "unpin"]

_SORTS = {
    "used": lambda row: -row.used_tick,
    "size": lambda row: -row.resident_bytes,
    "key": lambda row: (row.identity.store, row.identity.key),
}


@click.command()
@cache_options
@JSON_OPTION
def info(cache_dir: Path | None, cache_size: int | None, *, as_json: bool) -> None:
    """Say how full the cache is, and of what."""
    config = cache_config(cache_dir, cache_size)
    with attached(config) as session:
        totals = totals_of(session)
        document = _info_document(session, config, totals)
    if as_json:
        click.echo(json.dumps(document, indent=1, ensure_ascii=False))
    else:
        _print_info(document)


@click.command("ls")
@click.argument("url", required=False)
@click.option(
    "--sort",
    type=click.Choice(sorted(_SORTS)),
    default="used",
    show_default=True,
    help="Latest use first, most bytes first, or by name.",
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Show the first N only.")
@DIR_OPTION
@store_options
@JSON_OPTION
def ls(
    url: str | None,
    *,
    sort: str,
    limit: int | None,
    cache_dir: Path | None,
    endpoint_url: str | None,
    region: str | None,
    anonymous: bool | None,
    as_json: bool,
) -> None:
    """List the objects in the cache, or those at and below URL.

    Each version of an object is a row: what is here, the object's length, its last use, whether it
    is pinned by you (pin) or held open by a mount (held), and its name.
    """
    store = store_config(endpoint_url, region, anonymous=anonymous)
    config = cache_config(cache_dir)
    with attached(config) as session:
        scope = scope_in(session, url, store) if url else None
        rows, total = _rows(session, scope, sort, limit)
        shown = [_entry_document(session, row) for row in rows]
    if as_json:
        click.echo(json.dumps({"entries": shown, "total": total}, indent=1, ensure_ascii=False))
    elif shown:
        _print_rows(shown, total)
    if not shown:
        say_nothing_there(config, url)


@click.command()
@click.argument("url")
@click.option(
    "--prefix", metavar="TEXT", help="Pin keys below URL that begin so, also within a name."
)
@DIR_OPTION
@store_options
@JSON_OPTION
def pin(
    url: str,
    *,
    prefix: str | None,
    cache_dir: Path | None,
    endpoint_url: str | None,
    region: str | None,
    anonymous: bool | None,
    as_json: bool,
) -> None:
    """Keep URL, and all below it, from being evicted.

    A pin stays until `dataplane cache unpin`. It covers what is in the cache and what will be, also
    new versions of an object; it downloads nothing (`dataplane warm` does). Pinned bytes count
    towards the budget: when all of it is pinned, nothing else is kept.
    """
    scope = scope_of(url, store_config(endpoint_url, region, anonymous=anonymous), prefix)
    with attached(cache_config(cache_dir), create=True) as session:
        added = session.pins.add(scope, _full_url(url, prefix))
        covered = add_up(_rows(session, scope, "key", None)[0])
    what = "pinned" if added else "was pinned already"
    _report_pin(what, Pin(scope, _full_url(url, prefix), 0), covered, as_json=as_json)


@click.command()
@click.argument("url", required=False)
@click.option("--prefix", metavar="TEXT", help="The prefix that the pin was made with.")
@click.option("--all", "everything", is_flag=True, help="Take back every pin.")
@DIR_OPTION
@store_options
@JSON_OPTION
def unpin(
    url: str | None,
    *,
    prefix: str | None,
    everything: bool,
    cache_dir: Path | None,
    endpoint_url: str | None,
    region: str | None,
    anonymous: bool | None,
    as_json: bool,
) -> None:
    """Take back a pin, so that URL may be evicted again."""
    if everything == (url is not None):
        raise ConfigError("name a URL, or --all", hint="see the pins with: dataplane cache info")
    store = store_config(endpoint_url, region, anonymous=anonymous)
    with attached(cache_config(cache_dir)) as session:
        pins = session.pins.load()
        if url is None:
            for old in pins:
                session.pins.remove(old.scope)
            click.echo(
                json.dumps({"unpinned": len(pins)})
                if as_json
                else f"{len(pins)} {plural('pin', len(pins))} taken back"
            )
            return
        scope = scope_in(session, url, store, prefix)
        if not session.pins.remove(scope):
            name = _named(Pin(scope, _full_url(url, prefix), 0))
            raise ConfigError(f"{name} is not pinned", hint=_known_pins(pins))
        covered = add_up(_rows(session, scope, "key", None)[0])
    _report_pin("unpinned", Pin(scope, _full_url(url, prefix), 0), covered, as_json=as_json)


def _rows(
    session: Session, scope: Scope | None, sort: str, limit: int | None
) -> tuple[list[EntryRow], int]:
    catalog = refreshed(session)
    if catalog is not None:
        with suppress(sqlite3.Error, OSError):
            return catalog.rows(scope, sort=sort, limit=limit)
    rows = sorted(walk(session, scope), key=_SORTS[sort])
    return rows[:limit], len(rows)


def _full_url(url: str, prefix: str | None) -> str:
    return url if prefix is None else f"{url.rstrip('/')}/{prefix}"


def _url_of(pin: Pin) -> str:
    """Return the URL of a pin, whole; earlier releases kept an ellipsis behind a prefix."""
    is_marked = pin.scope.is_prefix and not pin.scope.key.endswith("…")
    return pin.url.removesuffix("…") if is_marked else pin.url


def _named(pin: Pin) -> str:
    return _url_of(pin) + ("…" if pin.scope.is_prefix else "")


def _known_pins(pins: tuple[Pin, ...]) -> str:
    if not pins:
        return "there are no pins"
    names = ", ".join(map(_named, pins[:5]))
    return f"pinned are {names}" + (f" and {len(pins) - 5} more" if len(pins) > 5 else "")


def _report_pin(what: str, pin: Pin, covered: Totals, *, as_json: bool) -> None:
    if as_json:
        document = {
            "state": what,
            "url": _url_of(pin),
            "store": pin.scope.store,
            "key": pin.scope.key,
            "is_prefix": pin.scope.is_prefix,
            "entries": covered.entries,
            "resident_bytes": covered.resident_bytes,
        }
        click.echo(json.dumps(document, ensure_ascii=False))
        return
    click.echo(
        f"{_named(pin)}: {what}; {format_count(covered.entries)} "
        f"{plural('object', covered.entries)} of it in the cache, "
        f"{format_bytes(covered.resident_bytes)}"
    )


def _info_document(session: Session, config: CacheConfig, totals: Totals) -> dict[str, Any]:
    disk_bytes, free_bytes = disk_room(session)
    return {
        "dir": str(config.dir),
        "used_bytes": max(0, session.usage.used),
        "is_counted": not session.usage.uncounted,
        "budget_bytes": config.size_bytes,
        "disk_bytes": disk_bytes,
        "disk_free_bytes": free_bytes,
        "entries": totals.entries,
        "complete_entries": totals.complete,
        "object_bytes": totals.object_bytes,
        "resident_bytes": totals.resident_bytes,
        "last_used_s": totals.used_tick / 1e9 if totals.used_tick else None,
        "least_recently_used_s": totals.oldest_tick / 1e9 if totals.oldest_tick else None,
        "epoch": session.usage.epoch,
        "stores": [
            {
                "store": name,
                "entries": store.entries,
                "complete_entries": store.complete,
                "object_bytes": store.object_bytes,
                "resident_bytes": store.resident_bytes,
            }
            for name, store in sorted(totals.stores.items())
        ],
        "pins": [
            {
                "url": _url_of(pin),
                "store": pin.scope.store,
                "key": pin.scope.key,
                "is_prefix": pin.scope.is_prefix,
                "pinned_s": pin.pinned_s,
            }
            for pin in session.pins.load()
        ],
    }


def _print_info(document: dict[str, Any]) -> None:
    budget = document["budget_bytes"]
    room = (
        f"budget {format_bytes(budget)}, {document['used_bytes'] / budget:.0%} full"
        if budget
        else "budget: all but a tenth of the disk"
    )
    doubt = "" if document["is_counted"] else "; to be counted again after an unclean stop"
    lines = (
        ("directory", document["dir"]),
        ("used", f"{format_bytes(document['used_bytes'])} ({room})" + doubt),
        (
            "disk",
            f"{format_bytes(document['disk_free_bytes'])} of "
            f"{format_bytes(document['disk_bytes'])} free",
        ),
        (
            "objects",
            f"{format_count(document['entries'])}, {format_count(document['complete_entries'])} of "
            f"them whole; {format_bytes(document['resident_bytes'])} of "
            f"{format_bytes(document['object_bytes'])} cached",
        ),
        ("last used", ago(document["last_used_s"])),
        ("first to go", f"last used {ago(document['least_recently_used_s'])}"),
    )
    console = output()
    indent = 2 + max(len(name) for name, _ in lines)
    for name, value in lines:
        width = console.width if console.is_terminal else None
        first, *others = piece_lines([value], width, indent=indent)
        for line in (name + first[len(name) :], *others):
            console.print(Text(line), soft_wrap=True)
    stores = document["stores"]
    if stores:
        columns = [
            Column("store", [row["store"] for row in stores], is_text=True),
            Column("objects", [format_count(row["entries"]) for row in stores]),
            Column("whole", [format_count(row["complete_entries"]) for row in stores]),
            Column("cached", [format_bytes(row["resident_bytes"]) for row in stores]),
            Column("of", [format_bytes(row["object_bytes"]) for row in stores]),
        ]
        console.print()
        print_fitted(console, columns)
    for row in document["pins"]:
        more = "…" if row["is_prefix"] else ""
        console.print(
            Text(f"pinned {ago(row['pinned_s'])}: {printable(row['url'])}{more}"), soft_wrap=True
        )


def _entry_document(session: Session, row: EntryRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "store": row.identity.store,
        "key": row.identity.key,
        "etag": row.identity.etag,
        "cut": row.identity.cut,
        "size_bytes": row.size_bytes,
        "block_bytes": row.block_bytes,
        "resident_bytes": row.resident_bytes,
        "last_used_s": row.used_s,
        "pinned": session.protection.is_pinned(row.name, session.files),
        "held": session.live.is_held(row.name),
    }


def _print_rows(rows: list[dict[str, Any]], total: int) -> None:
    """Print a line per object, or where that would not fit, its name and the figures below it."""
    console = output()
    names = [f"{row['store']}/{row['key']}" + ("…" if row["cut"] else "") for row in rows]
    marks = [
        " ".join(name for name, mark in (("pin", "pinned"), ("held", "held")) if row[mark])
        for row in rows
    ]
    columns = [
        Column("cached", [format_bytes(row["resident_bytes"]) for row in rows]),
        Column("of", [format_bytes(row["size_bytes"]) for row in rows]),
        Column("share", [_share(row) for row in rows]),
        Column("last used", [ago(row["last_used_s"]) for row in rows], is_text=True),
        Column("kept", marks, is_text=True),
        Column("object", names, is_text=True),
    ]
    if fits(console, columns) or not console.is_terminal:
        print_fitted(console, columns)
    else:
        for cached, size, share, used, kept, name in zip(
            *(it.cells for it in columns), strict=True
        ):
            console.print(Text(printable(name)), soft_wrap=True)
            print_pieces(console, [f"{cached} of {size}", share, f"used {used}", kept], indent=4)
    if len(rows) < total:
        console.print(f"{format_count(len(rows))} of {format_count(total)} shown")


def _share(row: dict[str, Any]) -> str:
    return f"{row['resident_bytes'] / row['size_bytes']:.0%}" if row["size_bytes"] else ""
