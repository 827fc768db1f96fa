"""A position in a legacy VTK file: words, lines, values, text. Knows no sections.

Text files are a stream of words, and line ends mean nothing there: values may begin on the line of
their header. In binary files values begin behind the line of their header, of which nothing may be
left then. Every value of a text file is checked to be one number that its type can hold, since VTK
folds one that is too large and takes Fortran's `1.0-101` for two numbers. Not thread-safe.
"""

from __future__ import annotations

import itertools
import mmap
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from dataplane.errors import FormatError
from dataplane.pack.source import COPY_AGAIN
from dataplane.pack.vtk.text import count_numbers, parse_numbers

__all__ = ["LegacyText"]

TYPES = {
    **{"unsigned_char": "u1", "char": "i1", "signed_char": "i1"},
    **{"unsigned_short": "u2", "short": "i2", "unsigned_int": "u4", "int": "i4"},
    **{"unsigned_long": "u8", "long": "i8", "float": "f4", "double": "f8"},
    **{"vtkidtype": "i4", "vtktypeint64": "i8", "vtktypeuint64": "u8"},  # ids are written as int
}
_TEXT_TYPES = frozenset({"string", "utf8_string"})
_TOKEN = re.compile(rb"\S+")
_COUNT = re.compile(rb"\d{1,18}")
_FIXED = re.compile(rb"-?\d+\.(\d+)((?:[eE][+-]\d+)?)")
_LONG_INTEGERS = {
    size_bytes: re.compile(rb"\d{%d}" % digits)
    for size_bytes, digits in ((1, 3), (2, 5), (4, 10), (8, 19))
}
"""As many digits as a number outside the range of an integer of so many bytes has at least."""
_MAX_LINE_BYTES = 1 << 16
_FEWEST_LINES = 2
_FEWEST_NUMBERS = 8
_LAST_BYTES = 4096


class LegacyText:
    """A position in a file, which moves forward only."""

    def __init__(self, content: mmap.mmap, label: str) -> None:
        self.binary = False
        self._content = content
        self._label = label
        self._at = 0
        self._last_values = (0, 0)
        self._lines = self._spaced_lines = 0

    @property
    def position(self) -> int:
        """Position of the byte that is read next."""
        return self._at

    def error(self, what: str) -> FormatError:
        """An error that names the file and the place."""
        at = min(self._at, len(self._content))
        return FormatError(f"{self._label}: it {what} (at byte {at})")

    def cut(self, what: str) -> FormatError:
        """An error of a file that ends too early."""
        return FormatError(self.error(f"{what}; it was cut").message, hint=COPY_AGAIN)

    def skip_space(self) -> bool:
        """Go to the next word; False at the end of the file."""
        found = _TOKEN.search(self._content, self._at)
        self._at = len(self._content) if found is None else found.start()
        return found is not None

    def word(self, what: str = "the rest of an incomplete section header") -> bytes:
        """Read the next word."""
        found = _TOKEN.search(self._content, self._at)
        if found is None:
            raise self.cut(f"ends where {what} belongs")
        self._at = found.end()
        return found.group()

    def shown(self, word: bytes) -> str:
        """A word as messages show it."""
        return repr(word[:40].decode(errors="replace"))

    def count(self) -> int:
        """Read a number that is not negative."""
        word = self.word("a number")
        if not _COUNT.fullmatch(word):
            raise self.error(f"has {self.shown(word)} where a number belongs")
        return int(word)

    def numbers(self, count: int, dtype: str) -> list[float]:
        """Read some numbers of a header."""
        start = self._at
        for _ in range(count):
            self.word("a number")
        try:
            return parse_numbers(self._content, start, self._at, np.dtype(dtype)).tolist()  # type: ignore[no-any-return]
        except ValueError as err:
            raise self.error(f"has a header that is no numbers: {err}") from None

    def line(self) -> bytes:
        """Read the rest of the line."""
        line, self._at = self._line_at(self._at)
        return line

    def lines_ahead(self) -> Iterator[bytes]:
        """The lines from here to the end of the file, without going there."""
        at = self._at
        while at < len(self._content):
            line, at = self._line_at(at)
            yield line

    def _line_at(self, start: int) -> tuple[bytes, int]:
        """A line, and where the next one begins."""
        stop = self._content.find(b"\n", start, start + _MAX_LINE_BYTES)
        if stop < 0:
            stop = min(len(self._content), start + _MAX_LINE_BYTES)
        return self._content[start:stop], min(stop + 1, len(self._content))

    def end_line(self) -> None:
        """Go behind a header's line, of which nothing is left."""
        left = self.line().strip()
        if left:
            raise self.error(f"has {self.shown(left)} after a section header")

    def values(
        self, count: int, type_name: bytes, *, limits: tuple[int, int] | None = None
    ) -> None:
        """Step over values.

        Args:
            count: number of values.
            type_name: type as the header has it.
            limits: smallest and largest value that is allowed, of types of their own range.
        """
        name = type_name.decode("latin-1").lower()
        if name in _TEXT_TYPES:
            self.end_line()
            for _ in range(count):
                self._string()
        elif name != "bit" and name not in TYPES:
            raise self.error(f"has values of the unknown type {self.shown(type_name)}")
        elif self.binary:
            self._binary_values(count, name, limits)
        else:
            self._text_values(count, name, (0, 1) if name == "bit" else limits)

    def _binary_values(self, count: int, name: str, limits: tuple[int, int] | None) -> None:
        self.end_line()
        start = self._at
        item = np.dtype(f">{TYPES.get(name, 'u1')}")
        self._at += -(-count // 8) if name == "bit" else count * item.itemsize
        if self._at > len(self._content):
            raise self.cut(f"ends within the values that begin at byte {start}")
        if limits is not None and count:
            self._check_limits(np.frombuffer(self._content[start : self._at], item), limits)

    def _text_values(self, count: int, name: str, limits: tuple[int, int] | None) -> None:
        if count == 0:
            return
        start, stop = self._at, self._stop_of(count)
        if stop is None:
            self._at = len(self._content)
            raise self.cut(f"ends within the values that begin at byte {start}")
        self._at = stop
        self._last_values = start, self._at
        dtype = np.dtype(TYPES.get(name, "u1"))
        try:
            found = count_numbers(self._content, start, self._at, dtype)
            if found is None or limits is not None or self._has_long_integers(start, dtype):
                values = parse_numbers(self._content, start, self._at, dtype)
                found = len(values)
        except ValueError as err:
            raise self.error(f"has wrong values from byte {start} on: {err}") from None
        if found != count:
            raise self.error(f"has {found} numbers from byte {start} on, expected {count}")
        if limits is not None:
            self._check_limits(values, limits)
        self._note_lines(start)

    def _has_long_integers(self, start: int, dtype: np.dtype[Any]) -> bool:
        """Whether an integer has so many digits that it may be out of range, which VTK folds."""
        long = None if dtype.kind == "f" else _LONG_INTEGERS[dtype.itemsize]
        return long is not None and long.search(self._content, start, self._at) is not None

    def _stop_of(self, count: int) -> int | None:
        """End of the next words; in a frame of its own, as matches keep the file mapped."""
        if 2 * count > len(self._content) + 1:  # with the space before it a word takes two bytes
            return None
        tokens = _TOKEN.finditer(self._content, self._at)
        last = next(itertools.islice(tokens, count - 1, None), None)
        return None if last is None else last.end()

    def _check_limits(self, values: np.ndarray, limits: tuple[int, int]) -> None:
        low, high = limits
        for value in (values.min(), values.max()):
            if not low <= value <= high:
                raise self.error(f"has the value {value}, which is not between {low} and {high}")

    def _note_lines(self, start: int) -> None:
        if self._lines > self._spaced_lines:
            return  # this file's lines do not all end in a space
        text = self._content[start : min(self._at, start + _MAX_LINE_BYTES)]
        body = text[text.find(b"\n") + 1 :] + self._content[self._at : self._at + 2]
        self._lines += body.count(b"\n")
        self._spaced_lines += body.count(b" \n")

    def check_end(self) -> None:
        """Refuse a text file that ends within its last number, as far as can be told.

        A file without a newline at its end is whole, unless its own habits say that something
        is missing: all lines of values ended in a space before, or all numbers had as many digits.
        """
        start, stop = self._last_values
        if self.binary or stop != len(self._content) or not stop:
            return
        tokens = self._content[max(start, stop - _LAST_BYTES) : stop].split()[1:]
        forms = {
            (len(form.group(1)), len(form.group(2))) if form else None
            for form in map(_FIXED.fullmatch, tokens[:-1])
        }
        last = _FIXED.fullmatch(tokens[-1]) if tokens else None
        shorter = (
            len(tokens) > _FEWEST_NUMBERS
            and len(forms) == 1
            and None not in forms
            and (last is None or (len(last.group(1)), len(last.group(2))) not in forms)
        )
        spaced = self._spaced_lines == self._lines >= _FEWEST_LINES
        if shorter or spaced:
            error = self.cut("ends within its last number")
            raise FormatError(error.message, hint="if it is whole, add a newline at its end")

    def _string(self) -> None:
        """Step over one string: a line, or in binary files a length and bytes."""
        if not self.binary:
            if self._at >= len(self._content):
                raise self.cut("ends within text")
            self.line()
            return
        first = self._content[self._at : self._at + 1]
        if not first:
            raise self.cut("ends within text")
        # The two highest bits give the number of bytes of the length.
        length_bytes = {3: 1, 2: 2, 1: 4, 0: 8}[first[0] >> 6]
        length = int.from_bytes(self._content[self._at : self._at + length_bytes], "big")
        length &= (1 << (8 * length_bytes - 2)) - 1
        self._at += length_bytes + length
        if self._at > len(self._content):
            raise self.cut("ends within text")
