"""Devices that batches go to, behind one small interface: CUDA by torch, and the CPU.

A `Device` has a side stream. Inside of `side()` memory of the device is allocated and work is
queued on that stream; `mark()` is an event behind all that was queued so far. The consumer's stream
waits for it on the device in `hand_over`, which also tells the allocator that the consumer's stream
uses the memory from then on, so that it is not given out again under its feet; the host waits only
where it must (`Event.wait`): before pinned memory is written again.

The CPU is a device whose stream is always done: the same code runs everywhere.

`resolve` turns the loader's argument into a device. It touches no GPU before it is called: "cuda"
means the GPU of this process, `LOCAL_RANK` where a launcher said it. A device is made by, and
belongs to, one process; its methods may be called from any thread.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch

from dataplane.errors import ConfigError
from dataplane.telemetry import logger

__all__ = ["CpuDevice", "CudaDevice", "Device", "Event", "checked_device", "resolve"]


class Event(Protocol):
    """A point in the work that was queued on a side stream."""

    def wait(self) -> None:
        """Wait on the host until the work before it is done."""
        ...


class Device(Protocol):
    """What the transfer of batches needs of a device."""

    @property
    def torch_device(self) -> torch.device:
        """The device, as torch names it."""
        ...

    def pinned(self, nbytes: int) -> torch.Tensor:
        """Return uint8[nbytes] of host memory that copies to the device do not wait for."""
        ...

    def side(self) -> AbstractContextManager[Any]:
        """Allocate and queue on the side stream, in this thread, inside of the context."""
        ...

    def copy(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Queue a copy between host and device; call it inside of `side()`."""
        ...

    def mark(self) -> Event:
        """Return an event behind all work that was queued on the side stream so far."""
        ...

    def hand_over(self, tensors: Iterable[torch.Tensor], event: Event) -> None:
        """Let the current stream of this thread use `tensors`, behind `event`."""
        ...


class _Done:
    """An event that is always done."""

    def wait(self) -> None:
        """Return at once."""


class CpuDevice:
    """The CPU: copies are made when they are asked for."""

    @property
    def torch_device(self) -> torch.device:
        """As `Device.torch_device`."""
        return torch.device("cpu")

    def pinned(self, nbytes: int) -> torch.Tensor:
        """As `Device.pinned`; nothing is to be pinned."""
        return torch.empty(nbytes, dtype=torch.uint8)

    def side(self) -> AbstractContextManager[Any]:
        """As `Device.side`."""
        return nullcontext()

    def copy(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """As `Device.copy`."""
        target.copy_(source)

    def mark(self) -> Event:
        """As `Device.mark`."""
        return _Done()

    def hand_over(self, tensors: Iterable[torch.Tensor], event: Event) -> None:
        """As `Device.hand_over`."""


class _CudaEvent:
    def __init__(self, event: torch.cuda.Event, device: torch.device) -> None:
        self.event = event
        self._device = device

    def wait(self) -> None:
        """Wait on the host; torch drops Python's lock meanwhile."""
        with torch.cuda.device(self._device):
            self.event.synchronize()


@functools.cache
def _side_stream(index: int) -> torch.cuda.Stream:
    """Return the stream that batches go to a GPU by, one for all passes of this process.

    What torch's allocator has freed stays with the stream that it was made on.
    """
    return torch.cuda.Stream(torch.device("cuda", index))  # type: ignore[no-untyped-call]  # torch's


@contextlib.contextmanager
def _side(device: torch.device, stream: torch.cuda.Stream) -> Iterator[None]:
    # The device first: a stream put back in a new thread is one of GPU 0, and would open it.
    with torch.cuda.device(device), torch.cuda.stream(stream):
        yield


def _is_plain(tensor: torch.Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_nested


class CudaDevice:
    """A GPU.

    Args:
        index: number of the GPU.
    """

    def __init__(self, index: int) -> None:
        self._device = torch.device("cuda", index)
        self._stream = _side_stream(index)
        self._is_pinning = True

    @property
    def torch_device(self) -> torch.device:
        """As `Device.torch_device`."""
        return self._device

    def pinned(self, nbytes: int) -> torch.Tensor:
        """As `Device.pinned`; where the system refuses to pin, memory that copies wait for."""
        if self._is_pinning:
            try:
                return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
            except RuntimeError as err:
                self._is_pinning = False
                logger.warning(
                    "%d bytes cannot be page-locked, so copies to %s are not overlapped (%s); see "
                    "`ulimit -l`",
                    nbytes,
                    self._device,
                    str(err).splitlines()[0],
                )
        return torch.empty(nbytes, dtype=torch.uint8)

    def side(self) -> AbstractContextManager[Any]:
        """As `Device.side`."""
        return _side(self._device, self._stream)

    def copy(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """As `Device.copy`."""
        target.copy_(source, non_blocking=True)

    def mark(self) -> Event:
        """As `Device.mark`."""
        with torch.cuda.device(self._device):
            event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # torch's
            event.record(self._stream)
        return _CudaEvent(event, self._device)

    def hand_over(self, tensors: Iterable[torch.Tensor], event: Event) -> None:
        """As `Device.hand_over`."""
        consumer = torch.cuda.current_stream(self._device)
        if isinstance(event, _CudaEvent):
            consumer.wait_event(event.event)
        for tensor in tensors:
            if _is_plain(tensor):
                tensor.record_stream(consumer)
            else:
                event.wait()  # its parts have no stream to record


def checked_device(device: object) -> torch.device | None:
    """Return the loader's `device` argument as torch names it, without touching any GPU.

    Raises:
        ConfigError: it names no device, or one that batches do not go to.

    Example:
        >>> checked_device("cuda:1")
        device(type='cuda', index=1)
    """
    if device is None:
        return None
    if not isinstance(device, (str, torch.device)):
        raise ConfigError(
            f'device must be like "cuda", "cuda:1" or "cpu", got {device!r}',
            hint="leave it out for batches in ordinary memory",
        )
    found: torch.device | None = None
    with contextlib.suppress(RuntimeError):
        found = torch.device(device)
    if found is None or found.type not in {"cuda", "cpu"}:
        raise ConfigError(
            f'device must be like "cuda", "cuda:1" or "cpu", got {str(device)!r}',
            hint="move the batches yourself to other kinds of devices",
        )
    return found


def resolve(device: torch.device) -> Device:
    """Return a device; of "cuda" without a number the one of this process.

    Raises:
        ConfigError: there is no such GPU, or this torch knows none.
    """
    if device.type == "cpu":
        return CpuDevice()
    if not torch.cuda.is_available():
        raise ConfigError(
            f"device={str(device)!r}, but torch {torch.__version__} finds no CUDA device here",
            hint='use device="cpu", or install torch for CUDA and check nvidia-smi',
        )
    count = torch.cuda.device_count()
    number: int | None = device.index
    index = _own_index(count) if number is None else number
    if not 0 <= index < count:
        raise ConfigError(
            f"device={str(device)!r} asks for GPU {index}, and there are {count}",
            hint="CUDA_VISIBLE_DEVICES says which GPUs a process sees, and LOCAL_RANK which of "
            'them "cuda" is',
        )
    return CudaDevice(index)


def _own_index(count: int) -> int:
    """Return the number of this process's GPU, among `count`."""
    rank = os.environ.get("LOCAL_RANK", "")
    if not rank.isdecimal() or count == 1:  # a launcher may show each process its own GPU alone
        return torch.cuda.current_device()
    return int(rank)
