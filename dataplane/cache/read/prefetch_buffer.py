"""Prefetch buffer: the blocks that plans of this process will read soon, and their bytes.

They are pinned: this process does not evict them. Each has a reference count of its plans, and its
bytes may be held: a block that was just downloaded is handed to its reader from memory, so that
no reader waits for the disk. (A sample most of which is on the disk alone is decoded there as a
whole: `datasets.in_place`.)

Thread-safe; one lock, held for bookkeeping only.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from dataplane.stores.base import Buffer

__all__ = ["BlockKey", "PrefetchBuffer"]

BlockKey: TypeAlias = tuple[str, int]
"""An entry's name and the index of one of its blocks."""


class PrefetchBuffer:
    """Pins and bytes of blocks that plans will read soon.

    Args:
        held_limit_bytes: most bytes to hold; what comes then is left to the disk.
    """

    def __init__(self, held_limit_bytes: int) -> None:
        self._lock = threading.Lock()
        self._counts: dict[BlockKey, int] = {}
        self._held: dict[str, dict[int, Buffer]] = {}  # by entry, by block
        self._held_bytes = 0
        self._held_limit_bytes = held_limit_bytes
        self._plans = 0

    def join(self) -> None:
        """Count one more plan that may hold blocks."""
        with self._lock:
            self._plans += 1

    def leave(self) -> None:
        """Count one less."""
        with self._lock:
            self._plans -= 1

    @property
    def share_bytes(self) -> int:
        """Bytes that each plan may hold, when all hold as much as they may."""
        return self._held_limit_bytes // max(1, self._plans)

    def add(self, key: BlockKey) -> None:
        """Pin a block once more."""
        with self._lock:
            self._counts[key] = self._counts.get(key, 0) + 1

    def remove(self, keys: Iterable[BlockKey]) -> None:
        """Take one pin from each block."""
        with self._lock:
            for key in keys:
                count = self._counts[key] - 1
                if count:
                    self._counts[key] = count
                    continue
                del self._counts[key]
                blocks = self._held.get(key[0], {})
                content = blocks.pop(key[1], None)
                if content is not None:
                    self._held_bytes -= memoryview(content).nbytes
                    if not blocks:
                        del self._held[key[0]]

    def is_pinned(self, name: str, block: int) -> bool:
        """Whether a plan will read this block soon."""
        return (name, block) in self._counts

    def hold(self, name: str, contents: Mapping[int, Buffer]) -> set[int]:
        """Keep the bytes of blocks that are pinned, each until its last pin goes.

        Args:
            name: name of the entry.
            contents: the blocks by number.

        Returns:
            The blocks that are held now, with these bytes or some from before.
        """
        kept = set()
        with self._lock:
            for block, content in contents.items():
                length = memoryview(content).nbytes
                fits = self._held_bytes + length <= self._held_limit_bytes
                if self.held((name, block)) is not None:
                    kept.add(block)
                elif fits and (name, block) in self._counts:
                    self._held.setdefault(name, {})[block] = content
                    self._held_bytes += length
                    kept.add(block)
        return kept

    def held(self, key: BlockKey) -> Buffer | None:
        """Return the bytes of a block, if they are held."""
        blocks = self._held.get(key[0])
        return None if blocks is None else blocks.get(key[1])

    def held_of(self, name: str) -> dict[int, Buffer]:
        """Return the blocks of an entry that are held now, by number."""
        blocks = self._held.get(name)
        return {} if blocks is None else blocks.copy()

    @property
    def held_bytes(self) -> int:
        """Number of bytes that are held."""
        return self._held_bytes
