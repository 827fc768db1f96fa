"""The order that the arguments of a loader ask for, as a rule, and which rank reads what of it.

Contradictions are refused.

Pure functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch

from dataplane.datasets.dataset import Dataset
from dataplane.datasets.mixture import Mix
from dataplane.datasets.order import InOrder, OrderRule, Shuffled
from dataplane.datasets.sharded import DEFAULT_WINDOW, Sharded
from dataplane.datasets.spread import DEFAULT_LOOKS_WINDOW, Spread
from dataplane.datasets.views import View
from dataplane.datasets.weighted import Weighted
from dataplane.errors import ConfigError
from dataplane.loader.ranks import whole_number
from dataplane.loader.sampler import ByNode, EpochSampler

__all__ = ["Assign", "OrderArguments", "Shuffle", "check_drawn_from"]

Shuffle: TypeAlias = bool | Literal["shards"] | None
Assign: TypeAlias = Literal["turns", "node"]

_RUN_BYTES = 32 << 20
"""Bytes of neighbours that one node owns: at their ends it has blocks of samples of others."""


@dataclass(frozen=True, slots=True, eq=False)
class OrderArguments:
    """Arguments of a loader that say in which order it reads.

    Attributes:
        shuffle: whether to shuffle, and how.
        weights: weight of each sample, to draw by; or None.
        num_samples: number of draws in an epoch; or None.
        window: shards whose samples are mixed by a shuffle by shards, or samples whose looks are
            mixed; or None.
        is_mix: whether the dataset is a mix, which says the order itself.
        looks: looks at each sample of the dataset.
        assign: which rank reads what: ranks take turns, or samples go to the node that owns them.
        ranks_per_node: number of ranks on a node; or None.
    """

    shuffle: Shuffle
    weights: Any = None
    num_samples: int | None = None
    window: int | None = None
    is_mix: bool = False
    looks: int = 1
    assign: Assign = "turns"
    ranks_per_node: int | None = None

    def check(self) -> None:
        """Refuse arguments that contradict each other.

        Raises:
            ConfigError: they do.
        """
        if isinstance(self.shuffle, str) and self.shuffle != "shards":
            raise ConfigError(f'shuffle must be True, False or "shards", got {self.shuffle!r}')
        if self.shuffle == "shards":
            for name, given in (("weights", self.weights is not None), ("a mix", self.is_mix)):
                if given:
                    raise ConfigError(f'shuffle="shards" and {name} both say the order')
        elif self.window is not None and not (self.shuffle and self.looks > 1):
            raise ConfigError(
                'shuffle_window is for shuffle="shards", and for a shuffle of all of a dataset '
                "with samples_per_read"
            )
        if self.window is not None:
            whole_number("shuffle_window", self.window)
        if self.is_mix and self.weights is not None:
            raise ConfigError(
                "a mix has proportions, and weights are of samples",
                hint="give the weights of its sources to dataplane.mix",
            )
        if self.assign not in ("turns", "node"):
            raise ConfigError(f'assign must be "turns" or "node", got {self.assign!r}')
        if self.ranks_per_node is not None:
            if self.assign != "node":
                raise ConfigError('ranks_per_node is for assign="node"')
            if whole_number("ranks_per_node", self.ranks_per_node) < 1:
                raise ConfigError(f"ranks_per_node must be at least 1, got {self.ranks_per_node}")
        if self.num_samples is not None:
            whole_number("num_samples", self.num_samples)
            if self.weights is None:
                raise ConfigError(
                    "num_samples is the number of weighted draws in an epoch, and there are no "
                    "weights",
                    hint="give weights=…, or read less with torch.utils.data.Subset",
                )

    def check_beside_sampler(self) -> None:
        """Refuse what does nothing beside a sampler of the user's.

        Raises:
            ConfigError: it was given.
        """
        others = (
            ("weights", self.weights is not None),
            ("a mix", self.is_mix),
            ('shuffle="shards"', self.shuffle == "shards"),
        )
        for name, given in others:
            if given:
                raise ConfigError(
                    f"{name} and a sampler both say the order", hint="leave the sampler out"
                )
        if self.assign == "node":
            raise ConfigError(
                'assign="node" and a sampler both say which rank reads a sample',
                hint="leave the sampler out",
            )

    def check_beside_own(
        self,
        sampler: EpochSampler,
        dataset: Any,
        view: View | None,
        *,
        seed: int | None,
        ranks: tuple[int | None, int | None],
    ) -> None:
        """Refuse what differs from the sampler of another loader, which this one is given.

        Frameworks put loaders together anew of their parts, with the arguments of the first.

        Args:
            sampler: sampler of the other loader.
            dataset: dataset of this one.
            view: what it shows of packed datasets; None where its samples are not theirs.
            seed: seed that was given, if any.
            ranks: rank and world size that were given, if any.

        Raises:
            ConfigError: an argument says something else.
        """
        rules: list[OrderRule] = []
        if isinstance(dataset, Mix):  # frameworks say shuffle=False beside a sampler
            rules = [dataset.rule(shuffle=shuffle) for shuffle in (True, False)]
        elif self.weights is not None:
            rules = [self.rule(dataset, view)]
        given = sampler.given_ranks
        differing = (
            ("a mix" if self.is_mix else "weights", rules and not any(map(sampler.is_of, rules))),
            (f"seed={seed}", seed is not None and seed != sampler.given_seed),
            (
                f"rank={ranks[0]} and world_size={ranks[1]}",
                ranks != (None, None) and (given is None or ranks not in (given, (None, given[1]))),
            ),
            ('assign="node"', self.assign == "node" and not sampler.is_by_node),
            (
                f"ranks_per_node={self.ranks_per_node}",
                self.ranks_per_node is not None and self.ranks_per_node != sampler.ranks_per_node,
            ),
        )
        for name, differs in differing:
            if differs:
                raise ConfigError(
                    f"{name} and the sampler of another DataLoader, which has {sampler}: both say "
                    "the order, and not the same",
                    hint="leave the sampler out, or give this loader the arguments of the other",
                )

    def check_without_engine(self, dataset: object) -> None:
        """Refuse what torch's own code does not know.

        Raises:
            ConfigError: it was given.
        """
        if self.weights is not None:
            raise ConfigError(
                f"weights are for a dataplane.Dataset, this is a {type(dataset).__name__}",
                hint="use torch.utils.data.WeightedRandomSampler",
            )
        for name, given in (
            ("shuffle", self.shuffle == "shards"),
            ("assign", self.assign == "node"),
        ):
            if given:
                raise ConfigError(
                    f'{name}="{getattr(self, name)}" is for a dataplane.Dataset, this is a '
                    f"{type(dataset).__name__}"
                )

    def rule(self, dataset: Any, view: View | None) -> OrderRule:
        """Return the rule of the order of a dataset.

        Args:
            dataset: dataset.
            view: what it shows of packed datasets; None where its samples are not theirs.

        Raises:
            ConfigError: the dataset has no such order.
        """
        length = len(dataset)
        if self.shuffle and not length:  # as torch's sampler
            raise ConfigError("shuffle=True, and the dataset has no samples to shuffle")
        if isinstance(dataset, Mix):
            return dataset.rule(shuffle=self.shuffle is not False)
        if self.weights is not None:
            count = None if self.num_samples is None else int(self.num_samples)
            return Weighted.of(self.weights, length, count)
        if self.shuffle == "shards":
            if view is None:
                raise ConfigError(
                    f'shuffle="shards" needs the shard of each sample, which is not known of a '
                    f"{type(dataset).__name__}",
                    hint="use it with a dataplane.Dataset, or a Subset or ConcatDataset of such",
                )
            window = DEFAULT_WINDOW if self.window is None else int(self.window)
            return Sharded.of(view.shards(), window)
        if self.shuffle and self.looks > 1:
            window = DEFAULT_LOOKS_WINDOW if self.window is None else int(self.window)
            return Spread(length, self.looks, window)
        return Shuffled(length) if self.shuffle else InOrder(length)

    def by_node(self, length: int, packed: Sequence[Dataset], batch_size: int) -> ByNode | None:
        """Return what is known of nodes; None where ranks take turns.

        Args:
            length: number of samples of the dataset.
            packed: packed datasets that they come from.
            batch_size: samples per batch and rank.
        """
        if self.assign != "node":
            return None
        sizes = {one.url: sum(one.index.shards.values()) for one in packed}
        mean_bytes = max(sum(sizes.values()) // max(length, 1), 1)
        run = -(-_RUN_BYTES // mean_bytes)
        run = -(-run // self.looks) * self.looks  # looks at one sample read the same blocks
        given = None if self.ranks_per_node is None else int(self.ranks_per_node)
        return ByNode(length, run, batch_size, given)


def check_drawn_from(sampler: object, batch_sampler: object, generator: object) -> None:
    """Refuse what nothing can be drawn from.

    Args:
        sampler: sampler of the user's, or None.
        batch_sampler: batch sampler of the user's, or None.
        generator: generator, or None.

    Raises:
        ConfigError: a sampler cannot be iterated, or the generator is none of torch's.
    """
    for name, given in (("sampler", sampler), ("batch_sampler", batch_sampler)):
        if given is not None and not (hasattr(given, "__iter__") or hasattr(given, "__getitem__")):
            raise ConfigError(
                f"{name} must be an iterable, got a value of type {type(given).__name__}",
                hint="give a list of indices, or a torch.utils.data.Sampler",
            )
    if not isinstance(generator, torch.Generator | None):
        raise ConfigError(
            f"generator must be a torch.Generator, got a value of type {type(generator).__name__}",
            hint="write torch.Generator().manual_seed(…), or give seed=",
        )
