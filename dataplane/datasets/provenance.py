"""Provenance of batches: samples, draws, and the bytes of which version of which shard.

A batch on its way carries `Origins`, a few numbers. All else follows from them by plans, without a
byte of a sample being read, when somebody asks: `StepProvenance.as_dict`. To read a sample again,
exactly as it was: `Dataset(url, arrays).numpy(number, draw=draw)`.

Values; `as_dict` may be called from any thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dataplane.datasets.dataset import Dataset
from dataplane.datasets.samples import sample_numbers
from dataplane.datasets.views import FetchedBatch, ViewReader, split_look

__all__ = ["Origins", "StepProvenance", "origins_of"]


@dataclass(frozen=True, slots=True)
class Origins:
    """Which samples a batch is of, in order.

    Attributes:
        which: for each the dataset of the view.
        numbers: for each its number there.
        looks: for each which look at it this is; None where each sample comes once.
    """

    which: Sequence[int]
    numbers: Sequence[int]
    looks: Sequence[int] | None = None


def origins_of(fetched: FetchedBatch, looks: Sequence[int] | None) -> Origins:
    """Return what a batch is of; what replaced a sample counts.

    Args:
        fetched: batch.
        looks: which look each sample is that was asked for; None where each comes once.
    """
    if looks is not None and fetched.places is not None:
        looks = [looks[place] for place in fetched.places]
    return Origins(fetched.which, sample_numbers(fetched.samples), looks)


@dataclass(frozen=True, slots=True, eq=False)
class StepProvenance:
    """Provenance of one step of a rank; what costs time is found out when it is asked for.

    Attributes:
        step: number of the batch in the epoch of this rank, from 0 on.
        epoch: epoch.
        seed: seed of the pass; None where nothing is drawn from one.
        rank: rank of this process.
        world_size: number of ranks.
        origins: what the batch is of.
        datasets: datasets of the view.
        reader: reader of the samples, with the draws of the pass.
    """

    step: int
    epoch: int
    seed: int | None
    rank: int
    world_size: int
    origins: Origins
    datasets: tuple[Dataset, ...]
    reader: ViewReader

    @property
    def keys(self) -> list[str]:
        """Keys of the samples, in order."""
        keys = []
        for which, number in zip(self.origins.which, self.origins.numbers, strict=True):
            dataset = self.datasets[which]
            keys.append(dataset.keys[dataset.numbering.split(number)[0]])
        return keys

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as plain values, for JSON.

        Returns:
            `step`, `epoch`, `seed`, `rank`, `world_size`; `datasets`, a list of `url`, `identity`
            and `arrays` (the text of each selection by name); and `samples`, in the order of the
            batch, of each `dataset` (its place in that list), `number` in it, `key`, `look` (0, or
            which look the order of the epoch gives it), `repetition` (how often the dataset, a
            `Subset` say, names it before), `tile` (or None), `draw` of its selections (or
            None where nothing is drawn), `shard` (key of the object), `etag` (its version), and
            `ranges`, the half-open ranges of bytes that are taken of it.

        Raises:
            DataplaneError: a sample has no plan.
        """
        return {
            "step": self.step,
            "epoch": self.epoch,
            "seed": self.seed,
            "rank": self.rank,
            "world_size": self.world_size,
            "datasets": [
                {
                    "url": dataset.url,
                    "identity": dataset.identity,
                    "arrays": {name: repr(one) for name, one in dataset.selections.items()},
                }
                for dataset in self.datasets
            ],
            "samples": [self._sample(at) for at in range(len(self.origins.numbers))],
        }

    def _sample(self, at: int) -> dict[str, Any]:
        which, number = self.origins.which[at], self.origins.numbers[at]
        look = 0 if self.origins.looks is None else self.origins.looks[at]
        plan, draw, shard = self.reader.trace(which, number, look)
        repetition, look_of_order = split_look(look)
        return {
            "dataset": which,
            "number": number,
            "key": plan.key,
            "look": look_of_order,
            "repetition": repetition,
            "tile": plan.tile,
            "draw": draw,
            "shard": plan.shard,
            "etag": shard.etag,
            "ranges": [list(span) for span in plan.spans],
        }
