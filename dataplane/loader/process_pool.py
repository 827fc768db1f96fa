"""Worker processes of a loader, kept from pass to pass, and the user's code in each of them.

The process of a worker outlives a pass, since an interpreter with torch takes seconds to start; the
code in it does not, unless the loader has `persistent_workers`: each pass sends a fresh copy, as
torch's workers would be started with one.

A `ProcessWorker` holds its process for as long as its pass does; one that is let go of can be taken
by the next pass. A forked child starts processes of its own. `take` belongs to the training thread.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import cloudpickle

from dataplane.datasets.dataset import Dataset
from dataplane.datasets.views import packed_inside
from dataplane.loader.random_streams import ProcessStreams
from dataplane.loader.user_code import Task, UserCode, Worker, WorkerSetup
from dataplane.loader.user_copies import sent
from dataplane.loader.worker_process import WorkerProcess

__all__ = ["ProcessPool", "ProcessWorker"]


class _Server:
    """What a worker process runs: it loads the user's code and makes batches with it."""

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._packed: list[Dataset] = []
        self._told: list[dict[str, float]] = []

    def __call__(self, message: tuple[str, Any]) -> Any:
        kind, content = message
        if kind == "load":
            code, setup = cloudpickle.loads(content[0]), content[1]
            self._worker = Worker(code, setup, ProcessStreams())
            self._packed = packed_inside(code.dataset)
            self._told = [{} for _ in self._packed]
            return None
        assert self._worker is not None
        if kind == "begin":
            return self._worker.begin(content)
        return self._worker.run(content), self._counts()

    def _counts(self) -> list[dict[str, float]]:
        """Return what each packed dataset has counted here since the last time."""
        now = [dataset.counters.snapshot() for dataset in self._packed]
        before, self._told = self._told, now
        return [
            {name: count - old.get(name, 0) for name, count in new.items()}
            for new, old in zip(now, before, strict=True)
        ]


@dataclass(slots=True, weakref_slot=True, eq=False)
class _Slot:
    """A worker process and who has it."""

    process: WorkerProcess
    owner: weakref.ref[ProcessWorker] | None = None

    @property
    def is_free(self) -> bool:
        return self.owner is None or self.owner() is None


class ProcessWorker:
    """A worker of a pass whose code runs in a process of its own."""

    def __init__(self, slot: _Slot, code: tuple[bytes, WorkerSetup], packed: list[Dataset]) -> None:
        self._slot = slot
        self._packed = packed
        self._message: tuple[str, Any] | None = ("load", code)
        slot.owner = weakref.ref(self)

    @property
    def is_usable(self) -> bool:
        """Whether its process is there."""
        return self._slot.process.is_usable

    def begin(self, setup: WorkerSetup) -> None:
        """Begin a pass with the copy of the code that is there."""
        if self._message is None:
            self._message = ("begin", setup)

    def run(self, task: Task) -> Any:
        """Have the process make the batch of a task.

        Raises:
            LoaderError: the process has ended.
            Exception: what the user's code raised there.
        """
        if self._message is not None:
            self._slot.process.call(self._message)
            self._message = None
        content, counts = self._slot.process.call(("run", task))
        for dataset, counted in zip(self._packed, counts, strict=True):
            dataset.counters.add_all({name: count for name, count in counted.items() if count})
        return content


class ProcessPool:
    """The worker processes of a loader; those of a pool that is forgotten end soon."""

    def __init__(self) -> None:
        self._slots: list[_Slot] = []

    def take(self, code: UserCode, setups: list[WorkerSetup]) -> list[ProcessWorker]:
        """Return a worker for each of some setups.

        Raises:
            Exception: the code cannot be pickled; whatever its own parts raised.
            LoaderError: a process cannot be started.
        """
        packed = packed_inside(code.dataset)
        payload = sent(code)
        # One that was killed, or is that of a forked child's parent, is of no more use.
        self._slots = [slot for slot in self._slots if slot.process.is_usable]
        free = [slot for slot in self._slots if slot.is_free]
        while len(free) < len(setups):
            slot = _Slot(WorkerProcess(_SERVER, name=f"dp-worker-{len(self._slots)}"))
            self._slots.append(slot)
            free.append(slot)
        return [
            ProcessWorker(slot, (payload, setup), packed)
            for slot, setup in zip(free, setups, strict=False)
        ]


_SERVER = cloudpickle.dumps(_Server())
