"""The garbage collector runs under every lock, and no finalizer takes one."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.locking import scenarios, tracked
from tests.locking.collector import Collector

REPOSITORY = Path(__file__).parents[2]


def test_no_finalizer_takes_a_lock_whatever_is_abandoned() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.locking.collector", "--seconds", "1.5"],
        check=False,
        capture_output=True,
        text=True,
        timeout=115,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *rounds, summary = done.stdout.splitlines()
    assert {line.split(":")[0] for line in rounds} == set(scenarios.ALL)
    assert int(summary.split()[0]) > 100  # collections under locks


class Loop:
    """Lets go of a lock's user in a way that only the garbage collector ends."""

    def __init__(self, lock: tracked.Tracked) -> None:
        self.lock = lock
        self.itself = self

    def __del__(self) -> None:
        with self.lock:
            pass


def test_a_finalizer_that_takes_a_lock_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", lambda failed: shown.append(str(failed.exc_value)))
    collector = Collector(every=1, seed=0)
    free = tracked.Tracked("free", tracked.real_lock(), collector)
    held = tracked.Tracked("held", tracked.real_lock(), collector)
    gc.disable()
    try:
        Loop(free)
        with held:
            pass
        assert list(collector.found) == ["free"]
        Loop(held)
        with held:
            pass  # would wait for itself; the collector breaks that up
        assert shown == ["here the process would hang"]
    finally:
        gc.enable()
    assert set(collector.found) == {"free", "held"}
    assert "__del__" in collector.found["held"]


def test_a_tracked_lock_works_like_one_of_threading() -> None:
    collector = Collector(every=1_000_000, seed=0)
    for inner in (tracked.real_lock(), tracked.real_rlock()):
        condition = threading.Condition(tracked.Tracked("c", inner, collector))
        done = []

        def wait(condition: threading.Condition = condition, done: list[int] = done) -> None:
            with condition:
                done.append(condition.wait_for(lambda: len(done) == 1, timeout=10))

        with condition:
            waiter = threading.Thread(target=wait)
            waiter.start()
            assert not condition.wait(timeout=0.01)
            done.append(0)
            condition.notify_all()
        waiter.join()
        assert done == [0, True]
