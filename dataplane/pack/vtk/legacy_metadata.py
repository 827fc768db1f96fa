"""The METADATA block that VTK's writer puts behind an array: component names and keys.

An empty line ends it. VTK looks for that line alone: without it, it steps over all that follows,
whole sections, and reports nothing. Here the block ends with its last line that belongs to one, and
the file that VTK is given (`rewrite`) gets the empty line where it is missing, and the true number
of keys. Thread-safe: no state.
"""

from __future__ import annotations

import itertools
import re

from dataplane.pack.vtk.legacy_text import LegacyText
from dataplane.pack.vtk.rewrite import Edits

__all__ = ["step_over_metadata"]

_NAMES = re.compile(rb"component_names\s*", re.IGNORECASE)
_KEYS = re.compile(rb"information\s+(\d{1,6})\s*", re.IGNORECASE)
_KEY = re.compile(rb"NAME \s*\S+ LOCATION \S+\s*")
_COUNT_ONLY = re.compile(rb"DATA\s+(\d{1,6})\s*")
_SECTION = re.compile(
    rb"(?:POINT_DATA|CELL_DATA|SCALARS|VECTORS|NORMALS|TENSORS6?|FIELD|CELLS|CELL_TYPES|POINTS|"
    rb"LOOKUP_TABLE|[XYZ]_COORDINATES|VERTICES|LINES|POLYGONS|TRIANGLE_STRIPS|COLOR_SCALARS|"
    rb"TEXTURE_COORDINATES|GLOBAL_IDS|PEDIGREE_IDS|EDGE_FLAGS|OFFSETS|CONNECTIVITY|METADATA|"
    rb"INFORMATION)(?:\s.*)?",
    re.IGNORECASE | re.DOTALL,
)


def step_over_metadata(text: LegacyText, components: int, edits: Edits) -> None:
    """Go behind a block, whose keyword has been read.

    Args:
        text: the file.
        components: components of the array before it; as many names follow COMPONENT_NAMES.
        edits: changes that make VTK end the block at the same place.

    Raises:
        FormatError: it holds fewer names than the array has components, or a key without value.
    """
    text.end_line()
    line = b""
    while True:
        start, line = text.position, next(text.lines_ahead(), b"")
        keys = _KEYS.fullmatch(line)
        if _NAMES.fullmatch(line):
            text.line()
            _names(text, components)
        elif keys:
            text.line()
            announced = int(keys.group(1))
            found = _keys(text, announced)
            if found != announced:
                edits.replace(start, start + len(line), b"INFORMATION %d" % found)
        else:
            break
    if line.strip():
        edits.replace(start - 1, start, b"\n\n")  # the end of the line before
        return
    if line.strip(b"\r"):  # for VTK a line of spaces is not empty
        edits.replace(start, start + len(line), b"")
    text.line()


def _names(text: LegacyText, components: int) -> None:
    for number in range(1, components + 1):
        line = next(text.lines_ahead(), b"").strip()
        if _SECTION.fullmatch(line):
            raise text.error(
                f"has {text.shown(line)} where the name of component {number} of {components} "
                "belongs"
            )
        text.line()


def _keys(text: LegacyText, announced: int) -> int:
    """Step over keys and their values, and return the number of keys."""
    found = 0
    while _go_behind_key(text, blank_lines=found < announced):
        found += 1
        line = next(text.lines_ahead(), b"")
        if line.split()[:1] != [b"DATA"]:
            raise text.error("has a key of METADATA without its DATA")
        text.line()
        count = _COUNT_ONLY.fullmatch(line)
        if count:
            _strings(text, int(count.group(1)))
    return found


def _go_behind_key(text: LegacyText, *, blank_lines: bool) -> bool:
    """Go behind the line of the next key; False where there is none.

    Args:
        text: the file.
        blank_lines: whether empty lines may stand before it.
    """
    for ahead, line in enumerate(text.lines_ahead(), 1):
        if _KEY.fullmatch(line):
            for _ in range(ahead):
                text.line()
            return True
        if line.strip() or not blank_lines:
            return False
    return False


def _strings(text: LegacyText, count: int) -> None:
    """Step over the values of a list of strings: one word a line, as spaces are encoded.

    A single number has the same form, but an empty line, a key or a section follows it.
    """
    lines = list(itertools.islice(itertools.takewhile(_is_string, text.lines_ahead()), count))
    if len(lines) == count and lines and lines[0].strip():
        for _ in lines:
            text.line()


def _is_string(line: bytes) -> bool:
    return len(line.split()) <= 1 and not _NAMES.fullmatch(line)
