"""`IndexFile`: the bytes of an `index.parquet` that was read, to be read again in parts.

What plans need of an index is decoded when a dataset is opened (`index_load.py`); attributes and
statistics stay encoded until they are asked for (`index_records.py`). So the file is kept: in
memory while it is small, and otherwise as a file without a name in the directory for temporary
files, which takes no memory of the process and goes away with it. Where there is no such directory,
or no space in it, a large file stays in memory as well.

Immutable, so thread-safe; it may be inherited by a fork, since reading moves no shared position. A
pickle of it holds the bytes.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterable, Iterator

import pyarrow.parquet as pq

from dataplane.shards.index_schema import TEXT_COLUMNS
from dataplane.stores.base import Buffer
from dataplane.telemetry import logger

__all__ = ["IndexFile", "open_parquet"]

MAX_IN_MEMORY_BYTES = 1 << 20
"""Largest file that is kept in memory, where there is space for larger ones elsewhere."""

_PIECE_BYTES = 8 << 20


class IndexFile:
    """The bytes of an index.

    Args:
        pieces: pieces of the file, in order.

    Attributes:
        size_bytes: length of the file.
    """

    def __init__(self, pieces: Iterable[Buffer]) -> None:
        self._fd = -1
        self.size_bytes = 0
        self._written_bytes = 0
        kept: list[bytes] = []
        limit_bytes = MAX_IN_MEMORY_BYTES
        for piece in pieces:
            if self._fd < 0 and self.size_bytes + len(piece) > limit_bytes:
                self._fd = _nameless_file()
                kept = kept if self._fd < 0 else self._put_aside(*kept)
                limit_bytes = 1 << 63  # one try
            kept += [bytes(piece)] if self._fd < 0 else self._put_aside(piece)
            self.size_bytes += len(piece)
        self._content = b"".join(kept)

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def __reduce__(self) -> tuple[object, ...]:
        return (IndexFile, (list(self._pieces()),))

    @property
    def is_in_memory(self) -> bool:
        """Whether the bytes are in the memory of the process."""
        return self._fd < 0

    def open(self) -> io.RawIOBase:
        """Return the file for reading, with a position of its own."""
        return _Reader(self)

    def read(self, start: int, stop: int) -> bytes:
        """Return a part of the file, shorter where the file ends.

        Raises:
            OSError: it cannot be read.
        """
        if self._fd < 0:
            return self._content[start:stop]
        parts = []
        while start < stop and (part := os.pread(self._fd, stop - start, start)):
            parts.append(part)
            start += len(part)
        return b"".join(parts)

    def _pieces(self) -> Iterator[bytes]:
        for start in range(0, self.size_bytes, _PIECE_BYTES):
            yield self.read(start, min(start + _PIECE_BYTES, self.size_bytes))

    def _put_aside(self, *pieces: Buffer) -> list[bytes]:
        """Write pieces to the file; return all that there is if that fails, to be kept instead."""
        start = self._written_bytes
        try:
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    view = view[os.write(self._fd, view) :]
                self._written_bytes += len(piece)
        except OSError as err:
            logger.debug("the index is kept in memory: %s", err)
            written = self.read(0, start)
            os.close(self._fd)
            self._fd = -1
            return [written, *map(bytes, pieces)]
        return []


def _nameless_file() -> int:
    """Return the descriptor of a new file that has no name; -1 where there can be none."""
    try:
        with tempfile.TemporaryFile(prefix="dataplane-index-", buffering=0) as file:
            return os.dup(file.fileno())
    except OSError as err:
        logger.debug("the index is kept in memory: %s", err)
        return -1


def open_parquet(file: IndexFile, footer: pq.FileMetaData) -> pq.ParquetFile:
    """Open an index for reading, in threads that call for it: with `use_threads=False`.

    A thread of Arrow would call Python for the bytes. If the interpreter ended meanwhile, it would
    end that thread (before Python 3.14), for which Arrow waits when the process ends: for ever.

    Raises:
        pyarrow.ArrowException: it is no Parquet file.
    """
    return pq.ParquetFile(
        file.open(),
        metadata=footer,
        read_dictionary=TEXT_COLUMNS,
        page_checksum_verification=True,
        pre_buffer=False,
    )


class _Reader(io.RawIOBase):
    """A reader of an index file, at a position of its own."""

    def __init__(self, file: IndexFile) -> None:
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def seekable(self) -> bool:
        """Say that the position can be moved."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._file.size_bytes}
        self._position = max(base[whence] + offset, 0)
        return self._position

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes, as many as asked for unless the file ends."""
        stop = self._file.size_bytes if size < 0 else self._position + size
        data = self._file.read(self._position, min(stop, self._file.size_bytes))
        self._position += len(data)
        return data
