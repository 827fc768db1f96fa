"""What generators, independent readers and the comparison hand to each other. Values.

A `Case` is a set of files with what they hold. Its `oracle` reads the same files without VTK and
without this project, so that it can also say what a damaged copy of them holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Case", "Refused", "Sample", "encoded_name", "put"]


class Refused(Exception):
    """The independent reader finds that a file does not hold what it announces."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one sample has to hold.

    Attributes:
        arrays: values by name in the packed sample.
        attributes: attributes that must be there with this value.
        any_nan: names of arrays read from text, whose NaNs have no bits of their own.
        either: values that are as right, by name: where the pieces of a grid meet, two files say
            what a point is, and only damage makes them differ.
    """

    arrays: dict[str, np.ndarray]
    attributes: dict[str, Any] = field(default_factory=dict)
    any_nan: set[str] = field(default_factory=set)
    either: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Case:
    """Files, and what reading the first of them must give.

    Attributes:
        kind: what was generated, in a few words.
        entry: name of the file to open.
        files: contents by name, folders included.
        expected: the samples that the generator wrote; None where the file must be refused.
        oracle: reads the entry from a folder; raises Refused.
        may_refuse: why the sound file may be refused as well; empty where it must be read.
        headers: parts of files that are worth damaging more often, as (name, start, stop).
    """

    kind: str
    entry: str
    files: Mapping[str, bytes]
    expected: list[Sample] | None
    oracle: Callable[[Path], list[Sample]]
    may_refuse: str = ""
    headers: tuple[tuple[str, int, int], ...] = ()


_RESERVED = {".", "..", "zarr.json"}


def encoded_name(name: str) -> str:
    """A name as one path segment, as docs/packing.md describes it."""
    if not name:
        return "unnamed"
    out = ""
    for character in name:
        if character in "/\\%" or ord(character) < 32 or ord(character) == 127:
            out += "".join(f"%{byte:02X}" for byte in character.encode())
        else:
            out += character
    if out in _RESERVED or out.startswith("__"):
        out = f"%{ord(out[0]):02X}{out[1:]}"
    return out


def put(arrays: dict[str, Any], path: str, values: Any) -> str:
    """Add an array under its name, or name~2, name~3, …; return the name it got."""
    number, free = 2, path
    while free in arrays:
        free = f"{path}~{number}"
        number += 1
    arrays[free] = values
    return free
