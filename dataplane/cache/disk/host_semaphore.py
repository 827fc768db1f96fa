"""Host semaphore: a limit of the requests that all processes of the host have under way at a store.

Training ranks, a mount and a notebook share a store and a network card. Each limits itself, but
together they may ask for more than either can bear. So a download takes one of `host_requests`
slots of its store first, and gives it back afterwards.

    DIR/places     0 bytes; only its byte locks matter

A store has 4096 bytes of its own, from 2^12 times the first 48 bits of the hash of its identity on:

| byte of them | held, exclusively |
|---|---|
| 0 … limit - 1 | a slot: by the process whose request is under way |
| 4095 | the turn: by the process that looks for a free slot |

All are open-file-description locks of one description per attachment to the directory: the kernel
gives back what a killed process held. The description does not keep threads of its process apart,
so what is taken here is also written down here.

When a slot is free and no process has the turn, taking it is two system calls. Else the request
queues in its process, whose thread dp-places asks the kernel for the turn, waits for it without
polling, and gives the slot it finds to the first in the queue; then it goes to the end of the
kernel's queue. So the host has one thread per store that polls, and the processes that wait get
slots in turns, however many requests each of them has.

The limit protects the store and never makes a read hang: when a process has waited for
`_PATIENCE_S` and got no slot (their holders were all stopped, or stalled), its requests go ahead
without one for `_UNLIMITED_S`. Where the file cannot be opened or locked, nothing is limited.

Thread-safe. The lock of a store's queue is held for bookkeeping and system calls that never wait: a
slot and the note of it must change together.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType

from dataplane.cache.disk import locks
from dataplane.cache.disk.directory import Directory
from dataplane.daemon_thread import DaemonThread
from dataplane.telemetry import Counters, logger

__all__ = ["HostSemaphore", "Slot"]

_STORE_BITS = 12
_TURN = 4095
_LOOK_S = 0.003  # between two looks for a free slot, by the one process that has the turn
_AFTER_YOU_S = 0.0005  # from giving the turn away to asking again: a process that wakes needs less
_PATIENCE_S = 30.0
_UNLIMITED_S = 60.0


class HostSemaphore:
    """This process's slots at every store, for one attachment to a cache directory.

    Args:
        directory: cache directory whose processes share the limit.
        limit: most requests to one store that may be under way; 0 for no limit.
        counters: counters of waiting.

    Example:
        with semaphore.at(store.identity):
            store.get_range(key, start, stop)
    """

    def __init__(self, directory: Directory, limit: int, counters: Counters) -> None:
        self._limit = limit
        self._counters = counters
        self._lock = threading.Lock()
        self._queues: dict[str, _Queue] = {}
        self._file: _File | None = None
        if limit:
            try:
                self._file = _File(directory)
            except OSError as err:
                logger.debug("requests of other processes are not counted: %s", err)

    def at(self, store: str) -> Slot:
        """Return a context manager in which one request may be made to a store, by its identity."""
        if self._file is None:
            return Slot(None, self._counters)
        queue = self._queues.get(store)
        return Slot(self._queue(store) if queue is None else queue, self._counters)

    def _queue(self, store: str) -> _Queue | None:
        with self._lock:
            if self._file is None:
                return None
            queue = self._queues.get(store)
            if queue is None:
                queue = self._queues[store] = _Queue(self._file, store, self._limit)
            return queue

    def close(self) -> None:
        """Let all waiting requests go. Idempotent; the file is closed with its last user."""
        with self._lock:
            self._file = None
            queues, self._queues = list(self._queues.values()), {}
        for queue in queues:
            queue.close()


class Slot:
    """A slot at a store while it is entered; made by `HostSemaphore.at`."""

    __slots__ = ("_counters", "_number", "_queue")

    def __init__(self, queue: _Queue | None, counters: Counters) -> None:
        self._queue = queue
        self._counters = counters
        self._number: int | None = None

    def __enter__(self) -> None:
        queue = self._queue
        if queue is None:
            return
        self._number = queue.take()
        if self._number is None:
            began = time.perf_counter()
            self._number = queue.wait()
            self._counters.add("cache_place_wait_s", time.perf_counter() - began)
            if self._number is None:
                self._counters.add("cache_places_overrun")

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._queue is not None and self._number is not None:
            self._queue.give_back(self._number)


class _File:
    """The open file. It lives as long as its bytes may be locked: descriptors are numbers."""

    def __init__(self, directory: Directory) -> None:
        self._pid = os.getpid()
        self.fd = -1
        self.fd = locks.open_descriptor("places", os.O_RDWR | os.O_CREAT, dir_fd=directory.fd)

    def __del__(self) -> None:
        if self.fd >= 0 and self._pid == os.getpid():
            locks.close_descriptor(self.fd)


@dataclass(eq=False, slots=True)
class _Ticket:
    """A request that waits; `done` when it may go ahead, with slot `number` or without any."""

    done: threading.Event = field(default_factory=threading.Event)
    number: int | None = None


class _Queue:
    """The slots of one store: those that this process has, and its requests that wait for one."""

    def __init__(self, file: _File, store: str, limit: int) -> None:
        digest = hashlib.blake2b(store.encode("utf-8", "surrogatepass"), digest_size=6).digest()
        self._file = file
        self._first = int.from_bytes(digest, "big") << _STORE_BITS
        self._limit = limit
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._mine: set[int] = set()
        # Processes begin at different slots, so that they do not all try the same ones.
        self._likely = os.getpid() % limit
        self._waiting: deque[_Ticket] = deque()
        self._thread: threading.Thread | None = None
        self._granted_s = 0.0
        self._unlimited_until_s = 0.0
        self._closed = False

    def take(self) -> int | None:
        """Take a slot if one is free and no request of the host came before."""
        with self._lock:
            try:
                if self._waiting or locks.is_locked(self._file.fd, self._byte(_TURN)):
                    return None
                return self._find_locked()
            except OSError as err:
                self._give_up_locked(err)
                return None

    def wait(self) -> int | None:
        """Wait for a slot; None says to go ahead without one."""
        ticket = _Ticket()
        began_s = time.monotonic()
        with self._lock:
            if self._closed or began_s < self._unlimited_until_s:
                return None
            self._waiting.append(ticket)
            if self._thread is None:
                self._thread = DaemonThread(self._stand, name="dp-places")
                self._thread.start()
        while True:
            due_s = max(began_s, self._granted_s) + _PATIENCE_S
            if ticket.done.wait(max(0.0, due_s - time.monotonic())):
                return ticket.number
            with self._lock:
                if ticket.done.is_set():
                    return ticket.number
                if time.monotonic() < max(began_s, self._granted_s) + _PATIENCE_S:
                    continue
                self._waiting.remove(ticket)
                self._unlimited_until_s = time.monotonic() + _UNLIMITED_S
                return None

    def give_back(self, number: int) -> None:
        """Give back a slot."""
        with self._lock:
            self._mine.discard(number)
            self._likely = number
            try:
                locks.lock_byte(self._file.fd, fcntl.F_UNLCK, self._byte(number), wait=False)
            except OSError as err:
                self._give_up_locked(err)
            if self._waiting:
                self._changed.notify()

    def close(self) -> None:
        """Let all waiting requests go ahead."""
        with self._lock:
            self._close_locked()

    def _byte(self, number: int) -> locks.LockByte:
        return locks.LockByte(self._first + number)

    def _close_locked(self) -> None:
        self._closed = True
        while self._waiting:
            self._waiting.popleft().done.set()
        self._changed.notify_all()

    def _give_up_locked(self, err: OSError) -> None:
        logger.debug("requests of other processes are not counted: %s", err)
        self._close_locked()

    def _find_locked(self) -> int | None:
        """Take any free slot, beginning with the one that was given back last."""
        fd, step = self._file.fd, 0
        while step < self._limit:
            number = (self._likely + step) % self._limit
            step += 1
            if number in self._mine:
                continue
            if locks.lock_byte(fd, fcntl.F_WRLCK, self._byte(number), wait=False):
                self._mine.add(number)
                return number
            # The kernel joins neighbouring locks of one process: all of them are passed over.
            stop = locks.locked_until(fd, self._byte(number))
            if stop is not None:
                step += max(0, min(stop - self._byte(number), self._limit - number) - 1)
        return None

    def _stand(self) -> None:
        """Wait for the turn, find a slot for the first request, and again while any waits."""
        fd, turn = self._file.fd, self._byte(_TURN)
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
            try:
                locks.lock_byte(fd, fcntl.F_WRLCK, turn, wait=True)
                try:
                    self._serve_first()
                finally:
                    locks.lock_byte(fd, fcntl.F_UNLCK, turn, wait=False)
            except OSError as err:
                with self._lock:
                    self._give_up_locked(err)
            time.sleep(_AFTER_YOU_S)

    def _serve_first(self) -> None:
        with self._lock:
            while self._waiting:
                number = self._find_locked()
                if number is None:
                    self._changed.wait(_LOOK_S)
                    continue
                ticket = self._waiting.popleft()
                ticket.number = number
                self._granted_s = time.monotonic()
                self._unlimited_until_s = 0.0
                ticket.done.set()
                return
