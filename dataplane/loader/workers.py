"""Workers of a pass: where the user's code runs, and with which copy of it.

- With `num_workers=0` it runs in the training thread, the user's own objects.
- In threads each worker has a copy. What cannot be copied is shared, under a lock that lets one
  worker run at a time, with one warning.
- In processes each has a copy as well, of module-level variables too, and Python's lock is its own.

Which of the two is the loader's `transform_mode`. A process imports modules anew, so it does not
know what the script has changed in them: that has to be asked for.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias

from dataplane.errors import ConfigError, LoaderError
from dataplane.loader.process_pool import ProcessPool
from dataplane.loader.random_streams import StreamsHere, ThreadStreams
from dataplane.loader.stacklevel import users_stacklevel
from dataplane.loader.stages import BatchWorker
from dataplane.loader.user_code import UserCode, Worker, WorkerSetup
from dataplane.loader.user_copies import copies

__all__ = ["TransformMode", "Workers"]

TransformMode: TypeAlias = Literal["thread", "process"]


class _Crew(list[Any]):
    """The persistent workers of a pass; it lives as long as the pass does."""


class Workers:
    """Makes the workers of a loader's passes. Belongs to the training thread.

    Args:
        mode: where they run.
        persistent: whether they keep their copies from pass to pass.
    """

    def __init__(self, mode: TransformMode, *, persistent: bool) -> None:
        self._mode = mode
        self._persistent = persistent
        self._lock = threading.Lock()
        self._pool = ProcessPool()
        self._kept: Sequence[Any] = ()  # of passes that have ended, where they are persistent
        self._crew: weakref.ref[_Crew] | None = None
        self._is_told = False

    def make(self, code: UserCode, setup: WorkerSetup) -> Sequence[BatchWorker]:
        """Return the workers of a pass.

        Args:
            code: the user's code.
            setup: setup of all of them, without their numbers.

        Raises:
            ConfigError: the code is to run in processes and cannot be pickled.
        """
        if not setup.num_workers:
            return [Worker(code, setup, StreamsHere())]
        setups = [replace(setup, id=number) for number in range(setup.num_workers)]
        is_busy = self._crew is not None and self._crew() is not None
        is_kept = len(self._kept) == len(setups) and all(one.is_usable for one in self._kept)
        if self._persistent and not is_busy and is_kept:
            for worker, own in zip(self._kept, setups, strict=True):
                worker.begin(own)
            made = self._kept
        elif self._mode == "process":
            made = self._in_processes(code, setups)
        else:
            made = self._in_threads(code, setups)
        if not self._persistent or is_busy:
            return made  # a pass beside another one has workers of its own
        self._kept = made
        crew = _Crew(made)
        self._crew = weakref.ref(crew)
        return crew

    def _in_threads(self, code: UserCode, setups: list[WorkerSetup]) -> Sequence[BatchWorker]:
        try:
            own = copies(code, len(setups))
        except Exception as err:
            self._warn(err, len(setups))
        else:
            return [
                Worker(copy, setup, ThreadStreams())
                for copy, setup in zip(own, setups, strict=True)
            ]
        return [Worker(code, setup, ThreadStreams(), self._lock) for setup in setups]

    def _in_processes(self, code: UserCode, setups: list[WorkerSetup]) -> Sequence[BatchWorker]:
        try:
            return self._pool.take(code, setups)
        except LoaderError:
            raise
        except Exception as err:
            raise ConfigError(
                f"transform, collate_fn or dataset cannot be sent to a process: {err}",
                hint='have it open files and handles at its first call, or use "thread"',
            ) from err

    def _warn(self, why: Exception, count: int) -> None:
        if not self._is_told:
            self._is_told = True
            warnings.warn(
                f"transform, collate_fn or dataset cannot be copied for each worker ({why}): the "
                f"{count} workers take turns with the one there is; keep such things in an object "
                'that can be copied, opened at its first call, or pass transform_mode="process"',
                stacklevel=users_stacklevel(),
            )
