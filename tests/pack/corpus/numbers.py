"""Numbers in text, read strictly: what is no number, or does not fit its type, is refused."""

from __future__ import annotations

import re

import numpy as np

from tests.pack.corpus.model import Refused

__all__ = ["format_text", "parse_text"]

_INTEGER = re.compile(r"[-+]?\d+", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
_SPECIAL = re.compile(r"([-+]?)(nan|inf|infinity)", re.IGNORECASE | re.ASCII)


def parse_text(words, dtype: np.dtype) -> np.ndarray:
    """Read words as values of a type."""
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        out = []
        for word in words:
            if _INTEGER.fullmatch(word) is None or len(word) > 40:
                raise Refused(f"{word[:20]!r} is no whole number")
            if not limits.min <= int(word) <= limits.max:
                raise Refused(f"{word[:20]} does not fit {dtype}")
            out.append(int(word))
        return np.array(out, dtype)
    numbers = []
    for word in words:
        special = _SPECIAL.fullmatch(word)
        if special is None and _FLOAT.fullmatch(word) is None:
            raise Refused(f"{word[:20]!r} is no number")
        numbers.append(float(word))
    with np.errstate(over="ignore", under="ignore"):
        return np.array(numbers, np.float64).astype(dtype)


def format_text(values: np.ndarray) -> list[str]:
    """The words of an array, each of which gives its value back."""
    flat = values.reshape(-1)
    if values.dtype.kind in "iu":
        return [str(int(value)) for value in flat]
    return [str(value) for value in flat]
