"""Reader of the directory of an uncompressed zip archive, by ranged reads.

`read_zip_directory` reads an archive that may be hostile through a `read(start, stop)` callable:
end record, zip64 end record, central directory, then every LOCAL header, since a local extra field
may differ in length from the central one. Everything that other programs could see differently
(entries that overlap, local and central names that differ, duplicate names) is refused.

Pure functions. Source: APPNOTE.TXT 6.3.10 (PKWARE).
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from dataclasses import dataclass

from dataplane.errors import FormatError
from dataplane.shards.names import check_member_name
from dataplane.shards.zip_format import (
    CENTRAL,
    CENTRAL_MAGIC,
    END,
    END64,
    END64_MAGIC,
    END_MAGIC,
    LOCAL,
    LOCAL_MAGIC,
    LOCATOR64,
    LOCATOR64_MAGIC,
    MAX_COMMENT_BYTES,
    MAX_DIRECTORY_BYTES,
    MAX_ENTRIES,
    U16,
    U32,
    UTF8_FLAG,
    ZIP64_EXTRA,
)
from dataplane.stores.base import Buffer

__all__ = ["ZipMember", "read_zip_directory"]


@dataclass(frozen=True, slots=True)
class ZipMember:
    """One file of an archive.

    Attributes:
        name: path within the archive.
        start: first byte of its data, relative to the archive.
        stop: one past the last byte.
        crc32: CRC-32 of its data as the directory declares it.
    """

    name: str
    start: int
    stop: int
    crc32: int


def read_zip_directory(
    read: Callable[[int, int], Buffer], size_bytes: int, where: str = "zip archive"
) -> list[ZipMember]:
    """List the files of an uncompressed archive and the places of their data.

    Args:
        read: function that returns bytes `[start, stop)` of the archive.
        size_bytes: size of the archive.
        where: place to name in messages.

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
        The number of entries, the start of the directory, and its bytes.
    """
    tail_start = max(0, size - END.size - MAX_COMMENT_BYTES - LOCATOR64.size)
    tail = _exactly(read, max(tail_start, size - 4096), size, where)
    at = _find_end(tail)
    if at is None and tail_start < size - len(tail):
        tail = _exactly(read, tail_start, size, where)
        at = _find_end(tail)
    if at is None:
        raise FormatError(f"{where}: no end-of-directory record; truncated, or not a zip archive")
    _, disk, first_disk, here, count, length, start, _ = END.unpack_from(tail, at)
    end = size - len(tail) + at
    if disk or first_disk or here != count:
        raise FormatError(f"{where}: archives that span disks are not read")
    if count == U16 or U32 in (length, start):
        count, length, start, end = _read_end64(read, tail, at, size, where)
    if count > MAX_ENTRIES or length > MAX_DIRECTORY_BYTES or count * CENTRAL.size > length:
        raise FormatError(f"{where}: a directory of {count} entries in {length} bytes")
    if start > end or length != end - start:
        raise FormatError(f"{where}: the directory at {start} with {length} bytes is not at {end}")
    return count, start, _exactly(read, start, start + length, where)


def _find_end(tail: bytes) -> int | None:
    """Find the end record whose comment reaches exactly to the end of the file."""
    at = tail.rfind(END_MAGIC)
    while at >= 0:
        if at + END.size <= len(tail):
            comment = int.from_bytes(tail[at + 20 : at + 22], "little")
            if at + END.size + comment == len(tail):
                return at
        at = tail.rfind(END_MAGIC, 0, at)
    return None


def _read_end64(
    read: Callable[[int, int], Buffer], tail: bytes, at: int, size: int, where: str
) -> tuple[int, int, int, int]:
    at64 = at - LOCATOR64.size
    if at64 < 0 or tail[at64 : at64 + 4] != LOCATOR64_MAGIC:
        raise FormatError(f"{where}: the zip64 locator is missing")
    _, disk, start64, disks = LOCATOR64.unpack_from(tail, at64)
    locator = size - len(tail) + at64
    if disk or disks != 1 or start64 > locator or locator - start64 != END64.size:
        raise FormatError(f"{where}: the zip64 end record at {start64} is not before its locator")
    record = _exactly(read, start64, start64 + END64.size, where)
    magic, length64, _, _, disk, first_disk, here, count, length, start = END64.unpack(record)
    if magic != END64_MAGIC or length64 != END64.size - 12:
        raise FormatError(f"{where}: no zip64 end record at {start64}")
    if disk or first_disk or here != count:
        raise FormatError(f"{where}: archives that span disks are not read")
    return count, length, start, start64


def _parse_central(directory: bytes, position: int, where: str) -> tuple[_Central, int]:
    if len(directory) - position < CENTRAL.size:
        raise FormatError(f"{where}: the directory ends within an entry")
    fields = CENTRAL.unpack_from(directory, position)
    magic, flags, method = fields[0], fields[3], fields[4]
    crc, packed, size, name_length, extra_length, comment_length = fields[7:13]
    disk, header = fields[13], fields[16]
    if magic != CENTRAL_MAGIC:
        raise FormatError(f"{where}: no directory entry at byte {position} of the directory")
    name_start = position + CENTRAL.size
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
    limits = (U32, U32, U32, U16)
    if not any(value == limit for value, limit in zip(values, limits, strict=True)):
        return values
    field = _extra_field(extra, ZIP64_EXTRA, shown)
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
    """Read an entry's local header and return the place of its data."""
    shown = f"{where}: {entry.name[:80]!r}"
    fixed = LOCAL.size + len(entry.name)
    if entry.header > directory_start or fixed > directory_start - entry.header:
        raise FormatError(f"{shown} starts at {entry.header}, within the directory")
    header = _exactly(read, entry.header, entry.header + fixed, where)
    magic, _, flags, method, _, _, crc, packed, size, name_length, extra_length = LOCAL.unpack_from(
        header
    )
    if magic != LOCAL_MAGIC:
        raise FormatError(f"{shown} has no local header at {entry.header}")
    if name_length != len(entry.name) or header[LOCAL.size :] != entry.name:
        raise FormatError(f"{shown} has another name in its local header")
    if flags & ~UTF8_FLAG != entry.flags & ~UTF8_FLAG or method != 0 or crc != entry.crc:
        raise FormatError(f"{shown}: local header and directory differ")
    if size not in (entry.size, U32) or packed not in (entry.size, U32):
        raise FormatError(f"{shown} has {size} bytes in its local header, {entry.size} declared")
    start = entry.header + fixed + extra_length
    if start > directory_start or entry.size > directory_start - start:
        raise FormatError(f"{shown} with {entry.size} bytes at {start} runs into the directory")
    try:
        name = entry.name.decode("utf-8" if entry.flags & UTF8_FLAG else "cp437")
    except UnicodeDecodeError as err:
        raise FormatError(f"{shown} is not a UTF-8 name") from err
    check_member_name(name.removesuffix("/"), where)
    return ZipMember(name, start, start + entry.size, entry.crc)


def _check_overlaps(spans: list[tuple[int, int, str]], where: str) -> None:
    spans.sort()
    for (_, stop, name), (start, _, following) in itertools.pairwise(spans):
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
