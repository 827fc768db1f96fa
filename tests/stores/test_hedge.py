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
from dataplane.stores.clients.memory import MemoryStore
from dataplane.stores.forwarder import StoreWrapper
from dataplane.stores.policy import hedge
from dataplane.stores.policy.hedge import HedgeStore
from dataplane.stores.policy.hedge_threshold import HedgeThreshold
from dataplane.telemetry import Counters
from tests.stores.inside import is_any_read_late, threshold_lock, threshold_of

CONTENT = bytes(range(200))


class Scripted(StoreWrapper):
    """A store whose next reads do what they are told first."""

    def __init__(self) -> None:
        super().__init__(MemoryStore("hedge", ""))
        self.acts: list[Callable[[], None]] = []
        self.reads = 0
        self._lock = threading.Lock()
        self._inner.put("a", CONTENT)

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


def _experienced(scripted: Scripted, counters: Counters) -> HedgeStore:
    store = HedgeStore(scripted, 0.05, counters)
    for _ in range(100):
        store.get_range("a", 0, 100)
    return store


@pytest.fixture
def stall():
    """An act that ends when the test does."""
    over = threading.Event()
    yield lambda: over.wait(30)
    over.set()


@pytest.fixture
def counters() -> Counters:
    return Counters()


@pytest.fixture
def scripted() -> Scripted:
    return Scripted()


@pytest.fixture
def store(scripted: Scripted, counters: Counters) -> HedgeStore:
    """Has seen enough reads to know what is late."""
    return _experienced(scripted, counters)


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


def test_quick_reads_stay_in_their_thread_until_one_is_late(scripted, counters, stall) -> None:
    store, seen = HedgeStore(scripted, 0.05, counters), []

    def threads_of(count: int) -> set[bool]:
        """Whether each of some reads runs in its caller's thread."""
        seen.clear()
        here = threading.current_thread()
        scripted.acts = [lambda: seen.append(threading.current_thread() is here)] * count
        for _ in range(count):
            store.get_range("a", 0, 100)
        return set(seen)

    assert threads_of(64) == {True}  # nothing is known
    assert threads_of(900) == {False}
    threads_of(100)
    assert threads_of(100) == {True}
    scripted.acts = [lambda: time.sleep(0.5)]
    late = threading.Thread(target=store.get_range, args=("a", 0, 100))
    late.start()
    time.sleep(0.1)
    assert threads_of(20) == {False}  # while the late one waits
    late.join()
    assert counters.snapshot() == {}  # nobody looked after that one
    assert threads_of(20) == {False}
    scripted.acts = [stall]
    assert bytes(store.get_range("a", 0, 100)) == CONTENT[:100]
    assert counters.snapshot() == {"store_hedges": 1, "store_hedges_won": 1}


def test_reads_that_take_a_while_are_looked_after_from_the_start(scripted, counters, stall) -> None:
    store = HedgeStore(scripted, 0.05, counters)
    scripted.acts = [lambda: time.sleep(0.002)] * 100 + [stall]
    for _ in range(101):
        assert bytes(store.get_range("a", 0, 100)) == CONTENT[:100]
    assert counters.snapshot() == {"store_hedges": 1, "store_hedges_won": 1}


def test_without_free_threads_the_caller_reads_itself(store, scripted, monkeypatch) -> None:
    busy = type("Busy", (), {"run": lambda self, call: None})()
    monkeypatch.setattr(hedge, "shared_daemon_pool", lambda: busy)
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


def test_a_forked_child_has_no_reads_of_its_parents_threads(scripted, counters, stall) -> None:
    store = HedgeStore(scripted, 0.05, counters)
    for _ in range(1200):
        store.get_range("a", 0, 100)
    scripted.acts = [stall]
    late = threading.Thread(target=store.get_range, args=("a", 0, 100), daemon=True)
    late.start()
    time.sleep(0.1)
    with threshold_lock(store):  # as if a thread of the parent were learning
        child = os.fork()
        if child == 0:
            kind = (100).bit_length()
            quick = threshold_of(store).is_quick(kind) and not is_any_read_late(store)
            good = bytes(store.get_range("a", 0, 100)) == CONTENT[:100]
            os._exit(0 if good and quick else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_read_that_forks_ends_in_the_child_too(scripted, counters) -> None:
    store = HedgeStore(scripted, 0.05, counters)
    for _ in range(1200):
        store.get_range("a", 0, 100)
    assert threshold_of(store).is_quick((100).bit_length())  # it runs in its caller's thread
    children: list[int] = []
    scripted.acts = [lambda: children.append(os.fork())]
    try:
        good = bytes(store.get_range("a", 0, 100)) == CONTENT[:100]
    except BaseException:
        good = False
    if children == [0]:
        os._exit(0 if good else 1)
    assert good
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0


def test_a_stalled_read_does_not_keep_a_program_from_ending() -> None:
    script = """
import time
from tests.stores.test_hedge import Scripted, _experienced
from dataplane.telemetry import Counters
scripted, counters = Scripted(), Counters()
store = _experienced(scripted, counters)
scripted.acts = [lambda: time.sleep(100)]
store.get_range("a", 0, 100)
assert counters["store_hedges_won"] == 1
"""
    done = subprocess.run([sys.executable, "-c", script], timeout=60, check=False)
    assert done.returncode == 0
