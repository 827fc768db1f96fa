"""Mixtures: the order of several sources in given proportions, at any position of an epoch.

Which source a position is of is decided in two steps.

1. *Counts.* The first `p` places of an epoch hold `c_k(p)` samples of source `k`, its share of `p`
   rounded: with whole-number shares `m_0, m_1, …`, `c_0(p) = round(p * m_0 / (m_0 + m_1 + …))`, and
   the others are counted among the `p - c_0(p)` places that are left in the same way. As `p` grows
   by one, exactly one count does. So proportions hold all along the epoch, and not only on average:
   a count is never further from its share than half the number of sources.
2. *Blocks.* Places in turn would be the same source for the same rank again and again, so within
   each block of `BLOCK` places they are permuted, by random bits of (seed, epoch, place).

The `c`-th sample of a source in an epoch is the one at place `c mod n` of its pass `c div n`; each
pass of each source has a permutation of its own. The look of a position is the number of the pass.

Everything is computed for the blocks that are asked for; nothing is stored. Whole-number arithmetic
alone, so equal on every machine. `Mix` is what users get; `mixing.py` makes it.

Values that are not changed once made; safe from any thread.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from torch.utils.data import ConcatDataset
from torch.utils.data import Dataset as TorchDataset

from dataplane.datasets.keyed import Array, check_seed, checked_places, keys_of, random_bits
from dataplane.datasets.permutations import Permutation
from dataplane.datasets.samples import SOURCE
from dataplane.errors import ConfigError

__all__ = [
    "MAX_LENGTH",
    "MAX_SHARES",
    "Mix",
    "Mixed",
    "counts",
    "place_of",
    "with_source",
]

BLOCK = 256
"""Places that are permuted among each other. Of the definition: another number, another order."""

MAX_SHARES = 1 << 24
"""Largest sum of shares."""

MAX_LENGTH = 1 << 38
"""Most places of an epoch: times a share they still are a number of 63 bits."""

_BLOCKS_AT_ONCE = 1024
_SOURCES_KEPT = 4
"""Permutations that are kept for each source."""

_OF_BLOCKS, _OF_SOURCES = 0x6D697831, 0x6D697832  # purposes of keys

Number = TypeVar("Number", int, Array)


def counts(places: Number, shares: Sequence[int]) -> Iterator[Number]:
    """Yield how many of the first `places` places each source has, source by source.

    Args:
        places: a number, or int64[...].
        shares: share of each source; their sum is at most `MAX_SHARES`.
    """
    rest, total = places, sum(shares)
    for share in shares[:-1]:
        count = (rest * share + total // 2) // total
        yield count
        rest, total = rest - count, total - share
    yield rest


def place_of(source: int, count: int, shares: Sequence[int]) -> int | None:
    """Return the least number of places that hold `count` samples of a source; None if too many."""

    def held(places: int) -> int:
        return next(itertools.islice(counts(places, shares), source, None))

    if held(MAX_LENGTH) < count:
        return None
    low, high = 0, MAX_LENGTH
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if held(middle) >= count else (middle + 1, high)
    return low


@dataclass(frozen=True, slots=True)
class Mixed:
    """The rule of a mixture.

    Attributes:
        sizes: number of samples of each source, at least 1.
        shares: share of each source, at least 1.
        length: number of places of an epoch.
        is_drawn: whether sources are shuffled; else each is read in its own order.
    """

    sizes: tuple[int, ...]
    shares: tuple[int, ...]
    length: int
    is_drawn: bool
    kind = "mixed"
    repeats = True

    @property
    def quality(self) -> float:
        """1 for sources that are shuffled, each fully; else 0."""
        return float(self.is_drawn)

    @property
    def details(self) -> str:
        """Name of proportions, length and whether sources are shuffled."""
        text = f"{self.sizes}, {self.shares}, {self.length}, {self.is_drawn}"
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def of_samples(self, count: int) -> Mixed:
        """Return itself.

        Raises:
            ConfigError: there is another number of samples by now.
        """
        if count != sum(self.sizes):
            raise ConfigError(
                f"the sources of a mix had {sum(self.sizes)} samples, and have {count} by now",
                hint="make the mix and its DataLoader again",
            )
        return self

    def of_epoch(self, seed: int, epoch: int) -> _MixedEpoch:
        """Return the global order of an epoch.

        Raises:
            ConfigError: seed or epoch is out of range.
        """
        check_seed(seed, epoch)
        return _MixedEpoch(self, *((seed, epoch) if self.is_drawn else (0, 0)))


class _MixedEpoch:
    def __init__(self, rule: Mixed, seed: int, epoch: int) -> None:
        self._rule = rule
        self._keys = keys_of(_OF_BLOCKS, seed, epoch, count=2)
        self._offsets = np.cumsum([0, *rule.sizes])

        def permutation(source: int, turn: int) -> Permutation:
            (key,) = keys_of(_OF_SOURCES, seed, epoch, source, turn, count=1)
            return Permutation(rule.sizes[source], int(key), 0)

        # Safe from any thread; two that miss at once make equal ones.
        self._permutation = functools.lru_cache(_SOURCES_KEPT * len(rule.sizes))(permutation)

    def __len__(self) -> int:
        return self._rule.length

    def read(self, positions: npt.ArrayLike) -> tuple[Array, Array]:
        places = checked_places(positions, what="position", length=self._rule.length).reshape(-1)
        source, count = np.empty_like(places), np.empty_like(places)
        blocks, block_of = np.unique(places // BLOCK, return_inverse=True)
        for first in range(0, len(blocks), _BLOCKS_AT_ONCE):
            some = blocks[first : first + _BLOCKS_AT_ONCE]
            sources, numbers = self._blocks(some)
            which = np.flatnonzero((block_of >= first) & (block_of < first + len(some)))
            row, column = block_of[which] - first, places[which] % BLOCK
            source[which], count[which] = sources[row, column], numbers[row, column]
        return self._samples(source, count)

    def _blocks(self, blocks: Array) -> tuple[Array, Array]:
        """Return the source of each place of some blocks, and its number there: int64[b, BLOCK].

        Places behind the end have numbers that mean nothing.
        """
        rule = self._rule
        places = blocks[:, None] * BLOCK + np.arange(BLOCK + 1)
        source = np.zeros((len(blocks), BLOCK), np.int64)
        before = []  # of each source, in the places before the block
        for number, held in enumerate(counts(places, rule.shares)):
            source += number * (held[:, 1:] - held[:, :-1])
            before.append(held[:, 0])
        bits = random_bits(self._keys, places[:, :-1])
        bits[places[:, :-1] >= rule.length] = np.uint64(2**64 - 1)
        source = np.take_along_axis(source, np.argsort(bits, axis=1, kind="stable"), axis=1)
        count = np.empty_like(source)
        for number, start in enumerate(before):
            is_of = source == number
            count = np.where(is_of, start[:, None] + np.cumsum(is_of, axis=1) - 1, count)
        return source, count

    def _samples(self, source: Array, count: Array) -> tuple[Array, Array]:
        """Return samples and looks for the `count`-th ones of sources."""
        sizes = np.array(self._rule.sizes)[source]
        looks, numbers = count // sizes, count % sizes
        if not self._rule.is_drawn:
            return numbers + self._offsets[source], looks
        samples = np.empty_like(numbers)
        order = np.lexsort((looks, source))
        changes = np.diff(source[order]).astype(bool) | np.diff(looks[order]).astype(bool)
        for of_pass in np.split(order, np.flatnonzero(changes) + 1):
            if len(of_pass):
                permutation = self._permutation(int(source[of_pass[0]]), int(looks[of_pass[0]]))
                samples[of_pass] = permutation.at(numbers[of_pass])
        return samples + self._offsets[source], looks


class Mix(ConcatDataset[Any]):
    """Several packed datasets in given proportions. Made by `dataplane.mix`.

    As a map-style dataset it is their concatenation; in which order and how often its samples come
    in an epoch, `dataplane.DataLoader` is told.

    Attributes:
        names: name of each source.
        shares: share of each source in an epoch, a whole number.
        epoch_length: number of samples of an epoch.
    """

    def __init__(
        self,
        sources: Sequence[TorchDataset[Any]],
        names: Sequence[str],
        shares: Sequence[int],
        epoch_length: int,
    ) -> None:
        super().__init__(sources)
        self.names = tuple(names)
        self.shares = tuple(shares)
        self.epoch_length = epoch_length

    def __repr__(self) -> str:
        total = sum(self.shares)
        parts = zip(self.names, self.shares, strict=True)
        shown = ", ".join(f"{share / total:.3g} {name}" for name, share in parts)
        return f"<mix of {shown}: {self.epoch_length:,} samples an epoch>"

    def __getitem__(self, i: int) -> Any:
        number = i + len(self) if i < 0 else i
        source = int(np.searchsorted(self.cumulative_sizes, number, side="right"))
        sample = super().__getitem__(i)  # type: ignore[no-untyped-call]
        return with_source(sample, self.names[min(source, len(self.names) - 1)])

    def rule(self, *, shuffle: bool) -> Mixed:
        """Return the rule of its order."""
        sizes = np.diff([0, *self.cumulative_sizes]).tolist()
        return Mixed(tuple(sizes), self.shares, self.epoch_length, shuffle)


def with_source(sample: Any, name: str) -> Any:
    """Add the name of its source to a sample, if that is a dict without one; and return it."""
    if isinstance(sample, dict):
        sample.setdefault(SOURCE, name)
    return sample
