"""What the stages of a pass do, and which there are.

    read    bytes of a batch, through the cache            in the background
    decode  into the batch, or per sample for user code    native
    collate code of the user's, in a worker                exists only where there is such code
    device  copied, or already under way there             exists only with a device

Shared by the threads of a pass; refers to no pass, pipeline or loader.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.utils.data._utils.pin_memory import pin_memory

from dataplane.datasets.batch import assemble, separate
from dataplane.datasets.looks import looks_of
from dataplane.datasets.mixture import with_source
from dataplane.datasets.provenance import Origins, origins_of
from dataplane.datasets.ragged import RaggedForm
from dataplane.datasets.reader import SAMPLE_ERRORS
from dataplane.datasets.samples import KEY, SOURCE, Keys, decoded_bytes, packed_bytes
from dataplane.datasets.views import FetchedBatch, ViewReader
from dataplane.gpu.transfer import Sent
from dataplane.loader.batch_source import Bulk, Indices
from dataplane.loader.device_batches import DeviceBatches
from dataplane.loader.pipeline import Stage
from dataplane.loader.prefetcher import Prefetcher
from dataplane.loader.user_code import NOTHING_LEFT, Task

__all__ = [
    "MAX_DECODE_THREADS",
    "Asked",
    "BatchWorker",
    "Decoded",
    "PassOptions",
    "Work",
    "decode_threads",
    "stages_of",
]

READ_AHEAD = 2
"""Batches of compressed bytes that may wait to be decoded."""

MAX_DECODE_THREADS = 256
"""As many threads as the native decoder takes."""

_MOST_INLINE_THREADS = 8  # more would wait for memory
_INLINE_THREAD_BYTES = 512 << 10  # decoded in the time that it takes to wake some threads

MAX_READ_THREADS = 8
DIRECT_READ_THREADS = 4
"""Batches read at once without a cache, where every read is a round trip."""


def decode_threads(num_workers: int, nbytes: int | None = None) -> int:
    """Return how many native threads decode a batch.

    Without workers nothing else runs while the training thread waits for its batch: then as many
    decode as torch computes with, which a launcher that shares cores out has set.

    Args:
        num_workers: as of the loader.
        nbytes: bytes that the batch decodes to; None for many.
    """
    if num_workers:
        return min(num_workers, MAX_DECODE_THREADS)
    most = min(torch.get_num_threads(), _MOST_INLINE_THREADS)
    return most if nbytes is None else min(most, 1 + nbytes // _INLINE_THREAD_BYTES)


class BatchWorker(Protocol):
    """A worker that runs the user's code: here, in another thread's copy, or another process."""

    def run(self, task: Task) -> Any:
        """Make the batch of a task."""
        ...


@dataclass(frozen=True, slots=True)
class PassOptions:
    """Options of a pass.

    Attributes:
        num_workers: native decode threads, and workers; with 0 the training thread waits for
            decoding, and runs the user's code.
        prefetch_factor: finished batches that may wait for the training loop.
        pin: whether to put batches into pinned memory.
        timeout_s: longest wait for a batch, or None.
        single: whether to yield samples, not batches (`batch_size=None`).
        keys: whether samples and batches have their keys.
        in_order: whether batches come in order.
        first: place of the first sample in the order of this rank.
        ragged: what ragged arrays become; None leaves them with offsets.
    """

    num_workers: int
    prefetch_factor: int
    pin: bool
    timeout_s: float | None
    single: bool
    keys: bool
    in_order: bool
    first: int
    ragged: RaggedForm | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A batch that is to be made: its indices, and the place of the first in the order."""

    first: int
    indices: Indices
    fetched: FetchedBatch | None = None


@dataclass(slots=True)
class Decoded:
    """A batch on its way, with what has to be counted when it is yielded."""

    content: Any
    samples: int
    is_left_out: bool = False
    decoded_bytes: int = 0
    read_bytes: int = 0
    indices: Indices | None = None
    origins: Origins | None = None
    number: int = 0


class Work:
    """The work of the stages. Shared by their threads; refers to no pass, pipeline or loader."""

    def __init__(
        self,
        reader: ViewReader | None,
        workers: Sequence[BatchWorker],
        options: PassOptions,
        ahead: Prefetcher | None,
        device: DeviceBatches | None = None,
    ) -> None:
        self.reader = reader
        self.workers = workers
        self.options = options
        self.ahead = ahead
        self.device = device

    def read(self, number: int, asked: Asked) -> Asked:
        """Read the bytes of a batch."""
        del number
        assert self.reader is not None
        return Asked(asked.first, asked.indices, self.reader.fetch(asked.indices))

    def decode(self, number: int, asked: Asked) -> Decoded:
        """Decode a batch, or its samples where code of the user's makes the batch."""
        reader, fetched = self.reader, asked.fetched
        assert reader is not None
        assert fetched is not None
        # Batches arrive here in order: all reads up to this one are done.
        self.advance(number)
        try:
            content = self._decode(asked, fetched)
        except SAMPLE_ERRORS:
            fetched = reader.recover(asked.indices)
            content = self._decode(asked, fetched)
        return Decoded(
            content,
            len(fetched.samples),
            not fetched.samples and bool(asked.indices),
            decoded_bytes(fetched.samples),
            packed_bytes(fetched.samples),
            asked.indices,
            origins_of(fetched, reader.looks(asked.indices)),
        )

    def _sources(self, which: Sequence[int]) -> list[str]:
        """Return the names of the sources that samples are of; none but in a mix."""
        assert self.reader is not None
        names = self.reader.sources
        return [] if names is None else [names[place] for place in which]

    def _decode(self, asked: Asked, fetched: FetchedBatch) -> Any:
        options, samples = self.options, fetched.samples
        assert self.reader is not None
        if not samples and asked.indices:
            return None
        threads = decode_threads(options.num_workers, decoded_bytes(samples))
        is_sample = options.single and not isinstance(asked.indices, Bulk)
        if not self.workers and not is_sample:
            if self.device is not None:
                sent = self.device.make(samples, self.reader.layouts, keys=options.keys)
                return sent.named(SOURCE, self._sources(fetched.which))
            batch = assemble(samples, self.reader.layouts, threads=threads, pin=options.pin)
            if not options.keys:
                del batch[KEY]
            if sources := self._sources(fetched.which):
                batch[SOURCE] = Keys(sources)
            return self._arranged(batch)
        separated = separate(samples, self.reader.layouts, threads=threads)
        if not options.keys:
            for sample in separated:
                del sample[KEY]
        sources = self._sources(fetched.which)
        if not self.workers:
            if sources:
                with_source(separated[0], sources[0])
            return _pinned(separated[0]) if options.pin else separated[0]
        places = range(len(samples)) if fetched.places is None else fetched.places
        looks = self.reader.told_apart(asked.indices) or ()
        return Task(
            asked.first,
            [asked.indices[place] for place in places],
            isinstance(asked.indices, Bulk),
            separated,
            fetched.which,
            [sample.plan.index for sample in samples],
            looks and [looks[place] for place in places],
            sources,
        )

    def make(self, worker: int, number: int, item: Decoded | Asked) -> Decoded:
        """Have a worker make a batch of decoded samples, or of what its dataset gives."""
        del number
        if isinstance(item, Asked):
            task = Task(item.first, list(item.indices), looks=_looks_of(item.indices))
            item = Decoded(task, len(item.indices))
        if not item.is_left_out:
            content = self.workers[worker].run(item.content)
            if content is NOTHING_LEFT:
                return Decoded(None, 0, is_left_out=True)
            item.content = self._arranged(_pinned(content) if self.options.pin else content)
        return item

    def _arranged(self, batch: Any) -> Any:
        """Return a batch with its ragged arrays as they were asked for; a device does it itself."""
        form = self.options.ragged
        if form is None or self.device is not None:
            return batch
        return form.apply(batch, pin=self.options.pin)

    def make_here(self, number: int, item: Decoded | Asked) -> Decoded:
        """Make a batch in the training thread."""
        return self.make(0, number, item)

    def to_device(self, number: int, item: Decoded) -> Decoded:
        """Have a batch on the device, or under way there and known to be sound."""
        del number
        assert self.device is not None
        if item.is_left_out:
            return item
        if not isinstance(item.content, Sent):
            item.content = self.device.move(item.content)
            return item
        try:
            item.content.settle()
        except SAMPLE_ERRORS as err:
            # Damage that was only seen on the device: as where the native decoder sees it.
            assert self.reader is not None
            assert item.indices is not None
            recovered = self.reader.recover(item.indices)
            samples, keys, layouts = recovered.samples, self.options.keys, self.reader.layouts
            again = None
            if samples:
                again = self.device.make_again(samples, layouts, keys=keys)
                again.named(SOURCE, self._sources(recovered.which))
            if len(samples) == len(item.indices):
                self.device.distrust(err)
            return Decoded(
                again,
                len(samples),
                again is None,
                decoded_bytes(samples),
                packed_bytes(samples),
                origins=origins_of(recovered, self.reader.looks(item.indices)),
            )
        return item

    def advance(self, number: int) -> None:
        """Say that the bytes of all batches up to this one were read."""
        if (ahead := self.ahead) is not None:
            ahead.advance(number + 1)


def _looks_of(indices: Indices) -> Sequence[int]:
    return looks_of(indices) or ()


def _pinned(content: Any) -> Any:
    return pin_memory(content)  # type: ignore[no-untyped-call]  # torch's own, as its loader uses


def stages_of(work: Work) -> tuple[list[Stage], list[Stage]]:
    """Return the stages that run in the background, and those of the training thread."""
    options = work.options
    count = max(options.num_workers, 1)
    depth = max(options.prefetch_factor, 1)
    # Each worker's next batch may wait beside those of the others.
    waiting = depth + count - 1
    in_order = options.in_order or not options.num_workers
    user = Stage("collate", work.make_here)
    if options.num_workers:
        user = Stage(
            "collate",
            work.make,
            threads=count,
            capacity=waiting,
            to_thread="by number" if in_order else "any",
            in_order=in_order,
        )
    on_device = []
    if work.device is not None:
        on_device = [Stage("device", work.to_device, capacity=depth, in_order=in_order)]
        depth = 1  # what is ready for the loop waits behind the last stage
    if work.reader is None:
        first = [Stage("order", lambda _, asked: asked, capacity=1)]
        made = [user, *on_device]
        return (made, []) if options.num_workers else (first, made)
    if work.reader.cache is None:
        read_threads = DIRECT_READ_THREADS
    else:
        read_threads = min(1 + options.num_workers // 4, MAX_READ_THREADS)
    read = Stage("read", work.read, threads=read_threads, capacity=READ_AHEAD + read_threads - 1)
    decode = Stage("decode", work.decode, capacity=waiting if work.workers else depth)
    stages = [read, decode, *([user] if work.workers else []), *on_device]
    return (stages, []) if options.num_workers else (stages[:1], stages[1:])
