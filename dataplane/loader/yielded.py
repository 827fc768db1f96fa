"""What a loader has yielded and will yield, as provenance: its latest batches, or an epoch's.

`Trail` is written by a pass and read by its loader, both in the training thread. It refers to no
pass, and keeps a few numbers of the last `KEPT` batches: frameworks look a batch or two ahead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from dataplane.datasets.draws import Draws
from dataplane.datasets.provenance import Origins, StepProvenance
from dataplane.datasets.samples import KEY
from dataplane.datasets.views import View, ViewReader
from dataplane.errors import ConfigError, LoaderError
from dataplane.loader.known_batches import KnownBatches, KnownOrder
from dataplane.loader.state import LoaderState

__all__ = ["KEPT", "Trail", "steps_of_epoch"]

KEPT = 16
"""Batches whose provenance is kept."""


class Trail:
    """The latest batches of a pass.

    Args:
        view: samples of the pass.
        reader: reader of them.
        state: state that it began with.
        ranks: rank and world size.
    """

    def __init__(
        self, view: View, reader: ViewReader, state: LoaderState, ranks: tuple[int, int]
    ) -> None:
        self._datasets = view.datasets
        self._reader = reader
        self._state = state
        self._ranks = ranks
        self._latest: deque[tuple[int, Origins]] = deque(maxlen=KEPT)

    def note(self, number: int, origins: Origins) -> None:
        """Say that batch `number` of the pass was yielded."""
        self._latest.append((number, origins))

    @property
    def parts(self) -> list[int] | None:
        """Which tile of its sample, or which look at it, each of the latest batch is.

        None where numbers of the datasets are those of samples.
        """
        if not self._latest or all(one.numbering.is_plain for one in self._datasets):
            return None
        origins = self._latest[-1][1]
        return [
            self._datasets[which].numbering.split(number)[1]
            for which, number in zip(origins.which, origins.numbers, strict=True)
        ]

    def step(self, batch: object) -> StepProvenance:
        """Return the provenance of the latest batch, or of one of the latest.

        Raises:
            LoaderError: no batch was yielded yet, or this is none of the latest.
            ConfigError: the batch has no keys.
        """
        if batch is None:
            if not self._latest:
                raise LoaderError("no batch was yielded yet, so none has a provenance")
            return self._step(*self._latest[-1])
        if not isinstance(batch, Mapping) or KEY not in batch:
            raise ConfigError(
                f"the batch has no {KEY!r}, by which it is known",
                hint="leave keys=False out, and let a transform keep the keys",
            )
        keys = batch[KEY]
        keys = [keys] if isinstance(keys, str) else list(keys)
        steps = (self._step(number, origins) for number, origins in self._latest)
        found = [step for step in steps if step.keys == keys]
        if len(found) > 1:
            raise LoaderError(
                f"{len(found)} of the last {len(self._latest)} batches of this loader have these "
                "keys: tiles of one sample, or looks at it, are not told apart by them",
                hint="ask for provenance() without a batch, when it was yielded",
            )
        if found:
            return found[0]
        raise LoaderError(
            f"none of the last {len(self._latest)} batches of this loader has these keys",
            hint="ask for the provenance of a batch when it was yielded",
        )

    def _step(self, number: int, origins: Origins) -> StepProvenance:
        state, (rank, world_size) = self._state, self._ranks
        step = state.num_yielded + number
        return StepProvenance(
            step,
            state.epoch,
            state.seed,
            rank,
            world_size,
            origins,
            self._datasets,
            self._reader,
        )


def steps_of_epoch(
    view: View, order: KnownOrder, epoch: int, seed: int | None, first: int
) -> Iterator[StepProvenance]:
    """Yield the provenance of the steps of an epoch of a known order, as they are planned.

    Args:
        view: samples.
        order: order of this rank.
        epoch: epoch.
        seed: seed of order and draws; None where nothing is drawn.
        first: step to begin with.
    """
    reader = ViewReader(view, Draws(seed or 0, epoch))
    batches = KnownBatches(order, epoch, 0).batches()
    for step, batch in enumerate(batches):
        if step >= first:
            origins = Origins(*view.locate(batch), _as_list(reader.looks(batch)))
            yield StepProvenance(
                step,
                epoch,
                seed,
                order.rank,
                order.world_size,
                origins,
                view.datasets,
                reader,
            )


def _as_list(looks: Sequence[int] | None) -> list[int] | None:
    return None if looks is None else list(looks)
