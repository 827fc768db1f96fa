"""ASCII values in VTK XML files: their number, whether each is a number, and their exact values.

VTK reads numbers until it has enough. It does not notice more of them, takes `1.0-101` (Fortran's
1.0E-101) for two, folds 300 into a UInt8, and loses the sign of `-inf`. So every token must be one
number that its type can hold. Text is looked at as bytes, a part at a time: characters become
classes (space, digit, sign, exponent, point), and each pair of neighbours must be one that numbers
have. That costs a few passes over memory, and no token becomes a Python object; only arrays with
NaN or infinities, and those of single bytes, are parsed a second time, by NumPy.

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

from dataplane.pack.vtk.xml import Content

__all__ = ["count_numbers", "parse_numbers"]

_STEP_BYTES = 256 << 10
"""Size of a part: its classes stay in a processor's cache."""
_SPACE = b" \t\r\n\v\f"
_NEXT_SPACE = re.compile(rb"[ \t\r\n\v\f]")
_SPACE_OR_NOT = bytes(ord(" ") if byte in _SPACE else ord("x") for byte in range(256))
_CLASSES = b" 0-e.x"
"""Space, digit, sign, exponent, point, anything else. Texts of classes hold their places here."""
_MEMBERS = (_SPACE, b"0123456789", b"+-", b"eE", b".")
_CLASS_OF = bytes(
    next((n for n, members in enumerate(_MEMBERS) if byte in members), 5) for byte in range(256)
)
_GOOD, _BAD, _START, _POINT, _OTHER = range(5)
_FLOAT_PAIRS = "00 0. 0e .0 .e e0 e- -0 -. 0_ ._ __ _0 _- _."
_INTEGER_PAIRS = "00 -0 0_ __ _0 _-"
_INFINITY = re.compile(rb"inf(?:inity)?", re.IGNORECASE)
_NO_FLOAT = (
    rb"(?![+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|(?i:nan|inf|infinity))(?:\s|$))[^\s]+"
)
_NO_INTEGER = rb"(?![+-]?\d+(?:\s|$))[^\s]+"
_SHOWN_BYTES = 40


def _verdicts(pairs: str) -> bytes:
    """A table of the meaning of each pair of classes, for the pairs that a number may have."""
    allowed = pairs.replace("_", " ").encode()
    table = bytearray([_BAD]) * 256
    for first, before in enumerate(_CLASSES):
        for second, behind in enumerate(_CLASSES):
            pair = bytes([before, behind])
            verdict = _BAD
            if b"x" in pair:
                verdict = _OTHER
            elif pair in (allowed[at : at + 2] for at in range(0, len(allowed), 3)):
                is_start = before == ord(" ") != behind
                verdict = _POINT if pair in {b" .", b"-."} else _START if is_start else _GOOD
            table[first << 3 | second] = verdict
    return bytes(table)


_FLOAT_VERDICTS = _verdicts(_FLOAT_PAIRS)
_INTEGER_VERDICTS = _verdicts(_INTEGER_PAIRS)
_PLACES = bytes.maketrans(_CLASSES, bytes(range(len(_CLASSES))))
_BARE_POINTS = tuple(bare.translate(_PLACES) for bare in (b" . ", b" .e", b"-. ", b"-.e"))
_EXPONENT = _CLASSES.index(b"e")
_LONG_EXPONENTS = tuple(long.translate(_PLACES) for long in (b"e000", b"e-000"))
_BAD_WITHOUT_DIGITS = tuple(bad.translate(_PLACES) for bad in (b"..", b"ee", b"e.", b"e-."))


def count_numbers(content: Content, start: int, stop: int, dtype: np.dtype[Any]) -> int | None:
    """Count the numbers in `content[start:stop]`; None when they must be parsed to be sure.

    Raises:
        ValueError: a token is not a number of this type; the message names it.
    """
    is_float = dtype.kind == "f"
    count = 0
    for text in _steps(content, start, stop):
        classes = b"\0%b\0" % text.translate(_CLASS_OF)
        places = np.frombuffer(classes, np.uint8)
        pairs = (places[:-1] << 3 | places[1:]).tobytes()
        verdicts = pairs.translate(_FLOAT_VERDICTS if is_float else _INTEGER_VERDICTS)
        if is_float and _OTHER in verdicts:
            return None
        if _BAD in verdicts or _OTHER in verdicts:
            raise ValueError(_named(text, _NO_FLOAT if is_float else _NO_INTEGER, dtype))
        if is_float:
            _check_points(text, classes, verdicts, dtype)
            if _EXPONENT in classes and any(long in classes for long in _LONG_EXPONENTS):
                return None  # it may be too large for its type, which VTK does not always notice
        elif dtype.kind == "u" and b"-" in text:
            raise ValueError(_named(text, rb"-[^\s]*", dtype))
        count += verdicts.count(_START)
        if _POINT in verdicts:
            count += classes.count(b"\0\4")
    # VTK reads these as wider integers and cuts them; it refuses others that are out of range.
    return None if dtype.kind != "f" and dtype.itemsize == 1 and count else count


def _check_points(text: bytes, classes: bytes, verdicts: bytes, dtype: np.dtype[Any]) -> None:
    """Check for faults that pairs do not show: no digits at a point, a second point or exponent."""
    without_digits = classes.translate(None, b"\1")
    bare = _POINT in verdicts and any(point in classes for point in _BARE_POINTS)
    if bare or any(bad in without_digits for bad in _BAD_WITHOUT_DIGITS):
        raise ValueError(_named(text, _NO_FLOAT, dtype))


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
    parse = _parse_floats if dtype.kind == "f" else _parse_integers
    # NumPy takes white space alone for a zero.
    parts = [parse(text, dtype) for text in _steps(content, start, stop) if text.strip(_SPACE)]
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def _parse_floats(text: bytes, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # NumPy warns of text that it cannot read to its end
            values = np.fromstring(text, np.float64, sep=" ")
    except (DeprecationWarning, ValueError):
        raise ValueError(_named(text, _NO_FLOAT, dtype)) from None
    if _tokens(text) != len(values) or b"(" in text:
        raise ValueError(_named(text, _NO_FLOAT, dtype))
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
    numbers = np.fromstring(text, np.int64, sep=" ")  # stays at its limits beyond them
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
