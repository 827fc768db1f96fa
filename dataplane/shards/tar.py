"""Tar archives: a writer of plain members, and a reader of the member table by ranged reads.

`TarWriter` writes USTAR members with integer times, and a PAX header only where USTAR cannot say
it: a name that is long or not ASCII, a size of 8 GiB or more. Nothing else, since some reader of
WebDataset shards fails at every extra header.

`read_tar_members` lists an archive that may be hostile without reading its data: USTAR, GNU long
names and base-256 sizes, PAX `path` and `size`. Header checksums and lengths are checked; the
archive must end with a zero block, so that a cut one is not taken for whole. Folders and links are
passed over; sparse members are refused because their data is not plain.

Not thread-safe; the reader keeps one window of read-ahead. Source: POSIX.1-2017 pax, GNU tar manual
"Basic Tar Format".
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from dataplane.errors import FormatError
from dataplane.shards.names import check_member_name
from dataplane.stores.base import Buffer

__all__ = ["BLOCK_BYTES", "TarMember", "TarWriter", "member_overhead_bytes", "read_tar_members"]

BLOCK_BYTES = 512
MTIME_S = 315_532_800
"""1980-01-01, as in the zip: equal content gives equal archives. GNU tar warns of older times."""
_MAX_USTAR_SIZE = 8**11 - 1
_MAX_NAME_BYTES, _MAX_PREFIX_BYTES = 100, 155
_MAX_EXTENDED_BYTES = 1 << 20
_WINDOW_BYTES = 16 << 10
_PAX_RECORD = re.compile(rb"(\d{1,8}) ([^=\n]+)=")
_REGULAR = frozenset({b"0", b"\0", b"7"})
_PASSED_OVER = frozenset({b"1", b"2", b"3", b"4", b"5", b"6", b"V", b"M"})


@dataclass(frozen=True, slots=True)
class TarMember:
    """One regular file of an archive.

    Attributes:
        name: path within the archive.
        start: first byte of its data in the archive.
        stop: one past the last byte.
        mtime_s: modification time, seconds since the epoch.
    """

    name: str
    start: int
    stop: int
    mtime_s: int


# Writing ------------------------------------------------------------------------------------------


def member_overhead_bytes(name: str, size_bytes: int) -> int:
    """Bytes of headers before the data of a member."""
    return len(_headers(name, size_bytes))


class TarWriter:
    """A writer that appends members to a stream; `position` is that of the next header.

    Example:
        >>> import io
        >>> stream = io.BytesIO()
        >>> archive = TarWriter(stream)
        >>> archive.add("a.json", b"{}")
        512
        >>> archive.finish()
        2048
    """

    def __init__(self, stream: BinaryIO, position: int = 0) -> None:
        self._stream = stream
        self.position = position

    def add(self, name: str, data: Buffer) -> int:
        """Write a member from memory.

        Returns:
            The start of its data.
        """
        start = self.begin(name, len(data))
        self._stream.write(data)
        self.end(start, len(data))
        return start

    def begin(self, name: str, size_bytes: int) -> int:
        """Write the headers of a member whose data the caller writes to the stream next.

        Returns:
            The start of its data.
        """
        check_member_name(name, "tar archive")
        headers = _headers(name, size_bytes)
        self._stream.write(headers)
        return self.position + len(headers)

    def end(self, start: int, size_bytes: int) -> None:
        """Fill the last block of a member that was written by the caller."""
        self._stream.write(bytes(-size_bytes % BLOCK_BYTES))
        self.position = start + size_bytes + -size_bytes % BLOCK_BYTES

    def finish(self) -> int:
        """Write the end of the archive.

        Returns:
            The size of the archive.
        """
        self._stream.write(bytes(2 * BLOCK_BYTES))
        self.position += 2 * BLOCK_BYTES
        return self.position


@functools.lru_cache(maxsize=16)  # asked for several times while a member finds its place
def _headers(name: str, size: int) -> bytes:
    encoded = name.encode()
    records: dict[str, bytes] = {}
    split = _split_name(encoded)
    if split is None or not name.isascii():
        records["path"] = encoded
        split = (b"", _ascii_part(encoded))
    if size > _MAX_USTAR_SIZE:
        records["size"] = str(size).encode()
    pax = b""
    if records:
        body = b"".join(_pax_record(key, value) for key, value in records.items())
        pax = _header((b"", b"PaxHeaders/member"), len(body), b"x")
        pax += body + bytes(-len(body) % BLOCK_BYTES)
    return pax + _header(split, size if size <= _MAX_USTAR_SIZE else 0, b"0")


def _ascii_part(encoded: bytes) -> bytes:
    """A stand-in for readers that know no PAX; the real name is in the PAX header."""
    return encoded.decode().encode("ascii", "replace").replace(b"?", b"_")[-_MAX_NAME_BYTES:]


def _split_name(encoded: bytes) -> tuple[bytes, bytes] | None:
    """Split a long name at a slash into USTAR's prefix and name, or return None."""
    if len(encoded) <= _MAX_NAME_BYTES:
        return b"", encoded
    cut = encoded.find(b"/", max(0, len(encoded) - _MAX_NAME_BYTES - 1))
    if 0 < cut <= _MAX_PREFIX_BYTES:
        return encoded[:cut], encoded[cut + 1 :]
    return None


def _pax_record(key: str, value: bytes) -> bytes:
    """Write a record, `LENGTH key=value` and a newline, where the length counts its own digits."""
    rest = b" " + key.encode() + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(rest) + len(str(length)) != length:
        length = len(rest) + len(str(length))
    return str(length).encode() + rest


def _header(name: tuple[bytes, bytes], size: int, kind: bytes) -> bytes:
    prefix, base = name
    block = bytearray(BLOCK_BYTES)
    block[0 : len(base)] = base
    block[100:124] = b"0000644\x000000000\x000000000\x00"
    block[124:136] = b"%011o\0" % size
    block[136:148] = b"%011o\0" % MTIME_S
    block[148:156] = b" " * 8
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    block[329:345] = b"0000000\x000000000\x00"
    block[345 : 345 + len(prefix)] = prefix
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


# Reading ------------------------------------------------------------------------------------------


def read_tar_members(
    read: Callable[[int, int], Buffer], size_bytes: int, where: str = "tar archive"
) -> Iterator[TarMember]:
    """Yield the regular files of an archive.

    Args:
        read: function that returns bytes `[start, stop)` of the archive.
        size_bytes: size of the archive.
        where: place to name in messages.

    Raises:
        FormatError: cut short, damaged, with sparse members, or with names that climb out.
    """
    window = _Window(read, size_bytes, where)
    position = 0
    extended: dict[str, bytes] = {}
    while True:
        block = window.read(position, BLOCK_BYTES)
        if not any(block):
            if extended:
                raise FormatError(f"{where}: an extended header at the end describes no member")
            return
        _check_header(block, position, where)
        kind = block[156:157]
        data_start = position + BLOCK_BYTES
        size = _number(block[124:136], position, where)
        if kind in _REGULAR and "size" in extended:
            size = _pax_size(extended["size"], position, where)
        if size > size_bytes - data_start:
            raise FormatError(
                f"{where}: the member at {position} declares {size} bytes, "
                f"{size_bytes - data_start} are left"
            )
        following = data_start + size + -size % BLOCK_BYTES
        if kind in {b"x", b"g", b"L", b"K"}:
            if size > _MAX_EXTENDED_BYTES:
                raise FormatError(f"{where}: an extended header of {size} bytes at {position}")
            _extend(extended, kind, window.read(data_start, size), where)
        else:
            if kind in _REGULAR:
                member = _member(block, extended, data_start, size, where)
                if member is not None:
                    yield member
            elif kind not in _PASSED_OVER:
                raise FormatError(f"{where}: a member of type {kind!r} at {position} is not read")
            extended = {}
        position = following


class _Window:
    """A reader of small pieces through one read-ahead window, so near headers cost one read."""

    def __init__(self, read: Callable[[int, int], Buffer], size: int, where: str) -> None:
        self._read = read
        self._size = size
        self._where = where
        self._start = 0
        self._data = b""

    def read(self, start: int, length: int) -> bytes:
        if length > self._size - start:
            raise FormatError(f"{self._where}: it ends at {self._size}, within a header or its end")
        if start < self._start or start + length > self._start + len(self._data):
            stop = min(self._size, start + max(length, _WINDOW_BYTES))
            self._data = bytes(self._read(start, stop))
            self._start = start
            if len(self._data) != stop - start:
                raise FormatError(
                    f"{self._where}: wanted {stop - start} bytes at {start}, "
                    f"the file gave {len(self._data)}"
                )
        return self._data[start - self._start : start - self._start + length]


def _check_header(block: bytes, position: int, where: str) -> None:
    declared = _number(block[148:156], position, where)
    unsigned = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    # Old writers summed signed bytes.
    signed = unsigned - 256 * sum(b > 127 for b in block[:148] + block[156:])
    if declared not in (unsigned, signed):
        raise FormatError(f"{where}: no tar header at {position} (checksum differs)")


def _number(field: bytes, position: int, where: str) -> int:
    """Read an octal number, or a base-256 one (first bit set)."""
    if field[0] & 0x80:
        if field[0] == 0xFF:
            raise FormatError(f"{where}: a negative length in the header at {position}")
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    text = field.split(b"\0", 1)[0].strip(b" ")
    if not text:
        return 0
    if not re.fullmatch(rb"[0-7]+", text):
        raise FormatError(f"{where}: {field!r} in the header at {position} is not a number")
    return int(text, 8)


def _pax_size(value: bytes, position: int, where: str) -> int:
    if not re.fullmatch(rb"\d{1,19}", value):
        raise FormatError(f"{where}: PAX size {value[:40]!r} before the member at {position}")
    return int(value)


def _extend(extended: dict[str, bytes], kind: bytes, body: bytes, where: str) -> None:
    """Take in an extended header. Global PAX headers carry nothing that is used here."""
    if kind == b"L":
        extended["path"] = body.rstrip(b"\0")
    elif kind == b"x":
        records = _pax_records(body, where)
        if any(key.startswith("GNU.sparse") for key in records):
            raise FormatError(f"{where}: sparse members are not read", hint="repack without -S")
        extended.update(records)
    elif kind == b"g" and not {"path", "size"}.isdisjoint(_pax_records(body, where)):
        raise FormatError(f"{where}: a global header sets names or sizes of all members")


def _pax_records(body: bytes, where: str) -> Mapping[str, bytes]:
    records: dict[str, bytes] = {}
    position = 0
    while position < len(body) and body[position] != 0:
        match = _PAX_RECORD.match(body, position)
        if match is None:
            raise FormatError(f"{where}: a PAX header is damaged")
        stop = position + int(match[1])
        if stop > len(body) or stop <= match.end() or body[stop - 1 : stop] != b"\n":
            raise FormatError(f"{where}: a PAX header declares a record of {int(match[1])} bytes")
        records[match[2].decode("utf-8", "replace")] = body[match.end() : stop - 1]
        position = stop
    return records


def _member(
    block: bytes, extended: Mapping[str, bytes], start: int, size: int, where: str
) -> TarMember | None:
    encoded = extended.get("path")
    if encoded is None:
        encoded = block[:100].split(b"\0", 1)[0]
        prefix = block[345:500].split(b"\0", 1)[0] if block[257:263] == b"ustar\0" else b""
        if prefix:
            encoded = prefix + b"/" + encoded
    try:
        name = encoded.decode()
    except UnicodeDecodeError as err:
        raise FormatError(f"{where}: the name {encoded[:80]!r} is not UTF-8") from err
    if name.endswith("/"):
        return None  # A folder, as writers before USTAR marked it.
    name = name.removeprefix("./")
    check_member_name(name, where)
    return TarMember(name, start, start + size, _number(block[136:148], start - BLOCK_BYTES, where))
