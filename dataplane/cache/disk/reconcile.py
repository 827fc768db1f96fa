"""Reconciliation of usage with what is on the disk after an unclean stop; removal of leftovers.

Killed processes leave unused room allocated, blocks half written, and orphans (files half made); a
power cut leaves a number that is older than the files. So every entry is looked at: what killed
processes left is removed, and what is there is added up. Where there are few entries that is done
before the first read. Else it goes on in the background (`maintenance.background`) while others
fill and evict: reads need none of it, since each block is checked at its first use.

What others allocate and free meanwhile is counted by the usage file (`allocated`, `freed`). An
entry may have been looked at before or after each of it, so the truth lies between the sum less all
that was freed and the sum plus all that was allocated; what is claimed, a download in flight, may
turn out either way. The shared number is moved into these bounds and no further, and the count is
over once they are close. On a quiet directory they are one number. (What a process does between one
of its two steps and the other, claim and reserve, punch and subtract, may be beyond them: what one
request asks for.)

Thread-safe; holds no lock of this process.
"""

from __future__ import annotations

from dataclasses import dataclass

from dataplane import _native
from dataplane.cache.disk import locks
from dataplane.cache.disk.directory import Directory, names_in
from dataplane.cache.disk.entry_files import EntryFiles
from dataplane.cache.disk.entry_identity import disk_bytes, map_disk_bytes, page_rounded
from dataplane.cache.disk.throttle import Throttle

__all__ = ["MANY_ENTRIES", "UsageFlows", "estimated_entries", "reconcile"]

MANY_ENTRIES = 2000
"""Looking at fewer takes a fraction of a second."""

_CLOSE_BYTES = 64 << 20
_BATCH = 200  # entries between two rests


@dataclass(frozen=True, slots=True)
class UsageFlows:
    """Bytes that have been allocated and freed so far.

    Example:
        flows = UsageFlows.of(usage)
        counted = look_at_every_entry()
        flows.correct(usage, counted)
    """

    allocated: int
    freed: int

    @classmethod
    def of(cls, usage: _native.UsageFile) -> UsageFlows:
        """Return those of the moment."""
        return cls(usage.allocated, usage.freed)

    def correct(
        self,
        usage: _native.UsageFile,
        counted: int,
        *,
        in_flight: int = 0,
        removed: int = 0,
        least: int = 0,
    ) -> int:
        """Move the bytes in use to where they may be after a count that began at these flows.

        Args:
            usage: the shared numbers.
            counted: bytes that the entries take, each looked at once since then.
            in_flight: those of them that may be freed again.
            removed: bytes that this process has freed since then, of those not in `counted`.
            least: size that a correction must exceed to be made.

        Returns:
            The distance between the bounds.
        """
        used = usage.used  # before the flows, which then hold all that is in it
        now = UsageFlows.of(usage)
        low = counted - in_flight - (now.freed - self.freed - removed)
        high = counted + (now.allocated - self.allocated)
        drift = used - min(max(used, low), high)
        if abs(drift) > least:
            usage.add_used(-drift)
        return high - low


def estimated_entries(directory: Directory) -> int:
    """Return an estimate of the number of entries, from one of the subfolders."""
    folders = names_in(directory.entries_fd)
    if not folders:
        return 0
    # Names are hashes, so a subfolder is as full as any other.
    with directory.shard(min(folders), create=False) as folder:
        return len(folders) * len(names_in(folder)) // 2


def reconcile(
    directory: Directory,
    files: EntryFiles,
    usage: _native.UsageFile,
    throttle: Throttle | None = None,
) -> bool:
    """Tidy up, count, and correct the bytes in use; they are counted then, if that was possible.

    Args:
        directory: the cache directory.
        files: its entries.
        usage: its shared numbers.
        throttle: share of a core to work at, and the sign to stop.

    Returns:
        Whether the bytes in use are counted: false when it was stopped, or when others did too
        much meanwhile to tell.

    Raises:
        OSError: the directory cannot be read.
    """
    throttle = throttle or Throttle()
    flows = UsageFlows.of(usage)
    files.remove_orphans()
    counted = in_flight = removed = 0
    for number, name in enumerate(files.names()):
        if number % _BATCH == _BATCH - 1:
            throttle.rest()
        if throttle.is_over():
            return False
        taken, claimed, freed = _look(files, name)
        usage.add_used(-freed)
        counted += taken
        in_flight += claimed
        removed += freed
    # An evictor is then not between emptying a block and taking it off.
    with locks.hold(directory.fd, locks.EVICT_BYTE):
        apart = flows.correct(usage, counted, in_flight=in_flight, removed=removed)
    if apart > _CLOSE_BYTES:
        return False
    usage.uncounted = False
    return True


def _look(files: EntryFiles, name: str) -> tuple[int, int, int]:
    """Tidy up an entry.

    Returns:
        What it takes, what of that is being filled, and what was freed by removing it.
    """
    entry = files.inspect(name, 0)
    claimed = page_rounded(entry.claimed_bytes()) if entry is not None else 0
    if entry is None or not (claimed or entry.resident_bytes()):
        map_bytes = map_disk_bytes(entry.blocks) if entry is not None else 0
        del entry
        freed = files.remove_unused(name)
        return (0, 0, freed) if freed else (map_bytes, 0, 0)  # what stays is open
    resident = disk_bytes(entry)
    if entry.data_disk_bytes() > resident:
        entry.punch_empty()
    return resident + claimed + map_disk_bytes(entry.blocks), claimed, 0
