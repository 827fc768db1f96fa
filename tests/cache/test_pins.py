"""What the user pins is never evicted; what a process holds goes last, and only while it lives."""

from __future__ import annotations

import multiprocessing
import os
import signal

import pytest

from dataplane.cache import Cache, CacheConfig
from dataplane.cache.disk.directory import Directory
from dataplane.cache.disk.entry_identity import EntryIdentity, EntrySpec, Scope
from dataplane.cache.disk.liveness import LivenessLocks
from dataplane.cache.disk.pins import PinList
from dataplane.cache.disk.session import Session
from dataplane.errors import CacheError, ConfigError
from tests.cache.fakes import BLOCK, read_all, wait_until

STORE = "test://bucket"


@pytest.fixture
def small(tmp_path):
    return CacheConfig(
        dir=tmp_path / "cache", block_bytes=BLOCK, size_bytes=30 * BLOCK, fetch_threads=2
    )


@pytest.fixture
def directory(tmp_path):
    return Directory(tmp_path / "cache")


def pin(config, key, *, is_prefix=False):
    session = Session(config.dir)
    try:
        return session.pins.add(Scope(STORE, key, is_prefix), f"{STORE}/{key}")
    finally:
        session.close()


def flood(cache, store, name="flood"):
    """Read twice what the budget holds."""
    read_all(cache.open(store, store.put(name, os.urandom(60 * BLOCK))))


def test_a_pinned_object_outlives_any_number_of_others(small, store):
    pin(small, "runs/a")
    with Cache(small) as cache:
        kept = cache.open(store, store.put("runs/a", os.urandom(8 * BLOCK)))
        other = cache.open(store, store.put("runs/ab", os.urandom(8 * BLOCK)))
        read_all(kept)
        read_all(other)
        flood(cache, store)
        assert kept.is_complete()
        assert not other.is_complete()


def test_a_pin_covers_what_is_below_and_versions_to_come(small, store):
    pin(small, "runs")
    with Cache(small) as cache:
        old = cache.open(store, store.put("runs/deep/a", os.urandom(4 * BLOCK), "v1"))
        read_all(old)
        new = cache.open(store, store.put("runs/deep/a", os.urandom(4 * BLOCK), "v2"))
        read_all(new)
        flood(cache, store)
        assert old.is_complete()
        assert new.is_complete()


def test_a_pin_taken_back_is_heeded_by_a_running_process(small, store, monkeypatch):
    monkeypatch.setattr("dataplane.cache.disk.pins._REREAD_S", 0.0)
    pin(small, "a")
    with Cache(small) as cache:
        kept = cache.open(store, store.put("a", os.urandom(4 * BLOCK)))
        read_all(kept)
        flood(cache, store)
        assert kept.is_complete()
        session = Session(small.dir)
        assert session.pins.remove(Scope(STORE, "a"))
        session.close()
        flood(cache, store, "again")
        assert not kept.is_complete()


def test_a_cache_full_of_pins_passes_the_rest_by(small, store):
    pin(small, "")
    with Cache(small) as cache:
        first = cache.open(store, store.put("a", os.urandom(20 * BLOCK)))
        read_all(first)
        content = os.urandom(60 * BLOCK)
        assert read_all(cache.open(store, store.put("b", content))) == content
        assert first.is_complete()
        assert cache.usage_bytes() <= small.size_bytes
        assert cache.counters["cache_evicted_blocks"] == 0


def test_pins_outlive_a_process_that_is_killed(small):
    def add_and_die():
        pin(small, "a")
        os.kill(os.getpid(), signal.SIGKILL)

    child = multiprocessing.get_context("fork").Process(target=add_and_die)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert [pin.scope.key for pin in PinList(Directory(small.dir)).load()] == ["a"]


def test_the_same_pin_is_kept_once(directory):
    pins = PinList(directory)
    assert pins.add(Scope(STORE, "a"), "url")
    assert not pins.add(Scope(STORE, "a"), "url")
    assert pins.add(Scope(STORE, "a", is_prefix=True), "url")
    assert len(pins.load()) == 2
    assert pins.remove(Scope(STORE, "a"))
    assert not pins.remove(Scope(STORE, "a"))
    assert [pin.scope.is_prefix for pin in pins.load()] == [True]


def test_there_is_a_limit_to_pins(directory, monkeypatch):
    monkeypatch.setattr("dataplane.cache.disk.pins.MAX_PINS", 2)
    pins = PinList(directory)
    for key in "ab":
        pins.add(Scope(STORE, key), key)
    with pytest.raises(ConfigError, match="2 pins are there"):
        pins.add(Scope(STORE, "c"), "c")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"version": 2, "pins": []}',
        b'{"version": 1, "pins": 3}',
        b'{"version": 1, "pins": [3]}',
        b'{"version": 1, "pins": [{"store": 1, "key": "", "is_prefix": false, '
        b'"url": "", "pinned_s": 0}]}',
        b'{"version": 1, "pins": [{"store": "", "key": "", "is_prefix": 1, '
        b'"url": "", "pinned_s": 0}]}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)  # fmt: skip
def test_a_damaged_list_is_an_error_and_evicts_as_before(small, store, text, caplog):
    pin(small, "a")
    with Cache(small) as cache:
        kept = cache.open(store, store.put("a", os.urandom(4 * BLOCK)))
        read_all(kept)
        flood(cache, store)
        (small.dir / "pins.json").write_bytes(text)
        flood(cache, store, "again")
        assert kept.is_complete()
    with pytest.raises(CacheError, match=r"pins\.json"):
        pin(small, "b")
    assert (small.dir / "pins.json").read_bytes() == text


def test_a_list_of_absurd_length_is_not_read(directory, tmp_path, monkeypatch):
    monkeypatch.setattr("dataplane.cache.disk.pins._MAX_FILE_BYTES", 100)
    (tmp_path / "cache" / "pins.json").write_bytes(b" " * 101)
    with pytest.raises(CacheError, match="more than 100 bytes"):
        PinList(directory).load()


def test_a_link_planted_in_place_of_the_list_is_not_followed(directory, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text('{"version": 1, "pins": []}')
    (tmp_path / "cache" / "pins.json").symlink_to(victim)
    with pytest.raises(CacheError):
        PinList(directory).load()
    with pytest.raises(CacheError):
        PinList(directory).add(Scope(STORE, "a"), "a")
    assert victim.read_text() == '{"version": 1, "pins": []}'


@pytest.mark.parametrize(
    ("scope", "key", "expected"),
    [
        (Scope(STORE, "a/b"), "a/b", True),
        (Scope(STORE, "a/b"), "a/b/c", True),
        (Scope(STORE, "a/b"), "a/bc", False),
        (Scope(STORE, "a/b"), "a", False),
        (Scope(STORE, ""), "anything", True),
        (Scope(STORE, "a/b", is_prefix=True), "a/bc", True),
        (Scope(STORE, "a/b", is_prefix=True), "a", False),
        (Scope("test://other", ""), "a", False),
    ],
)
def test_which_keys_a_part_of_a_store_covers(scope, key, expected):
    assert scope.covers(EntryIdentity(STORE, key, "v1")) is expected


def test_an_object_whose_long_name_was_cut_counts_as_covered_when_it_may_be():
    key = "x/" * 400 + "end" + "\u1234" * 800
    identity = EntryIdentity.parse(EntrySpec(STORE, key, "v1", 10, BLOCK).identity())
    assert identity.cut
    assert Scope(STORE, key).covers(identity)
    assert Scope(STORE, "x").covers(identity)
    assert not Scope(STORE, "y").covers(identity)
    assert not Scope("test://other", key).covers(identity)


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"\xff", b'{"store": 1}', b"[" * 100_000])
def test_an_identity_that_cannot_be_read_is_empty(text):
    assert EntryIdentity.parse(text) == EntryIdentity("", "", "")


def test_what_is_held_goes_after_everything_else(small, store):
    with Cache(small) as cache:
        held = cache.open(store, store.put("held", os.urandom(8 * BLOCK)))
        read_all(held)
        with cache.lease(held):
            flood(cache, store)
            assert held.is_complete()
            # The whole cache is one file that is open: it may replace its own blocks.
            large = cache.open(store, store.put("large", os.urandom(60 * BLOCK)))
            with cache.lease(large):
                read_all(large)
                assert large.resident_bytes() > 8 * BLOCK
        flood(cache, store, "again")
        assert not held.is_complete()


def test_a_hold_counts_and_closes_once(tmp_path):
    live = LivenessLocks(Directory(tmp_path / "cache"))
    name = "ab" * 20
    live.hold(name)
    live.hold(name)
    live.let_go(name)
    assert live.is_held(name)
    live.let_go(name)
    assert not live.is_held(name)
    live.let_go(name)
    live.close()
    live.hold(name)
    live.let_go(name)
    assert not live.is_held(name)
    assert live.take_slot() is None


def _hold_until_killed(config, name, ready):
    session = Session(config.dir)
    session.live.hold(name)
    ready.set()
    signal.pause()


def test_a_hold_dies_with_its_holder(small):
    name = "cd" * 20
    session = Session(small.dir)
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    child = context.Process(target=_hold_until_killed, args=(small, name, ready))
    child.start()
    assert ready.wait(30)
    assert session.live.is_held(name)
    child.kill()
    child.join()
    assert not session.live.is_held(name)
    session.close()


def test_a_forked_child_does_not_keep_what_its_parent_held(small, store):
    info = store.put("a", b"x")
    cache = Cache(small)
    blob = cache.open(store, info)
    read_all(blob)
    hold = cache.lease(blob)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    looking = Session(small.dir)
    assert looking.live.is_held(blob.name)
    hold.close()
    cache.close()
    wait_until(lambda: not looking.live.is_held(blob.name))
    os.close(writer)
    assert os.waitpid(child, 0)[1] == 0
    looking.close()


def test_slots_are_taken_once_and_given_back_by_death(tmp_path):
    directory = Directory(tmp_path / "cache")
    first, second = LivenessLocks(directory), LivenessLocks(directory)
    assert first.take_slot() == 0
    assert first.take_slot() == 1
    assert second.take_slot() == 2
    assert second.is_slot_taken(0)
    first.close()
    assert not second.is_slot_taken(0)
    assert second.is_slot_taken(2)
    assert second.take_slot() == 0
    second.close()
