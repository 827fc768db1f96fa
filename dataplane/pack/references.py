"""XML files that refer to other files: time series (`.pvd`) and parallel files (`.pvtu`, …).

References are relative to the file that makes them. Inside an unpacked archive they may not lead
out of it; elsewhere they may, as they do in ParaView. Parsed with expat, which limits the expansion
of entities, after a limit on the size. Thread-safe: no state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from xml.etree import ElementTree

from dataplane.errors import FormatError

__all__ = ["SeriesStep", "read_pieces", "read_series"]

MAX_XML_BYTES = 64 << 20
MAX_REFERENCES = 1_000_000


@dataclass(frozen=True, slots=True)
class SeriesStep:
    """One line of a `.pvd`: a dataset, its time, and which part of that time's datasets it is."""

    path: Path
    time: float
    part: int
    group: str


def read_series(path: Path, label: str, root: Path | None = None) -> list[SeriesStep]:
    """Read a `.pvd` file, in order of time and part.

    Args:
        path: the file.
        label: how messages call it.
        root: folder that references may not leave; None allows any.

    Raises:
        FormatError: the file is no collection, is empty, or refers outside `root`.
    """
    document = _parse(path, label)
    collection = document.find("Collection")
    if collection is None:
        raise FormatError(f"{label}: it has no <Collection>")
    steps = []
    for number, entry in enumerate(collection.findall("DataSet")):
        file = entry.get("file")
        if not file:
            raise FormatError(f"{label}: its data set {number} names no file")
        text = entry.get("timestep", str(number))
        try:
            time, part = float(text), int(entry.get("part") or 0)
        except ValueError as err:
            raise FormatError(f"{label}: its data set {number} has no valid time: {err}") from err
        if not math.isfinite(time):
            raise FormatError(f"{label}: its data set {number} has no valid time: {text}")
        steps.append(
            SeriesStep(_resolve(path, file, label, root), time, part, entry.get("group") or "")
        )
    if not steps:
        raise FormatError(f"{label}: it lists no data sets")
    return sorted(steps, key=lambda step: (step.time, step.part))


def read_pieces(path: Path, label: str, root: Path | None = None) -> list[Path]:
    """List the files that a parallel VTK file (`.pvtu`, `.pvtp`, …) is made of.

    Raises:
        FormatError: the file is damaged, or refers outside `root` or to a file that is not there.
    """
    pieces = []
    for piece in _parse(path, label).iter("Piece"):
        file = piece.get("Source")
        if not file:
            raise FormatError(f"{label}: a piece names no file")
        target = _resolve(path, file, label, root)
        if not target.is_file():
            raise FormatError(f"{label}: its piece {file} is missing")
        pieces.append(target)
    if not pieces:
        raise FormatError(f"{label}: it has no pieces")
    return pieces


def _parse(path: Path, label: str) -> ElementTree.Element:
    size_bytes = path.stat().st_size
    if size_bytes > MAX_XML_BYTES:
        raise FormatError(f"{label}: {size_bytes} bytes; at most {MAX_XML_BYTES} are read")
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


def _resolve(path: Path, file: str, label: str, root: Path | None) -> Path:
    if "\x00" in file:
        raise FormatError(f"{label}: it refers to {file!r}, which is no file name")
    relative = PureWindowsPath(file).as_posix() if "\\" in file else file
    target = path.parent / relative
    if root is not None and not target.resolve().is_relative_to(root.resolve()):
        raise FormatError(f"{label}: it refers to {file!r}, outside the archive")
    return target
