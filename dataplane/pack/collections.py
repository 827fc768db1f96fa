"""The datasets of a collection: steps of a series, blocks of a tree, and blocks of each step.

Collections nest: a `.pvd` may list `.vtm` files, a `.vtpc` may list `.vtpd` files. Each is opened
here, down to the datasets, which get keys and attributes from all that they are in. A member that
is missing or damaged stands in its place with its reason; the keys of the others are the same with
and without it, since they are made from what the collections list. Each file of references is read
once, and what a collection expands to is limited. Thread-safe: independent objects.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dataplane.errors import FormatError
from dataplane.pack.blocks import Blocks, read_blocks
from dataplane.pack.formats import ARCHIVE, COMPOSITE, PLOT3D, SERIES, recognise
from dataplane.pack.found import Found
from dataplane.pack.names import member_key
from dataplane.pack.other_formats import OtherFormat
from dataplane.pack.references import MAX_REFERENCES, SeriesStep, read_series
from dataplane.pack.source import Unreadable

__all__ = ["Collection", "Member", "open_collection"]

_MIN_DIGITS = 4
_MAX_DEPTH = 8
_NO_MEMBERS = SERIES | {ARCHIVE, PLOT3D}


@dataclass(frozen=True, slots=True)
class Member:
    """A dataset that a collection lists.

    Attributes:
        found: file of the dataset; the label keeps members in order when labels are sorted.
        key: key of its sample.
        attributes: attributes that the collections give it.
        format: format of the file; empty if it is unreadable.
        unreadable: reason that it cannot be packed.
    """

    found: Found
    key: str
    attributes: dict[str, Any]
    format: str = ""
    unreadable: Unreadable | None = None


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection's members, and the resolved paths of all collections below it."""

    found: Found
    members: tuple[Member, ...]
    below: frozenset[Path]


def open_collection(item: Found, kind: str, root: Path | None) -> Collection:
    """List the datasets of a series or of a tree of blocks.

    Args:
        item: the file.
        kind: format of the file, one of SERIES or COMPOSITE.
        root: folder that references may not leave; None allows any.

    Raises:
        FormatError: it is damaged, lists nothing or too much, or refers outside `root`.
    """
    opening = _Opening(root)
    if kind in SERIES:
        members = opening.series(item, kind)
    else:
        members = opening.blocks(_Place(item, item.key(), {"collection": item.key()}))
    return Collection(item, tuple(members), frozenset(opening.below))


@dataclass(frozen=True, slots=True)
class _Place:
    """A file that a collection lists, with the names from all collections that it is in.

    Attributes:
        names: names of the blocks that it is in, and its own.
        within: resolved paths of the trees of blocks that it is in.
    """

    found: Found
    key: str
    attributes: dict[str, Any]
    names: tuple[str, ...] = ()
    within: tuple[Path, ...] = ()

    def unreadable(self, reason: Unreadable) -> Member:
        return Member(
            self.found, self.key, self.attributes, unreadable=replace(reason, key=self.key)
        )


class _Opening:
    """One collection while it is opened. Used once."""

    def __init__(self, root: Path | None) -> None:
        self.below: set[Path] = set()
        self._root = root
        self._trees: dict[Path, Blocks] = {}
        self._members = 0

    def series(self, item: Found, kind: str) -> list[Member]:
        """List the datasets of all steps."""
        steps = read_series(item.path, item.label, kind, self._root)
        in_parts, series = _has_parts(steps), item.key()
        digits = max(_MIN_DIGITS, len(str(steps[-1].number)))
        order_digits = max(_MIN_DIGITS, len(str(len(steps) - 1)))
        members = []
        for order, step in enumerate(steps):
            key = f"{series}-{step.number:0{digits}d}"
            attributes: dict[str, Any] = {"series": series, "timestep": step.number}
            if step.time is not None:
                attributes["time"] = step.time
            if in_parts:
                key = f"{key}-part{step.part}"
                attributes |= {"part": step.part, "group": step.group}
            if step.group:
                attributes["group"] = step.group
            if step.part_name:
                attributes |= {"part": step.part_name, "part_number": step.part}
            found = _below(item, step.path, f"step {order:0{order_digits}d}")
            members += self._open(_Place(found, key, attributes), "step of a series")
        return members

    def blocks(self, place: _Place) -> list[Member]:
        """List the datasets of a tree of blocks."""
        item = place.found
        own = item.resolved
        if own in place.within or len(place.within) >= _MAX_DEPTH:
            raise FormatError(f"{item.label}: it refers to itself, or through too many others")
        tree = self._trees.get(own)
        if tree is None:
            tree = self._trees[own] = read_blocks(item.path, item.label, self._root)
        attributes = place.attributes
        if tree.time is not None:  # the time that a series gives counts more
            attributes = {"time": tree.time, **attributes}
        digits = max(_MIN_DIGITS, len(str(len(tree.blocks) - 1)))
        members = []
        for order, block in enumerate(tree.blocks):
            names = (*place.names, *block.names)
            said: dict[str, Any] = {"block": "/".join(names)} if names else {}
            if group := "/".join(block.group or names[:-1]):
                said["group"] = group
            own_names = [*block.names]
            if block.partition is not None:
                said["partition"] = block.partition
                own_names.append(str(block.partition))
            below = _Place(
                _below(item, block.path, f"block {order:0{digits}d}"),
                member_key(place.key, own_names),
                attributes | said,
                names,
                (*place.within, own),
            )
            members += self._open(below, "block")
        return members

    def _open(self, place: _Place, role: str) -> list[Member]:
        """Return the dataset at a place, those of the collection there, or the reason for none."""
        found = place.found
        self._members += 1
        if self._members > MAX_REFERENCES:
            raise FormatError(
                f"{found.label}: it is one of more than {MAX_REFERENCES} files, which are not read"
            )
        try:
            if found.path.exists() and not found.path.is_file():
                raise FormatError(f"{found.label}: it is not a regular file")
            kind = recognise(found.path)
            if isinstance(kind, OtherFormat):
                return [place.unreadable(Unreadable.from_other(found.label, kind))]
            if kind in _NO_MEMBERS:
                raise FormatError(f"{found.label}: a .{kind} cannot be a {role}")
            if kind in COMPOSITE:
                self.below.add(found.resolved)
                return self.blocks(place)
        except Exception as err:  # the file's, the system's or a library's; see from_exception
            return [place.unreadable(Unreadable.from_exception(found.label, err))]
        return [Member(found, place.key, place.attributes, kind)]


def _has_parts(steps: Sequence[SeriesStep]) -> bool:
    """Whether the steps of a series consist of parts.

    They do where a step has parts that are told apart, or where each has several files. Otherwise
    a second file at some of the times is a restart that overlaps with the files before.
    """
    parts: dict[int, set[tuple[int, str]]] = defaultdict(set)
    for step in steps:
        parts[step.number].add((step.part, step.part_name))
    files = Counter(step.number for step in steps)
    return max(map(len, parts.values())) > 1 or min(files.values()) > 1


def _below(item: Found, path: Path, place: str) -> Found:
    relative = os.path.relpath(path, item.path.parent)
    parts = (*item.parts[:-1], *Path(relative).parts)
    # The label keeps members of a collection together and in order when labels are sorted.
    return Found(path, f"{item.label} {place} ({relative})", parts, item.prefix, asked_for=True)
