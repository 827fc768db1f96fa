"""`EpochSampler`: a loader's own order, as a sampler that anybody can iterate.

It gives the samples of an epoch that one rank reads (`datasets/order.py`). A loader without a
sampler of the user's has one as its `sampler`, so whoever takes a loader apart and puts another one
together gets the same order. It is a `DistributedSampler`, since that is what it does: frameworks
that would put one in see that it is there, and tell it the epoch.

The seed of a shuffle, where none was given, is drawn when a pass begins, as torch's `RandomSampler`
does: a new one for each pass, whose order then depends on nothing else. Where epochs are counted by
somebody (`set_epoch`), and on several ranks, one is drawn and kept, and the epoch makes the order.

Belongs to the training thread.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch.utils.data import DistributedSampler

from dataplane.datasets.keyed import check_seed
from dataplane.datasets.order import OrderRule, rank_count, rank_positions
from dataplane.datasets.ownership import Nodes
from dataplane.errors import ConfigError
from dataplane.loader.known_batches import KnownOrder, RankOrder
from dataplane.loader.ranks import (
    draw_seed,
    epoch_number,
    node_ranks,
    rank_of_process,
    shared_seed,
    shared_seed_if_any,
    whole_number,
)
from dataplane.telemetry import logger

__all__ = ["ByNode", "EpochSampler"]

_LEAST_RUNS = 64
"""Least number of runs of neighbours that a node owns, where there are so many samples."""


@dataclass(frozen=True, slots=True)
class ByNode:
    """What is known of nodes when a loader is made, for samples to go to the node that owns them.

    Attributes:
        samples: number of samples of the dataset.
        run: number of neighbours that share blocks of the cache.
        batch_size: samples per batch and rank, where the sampler is iterated for itself.
        ranks_per_node: number of ranks on a node; None asks the launcher.
    """

    samples: int
    run: int = 1
    batch_size: int = 1
    ranks_per_node: int | None = None

    def of_ranks(self, ranks: tuple[int, int]) -> Nodes:
        """Return the nodes of a world.

        Args:
            ranks: rank and world size.

        Raises:
            ConfigError: the number of ranks on a node is not known, or does not fit.
        """
        return self.of_nodes(ranks[1] // node_ranks(ranks, self.ranks_per_node))

    def of_nodes(self, count: int) -> Nodes:
        """Return so many nodes."""
        most = max(self.samples // (_LEAST_RUNS * count), 1)
        return Nodes(count, self.samples, min(self.run, most))


class EpochSampler(DistributedSampler[int]):
    """Sampler of the known order of an epoch, for one rank.

    Args:
        rule: rule of the global order.
        seed: seed of the order; None draws one.
        generator: generator that seeds are drawn from; by default torch's.
        rank: rank of this process; None asks when a pass begins.
        world_size: number of ranks; None likewise.
        drop_last: whether to leave out a tail that not all ranks get.
        by_node: what is known of nodes, which samples go to; None where ranks take turns.
        draws: whether selections draw from the seed, also in an order that does not.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        rule: OrderRule,
        *,
        seed: int | None,
        generator: torch.Generator | None,
        rank: int | None,
        world_size: int | None,
        drop_last: bool,
        by_node: ByNode | None = None,
        draws: bool = False,
    ) -> None:
        # Not DistributedSampler's: it asks for the process group at once.
        self.rule = rule
        self.generator = generator
        self.drop_last = drop_last
        self.epoch = 0
        self.epochs_set = 0
        self.pads = True
        self.is_by_batch = False
        self.draws = draws
        self._by_node = by_node
        self._given_seed = None if seed is None else whole_number("seed", seed)
        self._kept_seed: int | None = None
        self._given_ranks = _given_ranks(rank, world_size)
        self._ranks: tuple[int, int] | None = None
        check_seed(self._given_seed or 0, 0)
        if self._given_ranks is not None:
            rank_positions(0, rank=self._given_ranks[0], world_size=self._given_ranks[1])
            if by_node is not None and by_node.ranks_per_node is not None:
                by_node.of_ranks(self._given_ranks)

    @property
    def shuffle(self) -> bool:  # type: ignore[override]  # an attribute there
        """Whether seed and epoch have part in the order."""
        return self.rule.is_drawn

    @property
    def is_by_node(self) -> bool:
        """Whether samples go to the node that owns them."""
        return self._by_node is not None

    @property
    def ranks_per_node(self) -> int | None:
        """Number of ranks on a node that was given; None without one."""
        return None if self._by_node is None else self._by_node.ranks_per_node

    @property
    def given_seed(self) -> int | None:
        """Seed that was given; None where one is drawn."""
        return self._given_seed

    @property
    def given_ranks(self) -> tuple[int, int] | None:
        """Rank and world size that were given; None where they are asked for."""
        return self._given_ranks

    def is_of(self, rule: OrderRule) -> bool:
        """Whether a rule gives the same order."""
        own = self.rule
        return (own.kind, own.details, own.length) == (rule.kind, rule.details, rule.length)

    def __str__(self) -> str:
        ranks = self._given_ranks and f", rank {self._given_ranks[0]} of {self._given_ranks[1]}"
        node = ', assign="node"' if self.is_by_node else ""
        return f"a {self.rule.kind} order, seed {self._given_seed}{ranks or ''}{node}"

    @property
    def ranks(self) -> tuple[int, int]:
        """Rank and world size."""
        return self._given_ranks or rank_of_process()

    @property
    def rank(self) -> int:  # type: ignore[override]  # an attribute there
        """Rank of this process."""
        return self.ranks[0]

    @property
    def num_replicas(self) -> int:  # type: ignore[override]
        """World size."""
        return self.ranks[1]

    @property
    def num_samples(self) -> int:  # type: ignore[override]
        """Number of samples that a rank reads in an epoch."""
        rank, world_size = self.ranks
        if not self.pads:
            return len(range(rank, self.rule.length, world_size))
        return rank_count(self.rule.length, world_size=world_size, drop_last=self.drop_last)

    @property
    def total_size(self) -> int:  # type: ignore[override]
        """Number of samples that all ranks read in an epoch, repeated ones too."""
        return self.num_samples * self.num_replicas

    @property
    def seed(self) -> int | None:  # type: ignore[override]
        """Seed that was given, or drawn and kept; None before."""
        return self._kept_seed if self._given_seed is None else self._given_seed

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next pass reads; the ones after it follow on.

        Raises:
            ConfigError: the epoch is negative, or no whole number.
        """
        self.epoch = epoch_number(epoch)
        self.epochs_set += 1

    def follow_length(self, length: int) -> None:
        """Take over the length that the dataset has now.

        Raises:
            ConfigError: the rule of the order cannot.
        """
        self.rule = self.rule.of_samples(length)
        if self._by_node is not None:
            self._by_node = replace(self._by_node, samples=length)

    def settle(self) -> None:
        """Settle the rank of this process, when a pass begins.

        Raises:
            ConfigError: it is not what it was in earlier passes.
        """
        found = self.ranks
        if self._ranks is not None and self._ranks != found:
            raise ConfigError(
                f"this process is rank {found[0]} of {found[1]} and was {self._ranks[0]} of "
                f"{self._ranks[1]} in earlier passes of this DataLoader",
                hint="iterate over it only after init_process_group, or give rank and world_size",
            )
        self._ranks = found

    def begin(self) -> tuple[int, bool]:
        """Return the seed of a pass that begins, and whether it is drawn for this pass alone.

        Raises:
            ConfigError: ranks that have to shuffle or draw alike cannot agree on a seed.
        """
        if self._given_seed is not None:
            return self._given_seed, False
        if self._kept_seed is not None:
            return self._kept_seed, False
        if self.num_replicas > 1:
            # Else it is only for what the user's code draws, which may differ on each rank.
            is_needed = self.shuffle or self.draws
            shared = (shared_seed if is_needed else shared_seed_if_any)(self.generator)
            if shared is not None:
                self._kept_seed = shared
                return shared, False
        # As often as torch's loader and its sampler would, so that what the training loop draws
        # afterwards is the same.
        seed = draw_seed(self.generator)
        if self.shuffle:
            seed = draw_seed(self.generator)
            logger.info("the shuffle of this pass has the drawn seed %d", seed)
        if self.epochs_set:
            self._kept_seed = seed
            return seed, False
        return seed, True

    def adopt(self, seed: int) -> None:
        """Take the seed of a run that is resumed, where none was given."""
        if self._given_seed is None:
            self._kept_seed = seed

    def order(self, seed: int, batch_size: int) -> KnownOrder:
        """Return the order that a seed gives, in batches.

        Raises:
            ConfigError: samples go to nodes, and the nodes are not known.
        """
        rank, world_size = self.ranks
        return KnownOrder(
            rule=self.rule,
            seed=seed,
            rank=rank,
            world_size=world_size,
            batch_size=batch_size,
            drop_last=self.drop_last,
            is_by_batch=self.is_by_batch,
            nodes=None if self._by_node is None else self._by_node.of_ranks((rank, world_size)),
        )

    def without_padding(self) -> EpochSampler:
        """Return one that gives each sample once, though ranks may then have different counts."""
        other = copy.copy(self)
        other.pads = False
        return other

    def __iter__(self) -> Iterator[int]:
        self.settle()
        seed, is_for_pass = self.begin()
        batch_size = 1 if self._by_node is None else self._by_node.batch_size
        order = self.order(seed, batch_size).of_epoch(0 if is_for_pass else self.epoch)
        return _numbers(order, self.num_samples)

    def __len__(self) -> int:
        return self.num_samples


def _numbers(order: RankOrder, count: int) -> Iterator[int]:
    """Yield the first samples of a rank's order."""
    for first in range(0, count, order.at_once):
        yield from order.read(first, min(first + order.at_once, count))[0].tolist()


def _given_ranks(rank: int | None, world_size: int | None) -> tuple[int, int] | None:
    if world_size is None and rank is None:
        return None
    if world_size is None:
        raise ConfigError(
            f"rank={rank} and world_size=None go together", hint="give both or neither"
        )
    count = whole_number("world_size", world_size)
    if count < 1:
        raise ConfigError(f"world_size must be at least 1, got {count}")
    if rank is None and count != 1:
        raise ConfigError(
            f"rank=None and world_size={count} go together", hint="give both or neither"
        )
    return (0 if rank is None else whole_number("rank", rank)), count
