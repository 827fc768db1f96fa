"""Place of a loader: which epoch its next pass reads, and where in it that begins.

Several passes may be open at once, and each has its own progress (`state.py`). The place is a base,
the epoch that was named last or the state that was loaded, and the passes that were begun from it:
the next pass reads the epoch after the last of those that have moved, or begins at the base where
none has. A pass that was left within its first batch was a look, and moves nothing. The training
loop is in the pass that yielded last; a look that is over is that only where no pass goes on beside
it, since a run may end there.

Belongs to the training thread.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import BatchSampler

from dataplane.errors import ConfigError
from dataplane.loader.batch_source import BatchSource
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
from dataplane.loader.sampler_epochs import SamplerEpochs, epoch_of_sampler
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
        self._epochs = SamplerEpochs(sampler, batch_sampler)
        self._epochs_set = 0
        self._next_epoch = 0
        self._offset = 0  # of the epochs that frameworks name from those that are read
        self._resume: LoaderState | None = None
        self._passes: list[Progress] = []
        self._has_begun = False
        self._passes_read = 0
        self._number = next(_numbers)
        self._is_warned_of_ranks = False

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
            self._name_to_user(epoch)
            return
        self.own.set_epoch(epoch)
        self._offset = 0
        if self._resume is not None and self._resume.epoch != epoch:
            self._resume = None

    @property
    def is_in_pass(self) -> bool:
        """Whether the training loop is in a pass, of which it got a batch."""
        loop = self._loop
        return loop is not None and loop.is_open and loop.has_begun

    @property
    def state(self) -> LoaderState:
        """The place of the training loop: in its pass, or before the next.

        Raises:
            ConfigError: batches came out of order.
        """
        loop = self._loop
        if loop is not None and self.is_in_pass:
            return loop.state
        self._obey_sampler()
        self._settle()
        loop = self._loop
        if self._resume is not None and (loop is None or not loop.has_begun):
            return self._resume
        if loop is not None and not loop.is_finished:
            return loop.state
        state = self._fresh(self._next_epoch)
        if self._has_begun and (self.own is None or state.seed is None):
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
        fresh = replace(self._fresh(0), dataset=self._identity())
        length = None if self.own is None else self.own.rule.length
        state.check_fits(fresh, self._seed, draws=draws, epoch_length=length)
        self._obey_sampler()
        if self.own is not None and state.seed is not None and not state.is_seed_of_pass:
            self.own.adopt(state.seed)
        if self.own is not None and state.sampler is not None and self.own.generator is not None:
            set_generator(self.own.generator, state.sampler.get("random", ""))
        if self.own is None and state.sampler is not None:
            self._epochs.resume(state)
        self._settle()
        self._passes, self._has_begun = [], False
        self._resume = state
        self._next_epoch = state.epoch
        self._offset = 0

    def begin(
        self, *, takes_any_index: bool, drop_last: bool, draws: bool = False
    ) -> tuple[Progress, BatchSource]:
        """Begin a pass: settle rank and seed, and return its progress and its batches.

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
                place = f"{self._passes_read}/{state.epoch}/{state.samples_consumed}"
                name = f"{self._number}/{place}/nodes and batches"
                check_agreement(name, f"{order.nodes}, batches of {batch_size}")
            feed = KnownBatches(
                order,
                state.order_epoch if shuffle else state.epoch,
                state.samples_consumed,
                is_next_known=not ((shuffle or draws) and state.is_seed_of_pass),
            )
        times_named = 0 if self.own is None else self.own.epochs_set
        progress = Progress(state, order, feed, times_named=times_named)
        self._passes.append(progress)
        self._has_begun = True
        return progress, feed

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
    def carried(self) -> tuple[int, int, int, LoaderState | None]:
        """What a copy of the loader goes on from: its next epoch, and a state to resume at.

        In a pass that is open that is where the pass began.
        """
        self._settle()
        epoch, resume, loop = self._next_epoch, self._resume, self._loop
        if loop is not None and loop.is_open and not loop.is_named_over:
            epoch, resume = loop.start.epoch, loop.start if loop.start.samples_consumed else resume
        return epoch, self._epochs_set, self._offset, resume

    @carried.setter
    def carried(self, carried: tuple[int, int, int, LoaderState | None]) -> None:
        self._next_epoch, self._epochs_set, self._offset, self._resume = carried

    def is_stale(self, progress: Progress) -> bool:
        """Say whether another epoch than that of a pass was named since it began.

        Nothing of the pass was read yet. If the epoch is its own, that was heard.
        """
        own = self.own
        if own is None or own.epochs_set == progress.times_named:
            return False
        if own.epoch + self._offset != progress.start.epoch:
            return True
        self._epochs_set = own.epochs_set
        return False

    @property
    def _loop(self) -> Progress | None:
        """The pass that the training loop is in, or was in last."""
        found = [one for one in self._passes if one.last_used]
        goes_on = any(one.is_open and one.has_begun for one in found)
        found = [
            one
            for one in found
            if one.is_open
            or (not one.is_named_over and (one.has_moved or (one.has_begun and not goes_on)))
        ]
        return max(found, key=lambda one: one.last_used, default=None)

    @property
    def _is_alone(self) -> bool:
        return self.own is None or self.own.num_replicas == 1

    def _settle(self) -> None:
        """Have the base follow the passes that have moved, and forget those that are over."""
        for one in self._passes:
            if one.has_moved and not one.is_settled:
                one.is_settled = True
                self._passes_read += 1
                if not one.is_named_over:
                    self._next_epoch = max(self._next_epoch, one.start.epoch + 1)
                    self._resume = None
        loop = self._loop
        self._passes = [one for one in self._passes if one.is_open or one is loop]

    def _keep_resume(self) -> None:
        """Forget looks: the state that was loaded was named to be the next place."""
        self._passes = [one for one in self._passes if one.is_open]

    def _next(self) -> tuple[int, LoaderState | None]:
        """Return the epoch of the next pass, and the state that it resumes at, if any.

        On one rank a pass beside one that is open reads the epoch after it, even before that has
        moved. Of several ranks one may look alone.
        """
        self._settle()
        beside = [
            one.start.epoch + 1
            for one in self._passes
            if self._is_alone and one.is_open and not one.is_named_over
        ]
        if not beside:
            return self._next_epoch, self._resume
        return max(self._next_epoch, *beside), None

    def _name(self, epoch: int) -> None:
        """Have the next pass read an epoch; the pass that the loop is in keeps its place."""
        loop = self._loop
        for one in self._passes:
            one.is_named_over = True
            if one is not loop or not one.has_begun:
                one.last_used = 0
        self._next_epoch, self._resume = epoch, None

    def _name_to_user(self, epoch: int) -> None:
        """Name an epoch where the sampler is the user's."""
        self._settle()
        resume, loop = self._resume, self._loop
        if resume is not None:
            of_sampler = epoch_of_sampler(resume)
            if epoch in (resume.epoch, of_sampler):
                self._epochs.tell(epoch if of_sampler is None else of_sampler)
                self._keep_resume()
                return
        self._epochs.tell(epoch)
        if loop is None or loop.has_begun or loop.start.epoch != epoch:
            self._name(epoch)

    def _obey_sampler(self) -> None:
        """Take over an epoch that somebody named to the loader's own sampler.

        Frameworks that resume may count from 0 again: the state that was loaded says which epoch
        the one is that they name first, and they count on from there.
        """
        own = self.own
        if own is None or own.epochs_set == self._epochs_set:
            return
        self._epochs_set = own.epochs_set
        self._settle()
        if self._resume is not None and own.epoch + self._offset <= self._resume.epoch:
            self._offset = self._resume.epoch - own.epoch
            self._keep_resume()
            return
        epoch, loop = own.epoch + self._offset, self._loop
        if loop is not None and not loop.has_begun and loop.start.epoch == epoch:
            return  # it is where the pass has begun, which may be in the middle
        self._name(epoch)

    def _next_state(self) -> LoaderState:
        self._obey_sampler()
        if self.own is not None:
            self.own.settle()
        before = self._loop
        epoch, state = self._next()
        if state is not None and not self._epochs.fit(state):
            state = None
        if state is None:
            state = self._fresh(epoch)
        if self.own is not None:
            self.own.epoch = state.epoch - self._offset
        if state.seed is None:
            if self.own is not None:
                seed, is_of_pass = self.own.begin()
            else:
                seed, is_of_pass = draw_seed(self._generator), True
            state = replace(state, seed=seed, is_seed_of_pass=is_of_pass)
        state = replace(state, dataset=self._identity())
        self._compare_ranks(before, state)
        return state

    def _compare_ranks(self, before: Progress | None, state: LoaderState) -> None:
        """Warn if this rank has read an epoch that others have not begun."""
        own = self.own
        if own is None or own.num_replicas == 1 or not own.shuffle or own.epochs_set:
            return
        order = f"{self._number}/{state.dataset}"
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

    def _fresh(self, epoch: int) -> LoaderState:
        """Return the beginning of an epoch."""
        kind, details, seed, rank = "sampler", "", self._seed, 0
        if self.own is not None:
            kind, details = self.own.rule.kind, self.own.rule.details
            seed = self.own.seed
        else:
            rank = rank_of_process()[0]
        return LoaderState(
            epoch=epoch,
            samples_consumed=0,
            num_yielded=0,
            order=kind,
            order_details=details,
            seed=seed,
            dataset_length=self._length,
            rank=rank,
        )

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
            epoch=self._epochs.epoch,
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
