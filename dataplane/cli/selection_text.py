"""Selections of arrays as text: `points=points(65536)`, `fields/u=crop(64, 64, 64)`.

What stands behind the name is the call of a selection as in Python, with plain values for its
arguments: `whole()`, `crop(64, 64, 64)`, `crop({"z": 64}, "center")`, `points(1000)`, `rows(8)`,
`steps(4, 2)`, and two of them with `&`. Nothing is executed but these functions. Pure.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dataplane.datasets import crop, points, rows, steps, whole
from dataplane.datasets.selections import Selection
from dataplane.errors import ConfigError

__all__ = ["parse_arrays"]

_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "crop": crop,
    "points": points,
    "rows": rows,
    "steps": steps,
    "whole": whole,
}
_HINT = "write NAME, or NAME=points(65536), NAME=crop(64, 64, 64), NAME=steps(4) & crop(64, 64, 64)"


def parse_arrays(texts: Sequence[str]) -> dict[str, Selection] | None:
    """Return the selection of each array that is named; None where none is, for all arrays.

    Raises:
        ConfigError: a text is no selection, or an array is named twice.
    """
    found: dict[str, Selection] = {}
    for text in texts:
        name, has_call, call = text.partition("=")
        if not name.strip():
            raise ConfigError(f"--arrays {text!r} names no array", hint=_HINT)
        if name.strip() in found:
            raise ConfigError(f"--arrays names {name.strip()!r} twice")
        found[name.strip()] = _parse(call, text) if has_call else whole()
    return found or None


def _parse(call: str, text: str) -> Selection:
    try:
        node = ast.parse(call.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ConfigError(f"--arrays {text!r}: {call!r} is no selection", hint=_HINT) from None
    selection: Selection = _selection(node, text)
    return selection


def _selection(node: ast.expr, text: str) -> Any:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd):
        return _selection(node.left, text) & _selection(node.right, text)
    if (
        not isinstance(node, ast.Call)
        or not isinstance(node.func, ast.Name)
        or node.func.id not in _FUNCTIONS
    ):
        raise ConfigError(
            f"--arrays {text!r}: a selection is one of {', '.join(sorted(_FUNCTIONS))}", hint=_HINT
        )
    if any(keyword.arg is None for keyword in node.keywords):
        raise ConfigError(f"--arrays {text!r}: name each argument, without **", hint=_HINT)
    try:
        given = [ast.literal_eval(argument) for argument in node.args]
        named = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords}
    except (ValueError, TypeError, SyntaxError):
        raise ConfigError(
            f"--arrays {text!r}: arguments are numbers, texts, tuples and mappings", hint=_HINT
        ) from None
    if node.func.id == "crop":
        given = _shape_first(given)
    try:
        return _FUNCTIONS[node.func.id](*given, **named)
    except TypeError as err:
        raise ConfigError(f"--arrays {text!r}: {err}", hint=_HINT) from None


def _shape_first(given: list[Any]) -> list[Any]:
    """Put the extents of a crop that are given one by one together: `crop(64, 64, 64)`."""
    count = next((at for at, one in enumerate(given) if not isinstance(one, int)), len(given))
    return [tuple(given[:count]), *given[count:]] if count else given
