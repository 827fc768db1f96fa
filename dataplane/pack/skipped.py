"""Report of skipped files: one line per kind of foreign files, with counts and an example.

A folder of simulations holds much that pack does not read: a whole OpenFOAM case, logs, scripts.
Those files are counted; only sources that should have been packed get a line each. Pure functions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePath

from dataplane.pack.other_formats import UNKNOWN
from dataplane.pack.source import SourceFile, Unreadable, one_line
from dataplane.shards import SourceSample

__all__ = ["LEFT_OUT_LOGGER", "counted_lines", "is_counted", "left_out_of"]

LEFT_OUT_LOGGER = "dataplane.pack.left_out"
"""Logger of the parts that samples lack, for users without the summary."""

MAX_LINE_CHARS = 92
"""Longest line: with `skipped` before it, it fits into 100 columns."""
_MIN_EXAMPLE_CHARS = 10
_IN_SOME_PIECES = "only some pieces have it, and the header does not list it"
_LONG_TEXT = "it is longer than the text that attributes hold"
_MAX_SUFFIX_CHARS = 12


def is_counted(item: Unreadable) -> bool:
    """Whether a source gets no line of its own but is counted with others of its kind."""
    return item.group is not None or not item.asked_for


def counted_lines(items: Sequence[Unreadable]) -> list[str]:
    """Return one line per kind for those of the items that are counted.

    Example:
        >>> names = ("case/0/U", "case/0/p", "notes.txt")
        >>> counted_lines([Unreadable(name, "unknown", False, group="") for name in names])
        ['3 files of unknown formats: 2 without suffix (e.g. U), 1 .txt (notes.txt)']
    """
    kinds: dict[tuple[str | None, str], list[Unreadable]] = defaultdict(list)
    for item in filter(is_counted, items):
        kinds[(item.group, "" if item.group is not None else item.reason)].append(item)
    return [_line(group, alike) for (group, _), alike in kinds.items()]


def left_out_of(
    sample: SourceSample, planned: SourceFile | Unreadable
) -> list[tuple[str, str, str]]:
    """Return the parts of its source that a sample lacks: source, names per reason, reason.

    Args:
        sample: sample of a converter; its attributes say which parts it left out.
        planned: source, or the archive that it lies in.
    """
    reasons: dict[str, list[str]] = defaultdict(list)
    for name, reason in sample.attributes.get("members_left_out", {}).items():
        reasons[reason].append(repr(name))
    for name in sample.attributes.get("arrays_left_out", ()):
        reasons[_IN_SOME_PIECES].append(f"array {name!r}")
    for text in sample.attributes.get("text_left_out", ()):
        reasons[_LONG_TEXT].append(f"text {text['name']!r}")
    if not reasons:
        return []
    label = planned.label
    if isinstance(planned, SourceFile):  # of an archive's member the rest of its name
        label += str(sample.attributes["source"]["name"]).removeprefix(planned.name)
    return [(label, one_line(", ".join(names)), reason) for reason, names in reasons.items()]


def _line(group: str | None, alike: Sequence[Unreadable]) -> str:
    first = alike[0]
    if len(alike) == 1 and (first.asked_for or group is None):
        return str(first.error())
    if group is None:
        return f"{len(alike)} sources ({_example(alike, MAX_LINE_CHARS)}): {first.reason}"
    if group == UNKNOWN:
        return _by_suffix(alike)
    counted, hint = _count(len(alike), group), f": {first.hint}" if first.hint else ""
    room = MAX_LINE_CHARS - len(f"{counted} (){hint}")
    return f"{counted} ({_example(alike, room)}){hint}"


def _by_suffix(alike: Sequence[Unreadable]) -> str:
    suffixes: dict[str, list[Unreadable]] = defaultdict(list)
    for item in alike:
        suffixes[_suffix(item.label)].append(item)
    if len(alike) == 1:
        line = "1 file of an unknown format: "
        return line + _example(alike, MAX_LINE_CHARS - len(line))
    line = f"{len(alike)} files of unknown formats: "
    rest = len(alike)
    for suffix, files in sorted(suffixes.items(), key=lambda each: (-len(each[1]), each[0])):
        counted = f"{', ' if rest < len(alike) else ''}{len(files)} {suffix}"
        rest -= len(files)
        # With space for the count of those after this one.
        room = MAX_LINE_CHARS - len(line) - (len(f", {rest} others") if rest else 0)
        example = f"{'' if len(files) == 1 else 'e.g. '}{PurePath(files[0].label).name}"
        with_example = f"{counted} ({example})"
        told = with_example if len(with_example) <= room else counted
        if len(told) > room:
            return f"{line}, {_count(rest + len(files), 'other')}"
        line += told
    return line


def _suffix(label: str) -> str:
    suffix = PurePath(label).suffix.lower()
    if suffix.removeprefix(".").isdigit():
        return ".N"  # data.0001, log.17
    return suffix if 1 < len(suffix) <= _MAX_SUFFIX_CHARS else "without suffix"


def _example(alike: Sequence[Unreadable], room: int) -> str:
    """Return the first label, as much of its end as there is space for."""
    shown = alike[0].label
    leading = "" if len(alike) == 1 else "e.g. "
    room = max(room - len(leading), _MIN_EXAMPLE_CHARS)
    parts = PurePath(shown).parts
    while len(shown) > room and len(parts) > 1:
        parts = parts[1:]
        shown = "…/" + "/".join(parts)
    if len(shown) > room:
        shown = f"…{shown[1 - room :]}"
    return f"{leading}{shown}"


def _count(number: int, singular: str) -> str:
    if number == 1:
        return f"1 {singular}"
    noun, of, rest = singular.partition(" of ")  # as in "VTK file of the type Table"
    plural = f"{noun}es" if noun.endswith("sh") else f"{noun}s"
    return f"{number} {plural}{of}{rest}"
