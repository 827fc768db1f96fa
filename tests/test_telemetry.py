"""Counters."""

from __future__ import annotations

import doctest
import os
from concurrent.futures import ThreadPoolExecutor

from dataplane import telemetry
from dataplane.telemetry import Counters, logger


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
    with counters._lock:  # as another thread of the parent would hold it
        child = os.fork()
        if child == 0:
            counters.add("in_child")
            os._exit(0 if counters["in_child"] == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert counters["in_child"] == 0
