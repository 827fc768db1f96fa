"""The order in which a test run takes locks, and whether docs/locks.md allows it.

While a thread holds a lock and waits for another one, that is an edge from the first to the second.
Two edges that lead round in a circle are a deadlock that some run will meet, even if this one did
not. Attempts that do not wait count for what is held, not for what is waited for. Locks of one name
are one node, so two locks of a kind, one inside the other, are a circle, too.
"""

from __future__ import annotations

import threading
import traceback
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from tests.locking import tracked

LOCKS_PAGE = Path(__file__).parents[2] / "docs" / "locks.md"
_FRAMES = 12
_SORTED = {"Future._condition"}  # `concurrent.futures.wait` takes those of several futures by id


@dataclass
class OrderRecorder:
    """Gathers the edges of a process. An observer of tracked locks; thread-safe."""

    edges: dict[tuple[str, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._local = threading.local()
        self._guard = tracked.real_lock()

    def before(self, lock: tracked.Tracked, *, blocking: bool) -> None:
        if not blocking:
            return
        for held in self._held():
            edge = (held.name, lock.name)
            if held.name == lock.name and lock.name in _SORTED:
                continue
            if edge not in self.edges:
                stack = "".join(traceback.format_stack(limit=_FRAMES)[:-2])
                with self._guard:
                    self.edges.setdefault(edge, stack)

    def acquired(self, lock: tracked.Tracked) -> None:
        held = self._held()
        held.append(lock)
        lock.holder = held

    def released(self, lock: tracked.Tracked) -> None:
        held, lock.holder = lock.holder, None
        if held is not None and lock in held:  # another thread may release it
            held.remove(lock)

    def _held(self) -> deque[tracked.Tracked]:
        try:
            return self._local.held
        except AttributeError:
            # No list: a lock refers to it, and libraries walk through the lists of objects.
            self._local.held = deque()
            return self._local.held


def circle(edges: set[tuple[str, str]]) -> list[str] | None:
    """Return the nodes of a circle in a graph, in order; None when there is none."""
    after: dict[str, list[str]] = {}
    for first, second in sorted(edges):
        after.setdefault(first, []).append(second)
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> list[str] | None:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return None
        for successor in after.get(node, ()):
            found = walk(successor, [*path, node])
            if found:
                return found
        done.add(node)
        return None

    for start in sorted(after):
        found = walk(start, [])
        if found:
            return found
    return None


def documented_ranks(page: str) -> dict[str, int]:
    """Read the rank of each lock from the table of docs/locks.md."""
    ranks: dict[str, int] = {}
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) >= 2 and cells[0].isdigit():
            for name in cells[1].replace("`", "").split(","):
                ranks[name.strip()] = int(cells[0])
    return ranks


def objections(edges: set[tuple[str, str]], ranks: dict[str, int]) -> list[str]:
    """Say what is wrong with an order: circles, and edges that the page does not allow."""
    found = []
    ring = circle(edges)
    if ring:
        found.append("a circle: " + " -> ".join(ring))
    for first, second in sorted(edges):
        found += [
            f"{name} is taken together with others, and not in docs/locks.md"
            for name in (first, second)
            if name not in ranks
        ]
        if first in ranks and second in ranks and ranks[first] >= ranks[second]:
            found.append(
                f"{second} (rank {ranks[second]}) is waited for while {first} "
                f"(rank {ranks[first]}) is held"
            )
    return list(dict.fromkeys(found))
