"""Plan of a pack: from the paths that were given to the list of datasets. Converts nothing.

1. Folders are walked, files are taken as they are, each once; then everything is sorted by name, so
   that the order is the same on every machine.
2. Files that another one refers to are packed through it: the steps of a `.pvd`, the blocks of a
   `.vtm`, the pieces of a `.pvtu`, the solutions of a PLOT3D grid. A file that several collections
   list is packed through the one that lists most.
3. Every dataset gets a key: the folders below the one that was named, and the file's stem. Keys are
   told apart here, before anything is read, and a damaged file keeps its own: so no key depends on
   the health of another file. Files are opened only to recognise them.

Sources that cannot be packed stand in the list too, with their reason, at their place in the order.
Thread-safe: no state.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from dataplane.errors import FormatError
from dataplane.pack.collections import Collection, Member, open_collection
from dataplane.pack.formats import (
    ARCHIVE,
    COMPOSITE,
    ONE_DATASET,
    PARALLEL,
    PLOT3D,
    SERIES,
    recognise,
)
from dataplane.pack.found import Found, walk
from dataplane.pack.names import unique_name
from dataplane.pack.other_formats import OtherFormat
from dataplane.pack.plot3d.pairs import Pair, pair_folder, pair_name
from dataplane.pack.references import read_pieces
from dataplane.pack.source import SourceFile, Unreadable

__all__ = ["Planned", "plan_archive", "plan_sources"]

Planned: TypeAlias = SourceFile | Unreadable
_MIN_STEP_DIGITS = 4


def plan_sources(paths: Sequence[Path]) -> list[Planned]:
    """List the datasets in files and folders, in the order in which they are packed."""
    found: dict[Path, Found] = {}
    left_out: list[Unreadable] = []
    for path in paths:
        if path.is_dir():
            for item in walk(path, label=str(path), prefix=f"{path.resolve().name}/"):
                if isinstance(item, Unreadable):
                    left_out.append(item)
                else:
                    found.setdefault(item.resolved, item)
        elif path.is_file():
            item = Found(path, str(path), (path.name,), "", asked_for=True)
            found[path.resolve()] = item
        else:
            reason = "it is not a regular file" if path.exists() else "no such file or folder"
            left_out.append(Unreadable(str(path), reason))
    planned = [*left_out, *_Planner(found.values(), root=None).run()]
    return _told_apart(sorted(planned, key=_order))


def plan_archive(folder: Path, label: str, name: str) -> list[Planned]:
    """List the datasets in the folder that an archive was unpacked to.

    Args:
        folder: folder that no reference may lead out of.
        label: name of the archive in messages.
        name: name of the archive in attributes.
    """
    walked = [*walk(folder, label=label, prefix=f"{name}/")]
    left_out = [item for item in walked if isinstance(item, Unreadable)]
    found = [item for item in walked if isinstance(item, Found)]
    return _told_apart([*left_out, *_Planner(found, root=folder).run()])


class _Planner:
    """A planner that groups found files into datasets. Used once."""

    def __init__(self, found: Iterable[Found], root: Path | None) -> None:
        self._found = sorted(found, key=lambda item: item.label)
        self._root = root
        self._taken: dict[Path, str] = {}
        """Resolved paths of files that are packed through another, and the label of that one."""
        self._nested: set[Path] = set()
        """Resolved paths of collections that are opened through another."""
        self._planned: list[Planned] = []
        self._plot3d_found: set[Path] = set()
        self._pairs: dict[Path, tuple[list[Pair], dict[Path, str]]] = {}

    def run(self) -> list[Planned]:
        recognised: list[tuple[Found, str]] = []
        for item in self._found:
            try:
                kind = recognise(item.path)
            except Exception as err:  # of the system, or of a library; see from_exception
                unreadable = Unreadable.from_exception(item.label, err)
                known = item.asked_for or not isinstance(err, FormatError)
                self._planned.append(replace(unreadable, asked_for=known, key=_promised_key(item)))
                continue
            if isinstance(kind, OtherFormat):
                self._planned.append(
                    Unreadable.from_other(item.label, kind, asked_for=item.asked_for)
                )
            else:
                recognised.append((item, kind))
        self._plot3d_found = {item.resolved for item, kind in recognised if kind == PLOT3D}
        # Files that refer to others go first, and series before the files that they list.
        for formats in (SERIES, COMPOSITE):
            self._claim([*self._opened(recognised, formats)])
        for formats in (PARALLEL, frozenset({PLOT3D})):
            for item, kind in recognised:
                if kind in formats and item.resolved not in self._taken:
                    self._take(item, kind)
        referring = SERIES | COMPOSITE | PARALLEL | {PLOT3D}
        for item, kind in recognised:
            if kind not in referring and item.resolved not in self._taken:
                self._planned.append(SourceFile(item.path, item.label, item.name, item.key(), kind))
        return sorted(self._planned, key=_order)

    def _opened(
        self, recognised: Sequence[tuple[Found, str]], formats: frozenset[str]
    ) -> Iterator[Collection]:
        for item, kind in recognised:
            if kind not in formats:
                continue
            path = item.resolved
            if path not in self._nested and path not in self._taken:
                try:
                    yield open_collection(item, kind, self._root)
                except Exception as err:  # the file's, or the system's; see from_exception
                    self._planned.append(Unreadable.from_exception(item.label, err))

    def _claim(self, opened: Sequence[Collection]) -> None:
        """Plan the members of collections, each file through the one that lists most."""
        for collection in sorted(opened, key=lambda each: (-len(each.members), each.found.label)):
            own, label = collection.found.resolved, collection.found.label
            if own in self._nested and own not in collection.below:
                continue
            self._nested |= collection.below
            resolved = [member.found.resolved for member in collection.members]
            through = {path: self._taken[path] for path in resolved if path in self._taken}
            for member, path in zip(collection.members, resolved, strict=True):
                if path not in through:
                    self._taken[path] = label
                    self._planned.append(self._member(member))
            if through:
                self._planned.append(_listed_twice(label, len({*resolved}), through))

    def _member(self, member: Member) -> Planned:
        if member.unreadable is not None:
            return member.unreadable
        if member.format in PARALLEL:
            try:
                return self._parallel(member)
            except Exception as err:  # the file's, the system's or a library's; see from_exception
                unreadable = Unreadable.from_exception(member.found.label, err)
                return replace(unreadable, key=member.key)
        return _source(member)

    def _take(self, item: Found, kind: str) -> None:
        if kind == PLOT3D:
            try:
                self._planned.extend(self._plot3d(item))
            except Exception as err:  # the file's, or the system's; see from_exception
                self._planned.append(Unreadable.from_exception(item.label, err))
        else:
            self._planned.append(self._member(Member(item, item.key(), {}, kind)))

    def _parallel(self, member: Member) -> SourceFile:
        item = member.found
        pieces = tuple(read_pieces(item.path, item.label, self._root))
        # Before any is missed: a piece is no dataset of its own, also where the others fail.
        self._taken |= {piece.resolve(): item.label for piece in pieces}
        for piece in pieces:
            if not piece.is_file():
                shown = os.path.relpath(piece, item.path.parent)
                raise FormatError(f"{item.label}: its piece {shown} is missing")
        return replace(_source(member), companions=pieces)

    def _plot3d(self, item: Found) -> list[Planned]:
        """Plan a grid with its solutions, or a solution whose grid is not found itself."""
        pairs, refused = self._pairs_beside(item.path)
        if item.path in refused:
            return [Unreadable(item.label, refused[item.path])]
        mine = [pair for pair in pairs if item.path in {pair.grid, pair.solution}]
        if not mine:
            self._taken[item.resolved] = item.label
            stem, _ = pair_name(item.path) or (None, "")
            return [_source(Member(item, item.key(stem), {}, PLOT3D))]
        if mine[0].solution == item.path and mine[0].grid.resolve() in self._plot3d_found:
            return []  # packed through its grid
        planned: list[Planned] = []
        for pair in mine:
            self._taken |= dict.fromkeys((pair.grid.resolve(), pair.solution.resolve()), item.label)
            planned.append(self._solution(item, pair))
        return planned

    def _pairs_beside(self, path: Path) -> tuple[list[Pair], dict[Path, str]]:
        if path.parent not in self._pairs:
            self._pairs[path.parent] = pair_folder(path.parent)
        return self._pairs[path.parent]

    def _solution(self, item: Found, pair: Pair) -> SourceFile:
        # It is named after its grid, also where the solution was found.
        parts = (*item.parts[:-1], pair.grid.name)
        label = item.label[: len(item.label) - len(item.path.name)] + pair.grid.name
        grid = Found(pair.grid, label, parts, item.prefix, item.asked_for)
        key = grid.key(pair.stem)
        attributes: dict[str, Any] = {}
        if pair.step is not None:
            step = f"{pair.step:0{_MIN_STEP_DIGITS}d}"
            label = f"{label} step {step} ({pair.solution.name})"
            attributes = {"series": key, "timestep": pair.step}
            key = f"{key}-{step}"
        member = Member(replace(grid, label=label), key, attributes, PLOT3D)
        return replace(_source(member), companions=(pair.solution,))


def _source(member: Member) -> SourceFile:
    item = member.found
    return SourceFile(
        item.path, item.label, item.name, member.key, member.format, attributes=member.attributes
    )


def _promised_key(item: Found) -> str:
    """Return the key that a damaged file would have had, as far as its name says."""
    pair = pair_name(item.path)
    if pair is not None:
        return item.key(pair[0]) if pair[1] == "grid" else ""
    return item.key() if item.path.suffix.lower().removeprefix(".") in ONE_DATASET else ""


def _listed_twice(label: str, files: int, through: Mapping[Path, str]) -> Unreadable:
    first, *others = sorted(set(through.values()))
    of = "" if len(through) == files else f"{len(through)} of "
    counted = f"{of}its {files} files" if files > 1 else "its file"
    verb = "is" if len(through) == 1 else "are"
    more = f" and {len(others)} more" if others else ""
    reason = f"{counted} {verb} packed through {first}{more}"
    return Unreadable(label, reason, asked_for=False, is_note=True)


def _told_apart(planned: Sequence[Planned]) -> list[Planned]:
    """Give the later of two datasets with the same key a number; see the module's docstring."""
    readable = {item.label for item in planned if isinstance(item, SourceFile)}
    taken: set[str] = set()
    apart: list[Planned] = []
    for item in planned:
        is_one = isinstance(item, Unreadable) and item.label not in readable
        if item.key and (is_one or (isinstance(item, SourceFile) and item.format != ARCHIVE)):
            key = unique_name(item.key, taken, "-")
            taken.add(key)
            if isinstance(item, SourceFile):
                apart.append(replace(item, key=key, stem_key=item.key))
            else:
                apart.append(replace(item, key=key))
        else:
            apart.append(item)
    return apart


def _order(item: Planned) -> str:
    return item.label
