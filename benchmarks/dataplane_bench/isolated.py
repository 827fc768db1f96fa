"""Isolated systems: each in a process of its own, so that they share no memory, threads or GIL.

The child is spawned once, builds its system, and serves `run` requests until it is closed; its
cost is measured inside it, so that start-up and imports do not count. It ignores Ctrl-C, which is
the parent's to handle: `close` ends it.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection

from dataplane.errors import DataplaneError
from dataplane.extras import install_hint
from dataplane_bench.model import Cost, System
from dataplane_bench.process_memory import tree_rss_bytes

__all__ = ["Isolated", "RivalFailed"]

_PEERS = frozenset({"litdata", "streaming"})
_PEERS_HINT = "in the checkout: make bench-peers"
_START_TIMEOUT_S = 120.0
_RUN_TIMEOUT_S = 900.0
_STOP_TIMEOUT_S = 10.0
_LEAVE_TIMEOUT_S = 2.0
_WATCH_INTERVAL_S = 0.05  # a look at the memory of a few processes takes 0.1 ms


class RivalFailed(DataplaneError):
    """Failure of a contender to start or to finish a run."""

    kind = "rival_failed"


class Isolated:
    """A `System` that lives in a spawned process.

    Args:
        name: as in `System`.
        threads: as in `System`.
        build: function that makes the system inside the child; must be importable (picklable).
        watch_memory: whether runs tell the memory that the child and its descendants held.
    """

    def __init__(
        self,
        name: str,
        threads: int,
        build: Callable[[], System],
        *,
        watch_memory: bool = False,
    ) -> None:
        self._name, self._threads, self._watch_memory = name, threads, watch_memory
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        # Not a daemon: rivals start worker processes of their own, which daemons may not.
        self._process = context.Process(target=_serve, args=(theirs, build), name=f"bench-{name}")
        self._busy = True
        with _interrupts_ignored():
            self._process.start()
        theirs.close()
        try:
            self._answer(_START_TIMEOUT_S)
        except BaseException:
            self.close()
            raise

    @property
    def name(self) -> str:
        """Name of the contender."""
        return self._name

    @property
    def threads(self) -> int:
        """Number of threads or workers it was given."""
        return self._threads

    def run(self, *arguments: object) -> Cost:
        """Have the child do the whole work once.

        Args:
            arguments: arguments of the system's own `run`, where it takes any.

        Raises:
            RivalFailed: the child raised, died, or took too long.
        """
        self._busy = True
        try:
            self._pipe.send(("run", arguments))
        except OSError as err:
            raise RivalFailed(f"{self._name} has ended") from err
        peak_bytes = self._watch(_RUN_TIMEOUT_S) if self._watch_memory else None
        cost = self._answer(_RUN_TIMEOUT_S)
        assert isinstance(cost, Cost)
        return cost if peak_bytes is None else dataclasses.replace(cost, peak_rss_bytes=peak_bytes)

    def close(self) -> None:
        """Stop the child, at once when it is in the middle of a run. Idempotent."""
        if self._busy:
            self._process.terminate()
        with suppress(OSError):
            self._pipe.send(("stop", ()))
        self._process.join(_LEAVE_TIMEOUT_S if self._busy else _STOP_TIMEOUT_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._pipe.close()

    def _watch(self, timeout_s: float) -> int:
        """Wait for an answer; returns the most memory of the child's processes meanwhile."""
        deadline_s = time.monotonic() + timeout_s
        assert self._process.pid is not None
        peak_bytes = tree_rss_bytes(self._process.pid)
        while not self._pipe.poll(_WATCH_INTERVAL_S) and time.monotonic() < deadline_s:
            peak_bytes = max(peak_bytes, tree_rss_bytes(self._process.pid))
        return max(peak_bytes, tree_rss_bytes(self._process.pid))

    def _answer(self, timeout_s: float) -> object:
        if not self._pipe.poll(timeout_s):
            raise RivalFailed(f"{self._name} gave no answer within {timeout_s:.0f} s")
        try:
            kind, value = self._pipe.recv()
        except EOFError as err:
            raise RivalFailed(f"{self._name} died (exit code {self._process.exitcode})") from err
        self._busy = False
        if kind == "missing":
            raise RivalFailed(
                f"{self._name} needs the Python package {value}, which is not installed",
                hint=_PEERS_HINT if value in _PEERS else install_hint("bench,s3"),
            )
        if kind == "error":
            raise RivalFailed(f"{self._name}: {value}")
        return value


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Ignore Ctrl-C in processes that are started in this block, from their first instruction on.

    A terminal sends it to all of them; it is the parent's to end them, without their tracebacks.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _leave(_signal: int, _frame: object) -> None:
    """Exit by way of the interpreter, which removes semaphores and files, without a word."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    sys.exit(1)


def _serve(pipe: Connection, build: Callable[[], System]) -> None:
    """The child's main loop."""
    signal.signal(signal.SIGTERM, _leave)
    try:
        system = build()
        pipe.send(("ready", None))
        while (asked := pipe.recv())[0] == "run":
            pipe.send(("cost", system.run(*asked[1])))
        system.close()
    except EOFError:
        return
    except ModuleNotFoundError as err:
        with suppress(OSError):
            pipe.send(("missing", err.name))
    except Exception as err:
        with suppress(OSError):
            pipe.send(("error", f"{type(err).__name__}: {err}"))
