"""Verification of every block of a cache directory against its checksum, while others use it.

For each block that is there, its record is read from the map, its bytes from the disk (the page
cache is told to drop them first, since it is the disk that is in doubt), and the record again:
another generation means that the block was evicted or filled meanwhile, and it is passed over. A
block that fails is claimed, so that no process fills or evicts it, and checked once more; if it
fails again it is emptied and its space is given back. The next reader downloads it. A last access
time is not touched, so that checking does not change what is evicted next.

Entries whose files are not a whole pair are removed unless a process has them open.

Groups of blocks are shared out to threads named dp-verify-N. The bytes are read and summed without
the GIL.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from dataplane import _native
from dataplane.cache.disk import locks
from dataplane.cache.disk.entry_identity import EntryIdentity, Scope, page_rounded
from dataplane.cache.disk.session import Session
from dataplane.daemon_thread import DaemonThread

__all__ = ["BadBlock", "VerifyReport", "verify"]

# Source: docs/cache-format.md, "NAME.map".
_HEADER_BYTES = 4096
_RECORD = struct.Struct("<QQIIQ")  # word, last access time, CRC-32C, zero, verify tag
_READY = 1
_LAST_TICK = (1 << 64) - 1
_RUN_BLOCKS = 32  # given to a thread at once: 128 MiB at 4 MiB, below a second
_LEASED_S = 1.0
_LOOK_AGAIN_S = 0.005
_MAX_LISTED = 1000  # bad blocks that a report names
_JOIN_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class BadBlock:
    """A block that was bad, and is dropped unless somebody decodes from it all the time.

    Attributes:
        store: identity of its object's store.
        key: the object's full key.
        start: the block's first byte in the object; in the data file, when blocks are sealed.
        stop: one past its last.
        reason: `checksum`, `short` or the disk's error.
    """

    store: str
    key: str
    start: int
    stop: int
    reason: str


@dataclass(slots=True)
class VerifyReport:
    """Report of a check so far.

    Attributes:
        entries: number of whole entries.
        blocks: number of blocks that were checked.
        checked_bytes: their bytes.
        corrupt_blocks: number of those whose bytes did not match.
        unreadable_blocks: number of those that the disk could not read.
        dropped_bytes: bytes of both.
        damaged_entries: number of entries whose files were not a whole pair.
        bad: blocks that were dropped, the first of them.
    """

    entries: int = 0
    blocks: int = 0
    checked_bytes: int = 0
    corrupt_blocks: int = 0
    unreadable_blocks: int = 0
    dropped_bytes: int = 0
    damaged_entries: int = 0
    bad: list[BadBlock] = field(default_factory=list)


def verify(
    session: Session,
    *,
    scope: Scope | None = None,
    threads: int = 4,
    progress: Callable[[VerifyReport], None] = lambda _: None,
) -> VerifyReport:
    """Check the blocks of all entries, or of a part of a store, and drop the bad ones.

    Args:
        session: session in the directory.
        scope: part of a store to restrict it to.
        threads: number of blocks that are checked at once.
        progress: function called a few times a second with the report so far.

    Raises:
        OSError: the directory cannot be read.
    """
    check = _Check(session, scope)
    workers = [DaemonThread(check.work, name=f"dp-verify-{i}") for i in range(max(1, threads))]
    for worker in workers:
        worker.start()
    try:
        for worker in workers:
            while worker.is_alive():
                worker.join(_JOIN_POLL_S)
                progress(check.report)
    finally:
        check.stop()
        for worker in workers:
            worker.join()
    if check.error is not None:
        raise check.error
    progress(check.report)
    return check.report


class _Check:
    """The groups of blocks still to check, and the report; shared by the threads."""

    def __init__(self, session: Session, scope: Scope | None) -> None:
        self._session = session
        self._scope = scope
        self._runs_lock = threading.Lock()
        self._report_lock = threading.Lock()
        self._runs = self._all_runs()
        self.report = VerifyReport()
        self._stopped = threading.Event()
        self.error: BaseException | None = None

    def work(self) -> None:
        buffer = bytearray()
        try:
            while not self._stopped.is_set():
                # The listing is done under the lock: it is short beside the reading.
                with self._runs_lock:
                    run = next(self._runs, None)
                if run is None:
                    return
                opened, blocks = run
                if len(buffer) < opened.block_bytes:
                    buffer = bytearray(opened.block_bytes)
                for block in blocks:
                    if self._stopped.is_set():
                        return
                    self._check_block(opened, block, memoryview(buffer))
                del opened, run
        except BaseException as err:  # the boundary of a thread; raised by `verify`
            self.error = err
            self.stop()

    def stop(self) -> None:
        self._stopped.set()

    def _all_runs(self) -> Iterator[tuple[_Opened, list[int]]]:
        for name in self._session.files.names():
            entry = self._session.files.inspect(name, self._session.verify_tag)
            if entry is None:
                self._remove_damaged(name)
                continue
            identity = EntryIdentity.parse(entry.identity)
            if self._scope is not None and not self._scope.covers(identity):
                continue
            blocks = np.frombuffer(entry.ready_blocks(), np.uint64)[::2].tolist()
            with self._report_lock:
                self.report.entries += 1
            try:
                opened = _Opened(self._session, name, entry, identity)
            except FileNotFoundError:
                continue  # evicted and removed since
            for first in range(0, len(blocks), _RUN_BLOCKS):
                yield opened, blocks[first : first + _RUN_BLOCKS]

    def _remove_damaged(self, name: str) -> None:
        if not self._session.files.exists(name):
            return
        freed = self._session.files.remove_unused(name)
        self._session.usage.add_used(-freed)
        with self._report_lock:
            self.report.damaged_entries += 1

    def _check_block(self, opened: _Opened, block: int, buffer: memoryview) -> None:
        length, reason = opened.check(block, buffer)
        dropped = 0
        if reason:
            reason, dropped = self._drop(opened, block, buffer)
        with self._report_lock:
            report = self.report
            if length:
                report.blocks += 1
                report.checked_bytes += length
            if reason:
                if reason == "checksum":
                    report.corrupt_blocks += 1
                else:
                    report.unreadable_blocks += 1
                report.dropped_bytes += dropped
                if len(report.bad) < _MAX_LISTED:
                    start = block * opened.block_bytes
                    identity = opened.identity
                    report.bad.append(
                        BadBlock(identity.store, identity.key, start, start + length, reason)
                    )

    def _drop(self, opened: _Opened, block: int, buffer: memoryview) -> tuple[str, int]:
        """Check a block again under its claim and empty it; returns the reason and its bytes.

        One that decoders lease all the time is bad all the same, and stays: they check what they
        decode.
        """
        until_s = time.monotonic() + _LEASED_S
        while not opened.entry.try_claim(block):
            if not opened.entry.is_leased(block):
                return "", 0  # being evicted or filled
            if time.monotonic() > until_s:
                return opened.check(block, buffer)[1], 0
            time.sleep(_LOOK_AGAIN_S)
        try:
            _, reason = opened.check(block, buffer)
            if not reason:
                return "", 0
            freed = opened.entry.evict(block, _LAST_TICK)
        finally:
            opened.entry.release(block)
        self._session.usage.add_used(-page_rounded(freed))
        return reason, freed


class _Opened:
    """An entry with descriptors of its own to read records and bytes. Closed when unused."""

    def __init__(
        self, session: Session, name: str, entry: _native.BlockMap, identity: EntryIdentity
    ) -> None:
        self.entry = entry
        self.identity = identity
        self.block_bytes = entry.block_bytes
        self._descriptors: list[int] = []
        with session.directory.shard(name, create=False) as folder:
            for kind in ("map", "data"):
                fd = locks.open_descriptor(f"{name}.{kind}", os.O_RDONLY, dir_fd=folder)
                self._descriptors.append(fd)

    def __del__(self) -> None:
        for fd in self._descriptors:
            locks.close_descriptor(fd)

    def check(self, block: int, buffer: memoryview) -> tuple[int, str]:
        """Check a block.

        Returns:
            The bytes checked (0 when the block is not there or moved), and what is wrong, if
            anything.
        """
        word, crc = self._record(block)
        if word & 0xFF != _READY:
            return 0, ""
        start = block * self.block_bytes
        length = min(self.block_bytes, self.entry.size_bytes - start)
        data_fd = self._descriptors[1]
        reason = ""
        try:
            with contextlib.suppress(OSError):  # advice
                os.posix_fadvise(data_fd, start, length, os.POSIX_FADV_DONTNEED)
            got = _read(data_fd, start, buffer[:length])
            if got < length:
                reason = "short"
            elif _native.crc32c(buffer[:length]) != crc:
                reason = "checksum"
        except OSError as err:
            reason = os.strerror(err.errno or 0)
        if self._record(block)[0] != word:
            return 0, ""
        return length, reason

    def _record(self, block: int) -> tuple[int, int]:
        """Return the word and the CRC of a block's record."""
        offset = _HEADER_BYTES + block * _RECORD.size
        record = os.pread(self._descriptors[0], _RECORD.size, offset)
        if len(record) < _RECORD.size:
            return 0, 0
        word, _, crc, _, _ = _RECORD.unpack(record)
        return word, crc


def _read(fd: int, start: int, out: memoryview) -> int:
    done = 0
    while done < len(out):
        count = os.preadv(fd, [out[done:]], start + done)
        if not count:
            break
        done += count
    return done
