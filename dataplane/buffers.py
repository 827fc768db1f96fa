"""Reusable host memory for batches, compressed bytes and blocks on their way to the disk.

Fresh memory costs a page fault and a zeroed page per 4 KiB: filling it runs at about 1.8 GB/s where
memory that was written before takes about 10. So the memory of a batch goes back to a pool when the
last tensor that uses it dies, and the next batch is decoded into it.

Nothing is ever handed out twice: a lease is an `ndarray` over a `memoryview` of a slab. NumPy
and torch keep that very array alive for as long as any view, slice or tensor of it lives (a view's
`base` stops at the first array whose own base is not an array), and a finalizer of it
gives the slab back. The tests keep every batch of an epoch and compare them at the end.

Bounds: the pool holds at most `max_free_bytes` of free slabs and drops the one that was free
longest beyond that; what is leased is bounded by the callers (the queues of the loader). Slab sizes
are rounded up in steps of an eighth of a power of two, so batches that differ a little in size
share slabs and at most 12.5 % is wasted. Arrays below `MIN_POOLED_BYTES` come from the ordinary
allocator.

Pinned memory is not pooled here: torch's caching host allocator does it already, and it alone
knows when an asynchronous copy to a device has finished reading a block.

Thread-safety: all methods, from any thread. Finalizers run wherever the last reference dies, maybe
inside the lock of this very pool, so they only append to a deque, which needs no lock; the next
lease takes the returned slabs in. After fork the child starts with an empty pool: slabs are private
mappings, so what the parent has leased stays the parent's.
"""

from __future__ import annotations

import math
import mmap
import os
import threading
from collections import OrderedDict, deque
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from dataplane.errors import ConfigError
from dataplane.finalizers import finalize

__all__ = ["DEFAULT_MAX_FREE_BYTES", "MIN_POOLED_BYTES", "BufferPool", "shared_pool"]

DEFAULT_MAX_FREE_BYTES = 1 << 30
MIN_POOLED_BYTES = 64 << 10
_HUGE_PAGE_BYTES = 2 << 20

_Slab: TypeAlias = mmap.mmap


class BufferPool:
    """Pool of slabs of host memory, lent as arrays and taken back when nothing refers to them.

    Args:
        max_free_bytes: most memory that may lie idle in the pool.

    Example:
        >>> pool = BufferPool()
        >>> pressure = pool.array((4, 65_536), np.dtype("float32"))
        >>> pressure.shape
        (4, 65536)
    """

    def __init__(self, *, max_free_bytes: int = DEFAULT_MAX_FREE_BYTES) -> None:
        if max_free_bytes < 0:
            raise ConfigError(f"max_free_bytes must be at least 0, got {max_free_bytes}")
        self.max_free_bytes = max_free_bytes
        self._returned: deque[_Slab] = deque()
        self._lock = threading.Lock()
        # Oldest first: id of a free slab -> the slab; and those of each size.
        self._free: OrderedDict[int, _Slab] = OrderedDict()
        self._by_size: dict[int, dict[int, _Slab]] = {}
        self._free_bytes = 0
        self._allocated_count = 0
        self._reused_count = 0

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Lend a writable C-contiguous array with arbitrary content.

        The memory returns to the pool when the array and everything made from it is gone.
        """
        nbytes = math.prod(shape) * dtype.itemsize
        if nbytes < MIN_POOLED_BYTES:
            return np.empty(shape, dtype)
        slab = self._take(slab_bytes(nbytes))
        lease: npt.NDArray[Any] = np.ndarray(shape, dtype, buffer=memoryview(slab))
        finalize(lease, self._returned.append, slab)
        return lease

    @property
    def free_bytes(self) -> int:
        """Bytes in slabs that are not in use."""
        with self._lock:
            self._collect_locked()
            return self._free_bytes

    @property
    def allocated_count(self) -> int:
        """Number of slabs that were asked of the system; constant in a steady state."""
        return self._allocated_count

    @property
    def reused_count(self) -> int:
        """Number of times that a free slab was lent again."""
        return self._reused_count

    def clear(self) -> None:
        """Give all free memory back to the system."""
        with self._lock:
            self._collect_locked()
            self._free.clear()
            self._by_size.clear()
            self._free_bytes = 0

    def _take(self, size_bytes: int) -> _Slab:
        # More than a quarter too large would waste what a better fit could use.
        limit_bytes = size_bytes + size_bytes // 4
        with self._lock:
            self._collect_locked()
            # There are few sizes, and thousands of slabs.
            best = min(
                (one for one in self._by_size if size_bytes <= one <= limit_bytes), default=0
            )
            if best:
                slab = next(reversed(self._by_size[best].values()))  # the last to be written to
                self._remove_locked(slab)
                self._reused_count += 1
                return slab
            self._allocated_count += 1
        return _allocate(size_bytes)

    def _collect_locked(self) -> None:
        while self._returned:
            slab = self._returned.popleft()
            self._free[id(slab)] = slab
            self._by_size.setdefault(len(slab), {})[id(slab)] = slab
            self._free_bytes += len(slab)
        while self._free_bytes > self.max_free_bytes:
            self._remove_locked(next(iter(self._free.values())))

    def _remove_locked(self, slab: _Slab) -> None:
        size_bytes = len(slab)
        del self._free[id(slab)]
        of_size = self._by_size[size_bytes]
        del of_size[id(slab)]
        if not of_size:
            del self._by_size[size_bytes]
        self._free_bytes -= size_bytes


def slab_bytes(nbytes: int) -> int:
    """Round a size up to a slab size: a step of an eighth of its power of two, whole pages."""
    step = max(mmap.PAGESIZE, 1 << max(nbytes.bit_length() - 4, 0))
    return -(-nbytes // step) * step


def _allocate(size_bytes: int) -> _Slab:
    # Private: with mmap's default, a forked child would write into the parent's batches.
    slab = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if size_bytes >= _HUGE_PAGE_BYTES:
        slab.madvise(mmap.MADV_HUGEPAGE)
    return slab


_shared = BufferPool()


def shared_pool() -> BufferPool:
    """Return the process's pool."""
    return _shared


def _reset_after_fork() -> None:
    global _shared  # noqa: PLW0603 - the one place where a process's pool is replaced
    # The lock may have been held at the fork by a thread that the child does not have.
    _shared = BufferPool()


os.register_at_fork(after_in_child=_reset_after_fork)
