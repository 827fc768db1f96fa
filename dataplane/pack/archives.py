"""Unpacking of untrusted zip archives into a folder of our own. Knows no formats.

Names that climb, absolute names, links, encrypted members and archives that would unpack to more
than they can hold or than fits on the disk are refused before anything is written; while writing,
no member may exceed the size that it declares. Thread-safe: no state.
"""

from __future__ import annotations

import lzma
import os
import shutil
import stat
import struct
import zipfile
import zlib
from pathlib import Path

from dataplane.errors import FormatError, NoSpace
from dataplane.pack.source import COPY_AGAIN, one_line
from dataplane.shards.names import check_member_name
from dataplane.units import format_bytes

__all__ = ["UNSOUND_ZIP", "check_directory", "unpack"]

MAX_MEMBERS = 100_000
_MAX_COMPRESSION = 1100  # deflate reaches 1032
_KEEP_FREE_BYTES = 256 << 20
_MAX_END_BYTES = 22 + 0xFFFF
_MANY_MEMBERS = 0xFFFF
_COPY_BYTES = 1 << 20
_ENCRYPTED = 0x1
UNSOUND_ZIP = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, NotImplementedError, OverflowError, RuntimeError, ValueError),
)
"""Errors of zipfile over damaged archives; ValueError for names that are not UTF-8, too."""


def unpack(archive: Path, folder: Path, label: str) -> None:
    """Write the regular files of a zip archive below `folder`, which is empty.

    Raises:
        FormatError: the archive is damaged or hostile.
        NoSpace: there is no space for it.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            check_directory(opened, label)
            members = [member for member in opened.infolist() if not member.is_dir()]
            _check(members, archive, folder, label)
            for member in members:
                _write(opened, member, folder, label)
    except UNSOUND_ZIP as err:
        raise FormatError(f"{label}: it is not a sound zip archive: {one_line(str(err))}") from err


def check_directory(opened: zipfile.ZipFile, label: str) -> None:
    """Refuse an archive whose directory leaves out some of its members.

    The directory stands at the end and counts backwards, so an archive that was cut within a stored
    member that is an archive itself, such as an `.npz`, looks like that member.

    Raises:
        FormatError: something stands before its first member, the number of members is not the
            one that it states, or a folder has content.
    """
    members = opened.infolist()
    assert opened.fp is not None, "it is open"
    end = opened.fp.seek(0, os.SEEK_END)
    opened.fp.seek(max(0, end - _MAX_END_BYTES))
    tail = opened.fp.read()
    at = tail.rfind(b"PK\x05\x06")
    stated = int.from_bytes(tail[at + 10 : at + 12], "little")
    # Archives of more members state their number elsewhere, or the rest of it.
    if at >= 0 and stated != _MANY_MEMBERS and stated != len(members) & _MANY_MEMBERS:
        raise FormatError(f"{label}: its directory lists {len(members)} of {stated} members")
    for member in members:
        if member.filename.endswith("/") and member.file_size:
            raise FormatError(f"{label}: its folder {member.filename!r} has content, as files have")
    first = min((member.header_offset for member in members), default=opened.start_dir)
    if first:
        what = f"says nothing about its first {first} bytes" if first > 0 else "is damaged"
        raise FormatError(
            f"{label}: its directory {what}; it was cut, or something was put in front of it",
            hint=COPY_AGAIN,
        )


def _check(members: list[zipfile.ZipInfo], archive: Path, folder: Path, label: str) -> None:
    if len(members) > MAX_MEMBERS:
        raise FormatError(f"{label}: {len(members)} members; at most {MAX_MEMBERS} are unpacked")
    seen: set[str] = set()
    for member in members:
        check_member_name(member.filename, label)
        if member.filename in seen:
            raise FormatError(f"{label}: it holds {member.filename!r} twice")
        seen.add(member.filename)
        if member.flag_bits & _ENCRYPTED:
            raise FormatError(f"{label}: its member {member.filename!r} is encrypted")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise FormatError(f"{label}: its member {member.filename!r} is a link")
    declared = sum(member.file_size for member in members)
    size_bytes = archive.stat().st_size
    if declared > size_bytes * _MAX_COMPRESSION:
        raise FormatError(
            f"{label}: it declares {declared} bytes, which cannot be in {size_bytes} bytes"
        )
    free = max(0, shutil.disk_usage(folder).free - _KEEP_FREE_BYTES)
    if declared > free:
        # The disk's fault and not the archive's: the pack stops, as others would fail too.
        raise NoSpace(
            f"{label} unpacks to {format_bytes(declared)}, but {folder.parent} has room for "
            f"{format_bytes(free)}",
            hint="unpack it yourself, or set TMPDIR to a larger disk",
        )


def _write(opened: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path, label: str) -> None:
    target = folder / member.filename
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with opened.open(member) as stream, target.open("xb") as file:
            written = 0
            while block := stream.read(_COPY_BYTES):
                written += len(block)
                if written > member.file_size:
                    raise FormatError(
                        f"{label}: its member {member.filename!r} is longer than it declares"
                    )
                file.write(block)
    except (FileExistsError, NotADirectoryError) as err:
        raise FormatError(
            f"{label}: its member {member.filename!r} is both a file and a folder"
        ) from err
