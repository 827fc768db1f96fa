"""Child processes: Python interpreters that are started for this process and end with it.

What the readers of VTK files and the workers of a loader have in common: the search path that they
take over, and the death signal. `start_interpreter` starts a fresh interpreter in the way that a
death signal asks for: the kernel sends it when the *thread* that started the child ends, not the
process, so a child of a passing thread would be killed with that. One thread, dp-start, lives as
long as the process and starts them all. It blocks SIGINT, which its children begin with: a Ctrl-C
in the terminal cannot end one that has not come so far as to ignore it (`ignore_interrupts`).

`output_of` asks a short-lived child for its output, with a deadline that holds whatever the child
hangs in: what may block for ever, such as a look at a dead mount, is looked at so.

Thread-safe. Lock: `_Starter._lock` guards that the thread is started once. A forked child begins
without that thread.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from dataplane import deferred
from dataplane.daemon_thread import DaemonThread

__all__ = [
    "Output",
    "end_with_parent",
    "ignore_interrupts",
    "output_of",
    "search_path",
    "start_interpreter",
]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True, slots=True)
class Output:
    """Output of a child that has ended.

    Attributes:
        code: its exit status; minus the signal that ended it.
        text: what it wrote to standard output.
        errors: what it wrote to standard error.
    """

    code: int
    text: str
    errors: str


def output_of(
    command: Sequence[str], timeout_s: float, *, environ: Mapping[str, str] | None = None
) -> Output | None:
    """Run a command to its end, and return its output; None when it did not end in time.

    Args:
        command: program and arguments.
        timeout_s: time that it has; then it is killed.
        environ: its environment; by default that of this process.

    Raises:
        OSError: it cannot be started.
    """
    child = subprocess.Popen(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=None if environ is None else dict(environ),
    )
    try:
        text, errors = child.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        _abandon(child)
        return None
    except BaseException:  # Ctrl-C
        _abandon(child)
        raise
    return Output(child.returncode, text, errors)


def _abandon(child: subprocess.Popen[str]) -> None:
    """Kill a child that may be stuck in a mount, where it ends only when the mount does."""
    child.kill()
    for stream in (child.stdout, child.stderr):
        assert stream is not None, "it was started with pipes"
        stream.close()
    try:
        child.wait(timeout=1)
    except subprocess.TimeoutExpired:
        child.returncode = -signal.SIGKILL  # not to be waited for any more; init will


def search_path() -> list[str]:
    """Return `sys.path` for another process: its current folder is written out."""
    return [str(path) or str(Path.cwd()) for path in sys.path]


def start_interpreter(arguments: Sequence[str], handles: Sequence[int]) -> subprocess.Popen[bytes]:
    """Start a Python of the same kind and options, with its output where this one's goes.

    Args:
        arguments: arguments after the options of the interpreter.
        handles: descriptors that the child inherits, under the same numbers.

    Raises:
        OSError: it cannot be started.
        RuntimeError: the system refuses a thread.
    """
    # Never the folder that happens to be the current one (-P): the child is told its search path.
    options = [*subprocess._args_from_interpreter_flags(), "-P"]  # type: ignore[attr-defined]
    command = [sys.executable or "", *options, *arguments]
    return _starter.start(
        lambda: subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=tuple(handles))
    )


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends.

    Args:
        parent: process that started this one; when it is gone already, this one ends here.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def ignore_interrupts() -> None:
    """Leave Ctrl-C, which goes to all processes of the terminal, to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


class _Starter:
    """The thread that starts children, for as long as this process lives."""

    def __init__(self) -> None:
        self._orders: SimpleQueue[_Order] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self, popen: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        deferred.prepare()
        with self._lock:
            if self._thread is None:
                thread = DaemonThread(self._work, name="dp-start")
                thread.start()
                self._thread = thread
        order = _Order(popen)
        self._orders.put(order)
        try:
            started = order.started.get()
        except BaseException:  # Ctrl-C: nobody else would end a child that nobody was given
            deferred.defer(order.cancel)
            raise
        if isinstance(started, BaseException):
            raise started
        return started

    def _work(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        while True:
            self._orders.get().run()


class _Order:
    """One child to start."""

    def __init__(self, popen: Callable[[], subprocess.Popen[bytes]]) -> None:
        self._popen = popen
        self.started: SimpleQueue[subprocess.Popen[bytes] | BaseException] = SimpleQueue()

    def run(self) -> None:
        try:
            self.started.put(self._popen())
        except BaseException as err:  # the boundary of this thread: it is the caller's
            self.started.put(err)

    def cancel(self) -> None:
        started = self.started.get()
        if isinstance(started, subprocess.Popen):
            started.kill()
            started.wait()


_starter = _Starter()


def _after_fork_in_child() -> None:
    global _starter  # noqa: PLW0603 - the child has neither the thread nor its orders
    _starter = _Starter()


os.register_at_fork(after_in_child=_after_fork_in_child)
