"""Worker process: calls a function for another process, which alone knows what it is.

The other side is `worker_process`. This module is what its child runs: it takes over the search
path, loads the function once, and answers each message with the function's result or error. It
has one thread of its own, and ends when its socket closes. Functions that were registered with
`atexit` are called then, and other threads are not waited for.

What is printed is flushed before each answer, since the process may be killed after it.
"""

from __future__ import annotations

import atexit
import os
import pickle
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from dataplane.child_process import end_with_parent, ignore_interrupts
from dataplane.loader.shared_messages import Connection, Packed, Received

__all__ = ["CALL", "CODE", "NOT_LOADED", "RAISED", "RESULT", "START", "Failure", "main"]

START = """\
import json, socket, sys
channel = socket.socket(fileno=int(sys.argv[1]))
about = json.loads(channel.recv(1 << 20))
sys.path[:], sys.argv[:] = about["path"], about["argv"]
from dataplane.loader.worker_main import main
main(channel, about["parent"])
"""
"""Program of the child: nothing can be imported before the search path is there."""

CODE, CALL = 1, 2
"""Messages to a worker: the pickled function, and an argument for it."""
RESULT, RAISED, NOT_LOADED = 1, 2, 3
"""Answers: what a call returned or raised, or that its argument could not be unpickled."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception on its way to the other process.

    Attributes:
        kind: name of its class.
        text: what it says.
        notes: notes on it, which not every class takes along when it is pickled.
        trace: traceback, with all exceptions behind it.
        pickled: the exception itself, if it can cross.
    """

    kind: str
    text: str
    notes: tuple[str, ...]
    trace: str
    pickled: bytes | None


def main(channel: socket.socket, parent: int) -> NoReturn:
    """Serve calls until the other end closes, and exit; never returns.

    Args:
        channel: socket of the messages.
        parent: process that started this one.
    """
    ignore_interrupts()
    end_with_parent(parent)
    channel.set_inheritable(False)
    connection = Connection(channel)
    # A fork of the user's must not keep the other side from noticing that this process is gone.
    os.register_at_fork(after_in_child=connection.close_channel)
    worker = _Worker(connection)
    code = 1
    try:
        with suppress(ConnectionError):  # the other side is gone
            worker.serve()
        code = 0
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
    finally:
        _flush()
        os._exit(code)


class _Worker:
    """The function, and how it is called."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pid = os.getpid()
        self._function: Callable[[Any], Any] | None = None
        self._not_loaded: BaseException | None = None
        self._is_torch_limited = False

    def serve(self) -> None:
        """Answer messages until there are no more."""
        while (received := self._connection.receive()) is not None:
            if received.kind == CODE:
                self._load(received)
                continue
            answer = self._answer(received)
            _flush()
            if os.getpid() != self._pid:  # a fork that the function made and returned in
                os._exit(0 if answer.kind == RESULT else 1)
            # After the last reference to the argument: its memory can be released with the answer.
            self._connection.send(answer)
            del received, answer

    def _load(self, received: Received) -> None:
        try:
            self._function = self._connection.dialect.loads(received.load())
        except BaseException as err:
            self._not_loaded = err.with_traceback(_without_ours(err))
        self._limit_torch()

    def _answer(self, received: Received) -> Packed:
        if self._not_loaded is not None or self._function is None:
            return self._failed(NOT_LOADED, self._not_loaded or RuntimeError("no function came"))
        self._limit_torch()
        try:
            arguments = [received.load()]
        except BaseException as err:
            return self._failed(NOT_LOADED, err)
        self._limit_torch()
        try:
            result = self._function(arguments.pop())
        except BaseException as err:
            return self._failed(RAISED, err)
        try:
            return self._connection.pack(RESULT, result)
        except BaseException as err:
            text = f"a result of type {_name(type(result))} cannot be sent from a worker process"
            try:
                raise TypeError(f"{text}: {err}") from err
            except TypeError as explained:
                return self._failed(RAISED, explained)

    def _failed(self, kind: int, err: BaseException) -> Packed:
        err = err.with_traceback(_without_ours(err))
        trace = "".join(traceback.format_exception(err))
        notes = tuple(map(str, getattr(err, "__notes__", ())))
        failure = Failure(_name(type(err)), _text(err), notes, trace, self._pickled(err))
        return self._connection.pack(kind, failure)

    def _pickled(self, err: BaseException) -> bytes | None:
        """Pickle an exception, if it is one of the function's errors and can be unpickled."""
        if not isinstance(err, Exception):
            return None  # SystemExit would end the other process as well
        try:
            pickled = self._connection.dialect.dumps_alone(err)
            # Many need other arguments than they keep.
            copy = pickle.loads(pickled)  # noqa: S301 - made one line above
        except Exception:
            return None
        return pickled if type(copy) is type(err) else None

    def _limit_torch(self) -> None:
        """Have torch use one thread, as soon as it is there: processes are parallel already."""
        if self._is_torch_limited:
            return
        set_num_threads = getattr(sys.modules.get("torch"), "set_num_threads", None)
        if set_num_threads is not None:
            set_num_threads(1)
            self._is_torch_limited = True


def _without_ours(err: BaseException) -> Any:
    """Return the traceback of an exception without the frame of this module."""
    trace = err.__traceback__
    if trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        return trace.tb_next
    return trace


def _name(kind: type) -> str:
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _text(err: BaseException) -> str:
    try:
        return str(err)
    except Exception as broken:
        return f"<no text: {_name(type(broken))}>"


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # closed or replaced by the user's code
            stream.flush()
