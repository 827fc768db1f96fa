"""ASCII values in VTK XML files: their number, whether each is a number, and their exact values.

VTK reads numbers until it has enough. It does not notice more of them, takes `1.0-101` (Fortran's
1.0E-101) for two, folds 300 into a UInt8, and loses the sign of `-inf`. So every token must be one
number that its type can hold. Text is looked at as bytes, some MiB at a time: characters are mapped
to classes (`0` digit, `-` sign, `e`, `.`, space, `x` other), and no forbidden pair of classes may
occur, with digits and without. That costs no more than a few passes of memory, and no token becomes
a Python object; only arrays with NaN or infinities are parsed a second time, by NumPy.

Pure functions over bytes.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.pack.vtk_xml import Content

__all__ = ["count_numbers", "parse_numbers"]

_STEP_BYTES = 4 << 20
_SPACE = b" \t\r\n\v\f"
_NEXT_SPACE = re.compile(rb"[ \t\r\n\v\f]")
_KNOWN = b"0123456789+-eE." + _SPACE
_CLASSES = bytearray(b"x" * 256)
for _byte, _class in zip(_KNOWN, b"0" * 10 + b"--ee." + b" " * len(_SPACE), strict=True):
    _CLASSES[_byte] = _class
_SPACE_OR_NOT = bytes(ord(" ") if byte in _SPACE else ord("x") for byte in range(256))
_BAD_PAIRS = (b"0-", b".-", b"--", b"- ", b"-e", b"e ", b"ee", b"e.", b" e", b"..", b" .e", b" . ")
_BAD_PAIRS_AFTER_SIGN = (b"-.e", b"-. ")
_BAD_WITHOUT_DIGITS = (b"..", b"ee", b"e.", b".-", b"e-.")
_DIGITS = {1: b"000", 2: b"00000", 4: b"0000000000", 8: b"0" * 19}
"""As many digits as a number outside the range of an integer of so many bytes has at least."""
_INFINITY = re.compile(rb"inf(?:inity)?", re.IGNORECASE)
_SHOWN_BYTES = 40


def count_numbers(content: Content, start: int, stop: int, dtype: np.dtype[Any]) -> int | None:
    """Count the numbers in `content[start:stop]`; None when some must be parsed to be sure.

    Raises:
        ValueError: a token is not a number of this type; the message names it.
    """
    count = 0
    for text in _steps(content, start, stop):
        classes = b" %b " % text.translate(_CLASSES)
        if b"x" in classes:
            if dtype.kind != "f":
                raise ValueError(_named(text, rb"[^\s]*[^\s\d+-][^\s]*", dtype))
            return None
        if dtype.kind == "f":
            _check_floats(text, classes, dtype)
        elif _check_integers(text, classes, dtype):
            return None
        count += classes.count(b" 0") + classes.count(b" -") + classes.count(b" .")
    return count


def _check_floats(text: bytes, classes: bytes, dtype: np.dtype[Any]) -> None:
    without_digits = classes.translate(None, b"0")
    if (
        any(pair in classes for pair in _BAD_PAIRS)
        or any(pair in classes for pair in _BAD_PAIRS_AFTER_SIGN)
        or any(pair in without_digits for pair in _BAD_WITHOUT_DIGITS)
    ):
        number = rb"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
        raise ValueError(_named(text, rb"(?!%b(?:\s|$))[^\s]+" % number, dtype))


def _check_integers(text: bytes, classes: bytes, dtype: np.dtype[Any]) -> bool:
    """Check integers; return whether one has so many digits that it may be out of range."""
    if b"." in classes or b"e" in classes or any(pair in classes for pair in _BAD_PAIRS):
        raise ValueError(_named(text, rb"(?![+-]?\d+(?:\s|$))[^\s]+", dtype))
    if dtype.kind == "u" and b"-" in text:
        raise ValueError(_named(text, rb"-[^\s]*", dtype))
    return _DIGITS[dtype.itemsize] in classes


def _named(text: bytes, pattern: bytes, dtype: np.dtype[Any]) -> str:
    """Name the first token of a text that matches a pattern."""
    found = re.search(rb"(?:^|(?<=\s))(?:%b)" % pattern, text)
    token = (found.group() if found else text.strip())[:_SHOWN_BYTES]
    return f"it holds {token.decode(errors='replace')!r}, which is no {dtype.name}"


def _steps(content: Content, start: int, stop: int) -> Iterator[bytes]:
    """Yield the text in parts that end between tokens."""
    while start < stop:
        end = min(start + _STEP_BYTES, stop)
        if end < stop:
            space = _NEXT_SPACE.search(content, end, stop)
            end = space.end() if space else stop
        yield content[start:end]
        start = end


def parse_numbers(
    content: Content, start: int, stop: int, dtype: np.dtype[Any]
) -> npt.NDArray[Any]:
    """Parse numbers exactly, NaN and infinities included.

    Raises:
        ValueError: a token is not a number of this type.
    """
    text = bytes(content[start:stop])
    if dtype.kind != "f":
        return _parse_integers(text, dtype)
    if re.search(rb"[^\s\d+\-.eEinfatyINFATY]|[dD_(]", text):
        raise ValueError(_named(text, rb"[^\s]*[^\s\d+\-.eEinfatyINFATY][^\s]*", dtype))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # NumPy warns of text that it cannot read to its end
            values = np.fromstring(text, np.float64, sep=" ")
    except (DeprecationWarning, ValueError):
        raise ValueError(_named(text, rb"[^\s]*[a-zA-Z][^\s]*", dtype)) from None
    if _tokens(text) != len(values):
        raise ValueError("it holds tokens that are no numbers")
    infinities = len(_INFINITY.findall(text))
    if dtype.itemsize == 4:
        _undo_double_rounding(values, text)
    with np.errstate(over="ignore"):
        values = values.astype(dtype)
    if int(np.isinf(values).sum()) != infinities:
        raise ValueError(f"it holds a number that is too large for {dtype.name}")
    return values


def _tokens(text: bytes) -> int:
    return (b" " + text.translate(_SPACE_OR_NOT)).count(b" x")


def _parse_integers(text: bytes, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    limits = np.iinfo(dtype)
    if dtype.itemsize < 8:
        numbers = np.fromstring(text, np.int64, sep=" ")  # stays at its limits beyond them
    else:
        numbers = np.array([int(token) for token in text.split()], object)
    if len(numbers):
        for number in (numbers.min(), numbers.max()):
            if not limits.min <= number <= limits.max:
                raise ValueError(f"it holds {number}, which is no {dtype.name}")
    return numbers.astype(dtype)


def _undo_double_rounding(values: npt.NDArray[np.float64], text: bytes) -> None:
    """Move numbers that were rounded onto the middle between two float32 to their own side."""
    ties = np.flatnonzero((values.view(np.uint64) & 0x1FFF_FFFF) == 0x1000_0000)
    if not len(ties):
        return
    tokens = text.split()
    for number in ties[np.isfinite(values[ties])]:
        exact, rounded = Decimal(tokens[number].decode()), Decimal(float(values[number]))
        if exact != rounded:
            values[number] = np.nextafter(values[number], np.inf if exact > rounded else -np.inf)
