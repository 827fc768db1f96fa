"""Place of a loader: which epoch its next pass reads, and where in it that begins.

What counts passes and what names epochs come together here: a pass that ended moves on to the next
epoch, one that was left within its first batch was a look and moves nothing, `set_epoch` of the
loader or of its sampler names the next one, and a state that was loaded is the place until a pass
begins there or another epoch is named.

Belongs to the training thread.
"""

from __future__ import annotations

import itertools
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import BatchSampler

from dataplane.errors import ConfigError
from dataplane.loader.batch_source import BatchSource
from dataplane.loader.epoch_iterator import Pass
from dataplane.loader.known_batches import KnownBatches, KnownOrder
from dataplane.loader.ranks import (
    check_agreement,
    draw_seed,
    epoch_number,
    note_epoch,
    rank_behind,
    rank_of_process,
)
from dataplane.loader.sampler import EpochSampler
from dataplane.loader.sampler_batches import SamplerBatches, set_generator, state_between_passes
from dataplane.loader.stacklevel import users_stacklevel
from dataplane.loader.state import LoaderState, Progress

__all__ = ["Place"]

_numbers = itertools.count()
"""Numbers of the loaders of this process, by which ranks find each other's."""


class Place:
    """Place of a loader in its order.

    Args:
        sampler: sampler of the loader, its own or the user's.
        batch_sampler: batch sampler, or None where single samples are yielded.
        generator: generator of the loader, which seeds are drawn from.
        seed: seed that the loader was given, if any.
        length: length of the dataset.
        identity: function that returns the identity of the dataset.
    """

    def __init__(
        self,
        sampler: Any,
        batch_sampler: Any,
        *,
        generator: torch.Generator | None,
        seed: int | None,
        length: int,
        identity: Callable[[], str],
    ) -> None:
        self._sampler = sampler
        self._batch_sampler = batch_sampler
        self._generator = generator
        self._seed = seed
        self._length = length
        self._identity = identity
        self._known = _known(sampler, batch_sampler)
        self._epochs_set = 0
        self._next_epoch = 0
        self._offset = 0  # of the epochs that frameworks name from those that are read
        self._resume: LoaderState | None = None
        self._progress: Progress | None = None
        self._latest: weakref.ref[Pass] | None = None
        self._number = next(_numbers)
        self._is_warned_of_ranks = False
        self._begun = (0, 0)  # epoch of the latest pass, and how often one had been named by then

    @property
    def own(self) -> EpochSampler | None:
        """The loader's own sampler; None with one of the user's."""
        return None if self._known is None else self._known[0]

    def follow_length(self, length: int) -> None:
        """Take over the length that the dataset has now."""
        self._length = length
        if self.own is not None:
            self.own.follow_length(length)

    def set_epoch(self, epoch: int) -> None:
        """Name the epoch of the next pass, and tell samplers that know of epochs.

        Raises:
            ConfigError: the epoch is negative, or no whole number.
        """
        epoch = epoch_number(epoch)
        if self.own is None:
            self._tell_samplers(epoch)
            self._name(epoch)
            return
        self.own.set_epoch(epoch)
        self._offset = 0
        if self._resume is not None and self._resume.epoch != epoch:
            self._resume = None

    @property
    def state(self) -> LoaderState:
        """The place of the training loop: in the latest pass, or before the next.

        Raises:
            ConfigError: batches came out of order.
        """
        progress = self._progress
        if progress is not None and self._is_open and progress.has_begun:
            return replace(progress.state, dataset=self._identity())
        self._obey_sampler()
        if self._resume is not None:
            return self._resume
        state = self._fresh() if self._progress is None else self._progress.state
        draws = self.own is None or state.seed is None
        if self._progress is not None and self._progress.is_finished and draws:
            drawing = self._sampler if self._batch_sampler is None else self._batch_sampler
            state = replace(state, sampler=state_between_passes(drawing))
        return replace(state, dataset=self._identity())

    def as_dict(self) -> dict[str, Any]:
        """Return the state as plain values.

        Raises:
            ConfigError: as `state`.
        """
        return self.state.as_dict()

    def load(self, state_dict: Mapping[str, object]) -> None:
        """Let the next pass begin where a state was taken.

        Raises:
            ConfigError: it is no state, or that of another dataset, seed or kind of order.
        """
        state = LoaderState.from_dict(state_dict)
        draws = self.own is not None and self.own.draws
        fresh = replace(self._fresh(), dataset=self._identity())
        state.check_fits(fresh, self._seed, draws=draws)
        self._obey_sampler()
        if self.own is not None and state.seed is not None and not state.is_seed_of_pass:
            self.own.adopt(state.seed)
        if self.own is not None and state.sampler is not None and self.own.generator is not None:
            set_generator(self.own.generator, state.sampler.get("random", ""))
        if self.own is None and state.sampler is not None:
            epoch = state.sampler.get("epoch")
            if epoch is not None:
                self._tell_samplers(epoch)
        self._progress = None
        self._resume = state
        self._next_epoch = state.epoch

    def begin(
        self, *, takes_any_index: bool, drop_last: bool, draws: bool = False
    ) -> tuple[LoaderState, BatchSource]:
        """Begin a pass: settle rank and seed, and return where it begins and its batches.

        Args:
            takes_any_index: whether a sampler's indices need not be numbers of samples.
            drop_last: whether to leave an incomplete last batch out.
            draws: whether selections draw from the seed of the pass.

        Raises:
            ConfigError: the rank has changed, ranks cannot agree on a seed, or a sampler of the
                user's does not repeat the order that is resumed.
        """
        state = self._next_state()
        order: KnownOrder | None = None
        feed: BatchSource
        if self._known is None:
            feed = self._sampler_batches(state, takes_any_index, drop_last, draws)
        else:
            sampler, batch_size = self._known
            shuffle = sampler.shuffle
            order = sampler.order((state.seed or 0) if shuffle else 0, batch_size)
            if order.nodes is not None:
                name = f"{self._number}/{state.epoch}/{state.samples_consumed}/nodes and batches"
                check_agreement(name, f"{order.nodes}, batches of {batch_size}")
            feed = KnownBatches(
                order,
                state.order_epoch if shuffle else state.epoch,
                state.samples_consumed,
                is_next_known=not ((shuffle or draws) and state.is_seed_of_pass),
            )
        self._resume = None
        self._progress = Progress(state, order, feed)
        self._begun = (state.epoch, 0 if self.own is None else self.own.epochs_set)
        return state, feed

    def looks_behind(self, state_dict: Mapping[str, object]) -> Sequence[int] | None:
        """Return the looks of the batch behind a state; None where no sample comes twice.

        Args:
            state_dict: state of a pass that has begun, of this loader's own order.
        """
        if self._known is None or not self._known[0].rule.repeats:
            return None
        state = LoaderState.from_dict(state_dict)
        sampler, batch_size = self._known
        order = sampler.order(state.seed or 0, batch_size)
        looks = order.of_epoch(state.order_epoch, state.samples_consumed).batch(0)[1]
        return None if looks is None else looks.tolist()

    def order_of(self, epoch: int, *, draws: bool) -> tuple[KnownOrder, int | None]:
        """Return the order of an epoch that is read from its beginning, and its seed.

        Args:
            epoch: epoch.
            draws: whether selections draw from the seed.

        Raises:
            ConfigError: the order is a sampler's, or its seed is drawn when a pass begins.
        """
        epoch_number(epoch)
        if self._known is None:
            raise ConfigError(
                "the order of a sampler is known only as it is drawn",
                hint="ask for the provenance of each batch when it was yielded",
            )
        sampler, batch_size = self._known
        seed = sampler.seed
        if seed is None and (sampler.shuffle or draws):
            raise ConfigError(
                "without a seed each pass draws one when it begins: no epoch is known beforehand",
                hint="give seed=, or ask for the provenance of each batch when it was yielded",
            )
        return sampler.order((seed or 0) if sampler.shuffle else 0, batch_size), seed

    @property
    def progress(self) -> Progress:
        """Progress of the pass that `begin` began."""
        assert self._progress is not None
        return self._progress

    def follow(self, current: Pass) -> None:
        """Remember a pass, to see later whether it was left."""
        self._latest = weakref.ref(current)

    @property
    def carried(self) -> tuple[int, int, int, LoaderState | None]:
        """What a copy of the loader goes on from: its next epoch, and a state that was loaded."""
        epoch = self._next_epoch
        if self._progress is not None and self._resume is None:
            is_done = self._progress.is_finished or not self._is_open
            epoch = self._epoch_after(self._progress)[0] if is_done else self._progress.start.epoch
        return epoch, self._epochs_set, self._offset, self._resume

    @carried.setter
    def carried(self, carried: tuple[int, int, int, LoaderState | None]) -> None:
        self._next_epoch, self._epochs_set, self._offset, self._resume = carried

    def _name(self, epoch: int) -> None:
        if self._resume is None or self._resume.epoch != epoch:
            self._resume = self._progress = None
            self._next_epoch = epoch

    def is_stale(self) -> bool:
        """Say whether another epoch than that of the present pass was named since it began.

        Nothing of the pass was read yet. If the epoch is its own, that was heard.
        """
        own = self.own
        if own is None or own.epochs_set == self._begun[1]:
            return False
        if own.epoch + self._offset != self._begun[0]:
            return True
        self._epochs_set = own.epochs_set
        return False

    def _obey_sampler(self) -> None:
        """Take over an epoch that somebody named to the loader's own sampler.

        Frameworks that resume may count from 0 again: the state that was loaded says which epoch
        the one is that they name first, and they count on from there.
        """
        own = self.own
        if own is None or own.epochs_set == self._epochs_set:
            return
        self._epochs_set = own.epochs_set
        if self._resume is not None and own.epoch + self._offset <= self._resume.epoch:
            self._offset = self._resume.epoch - own.epoch
            return
        epoch = own.epoch + self._offset
        if self._progress is not None and self._is_unread and self._progress.start.epoch == epoch:
            return  # it is where the pass has begun, which may be in the middle
        self._name(epoch)

    @property
    def _is_unread(self) -> bool:
        return self._progress is not None and not self._progress.has_begun

    def _next_state(self) -> LoaderState:
        self._obey_sampler()
        if self.own is not None:
            self.own.settle()
        state, before = self._resume, self._progress
        if state is None and before is not None:
            self._next_epoch, is_look = self._epoch_after(before)
            if is_look and before.start.samples_consumed:
                state = before.start  # a look at where another run had stopped
        if state is not None and state.sampler is not None:
            epoch = state.sampler.get("epoch")
            if epoch is not None and epoch != self._sampler_epoch():
                state = None  # somebody set another one
        if state is None:
            state = self._fresh()
        if self.own is not None:
            self.own.epoch = state.epoch - self._offset
        if state.seed is None:
            if self.own is not None:
                seed, is_of_pass = self.own.begin()
            else:
                seed, is_of_pass = draw_seed(self._generator), True
            state = replace(state, seed=seed, is_seed_of_pass=is_of_pass)
        self._compare_ranks(before, state)
        return state

    def _compare_ranks(self, before: Progress | None, state: LoaderState) -> None:
        """Warn if this rank has read an epoch that others have not begun."""
        own = self.own
        if own is None or own.num_replicas == 1 or not own.shuffle or own.epochs_set:
            return
        order = f"{self._number}/{self._identity()}"
        if before is not None and before.is_finished and not self._is_warned_of_ranks:
            behind = rank_behind(order, before.start.epoch)
            if behind is not None:
                self._is_warned_of_ranks = True
                warnings.warn(
                    f"rank {own.rank} has read epoch {before.start.epoch} of this DataLoader, and "
                    f"rank {behind[0]} is in epoch {behind[1]}: unless ranks do not wait for each "
                    "other, they have begun unequal numbers of passes, and their shares overlap; "
                    "call loader.set_epoch(epoch) on every rank before each epoch",
                    stacklevel=users_stacklevel(),
                )
        note_epoch(order, state.epoch)

    @property
    def _is_open(self) -> bool:
        latest = None if self._latest is None else self._latest()
        return latest is not None and not latest.is_closed

    def _epoch_after(self, before: Progress) -> tuple[int, bool]:
        """Return the epoch after a pass, and whether that was a look."""
        before.is_left = not self._is_open
        has_moved = before.has_moved(is_alone=self.own is None or self.own.num_replicas == 1)
        return before.start.epoch + int(has_moved), not has_moved

    def _fresh(self) -> LoaderState:
        """Return the beginning of the next epoch."""
        kind, details, seed, rank = "sampler", "", self._seed, 0
        if self.own is not None:
            kind, details = self.own.rule.kind, self.own.rule.details
            seed = self.own.seed
        else:
            rank = rank_of_process()[0]
        return LoaderState(
            epoch=self._next_epoch,
            samples_consumed=0,
            num_yielded=0,
            order=kind,
            order_details=details,
            seed=seed,
            dataset_length=self._length,
            rank=rank,
        )

    def _sampler_epoch(self) -> int | None:
        inner = getattr(self._batch_sampler, "sampler", None)
        for sampler in (self._sampler, self._batch_sampler, inner):
            epoch = getattr(sampler, "epoch", None)
            if isinstance(epoch, int) and callable(getattr(sampler, "set_epoch", None)):
                return epoch
        return None

    def _tell_samplers(self, epoch: int) -> None:
        for sampler in (self._sampler, self._batch_sampler):
            set_epoch = getattr(sampler, "set_epoch", None)
            if callable(set_epoch):
                set_epoch(epoch)

    def _sampler_batches(
        self, state: LoaderState, takes_any_index: bool, drop_last: bool, draws: bool
    ) -> SamplerBatches:
        batches = self._batch_sampler
        gives_lists = batches is not None and type(batches) is not BatchSampler
        # What torch's BatchSampler does is done here, where single indices can be counted.
        sampler = batches if gives_lists else getattr(batches, "sampler", self._sampler)
        return SamplerBatches(
            sampler,
            batch_size=None if batches is None or gives_lists else batches.batch_size,
            drop_last=drop_last if batches is None or gives_lists else batches.drop_last,
            length=None if takes_any_index else self._length,
            gives_lists=gives_lists,
            epoch=self._sampler_epoch(),
            consumed=state.samples_consumed,
            state=state.sampler,
            has_looks=draws,
        )


def _known(sampler: Any, batches: Any) -> tuple[EpochSampler, int] | None:
    """Return the loader's own sampler and its batch size, or None with one of the user's."""
    if batches is None:
        return (sampler, 1) if isinstance(sampler, EpochSampler) else None
    if type(batches) is not BatchSampler or not isinstance(batches.sampler, EpochSampler):
        return None
    same = batches.sampler.drop_last == batches.drop_last
    return (batches.sampler, batches.batch_size) if same else None
