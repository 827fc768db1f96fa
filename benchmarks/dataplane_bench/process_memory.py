"""Memory of processes, read from /proc: resident bytes of one and of all its descendants.

Resident memory counts pages of mapped files too, and pages that forked processes share once for
each of them: it is what tools show, and an upper bound of what the processes take from the machine.
Source: proc(5), second field of /proc/PID/statm, in pages.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["children_of", "tree_rss_bytes"]

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def children_of(pid: int) -> list[int]:
    """Return the children of a process that are there now; none of a process that has ended."""
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                found += map(int, (task / "children").read_text(encoding="ascii").split())
    return found


def tree_rss_bytes(pid: int) -> int:
    """Return the resident bytes of a process and its descendants, as they are now.

    Example:
        >>> tree_rss_bytes(os.getpid()) > 1 << 20
        True
    """
    total = 0
    pending = [pid]
    while pending:
        one = pending.pop()
        with suppress(OSError):  # it may end while we look
            text = Path(f"/proc/{one}/statm").read_text(encoding="ascii")
            total += int(text.split()[1]) * _PAGE_BYTES
            pending += children_of(one)
    return total
