"""Walk through a legacy VTK file and check that all data it announces is there. Converts nothing.

VTK's reader of legacy files does not notice when a file ends early: the arrays keep what happened
to be in memory. Nor does it compare what a header asks for with the file before allocating. So the
file is walked first, section by section: keyword, count, type, and over the data by its size (or,
in text files, value by value). What is not known here is refused, since data of unknown length
cannot be stepped over. The file is mapped, not loaded. Thread-safe: no state.

Source: VTK File Formats, "Simple Legacy Formats", and the sections that VTK's writer adds to them
(versions 4.2 and 5.1: METADATA, OFFSETS, CONNECTIVITY, long strings).
"""

from __future__ import annotations

import itertools
import mmap
import re
from pathlib import Path

from dataplane.errors import FormatError

__all__ = ["check_legacy"]

_TYPE_BITS = {
    **dict.fromkeys(("unsigned_char", "char", "signed_char"), 8),
    **dict.fromkeys(("unsigned_short", "short"), 16),
    **dict.fromkeys(("unsigned_int", "int", "float", "vtkidtype"), 32),  # ids are written as int
    **dict.fromkeys(("unsigned_long", "long", "double", "vtktypeint64", "vtktypeuint64"), 64),
    "bit": 1,
}
_VALUES_PER_TUPLE = {
    **dict.fromkeys(("global_ids", "pedigree_ids", "edge_flags"), 1),
    **dict.fromkeys(("vectors", "normals"), 3),
    "tensors": 9,
    "tensors6": 6,
}
_CELL_LISTS = frozenset({"cells", "vertices", "lines", "polygons", "triangle_strips"})
_ONE_LINE = frozenset({"dataset", "dimensions", "extent", "origin", "spacing", "aspect_ratio"})
_COORDINATES = frozenset({"x_coordinates", "y_coordinates", "z_coordinates"})
_VERSION = re.compile(rb"# vtk DataFile Version (\d+)\.(\d+)")
_TOKEN = re.compile(rb"\S+")
_MAX_LINE_BYTES = 1 << 16
_CELL_ARRAYS_VERSION = (5, 0)
"""From this version on cells are two arrays, before it one list of counts and point numbers."""


def check_legacy(path: Path, label: str) -> None:
    """Check that a legacy VTK file holds what it announces.

    Raises:
        FormatError: it ends early, or has a section that is not known.
    """
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY) as text:
        _Walk(text, label).run()


class _Walk:
    """A position in a file, and what the sections before it said."""

    def __init__(self, text: mmap.mmap, label: str) -> None:
        self._text = text
        self._label = label
        self._at = 0
        self._tuples = 0
        self._cell_arrays = (0, 0)
        self._binary = False
        self._version = (0, 0)

    def run(self) -> None:
        found = _VERSION.match(self._line())
        if found is None:
            raise self._error("has no version in its first line")
        self._version = (int(found.group(1)), int(found.group(2)))
        self._line()
        encoding = self._line().strip().upper()
        if encoding not in {b"ASCII", b"BINARY"}:
            raise self._error("is neither ASCII nor BINARY in its third line")
        self._binary = encoding == b"BINARY"
        while self._skip_space():
            words = self._words()
            self._section(words[0].lower(), words[1:])
        if not self._binary and self._text[-1:] not in {b"\n", b"\r", b" "}:
            # The last number may be the first half of one.
            raise self._error("does not end with a newline; it was cut")

    def _section(self, keyword: str, words: list[str]) -> None:
        if keyword in _ONE_LINE:
            return
        if keyword in _COORDINATES:
            self._values(self._count(words, 0), self._word(words, 1))
        elif keyword == "points":
            self._values(3 * self._count(words, 0), self._word(words, 1))
        elif keyword in _CELL_LISTS:
            self._cell_arrays = (self._count(words, 0), self._count(words, 1))
            if self._version < _CELL_ARRAYS_VERSION:
                self._values(self._cell_arrays[1], "int")
        elif keyword in {"offsets", "connectivity"}:
            self._values(self._cell_arrays[keyword == "connectivity"], self._word(words, 0))
        elif keyword == "cell_types":
            self._values(self._count(words, 0), "int")
        elif keyword in {"point_data", "cell_data"}:
            self._tuples = self._count(words, 0)
        elif keyword == "field":
            for _ in range(self._count(words, 1)):
                self._field_array()
        elif keyword == "metadata":
            self._metadata()
        else:
            self._attribute(keyword, words)

    def _attribute(self, keyword: str, words: list[str]) -> None:
        if keyword == "scalars":
            components = self._count(words, 2) if len(words) > 2 else 1
            if not self._skip_space():
                raise self._error("ends where LOOKUP_TABLE belongs; it was cut")
            table = self._words()
            if table[0].lower() != "lookup_table":
                raise self._error(f"has {table[0][:40]!r} where LOOKUP_TABLE belongs")
            self._values(components * self._tuples, self._word(words, 1))
        elif keyword == "color_scalars":
            self._values(self._count(words, 1) * self._tuples, "unsigned_char")
        elif keyword == "lookup_table":
            self._values(4 * self._count(words, 1), "unsigned_char")
        elif keyword == "texture_coordinates":
            self._values(self._count(words, 1) * self._tuples, self._word(words, 2))
        elif keyword in _VALUES_PER_TUPLE:
            self._values(_VALUES_PER_TUPLE[keyword] * self._tuples, self._word(words, 1))
        else:
            raise self._error(f"has an unknown section {keyword[:40]!r}")

    def _field_array(self) -> None:
        if not self._skip_space():
            raise self._error("ends where an array of a field should begin")
        words = self._words()
        if words[0] == "METADATA":  # of the array before
            self._metadata()
            self._field_array()
        elif words[0] != "NULL_ARRAY":
            self._values(self._count(words, 1) * self._count(words, 2), self._word(words, 3))

    def _metadata(self) -> None:
        """Component names and keys, up to an empty line."""
        while self._at < len(self._text) and self._line().strip():
            pass

    def _values(self, count: int, type_name: str) -> None:
        """Step over `count` values."""
        type_name = type_name.lower()
        start = self._at
        if type_name in {"string", "utf8_string"}:
            for _ in range(count):
                self._string()
            return
        if type_name not in _TYPE_BITS:
            raise self._error(f"has values of the unknown type {type_name[:40]!r}")
        if self._binary:
            self._at += -(-count * _TYPE_BITS[type_name] // 8)
        else:
            # Each value and the space before it take two bytes at least.
            tokens = (
                _TOKEN.finditer(self._text, start) if 2 * count <= len(self._text) else iter(())
            )
            self._at = len(self._text) + 1 if count else start
            last = next(itertools.islice(tokens, count - 1, None), None) if count else None
            if last is not None:
                self._at = last.end()
        if self._at > len(self._text):
            raise self._error(f"ends within the values that begin at byte {start}; it was cut")

    def _string(self) -> None:
        """Step over one string: a line, or in binary files a length and bytes."""
        if not self._binary:
            if self._at >= len(self._text):
                raise self._error("ends within text; it was cut")
            self._line()
            return
        first = self._text[self._at : self._at + 1]
        if not first:
            raise self._error("ends within text; it was cut")
        # The two highest bits say how many bytes the length has.
        length_bytes = {3: 1, 2: 2, 1: 4, 0: 8}[first[0] >> 6]
        length = int.from_bytes(self._text[self._at : self._at + length_bytes], "big")
        length &= (1 << (8 * length_bytes - 2)) - 1
        self._at += length_bytes + length
        if self._at > len(self._text):
            raise self._error("ends within text; it was cut")

    def _skip_space(self) -> bool:
        """Go to the next word; False at the end of the file."""
        found = _TOKEN.search(self._text, self._at)
        self._at = len(self._text) if found is None else found.start()
        return found is not None

    def _words(self) -> list[str]:
        # Split as bytes: as text, 0x85 and 0xA0 would be spaces, and the line might have no words.
        return [word.decode("latin-1") for word in self._line().split()]

    def _line(self) -> bytes:
        stop = self._text.find(b"\n", self._at, self._at + _MAX_LINE_BYTES)
        if stop < 0:
            stop = min(len(self._text), self._at + _MAX_LINE_BYTES)
        line = self._text[self._at : stop]
        self._at = min(stop + 1, len(self._text))
        return line

    def _count(self, words: list[str], number: int) -> int:
        word = self._word(words, number)
        if not word.isdecimal() or len(word) > 20:
            raise self._error(f"has {word[:40]!r} where a number belongs")
        return int(word)

    def _word(self, words: list[str], number: int) -> str:
        if number >= len(words):
            raise self._error("has an incomplete section header; it was cut")
        return words[number]

    def _error(self, what: str) -> FormatError:
        return FormatError(f"{self._label}: it {what} (at byte {min(self._at, len(self._text))})")
