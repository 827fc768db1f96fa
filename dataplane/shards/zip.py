"""Uncompressed zip archives: a writer with aligned data, and a reader of the directory.

`ZipWriter` writes STORED entries one after another into a seekable file: no data descriptors, no
duplicate names, lengths and CRC-32 patched into the local header once the data is there. Data can
be aligned by padding the local header with an extra field (id 0xD935, as Android's zipalign does);
readers skip extra fields that they do not know. Zip64 fields appear only when a length, an offset
or the number of entries needs them.

`read_zip_directory` reads an archive that may be hostile through a `read(start, stop)` callable:
end record, zip64 end record, central directory, then every LOCAL header, since a local extra field
may differ in length from the central one. Everything that other programs could see differently
(entries that overlap, local and central names that differ, duplicate names) is refused.

Not thread-safe; the reader keeps no state. Source: APPNOTE.TXT 6.3.10 (PKWARE).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from dataplane.errors import FormatError
from dataplane.shards.names import check_member_name
from dataplane.stores.base import Buffer

__all__ = ["ZipEntryWriter", "ZipMember", "ZipWriter", "read_zip_directory"]

_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_END = struct.Struct("<4sHHHHIIH")
_END64 = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR64 = struct.Struct("<4sIQI")
_LOCAL_MAGIC, _CENTRAL_MAGIC, _END_MAGIC = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_END64_MAGIC, _LOCATOR64_MAGIC = b"PK\x06\x06", b"PK\x06\x07"
_ZIP64_EXTRA, _ALIGN_EXTRA = 0x0001, 0xD935
_U16, _U32 = 0xFFFF, 0xFFFFFFFF
_UTF8_FLAG = 1 << 11
_VERSION, _VERSION64, _UNIX = 20, 45, 3
_DOS_EPOCH_DATE = (0 << 9) | (1 << 5) | 1
"""1980-01-01: archives of equal content are equal."""
_FILE_MODE = 0o100644 << 16
MAX_ENTRIES = 1 << 20
MAX_DIRECTORY_BYTES = 256 << 20
_MAX_COMMENT_BYTES = _U16


@dataclass(frozen=True, slots=True)
class ZipMember:
    """One file of an archive.

    Attributes:
        name: its path within the archive.
        start: first byte of its data, relative to the archive.
        stop: one past the last byte.
        crc32: CRC-32 of its data as the directory declares it.
    """

    name: str
    start: int
    stop: int
    crc32: int


@dataclass(slots=True)
class _Record:
    name: bytes
    header: int
    size: int = 0
    crc: int = 0

    @property
    def flags(self) -> int:
        return 0 if self.name.isascii() else _UTF8_FLAG


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
    """Writes one archive into a seekable stream, from its current position 0.

    Example:
        >>> import io
        >>> stream = io.BytesIO()
        >>> archive = ZipWriter(stream)
        >>> archive.add("zarr.json", b"{}")
        >>> archive.finish()
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
        """Write a whole entry."""
        with self.entry(name) as entry:
            entry.write(data)

    @contextmanager
    def entry(
        self, name: str, *, alignment: int = 1, max_size_bytes: int = 0
    ) -> Iterator[ZipEntryWriter]:
        """Write an entry piece by piece.

        Args:
            name: its path.
            alignment: its data starts at a multiple of this, relative to the archive.
            max_size_bytes: an upper bound of its size; when it may pass 4 GiB, room for zip64
                lengths is kept.

        Raises:
            FormatError: the name is not a plain path, or is taken.
        """
        check_member_name(name, "zip archive")
        encoded = name.encode()
        if encoded in self._names:
            raise FormatError(f"zip archive: {name!r} is there already")
        zip64 = max_size_bytes >= _U32
        extra = struct.pack("<HHQQ", _ZIP64_EXTRA, 16, 0, 0) if zip64 else b""
        extra += _alignment_extra(
            self._position + _LOCAL.size + len(encoded) + len(extra), alignment
        )
        record = _Record(encoded, self._position)
        data_start = self._position + _LOCAL.size + len(encoded) + len(extra)
        self._stream.write(_local_header(record, extra, zip64=zip64))
        entry = ZipEntryWriter(self._stream, data_start)
        yield entry
        record.size, record.crc = entry.size, entry.crc
        if record.size >= _U32 and not zip64:
            raise FormatError(f"zip archive: {name!r} grew to {record.size} bytes unannounced")
        if zip64:
            extra = struct.pack("<HHQQ", _ZIP64_EXTRA, 16, record.size, record.size) + extra[20:]
        self._stream.seek(record.header)
        self._stream.write(_local_header(record, extra, zip64=zip64))
        self._position = data_start + record.size
        self._stream.seek(self._position)
        self._names.add(encoded)
        self._records.append(record)

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
        if count >= _U16 or size >= _U32 or start >= _U32:
            version = (_UNIX << 8) | _VERSION64
            tail = _END64.pack(
                *(_END64_MAGIC, _END64.size - 12, version, _VERSION64),
                *(0, 0, count, count, size, start),
            ) + _LOCATOR64.pack(_LOCATOR64_MAGIC, 0, end, 1)
        short = min(count, _U16)
        tail += _END.pack(
            *(_END_MAGIC, 0, 0, short, short, min(size, _U32), min(start, _U32), 0),
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
    return struct.pack("<HHH", _ALIGN_EXTRA, 2 + padding, alignment) + bytes(padding)


def _local_header(record: _Record, extra: bytes, *, zip64: bool) -> bytes:
    size = _U32 if zip64 else record.size
    return (
        _LOCAL.pack(
            *(_LOCAL_MAGIC, _VERSION64 if zip64 else _VERSION, record.flags, 0),
            *(0, _DOS_EPOCH_DATE, record.crc, size, size, len(record.name), len(extra)),
        )
        + record.name
        + extra
    )


def _central_record(record: _Record) -> bytes:
    fields = b""
    if record.size >= _U32:
        fields += struct.pack("<QQ", record.size, record.size)
    if record.header >= _U32:
        fields += struct.pack("<Q", record.header)
    extra = struct.pack("<HH", _ZIP64_EXTRA, len(fields)) + fields if fields else b""
    version = _VERSION64 if fields else _VERSION
    size = min(record.size, _U32)
    return (
        _CENTRAL.pack(
            *(_CENTRAL_MAGIC, (_UNIX << 8) | version, version, record.flags, 0),
            *(0, _DOS_EPOCH_DATE, record.crc, size, size, len(record.name), len(extra)),
            *(0, 0, 0, _FILE_MODE, min(record.header, _U32)),
        )
        + record.name
        + extra
    )


# Reading ------------------------------------------------------------------------------------------


def read_zip_directory(
    read: Callable[[int, int], Buffer], size_bytes: int, where: str = "zip archive"
) -> list[ZipMember]:
    """List the files of an uncompressed archive and where their data lies.

    Args:
        read: returns bytes `[start, stop)` of the archive.
        size_bytes: size of the archive.
        where: what to name in messages.

    Returns:
        The files in directory order; folder entries are left out.

    Raises:
        FormatError: damaged, encrypted, compressed, streamed with data descriptors, spanning disks,
            or with names or ranges that cannot be trusted.
    """
    count, directory_start, directory = _read_directory(read, size_bytes, where)
    entries = []
    position = 0
    for _ in range(count):
        entry, position = _parse_central(directory, position, where)
        entries.append(entry)
    if position != len(directory):
        raise FormatError(f"{where}: {len(directory) - position} bytes after the directory")
    names = [entry.name for entry in entries]
    if len(set(names)) != len(names):
        raise FormatError(f"{where}: the same name is there twice")
    members = [_locate(read, entry, directory_start, where) for entry in entries]
    _check_overlaps(
        [(e.header, m.stop, m.name) for e, m in zip(entries, members, strict=True)], where
    )
    return [member for member in members if not member.name.endswith("/")]


@dataclass(frozen=True, slots=True)
class _Central:
    name: bytes
    header: int
    size: int
    crc: int
    flags: int


def _read_directory(
    read: Callable[[int, int], Buffer], size: int, where: str
) -> tuple[int, int, bytes]:
    """Find the end record and read the central directory.

    Returns:
        The number of entries, where the directory starts, and its bytes.
    """
    tail_start = max(0, size - _END.size - _MAX_COMMENT_BYTES - _LOCATOR64.size)
    tail = _exactly(read, max(tail_start, size - 4096), size, where)
    at = _find_end(tail)
    if at is None and tail_start < size - len(tail):
        tail = _exactly(read, tail_start, size, where)
        at = _find_end(tail)
    if at is None:
        raise FormatError(f"{where}: no end-of-directory record; truncated, or not a zip archive")
    _, disk, first_disk, here, count, length, start, _ = _END.unpack_from(tail, at)
    end = size - len(tail) + at
    if disk or first_disk or here != count:
        raise FormatError(f"{where}: archives that span disks are not read")
    if count == _U16 or length == _U32 or start == _U32:
        count, length, start, end = _read_end64(read, tail, at, size, where)
    if count > MAX_ENTRIES or length > MAX_DIRECTORY_BYTES or count * _CENTRAL.size > length:
        raise FormatError(f"{where}: a directory of {count} entries in {length} bytes")
    if start > end or length != end - start:
        raise FormatError(f"{where}: the directory at {start} with {length} bytes is not at {end}")
    return count, start, _exactly(read, start, start + length, where)


def _find_end(tail: bytes) -> int | None:
    """Find the end record whose comment reaches exactly to the end of the file."""
    at = tail.rfind(_END_MAGIC)
    while at >= 0:
        if at + _END.size <= len(tail):
            comment = int.from_bytes(tail[at + 20 : at + 22], "little")
            if at + _END.size + comment == len(tail):
                return at
        at = tail.rfind(_END_MAGIC, 0, at)
    return None


def _read_end64(
    read: Callable[[int, int], Buffer], tail: bytes, at: int, size: int, where: str
) -> tuple[int, int, int, int]:
    at64 = at - _LOCATOR64.size
    if at64 < 0 or tail[at64 : at64 + 4] != _LOCATOR64_MAGIC:
        raise FormatError(f"{where}: the zip64 locator is missing")
    _, disk, start64, disks = _LOCATOR64.unpack_from(tail, at64)
    locator = size - len(tail) + at64
    if disk or disks != 1 or start64 > locator or locator - start64 != _END64.size:
        raise FormatError(f"{where}: the zip64 end record at {start64} is not before its locator")
    record = _exactly(read, start64, start64 + _END64.size, where)
    magic, length64, _, _, disk, first_disk, here, count, length, start = _END64.unpack(record)
    if magic != _END64_MAGIC or length64 != _END64.size - 12:
        raise FormatError(f"{where}: no zip64 end record at {start64}")
    if disk or first_disk or here != count:
        raise FormatError(f"{where}: archives that span disks are not read")
    return count, length, start, start64


def _parse_central(directory: bytes, position: int, where: str) -> tuple[_Central, int]:
    if len(directory) - position < _CENTRAL.size:
        raise FormatError(f"{where}: the directory ends within an entry")
    fields = _CENTRAL.unpack_from(directory, position)
    magic, flags, method = fields[0], fields[3], fields[4]
    crc, packed, size, name_length, extra_length, comment_length = fields[7:13]
    disk, header = fields[13], fields[16]
    if magic != _CENTRAL_MAGIC:
        raise FormatError(f"{where}: no directory entry at byte {position} of the directory")
    name_start = position + _CENTRAL.size
    extra_start = name_start + name_length
    stop = extra_start + extra_length + comment_length
    if stop > len(directory):
        raise FormatError(f"{where}: the directory ends within an entry")
    name = directory[name_start:extra_start]
    shown = f"{where}: {name[:80]!r}"
    if flags & 1 or flags & (1 << 6) or flags & (1 << 13):
        raise FormatError(f"{shown} is encrypted")
    if flags & (1 << 3):
        raise FormatError(f"{shown} was streamed with a data descriptor")
    if method != 0:
        raise FormatError(f"{shown} is compressed (method {method})", hint="repack it with zip -0")
    extra = directory[extra_start : extra_start + extra_length]
    size, packed, header, disk = _zip64_values(extra, (size, packed, header, disk), shown)
    if disk != 0 or size != packed:
        raise FormatError(f"{shown} declares {packed} packed and {size} plain bytes on disk {disk}")
    return _Central(name, header, size, crc, flags), stop


def _zip64_values(
    extra: bytes, values: tuple[int, int, int, int], shown: str
) -> tuple[int, int, int, int]:
    """Replace the values that are all ones by those of the zip64 extra field, in its order."""
    limits = (_U32, _U32, _U32, _U16)
    if not any(value == limit for value, limit in zip(values, limits, strict=True)):
        return values
    field = _extra_field(extra, _ZIP64_EXTRA, shown)
    widths = (8, 8, 8, 4)
    result = []
    position = 0
    for value, limit, width in zip(values, limits, widths, strict=True):
        if value == limit:
            if field is None or len(field) - position < width:
                raise FormatError(f"{shown} lacks its zip64 lengths")
            result.append(int.from_bytes(field[position : position + width], "little"))
            position += width
        else:
            result.append(value)
    return result[0], result[1], result[2], result[3]


def _extra_field(extra: bytes, wanted: int, shown: str) -> bytes | None:
    position = 0
    while len(extra) - position >= 4:
        identifier, length = struct.unpack_from("<HH", extra, position)
        position += 4
        if length > len(extra) - position:
            raise FormatError(f"{shown} has an extra field that runs past its end")
        if identifier == wanted:
            return extra[position : position + length]
        position += length
    return None


def _locate(
    read: Callable[[int, int], Buffer], entry: _Central, directory_start: int, where: str
) -> ZipMember:
    """Read an entry's local header and return where its data lies."""
    shown = f"{where}: {entry.name[:80]!r}"
    fixed = _LOCAL.size + len(entry.name)
    if entry.header > directory_start or fixed > directory_start - entry.header:
        raise FormatError(f"{shown} starts at {entry.header}, within the directory")
    header = _exactly(read, entry.header, entry.header + fixed, where)
    magic, _, flags, method, _, _, crc, packed, size, name_length, extra_length = (
        _LOCAL.unpack_from(header)
    )
    if magic != _LOCAL_MAGIC:
        raise FormatError(f"{shown} has no local header at {entry.header}")
    if name_length != len(entry.name) or header[_LOCAL.size :] != entry.name:
        raise FormatError(f"{shown} has another name in its local header")
    if flags & ~_UTF8_FLAG != entry.flags & ~_UTF8_FLAG or method != 0 or crc != entry.crc:
        raise FormatError(f"{shown}: local header and directory differ")
    if size not in (entry.size, _U32) or packed not in (entry.size, _U32):
        raise FormatError(f"{shown} has {size} bytes in its local header, {entry.size} declared")
    start = entry.header + fixed + extra_length
    if start > directory_start or entry.size > directory_start - start:
        raise FormatError(f"{shown} with {entry.size} bytes at {start} runs into the directory")
    try:
        name = entry.name.decode("utf-8" if entry.flags & _UTF8_FLAG else "cp437")
    except UnicodeDecodeError as err:
        raise FormatError(f"{shown} is not a UTF-8 name") from err
    check_member_name(name.removesuffix("/"), where)
    return ZipMember(name, start, start + entry.size, entry.crc)


def _check_overlaps(spans: list[tuple[int, int, str]], where: str) -> None:
    spans.sort()
    for (_, stop, name), (start, _, following) in zip(spans, spans[1:], strict=False):
        if start < stop:
            raise FormatError(f"{where}: {name!r} and {following!r} overlap")


def _exactly(read: Callable[[int, int], Buffer], start: int, stop: int, where: str) -> bytes:
    if start < 0 or stop < start:
        raise FormatError(f"{where}: too short for a zip archive")
    data = bytes(read(start, stop))
    if len(data) != stop - start:
        raise FormatError(
            f"{where}: wanted {stop - start} bytes at {start}, the file gave {len(data)}"
        )
    return data
