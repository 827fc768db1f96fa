"""Worker processes of a loader: pure Python code of the user's, beyond the reach of this GIL.

A `WorkerProcess` is a fresh interpreter that has loaded one function (`worker_main`) and calls it
for this process. It is no fork, so threads and locks of this process do not matter to it; it does
not run the user's program again, so that needs no `if __name__ == "__main__"`. Arguments and
results go through shared memory (`shared_messages`).

    this process                              worker
    code ───────────────────────────────────> loaded once
    argument ───────────────────────────────> function(argument)
    result, or the exception <───────────────

How it ends: with `close`, at exit, soon after nothing refers to it any more, or with this process,
whatever ends that (`child_process`). A worker that ends by itself is an error at the call that is
under way, or the next one.

Thread-safety: one call at a time; a second one is refused. `close` may be called from any thread,
and ends a call that is under way. No lock is taken: whoever has the turn, of which there is one,
may use the socket. A forked child has no part in the workers of its parent.
"""

from __future__ import annotations

import atexit
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any, Self

from dataplane import deferred, process_exit
from dataplane.child_process import search_path, start_interpreter
from dataplane.errors import LoaderError
from dataplane.finalizers import finalize
from dataplane.loader.shared_messages import Connection, Packed, Received, pair
from dataplane.loader.worker_main import CALL, CODE, NOT_LOADED, RESULT, START, Failure

__all__ = ["WorkerProcess"]

_GRACE_S = 2.0
"""Time for an idle worker to end by itself, and for one whose socket has closed to be gone."""


class WorkerProcess:
    """Process that calls a function for this one. A context manager; `close()` ends it.

    The process starts in the background: what is wrong with the code is said by the first call.

    Args:
        code: function of one argument, as cloudpickle's bytes.
        name: name for messages and the list of processes.

    Raises:
        LoaderError: the process cannot be started.

    Example:
        >>> import cloudpickle
        >>> with WorkerProcess(cloudpickle.dumps(lambda text: text.upper()), name="loud") as worker:
        ...     worker.call("hello")
        'HELLO'
    """

    def __init__(self, code: bytes, *, name: str) -> None:
        deferred.prepare()
        self._child = child = _Child(name)
        self._call_off = finalize(self, deferred.defer, child.close)
        try:
            packed = child.connection.pack(CODE, pickle.PickleBuffer(code))
            with suppress(ConnectionError):  # it has ended: the first call says so
                child.connection.send(packed)
        except OSError as err:
            self.close()
            raise LoaderError(f"{child} was ended, its code cannot be sent: {err}") from err
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<WorkerProcess {self._child.name}, pid {self.pid}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Number of the process, also when it has ended."""
        return self._child.process.pid

    @property
    def is_usable(self) -> bool:
        """Whether it can be called from here: it has not ended, and is not that of a parent."""
        return self._child.is_usable

    def call(self, argument: object) -> Any:
        """Have the function called, and return what it returns.

        Arrays and tensors of the result are writable and belong to the caller. An error here other
        than LoaderError leaves the worker as it was, except one that interrupts the wait.

        Raises:
            LoaderError: the worker has ended, was closed, is busy, or is that of another process.
            RuntimeError: the function raised something that cannot be brought here as it is.
            Exception: whatever the function raised, with the traceback of the worker as a note.
        """
        child = self._child
        child.take_turn()
        try:
            packed = child.connection.pack(CALL, argument)
            received = child.exchange(packed)
        finally:
            child.give_turn()
        if received.kind != NOT_LOADED:
            child.connection.dialect.arrived(packed.pickled)
        del packed
        if received.kind == RESULT:
            return received.load()
        raise self._error(received.load())

    def close(self) -> None:
        """End the process; a call that is under way in another thread fails. Idempotent."""
        self._call_off()
        self._child.close()

    def _error(self, failure: Failure) -> Exception:
        error: Exception = RuntimeError(f"{failure.kind}: {failure.text}")
        if failure.pickled is not None:
            with suppress(Exception):  # a class that only the worker can import
                error = self._child.connection.dialect.loads(failure.pickled)
        if not hasattr(error, "__notes__"):
            for note in failure.notes:
                error.add_note(note)
        error.add_note(f"It was raised in {self._child}:\n\n{failure.trace}")
        return error


class _Child:
    """The process and its socket.

    Raises:
        LoaderError: it cannot be started.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._owner = os.getpid()
        self._turn = [True]  # empty while a call is under way, and after the end
        self._closer = [True]  # empty once somebody closes
        self._is_closing = False
        self._is_woken = False
        self._was_idle = False
        # Its words, and no error: one that was raised leads to the caller's frames, and what they
        # hold, the pass that waits for this process among it.
        self._end: tuple[str, str] | None = None
        try:
            ours, theirs = pair()
            self.connection = Connection(ours)
            try:
                with theirs:
                    arguments = ["-c", START, str(theirs.fileno()), name]
                    self.process = start_interpreter(arguments, [theirs.fileno()])
            except BaseException:
                self.connection.close()
                raise
        except (OSError, RuntimeError) as err:
            raise LoaderError(f"the worker process {name} cannot be started: {err}") from err
        _children.add(self)
        about = {"path": search_path(), "argv": [*map(str, sys.argv)], "parent": self._owner}
        try:
            with suppress(ConnectionError):  # it has ended: the first call says so
                ours.sendall(json.dumps(about).encode())
        except BaseException as err:
            self.close()
            if isinstance(err, OSError):
                raise LoaderError(f"{self} was ended, it cannot be told its path: {err}") from err
            raise

    def __str__(self) -> str:
        return f"the worker process {self.name} (pid {self.process.pid})"

    @property
    def is_usable(self) -> bool:
        if os.getpid() != self._owner or self._end is not None or self._is_closing:
            return False
        return not self._has_ended()

    def _has_ended(self) -> bool:
        """Whether the process is gone.

        `Popen.poll` says of one that is gone that it is there while another thread waits for it.
        """
        if self.process.returncode is not None:
            return True
        look = os.WEXITED | os.WNOHANG | os.WNOWAIT
        try:
            return os.waitid(os.P_PID, self.process.pid, look) is not None
        except ChildProcessError:  # somebody has waited for it just now
            return True

    def take_turn(self) -> None:
        """Become the one who uses the connection.

        Raises:
            LoaderError: that cannot be.
        """
        if os.getpid() != self._owner:
            raise LoaderError(
                f"{self} is that of process {self._owner}, this is its fork {os.getpid()}",
                hint="start another one here",
            )
        if self._end is not None:
            raise self._ended()
        try:
            self._turn.pop()
        except IndexError:
            why = "is closed" if self._is_closing else "is busy: it takes one call at a time"
            raise LoaderError(f"{self} {why}") from None

    def give_turn(self) -> None:
        """Let others use the connection."""
        self._turn.append(True)
        if self._is_woken:
            self._close_connection()

    def exchange(self, packed: Packed) -> Received:
        """Send a message and wait for the answer; for the one who has the turn.

        Raises:
            LoaderError: there will be none.
        """
        try:
            self.connection.send(packed)
            received = self.connection.receive()
        except ConnectionError:
            received = None
        except OSError as err:
            self.close()
            self._end = f"{self} was ended, its answer cannot be received: {err}", ""
            raise self._ended() from err
        except BaseException:
            self.close()  # nobody waits for the answer any more
            raise
        if received is None:
            raise self._gone()
        return received

    def begin_close(self) -> None:
        """Have the process end, and the call that is under way. Idempotent."""
        if os.getpid() != self._owner:
            return
        self._is_closing = True
        try:
            self._closer.pop()
        except IndexError:
            return  # somebody else closes it
        self.connection.wake()
        self._is_woken = True  # only now may the descriptor be closed
        self._was_idle = self._close_connection()

    def close(self, grace_s: float = _GRACE_S) -> None:
        """End the process, and wait until it is gone. Idempotent.

        Args:
            grace_s: time for it to end by itself. One that is in the middle of the user's code is
                killed at once, as it would first go on to the end of that.
        """
        if os.getpid() != self._owner:
            return
        self.begin_close()
        try:
            self.process.wait(grace_s if self._was_idle else 0)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.process.kill()
            self.process.wait()
        _children.discard(self)

    def forget(self) -> None:
        """Give up a fork's share in it, without a word to the process, which is the parent's."""
        self.connection.close_channel()
        self.process.returncode = 0  # it is nobody's to wait for here

    def _close_connection(self) -> bool:
        """Close it unless it is in use: then who uses it does that."""
        try:
            self._turn.pop()
        except IndexError:
            return False
        self.connection.close()
        return True

    def _gone(self) -> BaseException:
        if self._is_closing:
            if process_exit.ends_this_thread():
                return SystemExit()
            return LoaderError(f"{self} was closed during a call")
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_GRACE_S)
        why, hint = _said_by(self.process.returncode)
        self._end = f"{self} {why}", hint
        self.close()
        return self._ended()

    def _ended(self) -> LoaderError:
        assert self._end is not None
        message, hint = self._end
        return LoaderError(message, hint=hint or None)


def _said_by(code: int | None) -> tuple[str, str]:
    """Say how a process ended, and what its user can do."""
    if code is None:
        return "closed its socket", "the function must leave descriptors alone that are not its own"
    if code >= 0:
        return (
            f"ended by itself (exit code {code})",
            "the function must return, not end the process",
        )
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = str(-code)
    if -code == signal.SIGKILL:
        return (
            f"was killed ({name})",
            "most likely memory was short: use fewer workers or smaller batches",
        )
    return (
        f"was ended by a signal ({name})",
        "a library that the function calls crashed: PYTHONFAULTHANDLER=1 shows where",
    )


_children: set[_Child] = set()


def _close_all() -> None:
    """End the workers that are still there when the process ends, all at once."""
    process_exit.begin()
    children = list(_children)
    for child in children:
        child.begin_close()
    until_s = time.monotonic() + _GRACE_S
    for child in children:
        child.close(max(until_s - time.monotonic(), 0))


def _after_fork_in_child() -> None:
    for child in _children:
        child.forget()
    _children.clear()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_after_fork_in_child)
