"""State of a loader: its place in the order, small enough to save with every checkpoint.

The state counts what the *user* got, not what was prefetched, and counts it for the whole world of
ranks: all ranks are at the same state at the same step, so one copy serves all, and the run may
resume with another world size, batch size or number of workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace

from dataplane.errors import ConfigError
from dataplane.loader.batch_source import KnownOrder

__all__ = ["STATE_VERSION", "LoaderState", "Progress"]

STATE_VERSION = 1


@dataclass(frozen=True, slots=True)
class LoaderState:
    """A place in the order of a dataset.

    Attributes:
        epoch: epoch being read, or next when nothing of it was read.
        samples_consumed: places of the global order of this epoch that all ranks together used up;
            0 for a sampler of the user's, whose order is its own.
        num_yielded: number of batches of this epoch that this rank yielded, before a resume too.
        order: `shuffled`, `sequential`, or `sampler` for a sampler of the user's.
        seed: seed of the shuffle.
        dataset_length: number of samples.
        version: version of this format.
    """

    epoch: int
    samples_consumed: int
    num_yielded: int
    order: str
    seed: int
    dataset_length: int
    version: int = STATE_VERSION

    def as_dict(self) -> dict[str, int | str]:
        """Return the state as plain values, for `torch.save` or JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, state: Mapping[str, object]) -> LoaderState:
        """Read what `as_dict` wrote.

        Raises:
            ConfigError: it is not a state of this version.
        """
        if not isinstance(state, Mapping):
            raise ConfigError(
                f"a loader state is a dict, got a value of type {type(state).__name__}",
                hint="pass what state_dict() of a dataplane.DataLoader returned",
            )
        version = state.get("version")
        if version != STATE_VERSION:
            raise ConfigError(
                f"not a loader state of version {STATE_VERSION}: version is {version!r}",
                hint="pass what state_dict() of a dataplane.DataLoader returned",
            )
        names = {field.name for field in fields(cls)}
        if set(state) != names:
            odd = ", ".join(sorted(map(str, set(state) ^ names)))
            raise ConfigError(f"a loader state with missing or unknown entries: {odd}")
        for name in names - {"order"}:
            value = state[name]
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ConfigError(f"loader state: {name} must be a count, got {value!r}")
        return cls(**state)  # type: ignore[arg-type]  # checked above

    def check_fits(self, *, order: str, seed: int, dataset_length: int) -> None:
        """Refuse a state of another order: resuming with it would read the wrong samples.

        Raises:
            ConfigError: the dataset, the seed or the kind of order differs.
        """
        if self.dataset_length != dataset_length:
            raise ConfigError(
                f"the state is of a dataset with {self.dataset_length} samples, "
                f"this one has {dataset_length}"
            )
        if self.order != order:
            raise ConfigError(
                f"the state is of a {self.order} order, this loader's is {order}",
                hint="construct the loader with the same shuffle and sampler",
            )
        if order == "shuffled" and self.seed != seed:
            raise ConfigError(
                f"the state is of seed {self.seed}, this loader has seed {seed}",
                hint=f"construct the loader with seed={self.seed}",
            )


class Progress:
    """Progress of one pass: where it began, and what it yielded since.

    Written by the pass, read by the loader, both in the training thread.
    """

    def __init__(self, start: LoaderState, order: KnownOrder | None) -> None:
        self._start = start
        self._order = order
        self._batches = 0
        self._finished = False

    def step(self) -> None:
        """Count a batch's worth of the order as used up."""
        self._batches += 1

    def finish(self) -> None:
        """Say that the epoch is over."""
        self._finished = True

    @property
    def state(self) -> LoaderState:
        """The place of the training loop; after the last batch, the start of the next epoch."""
        start = self._start
        if self._finished:
            return replace(start, epoch=start.epoch + 1, samples_consumed=0, num_yielded=0)
        consumed = start.samples_consumed
        if self._order is not None:
            consumed = self._order.consumed(consumed, self._batches)
        return replace(
            start, samples_consumed=consumed, num_yielded=start.num_yielded + self._batches
        )
