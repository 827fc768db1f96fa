"""A ring of pinned buffers, through which batches go to a device while the next one is made.

A slot is one buffer in turn. Who fills it asks for arrays in it, queues copies from it, and
releases it with the event behind those copies; the slot is lent again only when that event is done.
So with two slots a batch is decoded into one while the other is on its way, and memory that a copy
still reads is never written.

Arrays of a slot follow each other at multiples of 64 bytes. A slot that was too small takes more
buffers as it goes, and one buffer for all of it the next time; sizes settle after a few batches.
The ring holds `slots` times the largest batch, and no more.

Thread-safe; `acquire` waits while all slots are lent, and for the event of the one it takes, with
no lock held meanwhile. A slot belongs to the thread that acquired it.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from dataplane.errors import LoaderError
from dataplane.gpu.device import Device, Event

__all__ = ["PinnedRing", "Slot"]

ALIGN: Final = 64
"""Arrays begin at multiples of this: a cache line, and more than streams need."""

_MIN_BYTES: Final = 1 << 20
_SPARE: Final = 8
"""A buffer that has to grow gets an eighth more than was needed."""


class Slot:
    """One buffer of a ring, lent to one thread.

    Args:
        device: device that its content goes to.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._buffers: list[torch.Tensor] = []
        self._used_bytes = 0
        self._total_bytes = 0
        self._spans: list[tuple[int, int]] = []
        self.event: Event | None = None

    def bytes(self, nbytes: int) -> torch.Tensor:
        """Lend uint8[nbytes] of the slot, from a multiple of ALIGN on, until it is released."""
        begin = -(-self._used_bytes // ALIGN) * ALIGN
        if not self._buffers or begin + nbytes > self._buffers[-1].numel():
            self._add_buffer(nbytes)
            begin = 0
        self._used_bytes = begin + nbytes
        self._total_bytes += -(-nbytes // ALIGN) * ALIGN
        return self._buffers[-1][begin : begin + nbytes]

    def allocate(
        self, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> tuple[torch.Tensor, npt.NDArray[Any]]:
        """Lend a tensor with arbitrary content, and an array over the same memory.

        The tensor has the storage of the pinned buffer, as torch knows it: its allocator keeps the
        memory of a ring that is dropped until copies from it are done.
        """
        kind = torch.from_numpy(np.empty(0, dtype)).dtype
        tensor = self.bytes(math.prod(shape) * dtype.itemsize).view(kind).view(shape)
        return tensor, tensor.numpy()

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is in the memory of this slot, in one piece."""
        if tensor.device.type != "cpu" or not tensor.is_contiguous():
            return False
        begin = tensor.data_ptr()
        end = begin + tensor.numel() * tensor.element_size()
        return any(first <= begin and end <= last for first, last in self._spans)

    def upload(self, values: npt.NDArray[Any] | torch.Tensor) -> torch.Tensor:
        """Queue a copy of values to the device, through this slot; call it inside of `side()`."""
        tensor = values if isinstance(values, torch.Tensor) else torch.from_numpy(values)
        source = tensor if self.holds(tensor) else self._copied(tensor)
        target = torch.empty_like(source, device=self._device.torch_device)
        if source.numel():
            self._device.copy(source, target)
        return target

    def download(self, tensor: torch.Tensor) -> torch.Tensor:
        """Queue a copy of a tensor from the device into this slot; call it inside of `side()`."""
        size = tensor.element_size()
        own = self.bytes(tensor.numel() * size).view(tensor.dtype).view(tensor.shape)
        if tensor.numel():
            self._device.copy(tensor, own)
        return own

    def _copied(self, tensor: torch.Tensor) -> torch.Tensor:
        size = tensor.element_size()
        own = self.bytes(tensor.numel() * size).view(tensor.dtype)
        # Dense in the order that it has: `channels_last` stays so.
        strides = torch.empty_like(tensor, device="meta").stride()
        own = own.as_strided(tensor.shape, strides)
        own.copy_(tensor.detach())
        return own

    def begin(self) -> None:
        """Make all of the memory free again, in one buffer."""
        if len(self._buffers) > 1:
            self._buffers = []
            needed = self._total_bytes
            self._spans = []
            self._add_buffer(needed + needed // _SPARE)
        self._used_bytes = self._total_bytes = 0

    def _add_buffer(self, nbytes: int) -> None:
        buffer = self._device.pinned(max(nbytes, _MIN_BYTES) + ALIGN)
        buffer = buffer[-buffer.data_ptr() % ALIGN :]
        self._buffers.append(buffer)
        self._spans.append((buffer.data_ptr(), buffer.data_ptr() + buffer.numel()))


class PinnedRing:
    """Slots that are lent in turn.

    Args:
        device: device that their content goes to.
        slots: number of slots; two overlap the copy of one with the filling of the other.
    """

    def __init__(self, device: Device, *, slots: int = 2) -> None:
        self._device = device
        self._condition = threading.Condition()
        self._free: deque[Slot] = deque(Slot(device) for _ in range(slots))
        self._is_closed = False

    def acquire(self) -> Slot:
        """Lend the slot that was released longest ago, when its copies are done.

        Raises:
            LoaderError: the ring was closed.
        """
        with self._condition:
            while not self._free and not self._is_closed:
                self._condition.wait()
            if self._is_closed:
                raise LoaderError("the loader was closed while a batch was made")
            slot = self._free.popleft()
        try:
            event, slot.event = slot.event, None
            if event is not None:
                event.wait()
            slot.begin()
        except BaseException:
            self._give_back(slot)
            raise
        return slot

    def release(self, slot: Slot, event: Event | None) -> None:
        """Take a slot back, whose copies are done when `event` is; None if none were queued."""
        slot.event = event
        self._give_back(slot)

    def close(self) -> None:
        """Lend nothing any more, and wake who waits. Idempotent."""
        with self._condition:
            self._is_closed = True
            self._free.clear()  # torch keeps pinned memory until copies from it are done
            self._condition.notify_all()

    def _give_back(self, slot: Slot) -> None:
        with self._condition:
            if not self._is_closed:
                self._free.append(slot)
                self._condition.notify()
