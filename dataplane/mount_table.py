"""Mounts of this host: what /proc says of them, and what answers behind those of dataplane.

A mount whose daemon hangs blocks every process that looks at it, for ever, so no plain system call
touches a mount point here. What is mounted is read from /proc/self/mountinfo, which asks no daemon;
`probe` looks from a child process with a time limit. Making and removing mounts is the work of
`dataplane_fuse`. Functions without state.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dataplane.child_process import output_of

__all__ = [
    "FILESYSTEM_TYPE",
    "Mounted",
    "Probe",
    "filesystem_of",
    "find_mount",
    "mounts",
    "probe",
]

FILESYSTEM_TYPE = "fuse.dataplane"
_MOUNTINFO = Path("/proc/self/mountinfo")
_OCTAL = re.compile(r"\\([0-7]{3})")
# The child prints one JSON-free line: errno, then the daemon's pid when it was asked for.
_PROBE_PROGRAM = """
import os, sys
try:
    os.statvfs(sys.argv[1])
    pid = os.getxattr(sys.argv[1], "user.dataplane.pid").decode()
except OSError as err:
    print(err.errno)
else:
    print(0, pid)
"""


@dataclass(frozen=True, slots=True)
class Mounted:
    """A line of mountinfo.

    Attributes:
        path: the mount point.
        filesystem_type: `fuse.dataplane` for a mount of ours.
        source: source that was mounted.
    """

    path: Path
    filesystem_type: str
    source: str

    @property
    def is_ours(self) -> bool:
        """Whether dataplane mounted it."""
        return self.filesystem_type == FILESYSTEM_TYPE


@dataclass(frozen=True, slots=True)
class Probe:
    """Answer of a mount.

    Attributes:
        error: 0, an errno, or ETIMEDOUT when it did not answer in time.
        pid: the daemon behind it, where it said so.
    """

    error: int
    pid: int | None = None

    @property
    def is_dead(self) -> bool:
        """Whether the mount is there but its daemon is not."""
        return self.error in {errno.ENOTCONN, errno.ECONNABORTED}


def mounts(mountinfo: str | None = None) -> Iterator[Mounted]:
    """Yield what is mounted, in the order of the mounts: of two on one path, the later is on top.

    Args:
        mountinfo: text of /proc/self/mountinfo; by default it is read.

    Raises:
        OSError: there is no /proc.

    Source: proc(5), /proc/pid/mountinfo; spaces and backslashes are written in octal.
    """
    if mountinfo is None:
        mountinfo = os.fsdecode(_MOUNTINFO.read_bytes())
    for line in mountinfo.split("\n"):
        before, separator, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if separator and len(fields) > 4 and len(kind) > 1:
            yield Mounted(Path(_plain(fields[4])), kind[0], _plain(kind[1]))


def find_mount(path: Path, mountinfo: str | None = None) -> Mounted | None:
    """Return what is mounted on `path` (the topmost mount there), or None."""
    found = None
    for mounted in mounts(mountinfo):
        if mounted.path == path:
            found = mounted
    return found


def filesystem_of(path: Path, mountinfo: str | None = None) -> Mounted | None:
    """Return the mount that a path without links lies in, or None where the table has none."""
    found: Mounted | None = None
    for mounted in mounts(mountinfo):
        is_around = path.is_relative_to(mounted.path)
        if is_around and (found is None or len(mounted.path.parts) >= len(found.path.parts)):
            found = mounted
    return found


def probe(path: Path, timeout_s: float = 10.0) -> Probe:
    """Look at a mount from another process and say what it answers."""
    output = output_of([sys.executable, "-I", "-S", "-c", _PROBE_PROGRAM, str(path)], timeout_s)
    if output is None:
        return Probe(errno.ETIMEDOUT)
    words = output.text.split()
    if not words or not all(word.lstrip("-").isdigit() for word in words):
        return Probe(errno.EIO)
    return Probe(int(words[0]), int(words[1]) if len(words) > 1 else None)


def _plain(field: str) -> str:
    # The kernel writes only space, tab, newline, # and backslash in octal.
    return _OCTAL.sub(lambda match: chr(int(match.group(1), 8)), field)
