"""Legacy files: names of arrays that VTK would mix up, and comparison of its output with the walk.

VTK keeps one array of a name: a second one takes its place. Names are percent-encoded in the file,
and of an escape that is none VTK makes something else. Such arrays are given to VTK under names of
our own, in a copy of the file in memory, and get theirs back afterwards. Then VTK's output must
have each array and as many cells and point numbers as the file announces. Thread-safe: no state.
"""

from __future__ import annotations

import mmap
import re
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np

from dataplane.errors import FormatError
from dataplane.pack.vtk.arrays import values_of
from dataplane.pack.vtk.cells import VTK_POLYHEDRON
from dataplane.pack.vtk.legacy import LegacyFile

__all__ = ["confirm_legacy", "rename_arrays"]

_NO_ESCAPE = re.compile(rb"%(?![0-9a-fA-F]{2})")
_LISTS = {
    b"cells": "Cells",
    b"vertices": "Verts",
    b"lines": "Lines",
    b"polygons": "Polys",
    b"triangle_strips": "Strips",
}


@dataclass(frozen=True, slots=True)
class Name:
    """An array's own name, and whether the tuple that VTK was given is not its own."""

    text: str
    emptied: bool


Names = dict[tuple[str, str], Name]
"""By place and name that VTK is given: the array's own name."""


def rename_arrays(path: Path, file: LegacyFile, label: str, stack: ExitStack) -> tuple[Path, Names]:
    """Return the file that VTK is to read, and the names of arrays in it that are not their own.

    Args:
        path: the file.
        file: content that the walk found.
        label: name in messages.
        stack: owner of the copy, where one is needed.

    Raises:
        FormatError: a name cannot be one.
    """
    taken: set[tuple[str, bytes]] = set()
    names: Names = {}
    edits = file.edits
    for number, array in enumerate(file.arrays):
        own = unquote_to_bytes(array.name)
        # VTK takes any word that begins so, behind an array, for the keyword.
        keyword = array.name.lower().startswith(b"metadata")
        sound = not (_NO_ESCAPE.search(array.name) or keyword or array.emptied)
        if b"\0" in own:
            raise FormatError(f"{label}: it has an array whose name holds a zero byte")
        try:
            text = own.decode()
        except UnicodeDecodeError:
            shown = own[:40].decode("latin-1")
            raise FormatError(
                f"{label}: its array name {shown!r} is no UTF-8",
                hint="convert the file's names, or write them in ASCII",
            ) from None
        if sound and (array.place, own) not in taken:
            taken.add((array.place, own))
            continue
        given = f"dataplane:{number}"
        names[array.place, given] = Name(text, array.emptied)
        edits.replace(array.start, array.start + len(array.name), given.encode())
    if not edits.ranges:
        return path, names
    with (
        path.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY) as content,
    ):
        return edits.apply(content, stack), names


def confirm_legacy(output: Any, file: LegacyFile, names: Names, label: str) -> None:
    """Check VTK's output, and give its arrays their own names.

    Raises:
        FormatError: it differs from the content of the file.
    """
    for place in ("PointData", "CellData", "FieldData"):
        collection = getattr(output, f"Get{place}")()
        expected = sum(array.place == place for array in file.arrays)
        if collection.GetNumberOfArrays() != expected:
            raise FormatError(
                f"{label}: VTK read {collection.GetNumberOfArrays()} arrays of its {place}, "
                f"expected {expected}"
            )
        for (of, given), own in names.items():
            if of == place:
                array = collection.GetAbstractArray(given)
                array.SetName(own.text)
                if own.emptied:
                    array.SetNumberOfTuples(0)
    polyhedra = False
    if file.kind == b"unstructured_grid" and output.GetNumberOfCells():
        polyhedra = bool(np.any(values_of(output.GetCellTypes()) == VTK_POLYHEDRON))
    for keyword, announced in file.lists.items():
        cells = getattr(output, f"Get{_LISTS[keyword]}")()
        found = (cells.GetNumberOfCells(), cells.GetNumberOfConnectivityIds()) if cells else (0, 0)
        corners = found[1] if polyhedra else announced.corners
        if found != (announced.cells, corners):
            raise FormatError(
                f"{label}: its {keyword.decode().upper()} are {found[0]} cells of {found[1]} "
                f"point numbers, expected {announced.cells} of {announced.corners}"
            )
