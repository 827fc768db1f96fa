"""Encrypted entries: a block map whose blocks are sealed with AES-256-GCM.

On the disk each block is one page longer: a header of 4096 bytes (magic, nonce, tag, zeros), then
as many encrypted bytes as the block has. Header and bytes are what the map's CRC-32C is of, so that
everything that knows no key (eviction, verification, accounting) works as ever. The nonce is random
for every write; the entry's name and the block's number are authenticated with it, so that blocks
cannot change places. A block that does not open is emptied, a miss and a counter.

The names of objects, their lengths and the times of their use stay readable.

A part of a block can only be read by opening the whole block, so the blocks opened last are kept in
memory (`OpenedBlocks`). Thread-safe.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from dataplane import _native
from dataplane._native import IncompleteRead
from dataplane.buffers import shared_pool
from dataplane.cache.config import CacheConfig
from dataplane.cache.entries.keys import key_identity, load_key
from dataplane.cache.read.ranges import Ranges, as_ranges, by_block, touching
from dataplane.extras import missing_package
from dataplane.stores.base import Buffer

__all__ = ["HEADER_BYTES", "Blocks", "OpenedBlocks", "SealedBlocks", "Sealer"]

HEADER_BYTES = 4096
"""Bytes by which a sealed block is longer: a page, so that direct I/O stays possible."""

_MAGIC = b"dpseal1\0"
_NONCE_BYTES = 12
_TAG_BYTES = 16
_OPENED_BYTES = 64 << 20
_ANY_TICK = (1 << 64) - 1


class OpenedBlocks:
    """The content of the blocks that were opened last, of all entries. Thread-safe.

    An entry is one version of an object, so what was opened once stays right.
    """

    def __init__(self, limit_bytes: int = _OPENED_BYTES) -> None:
        self._lock = threading.Lock()
        self._contents: OrderedDict[tuple[str, int], memoryview] = OrderedDict()
        self._bytes = 0
        self._limit_bytes = limit_bytes

    def get(self, name: str, block: int) -> memoryview | None:
        """Return a block's content, if it is still here."""
        with self._lock:
            content = self._contents.get((name, block))
            if content is not None:
                self._contents.move_to_end((name, block))
            return content

    def add(self, name: str, block: int, content: memoryview) -> None:
        """Keep a block's content for a while."""
        with self._lock:
            if (name, block) in self._contents or content.nbytes > self._limit_bytes:
                return
            self._contents[name, block] = content
            self._bytes += content.nbytes
            while self._bytes > self._limit_bytes:
                self._bytes -= self._contents.popitem(last=False)[1].nbytes


class Sealer:
    """Seals and opens blocks with one key.

    Raises:
        MissingPackage: the package `cryptography` is not installed.
        ConfigError: the key cannot be used.
    """

    def __init__(self, key: bytes) -> None:
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError as err:
            raise missing_package("an encrypted cache", "cryptography") from err
        self._cipher = AESGCM(key)
        self._invalid: type[Exception] = InvalidTag
        self.identity = key_identity(key)
        self.opened = OpenedBlocks()

    @classmethod
    def of(cls, config: CacheConfig) -> Sealer | None:
        """Return the sealer that a configuration asks for, or None for a cache in the clear."""
        return cls(load_key(config.key_file)) if config.encrypt else None

    def seal(self, content: Buffer, about: bytes, sealed: npt.NDArray[np.uint8]) -> None:
        """Write the sealed block to `sealed`; `about` must be the same when it is opened."""
        length = memoryview(content).nbytes
        nonce = secrets.token_bytes(_NONCE_BYTES)
        encrypted = np.frombuffer(self._cipher.encrypt(nonce, content, about), np.uint8)
        sealed[:HEADER_BYTES] = 0
        head = _MAGIC + nonce + encrypted[length:].tobytes()
        sealed[: len(head)] = np.frombuffer(head, np.uint8)
        np.copyto(sealed[HEADER_BYTES:], encrypted[:length])

    def open(self, sealed: memoryview, about: bytes) -> memoryview | None:
        """Return the content of a sealed block; None when it is not one, or of another key."""
        if bytes(sealed[: len(_MAGIC)]) != _MAGIC:
            return None
        nonce_end = len(_MAGIC) + _NONCE_BYTES
        nonce = bytes(sealed[len(_MAGIC) : nonce_end])
        # The tag follows the encrypted bytes, as the library wants it.
        encrypted = np.empty(len(sealed) - HEADER_BYTES + _TAG_BYTES, np.uint8)
        np.copyto(encrypted[:-_TAG_BYTES], np.frombuffer(sealed[HEADER_BYTES:], np.uint8))
        tag = sealed[nonce_end : nonce_end + _TAG_BYTES]
        encrypted[-_TAG_BYTES:] = np.frombuffer(tag, np.uint8)
        try:
            return memoryview(self._cipher.decrypt(nonce, encrypted.data, about))
        except self._invalid:
            return None


@dataclass(frozen=True, slots=True)
class _Bad:
    """Reason that a block has no content: it is not there, or it was bad and was emptied."""

    corrupt: int = 0
    unreadable: int = 0
    dropped_bytes: int = 0


class SealedBlocks:
    """The blocks of an encrypted entry, read and written in the clear. See the module's text.

    Args:
        stored: map of what is on the disk.
        name: name of the entry.
        sealer: sealer with the cache's key.
        size_bytes: length of the object.
        block_bytes: length of its blocks.
    """

    def __init__(
        self, stored: _native.BlockMap, name: str, sealer: Sealer, size_bytes: int, block_bytes: int
    ) -> None:
        self.stored = stored
        self.size_bytes = size_bytes
        self.block_bytes = block_bytes
        self.blocks = stored.blocks
        # These are about blocks as a whole.
        self.is_ready: Callable[[int], bool] = stored.is_ready
        self.is_leased: Callable[[int], bool] = stored.is_leased
        self.is_complete: Callable[[], bool] = stored.is_complete
        self.try_claim: Callable[..., int] = stored.try_claim
        self.release: Callable[..., None] = stored.release
        self._name = name
        self._sealer = sealer

    def read(
        self, start: int, stop: int, buffer: Any, memory: Mapping[int, Buffer]
    ) -> IncompleteRead | None:
        """Copy a range, as `_native.BlockMap.read` does."""
        return self.read_ranges(as_ranges([(start, stop, 0)]).data, buffer, memory)

    def read_ranges(
        self, ranges: Buffer, buffer: Any, memory: Mapping[int, Buffer]
    ) -> IncompleteRead | None:
        """Gather ranges, as `_native.BlockMap.read_ranges` does."""
        table = np.frombuffer(ranges, np.uint64).reshape(-1, 3)
        rest = self._copy(table, buffer, memory)
        if rest is None:
            return None
        missing: dict[int, Ranges] = {}
        corrupt = unreadable = dropped = 0
        # One block after another: together they may be more than memory should hold.
        for block, pieces in by_block(as_ranges(rest.missing), self.block_bytes):
            content = self._content(block)
            if isinstance(content, _Bad):
                missing[block] = pieces
                corrupt += content.corrupt
                unreadable += content.unreadable
                dropped += content.dropped_bytes
            else:
                self._copy(pieces, buffer, {block: content})
        if not missing:
            return None
        pieces = np.concatenate(list(missing.values()))
        missed = touching(table, list(missing), self.block_bytes)
        missed_bytes = int((missed[:, 1] - missed[:, 0]).sum())
        return IncompleteRead(
            pieces.tobytes(),
            ranges=len(missed),
            nbytes=missed_bytes,
            corrupt_blocks=corrupt,
            unreadable_blocks=unreadable,
            dropped_bytes=dropped,
        )

    def _copy(
        self, ranges: Ranges, buffer: Any, memory: Mapping[int, Buffer]
    ) -> IncompleteRead | None:
        return _native.copy_ranges(
            ranges.data, buffer, memory, block_bytes=self.block_bytes, size_bytes=self.size_bytes
        )

    def missing(self, start: int, stop: int) -> list[int]:
        """Return the blocks of a range that are not on the disk."""
        blocks = range(start // self.block_bytes, -(-stop // self.block_bytes))
        return [block for block in blocks if not self.is_ready(block)] if start < stop else []

    def resident_bytes(self) -> int:
        """Number of the object's bytes that are on the local disk."""
        if self.is_complete():
            return self.size_bytes
        stored = self.stored
        ready = len(stored.ready_blocks()) // 16  # pairs of u64
        return max(0, stored.resident_bytes() - ready * HEADER_BYTES)

    def commit(self, block: int, bytes: Any, *, direct: bool = False) -> None:  # noqa: A002
        """Seal the claimed blocks that the bytes are of, and make them ready, all or none."""
        content = memoryview(bytes).cast("B")
        step = self.block_bytes + HEADER_BYTES
        count = -(-content.nbytes // self.block_bytes)
        sealed = shared_pool().array((content.nbytes + count * HEADER_BYTES,), np.dtype(np.uint8))
        for number in range(count):
            part = content[number * self.block_bytes : (number + 1) * self.block_bytes]
            into = sealed[number * step : (number + 1) * step]
            self._sealer.seal(part, self._about(block + number), into)
        self.stored.commit(block, sealed.data, direct=direct)

    def _about(self, block: int) -> bytes:
        return f"{self._name}/{block}".encode()

    def _content(self, block: int) -> memoryview | _Bad:
        """Return the content of a block, or what is wrong with it."""
        if not self.stored.is_ready(block):
            return _Bad()
        content = self._sealer.opened.get(self._name, block)
        if content is not None:
            return content
        start = block * (self.block_bytes + HEADER_BYTES)
        stop = min(self.stored.size_bytes, start + self.block_bytes + HEADER_BYTES)
        sealed = shared_pool().array((stop - start,), np.dtype(np.uint8))
        outcome = self.stored.read(start, stop, sealed.data, {})
        if outcome is not None:
            return _Bad(outcome.corrupt_blocks, outcome.unreadable_blocks, outcome.dropped_bytes)
        content = self._sealer.open(sealed.data, self._about(block))
        if content is None:
            return _Bad(corrupt=1, dropped_bytes=self._drop(block))
        self._sealer.opened.add(self._name, block, content)
        return content

    def _drop(self, block: int) -> int:
        """Empty a block that is whole and does not open; return the space it took."""
        if not self.stored.try_claim(block):
            return 0
        try:
            return self.stored.evict(block, _ANY_TICK)
        finally:
            self.stored.release(block)


Blocks: TypeAlias = "_native.BlockMap | SealedBlocks"
"""The blocks of an entry, in the clear or sealed."""
