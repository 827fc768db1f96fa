"""From what the user names to the list of datasets to convert. Opens files only to recognise them.

1. Folders are walked (hidden files left out, links to folders named and not followed), files are
   taken as they are, each once; then everything is sorted by name, so that the order is the same on
   every machine.
2. Files that another one refers to are packed through it: the steps of a `.pvd`, the pieces of a
   `.pvtu`, the solutions of a PLOT3D grid.
3. Every dataset gets a key: the folders below the one that was named, and the file's stem.

What cannot be packed stands in the list too, with its reason, at its place in the order.
Thread-safe: no state.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from dataplane.errors import FormatError
from dataplane.pack.formats import ARCHIVE, PARALLEL, PLOT3D, SERIES, has_known_suffix, recognise
from dataplane.pack.names import sample_key
from dataplane.pack.plot3d_pairs import Pair, pair_folder, pair_name
from dataplane.pack.references import read_pieces, read_series
from dataplane.pack.source import SourceFile, Unreadable

__all__ = ["Planned", "plan_archive", "plan_sources"]

Planned: TypeAlias = SourceFile | Unreadable
_MIN_STEP_DIGITS = 4
_NO_STEPS = frozenset({SERIES, ARCHIVE, PLOT3D})


@dataclass(frozen=True, slots=True)
class _Found:
    """A file before it is recognised; `parts` are its folders below the source, and its name."""

    path: Path
    label: str
    parts: tuple[str, ...]
    prefix: str
    asked_for: bool

    @property
    def name(self) -> str:
        return self.prefix + "/".join(self.parts)

    def key(self, stem: str | None = None) -> str:
        return sample_key([*self.parts[:-1], stem or Path(self.parts[-1]).stem])


def plan_sources(paths: Sequence[Path]) -> list[Planned]:
    """List the datasets in files and folders, in the order in which they are packed."""
    found: dict[Path, _Found] = {}
    left_out: list[Unreadable] = []
    for path in paths:
        if path.is_dir():
            for item in _walk(path, label=str(path), prefix=f"{path.resolve().name}/"):
                if isinstance(item, Unreadable):
                    left_out.append(item)
                else:
                    found.setdefault(item.path.resolve(), item)
        elif path.is_file():
            item = _Found(path, str(path), (path.name,), "", asked_for=True)
            found[path.resolve()] = item
        else:
            reason = "it is not a regular file" if path.exists() else "no such file or folder"
            left_out.append(Unreadable(str(path), reason))
    planned = [*left_out, *_Planner(found.values(), root=None).run()]
    return sorted(planned, key=lambda item: item.label)


def plan_archive(folder: Path, label: str, name: str) -> list[Planned]:
    """List the datasets in the folder that an archive was unpacked to.

    Args:
        folder: the folder; no reference may lead out of it.
        label: how messages call the archive.
        name: how attributes call it.
    """
    walked = [*_walk(folder, label=label, prefix=f"{name}/")]
    left_out = [item for item in walked if isinstance(item, Unreadable)]
    found = [item for item in walked if isinstance(item, _Found)]
    return [*left_out, *_Planner(found, root=folder).run()]


def _walk(folder: Path, *, label: str, prefix: str) -> Iterator[_Found | Unreadable]:
    denied: list[OSError] = []
    for directory, folders, files in os.walk(folder, onerror=denied.append):
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        linked = [name for name in folders if Path(directory, name).is_symlink()]
        for name in sorted([*files, *linked]):
            path = Path(directory, name)
            if _is_hidden(name):
                continue
            parts = path.relative_to(folder).parts
            shown = f"{label}/{'/'.join(parts)}"
            if path.is_file():
                yield _Found(path, shown, parts, prefix, has_known_suffix(path))
            elif path.is_dir():
                yield Unreadable(shown, "a link to a folder is not followed", asked_for=False)
            elif path.is_symlink():
                yield Unreadable(shown, "it links to nothing", asked_for=has_known_suffix(path))
    for err in denied:
        yield Unreadable(str(err.filename), f"it cannot be read: {err.strerror}")


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))


class _Planner:
    """Groups found files into datasets. Used once."""

    def __init__(self, found: Iterable[_Found], root: Path | None) -> None:
        self._found = sorted(found, key=lambda item: item.label)
        self._root = root
        self._taken: set[Path] = set()
        self._planned: list[Planned] = []
        self._plot3d_found: set[Path] = set()
        self._pairs: dict[Path, tuple[list[Pair], dict[Path, str]]] = {}

    def run(self) -> list[Planned]:
        recognised: list[tuple[_Found, str]] = []
        for item in self._found:
            try:
                recognised.append((item, recognise(item.path)))
            except FormatError as err:
                self._planned.append(Unreadable(item.label, str(err), asked_for=item.asked_for))
            except Exception as err:  # of the system, or of a library; see from_exception
                self._planned.append(Unreadable.from_exception(item.label, err))
        self._plot3d_found = {item.path.resolve() for item, kind in recognised if kind == PLOT3D}
        # What refers to others goes first, and series before the parallel files that they list.
        for formats in ({SERIES}, PARALLEL, {PLOT3D}):
            for item, kind in recognised:
                if kind in formats and item.path.resolve() not in self._taken:
                    self._take(item, kind)
        referring = {SERIES, PLOT3D} | PARALLEL
        for item, kind in recognised:
            if kind not in referring and item.path.resolve() not in self._taken:
                self._planned.append(self._source(item, kind))
        return sorted(self._planned, key=_order)

    def _take(self, item: _Found, kind: str) -> None:
        try:
            if kind == SERIES:
                self._planned.extend(self._series(item))
            elif kind == PLOT3D:
                self._planned.extend(self._plot3d(item))
            else:
                self._planned.append(self._parallel(item, kind, item.key(), {}))
        except Exception as err:  # the file's, the system's or a library's; see from_exception
            self._planned.append(Unreadable.from_exception(item.label, err))

    def _source(self, item: _Found, kind: str, stem: str | None = None) -> SourceFile:
        return SourceFile(item.path, item.label, item.name, item.key(stem), kind)

    def _parallel(
        self, item: _Found, kind: str, key: str, attributes: dict[str, Any]
    ) -> SourceFile:
        pieces = tuple(read_pieces(item.path, item.label, self._root))
        self._taken.update(piece.resolve() for piece in pieces)
        return SourceFile(item.path, item.label, item.name, key, kind, pieces, attributes)

    def _series(self, item: _Found) -> list[Planned]:
        steps = read_series(item.path, item.label, self._root)
        self._taken.update(step.path.resolve() for step in steps)
        times = sorted({step.time for step in steps})
        numbers = {time: number for number, time in enumerate(times)}
        in_parts = len(times) < len(steps)
        digits = max(_MIN_STEP_DIGITS, len(str(len(times) - 1)))
        planned: list[Planned] = []
        for order, step in enumerate(steps):
            number = numbers[step.time]
            key = f"{item.key()}-{number:0{digits}d}"
            attributes: dict[str, Any] = {
                "series": item.key(),
                "timestep": number,
                "time": step.time,
            }
            if in_parts:
                key = f"{key}-part{step.part}"
                attributes |= {"part": step.part, "group": step.group}
            relative = os.path.relpath(step.path, item.path.parent)
            folders = (*item.parts[:-1], *Path(relative).parts)
            # The label keeps the steps of a series together and in order when labels are sorted.
            label = f"{item.label} step {order:0{digits}d} ({relative})"
            found = _Found(step.path, label, folders, item.prefix, asked_for=True)
            planned.append(self._step(found, key, attributes))
        return planned

    def _step(self, found: _Found, key: str, attributes: dict[str, Any]) -> Planned:
        try:
            kind = recognise(found.path)
            if kind in _NO_STEPS:
                return Unreadable(found.label, f"a .{kind} cannot be a step of a series")
            if kind in PARALLEL:
                return self._parallel(found, kind, key, attributes)
        except Exception as err:  # the file's, the system's or a library's; see from_exception
            return Unreadable.from_exception(found.label, err)
        return SourceFile(found.path, found.label, found.name, key, kind, attributes=attributes)

    def _plot3d(self, item: _Found) -> list[Planned]:
        """Plan a grid with its solutions, or a solution whose grid is not found itself."""
        pairs, refused = self._pairs_beside(item.path)
        if item.path in refused:
            return [Unreadable(item.label, refused[item.path])]
        mine = [pair for pair in pairs if item.path in {pair.grid, pair.solution}]
        if not mine:
            self._taken.add(item.path.resolve())
            stem, _ = pair_name(item.path) or (None, "")
            return [self._source(item, PLOT3D, stem)]
        if mine[0].solution == item.path and mine[0].grid.resolve() in self._plot3d_found:
            return []  # packed through its grid
        planned: list[Planned] = []
        for pair in mine:
            self._taken.update((pair.grid.resolve(), pair.solution.resolve()))
            planned.append(self._solution(item, pair))
        return planned

    def _pairs_beside(self, path: Path) -> tuple[list[Pair], dict[Path, str]]:
        if path.parent not in self._pairs:
            self._pairs[path.parent] = pair_folder(path.parent)
        return self._pairs[path.parent]

    def _solution(self, item: _Found, pair: Pair) -> SourceFile:
        # It is called after its grid, whichever of the two was found.
        parts = (*item.parts[:-1], pair.grid.name)
        label = item.label[: len(item.label) - len(item.path.name)] + pair.grid.name
        grid = _Found(pair.grid, label, parts, item.prefix, item.asked_for)
        key = grid.key(pair.stem)
        attributes: dict[str, Any] = {}
        if pair.step is not None:
            step = f"{pair.step:0{_MIN_STEP_DIGITS}d}"
            label = f"{label} step {step} ({pair.solution.name})"
            attributes = {"series": key, "timestep": pair.step}
            key = f"{key}-{step}"
        files = (pair.solution,)
        return SourceFile(pair.grid, label, grid.name, key, PLOT3D, files, attributes)


def _order(item: Planned) -> str:
    return item.label
