"""Copies of the user's code: one for each worker thread, and the one that worker processes load.

A copy is what `pickle` would make, by value also for lambdas, closures and what a script defines
itself (cloudpickle). What is safe from any thread and belongs to all is shared: a dataset's index
and reader, locks and queues, tensors in shared memory.

Large arrays and tensors are written once, into memory without a name, and each copy maps that
privately: pages are shared until a copy writes to them, as a forked worker shares its parent's. So
code that holds gigabytes costs them once more, and not once for each worker. Tensors made so cannot
be resized. Arrays that are not contiguous, masked arrays and `bytes` are copied; what maps a file
(`np.memmap`, unless its mode is "c") is shared, as the file is.

Functions without state; for the training thread.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
import types
from collections.abc import Iterator
from typing import Any, Self, TypeVar

import cloudpickle
import numpy as np
import numpy.typing as npt
import torch

from dataplane.datasets.dataset import OpenedReader
from dataplane.loader.random_streams import hidden_generator, name_of_hidden
from dataplane.loader.shared_state import SYNCHRONIZATION, find_shared_state, is_by_reference
from dataplane.shards import DatasetIndex
from dataplane.telemetry import Counters

__all__ = ["NotCopied", "copies", "sent"]

_Code = TypeVar("_Code")

LARGE_BYTES = 1 << 20
"""Arrays of so many bytes and more are mapped by copies; smaller ones are copied."""

_SHARED = (DatasetIndex, OpenedReader, Counters, *SYNCHRONIZATION)
"""What is safe from any thread: parts of a dataset, and what is made to be shared by threads."""


def _is_in_shared_memory(tensor: torch.Tensor) -> bool:
    is_plain = tensor.layout is torch.strided
    return is_plain and bool(tensor.is_shared())  # type: ignore[no-untyped-call]


def _is_file(array: npt.NDArray[Any]) -> bool:
    """Whether an array maps a file whose other mappings see what is written to it."""
    mapped = array if isinstance(array, np.memmap) else array.base
    return isinstance(mapped, np.memmap) and mapped.mode != "c"


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """Pickles for this process: what all copies share is noted, and not written."""

    def __init__(self, file: io.BytesIO) -> None:
        self.large: list[memoryview] = []
        super().__init__(
            file, protocol=pickle.HIGHEST_PROTOCOL, buffer_callback=self._is_written_here
        )
        self.shared: list[object] = []
        self.code: list[object] = []
        self._places: dict[int, int] = {}
        self._storages: dict[tuple[int, int], npt.NDArray[np.uint8]] = {}

    def persistent_id(self, obj: object) -> int | None:
        if isinstance(obj, type) or (isinstance(obj, types.FunctionType) and is_by_reference(obj)):
            self.code.append(obj)
        # Classes too: one that is pickled by value would change the original when it is loaded.
        is_shared = (
            isinstance(obj, (type, *_SHARED))
            or (isinstance(obj, torch.Tensor) and _is_in_shared_memory(obj))
            or (isinstance(obj, np.ndarray) and _is_file(obj))
        )
        if not is_shared and name_of_hidden(obj) is None:
            return None
        if id(obj) not in self._places:
            self._places[id(obj)] = len(self.shared)
            self.shared.append(obj)
        return self._places[id(obj)]

    def reducer_override(self, obj: object) -> Any:
        if isinstance(obj, torch.storage.TypedStorage):
            # Asked itself, a typed one warns that it is deprecated.
            untyped: Any = obj._untyped_storage
            if untyped.device.type == "cpu" and untyped.nbytes() >= LARGE_BYTES:
                return _storage_of, (self._bytes_of(untyped), obj.dtype)
        return super().reducer_override(obj)

    def _bytes_of(self, untyped: Any) -> npt.NDArray[np.uint8]:
        """Return a storage as an array, the same one for all tensors that share it."""
        place = untyped.data_ptr(), untyped.nbytes()  # one may begin where a longer one does
        if place not in self._storages:
            whole = torch.empty(0, dtype=torch.uint8, device="cpu").set_(untyped)
            self._storages[place] = whole.numpy()
        return self._storages[place]

    def _is_written_here(self, buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < LARGE_BYTES:
            return True
        self.large.append(view)
        return False


def _storage_of(values: npt.NDArray[np.uint8], dtype: torch.dtype) -> torch.storage.TypedStorage:
    untyped = torch.from_numpy(values).untyped_storage()
    make: Any = torch.storage.TypedStorage
    storage: torch.storage.TypedStorage = make(wrap_storage=untyped, dtype=dtype, _internal=True)
    return storage


class _Mapped:
    """Buffers in memory without a name, which each copy maps for itself. A context manager."""

    def __init__(self, buffers: list[memoryview]) -> None:
        self._places: list[tuple[int, int, bool]] = []  # offset, length, whether it is read-only
        self._length = 0
        self._fd = os.memfd_create("dataplane-copies") if buffers else -1
        try:
            for buffer in buffers:
                self._write(buffer)
        except BaseException:
            self.__exit__()
            raise

    def _write(self, buffer: memoryview) -> None:
        self._places.append((self._length, buffer.nbytes, buffer.readonly))
        at = 0
        while at < buffer.nbytes:
            at += os.pwrite(self._fd, buffer[at:], self._length + at)
        self._length += -(-buffer.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
        os.ftruncate(self._fd, self._length)

    def mapped(self) -> Iterator[memoryview]:
        """Yield the buffers, mapped anew; what is written there nobody else sees."""
        if not self._places:
            return
        # Writable for all, since torch writes to read-only arrays; one mapping, one descriptor.
        access = mmap.PROT_READ | mmap.PROT_WRITE
        view = memoryview(mmap.mmap(self._fd, self._length, mmap.MAP_PRIVATE, access))
        for offset, length, is_readonly in self._places:
            part = view[offset : offset + length]
            yield part.toreadonly() if is_readonly else part

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)  # what is mapped stays until it is unmapped


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, shared: list[object], large: Iterator[memoryview]) -> None:
        super().__init__(file, buffers=large)
        self._shared = shared

    def persistent_load(self, pid: Any) -> object:
        found = self._shared[pid]
        name = name_of_hidden(found)
        return found if name is None else hidden_generator(name)


class _SendingPickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles for another process, whose hidden generators take the place of this one's."""

    def reducer_override(self, obj: object) -> Any:
        name = name_of_hidden(obj)
        if name is not None:
            return hidden_generator, (name,)
        if isinstance(obj, types.MethodType) and name_of_hidden(obj.__self__) is not None:
            return getattr, (obj.__self__, obj.__name__)
        if isinstance(obj, torch.Tensor) and _is_in_shared_memory(obj):
            raise TypeError("a tensor in shared memory would be another one there")
        return super().reducer_override(obj)


def sent(code: object) -> bytes:
    """Return the user's code as a worker process loads it.

    Raises:
        Exception: it cannot be pickled; whatever its own parts raised.
    """
    file = io.BytesIO()
    _SendingPickler(file, protocol=pickle.HIGHEST_PROTOCOL).dump(code)
    return file.getvalue()


def copies(code: _Code, count: int) -> list[_Code]:
    """Return `count` copies of the user's code, for as many threads of this process.

    Raises:
        NotCopied: a module-level variable would be shared by the copies.
        Exception: it cannot be copied; whatever its own parts raised.
    """
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(code)
    state = find_shared_state(pickler.code)
    if state is not None:
        raise NotCopied(f"its code uses the variable {state}, of which there is one")
    made = []
    with _Mapped(pickler.large) as memory:
        for _ in range(count):
            file.seek(0)
            made.append(_Unpickler(file, pickler.shared, memory.mapped()).load())
    return made


class NotCopied(Exception):
    """A copy of the user's code would share state with the original."""
