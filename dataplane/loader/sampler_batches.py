"""Batches of a user's sampler, which can be iterated only once and may draw from global generators.

It is advanced in the training thread alone, at fixed points (`LOOKAHEAD` batches at the start, one
more per batch yielded): what it draws never depends on timing.

It is resumed by having it repeat itself. Its state has the state of the generator that it drew from
when the pass began, which is put back for the first draws, and a digest of the indices that were
yielded, which those that are passed over must have as well. A sampler with `state_dict` and
`load_state_dict` (or whose iterator has them) is asked instead.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import operator
import queue
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dataplane.datasets.looks import Looked
from dataplane.errors import ConfigError, LoaderError
from dataplane.loader.batch_source import Bulk, Indices

__all__ = ["LOOKAHEAD", "SamplerBatches", "set_generator", "state_between_passes"]

LOOKAHEAD = 64
"""Number of batches that a user's sampler runs ahead of the training loop."""


@dataclass(frozen=True, slots=True)
class _End:
    """The end of a sampler, with an error or without."""

    error: Exception | None = None


class SamplerBatches:
    """Batches of a user's sampler or batch sampler.

    Args:
        sampler: iterable of indices, or of lists of them.
        batch_size: size of the batches that indices are put into; None takes items as they are.
        drop_last: whether to leave an incomplete last batch out.
        length: length of the dataset, where indices are numbers of its samples, negative ones from
            its end; None takes whatever the sampler gives for an index.
        gives_lists: whether it is a batch sampler.
        epoch: epoch that the sampler is in, where it knows of epochs.
        consumed: number of indices to pass over, to resume behind them.
        state: what `sampler_state` gave there; None at the start of an epoch.
        has_looks: whether batches say at which place of the order each index stands, since the
            sampler may give one several times.

    Raises:
        ConfigError: the sampler does not repeat the order that the state is of.
    """

    def __init__(
        self,
        sampler: Iterable[object],
        *,
        batch_size: int | None,
        drop_last: bool,
        length: int | None,
        gives_lists: bool,
        epoch: int | None = None,
        consumed: int = 0,
        state: Mapping[str, Any] | None = None,
        has_looks: bool = False,
    ) -> None:
        self._places = itertools.count(consumed) if has_looks else None
        self._sampler = sampler
        self._batch_size = batch_size
        self._drop_last = drop_last
        self._length = length
        self._gives_lists = gives_lists
        self._epoch = epoch
        self._queues: list[queue.SimpleQueue[Indices | _End]] = [queue.SimpleQueue()]
        self._end: _End | None = None
        self._number = 0
        self._drawn: dict[int, tuple[Indices, Any]] = {}
        self._yielded = 0
        self._digest = hashlib.blake2b(digest_size=16)
        if state is None and consumed:
            raise ConfigError(
                "the state does not say how the sampler repeats itself",
                hint="it was saved by an earlier version; begin the epoch again with set_epoch",
            )
        given = state or {}
        self._random = given.get("random") or _random_state(sampler)
        with _put_back(sampler, given.get("random")):
            self._asked, self._items = _begin(sampler, given.get("own"))
            self._last = self._last_drawn = self._own_state()
            if given and given.get("own") is None:
                self._pass_over(consumed, str(given.get("digest")))
            self._lists = self._grouped()
            for _ in range(LOOKAHEAD):
                self.advance()

    def batches(self) -> Iterator[Indices]:
        """Yield the batches for the reading stage."""
        return _drain(self._queues[0])

    def ahead(self) -> Iterator[Indices]:
        """Yield the same batches again, for the plan; the consumer asks, before it gets any."""
        waiting: queue.SimpleQueue[Indices | _End] = queue.SimpleQueue()
        for indices, _ in self._drawn.values():
            waiting.put(indices)
        if self._end is not None:
            waiting.put(self._end)
        self._queues.append(waiting)
        return _drained_quietly(waiting)

    def advance(self) -> None:
        """Draw one more batch from the sampler."""
        if self._end is not None:
            return
        item: Indices | _End
        try:
            item = self._placed(next(self._lists))
            self._drawn[self._number] = (item, self._last_drawn)
            self._number += 1
        except StopIteration:
            item = self._end = _End()
        except Exception as err:
            item = self._end = _End(err)
        for waiting in self._queues:
            waiting.put(item)

    def note_yielded(self, number: int) -> None:
        """Say that the consumer got batch `number` of this source."""
        drawn = self._drawn.pop(number, None)
        if drawn is not None:
            indices, self._last = drawn
            self._yielded += len(indices)
            self._count_in(indices)

    def sampler_state(self) -> tuple[int, Mapping[str, Any] | None]:
        """Return how many indices were yielded, and what it takes to resume behind them."""
        if self._asked is not None:
            own, random, digest = self._last, None, ""
        else:
            own, random, digest = None, self._random, self._digest.hexdigest()
        return self._yielded, {
            "epoch": self._epoch,
            "own": own,
            "random": random,
            "digest": digest,
        }

    def close(self) -> None:
        """End both iterations. Idempotent."""
        self._end = _End()
        for waiting in self._queues:
            waiting.put(_End())

    def _placed(self, indices: Indices) -> Indices:
        """Return a batch with the places of its indices, where those count."""
        if self._places is None:
            return indices
        kind = Bulk if isinstance(indices, Bulk) else Looked
        return kind(indices, list(itertools.islice(self._places, len(indices))))

    def _own_state(self) -> Any:
        return None if self._asked is None else self._asked.state_dict()

    def _grouped(self) -> Iterator[Indices]:
        batch: Indices = []
        for item in self._items:
            # Now, and not when a batch is full: to see that there is no more may move the sampler.
            self._last_drawn = self._own_state()
            if self._batch_size is None:
                yield self._checked(item)
                continue
            indices = self._checked(item)
            if isinstance(indices, Bulk):
                raise ConfigError(
                    f"the sampler yields lists of indices, {item!r:.60}, and batch_size="
                    f"{self._batch_size} asks for single ones",
                    hint="give it as batch_sampler=, or with batch_size=None",
                )
            batch += indices
            if len(batch) == self._batch_size:
                yield batch
                batch = []
        if batch and not self._drop_last:
            yield batch

    def _pass_over(self, count: int, digest: str) -> None:
        """Draw `count` indices anew, and see that they are those of the digest."""
        seen = 0
        while seen < count:
            item = next(self._items, None)
            if item is None:
                break
            indices = self._checked(item)
            seen += len(indices)
            self._count_in(indices)
        if seen != count or self._digest.hexdigest() != digest:
            raise ConfigError(
                "the sampler does not repeat the order that the state is of: of the "
                f"{count} indices that were read, it gives others now",
                hint="a sampler of your own resumes with the same data, seed, epoch, batch and "
                "world size; leave it out, and the loader resumes with any",
            )

    def _count_in(self, indices: Indices) -> None:
        for index in indices:
            self._digest.update(f"{index!r},".encode())

    def _checked(self, item: object) -> Indices:
        if self._length is None:
            return list(item) if self._gives_lists else [item]  # type: ignore[call-overload,list-item]
        plain: Any = item.tolist() if hasattr(item, "tolist") else item  # arrays and tensors
        kind = Iterable if self._gives_lists else Sequence
        is_list = isinstance(plain, kind) and not isinstance(plain, (str, bytes))
        if is_list:
            plain = list(plain)
        indices: Sequence[Any] = plain if is_list else [plain]
        try:
            numbers = [operator.index(i) for i in indices]
        except TypeError as err:
            raise LoaderError(f"the sampler yielded {item!r}, which is no index or list") from err
        for number in numbers:
            if not -self._length <= number < self._length:
                raise IndexError(
                    f"the sampler yielded sample {number} of a dataset of {self._length}"
                )
        numbers = [number % self._length for number in numbers]
        return Bulk(numbers) if is_list else numbers


def _begin(sampler: Any, own: Any) -> tuple[Any, Iterator[object]]:
    """Return what knows its place, the sampler, its iterator or None, and the iterator there."""

    def is_asked(value: object) -> bool:
        return hasattr(value, "state_dict") and hasattr(value, "load_state_dict")

    if is_asked(sampler):
        if own is not None:
            sampler.load_state_dict(own)
        return sampler, iter(sampler)
    items = iter(sampler)
    if not is_asked(items):
        if own is not None:
            raise ConfigError(
                "the state is of a sampler that keeps its own place, and a "
                f"{type(sampler).__name__} has no load_state_dict",
                hint="give the loader a sampler like the one that was saved",
            )
        return None, items
    if own is not None:
        items.load_state_dict(own)
    return items, items


def _generator_of(sampler: Any) -> torch.Generator:
    """Return what a sampler of torch's draws from."""
    for one in (sampler, getattr(sampler, "sampler", None)):
        generator = getattr(one, "generator", None)
        if isinstance(generator, torch.Generator):
            return generator
    return torch.default_generator


def _random_state(sampler: Any) -> str:
    return _text_of(_generator_of(sampler))


def _text_of(generator: torch.Generator) -> str:
    return base64.b85encode(generator.get_state().numpy().tobytes()).decode()


def set_generator(generator: torch.Generator, state: str) -> None:
    """Put a generator into a state that `state_between_passes` or `sampler_state` has.

    Raises:
        ConfigError: it is none.
    """
    try:
        content = bytearray(base64.b85decode(state))
        generator.set_state(torch.frombuffer(content, dtype=torch.uint8))
    except (TypeError, ValueError, RuntimeError) as err:
        raise ConfigError(
            f"loader state: the state of a generator cannot be put back: {err}",
            hint="pass what state_dict() of a dataplane.DataLoader returned, whole",
        ) from err


def state_between_passes(sampler: Any) -> Mapping[str, Any] | None:
    """Return what it takes to begin the next pass with the generator that a sampler has.

    None where it draws from torch's default generator, which is the user's to save, or keeps a
    state of its own.
    """
    generator = _generator_of(sampler)
    if generator is torch.default_generator or hasattr(sampler, "state_dict"):
        return None
    nothing = hashlib.blake2b(digest_size=16).hexdigest()
    return {"epoch": None, "own": None, "random": _text_of(generator), "digest": nothing}


@contextlib.contextmanager
def _put_back(sampler: Any, state: str | None) -> Iterator[None]:
    """Have a sampler's generator in a state; torch's default one only for as long as this lasts."""
    if state is None:
        yield
        return
    generator = _generator_of(sampler)
    before = generator.get_state()
    set_generator(generator, state)
    try:
        yield
    finally:
        if generator is torch.default_generator:
            generator.set_state(before)


def _drained_quietly(waiting: queue.SimpleQueue[Indices | _End]) -> Iterator[Indices]:
    with contextlib.suppress(Exception):  # of the sampler: `batches` raises it to the user
        yield from _drain(waiting)


def _drain(waiting: queue.SimpleQueue[Indices | _End]) -> Iterator[Indices]:
    while not isinstance(item := waiting.get(), _End):
        yield item
    if item.error is not None:
        raise item.error
