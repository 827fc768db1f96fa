"""After an unclean stop the bytes in use are counted again, in a large cache while others work."""

from __future__ import annotations

import itertools
import os
import random
import threading

import pytest

from dataplane.cache import Cache
from dataplane.cache.disk import reconcile as reconcile_module
from dataplane.cache.disk.entry_files import EntryFiles
from dataplane.cache.disk.reconcile import UsageFlows, estimated_entries
from dataplane.cache.disk.session import Session
from dataplane.cache.disk.throttle import Throttle
from dataplane.cache.eviction.budget import Budget
from dataplane.cache.eviction.working_set import WorkingSet
from dataplane.cache.maintenance import background as background_module
from dataplane.cache.maintenance.cleanup import collect
from dataplane.telemetry import Counters
from tests.cache.fakes import (
    BLOCK,
    assert_counted,
    data_files,
    disk_usage,
    is_counted,
    map_files,
    read_all,
    wait_until,
)
from tests.cache.inside import entry_of, is_idle, session_of


@pytest.fixture
def large(monkeypatch):
    """Every directory counts as large."""
    monkeypatch.setattr("dataplane.cache.disk.session.MANY_ENTRIES", 0)


@pytest.fixture
def infos(config, store):
    """Six objects of five blocks in a directory that was left in order."""
    found = [store.put(f"o{number}", os.urandom(5 * BLOCK)) for number in range(6)]
    with Cache(config) as cache:
        for info in found:
            read_all(cache.open(store, info))
    return found


def stopped_uncleanly(config, error_bytes=0):
    """Leave a directory as a killed process does, with a wrong count."""
    session = Session(config.dir)
    usage = session.usage
    session.close()
    usage.add_used(error_bytes)
    usage.dirty = True


class Meanwhile(Throttle):
    """Does something between any two entries that are looked at."""

    def __init__(self, act):
        super().__init__()
        self._act = act

    def rest(self):
        self._act()


def test_attaching_to_many_entries_opens_none_and_the_count_comes_right(
    config, infos, store, large, monkeypatch
):
    stopped_uncleanly(config, 7 * BLOCK)
    opened = []
    real = EntryFiles.inspect
    monkeypatch.setattr(
        EntryFiles, "inspect", lambda self, *given: opened.append(given) or real(self, *given)
    )
    session = Session(config.dir)
    assert session.usage.uncounted
    assert opened == []
    session.close()
    with Cache(config) as cache:
        assert read_all(cache.open(store, infos[0]))
        usage = session_of(cache).usage
        wait_until(lambda: not usage.uncounted)
        assert_counted(config.dir, cache.usage_bytes())
        assert cache.counters["cache_fetches"] == 0


def test_few_entries_are_counted_at_once(config, infos):
    stopped_uncleanly(config, -3 * BLOCK)
    session = Session(config.dir)
    assert not session.usage.uncounted
    assert_counted(config.dir, session.usage.used)
    session.close()


def test_who_leaves_before_the_count_leaves_it_to_the_next(config, infos, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("dataplane.cache.disk.session.MANY_ENTRIES", 0)
        stopped_uncleanly(config, 7 * BLOCK)
        first = Session(config.dir)
        epoch = first.usage.epoch
        first.close()
        assert first.usage.uncounted
    second = Session(config.dir)
    assert second.usage.epoch == epoch  # left in order: nothing need be checked again
    assert not second.usage.uncounted
    assert_counted(config.dir, second.usage.used)
    second.close()


def test_what_killed_processes_left_is_removed_while_others_work(config, infos, store, large):
    stopped_uncleanly(config)
    with Cache(config) as cache:
        blob = cache.open(store, infos[0])
        read_all(blob)
        usage = session_of(cache).usage
        wait_until(lambda: not usage.uncounted)
        folder = data_files(config.dir)[0].parent
        (folder / f"{'0' * 40}.data").write_bytes(b"orphan")
        (folder / f".{'0' * 40}.tmp").write_bytes(b"half a map")
        half = cache.open(store, store.put("half", os.urandom(3 * BLOCK)))
        half.read(0, 1)
        [written] = set(data_files(config.dir)) & set(config.dir.glob(f"*/*/{half.name}.data"))
        with written.open("r+b") as file:  # a block that was written and never made ready
            file.seek(2 * BLOCK)
            file.write(os.urandom(BLOCK))
        cache.open(store, store.put("empty", os.urandom(BLOCK)))
        assert (
            entry_of(cache, cache.open(store, store.put("none", b"x"))).blocks.resident_bytes() == 0
        )
        session = Session(config.dir)
        files_before = len(map_files(config.dir))
        assert session.reconcile()
        session.close()
        assert not list(config.dir.glob("entries/*/.*.tmp"))
        assert len(data_files(config.dir)) == len(map_files(config.dir)) == files_before
        assert written.stat().st_blocks * 512 <= 2 * BLOCK  # one block, and one of the file system
        assert_counted(config.dir, cache.usage_bytes())
        assert blob.is_complete()


def test_an_entry_without_blocks_goes_unless_somebody_has_it_open(config, infos, store):
    with Cache(config) as cache:
        entry = entry_of(cache, cache.open(store, infos[0])).blocks
        for block in range(5):
            assert entry.try_claim(block)
            entry.evict(block, 1 << 63)
            entry.release(block)
        session_of(cache).usage.add_used(-5 * BLOCK)
        del entry
        session = Session(config.dir)
        assert session.reconcile()
        assert len(map_files(config.dir)) == 6
        cache.guard.current.entries.close()
        assert session.reconcile()
        assert len(map_files(config.dir)) == 5
        assert_counted(config.dir, session.usage.used)
        session.close()


@pytest.mark.parametrize("seed", range(6))
def test_a_right_count_stays_right_whatever_others_do_meanwhile(
    config, infos, store, monkeypatch, seed
):
    monkeypatch.setattr(reconcile_module, "_BATCH", 1)
    dice = random.Random(seed)
    session = Session(config.dir)
    with Cache(config) as cache:
        budget = Budget(session, None, Counters())

        def act():
            for _ in range(dice.randrange(4)):
                if dice.random() < 0.5:
                    blob = cache.open(store, dice.choice(infos))
                else:
                    key = f"new{dice.randrange(10)}"
                    blob = cache.open(store, store.put(key, os.urandom(3 * BLOCK), "v1"))
                blob.read(0, 2 * BLOCK)
                if dice.random() < 0.6:
                    budget.free(dice.randrange(1, 6) * BLOCK)
            wait_until(lambda: is_idle(cache))

        for _ in range(4):
            session.reconcile(Meanwhile(act))
            assert is_counted(config.dir, session.usage.used)
        error = dice.randrange(-200, 200) * BLOCK
        session.usage.add_used(error)
        session.reconcile(Meanwhile(act))
        assert abs(session.usage.used - disk_usage(config.dir)) <= abs(error) + 4096 * 30
        assert session.reconcile()
        assert_counted(config.dir, session.usage.used)
    session.close()


def test_a_count_that_was_stopped_or_is_too_vague_is_not_over(config, infos, monkeypatch):
    session = Session(config.dir)
    session.usage.uncounted = True
    right = session.usage.used
    stopped = threading.Event()
    stopped.set()
    session.usage.add_used(BLOCK)
    assert not session.reconcile(Throttle(stopped, 0.5))
    assert session.usage.used == right + BLOCK
    monkeypatch.setattr(reconcile_module, "_BATCH", 1)
    monkeypatch.setattr(reconcile_module, "_CLOSE_BYTES", BLOCK)

    def act():
        session.usage.add_used(BLOCK)
        session.usage.add_used(-BLOCK)

    assert not session.reconcile(Meanwhile(act))
    assert session.usage.uncounted
    assert session.reconcile()
    assert (session.usage.uncounted, session.usage.used) == (False, right)
    session.close()


def test_a_download_under_way_is_counted_as_reserved(config, infos, store):
    session = Session(config.dir)
    with Cache(config) as cache:
        blob = cache.open(store, store.put("late", os.urandom(2 * BLOCK)))
        entry = entry_of(cache, blob)
        assert entry.blocks.try_claim(1)
        assert entry.budget.reserve(BLOCK)
        right = session.usage.used
        assert session.reconcile()
        assert session.usage.used == right
        entry.budget.release(BLOCK)
        entry.blocks.release(1)
    session.close()


def test_collecting_counts_first(config, infos, large):
    stopped_uncleanly(config, 1000 * BLOCK)
    session = Session(config.dir)
    assert collect(session, size_bytes=100 * BLOCK).blocks == 0
    assert_counted(config.dir, session.usage.used)
    session.close()


def test_a_full_working_set_takes_nothing_to_give_it_back(config, infos):
    session = Session(config.dir)
    budget = Budget(session, session.usage.used, Counters())
    working_set = WorkingSet()
    working_set.mark_full()
    before = UsageFlows.of(session.usage)
    assert not budget.reserve(BLOCK, working_set)
    assert UsageFlows.of(session.usage) == before
    session.close()


def test_the_number_of_entries_is_guessed_from_one_subfolder(config, store):
    session = Session(config.dir)
    assert estimated_entries(session.directory) == 0
    with Cache(config) as cache:
        for number in range(40):
            cache.open(store, store.put(f"o{number}", b"x")).read(0, 1)
    assert estimated_entries(session.directory) >= 20
    session.close()


def test_counts_that_say_too_little_are_begun_ever_less_often(config, infos, monkeypatch):
    now_s, counts = [1000.0], []

    class Clock:
        monotonic = staticmethod(lambda: now_s[0])

    def vague(self: Session, pace: Throttle | None = None) -> bool:
        counts.append(now_s[0])
        return False

    with monkeypatch.context() as patch:
        patch.setattr(background_module.BackgroundMaintenance, "_keep", lambda background: None)
        patch.setattr(Session, "reconcile", vague)
        patch.setattr(background_module, "time", Clock)
        session = Session(config.dir)
        background = background_module.BackgroundMaintenance(session, under_way_bytes=0)
        try:
            session.usage.uncounted = True
            for _ in range(8 * 60):
                background.reconcile()
                now_s[0] += 60
            pauses = [after - before for before, after in itertools.pairwise(counts)]
            assert pauses == [60, 120, 240, 480, 960, 1920] + [3600] * 6
            patch.undo()
            now_s[0] += 3600
            patch.setattr(background_module, "time", Clock)
            background.reconcile()
            assert not session.usage.uncounted
        finally:
            background.close()
            session.close()
