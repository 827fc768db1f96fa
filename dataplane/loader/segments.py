"""Shared memory segments that two processes pass messages through, and their reuse.

A segment is an unnamed memory file (memfd) that both sides have mapped. It belongs to the side that
writes messages into it (`SegmentPool`); the other side (`SegmentTable`) makes arrays on it and
says when the last of them is gone, and only then it is written to again. So nothing is copied on
arrival, no page is faulted in twice, and what is kept for ever is never overwritten. What is left
when both processes are gone is nothing: there is no name, neither in /dev/shm nor anywhere else.

A segment goes through these hands:

    pool: made, written ──handle, once──> table: mapped, lent as a lease, an array of bytes
    pool: free  <──────── "released" ──── table: every array on the lease is gone
    pool: dropped ──────── "forgotten" ─> table: unmapped, once nothing is lent on it

The lease is an array whose base is the mapping. NumPy and torch keep that very array alive for as
long as any view, slice or tensor of it lives, and a finalizer on it notes the release.

Bounds: a pool keeps at most `MAX_FREE` segments that are free, fewer if they are large, and
forgets the oldest of more than `MAX_LENT` that are lent: these are the reader's alone from then on.
No descriptor is kept on either side, so the number of batches that are kept has no such limit.

A fork of the reading process has the mapping as well, and may use arrays whose release only the
parent notices. So what was lent before a fork is never written again: it is "retired".

Not thread-safe; releases are noted from any thread, without a lock.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections import OrderedDict, deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from dataplane.finalizers import finalize

__all__ = ["PAGE_BYTES", "Mapping", "Segment", "SegmentPool", "SegmentTable"]

PAGE_BYTES = mmap.PAGESIZE
MAX_FREE = 8
MAX_FREE_BYTES = 256 << 20
"""Free memory beyond two segments, which a steady exchange of large messages takes."""
MAX_LENT = 64
_MIN_BYTES = 1 << 20
"""Small segments are one size, of which only the pages that are written to take memory."""
_MAX_TIMES_TOO_LARGE = 4

_Bytes: TypeAlias = npt.NDArray[np.uint8]

# Python's own mmap keeps a descriptor for as long as the mapping lives; batches are kept by the
# thousand.
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_MAP_FAILED = ctypes.c_void_p(-1).value


class Mapping:
    """Shared memory of a memory file, until nothing refers to it.

    Args:
        handle: descriptor of the memory file; it is not needed afterwards.
        size_bytes: size of the file.

    Raises:
        OSError: it cannot be mapped.
    """

    __slots__ = ("__weakref__", "_address", "size_bytes")

    def __init__(self, handle: int, size_bytes: int) -> None:
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        address = _libc.mmap(None, size_bytes, protection, mmap.MAP_SHARED, handle, 0)
        if address == _MAP_FAILED:
            self._address = 0
            code = ctypes.get_errno()
            raise OSError(code, f"{os.strerror(code)}: {size_bytes} bytes of shared memory")
        self._address = int(address)
        self.size_bytes = size_bytes

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """What NumPy makes an array on it from."""
        return {
            "data": (self._address, False),
            "shape": (self.size_bytes,),
            "typestr": "|u1",
            "version": 3,
        }

    def array(self) -> _Bytes:
        """Return a new array of all its bytes, whose base is this object."""
        return np.asarray(self)

    def __del__(self) -> None:
        if self._address:
            with suppress(AttributeError):  # at exit modules are gone, and soon all memory
                _libc.munmap(self._address, self.size_bytes)


class Segment:
    """Segment of a pool. `handle` is its memory file until it has been sent, then -1."""

    __slots__ = ("handle", "mapping", "number", "used_bytes")

    def __init__(self, number: int, size_bytes: int) -> None:
        self.number = number
        self.used_bytes = 0
        self.handle = os.memfd_create("dataplane-message", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self.handle, size_bytes)
            self.mapping = Mapping(self.handle, size_bytes)
        except BaseException:
            os.close(self.handle)
            raise

    def write(self, blocks: Iterable[tuple[int, npt.NDArray[Any]]], size_bytes: int) -> None:
        """Copy arrays to places of it, `size_bytes` in all, in C order."""
        self.used_bytes = max(self.used_bytes, size_bytes)
        memory = self.mapping.array()
        for start, values in blocks:
            place: npt.NDArray[Any] = np.ndarray(
                values.shape, values.dtype, buffer=memory, offset=start
            )
            np.copyto(place, values)

    def close_handle(self) -> None:
        """Close the memory file; the mapping stays. Idempotent."""
        handle, self.handle = self.handle, -1
        if handle >= 0:
            os.close(handle)


class SegmentPool:
    """Segments of the side that writes."""

    def __init__(self) -> None:
        self._made = 0
        self._free: OrderedDict[int, Segment] = OrderedDict()  # the one unused longest is first
        self._lent: OrderedDict[int, Segment] = OrderedDict()
        self._forgotten: list[int] = []

    def take(self, size_bytes: int) -> Segment:
        """Return a segment of at least that size, to be written.

        Raises:
            OSError: there is no memory or descriptor for one.
        """
        most = max(_MAX_TIMES_TOO_LARGE * size_bytes, _MIN_BYTES)
        fitting = [
            one for one in self._free.values() if size_bytes <= one.mapping.size_bytes <= most
        ]
        if fitting:
            segment = min(fitting, key=lambda one: one.mapping.size_bytes)
            del self._free[segment.number]
        else:
            self._made += 1
            segment = Segment(self._made, max(_MIN_BYTES, 1 << (size_bytes - 1).bit_length()))
        self._lent[segment.number] = segment
        if len(self._lent) > MAX_LENT:
            self._forget(self._lent.popitem(last=False)[1])
        return segment

    def give_back(self, numbers: Iterable[int]) -> None:
        """Take segments back that the reader has no more use for."""
        for number in numbers:
            segment = self._lent.pop(number, None)
            if segment is not None:
                self._free[number] = segment
        while len(self._free) > MAX_FREE or (
            len(self._free) > 2
            and sum(one.used_bytes for one in self._free.values()) > MAX_FREE_BYTES
        ):
            self._forget(self._free.popitem(last=False)[1])

    def drop(self, numbers: Iterable[int]) -> None:
        """Forget segments that the reader has retired."""
        for number in numbers:
            segment = self._lent.pop(number, None)
            if segment is not None:
                segment.close_handle()

    def take_forgotten(self, most: int) -> list[int]:
        """Return what the reader is to be told of, each segment once."""
        told, self._forgotten[:most] = self._forgotten[:most], []
        return told

    def close(self) -> None:
        """Drop all segments. Idempotent."""
        for segment in [*self._free.values(), *self._lent.values()]:
            segment.close_handle()
        self._free.clear()
        self._lent.clear()

    def _forget(self, segment: Segment) -> None:
        segment.close_handle()
        self._forgotten.append(segment.number)


class SegmentTable:
    """Segments of the other side, for the side that reads."""

    def __init__(self) -> None:
        self._mappings: dict[int, Mapping] = {}
        self._returned: deque[tuple[int, int]] = deque()

    def lend(self, number: int, handle: int, size_bytes: int) -> _Bytes:
        """Return the bytes of a segment, which are the caller's for as long as it refers to them.

        Args:
            number: number of the segment.
            handle: memory file where it is new, otherwise -1; the caller closes it.
            size_bytes: size of that file.

        Raises:
            OSError: it cannot be mapped.
            KeyError: the segment is not known.
        """
        if handle >= 0:
            self._mappings[number] = Mapping(handle, size_bytes)
        forks = _forks
        lease = self._mappings[number].array()
        finalize(lease, self._returned.append, (number, forks))
        return lease

    def forget(self, numbers: Iterable[int]) -> None:
        """Let segments go that will not be written again."""
        for number in numbers:
            self._mappings.pop(number, None)

    def take_returned(self, most: int) -> tuple[list[int], list[int]]:
        """Return what the writer is to be told of: the released segments, and the retired ones."""
        released: list[int] = []
        retired: list[int] = []
        while self._returned and len(released) + len(retired) < most:
            number, forks = self._returned.popleft()
            if number not in self._mappings:
                continue
            if forks == _forks:
                released.append(number)
            else:
                del self._mappings[number]
                retired.append(number)
        return released, retired


_forks = 0


def _before_fork() -> None:
    global _forks  # noqa: PLW0603 - counts for the process
    _forks += 1


os.register_at_fork(before=_before_fork)
