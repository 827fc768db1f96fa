"""Agreement of the pieces of a VTK XML dataset: arrays, and the place of image data.

Every piece that has points has the same arrays with the same types, since VTK fills an array that
one of them lacks with zeros, or drops it. A parallel file and its pieces must state the same about
one thing. Pure functions, no state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from dataplane.errors import FormatError
from dataplane.pack.vtk.check import ArrayType, CheckedPiece
from dataplane.pack.vtk.pieces import CELL_LISTS, Geometry, geometry_of, parse_geometry
from dataplane.pack.vtk.xml import Document

__all__ = ["GROUPS", "agreed_arrays", "agreed_geometry", "check_listed", "shown", "without_empty"]

GROUPS = ("PointData", "CellData", "Points", "Coordinates")


def without_empty(kind: str, pieces: list[CheckedPiece]) -> list[CheckedPiece]:
    """Leave out pieces without points: of meshes where their arrays are not those of the others."""
    filled = [piece for piece in pieces if piece.size.points]
    if len(filled) in {0, len(pieces)}:
        return pieces
    alike = kind in CELL_LISTS and all(piece.types == filled[0].types for piece in pieces)
    return pieces if alike else filled


def agreed_arrays(
    pieces: Iterable[CheckedPiece], label: str, optional: Mapping[str, set[str]] | None = None
) -> dict[str, dict[str, ArrayType]]:
    """Arrays that all pieces have, by group; those in `optional` may be lacking in some.

    Raises:
        FormatError: one of them is lacking somewhere, or of another type.
    """
    agreed: dict[str, dict[str, ArrayType]] = {}
    members = [(n, piece) for n, piece in enumerate(pieces) if piece.size.points]
    for group in GROUPS if members else ():
        optional_names = (optional or {}).get(group, set())
        common = dict(members[0][1].types.get(group, {}))
        for number, piece in members[1:]:
            types = piece.types.get(group, {})
            if types == common:
                continue
            for name in [*common, *(name for name in types if name not in common)]:
                if name in types and name in common:
                    if types[name] != common[name]:
                        raise FormatError(
                            f"{label}: array {name!r} of {group} is {shown(common[name])} in "
                            f"piece {members[0][0]} and {shown(types[name])} in piece {number}"
                        )
                elif name in optional_names:
                    common.pop(name, None)
                else:
                    lacking = number if name in common else members[0][0]
                    raise FormatError(
                        f"{label}: array {name!r} of {group} is not in piece {lacking}, "
                        f"but in others; its values there are not known"
                    )
        agreed[group] = common
    return agreed


def shown(found: ArrayType) -> str:
    """A type as messages name it."""
    return f"{found.type}[{found.components}]" if found.components > 1 else found.type


def check_listed(
    listed: Mapping[str, Iterable[str]],
    own_names: Mapping[str, Mapping[str, str]],
    pieces: Sequence[CheckedPiece],
    label: str,
) -> None:
    """Check that a piece has each array of points and cells that a parallel file lists.

    `own_names` has, per group, the names of arrays that are called otherwise until they are read.

    Raises:
        FormatError: none has it, although there are points, or cells, that it would be of.
    """
    for group, elements in (("PointData", "points"), ("CellData", "cells")):
        holders = [piece for piece in pieces if getattr(piece.size, elements)]
        types = {name for piece in holders for name in piece.types.get(group, {})}
        found = types | {own for name, own in own_names.get(group, {}).items() if name in types}
        for name in listed.get(group, ()) if holders else ():
            if name and name not in found:
                raise FormatError(
                    f"{label}: its header lists the array {name!r} of {group}, which no piece has"
                )


def agreed_geometry(documents: Iterable[Document], label: str) -> Geometry:
    """Place of image data, as a parallel file and its pieces state it.

    VTK's writers give the axes to the pieces only, and other programs all of it.

    Raises:
        FormatError: they state different things.
    """
    found: dict[str, tuple[float, ...]] = {}
    for document in documents:
        geometry = parse_geometry(document.dataset, label)
        for name in ("Origin", "Spacing", "Direction"):
            if name not in document.dataset:
                continue
            values = getattr(geometry, name.lower())
            if found.setdefault(name, values) != values:
                texts = (
                    " ".join(f"{value:.17g}" for value in known) for known in (found[name], values)
                )
                raise FormatError(
                    f"{label}: its parts have different {name}: {' and '.join(texts)}; "
                    "expected the same in the header and in all pieces"
                )
    return geometry_of(found)
