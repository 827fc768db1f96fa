"""Writer of uncompressed zip archives with aligned data.

`ZipWriter` writes STORED entries one after another into a seekable file: no data descriptors, no
duplicate names, lengths and CRC-32 patched into the local header once the data is there. Data can
be aligned by padding the local header with an extra field (id 0xD935, as Android's zipalign does);
readers skip extra fields that they do not know. Zip64 fields appear only when a length, an offset
or the number of entries needs them.

Not thread-safe. Source: APPNOTE.TXT 6.3.10 (PKWARE).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from dataplane.errors import FormatError
from dataplane.shards.names import check_member_name
from dataplane.shards.zip_format import (
    ALIGN_EXTRA,
    CENTRAL,
    CENTRAL_MAGIC,
    DOS_EPOCH_DATE,
    END,
    END64,
    END64_MAGIC,
    END_MAGIC,
    FILE_MODE,
    LOCAL,
    LOCAL_MAGIC,
    LOCATOR64,
    LOCATOR64_MAGIC,
    U16,
    U32,
    UNIX,
    UTF8_FLAG,
    VERSION,
    VERSION64,
    ZIP64_EXTRA,
)
from dataplane.stores.base import Buffer

__all__ = ["ZipEntryWriter", "ZipWriter"]


@dataclass(slots=True)
class _Record:
    name: bytes
    header: int
    size: int = 0
    crc: int = 0

    @property
    def flags(self) -> int:
        return 0 if self.name.isascii() else UTF8_FLAG


class ZipEntryWriter:
    """The data of one entry while it is written; made by `ZipWriter.entry`."""

    __slots__ = ("_crc", "_size", "_stream", "start")

    def __init__(self, stream: BinaryIO, start: int) -> None:
        self._stream = stream
        self._crc = 0
        self._size = 0
        self.start = start

    def write(self, data: Buffer) -> None:
        """Append bytes to the entry."""
        self._stream.write(data)
        self._crc = zlib.crc32(data, self._crc)
        self._size += len(data)

    def align(self, alignment: int) -> None:
        """Append zeros until the next byte is at a multiple of `alignment` of the archive."""
        self.write(bytes(-(self.start + self._size) % alignment))

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._size

    @property
    def crc(self) -> int:
        """CRC-32 of the bytes written so far."""
        return self._crc


class ZipWriter:
    """A writer of one archive into a seekable stream, from its current position 0.

    Example:
        >>> import io
        >>> from dataplane.shards.zip_directory import read_zip_directory
        >>> stream = io.BytesIO()
        >>> archive = ZipWriter(stream)
        >>> archive.add("zarr.json", b"{}")
        >>> archive.finish() == len(stream.getvalue())
        True
        >>> [member.name for member in read_zip_directory(
        ...     lambda start, stop: stream.getvalue()[start:stop], len(stream.getvalue()))]
        ['zarr.json']
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._position = 0
        self._records: list[_Record] = []
        self._names: set[bytes] = set()

    def add(self, name: str, data: Buffer) -> None:
        """Write a whole entry.

        Raises:
            FormatError: the name is not a plain path, or is taken; or 4 GiB and more.
        """
        encoded = self._new_name(name)
        if len(data) >= U32:
            raise FormatError(f"zip archive: {name!r} is too large to be written at once")
        record = _Record(encoded, self._position, len(data), zlib.crc32(data))
        header = _local_header(record, b"", zip64=False)
        self._stream.write(header)
        self._stream.write(data)
        self._position += len(header) + len(data)
        self._names.add(encoded)
        self._records.append(record)

    @contextmanager
    def entry(
        self, name: str, *, alignment: int = 1, max_size_bytes: int = 0
    ) -> Iterator[ZipEntryWriter]:
        """Write an entry piece by piece.

        Args:
            name: path of the entry.
            alignment: alignment of its data, relative to the archive.
            max_size_bytes: upper bound of its size; when it may pass 4 GiB, space for zip64 lengths
                is kept.

        Raises:
            FormatError: the name is not a plain path, or is taken.
        """
        encoded = self._new_name(name)
        zip64 = max_size_bytes >= U32
        extra = struct.pack("<HHQQ", ZIP64_EXTRA, 16, 0, 0) if zip64 else b""
        extra += _alignment_extra(
            self._position + LOCAL.size + len(encoded) + len(extra), alignment
        )
        record = _Record(encoded, self._position)
        data_start = self._position + LOCAL.size + len(encoded) + len(extra)
        self._stream.write(_local_header(record, extra, zip64=zip64))
        entry = ZipEntryWriter(self._stream, data_start)
        yield entry
        record.size, record.crc = entry.size, entry.crc
        if record.size >= U32 and not zip64:
            raise FormatError(f"zip archive: {name!r} grew to {record.size} bytes unannounced")
        if zip64:
            extra = struct.pack("<HHQQ", ZIP64_EXTRA, 16, record.size, record.size) + extra[20:]
        self._stream.seek(record.header)
        self._stream.write(_local_header(record, extra, zip64=zip64))
        self._position = data_start + record.size
        self._stream.seek(self._position)
        self._names.add(encoded)
        self._records.append(record)

    def _new_name(self, name: str) -> bytes:
        check_member_name(name, "zip archive")
        encoded = name.encode()
        if encoded in self._names:
            raise FormatError(f"zip archive: {name!r} is there already")
        return encoded

    def finish(self) -> int:
        """Write the directory.

        Returns:
            The size of the archive.
        """
        start = self._position
        directory = b"".join(_central_record(record) for record in self._records)
        count, size = len(self._records), len(directory)
        end = start + size
        tail = b""
        if count >= U16 or size >= U32 or start >= U32:
            version = (UNIX << 8) | VERSION64
            tail = END64.pack(
                *(END64_MAGIC, END64.size - 12, version, VERSION64),
                *(0, 0, count, count, size, start),
            ) + LOCATOR64.pack(LOCATOR64_MAGIC, 0, end, 1)
        short = min(count, U16)
        tail += END.pack(
            *(END_MAGIC, 0, 0, short, short, min(size, U32), min(start, U32), 0),
        )
        self._stream.write(directory + tail)
        self._position = end + len(tail)
        return self._position


def _alignment_extra(position: int, alignment: int) -> bytes:
    """Make the extra field that moves the data from `position` to an aligned place."""
    if position % alignment == 0:
        return b""
    # The field itself takes six bytes: id, length, and the alignment that it records.
    padding = -(position + 6) % alignment
    return struct.pack("<HHH", ALIGN_EXTRA, 2 + padding, alignment) + bytes(padding)


def _local_header(record: _Record, extra: bytes, *, zip64: bool) -> bytes:
    size = U32 if zip64 else record.size
    return (
        LOCAL.pack(
            *(LOCAL_MAGIC, VERSION64 if zip64 else VERSION, record.flags, 0),
            *(0, DOS_EPOCH_DATE, record.crc, size, size, len(record.name), len(extra)),
        )
        + record.name
        + extra
    )


def _central_record(record: _Record) -> bytes:
    fields = b""
    if record.size >= U32:
        fields += struct.pack("<QQ", record.size, record.size)
    if record.header >= U32:
        fields += struct.pack("<Q", record.header)
    extra = struct.pack("<HH", ZIP64_EXTRA, len(fields)) + fields if fields else b""
    version = VERSION64 if fields else VERSION
    size = min(record.size, U32)
    return (
        CENTRAL.pack(
            *(CENTRAL_MAGIC, (UNIX << 8) | version, version, record.flags, 0),
            *(0, DOS_EPOCH_DATE, record.crc, size, size, len(record.name), len(extra)),
            *(0, 0, 0, FILE_MODE, min(record.header, U32)),
        )
        + record.name
        + extra
    )
