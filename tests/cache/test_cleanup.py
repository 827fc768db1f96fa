"""Emptying by hand follows the rules of eviction, and the count stays what is on the disk."""

from __future__ import annotations

import os
import random
import time
from types import SimpleNamespace

import pytest

from dataplane.cache import Cache
from dataplane.cache.disk.entry_identity import Scope
from dataplane.cache.disk.session import Session
from dataplane.cache.eviction.lru import LruOrder
from dataplane.cache.maintenance.cleanup import clear, collect
from tests.cache.fakes import BLOCK, assert_counted, data_files, map_files, read_all

STORE = "test://bucket"


@pytest.fixture
def filled(config, store):
    """Three objects of four blocks; the cache was left in order."""
    infos = [store.put(f"runs/{name}", os.urandom(4 * BLOCK)) for name in "abc"]
    with Cache(config) as cache:
        for info in infos:
            read_all(cache.open(store, info))
    return infos


@pytest.fixture
def session(config, filled):
    session = Session(config.dir)
    yield session
    session.close()


def resident(config, store, infos):
    with Cache(config) as cache:
        return [cache.open(store, info).resident_bytes() for info in infos]


def test_a_budget_is_enforced_from_the_least_recently_used_on(config, store, filled, session):
    done = collect(session, size_bytes=13 * BLOCK)
    assert (done.blocks, done.entries, done.freed_bytes) == (5, 1, 7 * BLOCK)
    assert session.usage.used <= 13 * BLOCK
    assert_counted(config.dir, session.usage.used)
    assert resident(config, store, filled) == [0, 3 * BLOCK, 4 * BLOCK]


def test_what_was_not_used_for_a_while_goes(config, store, filled, session):
    with Cache(config) as cache:
        cache.open(store, filled[1]).read(0, 1)
    newest = all_ticks(session)[-1][0]
    age_s = (time.time_ns() - newest) / 1e9
    done = collect(session, size_bytes=None, max_age_s=age_s + 0.001)
    assert done.blocks == 11
    assert resident(config, store, filled) == [0, BLOCK, 0]
    assert_counted(config.dir, session.usage.used)


def test_what_stays_is_counted_only_where_it_would_have_gone(config, store, filled, session):
    session.pins.add(Scope(STORE, "runs"), "runs")
    assert collect(session, size_bytes=None, max_age_s=3600).kept_pinned == 0
    with Cache(config) as cache:
        cache.open(store, filled[0]).read(0, 1)  # its first block only
    newest = all_ticks(session)[-1][0]
    done = collect(session, size_bytes=None, max_age_s=(time.time_ns() - newest) / 1e9 + 0.001)
    assert (done.kept_pinned, done.kept_bytes, done.blocks) == (3, 11 * BLOCK, 0)


def test_what_a_pin_keeps_over_the_budget_is_counted(session):
    session.pins.add(Scope(STORE, "runs/a"), "a")
    done = collect(session, size_bytes=3 * BLOCK)
    assert done.over_bytes == session.usage.used - 3 * BLOCK > 0
    assert collect(session, size_bytes=6 * BLOCK).over_bytes == 0


def test_a_budget_that_is_kept_empties_nothing(session):
    assert collect(session, size_bytes=1 << 30).freed_bytes == 0


def test_all_is_emptied_and_no_file_stays(config, session):
    done = clear(session)
    assert (done.blocks, done.entries, done.kept_bytes) == (12, 3, 0)
    assert data_files(config.dir) == map_files(config.dir) == []
    assert session.usage.used == 0


def test_a_part_of_a_store_is_emptied(config, store, filled, session):
    done = clear(session, scope=Scope(STORE, "runs/b"))
    assert done.entries == 1
    assert resident(config, store, filled) == [4 * BLOCK, 0, 4 * BLOCK]


def test_what_others_have_open_is_left_unless_forced(config, store, filled, session):
    content = store.content_of("runs/a")
    with Cache(config) as reading:
        blob = reading.open(store, filled[0])
        blob.read(0, 1)
        done = clear(session)
        assert (done.entries, done.kept_in_use, done.kept_bytes) == (2, 1, 4 * BLOCK)
        assert blob.is_complete()
        done = clear(session, in_use=True)
        assert (done.blocks, done.entries, done.kept_in_use) == (4, 0, 0)
        assert blob.resident_bytes() == 0
        assert read_all(blob) == content  # downloaded again
        assert_counted(config.dir, session.usage.used)


def test_what_is_pinned_is_left_unless_named_and_what_is_held_always(
    config, store, filled, session
):
    session.pins.add(Scope(STORE, "runs/a"), "a")
    with Cache(config) as holding, holding.lease(holding.open(store, filled[1])):
        done = clear(session)
        assert (done.entries, done.kept_pinned, done.kept_held) == (1, 1, 1)
        assert done.kept_bytes == 8 * BLOCK
        done = clear(session, pinned=True)
        assert (done.entries, done.kept_pinned, done.kept_held) == (1, 0, 1)
    assert clear(session).entries == 1
    assert session.pins.load()


def test_a_damaged_entry_is_removed_too(config, session):
    map_files(config.dir)[0].write_bytes(b"x")
    assert clear(session).entries == 3
    assert map_files(config.dir) == []


def all_ticks(session):
    found = []
    for name in session.files.names():
        ready = memoryview(session.files.inspect(name, 0).ready_blocks()).cast("Q").tolist()
        found += [(tick, name, block) for block, tick in zip(ready[::2], ready[1::2], strict=True)]
    return sorted(found)


def take(lru, session, count, skip=lambda _: False):
    """Evict as the budget does, and return what went."""
    gone = []
    candidates = lru.candidates(skip)
    for candidate in candidates:
        if len(gone) >= count:
            break
        if candidate.entry.try_claim(candidate.block):
            if candidate.entry.evict(candidate.block, candidate.tick):
                gone.append((candidate.tick, candidate.name, candidate.block))
            candidate.entry.release(candidate.block)
    candidates.close()
    return gone


@pytest.mark.parametrize("seed", range(4))
def test_the_order_is_that_of_the_last_uses_whatever_happens_in_between(config, store, seed):
    """Against a look at every block, while entries come, go and are used."""
    dice = random.Random(seed)
    session = Session(config.dir)
    lru = LruOrder(session, None)
    with Cache(config) as cache:
        blobs = []
        for step in range(30):
            if step < 10 or dice.random() < 0.2:
                info = store.put(f"o{step}", os.urandom(dice.randrange(1, 6 * BLOCK)))
                blobs.append(cache.open(store, info))
            for _ in range(6):
                blob = dice.choice(blobs)
                start = dice.randrange(blob.info.size_bytes)
                blob.read(start, min(blob.info.size_bytes, start + BLOCK))
            lru.refresh(at_once=True)
            spared = {name for _, name, _ in all_ticks(session) if dice.random() < 0.2}
            expected = [row for row in all_ticks(session) if row[1] not in spared]
            count = dice.randrange(0, 8)
            assert take(lru, session, count, spared.__contains__) == expected[:count]
    session.close()


def test_wrong_bounds_cost_order_and_nothing_else(filled, session):
    names = list(session.files.names())
    expected = all_ticks(session)
    bounds = {names[0]: 1 << 63, names[1]: 0, "gone": 5}
    lru = LruOrder(session, SimpleNamespace(bounds=lambda: (bounds, 7)))
    lru.refresh()
    assert sorted(take(lru, session, 100)) == expected
    assert lru.take_empty() == set(names)


def test_an_entry_that_went_or_broke_is_no_candidate(config, filled, session):
    lru = LruOrder(session, None)
    lru.refresh()
    gone, broken, whole = sorted(map_files(config.dir), key=lambda path: path.name)
    gone.unlink()
    broken.write_bytes(b"x")
    assert {row[1] for row in take(lru, session, 100)} == {whole.stem}
    assert lru.take_empty() == {broken.stem, whole.stem}
