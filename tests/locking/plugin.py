"""A pytest plugin that records the lock order of a run: `pytest -p tests.locking.plugin`.

Loaded before any test module, and so before dataplane. At the end the run fails when locks were
taken in a circle, or in an order that docs/locks.md does not have. Forked and started processes are
not recorded; those of pytest-xdist are, and the first process judges what all of them saw.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import pytest

from tests.locking import tracked
from tests.locking.order import LOCKS_PAGE, OrderRecorder, documented_ranks, objections

_recorder = OrderRecorder()
tracked.install(_recorder)

_EDGES = "lock_edges"
_BYTES = {1024: "SETUP_BYTE", 1025: "EVICT_BYTE", 1027: "PINS_BYTE", 1028: "CATALOG_BYTE"}


def _byte_name(fd: int, byte: int) -> str | None:
    """Name a byte of a cache's `lock` file; those of other files are never waited for in turns."""
    if Path(os.readlink(f"/proc/self/fd/{fd}")).name != "lock":
        return None
    return "shard byte" if byte < 256 else _BYTES.get(byte)


def _track_bytes() -> None:
    """Record the byte locks of cache directories like those of the process."""
    import fcntl

    from dataplane.cache.disk import locks

    held: dict[tuple[int, int], tracked.Tracked] = {}
    take = locks.lock_byte

    @functools.wraps(take)
    def lock_byte(fd: int, kind: int, byte: Any, *, wait: bool) -> bool:
        name = _byte_name(fd, byte)
        if name is None:
            return take(fd, kind, byte, wait=wait)
        if kind == fcntl.F_UNLCK:
            lock = held.pop((fd, byte), None)
            if lock is not None:
                _recorder.released(lock)
            return take(fd, kind, byte, wait=wait)
        lock = tracked.Tracked(name, None, _recorder)
        _recorder.before(lock, blocking=wait)
        taken = take(fd, kind, byte, wait=wait)
        if taken and kind == fcntl.F_WRLCK:
            held[fd, byte] = lock
            _recorder.acquired(lock)
        return taken

    locks.lock_byte = lock_byte


def pytest_sessionstart(session: pytest.Session) -> None:
    _track_bytes()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    output = getattr(session.config, "workeroutput", None)
    if output is not None:  # a process of pytest-xdist
        output[_EDGES] = [[*names, stack] for names, stack in _recorder.edges.items()]
    elif _wrong() and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take over what a process of pytest-xdist recorded; one that died is reported by xdist."""
    del error
    for first, second, stack in getattr(node, "workeroutput", {}).get(_EDGES, ()):
        _recorder.edges.setdefault((first, second), stack)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    edges = _recorder.edges
    terminalreporter.section("lock order")
    terminalreporter.write_line(f"{len(edges)} pairs of locks were held together")
    for first, second in sorted(edges):
        terminalreporter.write_line(f"  {first} -> {second}")
    for text in _wrong():
        terminalreporter.write_line(text, red=True)
    ranks = documented_ranks(LOCKS_PAGE.read_text())
    for (first, second), stack in sorted(edges.items()):
        if ranks.get(first, 0) >= ranks.get(second, -1):
            terminalreporter.write_line(f"\n{first} -> {second}, first seen at:\n{stack}")


def _wrong() -> list[str]:
    return objections(set(_recorder.edges), documented_ranks(LOCKS_PAGE.read_text()))
