"""Identity of an entry: its name, what its map says it is about, and its size on the disk.

Pure functions and a frozen class; the byte-exact note is docs/cache-format.md.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from dataplane import _native

__all__ = [
    "MAX_BLOCKS",
    "EntryIdentity",
    "EntrySpec",
    "Scope",
    "disk_bytes",
    "map_disk_bytes",
    "page_rounded",
]

MAX_BLOCKS = 1 << 24
"""64 TiB at 4 MiB; kMaxBlocks of native/core/cache/blockmap.hpp."""

_MAP_BYTES_PER_BLOCK = 32
_MAP_HEADER_BYTES = 4096
_MAX_IDENTITY_BYTES = 3968
_PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class EntrySpec:
    """Specification of an entry: the object version and the size of blocks, which identify it.

    Attributes:
        store: the store's identity.
        key: the object's full key in that store.
        etag: the object's version tag.
        size_bytes: the object's length.
        block_bytes: the length of a block.
        key_identity: identity of the key that blocks are sealed with; empty in the clear.
        sealed_bytes: bytes by which a block is longer on the disk.
    """

    store: str
    key: str
    etag: str
    size_bytes: int
    block_bytes: int
    key_identity: str = ""
    sealed_bytes: int = 0

    @property
    def blocks(self) -> int:
        """Number of blocks of the object."""
        return -(-self.size_bytes // self.block_bytes)

    @property
    def stored_block_bytes(self) -> int:
        """The length of a block on the disk."""
        return self.block_bytes + self.sealed_bytes

    @property
    def stored_bytes(self) -> int:
        """The length of the whole object on the disk."""
        return self.size_bytes + self.blocks * self.sealed_bytes

    def digest(self) -> bytes:
        """Hash every field, each preceded by its length, to 20 bytes; the key if there is one."""
        state = hashlib.blake2b(digest_size=20, person=b"dataplane-cache1")
        fields = (self.store, self.key, self.etag, str(self.size_bytes), str(self.block_bytes))
        for text in (*fields, *([self.key_identity] if self.key_identity else [])):
            field = text.encode("utf-8", "surrogatepass")
            state.update(len(field).to_bytes(8, "little"))
            state.update(field)
        return state.digest()

    def identity(self) -> bytes:
        """Describe the entry in JSON for people and tools; a long key is cut."""
        fields: dict[str, object] = {
            "store": self.store[:512],
            "key": self.key,
            "etag": self.etag[:256],
            "size_bytes": self.size_bytes,
        }
        text = json.dumps(fields).encode()
        if len(text) > _MAX_IDENTITY_BYTES:
            # ensure_ascii writes at most 12 bytes per character, so 128 characters always fit.
            fields |= {"store": self.store[:64], "key": self.key[:128], "etag": self.etag[:64]}
            fields["cut"] = True
            text = json.dumps(fields).encode()
        return text


@dataclass(frozen=True, slots=True)
class EntryIdentity:
    """Identity of an entry as its map has it, for people and for choosing entries.

    Attributes:
        store: the store's identity.
        key: the object's full key.
        etag: the object's version tag.
        cut: texts that were too long: only their beginnings are here.
    """

    store: str
    key: str
    etag: str
    cut: bool = False

    @classmethod
    def parse(cls, text: bytes) -> EntryIdentity:
        """Read what `EntrySpec.identity` wrote; anything else gives empty texts."""
        try:
            fields = json.loads(text)
            return cls(
                str(fields["store"]),
                str(fields["key"]),
                str(fields["etag"]),
                bool(fields.get("cut", False)),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return cls("", "", "")


@dataclass(frozen=True, slots=True)
class Scope:
    """A part of a store: one object and all below it, or every key that begins in some way.

    Attributes:
        store: the store's identity.
        key: a full key; empty for the whole store.
        is_prefix: whether `key` is the beginning of keys, also within a name.
    """

    store: str
    key: str
    is_prefix: bool = False

    def covers(self, identity: EntryIdentity) -> bool:
        """Whether an entry lies in this part.

        An entry with a cut identity counts when what is left of it fits: nothing that may be meant
        is passed over.
        """
        if identity.store != self.store and not (
            identity.cut and identity.store and self.store.startswith(identity.store)
        ):
            return False
        if not self.key:
            return True
        if identity.key.startswith(self.key):
            rest = identity.key[len(self.key) :]
            return self.is_prefix or not rest or rest.startswith("/")
        return identity.cut and self.key.startswith(identity.key)


def page_rounded(length: int) -> int:
    """Round up to what the file system allocates."""
    return -(-length // _PAGE_BYTES) * _PAGE_BYTES


def map_disk_bytes(blocks: int) -> int:
    """Return the space that the map of an entry of `blocks` blocks takes on the disk."""
    return page_rounded(_MAP_HEADER_BYTES + blocks * _MAP_BYTES_PER_BLOCK)


def disk_bytes(entry: _native.BlockMap) -> int:
    """Return the space that the blocks of an entry take on the disk."""
    resident = entry.resident_bytes()
    # Only the last block can end within a page, so rounding the sum rounds that block.
    return page_rounded(resident)
