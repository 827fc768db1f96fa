"""No finalizer of the source calls anything that takes a lock or waits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.locking.finalizers import Finalizers
from tests.locking.sources import Project

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def finalizers() -> Finalizers:
    return Finalizers(
        Project(
            {
                "dataplane": REPOSITORY / "dataplane",
                "dataplane_fuse": REPOSITORY / "mounts" / "dataplane_fuse",
            }
        )
    )


def objections(finalizers: Finalizers) -> dict[str, list[str]]:
    found = {}
    for label, function, code in finalizers.all():
        against = finalizers.objections(code, function)
        if against and not (label.endswith(", dropped") and finalizers.is_always_closed(function)):
            found[label] = against
    return found


def test_no_finalizer_takes_a_lock_or_waits(finalizers: Finalizers) -> None:
    assert objections(finalizers) == {}


def test_the_finalizers_of_the_source_are_found(finalizers: Finalizers) -> None:
    labels = {label for label, _, _ in finalizers.all()}
    assert "dataplane.cache.disk.directory.Directory.__del__" in labels
    assert "dataplane.stores.policy.limit.LimitStore.stream_range, dropped" in labels
    assert "dataplane.loader.pipeline.Pipeline.__init__: stop.abandon, called by weakref" in labels


HEAD = """
import contextlib, os, threading, weakref
from collections.abc import Iterator
from queue import SimpleQueue

class Gate:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._notes: SimpleQueue[None] = SimpleQueue()

    def leave(self) -> None:
        with self._lock:
            pass

    def note(self) -> None:
        self._notes.put(None)
"""


@pytest.mark.parametrize(
    ("source", "objection"),
    [
        (
            "class File:\n"
            "    def __init__(self) -> None:\n"
            "        self._semaphore = Gate()\n"
            "    def __del__(self) -> None:\n"
            "        self._semaphore.leave()\n",
            "with self._lock",
        ),
        (
            "class File:\n"
            "    def __del__(self) -> None:\n"
            "        self.done = threading.Event()\n"
            "        self.done.set()\n",
            "threading.Event",
        ),
        (
            "def stop() -> None:\n    join()\ndef make(x: object) -> None:\n"
            "    weakref.finalize(x, stop)\n",
            "join",
        ),
        (
            "from dataplane.finalizers import finalize\n"
            "def stop() -> None:\n    join()\ndef make(x: object) -> None:\n"
            "    finalize(x, stop)\n",
            "join",
        ),
        (
            "def pieces(gate: Gate) -> Iterator[int]:\n"
            "    try:\n        yield 1\n    finally:\n        gate.leave()\n",
            "with self._lock",
        ),
        (
            "def pieces() -> Iterator[int]:\n    lock = threading.Lock()\n"
            "    with lock:\n        yield 1\n",
            "lock.__exit__",
        ),
        (
            "@contextlib.contextmanager\ndef turn(gate: Gate) -> Iterator[None]:\n"
            "    try:\n        yield\n    finally:\n        gate.leave()\n"
            "def pieces(gate: Gate) -> Iterator[int]:\n"
            "    with turn(gate):\n        yield 1\n",
            "with self._lock",
        ),
        ("class File:\n    def __del__(self) -> None:\n        self.unknown.close()\n", "unknown"),
    ],
)
def test_a_lock_behind_any_finalizer_is_found(tmp_path: Path, source: str, objection: str) -> None:
    (tmp_path / "made.py").write_text(HEAD + source)
    found = objections(Finalizers(Project({"made_up": tmp_path})))
    assert len(found) == 1
    assert objection in " ".join(next(iter(found.values())))


@pytest.mark.parametrize(
    "source",
    [
        "class File:\n    def __init__(self) -> None:\n        self._semaphore = Gate()\n"
        "    def __del__(self) -> None:\n        self._semaphore.note()\n        os.close(3)\n",
        "def pieces(gate: Gate) -> Iterator[int]:\n"
        "    try:\n        yield 1\n    finally:\n        gate.leave()\n"
        "def use(gate: Gate) -> None:\n"
        "    with contextlib.closing(pieces(gate)) as found:\n        print(list(found))\n",
    ],
)
def test_notes_and_generators_that_are_always_closed_pass(tmp_path: Path, source: str) -> None:
    (tmp_path / "made.py").write_text(HEAD + source)
    assert objections(Finalizers(Project({"made_up": tmp_path}))) == {}
