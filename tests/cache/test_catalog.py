"""The catalog says what a look at every entry says, and nobody is hurt when it lies or is gone."""

from __future__ import annotations

import multiprocessing
import os
import random
import sqlite3
import threading

import pytest

from dataplane.cache import Cache, CacheConfig
from dataplane.cache.disk.entry_identity import Scope
from dataplane.cache.disk.session import Session
from dataplane.cache.eviction.catalog import Catalog
from dataplane.cache.eviction.inventory import add_up, walk
from dataplane.cache.maintenance import background as background_module
from dataplane.cache.maintenance.background import BackgroundMaintenance
from tests.cache.fakes import BLOCK, map_files, read_all, wait_until
from tests.cache.inside import entry_of, is_idle, session_of


@pytest.fixture
def session(config):
    session = Session(config.dir)
    yield session
    session.close()


@pytest.fixture
def catalog(session):
    return Catalog(session.directory)


def by_name(rows):
    return {row.name: row for row in rows}


def age(path, seconds=3600):
    """Give files times as if nothing had touched them for an hour."""
    for file in (path, path.with_suffix(".data")):
        status = file.stat()
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns - seconds * 10**9))


@pytest.mark.parametrize("seed", range(3))
def test_it_says_what_a_look_at_every_entry_says(config, store, session, catalog, seed):
    dice = random.Random(seed)
    with Cache(config) as cache:
        for step in range(12):
            blob = cache.open(store, store.put(f"o{step}\ud800", os.urandom(5 * BLOCK + step)))
            for _ in range(dice.randrange(1, 4)):
                start = dice.randrange(blob.info.size_bytes)
                blob.read(start, min(blob.info.size_bytes, start + BLOCK))
            if dice.random() < 0.3:
                entry = entry_of(cache, blob).blocks
                for block in range(5):
                    assert entry.try_claim(block)
                    entry.evict(block, 1 << 63)
                    entry.release(block)
            wait_until(lambda: is_idle(cache))  # nothing is being written
            if dice.random() < 0.2:
                gone = dice.choice(map_files(config.dir))
                gone.unlink()
            done = catalog.refresh(session)
            rows, total = catalog.rows()
            assert by_name(rows) == by_name(walk(session))
            assert total == len(rows) == done.entries
            assert catalog.totals() == add_up(walk(session))
    assert [row.used_tick for row in rows] == sorted((row.used_tick for row in rows), reverse=True)
    assert [row.identity.key for row in catalog.rows(sort="key")[0]] == sorted(
        row.identity.key for row in rows
    )


def test_entries_that_did_not_change_are_not_opened_again(config, store, session, catalog):
    with Cache(config) as cache:
        for key in "abcd":
            read_all(cache.open(store, store.put(key, os.urandom(2 * BLOCK))))
    for path in map_files(config.dir):
        age(path)
    assert catalog.refresh(session).looked_into == 4
    assert catalog.refresh(session).looked_into == 0
    with Cache(config) as cache:
        blob = cache.open(store, store.put("e", os.urandom(BLOCK)))
        read_all(blob)
    done = catalog.refresh(session)
    assert (done.entries, done.looked_into) == (5, 1)
    # A file that was written to just now may be written to again without a change of its time.
    assert catalog.refresh(session).looked_into == 1


def test_rows_of_a_part_of_a_store(config, store, session, catalog):
    with Cache(config) as cache:
        for key in ("a/1", "a/2", "ab", "b", "x" * 900 + "\u1234" * 900):
            read_all(cache.open(store, store.put(key, b"x")))
    catalog.refresh(session)
    rows, total = catalog.rows(Scope("test://bucket", "a"), sort="key", limit=1)
    assert (total, [row.identity.key for row in rows]) == (2, ["a/1"])
    assert catalog.rows(Scope("test://bucket", "x", is_prefix=True))[1] == 1
    assert catalog.rows(Scope("test://other", ""))[1] == 0


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not a database" * 1000),
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: path.write_bytes(path.read_bytes()[:100] + os.urandom(20_000)),
        lambda path: _execute(path, "PRAGMA user_version = 9"),
        lambda path: _execute(path, "DROP TABLE entry"),
        lambda path: _execute(path, "DROP TABLE state"),
        lambda path: _execute(path, "ALTER TABLE entry DROP COLUMN stamp"),
    ],
)
def test_a_missing_broken_or_other_catalog_is_made_again(config, store, session, catalog, damage):
    with Cache(config) as cache:
        for key in "abc":
            read_all(cache.open(store, store.put(key, os.urandom(BLOCK))))
    catalog.refresh(session)
    damage(config.dir / "catalog.sqlite")
    bounds = catalog.bounds()
    assert bounds is None or set(bounds[0]) <= set(session.files.names())
    catalog.refresh(session)
    assert by_name(catalog.rows()[0]) == by_name(walk(session))
    assert set(catalog.bounds()[0]) == set(session.files.names())


def _execute(path, statement):
    database = sqlite3.connect(path)
    database.execute(statement)
    database.commit()
    database.close()


@pytest.mark.parametrize("name", ["catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm"])
def test_links_planted_in_its_place_are_not_followed(config, session, catalog, tmp_path, name):
    victim = tmp_path / "victim"
    victim.write_bytes(b"")
    (config.dir / name).symlink_to(victim)
    with pytest.raises(OSError, match="not a regular file"):
        catalog.refresh(session)
    assert catalog.bounds() is None
    assert victim.read_bytes() == b""


def test_only_the_user_may_read_it(config, session, catalog):
    old = os.umask(0)
    try:
        catalog.refresh(session)
    finally:
        os.umask(old)
    for path in config.dir.glob("catalog.sqlite*"):
        assert path.stat().st_mode & 0o777 == 0o600, path


def test_eviction_by_a_catalog_goes_in_the_order_of_uses_also_of_later_ones(store, tmp_path):
    config = CacheConfig(dir=tmp_path / "c", block_bytes=BLOCK, size_bytes=60 * BLOCK)
    with Cache(config) as cache:
        blobs = [cache.open(store, store.put(f"o{i}", os.urandom(4 * BLOCK))) for i in range(8)]
        for blob in blobs:
            read_all(blob)
        session = Session(config.dir)
        Catalog(session.directory).refresh(session)
        session.close()
        read_all(blobs[0])  # used after the catalog saw it
        opened = []
        real = session_of(cache).files.inspect
        session_of(cache).files.inspect = lambda *a: opened.append(a[0]) or real(*a)
        read_all(cache.open(store, store.put("new", os.urandom(12 * BLOCK))))
        assert blobs[0].is_complete()
        assert not blobs[1].is_complete()
        assert len(set(opened)) < 6  # not each of the nine


@pytest.mark.parametrize("bounds", [({}, 1 << 62), ({"zz": 3}, 0), None])
def test_eviction_copes_with_a_catalog_that_lies(store, tmp_path, monkeypatch, bounds):
    monkeypatch.setattr(Catalog, "bounds", lambda self: bounds)
    config = CacheConfig(dir=tmp_path / "c", block_bytes=BLOCK, size_bytes=30 * BLOCK)
    with Cache(config) as cache:
        for i in range(6):
            content = os.urandom(10 * BLOCK)
            assert read_all(cache.open(store, store.put(f"o{i}", content))) == content
            assert cache.usage_bytes() <= config.size_bytes
        assert cache.counters["cache_uncached_blocks"] == 0


def _refresh_often(config, count):
    session = Session(config.dir)
    for _ in range(count):
        Catalog(session.directory).refresh(session)
    session.close()


def test_processes_that_refresh_at_once_agree(config, store, session, catalog):
    with Cache(config) as cache:
        for i in range(20):
            read_all(cache.open(store, store.put(f"o{i}", b"x")))
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_refresh_often, args=(config, 10)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    catalog.refresh(session)
    assert by_name(catalog.rows()[0]) == by_name(walk(session))


def test_an_interrupted_refresh_is_no_whole_listing(config, store, session, catalog):
    with Cache(config) as cache:
        read_all(cache.open(store, store.put("a", b"x")))
    stopped = threading.Event()
    stopped.set()
    catalog.refresh(session, stopped=stopped)
    assert catalog.listed_ns() is None
    assert catalog.bounds() is None


def test_a_large_cache_gets_a_catalog_in_the_background(config, store, monkeypatch):
    monkeypatch.setattr(background_module, "_FIRST_S", 0.01)
    monkeypatch.setattr(background_module, "_LOOK_S", 0.01)
    monkeypatch.setattr(background_module, "MANY_ENTRIES", 3)
    with Cache(config) as cache:
        for i in range(8):
            read_all(cache.open(store, store.put(f"o{i}", b"x")))
        wait_until(lambda: Catalog(session_of(cache).directory).listed_ns())
    assert not [t for t in threading.enumerate() if t.name == "dp-catalog"]


def test_a_small_cache_gets_none(config, store, session):
    with Cache(config) as cache:
        read_all(cache.open(store, store.put("a", b"x")))
        assert not cache.guard.current.background.is_due()


@pytest.mark.parametrize("error", [100, -100])
def test_a_count_that_stays_wrong_is_corrected_and_one_that_does_not_is_left(
    config, store, session, monkeypatch, error
):
    monkeypatch.setattr(background_module, "_DRIFT_BYTES", 10 * BLOCK)
    monkeypatch.setattr(background_module, "_FIRST_S", 3600)
    with Cache(config) as cache:
        read_all(cache.open(store, store.put("a", os.urandom(200 * BLOCK))))
    right = session.usage.used
    background = BackgroundMaintenance(session, under_way_bytes=0)
    try:
        session.usage.add_used(error * BLOCK)
        background.refresh()
        assert session.usage.used == right + error * BLOCK  # it may be under way
        session.usage.used = right
        background.refresh()
        assert session.usage.used == right
        session.usage.add_used(error * BLOCK)
        background.refresh()
        background.refresh()
        assert session.usage.used == right
    finally:
        background.close()
        background.close()
