"""Every flipped byte is found, nothing else is dropped, and readers may go on meanwhile."""

from __future__ import annotations

import errno
import os
import random
import threading

import pytest

from dataplane import _native
from dataplane.cache import Cache
from dataplane.cache.disk.entry_identity import Scope
from dataplane.cache.disk.session import Session
from dataplane.cache.maintenance.verify import verify
from tests.cache.fakes import BLOCK, assert_counted, data_files, map_files, read_all
from tests.cache.inside import call_before_checks, entry_of


@pytest.fixture
def infos(config, store):
    """Two objects of ten and a half blocks, cached."""
    made = [store.put(name, os.urandom(10 * BLOCK + BLOCK // 2)) for name in ("a", "b")]
    with Cache(config) as cache:
        for info in made:
            read_all(cache.open(store, info))
    return made


@pytest.fixture
def session(config, infos):
    session = Session(config.dir)
    yield session
    session.close()


def flip(path, offset):
    with path.open("r+b") as file:
        byte = os.pread(file.fileno(), 1, offset)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 0x10]), offset)


def test_a_whole_cache_passes(session):
    report = verify(session, threads=3)
    assert (report.entries, report.blocks, report.corrupt_blocks) == (2, 22, 0)
    assert report.checked_bytes == 21 * BLOCK


def test_each_flipped_byte_is_found_dropped_and_counted(config, store, infos, session):
    first, second = data_files(config.dir)
    for block in (0, 3, 10):
        flip(first, block * BLOCK + 100)
    flip(second, 5 * BLOCK)
    report = verify(session)
    assert report.corrupt_blocks == len(report.bad) == 4
    assert report.unreadable_blocks == 0
    assert report.dropped_bytes == 3 * BLOCK + BLOCK // 2
    assert {(bad.start, bad.stop) for bad in report.bad} == {
        (0, BLOCK),
        (3 * BLOCK, 4 * BLOCK),
        (10 * BLOCK, 10 * BLOCK + BLOCK // 2),
        (5 * BLOCK, 6 * BLOCK),
    }
    assert {(bad.store, bad.reason) for bad in report.bad} == {("test://bucket", "checksum")}
    assert_counted(config.dir, session.usage.used)
    assert verify(session).blocks == 18
    with Cache(config) as cache:
        for info in infos:
            expected = store.content_of(info.key)
            assert read_all(cache.open(store, info)) == expected
        assert cache.counters["cache_fetches"] == 4


def test_only_a_part_of_a_store_is_checked(config, session):
    for path in data_files(config.dir):
        flip(path, 1)
    report = verify(session, scope=Scope("test://bucket", "a"))
    assert (report.entries, report.corrupt_blocks) == (1, 1)
    assert report.bad[0].key == "a"


def test_checking_does_not_change_what_goes_next(session):
    def ticks():
        return [session.files.inspect(n, 0).ready_blocks() for n in sorted(session.files.names())]

    before = ticks()
    verify(session)
    assert ticks() == before


def test_a_damaged_entry_is_removed(config, session):
    map_files(config.dir)[0].write_bytes(b"nothing")
    report = verify(session)
    assert (report.entries, report.damaged_entries) == (1, 1)
    assert len(map_files(config.dir)) == len(data_files(config.dir)) == 1


def test_a_block_that_the_disk_cannot_read_is_dropped(session, monkeypatch):
    def fail(start):
        if start == 2 * BLOCK:
            raise OSError(errno.EIO, "bad sector")

    call_before_checks(monkeypatch, fail)
    report = verify(session)
    assert (report.corrupt_blocks, report.unreadable_blocks) == (0, 2)
    assert {bad.reason for bad in report.bad} == {os.strerror(errno.EIO)}


def test_a_block_that_moves_while_it_is_read_is_passed_over(session, monkeypatch):
    """The bytes are gone because the block was evicted, not because they were bad."""
    victims = {n: session.files.inspect(n, session.verify_tag) for n in session.files.names()}

    def evict_meanwhile(start):
        for entry in victims.values():
            assert entry.try_claim(start // BLOCK)
            entry.evict(start // BLOCK, (1 << 64) - 1)
            entry.release(start // BLOCK)

    call_before_checks(monkeypatch, evict_meanwhile)
    report = verify(session, threads=1)
    assert (report.blocks, report.corrupt_blocks, report.unreadable_blocks) == (0, 0, 0)


def test_a_bad_block_that_somebody_has_claimed_is_left_to_them(config, session):
    for path in data_files(config.dir):
        flip(path, 1)
    claims = [session.files.inspect(n, session.verify_tag) for n in session.files.names()]
    for claim in claims:
        assert claim.try_claim(0)
    assert verify(session).dropped_bytes == 0
    for claim in claims:
        claim.release(0)
    assert verify(session).corrupt_blocks == 2


def test_a_bad_block_that_is_leased_is_reported_and_dropped_when_it_is_free(
    config, store, infos, session
):
    with Cache(config) as cache:
        (mapped,) = cache.open(store, infos[0]).mapped([(0, 3 * BLOCK)])
        with memoryview(mapped):
            for path in data_files(config.dir):
                flip(path, 1)
            report = verify(session)
            assert (report.corrupt_blocks, report.dropped_bytes) == (2, BLOCK)
        timer = threading.Timer(0.3, memoryview(mapped).release)
        timer.start()  # as a decoder that is soon done
        report = verify(session)
        timer.join()
        assert (report.corrupt_blocks, report.dropped_bytes) == (1, BLOCK)


def test_an_error_in_a_thread_reaches_the_caller(session, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(_native, "crc32c", fail)
    with pytest.raises(ZeroDivisionError):
        verify(session)


def test_an_interrupt_ends_every_thread(session):
    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verify(session, progress=interrupt)
    assert not [t for t in threading.enumerate() if t.name.startswith("dp-verify")]


def test_nothing_is_dropped_while_others_read_fill_and_evict(config, store, infos, session):
    content = {i.key: store.content_of(i.key) for i in infos}
    stop, wrong = threading.Event(), []

    def work(cache):
        dice = random.Random(1)
        while not stop.is_set():
            blob = cache.open(store, dice.choice(infos))
            start = dice.randrange(blob.info.size_bytes)
            end = min(blob.info.size_bytes, start + 3 * BLOCK)
            if bytes(blob.read(start, end)) != content[blob.info.key][start:end]:
                wrong.append(start)
            entry, block = entry_of(cache, blob).blocks, start // BLOCK
            if entry.try_claim(block):
                entry.evict(block, (1 << 64) - 1)
                entry.release(block)

    with Cache(config) as cache:
        thread = threading.Thread(target=work, args=(cache,))
        thread.start()
        reports = [verify(session, threads=2) for _ in range(10)]
        stop.set()
        thread.join()
        assert cache.counters["cache_fetches"] > 0
    assert wrong == []
    assert [(r.corrupt_blocks, r.unreadable_blocks, r.damaged_entries) for r in reports] == [
        (0, 0, 0)
    ] * 10
