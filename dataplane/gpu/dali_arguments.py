"""Arguments of operations, checked: numbers, bounds, axes, sizes.

Pure functions; each raises `ConfigError` with the argument's name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np

from dataplane.errors import ConfigError

__all__ = [
    "Axis",
    "Outside",
    "Range",
    "axis_of",
    "bounds_of_three",
    "check_outside",
    "number",
    "numbers_of",
    "probability_of",
    "range_of",
    "size_of",
    "three_of",
]

Range: TypeAlias = float | tuple[float, float]
"""A number, or the bounds that one is drawn from."""

Axis: TypeAlias = str | Sequence[float] | None
Outside: TypeAlias = Literal["edge", "zero"]

_AXES = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}


def number(what: str, value: object, *, low: float, high: float = math.inf) -> float:
    """Return a number within bounds.

    Raises:
        ConfigError: it is none, or beyond them.
    """
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not is_number or not low <= float(value) <= high or not math.isfinite(value):  # type: ignore[arg-type]
        bounds = f", at least {low:g}" if high == math.inf else f", from {low:g} to {high:g}"
        bounds = "" if low == -math.inf else bounds
        raise ConfigError(f"{what} must be a finite number{bounds}, got {value!r}")
    return float(value)  # type: ignore[arg-type]


def probability_of(operation: str, value: float) -> float:
    """Return a probability.

    Raises:
        ConfigError: it is no such thing.
    """
    return number(f"{operation}: probability", value, low=0.0, high=1.0)


def range_of(what: str, value: object, *, low: float) -> tuple[float, float]:
    """Return the bounds that a number is drawn from.

    Raises:
        ConfigError: it is no such thing.
    """
    if not isinstance(value, Sequence):
        only = number(what, value, low=low)
        return only, only
    if len(value) != 2:
        raise ConfigError(f"{what} must be a number or two bounds, got {value!r}")
    first, last = number(what, value[0], low=low), number(what, value[1], low=low)
    if first > last:
        raise ConfigError(f"{what}: the lower bound comes first, got {value!r}")
    return first, last


def numbers_of(what: str, value: float | Sequence[float]) -> tuple[float, ...]:
    """Return one number or several as a tuple.

    Raises:
        ConfigError: it is no such thing.
    """
    given = value if isinstance(value, Sequence) else (value,)
    return tuple(number(f"normalise: {what}", one, low=-math.inf) for one in given)


def three_of(what: str, value: object) -> tuple[float, float, float]:
    """Return three numbers.

    Raises:
        ConfigError: it is no such thing.
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 3:
        raise ConfigError(f"{what} must be three numbers, got {value!r}")
    first, second, third = (number(what, one, low=-math.inf) for one in value)
    return first, second, third


def axis_of(operation: str, axis: Axis) -> tuple[float, float, float] | None:
    """Return an axis, x, y, z; None where each sample draws one.

    Raises:
        ConfigError: it is no such thing.
    """
    if axis is None:
        return None
    if isinstance(axis, str):
        if axis not in _AXES:
            raise ConfigError(
                f"{operation}: axis must be 'x', 'y', 'z' or three numbers, got {axis!r}"
            )
        return _AXES[axis]
    direction = three_of(f"{operation}: axis", axis)
    if not any(direction):
        raise ConfigError(f"{operation}: axis has no direction: {axis!r}")
    return direction


def size_of(size: int | Sequence[int]) -> tuple[int, int, int]:
    """Return z, y, x extents.

    Raises:
        ConfigError: it is no such thing.
    """
    given = tuple(size) if isinstance(size, Sequence) else (size,) * 3
    if len(given) != 3 or not all(type(n) is int and n > 0 for n in given):
        raise ConfigError(f"crop: size must be z, y, x extents above 0, got {size!r}")
    return given[0], given[1], given[2]


def check_outside(operation: str, outside: str) -> None:
    """Refuse what says nothing about the outside.

    Raises:
        ConfigError: it is no such thing.
    """
    if outside not in ("edge", "zero"):
        raise ConfigError(f"{operation}: outside must be 'edge' or 'zero', got {outside!r}")


def bounds_of_three(
    ranges: Sequence[tuple[float, float]],
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return the lower bounds of three ranges, and the upper ones."""
    lows, highs = zip(*ranges, strict=True)
    return (lows[0], lows[1], lows[2]), (highs[0], highs[1], highs[2])
