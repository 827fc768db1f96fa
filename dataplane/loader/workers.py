"""Workers of a pass: where the user's code runs, and with which copy of it.

- With `num_workers=0` it runs in the training thread, the user's own objects.
- In threads each worker has a copy. What cannot be copied is shared, under a lock that lets one
  worker run at a time, with one warning.
- In processes each has a copy as well, of module-level variables too, and Python's lock is its own.

Which of the two is the loader's `transform_mode`. Where that is left open it is threads, which cost
no copies of arrays; processes, if copies would still share a module-level variable.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias

from dataplane.errors import ConfigError, LoaderError
from dataplane.loader.epoch_iterator import BatchWorker
from dataplane.loader.process_pool import ProcessPool
from dataplane.loader.random_streams import ProcessStreams, ThreadStreams
from dataplane.loader.stacklevel import users_stacklevel
from dataplane.loader.user_code import NotCopied, UserCode, Worker, WorkerSetup, copies
from dataplane.telemetry import logger

__all__ = ["TransformMode", "Workers"]

TransformMode: TypeAlias = Literal["thread", "process"] | None


class Workers:
    """Makes the workers of a loader's passes. Belongs to the training thread.

    Args:
        mode: where they run; None chooses.
        persistent: whether they keep their copies from pass to pass.
    """

    def __init__(self, mode: TransformMode, *, persistent: bool) -> None:
        self._mode = mode
        self._persistent = persistent
        self._lock = threading.Lock()
        self._pool = ProcessPool()
        self._before: Sequence[Any] = ()
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
            return [Worker(code, setup, ProcessStreams())]
        setups = [replace(setup, id=number) for number in range(setup.num_workers)]
        if self._persistent and len(self._before) == len(setups):
            for worker, own in zip(self._before, setups, strict=True):
                worker.begin(own)
            return self._before
        made = self._in_processes(code, setups) if self._mode == "process" else None
        made = made or self._in_threads(code, setups)
        if self._persistent:
            self._before = made
        return made

    def _in_threads(self, code: UserCode, setups: list[WorkerSetup]) -> Sequence[BatchWorker]:
        try:
            own = copies(code, len(setups))
        except NotCopied as err:
            if self._mode is None:
                logger.info("transform and collate_fn run in processes: %s", err)
                try:
                    return self._in_processes(code, setups)
                except ConfigError:
                    pass
            why: Exception = err
        except Exception as err:
            why = err
        else:
            return [
                Worker(copy, setup, ThreadStreams())
                for copy, setup in zip(own, setups, strict=True)
            ]
        self._warn(why, len(setups))
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
                f"{count} workers take turns with the one there is; have it open files and handles "
                "at its first call, and it can be copied",
                stacklevel=users_stacklevel(),
            )
