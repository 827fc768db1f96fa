"""Draws of selections: random numbers that follow from (seed, epoch, sample, look).

The *look* tells apart the times that an order gives one sample within an epoch: 0 where it gives
each once. A draw does not depend on workers, ranks or batches, and the plan, which fetches ahead,
computes the same one as the reader.

In a `DataLoader` seed and epoch are those of the pass. Whoever reads `dataset[i]` by itself gets a
draw from torch's generator (or, without torch, Python's), as any random transform would; user code
that a loader runs gets the loader's own (`active`).

The hash is splitmix64's finalizer, applied to one number after the other; part of the meaning of a
saved run, it never changes. Values and pure functions, apart from `active`, which is per thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import operator
import random
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from dataplane.errors import ConfigError

__all__ = [
    "AnyDraws",
    "Draws",
    "GivenDraw",
    "active",
    "checked_draw",
    "current_draws",
    "draw_below",
    "draw_from",
    "looks_here",
]

_MASK = 2**64 - 1
_GOLDEN = 0x9E37_79B9_7F4A_7C15


def _mixed(state: npt.NDArray[np.uint64], number: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return the hash of a state and a number; both uint64[n] or broadcast."""
    value = (state ^ number) + np.uint64(_GOLDEN)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return value ^ (value >> np.uint64(31))


@dataclass(frozen=True, slots=True)
class Draws:
    """Source of the draws of a pass.

    Attributes:
        seed: seed of the pass, 0 to 2^64 - 1.
        epoch: its epoch.
        look: added to the look of every sample.
    """

    seed: int
    epoch: int
    look: int = 0

    def of(
        self, samples: npt.ArrayLike, looks: npt.ArrayLike = 0, tiles: npt.ArrayLike = 0
    ) -> npt.NDArray[np.uint64]:
        """Return the draw of each sample: uint64[n].

        Args:
            samples: int64[n], numbers of samples.
            looks: int64[n], which look at the sample it is; or one number for all.
            tiles: int64[n], which part of it, where a sample is cut in several; likewise.
        """
        state = np.zeros(1, np.uint64)
        with np.errstate(over="ignore"):
            for number in (
                np.uint64(self.seed & _MASK),
                np.uint64(self.epoch & _MASK),
                np.asarray(samples, np.int64).astype(np.uint64),
                np.asarray(looks, np.int64).astype(np.uint64) + np.uint64(self.look & _MASK),
                np.asarray(tiles, np.int64).astype(np.uint64),
            ):
                state = _mixed(state, np.asarray(number, np.uint64))
        return state

    def later(self, epochs: int) -> Draws:
        """Return those of the pass some epochs later."""
        return replace(self, epoch=self.epoch + epochs) if epochs else self


@dataclass(frozen=True, slots=True)
class GivenDraw:
    """One draw for whatever is read: that of a sample that was read before.

    Attributes:
        draw: the draw, 0 to 2^64 - 1.
    """

    draw: int

    def of(
        self,
        samples: npt.ArrayLike,
        looks: npt.ArrayLike = 0,  # noqa: ARG002 - as of `Draws`
        tiles: npt.ArrayLike = 0,  # noqa: ARG002
    ) -> npt.NDArray[np.uint64]:
        """Return the draw for each sample: uint64[n]."""
        return np.full(np.size(samples), self.draw, np.uint64)

    def later(self, epochs: int) -> GivenDraw:  # noqa: ARG002
        """Return itself."""
        return self


AnyDraws: TypeAlias = Draws | GivenDraw
"""What the selections of samples draw from."""


def checked_draw(draw: object) -> int:
    """Return a draw.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(draw, bool):
        with contextlib.suppress(TypeError):
            number = operator.index(draw)  # type: ignore[arg-type]  # asked
            if 0 <= number <= _MASK:
                return number
    raise ConfigError(f"draw must be a whole number from 0 to 2^64 - 1, got {draw!r}")


def draw_below(count: int, draw: int, label: str | int) -> int:
    """Return a number from 0 to `count` - 1 that follows from a draw and a label.

    Each has the same probability, but for a bias of `count` / 2^64.

    Example:
        >>> draw_below(10, 7, "x") == draw_below(10, 7, "x"), draw_below(1, 7, "x")
        (True, 0)
    """
    digest = hashlib.blake2b(
        draw.to_bytes(8, "little"), key=str(label).encode()[:64], digest_size=8
    ).digest()
    return int.from_bytes(digest, "little") * count >> 64


class _Local(threading.local):
    draws: AnyDraws | None = None
    looks: dict[int, list[int]] | None = None  # of indices that are read together, the next last

    def __init__(self) -> None:
        self.left: dict[int, dict[int, list[int]]] = {}  # of them, by who reads


_local = _Local()


@contextmanager
def active() -> Iterator[None]:
    """Let `draw_from` hold in this thread until the end."""
    before = _local.draws, _local.looks, _local.left
    try:
        yield
    finally:
        _local.draws, _local.looks, _local.left = before


def draw_from(draws: AnyDraws, indices: Sequence[int] = (), looks: Sequence[int] = ()) -> None:
    """Let `dataset[i]` draw from `draws` in this thread, within `active`.

    Args:
        draws: draws.
        indices: indices that are about to be read together, by each of some datasets.
        looks: which look each of them is; a dataset takes one after another as it reads an index.
    """
    _local.draws, _local.looks, _local.left = draws, None, {}
    if looks:
        _local.looks = {}
        for index, look in zip(reversed(indices), reversed(looks), strict=True):
            _local.looks.setdefault(index, []).append(look)


def looks_here(reader: object, indices: Sequence[int]) -> list[int] | None:
    """Return which look each of a dataset's reads is: as `draw_from` was told, else a count.

    Args:
        reader: whose reads they are.
        indices: what is read, together.
    """
    if _local.looks is not None:
        left = _local.left.setdefault(id(reader), {})
        return [_next_look(left, index) for index in indices]
    if _local.draws is not None or len(set(indices)) == len(indices):
        return None
    seen: dict[int, int] = {}
    looks = []
    for index in indices:
        looks.append(seen.get(index, 0))
        seen[index] = looks[-1] + 1
    return looks


def _next_look(left: dict[int, list[int]], index: int) -> int:
    """Return the next look at an index; from the first on again when all were taken."""
    told = _local.looks or {}
    looks = left.setdefault(index, list(told.get(index, (0,))))
    look = looks.pop()
    looks.insert(0, look)
    return look


def current_draws() -> AnyDraws:
    """Return what `dataset[i]` draws from here: a loader's draws, or torch's or Python's numbers.

    Those depend on how often they were asked for, and on the seed that the user gave.
    """
    if _local.draws is not None:
        return _local.draws
    torch = sys.modules.get("torch")
    if torch is None:
        return Draws(random.getrandbits(64), 0)
    return Draws(int(torch.empty((), dtype=torch.int64).random_().item()), 0)
