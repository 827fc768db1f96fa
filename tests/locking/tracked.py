"""Locks that tell an observer when they are taken, in place of those of `threading`.

`install` replaces the factories of `threading`, so that every lock which dataplane makes from then
on, also through a `Condition`, an `Event`, a `Future` or a `Queue`, is a tracked one. Install it
before dataplane is imported. Locks of other packages stay as they are.

A lock is named after the attribute or variable that it is first kept in: `Plan._lock`. One inside
an object of the standard library has that object's name for it: `Future._condition`.
"""

from __future__ import annotations

import linecache
import re
import sys
import threading
from types import FrameType
from typing import Any, Protocol

OUR_PACKAGES = ("dataplane", "dataplane_fuse")
_NOT_OURS = "dataplane_testing"  # servers and tests that others use
_STANDARD = ("threading", "queue", "concurrent.futures", "contextlib", "dataclasses")
_PLAIN = (threading.Condition, threading.Event, threading.Semaphore)  # named as locks are
_KEPT_IN = re.compile(r"^\s*(?:self\.)?(\w+)\s*(?::[^=]+)?=")

real_lock = threading.Lock
real_rlock = threading.RLock


class Observer(Protocol):
    """What wants to know of locks. Its methods run in the thread that takes the lock."""

    def before(self, lock: Tracked, *, blocking: bool) -> None: ...

    def acquired(self, lock: Tracked) -> None: ...

    def released(self, lock: Tracked) -> None: ...


class Tracked:
    """A lock or reentrant lock with a name."""

    def __init__(self, name: str, inner: Any, observer: Observer) -> None:
        self.name = name
        self.inner = inner
        self.observer = observer
        self.depth = 0  # of a reentrant one: only its holder touches it
        self.holder: Any = None  # the observer's, while it is held
        if hasattr(inner, "_is_owned"):
            # `Condition` asks for these, and makes do without them for a plain lock.
            self._is_owned = inner._is_owned
            self._release_save = self._save
            self._acquire_restore = self._restore
        if hasattr(inner, "_at_fork_reinit"):
            self._at_fork_reinit = inner._at_fork_reinit

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self._is_mine():
            self.inner.acquire()
            self.depth += 1
            return True
        self.observer.before(self, blocking=blocking)
        taken = self.inner.acquire(blocking, timeout)
        if taken:
            self.depth = 1
            self.observer.acquired(self)
        return taken

    def release(self) -> None:
        if self.depth > 1:
            self.depth -= 1
        else:
            self.depth = 0
            self.observer.released(self)
        self.inner.release()

    def locked(self) -> bool:
        return self.inner.locked()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def _is_mine(self) -> bool:
        return hasattr(self.inner, "_is_owned") and self.inner._is_owned()

    def _save(self) -> Any:
        depth, self.depth = self.depth, 0
        self.observer.released(self)
        return depth, self.inner._release_save()

    def _restore(self, saved: Any) -> None:
        depth, inner = saved
        self.observer.before(self, blocking=True)
        self.inner._acquire_restore(inner)
        self.depth = depth
        self.observer.acquired(self)


class Factory:
    """Makes locks in the place of one of `threading`'s functions.

    No function of Python, because those become methods where a class keeps them.
    """

    def __init__(self, inner: Any, observer: Observer) -> None:
        self._inner = inner
        self._observer = observer

    def __call__(self) -> Any:
        frame = sys._getframe(1)
        if not _is_ours(frame):
            return self._inner()
        return Tracked(name_of(_keeper(frame)), self._inner(), self._observer)


def install(observer: Observer) -> None:
    """Have all locks that dataplane makes from now on observed."""
    threading.Lock = Factory(real_lock, observer)  # type: ignore[assignment]
    threading.RLock = Factory(real_rlock, observer)  # type: ignore[assignment]


_GENERATORS = ("RandomState", "PCG64")
"""Classes of NumPy that make a lock, as they are called."""


def _is_ours(frame: FrameType | None) -> bool:
    """Whether dataplane asks for a lock, maybe by way of the standard library.

    What C code of others asks for has the frame of whoever called it: generators of NumPy do.
    """
    if frame is not None:
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        if any(name in line for name in _GENERATORS):
            return False
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.split(".")[0] in OUR_PACKAGES:
            return not module.startswith(_NOT_OURS)
        if not module.startswith(_STANDARD):
            return False
        frame = frame.f_back
    return False


def _keeper(frame: FrameType) -> FrameType:
    """Return the frame that keeps a lock: not that of a condition or event around it."""
    while isinstance(frame.f_locals.get("self"), _PLAIN) and frame.f_back is not None:
        frame = frame.f_back
    return frame


def _class_of(owner: object, frame: FrameType) -> type:
    """Return an object's class, or the one of the standard library that a class of ours extends."""
    module = str(frame.f_globals["__name__"])
    if module.startswith(_STANDARD):
        return next((one for one in type(owner).__mro__ if one.__module__ == module), type(owner))
    return type(owner)


def name_of(frame: FrameType) -> str:
    """Name what is made on the line that a frame is at."""
    module = str(frame.f_globals["__name__"]).removeprefix("dataplane.")
    owner = frame.f_locals.get("self")
    where = module if owner is None else _class_of(owner, frame).__name__
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
    kept = _KEPT_IN.match(line)
    # What a dataclass's own __init__ makes has no line to read.
    return f"{where}.{kept.group(1) if kept else frame.f_code.co_name}"
