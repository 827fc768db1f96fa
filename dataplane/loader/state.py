"""State of a loader: its place in the order, small enough to save with every checkpoint.

The state counts what the *user* got, not what was prefetched. With the loader's own order it counts
it for the whole world of ranks: all ranks are at the same state at the same step, so one copy
serves all, and the run may resume with another world size, batch size or number of workers. With a
sampler of the user's it is the state of one rank, and holds what it takes to have the sampler
repeat itself and to see that it did: a state fits exactly, or is refused.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

from dataplane.datasets.permutations import SORTED_SAMPLES
from dataplane.errors import ConfigError
from dataplane.loader.batch_source import BatchSource
from dataplane.loader.known_batches import KnownOrder

__all__ = ["STATE_VERSION", "LoaderState", "Progress"]

STATE_VERSION = 3
_ADDED: Mapping[int, Mapping[str, object]] = {
    1: {"is_seed_of_pass": False, "dataset": "", "rank": 0, "order_details": ""},
    2: {"order_details": ""},
}
"""What later versions have added, by version; the first was of a seed that was given, or 0.

Before version 3 a shuffle of more than `SORTED_SAMPLES` samples was another permutation.
"""

MOST_RANKS = 1 << 17
"""Ranks that no job has more of."""

_FOREIGN = "_iterator_finished"
"""Name that Accelerate adds to a loader's state."""

_HINT = "pass what state_dict() of a dataplane.DataLoader returned"


@dataclass(frozen=True, slots=True)
class LoaderState:
    """A place in the order of a dataset.

    Attributes:
        epoch: epoch being read, or next when nothing of it was read.
        samples_consumed: places of the global order of this epoch that all ranks together used up;
            with a sampler of the user's, of the order that it gave this rank.
        num_yielded: number of batches of this epoch that this rank yielded, before a resume too.
        order: kind of the order's rule, `shuffled`, `sequential` …, or `sampler` for a sampler of
            the user's.
        seed: seed of the shuffle, and of what the user's code draws; None where one is still to be
            drawn.
        is_seed_of_pass: whether the seed was drawn for this pass alone; the epoch then has no part
            in the order.
        dataset_length: number of samples.
        dataset: identity of the dataset; empty where it is not known.
        rank: rank that a sampler of the user's gave its order to; 0 with the loader's own order.
        sampler: what it takes to have the user's sampler repeat itself; see `sampler_batches.py`.
        order_details: what else the order is made from; see `datasets.order.OrderRule`.
        version: version of this format.
    """

    epoch: int
    samples_consumed: int
    num_yielded: int
    order: str
    seed: int | None
    dataset_length: int
    is_seed_of_pass: bool = False
    dataset: str = ""
    rank: int = 0
    sampler: Mapping[str, Any] | None = None
    order_details: str = ""
    version: int = STATE_VERSION

    @property
    def order_epoch(self) -> int:
        """Epoch, as far as it has part in the order."""
        return 0 if self.is_seed_of_pass else self.epoch

    def as_dict(self) -> dict[str, Any]:
        """Return the state as plain values, for `torch.save` or JSON."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_dict(cls, state: Mapping[str, object]) -> LoaderState:
        """Read what `as_dict` wrote.

        Raises:
            ConfigError: it is not a state of a version that is known.
        """
        if not isinstance(state, Mapping):
            raise ConfigError(
                f"a loader state is a dict, got a value of type {type(state).__name__}", hint=_HINT
            )
        values = {name: value for name, value in state.items() if name != _FOREIGN}
        version = values.get("version")
        if type(version) is not int or version not in (*_ADDED, STATE_VERSION):
            raise ConfigError(
                f"not a loader state of version {STATE_VERSION}: version is {version!r}", hint=_HINT
            )
        values = {"seed": None, "sampler": None, **values}
        names = {field.name for field in fields(cls)}
        if version != STATE_VERSION:
            values = {**_ADDED[version], **values, "version": STATE_VERSION}
        if set(values) != names:
            odd = ", ".join(sorted(map(str, set(values) ^ names)))
            raise ConfigError(f"a loader state with missing or unknown entries: {odd}")
        for name in ("epoch", "samples_consumed", "num_yielded", "seed", "dataset_length", "rank"):
            value = values[name]
            if name == "seed" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ConfigError(f"loader state: {name} must be a count, got {value!r}")
        length = values["dataset_length"]
        assert isinstance(length, int)
        if version != STATE_VERSION and values["order"] == "shuffled" and length > SORTED_SAMPLES:
            raise ConfigError(
                f"a loader state of version {version} in an epoch of {length} shuffled samples: "
                f"since version {STATE_VERSION} more than {SORTED_SAMPLES} are shuffled into "
                "another order, so it cannot be resumed exactly",
                hint=f"finish the epoch with the version that began it, or begin it again with "
                f"loader.set_epoch({values['epoch']})",
            )
        if not isinstance(values["sampler"], Mapping | None):
            raise ConfigError(
                f"loader state: sampler must be a dict, got {type(values['sampler']).__name__}",
                hint=_HINT,
            )
        return cls(**values)  # type: ignore[arg-type]  # checked above

    def check_fits(
        self,
        own: LoaderState,
        given_seed: int | None,
        *,
        draws: bool = False,
        epoch_length: int | None = None,
    ) -> None:
        """Refuse a state of another order: resuming with it would read the wrong samples.

        Args:
            own: state of the loader before its first pass.
            given_seed: seed that the loader was made with, if any.
            draws: whether selections draw from the seed, also in an order that does not.
            epoch_length: samples of an epoch, where they are not those of the dataset.

        Raises:
            ConfigError: the dataset, the seed or the kind of order differs.
        """
        if self.dataset_length != own.dataset_length:
            raise ConfigError(
                f"the state is of a dataset with {self.dataset_length} samples, "
                f"this one has {own.dataset_length}",
                hint="load it into a loader of that dataset",
            )
        if self.dataset and own.dataset and self.dataset != own.dataset:
            raise ConfigError(
                f"the state is of dataset {self.dataset}, this one is {own.dataset}: other "
                "samples, or in another order",
                hint="load it into a loader of that dataset",
            )
        if self.order != own.order:
            raise ConfigError(
                f"the state is of a {self.order} order, this loader's is {own.order}",
                hint="construct the loader with the same shuffle and sampler",
            )
        if self.order_details != own.order_details:
            raise ConfigError(
                f"the state is of another {self.order} order: what it was made from has changed",
                hint="construct the loader with the same arguments as the one that was saved",
            )
        # Ranks take whole turns, so the last one may go beyond the epoch by as many.
        most = (own.dataset_length if epoch_length is None else epoch_length) + MOST_RANKS
        if self.order != "sampler" and not self.num_yielded <= self.samples_consumed <= most:
            raise ConfigError(
                f"the state has {self.samples_consumed} samples in {self.num_yielded} batches "
                f"behind it, in an epoch of {most - MOST_RANKS} samples",
                hint=_HINT,
            )
        is_kept = draws or not self.is_seed_of_pass or self.order not in ("sequential", "sampler")
        if is_kept and None not in (given_seed, self.seed) and self.seed != given_seed:
            raise ConfigError(
                f"the state is of seed {self.seed}, this loader has seed {given_seed}",
                hint=f"construct the loader with seed={self.seed}, or without one",
            )
        if self.order == "sampler" and self.rank != own.rank:
            raise ConfigError(
                f"the state is of rank {self.rank}, this is rank {own.rank}: a sampler of your own "
                "gives each rank an order of its own",
                hint="save and load a state for each rank, or leave the sampler to the loader",
            )


class Closeable(Protocol):
    """What reads a pass, as far as its progress asks."""

    is_closed: bool


_uses = itertools.count(1)


class Progress:
    """Progress of one pass: where it began, and what it yielded since.

    Written by the pass, read by the loader, both in the training thread.

    Args:
        start: where it begins.
        order: order that it reads; None with a sampler of the user's.
        feed: source of its batches.
        times_named: how often an epoch had been named to the loader's own sampler by then.

    Attributes:
        is_finished: whether the epoch is over.
        is_settled: whether the place has followed it.
        is_named_over: whether an epoch was named since, so that the next one does not follow on.
        last_used: number that is the higher, the later it began, yielded or finished; 0 where it
            is not to count until it yields.
    """

    def __init__(
        self,
        start: LoaderState,
        order: KnownOrder | None,
        feed: BatchSource,
        *,
        times_named: int = 0,
    ) -> None:
        self.start = start
        self.times_named = times_named
        self._order = order
        self._feed = feed
        self._run: weakref.ref[Closeable] | None = None
        self._yielded: set[int] = set()  # numbers of batches from the first that was not, on
        self._failed: set[int] = set()  # numbers of those that failed since one was yielded
        self._batches = 0
        self.is_finished = False
        self.is_settled = False
        self.is_named_over = False
        self.last_used = next(_uses)

    def follow(self, run: Closeable) -> None:
        """Say what reads the pass, to see later whether it was left."""
        self._run = weakref.ref(run)

    @property
    def is_open(self) -> bool:
        """Whether it can go on: it was neither closed nor dropped."""
        run = None if self._run is None else self._run()
        return run is not None and not run.is_closed

    def step(self, number: int) -> None:
        """Count batch `number`'s share of the order as used up."""
        self.last_used = next(_uses)
        for done in sorted({*self._failed, number}):
            self._feed.note_yielded(done)
            self._yielded.add(done)
        self._failed.clear()
        while self._batches in self._yielded:
            self._yielded.remove(self._batches)
            self._batches += 1

    def fail(self, number: int) -> None:
        """Say that batch `number` failed: it counts once a later one is yielded.

        So a run that ends there resumes with the batch that failed, and one that goes on does not.
        """
        self._failed.add(number)

    def finish(self) -> None:
        """Say that the epoch is over."""
        self.last_used = next(_uses)
        self.is_finished = True

    @property
    def has_begun(self) -> bool:
        """Whether a batch was yielded."""
        return self.is_finished or self._batches > 0 or bool(self._yielded)

    @property
    def has_moved(self) -> bool:
        """Whether it was more than a look at one batch, so that its epoch counts as begun."""
        return self.is_finished or self._batches + len(self._yielded) > 1

    @property
    def state(self) -> LoaderState:
        """The place of the training loop in the pass.

        Raises:
            ConfigError: batches came out of order, and some are still to come before others.
        """
        start = self.start
        if self._yielded:
            raise ConfigError(
                "with in_order=False batches have come before others that are still to come: there "
                "is no place to resume at",
                hint="take the state between two passes, or leave in_order=False out",
            )
        if self._order is None:
            consumed, sampler = self._feed.sampler_state()
            consumed += start.samples_consumed
        else:
            consumed = self._order.consumed(start.samples_consumed, self._batches)
            sampler = None
        return replace(
            start,
            samples_consumed=consumed,
            num_yielded=start.num_yielded + self._batches,
            sampler=sampler,
        )
