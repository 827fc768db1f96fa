"""Collections of what is alive."""

from __future__ import annotations

import gc
import sys
import threading

from dataplane.weak_registry import WeakRegistry


class Thing:
    """Something that can be referred to weakly."""


def test_members_are_there_for_as_long_as_they_live() -> None:
    alive: WeakRegistry[Thing] = WeakRegistry()
    first, second = Thing(), Thing()
    alive.add(first)
    alive.add(second)
    assert list(alive) == [first, second]
    del first
    gc.collect()
    assert list(alive) == [second]
    alive.clear()
    assert list(alive) == []
    del second
    gc.collect()
    assert list(alive) == []


def test_it_can_be_gone_through_while_others_add_and_die() -> None:
    """`weakref.WeakSet` raises "Set changed size during iteration" here."""
    alive: WeakRegistry[Thing] = WeakRegistry()
    kept = [Thing() for _ in range(20)]
    for thing in kept:
        alive.add(thing)
    rounds = 0
    done = threading.Event()

    def come_and_go() -> None:
        nonlocal rounds
        while not done.is_set():
            alive.add(Thing())
            rounds += 1

    others = [threading.Thread(target=come_and_go) for _ in range(3)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in others:
            thread.start()
        while rounds < 20_000:
            assert set(kept) <= set(alive)
    finally:
        done.set()
        sys.setswitchinterval(interval)
        for thread in others:
            thread.join()
    gc.collect()
    assert list(alive) == kept
