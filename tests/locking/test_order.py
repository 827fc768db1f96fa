"""The recorder of lock order sees what it is for."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.locking.order import (
    LOCKS_PAGE,
    OrderRecorder,
    circle,
    documented_ranks,
    objections,
)
from tests.locking.tracked import Tracked, _keeper, name_of, real_lock, real_rlock


def lock_of(recorder: OrderRecorder, name: str, factory: object = real_lock) -> Tracked:
    return Tracked(name, factory(), recorder)


def test_two_threads_in_opposite_orders_are_a_circle_though_they_never_met() -> None:
    recorder = OrderRecorder()
    first, second = lock_of(recorder, "a"), lock_of(recorder, "b")
    with first, second:
        pass

    def other() -> None:
        with second, first:
            pass

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert circle(set(recorder.edges)) == ["a", "b", "a"]
    assert "other" in recorder.edges["b", "a"]


def test_two_locks_of_a_kind_inside_each_other_are_a_circle() -> None:
    recorder = OrderRecorder()
    with lock_of(recorder, "_Counts.lock"), lock_of(recorder, "_Counts.lock"):
        pass
    assert circle(set(recorder.edges)) == ["_Counts.lock", "_Counts.lock"]


def test_a_reentrant_lock_and_an_attempt_are_no_edges() -> None:
    recorder = OrderRecorder()
    again = lock_of(recorder, "r", real_rlock)
    with again, again, lock_of(recorder, "a"):
        assert lock_of(recorder, "b").acquire(blocking=False)
    assert set(recorder.edges) == {("r", "a")}


def test_a_lock_that_another_thread_releases_is_no_longer_held() -> None:
    recorder = OrderRecorder()
    handed, other = lock_of(recorder, "handed"), lock_of(recorder, "other")
    handed.acquire()
    thread = threading.Thread(target=handed.release)
    thread.start()
    thread.join()
    with other:
        pass
    assert set(recorder.edges) == set()


def test_a_condition_that_waits_does_not_hold_its_lock() -> None:
    recorder = OrderRecorder()
    outer, other = lock_of(recorder, "condition", real_rlock), lock_of(recorder, "other")
    condition = threading.Condition(outer)

    def notify() -> None:
        with other, condition:
            condition.notify()

    thread = threading.Thread(target=notify)
    with condition:
        thread.start()
        condition.wait(10)
    thread.join()
    assert set(recorder.edges) == {("other", "condition")}


def test_the_page_gives_each_lock_a_rank_and_an_order_against_it_is_refused() -> None:
    ranks = documented_ranks("| rank | locks |\n|---|---|\n| 1 | `a`, `b` |\n| 2 | `c` |\n")
    assert ranks == {"a": 1, "b": 1, "c": 2}
    assert objections({("a", "c")}, ranks) == []
    assert "rank 2" in objections({("c", "a")}, ranks)[0]
    assert len(objections({("a", "b")}, ranks)) == 1  # of one rank: neither may be held
    assert "not in docs/locks.md" in objections({("a", "z")}, ranks)[0]


def test_the_locks_page_names_no_lock_twice() -> None:
    rows = [line for line in LOCKS_PAGE.read_text().splitlines() if line[:3].strip("| ").isdigit()]
    names = [name for row in rows for name in row.split("|")[2].replace("`", "").split(",")]
    assert len({name.strip() for name in names}) == len(names) > 20


@pytest.mark.parametrize("processes", [[], ["-n", "1"]])
def test_the_plugin_fails_a_run_that_takes_locks_the_wrong_way_round(
    tmp_path: Path, processes: list[str]
) -> None:
    (tmp_path / "test_wrong.py").write_text(
        "from dataplane.deferred import _cleanup\n"
        "from dataplane.telemetry import Counters\n"
        "def test_wrong():\n"
        "    with Counters()._counts.lock, _cleanup._lock:\n"
        "        pass\n"
    )
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.locking.plugin", *processes,
         "--rootdir", str(tmp_path), "-c", os.devnull, str(tmp_path)],
        check=False, capture_output=True, text=True, timeout=100, cwd=LOCKS_PAGE.parents[1],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert "1 passed" in run.stdout
    wrong = "_Cleanup._lock (rank 11) is waited for while _Counts.lock (rank 12) is held"
    assert wrong in run.stdout
    assert run.returncode == 1


class _Extended(threading.Thread):
    """A class of ours that extends one of the standard library."""


def test_a_lock_of_a_standard_class_is_named_by_it_in_a_class_of_ours() -> None:
    names = []

    def make():
        names.append(name_of(_keeper(sys._getframe(1))))
        return real_lock()

    original = threading.Lock
    threading.Lock = make
    try:
        _Extended()
    finally:
        threading.Lock = original
    assert names == ["Thread._started"]
