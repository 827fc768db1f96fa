"""Zip archives: what is written is plain, what is read is checked."""

from __future__ import annotations

import io
import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.errors import FormatError
from dataplane.shards import read_zip_directory
from dataplane.shards.zip import ZipWriter


def reader(data: bytes) -> Callable[[int, int], bytes]:
    return lambda start, stop: data[start:stop]


def listing(data: bytes) -> dict[str, bytes]:
    return {m.name: data[m.start : m.stop] for m in read_zip_directory(reader(data), len(data))}


def written(entries: dict[str, bytes], **options: int) -> bytes:
    stream = io.BytesIO()
    archive = ZipWriter(stream)
    for name, data in entries.items():
        with archive.entry(name, **options) as entry:
            entry.write(data)
    archive.finish()
    return stream.getvalue()


ENTRIES = {"zarr.json": b"{}", "a b/c,d": b"x" * 5000, "größe/c/0": b"", "z": bytes(range(256))}


@pytest.mark.parametrize("alignment", [1, 512, 4096])
@pytest.mark.parametrize("max_size_bytes", [0, 1 << 33], ids=["zip32", "zip64"])
def test_zipfile_and_we_read_what_is_written(alignment: int, max_size_bytes: int) -> None:
    data = written(ENTRIES, alignment=alignment, max_size_bytes=max_size_bytes)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == ENTRIES
    assert listing(data) == ENTRIES
    members = read_zip_directory(reader(data), len(data))
    assert all(member.start % alignment == 0 for member in members)


def test_the_unzip_program_finds_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(written(ENTRIES, alignment=4096, max_size_bytes=1 << 33))
    try:
        done = subprocess.run(["unzip", "-tqq", path], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no unzip program")
    assert (done.returncode, done.stderr) == (0, "")


def test_more_than_65535_entries_need_zip64() -> None:
    entries = {f"c/{i}": b"" for i in range(65_536)}
    data = written(entries)
    assert len(zipfile.ZipFile(io.BytesIO(data)).namelist()) == 65_536
    assert len(read_zip_directory(reader(data), len(data))) == 65_536


class SparseFile(io.RawIOBase):
    """A writable file that remembers only what is not zero, for sizes beyond memory."""

    def __init__(self) -> None:
        self.pieces: dict[int, bytes] = {}
        self.position = 0

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.pieces[self.position] = bytes(data)
        self.position += len(data)
        return len(data)

    def seek(self, position: int, whence: int = 0) -> int:
        assert whence == 0
        self.position = position
        return position


class Hole(bytes):
    """No bytes, which claim to be many."""

    length = 0

    @classmethod
    def of(cls, length: int) -> Hole:
        hole = cls()
        hole.length = length
        return hole

    def __len__(self) -> int:
        return self.length


def test_entries_beyond_4_gib_are_found_through_zip64_fields() -> None:
    stream = SparseFile()
    archive = ZipWriter(stream)  # type: ignore[arg-type]
    with archive.entry("large", max_size_bytes=6 << 30) as entry:
        # Only the lengths matter here: a checksum of 5 GiB would take seconds.
        entry.write(Hole.of(5 << 30))
    archive.add("after", b"tail")
    size = archive.finish()

    def read(start: int, stop: int) -> bytes:
        out = bytearray(stop - start)
        for at, piece in stream.pieces.items():
            for i, byte in enumerate(piece):
                if start <= at + i < stop:
                    out[at + i - start] = byte
        return bytes(out)

    large, after = read_zip_directory(read, size)
    assert large.stop - large.start == 5 << 30
    assert after.start > 5 << 30
    assert read(after.start, after.stop) == b"tail"


def test_an_unannounced_4_gib_entry_is_refused() -> None:
    archive = ZipWriter(io.BytesIO())
    with pytest.raises(FormatError, match="unannounced"), archive.entry("large") as entry:
        entry.write(Hole.of(1 << 32))


def test_a_name_is_written_once() -> None:
    archive = ZipWriter(io.BytesIO())
    archive.add("a", b"")
    with pytest.raises(FormatError, match="there already"):
        archive.add("a", b"")


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a//b", "a\0b", "a\\b", "a/./b"])
def test_names_that_climb_out_are_not_written(name: str) -> None:
    with pytest.raises(FormatError):
        ZipWriter(io.BytesIO()).add(name, b"")


def foreign(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return stream.getvalue()


def test_archives_of_other_programs_are_read() -> None:
    data = foreign({"folder/": b"", "folder/a": b"1", "ü": b"2"})
    assert listing(data) == {"folder/a": b"1", "ü": b"2"}


def test_a_comment_that_holds_an_end_record_does_not_mislead() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a", b"1")
        archive.comment = b"PK\x05\x06" + bytes(10_000)
    assert listing(stream.getvalue()) == {"a": b"1"}


def test_the_data_offset_comes_from_the_local_header() -> None:
    data = written({"a": b"payload"}, alignment=4096)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.getinfo("a").extra == b""  # The padding is in the local header alone.
    assert listing(data) == {"a": b"payload"}


def test_compressed_entries_are_refused_by_name() -> None:
    with pytest.raises(FormatError, match=r"'a' is compressed \(method 8\)"):
        listing(foreign({"a": b"1" * 100}, zipfile.ZIP_DEFLATED))


def patched(data: bytes, at: int, layout: str, value: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into(layout, changed, at, value)
    return bytes(changed)


def central(data: bytes, nth: int = 0) -> int:
    at = -1
    for _ in range(nth + 1):
        at = data.index(b"PK\x01\x02", at + 1)
    return at


@pytest.mark.parametrize(
    ("offset", "layout", "value", "message"),
    [
        (8, "<H", 1, "encrypted"),
        (8, "<H", 8, "data descriptor"),
        (10, "<H", 99, "compressed"),
        (24, "<I", 1 << 30, "packed and"),
        (28, "<H", 60_000, "ends within an entry"),
        (34, "<H", 1, "disk"),
        (42, "<I", 1 << 30, "within the directory"),
        (42, "<I", 1, "no local header"),
    ],
)
def test_lying_directory_fields_are_refused(
    offset: int, layout: str, value: int, message: str
) -> None:
    data = written({"a": b"123", "b": b"456"})
    with pytest.raises(FormatError, match=message):
        listing(patched(data, central(data) + offset, layout, value))


def test_sizes_that_run_into_the_directory_are_refused() -> None:
    data = written({"a": b"123"})
    for offset in (20, 24):
        data = patched(data, central(data) + offset, "<I", 4000)
    data = patched(patched(data, 18, "<I", 4000), 22, "<I", 4000)
    with pytest.raises(FormatError, match="runs into the directory"):
        listing(data)


def test_overlapping_entries_are_refused() -> None:
    # b's data swallows c whole, as zip bombs and smuggled entries do.
    inner = written({"c": b"x"})
    local = inner[: inner.index(b"PK\x01\x02")]
    data = written({"b": b"123" + local + b"456", "c": b"x"})
    start = data.index(local)
    data = patched(data, central(data, 1) + 42, "<I", start)
    with pytest.raises(FormatError, match="overlap"):
        listing(data)


def test_names_that_differ_between_headers_are_refused() -> None:
    data = written({"a": b"123"})
    with pytest.raises(FormatError, match="another name"):
        listing(data[:30] + b"b" + data[31:])


def test_duplicate_and_climbing_names_are_refused() -> None:
    data = written({"aa": b"1", "bb": b"2"})
    with pytest.raises(FormatError, match="twice"):
        listing(data.replace(b"bb", b"aa"))
    with pytest.raises(FormatError, match=r"'\.\.'"):
        listing(data.replace(b"bb", b".."))


def test_every_prefix_is_refused() -> None:
    data = written({"zarr.json": b"{}", "c/0": b"x" * 50}, alignment=64)
    for length in range(len(data)):
        with pytest.raises(FormatError):
            listing(data[:length])


def test_a_reader_that_comes_up_short_is_noticed() -> None:
    data = written({"a": b"1"})
    with pytest.raises(FormatError, match="gave"):
        read_zip_directory(lambda start, stop: data[start : stop - 1], len(data))


@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_harmless(at: int, bit: int) -> None:
    data = bytearray(written({"zarr.json": b"{}", "c/0": b"x" * 50}, max_size_bytes=1 << 33))
    data[at % len(data)] ^= 1 << bit
    try:
        members = read_zip_directory(reader(bytes(data)), len(data))
    except FormatError:
        return
    assert len(members) == 2
    for member in members:
        assert 0 <= member.start <= member.stop <= len(data)
        assert member.stop - member.start in (2, 50)


@given(data=st.binary(max_size=300))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        read_zip_directory(reader(data + b"PK\x05\x06"), len(data) + 4)
