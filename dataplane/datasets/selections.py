"""Selections: the part of an array that a step needs.

A selection turns the shape of a stored array into *boxes*: one half-open `(start, stop)` per
dimension. The plan fetches and decodes only the chunks that a box touches. Several boxes are laid
one after another along the first dimension, so a range of points that wraps around the end of its
array is two boxes. A selection that draws at random takes its randomness from `draw`, a number that
is a function of (seed, epoch, sample), and so is as reproducible as the order.

A selection knows no chunks, codecs or stores. Values: frozen, hashable, picklable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

__all__ = ["Box", "Selection", "Whole", "box_shape", "whole"]

Box: TypeAlias = tuple[tuple[int, int], ...]
"""One half-open `(start, stop)` per dimension."""


@runtime_checkable
class Selection(Protocol):
    """Selection of the part of an array that a step needs."""

    @property
    def is_random(self) -> bool:
        """Whether `boxes` depends on `draw`; plans of selections that do not are kept."""
        ...

    def boxes(self, shape: tuple[int, ...], *, draw: int) -> tuple[Box, ...]:
        """Return the boxes that make up the selection of an array of `shape`.

        All boxes have the same extent in every dimension but the first. For a scalar there is one
        box without dimensions.
        """
        ...


@dataclass(frozen=True, slots=True)
class Whole:
    """All elements of an array. Made by `whole()`."""

    @property
    def is_random(self) -> bool:
        """False: the whole is the whole."""
        return False

    def boxes(self, shape: tuple[int, ...], *, draw: int) -> tuple[Box, ...]:  # noqa: ARG002
        """Return one box that covers the array."""
        return (tuple((0, extent) for extent in shape),)


def whole() -> Whole:
    """Select all elements of an array.

    Example:
        >>> whole().boxes((2, 3), draw=0)
        (((0, 2), (0, 3)),)
    """
    return Whole()


def box_shape(boxes: tuple[Box, ...]) -> tuple[int, ...]:
    """Return the shape of a selection: extents of the boxes, laid along the first dimension."""
    first = tuple(stop - start for start, stop in boxes[0])
    if not first:
        return ()
    return (sum(box[0][1] - box[0][0] for box in boxes), *first[1:])
