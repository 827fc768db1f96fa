"""Systems of the GPU benchmark: one step of a route each.

All of them run in this process: none is a rival with a runtime of its own, and a GPU that several
processes hold is divided among them. What queues work on the device does so on its side stream,
as the loader does; a run is over when the host has seen the end of it. A run repeats short work, so
that its beginning and end weigh little.

Memory is taken at the first run, which warms up and is not counted; so a system that lacks a
package or memory fails there, and `run_rounds` leaves it out.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable
from typing import Any

import torch

from dataplane.codecs import codec_alone, decode, stage, staged_bytes
from dataplane.errors import LoaderError
from dataplane.gpu.device import Device, Event
from dataplane.gpu.inflate import Inflater
from dataplane.gpu.placement import place, prepare
from dataplane.gpu.ring import PinnedRing, Slot
from dataplane.telemetry import logger
from dataplane_bench.cases.gpu_data import SLOTS, Chunks, Staged, synchronize
from dataplane_bench.model import CEILING_PREFIX, OUR_SYSTEM, Cost
from dataplane_bench.rounds import timed

__all__ = [
    "Copies",
    "Decodes",
    "DeviceCopies",
    "Gathers",
    "Inflates",
    "OneCopy",
    "PageableCopies",
    "Places",
]


def _is_idle(device: Device) -> bool:
    """Whether the consumer's stream has nothing left to do."""
    target = device.torch_device
    return target.type == "cpu" or torch.cuda.current_stream(target).query()


class Repeated:
    """A system that does the same `repeats` times, and then waits for the device.

    Args:
        device: device.
        nbytes: decoded bytes of one repetition.
        repeats: repetitions of a run.
        name: name in the report.
        threads: threads of the host that it is given.
    """

    def __init__(
        self, device: Device, nbytes: int, repeats: int, *, name: str = OUR_SYSTEM, threads: int = 1
    ) -> None:
        self.name, self.threads = name, threads
        self.device = device
        self.nbytes, self.repeats = nbytes, repeats
        self._per_cost, self._samples = repeats, 1

    def run(self) -> Cost:
        """Repeat the work; the cost is that of one repetition."""
        self.before()
        synchronize(self.device)
        return self.one_of(timed(self._work, samples=self._samples))

    def counted_as_one(self, samples: int) -> None:
        """Have the cost be that of all repetitions, which deliver so many samples."""
        self._per_cost, self._samples = 1, samples

    def one_of(self, cost: Cost) -> Cost:
        """Return the cost of one repetition."""
        return dataclasses.replace(
            cost,
            elapsed_s=cost.elapsed_s / self._per_cost,
            cpu_s=cost.cpu_s / self._per_cost,
            nbytes=cost.nbytes // self._per_cost,
        )

    def _work(self) -> int:
        for _ in range(self.repeats):
            with self.device.side():
                self.once()
        with self.device.side():
            event = self.device.mark()
        event.wait()
        self.check()
        return self.nbytes * self.repeats

    def before(self) -> None:
        """Get ready, untimed."""

    def once(self) -> None:
        """Do, or queue, the work; called inside of `side()`."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise if the work failed; called when it is done."""

    def close(self) -> None:
        """Nothing stays open but memory."""


class OneCopy(Repeated):
    """The ceiling of the link: one pinned buffer, one tensor on the device, plain copies.

    Args:
        copied: bytes of a copy; other than `nbytes` where what is copied is compressed.
    """

    def __init__(
        self, device: Device, nbytes: int, repeats: int, *, copied: int, name: str
    ) -> None:
        super().__init__(device, nbytes, repeats, name=f"{CEILING_PREFIX}{name}")
        self._copied = copied
        self._pair: tuple[torch.Tensor, torch.Tensor] | None = None

    def before(self) -> None:
        """As `Repeated.before`."""
        if self._pair is None:
            source = self.device.pinned(self._copied).fill_(1)
            self._pair = source, torch.empty_like(source, device=self.device.torch_device)

    def once(self) -> None:
        """Copy."""
        assert self._pair is not None
        self.device.copy(*self._pair)

    def close(self) -> None:
        """Let go of both ends."""
        self._pair = None


class Copies(Repeated):
    """The loader's way over the link: slots of the pinned ring, a new tensor for each copy.

    Args:
        beside: function that queues work of the consumer, enough of it for the whole run.
    """

    def __init__(
        self,
        device: Device,
        nbytes: int,
        repeats: int,
        *,
        name: str = OUR_SYSTEM,
        beside: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(device, nbytes, repeats, name=name)
        self._ring = PinnedRing(device, slots=SLOTS)
        self._beside = beside

    def run(self) -> Cost:
        """Copy, while the device has other work if there is any; it is waited for untimed."""
        synchronize(self.device)
        if self._beside is not None:
            self._beside()
        cost = timed(self._work, samples=self._samples)
        if self._beside is not None and _is_idle(self.device):
            logger.warning("%s: the step ended before the copies did", self.name)
        synchronize(self.device)
        return self.one_of(cost)

    def once(self) -> None:
        """Send a buffer that is already in its slot."""
        slot = self._ring.acquire()
        slot.upload(slot.bytes(self.nbytes))
        self._ring.release(slot, self.device.mark())

    def close(self) -> None:
        """Let go of the slots."""
        self._ring.close()


class PageableCopies(OneCopy):
    """Copies from ordinary memory, which the driver takes through pinned memory of its own."""

    def __init__(self, device: Device, nbytes: int, repeats: int) -> None:
        super().__init__(device, nbytes, repeats, copied=nbytes, name="")
        self.name = "from memory that is not pinned"

    def before(self) -> None:
        """As `Repeated.before`."""
        if self._pair is None:
            source = torch.ones(self.nbytes, dtype=torch.uint8)
            self._pair = source, torch.empty_like(source, device=self.device.torch_device)


class DeviceCopies(OneCopy):
    """The ceiling of what reads and writes the device's memory: a copy within it."""

    def __init__(self, device: Device, nbytes: int, repeats: int) -> None:
        super().__init__(device, nbytes, repeats, copied=nbytes, name="memcpy there")

    def before(self) -> None:
        """As `Repeated.before`."""
        if self._pair is None:
            source = torch.ones(self.nbytes, dtype=torch.uint8, device=self.device.torch_device)
            self._pair = source, torch.empty_like(source)


class Decodes(Repeated):
    """What the cpu route does: the native decoder, into pinned memory.

    With `alone` it is the ceiling of that: the codec, nothing un-shuffled or placed.
    """

    def __init__(
        self, device: Device, chunks: Chunks, *, threads: int, name: str, alone: bool = False
    ) -> None:
        super().__init__(device, chunks.array.nbytes, 1, name=name, threads=threads)
        self._chunks, self._alone = chunks, alone
        self._out: Any = None

    def before(self) -> None:
        """As `Repeated.before`."""
        if self._out is None:
            pinned = self.device.pinned(self.nbytes).fill_(1)
            self._out = pinned.view(torch.float32).view(self._chunks.array.shape).numpy()

    def once(self) -> None:
        """Decode every chunk."""
        table, source = self._chunks.table, self._chunks.source
        if self._alone:
            codec_alone(table, [source], threads=self.threads)
        else:
            decode(table, [source], [self._out], threads=self.threads)

    def close(self) -> None:
        """Let go of the destination."""
        self._out = None


class Gathers(Repeated):
    """What the gpu route does on the CPU: streams gathered into pinned memory."""

    def __init__(self, device: Device, chunks: Chunks, *, threads: int, name: str) -> None:
        super().__init__(device, chunks.array.nbytes, 1, name=name, threads=threads)
        self._chunks = chunks
        self._buffer: Any = None

    def before(self) -> None:
        """As `Repeated.before`."""
        if self._buffer is None:
            room = staged_bytes(self._chunks.table, [self._chunks.source])
            self._buffer = self.device.pinned(room + 64).fill_(1).numpy()
            self._buffer = self._buffer[-self._buffer.ctypes.data % 64 :]

    def once(self) -> None:
        """Gather every stream."""
        stage(self._chunks.table, [self._chunks.source], self._buffer.data, threads=self.threads)

    def close(self) -> None:
        """Let go of the buffer."""
        self._buffer = None


class Inflates(Repeated):
    """Inflation of streams that are on the device.

    Args:
        staged: the streams.
        make: function that makes the inflater, at the first run.
    """

    def __init__(
        self,
        staged: Staged,
        make: Callable[[], Inflater],
        repeats: int,
        *,
        name: str = OUR_SYSTEM,
        threads: int = 1,
    ) -> None:
        super().__init__(
            staged.device, staged.chunks.array.nbytes, repeats, name=name, threads=threads
        )
        self._staged, self._make = staged, make
        self._inflater: Inflater | None = None
        self._pending: deque[tuple[Slot, Event, Callable[[], None]]] = deque()

    def before(self) -> None:
        """As `Repeated.before`."""
        if self._inflater is None:
            self._inflater = self._make()

    def once(self) -> None:
        """Inflate every stream; a slot comes back when what it reports was looked at."""
        assert self._inflater is not None
        if len(self._pending) == SLOTS:
            self._settle()
        ring = self._staged.ring
        slot = ring.acquire()
        try:
            found = self._inflater.inflate(self._staged.staged, self._staged.streams, slot, str)
        except BaseException:
            ring.release(slot, self.device.mark())
            self._give_up()
            raise
        self._pending.append((slot, self.device.mark(), found.check))

    def check(self) -> None:
        """Raise if a stream was found damaged."""
        while self._pending:
            self._settle()

    def _settle(self) -> None:
        slot, event, check = self._pending[0]
        try:
            event.wait()
            check()  # it reads memory of the slot
        except BaseException:
            self._give_up()
            raise
        self._pending.popleft()
        self._staged.ring.release(slot, None)

    def _give_up(self) -> None:
        """Give every slot back: other systems go on with them."""
        while self._pending:
            slot, event, _ = self._pending.popleft()
            self._staged.ring.release(slot, event)

    def close(self) -> None:
        """Let go of the inflater."""
        self._inflater = None


class Places(Repeated):
    """Un-shuffling and placing of what was inflated: the kernel, or its twin.

    Args:
        staged: streams.
        whole: whether tables are made and copied each time, as for every batch of a loader, or the
            launches alone are repeated.

    Raises:
        LoaderError: the first run placed other elements than were encoded.
    """

    def __init__(self, staged: Staged, repeats: int, *, name: str, whole: bool) -> None:
        super().__init__(staged.device, staged.chunks.array.nbytes, repeats, name=name)
        self._staged, self._whole = staged, whole
        self._arguments: tuple[Any, ...] = ()
        self._launches: list[Callable[[], None]] = []

    def before(self) -> None:
        """As `Repeated.before`; the first elements are compared with those that were encoded."""
        if self._arguments:
            return
        expected = torch.from_numpy(self._staged.chunks.array)
        out = torch.zeros(expected.shape, dtype=torch.float32, device=self.device.torch_device)
        memory, starts = self._staged.inflated()
        rows = self._staged.chunks.table.rows
        self._arguments = (rows, self._staged.streams, starts, memory, [out])
        with self.device.side():
            self._launches = prepare(*self._arguments)
            for launch in self._launches:
                launch()
        synchronize(self.device)
        if not torch.equal(out.cpu(), expected):
            raise LoaderError(f"{self.name} placed other elements than were encoded")

    def once(self) -> None:
        """Place every element."""
        if not self._whole:
            for launch in self._launches:
                launch()
            return
        slot = self._staged.ring.acquire()
        place(*self._arguments, upload=slot.upload)
        self._staged.ring.release(slot, self.device.mark())

    def close(self) -> None:
        """Let go of both ends."""
        self._arguments, self._launches = (), []
