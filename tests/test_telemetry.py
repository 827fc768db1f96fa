"""Counters."""

from __future__ import annotations

import doctest
import gc
import os
import weakref
from concurrent.futures import ThreadPoolExecutor

from dataplane import telemetry
from dataplane.telemetry import Counters, gauges, logger, offer_gauges, totals
from tests.inside import counting_lock


def test_the_examples_in_the_docstrings_are_true() -> None:
    result = doctest.testmod(telemetry)
    assert result.attempted >= 2
    assert result.failed == 0


def test_threads_lose_no_count() -> None:
    counters = Counters()

    def count(_: int) -> None:
        for _ in range(1000):
            counters.add("one")
            counters.add_all({"two": 2, "half": 0.5})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(8)))
    assert counters.snapshot() == {"half": 4000, "one": 8000, "two": 16000}


def test_a_snapshot_is_a_sorted_copy() -> None:
    counters = Counters()
    counters.add("b")
    counters.add("a", 2)
    snapshot = counters.snapshot()
    assert list(snapshot) == ["a", "b"]
    snapshot["a"] = 7
    assert counters["a"] == 2


def test_the_library_leaves_logging_to_the_application() -> None:
    assert logger.name == "dataplane"
    assert logger.handlers == []


def test_a_forked_child_counts_although_its_parent_was_counting() -> None:
    counters = Counters()
    with counting_lock(counters):  # as another thread of the parent would hold it
        child = os.fork()
        if child == 0:
            counters.add("in_child")
            os._exit(0 if counters["in_child"] == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert counters["in_child"] == 0


def test_totals_keep_what_was_counted_by_counters_that_are_gone() -> None:
    counters = Counters()
    before = totals().get("seen_bytes", 0)
    counters.add("seen_bytes", 5)
    other = Counters()
    other.add("seen_bytes", 2)
    assert totals()["seen_bytes"] == before + 7
    del other
    gc.collect()
    assert totals()["seen_bytes"] == before + 7
    counters.add("seen_bytes")
    assert totals()["seen_bytes"] == before + 8


def test_totals_have_what_goes_away_just_now() -> None:
    counters = Counters()
    counters.add("going_bytes", 3)
    seen: list[float] = []
    # Called first, as another thread may run between the end of an object and its finalizer.
    reference = weakref.ref(counters, lambda _: seen.append(totals()["going_bytes"]))
    del counters
    assert reference() is None
    assert seen == [3]
    assert totals()["going_bytes"] == 3


def test_totals_never_go_back_while_counters_come_and_go() -> None:
    def work(_: int) -> None:
        for _ in range(300):
            Counters().add("turns")

    seen = []
    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(work, i) for i in range(4)]
        while not all(future.done() for future in done):
            seen.append(totals().get("turns", 0))
    assert seen == sorted(seen)
    gc.collect()
    assert totals()["turns"] - seen[0] <= 1200
    assert totals()["turns"] >= 1200


def test_the_totals_of_a_forked_child_begin_at_zero() -> None:
    kept, dropped = Counters(), Counters()
    kept.add("in_parent", 3)
    dropped.add("in_parent", 4)
    del dropped
    gc.collect()
    child = os.fork()
    if child == 0:
        kept.add("in_parent")
        del kept
        gc.collect()
        os._exit(0 if totals()["in_parent"] == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_gauges_are_added_up_for_as_long_as_their_owners_live(caplog) -> None:
    class Queue:
        def __init__(self, length: float) -> None:
            self.length = length

    def read(queue: Queue) -> dict[str, float]:
        return {"queue_items": 1 / queue.length}

    queues = [Queue(1), Queue(0.5), Queue(0)]  # the last one fails
    for queue in queues:
        offer_gauges(queue, read)
    assert gauges()["queue_items"] == 3
    del queue
    queues.pop(1)
    gc.collect()
    assert gauges()["queue_items"] == 1
