"""Batch sources: a loader's batches of indices, from a known order or a sampler of the user's.

A source is read twice: by the reading stage, and, further ahead, by the cache's plan. The sources
are in `known_batches.py` and `sampler_batches.py`.

What `batches()` and `ahead()` return may be iterated from any one thread each; `advance`,
`note_yielded`, `sampler_state` and `close` belong to the consumer. `close` ends both iterations,
also while they wait.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, TypeAlias

from dataplane.datasets.looks import Looked

__all__ = ["BatchSource", "Bulk", "Indices"]

Indices: TypeAlias = list[int]


class Bulk(Looked):
    """A list of indices that a sampler gave in the place of one (`batch_size=None`)."""


class BatchSource(Protocol):
    """A source of batches of indices. See the module's text."""

    def batches(self) -> Iterator[Indices]:
        """Yield the batches for the reading stage."""
        ...

    def ahead(self) -> Iterator[Indices]:
        """Yield the same batches again, for the plan; the consumer asks, before it gets any."""
        ...

    def advance(self) -> None:
        """Say that the consumer asks for another batch."""
        ...

    def note_yielded(self, number: int) -> None:
        """Say that the consumer got batch `number` of this source."""
        ...

    def sampler_state(self) -> tuple[int, Mapping[str, Any] | None]:
        """Return how many indices were yielded, and what it takes to resume behind them."""
        ...

    def close(self) -> None:
        """End both iterations. Idempotent."""
        ...
