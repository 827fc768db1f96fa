"""Attributes of VTK XML tags, parsed as VTK parses them. Pure functions.

VTK reads a number as far as it goes and does without one that it cannot read, so writers that put
`2.0` or nothing where a number belongs are not told. Text that it takes for the same number is
read; text that it would read in part (`2.7`, `4x`) or make up is refused. A place in the appended
data goes before the name of the format, and a format that is not exactly `binary` means text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["parse_components", "parse_count", "parse_offset", "values_are_base64"]

_SPACE = " \t\r\n\v\f"
_COUNT = re.compile(r"\+?([0-9]{1,18})(?:\.0*)?")


def parse_count(text: str) -> int | None:
    """A number of elements, `4` or `4.0`; None for anything else."""
    found = _COUNT.fullmatch(text.strip(_SPACE))
    return int(found.group(1)) if found else None


def parse_components(attributes: Mapping[str, str]) -> int | None:
    """The number of components of an array; None if it is no such number.

    Without one it is 1, and so it is with 0, which some writers put on arrays without values.
    """
    text = attributes.get("NumberOfComponents", "")
    count = parse_count(text) if text else 1
    return None if count is None or count >= 10**9 else max(count, 1)


def parse_offset(attributes: Mapping[str, str]) -> int | None:
    """Place of an array's values in the appended data; None if they are in the element.

    Raises:
        ValueError: the place is no number.
    """
    text = attributes.get("offset", "")
    if not text:
        return None
    offset = parse_count(text)
    if offset is None:
        raise ValueError(f"its offset is {text[:40]!r}")
    return offset


def values_are_base64(attributes: Mapping[str, str]) -> bool:
    """Whether values in the element are base64 and not text."""
    return attributes.get("format") == "binary"
