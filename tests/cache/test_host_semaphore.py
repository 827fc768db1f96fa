"""Requests of all processes at one store stay below the host's limit, and all get their turn."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from dataplane.cache import Cache, CacheConfig
from dataplane.cache.disk import locks
from dataplane.cache.disk.directory import Directory
from dataplane.cache.disk.host_semaphore import HostSemaphore
from dataplane.errors import ConfigError
from dataplane.telemetry import Counters
from tests.cache import children
from tests.cache.fakes import BLOCK, CountingStore, FolderStore, wait_until
from tests.cache.inside import (
    LOOK_S,
    PATIENCE_S,
    is_looking,
    set_patience,
    slot_looks,
    slots_of,
    turn_of,
    waiting_count,
)

LIMIT = 3
STORE = "test://bucket"
_SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory(tmp_path / "cache")


@pytest.fixture
def counters() -> Counters:
    return Counters()


@pytest.fixture
def make(directory: Directory, counters: Counters) -> Iterator[Callable[..., HostSemaphore]]:
    """Each call stands for another process: open file descriptions exclude each other alike."""
    made: list[HostSemaphore] = []

    def one(limit: int = LIMIT) -> HostSemaphore:
        made.append(HostSemaphore(directory, limit, counters))
        return made[-1]

    yield one
    for item in made:
        item.close()
    wait_until(lambda: not any(thread.name == "dp-places" for thread in threading.enumerate()))


def fill(stack: ExitStack, taken: HostSemaphore, count: int = LIMIT) -> None:
    for _ in range(count):
        stack.enter_context(taken.at(STORE))


def enter_in_thread(asked: HostSemaphore) -> tuple[threading.Thread, threading.Event]:
    entered = threading.Event()

    def enter() -> None:
        with asked.at(STORE):
            entered.set()

    thread = threading.Thread(target=enter)
    thread.start()
    return thread, entered


def test_processes_that_download_stay_below_the_limit_together(tmp_path, store):
    slow = CountingStore(store.folder, delay_s=0.01, meeting=LIMIT)
    infos = [slow.put(f"o{number}", os.urandom(30 * BLOCK)) for number in range(4)]
    config = CacheConfig(
        dir=tmp_path / "cache", block_bytes=BLOCK, fetch_threads=4, host_requests=LIMIT
    )
    go = tmp_path / "go"
    started = [
        _SPAWN.Process(target=children.read_whole, args=(config, slow, info, go)) for info in infos
    ]
    for process in started:
        process.start()
    go.touch()
    for process in started:
        process.join(60)
    assert [process.exitcode for process in started] == [0] * 4
    assert len(slow.gets()) == 4 * 30
    assert slow.peak() == LIMIT


def test_a_killed_process_gives_its_places_back(tmp_path, make):
    mine = make()
    ready = tmp_path / "ready"
    process = _SPAWN.Process(
        target=children.take_places, args=(tmp_path / "cache", STORE, LIMIT, ready)
    )
    process.start()
    try:
        children.wait_for(ready)
        thread, entered = enter_in_thread(mine)
        wait_until(lambda: waiting_count(mine, STORE))
        assert not entered.is_set()
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    thread.join(20)
    assert entered.is_set()


def test_a_place_that_is_given_back_goes_to_a_waiting_process(make, counters):
    first, second = make(), make()
    with ExitStack() as stack:
        fill(stack, first)
        thread, entered = enter_in_thread(second)
        wait_until(lambda: waiting_count(second, STORE))
        assert not entered.is_set()
    thread.join(20)
    assert entered.is_set()
    assert counters["cache_place_wait_s"] > 0
    assert counters["cache_places_overrun"] == 0


def test_stores_have_places_of_their_own(make):
    first, second = make(), make()
    with ExitStack() as stack:
        fill(stack, first)
        with second.at("test://other"):
            assert slots_of(second, "test://other")


@pytest.mark.parametrize("threads", [2, 16])
def test_a_process_with_few_requests_is_not_starved_by_one_with_many(make, threads):
    """The threads of one ask again at once; the other asks for one place at a time."""
    many, few = make(2), make(2)
    over = threading.Event()
    order: list[str] = []  # of the grants

    def hog() -> None:
        while not over.is_set():
            with many.at(STORE):
                order.append("many")
                time.sleep(0.001)

    with ThreadPoolExecutor(threads) as pool:
        hogs = [pool.submit(hog) for _ in range(threads)]
        try:
            wait_until(lambda: len(order) > threads)
            for _ in range(30):
                with few.at(STORE):
                    order.append("few")
        finally:
            over.set()
        for one in hogs:
            one.result(30)
    # In turns it is about one in two; by number of requests it would be one in seventeen.
    first = order.index("few")
    last = len(order) - order[::-1].index("few")
    assert order[first:last].count("many") < 10 * 30


def test_however_many_wait_only_one_process_looks_for_a_place(make, monkeypatch):
    first, others = make(), [make() for _ in range(5)]
    with ExitStack() as stack:
        fill(stack, first)
        threads = [enter_in_thread(other)[0] for other in others for _ in range(4)]
        wait_until(lambda: all(waiting_count(other, STORE) == 4 for other in others))
        looks = slot_looks(monkeypatch)
        began = time.monotonic()
        time.sleep(0.3)
        assert 0 < len(looks) <= (time.monotonic() - began) / LOOK_S + 1
    for thread in threads:
        thread.join(20)


def test_what_holds_all_places_for_very_long_does_not_hold_up_others(make, counters, monkeypatch):
    set_patience(monkeypatch, 0.05)
    first, second = make(), make()
    with ExitStack() as stack:
        fill(stack, first)
        for expected in (1, 2):
            with second.at(STORE):
                assert counters["cache_places_overrun"] == expected
    with second.at(STORE):
        assert counters["cache_places_overrun"] == 2


def test_a_process_that_is_stopped_while_it_has_the_turn_does_not_either(
    make, directory, counters, monkeypatch
):
    set_patience(monkeypatch, 0.05)
    mine = make()
    with mine.at(STORE):
        turn = turn_of(mine, STORE)
    stopped = locks.open_descriptor("places", os.O_RDWR, dir_fd=directory.fd)
    try:
        assert locks.lock_byte(stopped, 1, turn, wait=False)
        with mine.at(STORE):
            assert counters["cache_places_overrun"] == 1
    finally:
        locks.close_descriptor(stopped)
    wait_until(lambda: not is_looking(mine, STORE))
    with mine.at(STORE):
        assert counters["cache_places_overrun"] == 1


def test_closing_lets_those_go_who_wait(make):
    first, second = make(), make()
    with ExitStack() as stack:
        fill(stack, first)
        thread, entered = enter_in_thread(second)
        wait_until(lambda: waiting_count(second, STORE))
        second.close()
        second.close()
        thread.join(20)
        assert entered.is_set()


def test_without_a_limit_there_is_no_file(make, directory):
    with make(0).at(STORE):
        assert not (directory.path / "places").exists()


def test_where_the_file_cannot_be_opened_nothing_is_limited(tmp_path, store: FolderStore):
    (tmp_path / "cache").mkdir(mode=0o700)
    (tmp_path / "cache" / "places").symlink_to(tmp_path / "elsewhere")
    content = os.urandom(9 * BLOCK)
    config = CacheConfig(dir=tmp_path / "cache", block_bytes=BLOCK, host_requests=1)
    with Cache(config) as cache:
        blob = cache.open(store, store.put("a", content))
        assert blob.read(0, len(content)) == content
        assert blob.is_complete()
    assert not (tmp_path / "elsewhere").exists()


def test_where_the_file_cannot_be_locked_nothing_is_limited(make, counters, monkeypatch):
    asked = []

    def refused(*args: object, **options: object) -> bool:
        asked.append(args)
        raise OSError(37, "No locks available")

    mine = make(1)
    monkeypatch.setattr(locks, "lock_byte", refused)
    began = time.monotonic()
    with ExitStack() as stack:
        fill(stack, mine, 5)
        assert asked
        assert slots_of(mine, STORE) == set()
        assert counters["cache_places_overrun"] == 5
    assert time.monotonic() - began < PATIENCE_S / 2


def test_a_place_is_given_back_after_an_error(make):
    first, second = make(1), make(1)
    with pytest.raises(ZeroDivisionError), first.at(STORE):
        raise ZeroDivisionError
    with second.at(STORE):
        assert slots_of(second, STORE)
        assert not slots_of(first, STORE)


@pytest.mark.parametrize("count", [-1, 1025])
def test_a_limit_out_of_range_is_refused(count):
    with pytest.raises(ConfigError, match="host_requests must be 0 to 1024"):
        CacheConfig(host_requests=count)
