"""Making batches on a device: decoded here and copied, or copied compressed and decoded there.

The routes of one batch:

    cpu   native decode into a slot of the pinned ring, then one copy per tensor
    gpu   streams staged into a slot, one copy, inflation, placement: all on the side stream
    move  what the user's code made is copied as it is, through a slot where it is not pinned

Each only queues work and returns a `Sent`. Whoever has it calls `settle`, which for the gpu route
waits on the host until the device is done and raises the error of a damaged stream, and then, in
the thread of the training loop, `hand_over`: the loop's stream waits for the copies, not the host.
A slot that inflation reports into is given back when the batch was settled, any other as soon as
its copies are queued, with an event behind them.

Only one thread makes batches of a `Transfer`; `settle`, `hand_over` and `close` may be called from
others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch

from dataplane.codecs import ChunkTable, decode, stage, staged_bytes
from dataplane.datasets.batch import Batch, LaidOut, lay_out
from dataplane.datasets.layout import ArrayLayout
from dataplane.datasets.ragged import RaggedForm
from dataplane.datasets.samples import KEY, FetchedSample, Keys
from dataplane.errors import ConfigError
from dataplane.gpu.device import Device, Event
from dataplane.gpu.inflate import HostInflater, Inflater
from dataplane.gpu.moved import moved, tensors_in
from dataplane.gpu.placement import place
from dataplane.gpu.ring import PinnedRing, Slot
from dataplane.gpu.route import Load, load_of

__all__ = ["Sent", "Transfer"]

SLOTS: Final = 2
_STREAM_SPARE_BYTES: Final = 64
"""Room for what aligning the streams of a chunk adds; a buffer that is too small is asked for
again."""


class Sent:
    """A batch on its way to a device.

    Args:
        content: the batch; its tensors are, or will be, filled on the device.
        event: event behind the work.
        check: function to call on the host when the work is done, or None where nothing can have
            failed.
        give_back: function that gives the slot back, once.
    """

    def __init__(
        self,
        content: Any,
        event: Event,
        check: Callable[[], None] | None = None,
        give_back: Callable[[], None] | None = None,
    ) -> None:
        self._content = content
        self._event = event
        self._check = check
        self._give_back = give_back

    def named(self, name: str, texts: Sequence[str]) -> Sent:
        """Add texts to the batch, if there are any, one for each sample; and return itself."""
        if texts:
            self._content[name] = Keys(texts)
        return self

    def settle(self) -> None:
        """Wait until it is known whether the batch is sound. Idempotent.

        Raises:
            DecodeError: a stream is damaged; the content is not to be used.
        """
        check, self._check = self._check, None
        give_back, self._give_back = self._give_back, None
        try:
            if check is not None:
                self._event.wait()
                check()
        finally:
            if give_back is not None:
                give_back()

    def hand_over(self, device: Device) -> Any:
        """Return the batch, for work that the calling thread queues from now on."""
        on_device = [
            tensor for tensor in tensors_in(self._content) if tensor.device == device.torch_device
        ]
        device.hand_over(on_device, self._event)
        return self._content


class Transfer:
    """Makes batches on one device, for one pass of a loader.

    Args:
        device: device.
        threads: native threads that decode, stage, or inflate on the CPU.
        inflater: what inflates on the device; on the CPU the native decoder, by default.
        ragged: what ragged arrays become there, once they are copied; None leaves them as they are.
    """

    def __init__(
        self,
        device: Device,
        *,
        threads: int = 1,
        inflater: Inflater | None = None,
        ragged: RaggedForm | None = None,
    ) -> None:
        self.device = device
        self._ragged = ragged
        self._threads = threads
        self._inflater = inflater or HostInflater(threads=threads)
        self._ring = PinnedRing(device, slots=SLOTS)

    def decode_here(
        self,
        samples: Sequence[FetchedSample],
        layouts: Sequence[ArrayLayout],
        *,
        keys: bool = True,
    ) -> Sent:
        """Decode samples on the CPU and copy the batch.

        Raises:
            DecodeError: a chunk cannot be decoded.
        """

        def make(slot: Slot) -> Any:
            laid = lay_out(samples, layouts, slot.allocate)
            decode(
                ChunkTable(laid.rows),
                laid.sources,
                laid.destinations,
                threads=self._threads,
                describe=laid.describe,
            )
            return self._uploaded(slot, _without_keys(laid.batch, keys=keys))

        return self._send(make)

    def decode_there(
        self,
        samples: Sequence[FetchedSample],
        layouts: Sequence[ArrayLayout],
        *,
        keys: bool = True,
    ) -> Sent:
        """Copy the streams of samples and decode them on the device.

        Raises:
            DecodeError: a chunk is damaged in a way that is seen before it is inflated.
        """
        slot = self._ring.acquire()
        try:
            with self.device.side():
                laid = lay_out(samples, layouts, self._allocate)
                check = self._inflate_and_place(slot, laid)
                batch = self._uploaded(slot, _without_keys(laid.batch, keys=keys))
                event = self.device.mark()
        except BaseException:
            self._ring.release(slot, self._mark())
            raise
        return Sent(batch, event, check, lambda: self._ring.release(slot, event))

    def load_of(
        self, samples: Sequence[FetchedSample], layouts: Sequence[ArrayLayout], decoded_bytes: int
    ) -> Load:
        """Return what a batch of these samples is, for choosing a route; nothing is copied.

        Raises:
            DecodeError: as `decode_there`.
        """
        slot = self._ring.acquire()
        try:
            laid = lay_out(samples, layouts, slot.allocate)
            table = ChunkTable(laid.rows)
            needed = staged_bytes(
                table, laid.sources, threads=self._threads, describe=laid.describe
            )
            streams = self._stage(table, laid, slot.bytes(needed))
        finally:
            self._ring.release(slot, None)
        return load_of(table, streams, decoded_bytes)

    def move(self, content: Any) -> Sent:
        """Copy what is on the CPU."""
        return self._send(lambda slot: self._uploaded(slot, content))

    def close(self) -> None:
        """Make no more batches, and wake the thread that waits to. Idempotent."""
        self._ring.close()

    def _send(self, make: Callable[[Slot], Any]) -> Sent:
        slot = self._ring.acquire()
        try:
            content = make(slot)
        except BaseException:
            self._ring.release(slot, self._mark())
            raise
        event = self._mark()
        self._ring.release(slot, event)
        return Sent(content, event)

    def _mark(self) -> Event:
        with self.device.side():
            return self.device.mark()

    def _uploaded(self, slot: Slot, content: Any) -> Any:
        def upload(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested:
                return tensor.to(self.device.torch_device)
            return slot.upload(tensor)

        with self.device.side():
            uploaded = moved(content, upload)
            # What comes from the host stays known there: nothing waits for the device.
            return uploaded if self._ragged is None else self._ragged.apply(uploaded, content)

    def _allocate(
        self, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        kind = torch.from_numpy(np.empty(0, dtype)).dtype
        tensor = torch.empty(shape, dtype=kind, device=self.device.torch_device)
        return tensor, tensor

    def _inflate_and_place(self, slot: Slot, laid: LaidOut) -> Callable[[], None]:
        """Queue all that makes elements of the streams of a batch; return its check."""
        table = ChunkTable(laid.rows)
        room = int(laid.rows["source_nbytes"].sum()) + _STREAM_SPARE_BYTES * len(laid.rows)
        buffer = slot.bytes(room + room // 128)
        try:
            streams = self._stage(table, laid, buffer)
        except ConfigError:
            # Streams that are stored grow when they are wrapped, and short ones when aligned.
            room = staged_bytes(table, laid.sources, threads=self._threads, describe=laid.describe)
            buffer = slot.bytes(room)
            streams = self._stage(table, laid, buffer)
        end = int(streams["offset"][-1] + streams["nbytes"][-1]) if len(streams) else 0
        staged = slot.upload(buffer[:end])
        inflation = self._inflater.inflate(staged, streams, slot, laid.describe)
        nothing = torch.empty(0, dtype=torch.uint8, device=self.device.torch_device)
        destinations = [
            one if isinstance(one, torch.Tensor) else nothing for one in laid.destinations
        ]
        place(
            laid.rows,
            streams,
            inflation.starts,
            inflation.memory,
            destinations,
            upload=slot.upload,
        )
        return inflation.check

    def _stage(self, table: ChunkTable, laid: LaidOut, buffer: torch.Tensor) -> Any:
        return stage(
            table,
            laid.sources,
            buffer.numpy().data,
            threads=self._threads,
            describe=laid.describe,
        )


def _without_keys(batch: Batch, *, keys: bool) -> Batch:
    if not keys:
        del batch[KEY]
    return batch
