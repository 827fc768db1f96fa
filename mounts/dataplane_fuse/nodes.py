"""Nodes of the mount: files, directories and their attributes. Pure values, no I/O.

A file is always a byte range of one object version: a whole object, or part of a shard. Paths are
relative to the mount point, without a leading slash; the root is "". Inode numbers are a hash of
the path, so that they are the same after a remount and on every machine.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NewType, Protocol

from dataplane.stores.base import ObjectInfo

__all__ = [
    "BLOCK_BYTES",
    "ROOT_INODE",
    "Attributes",
    "Directory",
    "FileNode",
    "Inode",
    "Node",
    "attributes_of",
    "inode_of",
    "join",
]

Inode = NewType("Inode", int)

ROOT_INODE = Inode(1)
"""The kernel's number for the root of a FUSE mount. Source: linux/fuse.h, FUSE_ROOT_ID."""

BLOCK_BYTES = 1 << 20
"""`st_blksize`: the size in which programs are advised to read; the largest FUSE request."""

_STAT_BLOCK_BYTES = 512
_FILE_MODE = stat.S_IFREG | 0o444
_DIRECTORY_MODE = stat.S_IFDIR | 0o555
_RESERVED_INODES = 2


@dataclass(frozen=True, slots=True)
class Attributes:
    """Attributes of a node, for `stat`, less the owner: the mounter is not known here.

    Attributes:
        inode: a hash of the path.
        mode: type and permissions: 0444 files, 0555 directories.
        size_bytes: length of a file; 0 for a directory.
        mtime_ns: time of the last write of the object; for a directory, of the mount.
        nlink: 1 for a file, 2 for a directory.
    """

    inode: Inode
    mode: int
    size_bytes: int
    mtime_ns: int
    nlink: int

    @property
    def is_directory(self) -> bool:
        """Whether the node is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def blocks(self) -> int:
        """Length in units of 512 bytes, rounded up, as `stat` counts it."""
        return -(-self.size_bytes // _STAT_BLOCK_BYTES)


@dataclass(frozen=True, slots=True)
class FileNode:
    """A file: bytes `[start, stop)` of one object version.

    Attributes:
        path: path in the mount.
        info: object version that holds its bytes.
        start: first byte within the object.
        stop: one past the last.
    """

    path: str
    info: ObjectInfo
    start: int
    stop: int

    @property
    def size_bytes(self) -> int:
        """The file's length."""
        return self.stop - self.start

    @property
    def is_whole_object(self) -> bool:
        """Whether the file is an object as it is, not a part of one."""
        return self.start == 0 and self.stop == self.info.size_bytes


class Directory(Protocol):
    """A directory as it was when it was listed."""

    @property
    def path(self) -> str:
        """Path in the mount."""
        ...

    def find(self, name: str) -> Node | None:
        """Return the child called `name`, or None."""
        ...

    def children(self) -> Iterator[tuple[str, Node | None]]:
        """Yield the name of every child, with its node when it is a file, else None."""
        ...


Node = FileNode | Directory


def inode_of(path: str) -> Inode:
    """Return the inode number of a path: a 64-bit hash of it, never 0 or the root's.

    With 64 bits, a hundred million paths collide with a chance of 0.03 %; a collision would only
    make two files look like hard links of each other to `tar` and `du`.
    """
    if not path:
        return ROOT_INODE
    digest = hashlib.blake2b(path.encode(errors="surrogatepass"), digest_size=8).digest()
    number = int.from_bytes(digest, "little")
    return Inode(number if number >= _RESERVED_INODES else number + _RESERVED_INODES)


def attributes_of(path: str, node: Node | None, mounted_ns: int) -> Attributes:
    """Return what `stat` says of `node`; None stands for a directory whose content is not known."""
    if isinstance(node, FileNode):
        modified = node.info.modified_s
        mtime_ns = mounted_ns if modified is None else int(modified * 1e9)
        return Attributes(inode_of(path), _FILE_MODE, node.size_bytes, mtime_ns, 1)
    return Attributes(inode_of(path), _DIRECTORY_MODE, 0, mounted_ns, 2)


def join(directory: str, name: str) -> str:
    """Return the path of `name` in `directory`."""
    return f"{directory}/{name}" if directory else name
