"""Opened VTK XML files: checked and given to VTK, one at a time.

Large files are mapped while they are checked; VTK reads them by itself, and their pages are given
back before it does. Thread-safe: no state.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from dataplane.errors import FormatError
from dataplane.pack.source import COPY_AGAIN
from dataplane.pack.vtk.check import KINDS, CheckedFile, CheckedPiece, check_file
from dataplane.pack.vtk.pieces import CELL_LISTS
from dataplane.pack.vtk.xml import Content, Document, scan

__all__ = ["checked_file", "drop_pieces", "edited", "let_go", "open_document"]

_MAP_FROM_BYTES = 1 << 20
_GRID_PLACES = {"StructuredGrid": ("Points",), "RectilinearGrid": ("Coordinates",)}


def open_document(path: Path, label: str, stack: ExitStack) -> Document:
    """Open a file and return its structure; large ones are mapped as long as the stack lives.

    Raises:
        FormatError: it is no VTK XML file, or was cut.
    """
    size_bytes = path.stat().st_size
    if not size_bytes:
        raise FormatError(f"{label}: it is empty", hint=COPY_AGAIN)
    content: Content
    with path.open("rb") as stream:
        if size_bytes < _MAP_FROM_BYTES:
            content = stream.read()
        else:
            # Privately: files of a mount may have no shared maps.
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
            stack.callback(content.close)
    document = scan(content, label)
    if document.appended is not None and not _is_closed(content, document.appended):
        raise FormatError(
            f"{label}: it ends before its closing tag </VTKFile>; the file was cut",
            hint=COPY_AGAIN,
        )
    return document


def _is_closed(content: Content, appended: int) -> bool:
    """Whether the closing tags follow the appended data, which is no XML."""
    stop = content.rfind(b"</AppendedData", appended)
    return stop >= 0 and content.find(b"</VTKFile>", stop) >= 0


def drop_pieces(checked: CheckedFile, kept: Sequence[CheckedPiece]) -> None:
    """Remove the pieces that are not kept from the file that VTK reads."""
    for piece in checked.pieces:
        if not any(piece is other for other in kept):
            checked.edits.replace(piece.start, piece.stop, b"")


def edited(checked: CheckedFile, path: Path, stack: ExitStack) -> Path:
    """File that VTK reads: the file itself, or an edited one that lives as long as the stack."""
    if not checked.edits.ranges:
        return path
    return checked.edits.apply(checked.document.content, stack)


def checked_file(document: Document, label: str) -> CheckedFile:
    """Check a file, and that all its arrays lie where they have a meaning.

    Raises:
        FormatError: its content is not as declared.
    """
    _check_groups(document, label)
    checked = check_file(document, label)
    let_go(document)
    return checked


def _check_groups(document: Document, label: str) -> None:
    """Check that all arrays lie in groups that belong to a dataset of this kind."""
    kind = document.kind.removeprefix("P") if document.kind not in KINDS else document.kind
    places = _GRID_PLACES.get(kind, ("Points",) if kind in CELL_LISTS else ())
    groups = {"PointData", "CellData", *places, *CELL_LISTS.get(kind, ())}
    outside = {f"P{group}" for group in groups} if document.kind not in KINDS else set()
    for known, found in (
        ({*outside, "FieldData"}, document.groups),
        *((groups, piece.groups) for piece in document.pieces),
    ):
        for name, group in found.items():
            if name not in known and group.arrays:
                raise FormatError(
                    f"{label}: its array {group.arrays[0].name!r} lies in <{name}>, "
                    f"where a dataset of the type {document.kind} has none"
                )


def let_go(document: Document) -> None:
    """Give back the memory of a mapped file; pages that are used again are read again."""
    if isinstance(document.content, mmap.mmap):
        document.content.madvise(mmap.MADV_DONTNEED)
