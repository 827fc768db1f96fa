"""Prepared files: the input of VTK for one VTK XML file, after the check of it and its pieces.

The pieces of a dataset must agree (`agreement`). A piece without points may lack arrays; where it
does, VTK is given the others. Field data of several files is put together (`fields`).

A parallel file (`.pvtu`, …) says once more which arrays its pieces have. VTK believes it and not
the pieces: an array that it does not list is dropped, one listed with fewer bits is rounded. So its
lists are written anew from the pieces where they differ. An array that it does not list and some
pieces lack is left out, with a note; one that it lists and a piece, or every piece, lacks is an
error.

Thread-safe: no state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from dataplane.errors import FormatError
from dataplane.pack.vtk.agreement import (
    GROUPS,
    agreed_arrays,
    agreed_geometry,
    check_listed,
    without_empty,
)
from dataplane.pack.vtk.check import CONVERTED, KINDS, ArrayType, CheckedFile, CheckedPiece
from dataplane.pack.vtk.fields import write_fields
from dataplane.pack.vtk.opened import checked_file, drop_pieces, edited, let_go, open_document
from dataplane.pack.vtk.pieces import (
    CELL_LISTS,
    Extent,
    Geometry,
    check_cover,
    clipped,
    is_empty,
    parse_extent,
    parse_geometry,
)
from dataplane.pack.vtk.rewrite import Edits, tag
from dataplane.pack.vtk.xml import Document, tag_end

__all__ = ["Prepared", "prepare"]


@dataclass(slots=True)
class Prepared:
    """A file for VTK, and the content that its output must have.

    Attributes:
        path: path of the file that VTK reads.
        kind: kind of the dataset, without the P of parallel files.
        pieces: pieces in the order in which VTK puts them together.
        types: types of arrays per group.
        names: per group, names that only VTK sees to the true ones.
        left_out: names of arrays that are not read.
        parts: where VTK would put the pieces together wrongly, the place of each: a file, the
            number of the piece in it, and the number of its pieces.
        geometry: place of image data; VTK reads that of a parallel file in part.
        fields: file of the field data, where VTK would not read all of it.
    """

    path: Path
    kind: str
    pieces: list[CheckedPiece]
    types: dict[str, dict[str, ArrayType]]
    names: dict[str, dict[str, str]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    parts: list[tuple[Path, int, int]] = field(default_factory=list)
    geometry: Geometry | None = None
    fields: Path | None = None


def prepare(path: Path, label: str, pieces: Sequence[Path], stack: ExitStack) -> Prepared:
    """Check a file and its pieces, and edit the parts that VTK would read wrongly.

    Args:
        path: the file.
        label: name in messages.
        pieces: files that a parallel file refers to, in its order.
        stack: owner of edited files until VTK has read them.

    Raises:
        FormatError: the content of a file is not as declared.
    """
    document = open_document(path, label, stack)
    if document.kind not in KINDS:
        return _Parallel(document, path, label, stack).prepare(pieces)
    checked = checked_file(document, label)
    kept = without_empty(document.kind, checked.pieces)
    types = agreed_arrays(kept, label)
    geometry = _geometry(document, label)
    if document.kind not in CELL_LISTS:
        check_cover(_whole(document, label), _extents(checked, label), label, cells=_of_cells(kept))
    drop_pieces(checked, kept)
    path = edited(checked, path, stack)
    fields = None
    if "FieldData" in document.groups and document.groups["FieldData"].depth != 2:
        _, fields = write_fields([(checked, "the file")], label, stack)
    types["FieldData"] = checked.field_types
    parts = _parts(document.kind, [(path, kept)])
    let_go(document)
    return Prepared(
        path,
        document.kind,
        kept,
        types,
        checked.names,
        parts=parts,
        geometry=geometry,
        fields=fields,
    )


def _parts(
    kind: str, files: Sequence[tuple[Path, Sequence[CheckedPiece]]]
) -> list[tuple[Path, int, int]]:
    """Pieces of files, if they are to be read one by one and put together afterwards.

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


def _geometry(document: Document, label: str) -> Geometry | None:
    image = document.kind.endswith("ImageData")
    return parse_geometry(document.dataset, label) if image else None


def _whole(document: Document, label: str) -> Extent:
    return parse_extent(document.dataset.get("WholeExtent", ""), label)


def _extents(checked: CheckedFile, label: str) -> list[Extent]:
    return [
        parse_extent(piece.attributes.get("Extent", ""), label) for piece in checked.document.pieces
    ]


def _of_cells(pieces: Sequence[CheckedPiece]) -> bool:
    return any(piece.types.get("CellData") for piece in pieces)


def _members(file: CheckedFile, kept: list[CheckedPiece]) -> list[CheckedPiece]:
    """The pieces of a file that are kept."""
    kept_ids = {id(piece) for piece in kept}
    return [piece for piece in file.pieces if id(piece) in kept_ids]


def _left_out(
    pieces: Sequence[CheckedPiece], types: Mapping[str, Mapping[str, ArrayType]]
) -> list[str]:
    return sorted(
        {
            name
            for piece in pieces
            for group in ("PointData", "CellData")
            for name in piece.types.get(group, {})
            if piece.size.points and name not in types[group]
        }
    )


class _Parallel:
    """Preparation of one parallel file. Used once."""

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
        own = checked_file(document, label)
        self._edits = own.edits
        files = [
            checked_file(self._piece_document(piece_path), f"{label}: piece {piece_path.name}")
            for piece_path in paths
        ]
        pieces = [piece for file in files for piece in file.pieces]
        kept = without_empty(self._kind, pieces)
        declared = {
            group: {array.name: array.attributes for array in document.groups[f"P{group}"].arrays}
            for group in GROUPS
            if f"P{group}" in document.groups
        }
        own_names = {
            group: {name: own for file in files for name, own in file.names.get(group, {}).items()}
            for group in GROUPS
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
        types = agreed_arrays(kept, label, optional)
        check_listed(declared, own_names, kept, label)
        left_out = _left_out(kept, types)
        geometry = self._check_extents(files, [path.name for path in paths])
        for group in GROUPS:
            if group in types:
                self._declare(group, types[group])
        readable = self._readable(files, paths, kept)
        parts = _parts(
            self._kind,
            [
                (path, own_pieces)
                for path, file in zip(readable, files, strict=True)
                if (own_pieces := _members(file, kept))
            ],
        )
        self._refer(files, paths, readable, kept)
        names: dict[str, dict[str, str]] = {}
        for file in (own, *files):
            for group, renamed in file.names.items():
                names.setdefault(group, {}).update(renamed)
        path = self._path
        if self._edits.ranges:
            path = self._edits.apply(document.content, self._stack)
        owners = [f"piece {path.name}" for path in paths]
        types["FieldData"], fields = write_fields(
            [(own, "the header"), *zip(files, owners, strict=True)], label, self._stack
        )
        return Prepared(path, self._kind, kept, types, names, left_out, parts, geometry, fields)

    def _readable(
        self, files: Sequence[CheckedFile], paths: Sequence[Path], kept: list[CheckedPiece]
    ) -> list[Path]:
        readable = []
        for file, path in zip(files, paths, strict=True):
            members = _members(file, kept)
            if members:  # the others are not read
                drop_pieces(file, members)
                readable.append(edited(file, path, self._stack))
            else:
                readable.append(path)
            let_go(file.document)
        return readable

    def _piece_document(self, path: Path) -> Document:
        label = f"{self._label}: piece {path.name}"
        document = open_document(path, label, self._stack)
        if document.kind != self._kind:
            raise FormatError(f"{label}: it is a {document.kind}, expected a {self._kind}")
        return document

    def _check_extents(self, files: Sequence[CheckedFile], names: Sequence[str]) -> Geometry | None:
        """Check that files hold the part of a grid that the parallel file says they hold."""
        if self._kind in CELL_LISTS:
            return None
        label = self._label
        placed = [
            parse_extent(piece.attributes.get("Extent", ""), label)
            for piece in self._document.pieces
        ]
        # VTK puts files together by their cells, but the pieces within one by their points.
        check_cover(_whole(self._document, label), placed, label)
        filled = []
        for file, extent, name in zip(files, placed, names, strict=True):
            if any(piece.size.points for piece in file.pieces):
                filled.append(file.document)
            elif is_empty(extent):
                continue
            own = f"{label}: piece {name}"
            held = [clipped(piece, extent) for piece in _extents(file, own)]
            check_cover(extent, held, own, cells=_of_cells(file.pieces))
        if self._kind != "ImageData":
            return None
        return agreed_geometry((self._document, *filled), label)

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
        readable: Sequence[Path],
        kept: list[CheckedPiece],
    ) -> None:
        """Refer to edited pieces, and to all by names that do not depend on this file's place."""
        pieces = self._document.pieces
        used = [bool(_members(file, kept)) for file in files]
        plain = all("\\" not in piece.attributes.get("Source", "") for piece in pieces)
        if plain and not self._edits.ranges and list(readable) == list(paths) and all(used):
            return
        for piece, path, is_used in zip(pieces, readable, used, strict=True):
            text = b""
            if is_used:
                attributes = {**piece.attributes, "Source": str(path.absolute())}
                text = tag("Piece", attributes, closed=True)
            self._edits.replace(piece.start, piece.stop, text)


def _declares(attributes: Mapping[str, str], kind: ArrayType) -> bool:
    components = attributes.get("NumberOfComponents", "1").strip()
    return attributes.get("type") == kind.type and components == str(kind.components)
