"""Which share of an order this process reads, and a seed that all processes of a job agree on.

The rank is asked for when a pass begins, not when a loader is made: of `torch.distributed` where a
process group is there, else of the launcher's variables RANK and WORLD_SIZE.

A seed that is drawn must be the same on all ranks, and a rank that looks at a batch on its own must
neither hang nor shift the others: so there is one drawn seed for a job. The rank that needs it
first draws it and leaves it in the process group's key-value store, where the others find it.
There ranks also note which epoch they have begun: one that read more passes than the others, and
so a permutation of its own, is found when its epoch ends.
"""

from __future__ import annotations

import contextlib
import operator
import os
from typing import SupportsIndex, cast

import torch
import torch.distributed as dist

from dataplane.errors import ConfigError
from dataplane.telemetry import logger

__all__ = [
    "draw_seed",
    "epoch_number",
    "node_ranks",
    "note_epoch",
    "rank_behind",
    "rank_of_process",
    "shared_seed",
    "shared_seed_if_any",
    "whole_number",
]

_KEY = "dataplane/seed"


def whole_number(name: str, value: object) -> int:
    """Return an argument that is a whole number, of Python, NumPy or torch.

    Raises:
        ConfigError: it is something else; True and False are answers, not numbers.
    """
    try:
        if not isinstance(value, bool):
            return operator.index(cast(SupportsIndex, value))
    except TypeError:
        pass
    raise ConfigError(f"{name} must be a whole number, got {value!r:.60}")


def epoch_number(epoch: object) -> int:
    """Return the number of an epoch.

    Raises:
        ConfigError: it is negative, or no whole number.
    """
    number = whole_number("epoch", epoch)
    if number < 0:
        raise ConfigError(f"epoch must be at least 0, got {number}")
    return number


def rank_of_process() -> tuple[int, int]:
    """Return rank and world size of this process: (0, 1) where nobody says otherwise.

    Raises:
        ConfigError: the launcher's variables are no ranks.
    """
    if _has_group():
        return dist.get_rank(), dist.get_world_size()
    rank, world_size = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if not rank or not world_size:
        return 0, 1
    try:
        found = int(rank), int(world_size)
    except ValueError:
        found = -1, -1
    if not 0 <= found[0] < found[1]:
        raise ConfigError(
            f"RANK={rank} and WORLD_SIZE={world_size} in the environment are no rank",
            hint="correct or unset them, or give the DataLoader rank and world_size",
        )
    return found


def node_ranks(ranks: tuple[int, int], given: int | None = None) -> int:
    """Return how many ranks each node has; ranks are numbered node by node.

    Args:
        ranks: rank and world size.
        given: number that the user gave; None asks the launcher's LOCAL_WORLD_SIZE.

    Raises:
        ConfigError: it is not known, does not divide the world size, or the launcher has numbered
            ranks in another way.
    """
    rank, world_size = ranks
    count = given
    if count is None:
        if world_size == 1:
            return 1
        names = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
        found = [_environment_number(name) for name in names]
        if None in found or (found[0], found[1]) != ranks:
            raise ConfigError(
                f'assign="node" needs the number of ranks on a node, which the launcher does not '
                f"say of rank {rank} of {world_size}: RANK, WORLD_SIZE and LOCAL_WORLD_SIZE are "
                f"{found[0]}, {found[1]} and {found[2]}",
                hint="start the ranks with torchrun, or give ranks_per_node",
            )
        count = cast(int, found[2])
    if count < 1 or world_size % count:
        raise ConfigError(
            f'assign="node" needs equally many ranks on each node: {count} on a node are no even '
            f"share of {world_size}",
            hint="give ranks_per_node, or leave assign out",
        )
    if (_environment_number("RANK"), _environment_number("WORLD_SIZE")) == ranks:
        _check_numbering(rank, count)
    return count


def _check_numbering(rank: int, count: int) -> None:
    """Check that ranks which count as one node follow one another on a machine.

    A user may give another number than a machine has: half of its ranks share a disk, say.
    """
    started = _environment_number("LOCAL_WORLD_SIZE") or count
    if started % count and count % started:
        raise ConfigError(
            f"{count} ranks on a node and {started} on a machine (LOCAL_WORLD_SIZE) do not fit "
            "into each other",
            hint="give a ranks_per_node that divides it or is a multiple of it",
        )
    for name, expected in (("GROUP_RANK", rank // started), ("LOCAL_RANK", rank % started)):
        if _environment_number(name) not in (None, expected):
            raise ConfigError(
                f"ranks are not numbered node by node: rank {rank} with {started} on a machine has "
                f"{name}={os.environ[name]} and not {expected}",
                hint="leave assign out, or number the ranks of a node one after the other",
            )


def _environment_number(name: str) -> int | None:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else None


def draw_seed(generator: torch.Generator | None) -> int:
    """Draw a seed as torch's loader does: of the generator, or of the default one; 63 bits."""
    return int(torch.empty((), dtype=torch.int64).random_(generator=generator).item())


def shared_seed_if_any(generator: torch.Generator | None) -> int | None:
    """Return the drawn seed of this job; None where ranks cannot agree, and can do without."""
    if _has_group():
        with contextlib.suppress(Exception):  # as in `note_epoch`
            return shared_seed(generator)
    return None


def shared_seed(generator: torch.Generator | None) -> int:
    """Return the drawn seed of this job, the same on all ranks.

    Args:
        generator: what it is drawn from; None draws from torch's own.

    Raises:
        ConfigError: there are several ranks, and no process group to agree in.
    """
    if not _has_group():
        raise ConfigError(
            "the ranks of a job shuffle and draw alike only with a seed that all of them know",
            hint="give the DataLoader seed=…, or iterate over it after init_process_group",
        )
    store = dist.distributed_c10d._get_default_store()
    mine = str(draw_seed(generator))
    seed = int(store.compare_set(_KEY, "", mine))
    logger.info("the drawn seed of this job is %d", seed)
    return seed


def check_agreement(what: str, value: str) -> None:
    """Compare something with what the other ranks have, where there is a process group.

    Args:
        what: name of it, the same on all ranks.
        value: what this rank has.

    Raises:
        ConfigError: another rank has something else.
    """
    if not _has_group():
        return
    other = value
    with contextlib.suppress(Exception):  # as in `note_epoch`
        store = dist.distributed_c10d._get_default_store()
        other = store.compare_set(f"{_KEY}/{what}", "", value).decode()
    if other != value:
        raise ConfigError(
            f"ranks do not agree on {what.rpartition('/')[2]}: here it is {value}, and {other} on "
            "another rank",
            hint="give all ranks the same arguments, and the same ranks_per_node",
        )


def note_epoch(order: str, epoch: int) -> None:
    """Note for the other ranks which epoch of an order this one begins.

    Args:
        order: name of the order, the same on all ranks.
        epoch: epoch.
    """
    if _has_group():
        with contextlib.suppress(Exception):  # a store that is gone must not end a run
            store = dist.distributed_c10d._get_default_store()
            store.set(_epoch_key(order, dist.get_rank()), str(epoch))


def rank_behind(order: str, epoch: int) -> tuple[int, int] | None:
    """Return the next rank and the epoch that it is in, where it has not begun an epoch yet.

    Waits for nothing. Each rank asks for one other, so that where ranks have parted one of them
    finds it, and a job of thousands asks no more.

    Args:
        order: name of the order.
        epoch: epoch that this rank has read to its end.
    """
    if _has_group():
        with contextlib.suppress(Exception):  # as in `note_epoch`
            store = dist.distributed_c10d._get_default_store()
            rank = (dist.get_rank() + 1) % dist.get_world_size()
            key = _epoch_key(order, rank)
            if store.check([key]) and (begun := int(store.get(key))) < epoch:
                return rank, begun
    return None


def _epoch_key(order: str, rank: int) -> str:
    return f"dataplane/epoch/{order}/{rank}"


def _has_group() -> bool:
    return dist.is_available() and dist.is_initialized()
