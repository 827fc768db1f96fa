"""Catalog of the entries in SQLite, derived: 100,000 of them are listed without opening each.

    DIR/catalog.sqlite    one row per entry, as it was when it was last looked at

`refresh` brings it up to date: it lists the entries with their files' times and sizes, looks into
those that are new or have changed, and drops the rows of those that are gone. Filling and evicting
change the data file. A use changes only the mapped map file, whose time moves with the first store
after the page was written back; so a map that was written to within a minute before it was looked
at is looked into again. (On tmpfs, which has no such times, a last use may be an old one.)

Nothing is decided by it but the order of eviction, for which its access times are lower bounds
(`lru`), and what a person is shown. Whatever is wrong with it (missing, damaged, locked, of another
version, a link in its place) it is made anew or done without. `maintenance.background` refreshes it
in processes that use the cache.

A connection lives for one call, so none crosses a fork. Thread-safe.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dataplane.cache.disk import locks
from dataplane.cache.disk.directory import Directory
from dataplane.cache.disk.entry_files import map_name
from dataplane.cache.disk.entry_identity import EntryIdentity, Scope, map_disk_bytes, page_rounded
from dataplane.cache.disk.session import Session
from dataplane.cache.disk.throttle import Throttle
from dataplane.cache.eviction.inventory import EntryRow, StoreSum, Totals, describe

__all__ = ["Catalog", "Refreshed"]

_FILE = "catalog.sqlite"
_FILES = (_FILE, f"{_FILE}-wal", f"{_FILE}-shm", f"{_FILE}-journal")
_VERSION = 1
_TIMEOUT_S = 2.0  # for another process's transaction; a batch takes milliseconds
_BATCH = 500
_WRITEBACK_NS = 60 * 10**9  # Linux writes a dirty page back after 30 to 35 s
_SCHEMA = """
CREATE TABLE IF NOT EXISTS entry (
  name TEXT PRIMARY KEY, store BLOB, key BLOB, etag BLOB, cut INTEGER,
  size_bytes INTEGER, block_bytes INTEGER, resident_bytes INTEGER,
  oldest_tick INTEGER, used_tick INTEGER, stamp TEXT, seen_ns INTEGER
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS state (listed_ns INTEGER);
"""
_ROW = (
    "name, store, key, etag, cut, size_bytes, block_bytes, resident_bytes, oldest_tick, used_tick"
)
_INSERT = "INSERT OR REPLACE INTO entry VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_MAX_INTEGER = (1 << 63) - 1
_SORTS = {"used": "used_tick DESC", "size": "resident_bytes DESC", "key": "store, key"}


@dataclass(slots=True)
class Refreshed:
    """Result of a refresh.

    Attributes:
        entries: number of entries.
        looked_into: number of those that were opened.
        removed: number of rows of entries that are gone.
        disk_bytes: space that blocks and maps of all entries take.
    """

    entries: int = 0
    looked_into: int = 0
    removed: int = 0
    disk_bytes: int = 0


class Catalog:
    """The catalog of one cache directory."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def refresh(
        self, session: Session, *, stopped: threading.Event | None = None, share: float = 1.0
    ) -> Refreshed:
        """Bring the catalog up to date, making it when it is missing or of no use.

        Args:
            session: session in the directory.
            stopped: event that ends the work early; what was done stays.
            share: share of a core to use.

        Raises:
            sqlite3.Error: it cannot be written.
            OSError: the directory cannot be read.
        """
        try:
            return self._refresh(session, stopped, share)
        except sqlite3.OperationalError as err:
            if err.sqlite_errorcode in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise
        except sqlite3.DatabaseError:
            pass
        self.remove()
        return self._refresh(session, stopped, share)

    def remove(self) -> None:
        """Throw the catalog away; it is made again."""
        for file in _FILES:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file, dir_fd=self._directory.fd)

    def listed_ns(self) -> int | None:
        """Time of the last whole listing of the entries, ns since the epoch; None: never."""
        try:
            with self._open(create=False) as database:
                found = database.execute("SELECT max(listed_ns) FROM state").fetchone()
        except (sqlite3.Error, OSError):
            return None
        return int(found[0]) if found and isinstance(found[0], int) else None

    def bounds(self) -> tuple[Mapping[str, int], int] | None:
        """Return lower bounds of the last access times by name, and one for all other entries.

        None when the catalog is of no use.
        """
        listed_ns = self.listed_ns()
        if listed_ns is None:
            return None
        try:
            with self._open(create=False) as database:
                found = database.execute("SELECT name, oldest_tick FROM entry").fetchall()
            return {str(name): int(tick) for name, tick in found}, listed_ns
        except (sqlite3.Error, OSError, ValueError, TypeError):
            return None

    def totals(self) -> Totals:
        """Add up the rows.

        Raises:
            sqlite3.Error: it cannot be read.
        """
        totals = Totals()
        sums = (
            "SELECT store, count(*), sum(resident_bytes = size_bytes), sum(size_bytes), "
            "sum(resident_bytes), min(nullif(oldest_tick, 0)), max(used_tick) "
            "FROM entry GROUP BY store"
        )
        with self._open(create=False) as database:
            for store, entries, complete, size, resident, oldest, used in database.execute(sums):
                totals.stores[_text(store)] = StoreSum(entries, complete, size, resident)
                totals.entries += entries
                totals.complete += complete
                totals.object_bytes += size
                totals.resident_bytes += resident
                totals.used_tick = max(totals.used_tick, used)
                if oldest:
                    totals.oldest_tick = min(totals.oldest_tick or oldest, oldest)
        return totals

    def rows(
        self, scope: Scope | None = None, *, sort: str = "used", limit: int | None = None
    ) -> tuple[list[EntryRow], int]:
        """Return the first rows, and how many there are.

        Args:
            scope: part of a store to restrict it to.
            sort: `used` (latest first), `size` (most bytes first) or `key`.
            limit: most rows to return.

        Raises:
            sqlite3.Error: it cannot be read.
        """
        query = f"SELECT {_ROW} FROM entry"  # noqa: S608 - constants
        values: tuple[object, ...] = ()
        if scope is not None:
            query += " WHERE store = ? OR cut"
            values = (_blob(scope.store),)
        found: list[EntryRow] = []
        total = 0
        with self._open(create=False) as database:
            for row in database.execute(f"{query} ORDER BY {_SORTS[sort]}", values):
                entry = _entry(row) if scope is not None or _has_room(found, limit) else None
                if scope is not None and entry is not None and not scope.covers(entry.identity):
                    continue
                total += 1
                if entry is not None and _has_room(found, limit):
                    found.append(entry)
        return found, total

    def _refresh(
        self, session: Session, stopped: threading.Event | None, share: float
    ) -> Refreshed:
        done = Refreshed()
        listed_ns = time.time_ns()
        with self._open(create=True) as database:
            known = {
                str(name): (str(stamp), int(seen), int(resident), int(size), int(block))
                for name, stamp, seen, resident, size, block in database.execute(
                    "SELECT name, stamp, seen_ns, resident_bytes, size_bytes, block_bytes "
                    "FROM entry"
                )
            }
            throttle = Throttle(stopped, share)
            batch: list[tuple[object, ...]] = []
            for name, stamp, changed_ns in _stamps(self._directory):
                if throttle.is_over():
                    break
                done.entries += 1
                old = known.pop(name, None)
                if old and old[0] == stamp and old[1] - changed_ns > _WRITEBACK_NS:
                    resident, size_bytes, block_bytes = old[2:]
                else:
                    row = _look(session, name)
                    if row is None:
                        continue
                    done.looked_into += 1
                    resident, size_bytes, block_bytes = (
                        row.resident_bytes, row.size_bytes, row.block_bytes
                    )  # fmt: skip
                    batch.append(_values(row, stamp))
                    if len(batch) >= _BATCH:
                        _write(database, batch)
                        throttle.rest()
                blocks = -(-size_bytes // block_bytes)
                done.disk_bytes += page_rounded(resident) + map_disk_bytes(blocks)
            _write(database, batch)
            if not throttle.is_over():
                with database:
                    gone = ((name,) for name in known)
                    database.executemany("DELETE FROM entry WHERE name = ?", gone)
                    database.execute("DELETE FROM state")
                    database.execute("INSERT INTO state VALUES (?)", (listed_ns,))
                done.removed = len(known)
        return done

    @contextlib.contextmanager
    def _open(self, *, create: bool) -> Iterator[sqlite3.Connection]:
        """Open the database.

        Raises:
            sqlite3.Error: it is not there (unless `create`), of another version, or damaged.
            OSError: something else is in its place.
        """
        self._check_files()
        if create:
            # Made by us: SQLite would follow a link, and make it readable for others.
            flags = os.O_RDWR | os.O_CREAT
            fd = locks.open_descriptor(_FILE, flags, dir_fd=self._directory.fd)
            locks.close_descriptor(fd)
        path = self._directory.path / _FILE
        uri = f"{path.absolute().as_uri()}?mode=rw"
        with contextlib.closing(
            sqlite3.connect(uri, uri=True, timeout=_TIMEOUT_S, isolation_level="IMMEDIATE")
        ) as database:
            database.execute("PRAGMA trusted_schema = OFF")
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if version != _VERSION:
                tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
                if not create or version or tables:
                    raise sqlite3.DatabaseError(f"version {version}, expected {_VERSION}")
                database.execute("PRAGMA journal_mode = WAL")
                database.executescript(
                    f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;"
                )
            # Derived: what a power cut takes from it is made again.
            database.execute("PRAGMA synchronous = OFF")
            yield database

    def _check_files(self) -> None:
        for file in _FILES:
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(file, dir_fd=self._directory.fd, follow_symlinks=False)
                if not stat.S_ISREG(status.st_mode):
                    raise OSError(f"{self._directory.path / file} is not a regular file")


def _stamps(directory: Directory) -> Iterator[tuple[str, str, int]]:
    """Yield name, what changes with the files, and when the map was last written to."""
    for shard, folder in directory.shards():
        with os.scandir(folder) as files:
            found = {file.name: file for file in files}
        for file, entry in found.items():
            name = map_name(file, shard)
            if name is None:
                continue
            try:
                data = found[f"{name}.data"].stat(follow_symlinks=False)
                mapped = entry.stat(follow_symlinks=False)
            except (KeyError, OSError):
                continue
            stamp = f"{mapped.st_ino} {mapped.st_mtime_ns} {data.st_mtime_ns} {data.st_blocks}"
            yield name, stamp, mapped.st_mtime_ns


def _look(session: Session, name: str) -> EntryRow | None:
    entry = session.files.inspect(name, 0)
    return describe(name, entry) if entry is not None else None


def _write(database: sqlite3.Connection, batch: list[tuple[object, ...]]) -> None:
    with database:
        database.executemany(_INSERT, batch)
    batch.clear()


def _values(row: EntryRow, stamp: str) -> tuple[object, ...]:
    identity = row.identity
    return (
        *(row.name, _blob(identity.store), _blob(identity.key), _blob(identity.etag)),
        *(identity.cut, row.size_bytes, row.block_bytes, row.resident_bytes),
        *(min(row.oldest_tick, _MAX_INTEGER), min(row.used_tick, _MAX_INTEGER)),
        *(stamp, time.time_ns()),
    )


def _entry(row: tuple[object, ...]) -> EntryRow:
    name, store, key, etag, cut, size, block, resident, oldest, used = row
    identity = EntryIdentity(_text(store), _text(key), _text(etag), bool(cut))
    numbers = (int(str(value)) for value in (size, block, resident, oldest, used))
    return EntryRow(str(name), identity, *numbers)


def _has_room(found: list[EntryRow], limit: int | None) -> bool:
    return limit is None or len(found) < limit


def _blob(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # keys need not be valid Unicode


def _text(blob: object) -> str:
    return blob.decode("utf-8", "surrogatepass") if isinstance(blob, bytes) else str(blob)
