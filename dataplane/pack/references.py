"""Files that refer to other files: time series (`.pvd`, `.series`) and parallel files (`.pvtu`, …).

References are relative to the file that makes them. Inside an unpacked archive they may not lead
out of it; elsewhere they may, as they do in ParaView. XML is parsed with expat, which limits the
expansion of entities, after a limit on the size. Thread-safe: no state.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from typing import Any
from xml.etree import ElementTree

from dataplane.errors import FormatError

__all__ = [
    "MAX_REFERENCES",
    "SeriesStep",
    "check_element",
    "check_name",
    "parse_xml",
    "read_pieces",
    "read_series",
    "resolve_reference",
]

MAX_DOCUMENT_BYTES = 64 << 20
MAX_REFERENCES = 1_000_000
_MAX_NAME_CHARS = 500
_ATTRIBUTES = frozenset({"file", "group", "name", "part"})
"""Attributes that an entry of a `.pvd` may have besides its time."""


@dataclass(frozen=True, slots=True)
class SeriesStep:
    """One entry of a series.

    Attributes:
        path: path of the dataset.
        number: number of the step that it belongs to.
        time: time of that step, where the file gives one.
        part: number of the dataset in the step.
        part_name: name of that part, if it has one.
        group: name of its group, if it has one.
    """

    path: Path
    number: int
    time: float | None
    part: int = 0
    part_name: str = ""
    group: str = ""


def read_series(path: Path, label: str, kind: str, root: Path | None = None) -> list[SeriesStep]:
    """Read a time series, in order of step and part.

    An entry that names a file for a time at which it is listed already says nothing new and is
    left out; another file for the same time and part is kept.

    Args:
        path: the file.
        label: name in messages.
        kind: `pvd`, or `series` for ParaView's JSON.
        root: folder that references may not leave; None allows any.

    Raises:
        FormatError: the file is no series, is empty, or refers outside `root`.
    """
    steps = _read_json(path, label, root) if kind == "series" else _read_pvd(path, label, root)
    first: dict[tuple[Path, int], SeriesStep] = {}
    for step in steps:
        first.setdefault((step.path.resolve(), step.number), step)
    if not first:
        raise FormatError(f"{label}: it lists no data sets")
    return sorted(first.values(), key=lambda step: (step.number, step.part))


def read_pieces(path: Path, label: str, root: Path | None = None) -> list[Path]:
    """List the files that a parallel VTK file (`.pvtu`, `.pvtp`, …) is made of, missing ones too.

    Raises:
        FormatError: the file is damaged, or refers outside `root`.
    """
    pieces = []
    for piece in parse_xml(path, label).iter("Piece"):
        file = piece.get("Source")
        if not file:
            raise FormatError(f"{label}: a piece names no file")
        pieces.append(resolve_reference(path, file, label, root))
    if not pieces:
        raise FormatError(f"{label}: it has no pieces")
    return pieces


def parse_xml(path: Path, label: str) -> ElementTree.Element:
    """Parse a VTK XML file that holds references.

    Raises:
        FormatError: it is too large, not valid, or something else.
    """
    _check_size(path, label)
    try:
        document = ElementTree.parse(path).getroot()  # noqa: S314  # expat limits expansion
    except (ElementTree.ParseError, LookupError, ValueError) as err:  # of an encoding
        raise FormatError(f"{label}: it is not valid XML: {err}") from err
    if document.tag != "VTKFile":
        raise FormatError(f"{label}: it is not a VTK XML file but <{document.tag}>")
    references = sum(1 for _ in document.iter())
    if references > MAX_REFERENCES:
        raise FormatError(f"{label}: {references} elements; at most {MAX_REFERENCES} are read")
    return document


def resolve_reference(path: Path, file: str, label: str, root: Path | None) -> Path:
    """Return the path that a reference means; backslashes separate folders as slashes do.

    Raises:
        FormatError: it is no file name, or leads out of `root`.
    """
    if "\x00" in file:
        raise FormatError(f"{label}: it refers to {file!r}, which is no file name")
    relative = PureWindowsPath(file).as_posix() if "\\" in file else file
    target = path.parent / relative
    if root is not None and not target.resolve().is_relative_to(root.resolve()):
        raise FormatError(f"{label}: it refers to {file!r}, outside the archive")
    return target


def check_name(name: str, label: str) -> str:
    """Return the name of a part or block, which goes into attributes and keys.

    Raises:
        FormatError: it is too long for that.
    """
    if len(name) > _MAX_NAME_CHARS:
        raise FormatError(
            f"{label}: a part's name has {len(name)} characters; at most {_MAX_NAME_CHARS} are kept"
        )
    return name


def check_element(element: ElementTree.Element, known: Collection[str], label: str) -> None:
    """Refuse an element that is not known where it stands: the files it lists would be lost.

    Raises:
        FormatError: it is none of those.
    """
    if element.tag not in known:
        raise FormatError(f"{label}: it has an unknown element <{element.tag[:80]}>")


def _read_pvd(path: Path, label: str, root: Path | None) -> list[SeriesStep]:
    collection = parse_xml(path, label).find("Collection")
    if collection is None:
        raise FormatError(f"{label}: it has no <Collection>")
    entries = []
    untimed = 0
    for number, entry in enumerate(collection):
        where = f"its data set {number}"
        check_element(entry, {"DataSet"}, label)
        file = entry.get("file")
        if not file:
            raise FormatError(f"{label}: {where} names no file")
        time = _time(entry.get("timestep"), where, label)
        if time is None and not _ATTRIBUTES.issuperset(entry.keys()):
            unknown = min({*entry.keys()} - _ATTRIBUTES)
            raise FormatError(f"{label}: {where} has no timestep, but an unknown {unknown[:80]!r}")
        # Without times all entries are parts of one step; those that have no number get one.
        part_text = entry.get("part") or (str(untimed) if time is None else "0")
        untimed += time is None
        if not re.fullmatch(r"\s*\d{1,9}\s*", part_text, re.ASCII):
            raise FormatError(f"{label}: {where} has no valid part: {part_text[:80]}")
        part = int(part_text)
        name, group = (check_name(entry.get(key) or "", label) for key in ("name", "group"))
        target = resolve_reference(path, file, label, root)
        entries.append(SeriesStep(target, 0, time, part, name, group))
    # Entries without a time are one step, the first.
    numbers = _numbers(entry.time for entry in entries)
    return [replace(entry, number=numbers[entry.time]) for entry in entries]


def _read_json(path: Path, label: str, root: Path | None) -> list[SeriesStep]:
    _check_size(path, label)
    try:
        document = json.loads(path.read_text("utf-8-sig"))
    except (ValueError, RecursionError) as err:
        raise FormatError(f"{label}: it is not valid JSON: {err}") from err
    files = document.get("files") if isinstance(document, dict) else None
    if not isinstance(files, list):
        raise FormatError(f"{label}: it has no list of files")
    if len(files) > MAX_REFERENCES:
        raise FormatError(f"{label}: {len(files)} files; at most {MAX_REFERENCES} are read")
    entries: list[tuple[Path, float | None]] = []
    for number, entry in enumerate(files):
        where = f"its file {number}"
        file = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(file, str) or not file:
            raise FormatError(f"{label}: {where} has no name")
        time = _time(entry.get("time"), where, label)
        entries.append((resolve_reference(path, file, label, root), time))
    if any(time is None for _, time in entries):
        # Each file of such a list is a step, so their order stands in for the missing times.
        return [SeriesStep(file, number, time) for number, (file, time) in enumerate(entries)]
    numbers = _numbers(time for _, time in entries)
    return [SeriesStep(file, numbers[time], time) for file, time in entries]


def _numbers(times: Iterable[float | None]) -> dict[float | None, int]:
    """Number the times in their order, none before all others."""
    ordered = sorted(set(times), key=lambda time: -math.inf if time is None else time)
    return {time: number for number, time in enumerate(ordered)}


def _time(value: Any, where: str, label: str) -> float | None:
    if value is None:
        return None
    try:
        time = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        time = math.nan
    if not math.isfinite(time):
        raise FormatError(f"{label}: {where} has no valid time: {str(value)[:80]}")
    return time


def _check_size(path: Path, label: str) -> None:
    size_bytes = path.stat().st_size
    if size_bytes > MAX_DOCUMENT_BYTES:
        raise FormatError(f"{label}: {size_bytes} bytes; at most {MAX_DOCUMENT_BYTES} are read")
