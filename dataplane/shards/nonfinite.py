"""Non-finite values, NaN or infinite, as a diverged run leaves them: counts, and their text.

`NonFiniteTally` adds up a writer's counts, per array name. Not thread-safe; its owner serialises.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dataplane.shards.model import ArrayEntry
from dataplane.units import format_count

__all__ = ["NonFinite", "NonFiniteTally", "nonfinite_of"]


@dataclass(frozen=True, slots=True)
class NonFinite:
    """The values of an array name that are NaN or infinite, over the samples that hold one.

    Attributes:
        array: name of the array.
        nan_count: values that are NaN; None for complex numbers, where the two are not told apart.
        nonfinite_count: values that are NaN or infinite.
        samples: number of samples that hold one.
        first_sample: key of the first of them.
    """

    array: str
    nan_count: int | None
    nonfinite_count: int
    samples: int
    first_sample: str

    def counts(self) -> str:
        """Return the counts as text.

        Example:
            >>> NonFinite("p", 1200, 1203, 1, "run7").counts()
            '1,200 NaN and 3 infinite values'
        """
        noun = "value" if self.nonfinite_count == 1 else "values"
        if self.nan_count is None:
            return f"{format_count(self.nonfinite_count)} {noun} NaN or infinite"
        infinite = self.nonfinite_count - self.nan_count
        parts = [f"{format_count(self.nan_count)} NaN"] if self.nan_count else []
        parts += [f"{format_count(infinite)} infinite"] if infinite else []
        return f"{' and '.join(parts)} {noun}"

    def __str__(self) -> str:
        samples = (
            f"{format_count(self.samples)} samples, the first" if self.samples > 1 else "sample"
        )
        return f"{self.array}: {self.counts()} in {samples} {self.first_sample}"


def nonfinite_of(array: ArrayEntry, key: str) -> NonFinite | None:
    """Return the values of one sample's array that are not finite, or None when all are."""
    count = array.measured.nonfinite_count
    if not count:
        return None
    nan_count = array.stats.nan_count if array.stats is not None else None
    return NonFinite(array.name, nan_count, count, 1, key)


class NonFiniteTally:
    """Sums of `NonFinite` per array name, in order of appearance."""

    def __init__(self) -> None:
        self._found: dict[str, NonFinite] = {}

    def add(self, array: ArrayEntry, key: str) -> None:
        """Count one sample's array."""
        one = nonfinite_of(array, key)
        if one is None:
            return
        before = self._found.get(array.name)
        if before is not None:
            one = replace(
                before,
                nan_count=_sum(before.nan_count, one.nan_count),
                nonfinite_count=before.nonfinite_count + one.nonfinite_count,
                samples=before.samples + 1,
            )
        self._found[array.name] = one

    def found(self) -> tuple[NonFinite, ...]:
        """Return the sums."""
        return tuple(self._found.values())


def _sum(ours: int | None, theirs: int | None) -> int | None:
    return None if ours is None or theirs is None else ours + theirs
