"""What VTK is given to read for one VTK XML file, after the check of it and of its pieces.

The pieces of a dataset must agree: every piece that has points has the same arrays with the same
types, since VTK fills what one of them lacks with zeros, or drops it. A piece without
points may lack them; where it does, VTK is given the others.

A parallel file (`.pvtu`, …) says once more which arrays its pieces have. VTK believes it and not
the pieces: what it does not list is dropped, what it lists with fewer bits is rounded. So its lists
are written anew from the pieces where they differ. An array that it does not list and some pieces
lack is left out, with a note; one that it lists and a piece lacks is an error.

Thread-safe: no state.
"""

from __future__ import annotations

import logging
import mmap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from dataplane.errors import FormatError
from dataplane.pack.vtk_check import (
    CONVERTED,
    KINDS,
    ArrayType,
    CheckedFile,
    CheckedPiece,
    check_file,
)
from dataplane.pack.vtk_pieces import (
    CELL_LISTS,
    Geometry,
    check_cover,
    parse_extent,
    parse_geometry,
)
from dataplane.pack.vtk_rewrite import Edits, tag
from dataplane.pack.vtk_xml import Content, Document, scan, tag_end

__all__ = ["Prepared", "prepare"]

_log = logging.getLogger(__name__)

_MAP_FROM_BYTES = 1 << 20
_GROUPS = ("PointData", "CellData", "Points", "Coordinates")


@dataclass(slots=True)
class Prepared:
    """A file for VTK, and what its output must hold.

    Attributes:
        path: what VTK reads.
        kind: of the dataset, without the P of parallel files.
        pieces: in the order in which VTK puts them together.
        types: arrays per group.
        names: per group, names that only VTK sees to the true ones.
        left_out: names of arrays that are not read.
        parts: where VTK would put the pieces together wrongly, the place of each: a file, the
            number of the piece in it, and how many pieces it has.
        geometry: of image data; VTK reads that of a parallel file in part.
    """

    path: Path
    kind: str
    pieces: list[CheckedPiece]
    types: dict[str, dict[str, ArrayType]]
    names: dict[str, dict[str, str]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    parts: list[tuple[Path, int, int]] = field(default_factory=list)
    geometry: Geometry | None = None


def prepare(path: Path, label: str, pieces: Sequence[Path], stack: ExitStack) -> Prepared:
    """Check a file and its pieces, and edit what VTK would read wrongly.

    Args:
        path: the file.
        label: how messages call it.
        pieces: for a parallel file, the files that it refers to, in its order.
        stack: keeps edited files until VTK has read them.

    Raises:
        FormatError: a file does not hold what it declares.
    """
    document = _open(path, label, stack)
    if document.kind not in KINDS:
        return _Parallel(document, path, label, stack).prepare(pieces)
    checked = check_file(document, label)
    kept = _without_empty(checked.pieces)
    types = _agreed(kept, label)
    geometry = _check_extents(document, label)
    if len(kept) < len(checked.pieces):
        for piece in checked.pieces:
            if not any(piece is other for other in kept):
                checked.edits.replace(piece.start, piece.stop, b"")
    path = _edited(checked, path, stack)
    types["FieldData"] = checked.field_types
    parts = _parts(document.kind, [(path, kept)])
    return Prepared(path, document.kind, kept, types, checked.names, parts=parts, geometry=geometry)


def _parts(
    kind: str, files: Sequence[tuple[Path, Sequence[CheckedPiece]]]
) -> list[tuple[Path, int, int]]:
    """The pieces of files, if they are to be read one by one and put together afterwards.

    VTK 9.7 keeps the point numbers of a piece as they are when no earlier piece of the file has
    cells of their list (or faces), and mixes up the cell data of surfaces in pieces.
    """
    all_pieces = [piece for _, pieces in files for piece in pieces]
    needed = kind == "PolyData" or (
        kind == "UnstructuredGrid"
        and (
            any(_begins_without_cells(pieces) for _, pieces in files)
            or any("face" in name for piece in all_pieces for _, name in piece.cell_lengths)
        )
    )
    if len(all_pieces) < 2 or not needed:
        return []
    return [(path, n, len(pieces)) for path, pieces in files for n in range(len(pieces))]


def _begins_without_cells(pieces: Sequence[CheckedPiece]) -> bool:
    return len(pieces) > 1 and pieces[0].size.points > 0 and not pieces[0].size.cells


def _open(path: Path, label: str, stack: ExitStack) -> Document:
    """Open a file and return its structure; large ones are mapped as long as the stack lives."""
    size_bytes = path.stat().st_size
    if not size_bytes:
        raise FormatError(f"{label}: it is empty", hint="copy it again from where it was written")
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
            hint="copy it again from where it was written",
        )
    return document


def _is_closed(content: Content, appended: int) -> bool:
    """Say whether the closing tags follow the appended data, which is no XML."""
    stop = content.rfind(b"</AppendedData", appended)
    return stop >= 0 and content.find(b"</VTKFile>", stop) >= 0


def _edited(checked: CheckedFile, path: Path, stack: ExitStack) -> Path:
    if not checked.edits.ranges:
        return path
    return checked.edits.apply(checked.document.content, stack)


def _check_extents(document: Document, label: str) -> Geometry | None:
    """Check that the pieces of a grid cover it; return the geometry of image data."""
    if document.kind in CELL_LISTS or document.kind[1:] in CELL_LISTS:
        return None
    image = document.kind.endswith("ImageData")
    geometry = parse_geometry(document.dataset, label) if image else None
    whole = parse_extent(document.dataset.get("WholeExtent", ""), label)
    pieces = [parse_extent(item.attributes.get("Extent", ""), label) for item in document.pieces]
    check_cover(whole, pieces, label)
    return geometry


def _without_empty(pieces: list[CheckedPiece]) -> list[CheckedPiece]:
    """Leave out pieces without points whose arrays are not those of the others."""
    filled = [piece for piece in pieces if piece.size.points]
    if len(filled) in {0, len(pieces)}:
        return pieces
    return pieces if all(piece.types == filled[0].types for piece in pieces) else filled


def _agreed(
    pieces: Iterable[CheckedPiece], label: str, optional: Mapping[str, set[str]] | None = None
) -> dict[str, dict[str, ArrayType]]:
    """The arrays that all pieces have, by group; those in `optional` may be lacking in some."""
    agreed: dict[str, dict[str, ArrayType]] = {}
    members = [(n, piece) for n, piece in enumerate(pieces) if piece.size.points]
    for group in _GROUPS if members else ():
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
                            f"{label}: array {name!r} of {group} is {_shown(common[name])} in "
                            f"piece {members[0][0]} and {_shown(types[name])} in piece {number}"
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


def _shown(found: ArrayType) -> str:
    return f"{found.type}[{found.components}]" if found.components > 1 else found.type


class _Parallel:
    """Prepares one parallel file. Used once."""

    def __init__(self, document: Document, path: Path, label: str, stack: ExitStack) -> None:
        self._document = document
        self._path = path
        self._label = label
        self._stack = stack
        self._kind = document.kind.removeprefix("P")
        self._edits = Edits()

    def prepare(self, paths: Sequence[Path]) -> Prepared:
        document, label = self._document, self._label
        if len(paths) != len(document.pieces):
            raise FormatError(
                f"{label}: it has {len(document.pieces)} pieces, of which {len(paths)} were found"
            )
        own = check_file(document, label)
        self._edits = own.edits
        files = [
            check_file(self._piece_document(piece_path), f"{label}: piece {piece_path.name}")
            for piece_path in paths
        ]
        pieces = [piece for file in files for piece in file.pieces]
        kept = _without_empty(pieces)
        declared = {
            group: {array.name: array.attributes for array in document.groups[f"P{group}"].arrays}
            for group in _GROUPS
            if f"P{group}" in document.groups
        }
        own_names = {
            group: {name: own for file in files for name, own in file.names.get(group, {}).items()}
            for group in _GROUPS
        }
        optional = {
            group: {name for piece in kept for name in piece.types.get(group, {})}
            - {*declared.get(group, {})}
            - {
                name
                for name, own_name in own_names[group].items()
                if own_name in CONVERTED and own_name in declared.get(group, {})
            }
            for group in ("PointData", "CellData")
        }
        types = _agreed(kept, label, optional)
        left_out = self._left_out(kept, types)
        geometry = self._check_extents(files)
        for group in _GROUPS:
            if group in types:
                self._declare(group, types[group])
        edited = [_edited(file, path, self._stack) for file, path in zip(files, paths, strict=True)]
        parts = _parts(
            self._kind,
            [
                (path, file.pieces)
                for path, file in zip(edited, files, strict=True)
                if any(piece is other for piece in file.pieces for other in kept)
            ],
        )
        self._refer(files, paths, edited, kept)
        names: dict[str, dict[str, str]] = {}
        for file in (own, *files):
            for group, renamed in file.names.items():
                names.setdefault(group, {}).update(renamed)
        path = self._path
        if self._edits.ranges:
            path = self._edits.apply(document.content, self._stack)
        types["FieldData"] = own.field_types
        return Prepared(path, self._kind, kept, types, names, left_out, parts, geometry)

    def _piece_document(self, path: Path) -> Document:
        label = f"{self._label}: piece {path.name}"
        document = _open(path, label, self._stack)
        if document.kind != self._kind:
            raise FormatError(f"{label}: it is a {document.kind}, expected a {self._kind}")
        _check_extents(document, label)
        return document

    def _left_out(
        self, pieces: list[CheckedPiece], types: Mapping[str, Mapping[str, ArrayType]]
    ) -> list[str]:
        left_out = sorted(
            {
                name
                for piece in pieces
                for group in ("PointData", "CellData")
                for name in piece.types.get(group, {})
                if piece.size.points and name not in types[group]
            }
        )
        for name in left_out:
            _log.warning(
                "%s: array %r is left out: only some pieces have it, and the header does not "
                "list it",
                self._label,
                name,
            )
        return left_out

    def _check_extents(self, files: Sequence[CheckedFile]) -> Geometry | None:
        if self._kind in CELL_LISTS:
            return None
        geometry = _check_extents(self._document, self._label)
        for piece, file in zip(self._document.pieces, files, strict=True):
            placed = parse_extent(piece.attributes.get("Extent", ""), self._label)
            whole = parse_extent(file.document.dataset.get("WholeExtent", ""), self._label)
            if placed != whole:
                raise FormatError(
                    f"{self._label}: its piece {piece.attributes.get('Source')} has the extent "
                    f"{' '.join(map(str, whole))}, expected {' '.join(map(str, placed))}"
                )
        return geometry and replace(geometry, direction=self._direction(files))

    def _direction(self, files: Sequence[CheckedFile]) -> tuple[float, ...]:
        """The axes of image data: VTK writes them to the pieces and not to the parallel file."""
        documents = (self._document, *(file.document for file in files))
        stated = {
            parse_geometry(document.dataset, self._label).direction
            for document in documents
            if "Direction" in document.dataset
        }
        if len(stated) > 1:
            raise FormatError(f"{self._label}: its pieces have different directions")
        return stated.pop() if stated else parse_geometry({}, self._label).direction

    def _declare(self, group: str, types: Mapping[str, ArrayType]) -> None:
        """Make the list of the arrays of a group that of the pieces."""
        found = self._document.groups.get(f"P{group}")
        elements = found.arrays if found is not None else []
        by_place = group in {"Points", "Coordinates"}
        listed = {
            key: element.attributes
            for key, element in zip(
                types if by_place else [element.name for element in elements],
                elements,
                strict=False,
            )
        }
        same = len(listed) == len(elements) and {*listed} == {*types}
        if same and all(_declares(listed[key], types[key]) for key in types):
            return
        arrays = b"".join(
            tag(
                "PArray" if kind.type == "String" else "PDataArray",
                {
                    **({} if by_place else {"Name": key}),
                    **listed.get(key, {}),
                    "type": kind.type,
                    "NumberOfComponents": str(kind.components),
                },
                closed=True,
            )
            for key, kind in types.items()
        )
        attributes = found.attributes if found is not None else {}
        text = tag(f"P{group}", attributes) + arrays + f"</P{group}>".encode()
        if found is not None:
            self._edits.replace(found.start, found.stop, text)
        else:
            at = tag_end(self._document.content, self._document.dataset_start)
            self._edits.replace(at, at, text)

    def _refer(
        self,
        files: Sequence[CheckedFile],
        paths: Sequence[Path],
        edited: Sequence[Path],
        kept: list[CheckedPiece],
    ) -> None:
        """Refer to edited pieces, and to all by names that do not depend on this file's place."""
        pieces = self._document.pieces
        kept_ids = {id(piece) for piece in kept}
        used = [any(id(piece) in kept_ids for piece in file.pieces) for file in files]
        plain = all("\\" not in piece.attributes.get("Source", "") for piece in pieces)
        if plain and not self._edits.ranges and list(edited) == list(paths) and all(used):
            return
        for piece, path, is_used in zip(pieces, edited, used, strict=True):
            text = b""
            if is_used:
                attributes = {**piece.attributes, "Source": str(path.absolute())}
                text = tag("Piece", attributes, closed=True)
            self._edits.replace(piece.start, piece.stop, text)


def _declares(attributes: Mapping[str, str], kind: ArrayType) -> bool:
    components = attributes.get("NumberOfComponents", "1").strip()
    return attributes.get("type") == kind.type and components == str(kind.components)
