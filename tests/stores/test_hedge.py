"""Late reads are sent again: when, how often, and whose answer counts."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from dataplane.errors import ObjectChanged, StoreError, Timeout
from dataplane.stores import abort
from dataplane.stores.abort import Aborted, AbortScope, current_scope
from dataplane.stores.clients.memory import MemoryStore
from dataplane.stores.forwarder import StoreWrapper
from dataplane.stores.policy import hedge
from dataplane.stores.policy.hedge import HedgeStore
from dataplane.stores.policy.hedge_threshold import HedgeThreshold
from dataplane.telemetry import Counters

CONTENT = bytes(range(200))


class Scripted(StoreWrapper):
    """A store whose next reads do what they are told first."""

    def __init__(self, *, can_abort: bool = False) -> None:
        super().__init__(MemoryStore("hedge", ""))
        self._can_abort = can_abort
        self.acts: list[Callable[[], None]] = []
        self.reads = 0
        self._lock = threading.Lock()
        self._inner.put("a", CONTENT)

    @property
    def can_abort(self) -> bool:
        return self._can_abort

    def get_range(self, key, start, stop, *, if_match=None):
        with self._lock:
            self.reads += 1
            act = self.acts.pop(0) if self.acts else None
        if act is not None:
            act()
        return self._inner.get_range(key, start, stop, if_match=if_match)


def _raise(err: Exception) -> Callable[[], None]:
    def act() -> None:
        raise err

    return act


@pytest.fixture
def stall():
    """An act that ends when the test does, or when it is aborted."""
    over = threading.Event()

    def act() -> None:
        aborted = threading.Event()
        scope = current_scope()
        if scope is not None:
            scope.attach(aborted.set)
        while not over.wait(0.01):
            if aborted.is_set():
                raise Aborted

    yield act
    over.set()


@pytest.fixture
def counters() -> Counters:
    return Counters()


@pytest.fixture(params=[False, True], ids=["handed-over", "watched"])
def scripted(request: pytest.FixtureRequest) -> Scripted:
    return Scripted(can_abort=request.param)


@pytest.fixture
def store(scripted: Scripted, counters: Counters) -> HedgeStore:
    """Has seen enough reads to know what is late."""
    store = HedgeStore(scripted, 0.05, counters)
    for _ in range(100):
        store.get_range("a", 0, 100)
    return store


def test_a_stalled_read_is_answered_by_a_second_one(store, scripted, counters, stall) -> None:
    scripted.acts = [stall]
    begun_s = time.perf_counter()
    assert bytes(store.get_range("a", 10, 110)) == CONTENT[10:110]
    assert time.perf_counter() - begun_s < 5
    assert counters.snapshot() == {"store_hedges": 1, "store_hedges_won": 1}
    assert scripted.reads == 102


def test_the_first_answer_counts_when_it_comes_first(store, scripted, counters, stall) -> None:
    scripted.acts = [lambda: time.sleep(0.3), stall]
    assert bytes(store.get_range("a", 0, 100)) == CONTENT[:100]
    assert counters.snapshot() == {"store_hedges": 1}


def test_nothing_is_late_before_enough_is_known(scripted, counters) -> None:
    store = HedgeStore(scripted, 0.001, counters)
    for _ in range(20):
        scripted.acts = [lambda: time.sleep(0.01)]
        store.get_range("a", 0, 100)
    assert counters.snapshot() == {}
    assert scripted.reads == 20


def test_lengths_of_another_size_are_learned_by_themselves(store, scripted, counters) -> None:
    scripted.acts = [lambda: time.sleep(0.2)]
    assert len(store.get_range("a", 0, 200)) == 200
    assert counters.snapshot() == {}


def test_an_error_before_a_read_is_late_is_raised_at_once(store, scripted, counters) -> None:
    scripted.acts = [_raise(ObjectChanged("replaced"))]
    with pytest.raises(ObjectChanged):
        store.get_range("a", 0, 100)
    assert counters.snapshot() == {}


def test_a_time_out_of_the_store_is_no_late_answer(store, scripted, counters) -> None:
    scripted.acts = [_raise(Timeout("no answer"))]
    with pytest.raises(Timeout, match="no answer"):
        store.get_range("a", 0, 100)
    assert counters.snapshot() == {}


def test_an_error_of_one_leaves_the_answer_to_the_other(store, scripted, counters) -> None:
    scripted.acts = [lambda: time.sleep(0.3), _raise(StoreError("refused"))]
    assert bytes(store.get_range("a", 0, 100)) == CONTENT[:100]
    assert counters.snapshot() == {"store_hedges": 1}


def test_when_both_fail_the_error_is_raised(store, scripted) -> None:
    def late_error() -> None:
        time.sleep(0.3)
        raise StoreError("first")

    scripted.acts = [late_error, _raise(StoreError("second"))]
    with pytest.raises(StoreError, match="first"):
        store.get_range("a", 0, 100)


def test_a_store_that_is_slow_as_a_whole_is_not_asked_twice_as_much(
    store, scripted, counters
) -> None:
    scripted.acts = [lambda: time.sleep(0.08)] * 60
    for _ in range(30):
        store.get_range("a", 0, 100)
    assert counters["store_hedges"] <= 8 + 0.05 * 130


def test_stalls_do_not_teach_that_stalls_are_normal() -> None:
    latencies = HedgeThreshold(0.01)
    for number in range(1000):
        # What a hedged read reports is the winner's own time.
        latencies.add(100, 0.02 if number % 2 else 0.03)
    assert latencies.late_after_s(100) == 0.03
    assert latencies.late_after_s(1000) is None
    for _ in range(600):
        latencies.add(100, 0.5)  # the store has become slower
    assert latencies.late_after_s(100) == 0.5


def test_a_read_in_time_stays_in_its_thread_where_it_can_be_aborted() -> None:
    scripted, seen = Scripted(can_abort=True), []
    store = HedgeStore(scripted, 0.05, Counters())
    for _ in range(100):
        store.get_range("a", 0, 100)
    scripted.acts = [lambda: seen.append(threading.current_thread())] * 5
    for _ in range(5):
        store.get_range("a", 0, 100)
    assert set(seen) == {threading.current_thread()}
    assert current_scope() is None


def test_an_aborted_scope_refuses_what_is_attached_later() -> None:
    ended = []
    with AbortScope() as scope:
        scope.attach(lambda: ended.append(1))
        scope.detach()
        scope.abort()
        with pytest.raises(Aborted):
            scope.attach(lambda: ended.append(2))
    assert ended == []


def test_the_watchdog_calls_once_for_what_is_late_and_wakes_again(monkeypatch) -> None:
    monkeypatch.setattr(abort, "_LINGER_S", 0.05)
    watchdog, late = abort.Watchdog(), []
    for number in range(3):
        in_time = watchdog.watch(30, lambda: late.append("never"))
        watchdog.watch(0.05, lambda number=number: late.append(number))
        deadline = time.monotonic() + 20
        while number not in late:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        watchdog.over(in_time)
        time.sleep(0.2)  # the thread goes to sleep meanwhile
    assert late == [0, 1, 2]


def test_without_free_threads_the_caller_reads_itself(store, scripted, monkeypatch) -> None:
    busy = type("Busy", (), {"run": lambda self, call: None})()
    monkeypatch.setattr(hedge, "shared_runners", lambda: busy)
    assert bytes(store.get_range("a", 0, 100)) == CONTENT[:100]


def test_threads_are_used_again(store) -> None:
    before = threading.active_count()
    for _ in range(50):
        store.get_range("a", 0, 100)
    assert threading.active_count() <= before + 1


def test_a_forked_child_reads_with_threads_of_its_own(store) -> None:
    child = os.fork()
    if child == 0:
        good = bytes(store.get_range("a", 0, 100)) == CONTENT[:100]
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_stalled_read_does_not_keep_a_program_from_ending() -> None:
    script = """
import time
from tests.stores.test_hedge import Scripted
from dataplane.stores.policy.hedge import HedgeStore
from dataplane.telemetry import Counters
scripted, counters = Scripted(), Counters()
store = HedgeStore(scripted, 0.05, counters)
for _ in range(100):
    store.get_range("a", 0, 100)
scripted.acts = [lambda: time.sleep(100)]
store.get_range("a", 0, 100)
assert counters["store_hedges_won"] == 1
"""
    done = subprocess.run([sys.executable, "-c", script], timeout=60, check=False)
    assert done.returncode == 0
