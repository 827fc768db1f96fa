"""The order in which samples are read, as a pure function of (seed, epoch, rank, world size).

There is one permutation per `(seed, epoch)`, the same on every rank: the *global order*. At world
size `w` the ranks take turns along it: rank `r` takes the positions `start + r`, `start + r + w`,
… where `start` is the number of samples that the whole world has consumed already. So a run that
stops at any step can go on at the exact sample with another world size, another number of workers
or another batch size, and no order has to be stored.

Ranks must take equally many steps, or a collective operation hangs at the end of the epoch. As in
`torch.utils.data.DistributedSampler`, the order is made to divide by `w`:

- by default the end is padded: positions past the end wrap to the beginning of the global order, so
  at most `w - 1` samples are seen twice in an epoch;
- with `drop_last` the tail is cut: at most `w - 1` samples are not seen in an epoch.

The permutation sorts the raw 64-bit output of PCG64 instead of calling `Generator.permutation`:
NumPy promises that the bits of a bit generator and of `SeedSequence` never change, and does not
promise it of anything above them (NEP 19), so an order outlives an upgrade of NumPy.

This module knows nothing of batches, files or torch. Pure functions; safe from any thread.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dataplane.errors import ConfigError

__all__ = ["global_order", "permutation", "rank_count", "rank_positions"]

MAX_SEED = 2**64 - 1


def permutation(n: int, *, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return the global order of a shuffled epoch: a permutation of `range(n)`.

    Equal arguments give equal orders on every machine and NumPy version.

    Args:
        n: number of samples.
        seed: seed, 0 to 2^64 - 1.
        epoch: epoch, 0 and up.

    Returns:
        int64[n].

    Raises:
        ConfigError: `n` or `epoch` is negative, or `seed` is out of range.

    Example:
        >>> sorted(permutation(5, seed=7, epoch=0).tolist())
        [0, 1, 2, 3, 4]
    """
    if n < 0:
        raise ConfigError(f"cannot order {n} samples")
    if not 0 <= seed <= MAX_SEED:
        raise ConfigError(f"seed must be from 0 to 2**64 - 1, got {seed}")
    if epoch < 0:
        raise ConfigError(f"epoch must be at least 0, got {epoch}")
    bits = np.random.PCG64(np.random.SeedSequence([seed, epoch])).random_raw(n)
    # A stable sort makes equal keys (probability n² / 2^65) a bias of nothing, not a difference
    # between machines.
    return np.argsort(bits, kind="stable").astype(np.int64, copy=False)


def global_order(n: int, *, seed: int, epoch: int, shuffle: bool) -> npt.NDArray[np.int64]:
    """Return the order of an epoch before it is dealt to ranks: shuffled, or 0 … n - 1."""
    if shuffle:
        return permutation(n, seed=seed, epoch=epoch)
    return np.arange(n, dtype=np.int64)


def rank_count(n: int, *, world_size: int = 1, start: int = 0, drop_last: bool = False) -> int:
    """Return how many samples each rank takes from `start` to the end of the epoch.

    It is the same number on every rank: the rest divided by `world_size`, rounded up, or down with
    `drop_last`.

    Raises:
        ConfigError: a number is out of range.
    """
    if n < 0:
        raise ConfigError(f"cannot order {n} samples")
    if world_size < 1:
        raise ConfigError(f"world_size must be at least 1, got {world_size}")
    if start < 0:
        raise ConfigError(f"start must be at least 0, got {start}")
    rest = max(n - start, 0)
    return rest // world_size if drop_last else -(-rest // world_size)


def rank_positions(
    n: int,
    *,
    rank: int = 0,
    world_size: int = 1,
    start: int = 0,
    drop_last: bool = False,
    block: int = 1,
) -> npt.NDArray[np.int64]:
    """Return the positions of the global order that one rank takes, in order.

    Args:
        n: length of the global order.
        rank: rank, 0 to `world_size` - 1.
        world_size: number of ranks that share the order.
        start: number of samples that the world has consumed already, all ranks together.
        drop_last: whether to cut a tail that does not divide by `world_size`, not pad it.
        block: how many neighbours a rank takes in its turn; fewer in the last one.

    Returns:
        int64[rank_count(...)], each from 0 to n - 1.

    Raises:
        ConfigError: a number is out of range.

    Example:
        >>> [rank_positions(5, rank=r, world_size=2).tolist() for r in (0, 1)]
        [[0, 2, 4], [1, 3, 0]]
    """
    count = rank_count(n, world_size=world_size, start=start, drop_last=drop_last)
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank must be from 0 to {world_size - 1}, got {rank}")
    if block < 1:
        raise ConfigError(f"block must be at least 1, got {block}")
    place = np.arange(count, dtype=np.int64)
    first = place - place % block  # of the turn
    length = np.minimum(block, count - first)
    positions = start + first * world_size + rank * length + place % block
    # Only padding goes past the end; with more ranks than samples it goes around several times.
    wrapped: npt.NDArray[np.int64] = positions % n if count else positions
    return wrapped
