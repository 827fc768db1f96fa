"""Tar archives: plain when written, checked when read."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.errors import FormatError
from dataplane.shards import TarMember, read_tar_members
from dataplane.shards.tar import TarWriter, member_overhead_bytes

LONG = "folder/" * 20 + "x" * 90
VERY_LONG = "y" * 200
NAMES = ["a.json", "run 7/case, 3.zarr.zip", LONG, VERY_LONG, "größe.json", "z" * 100]


def reader(data: bytes) -> Callable[[int, int], bytes]:
    return lambda start, stop: data[start:stop]


def members(data: bytes) -> list[TarMember]:
    return list(read_tar_members(reader(data), len(data)))


def listing(data: bytes) -> dict[str, bytes]:
    return {m.name: data[m.start : m.stop] for m in members(data)}


def written(entries: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    archive = TarWriter(stream)
    for name, data in entries.items():
        archive.add(name, data)
    assert archive.finish() == len(stream.getvalue())
    return stream.getvalue()


def foreign(entries: dict[str, bytes], form: int) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for name, data in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mtime = 1234.5 if form == tarfile.PAX_FORMAT else 1234
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def test_tarfile_and_we_read_what_is_written() -> None:
    entries = {name: name.encode() * i for i, name in enumerate(NAMES)}
    data = written(entries)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = {m.name: archive.extractfile(m).read() for m in archive}  # type: ignore[union-attr]
        assert all(isinstance(m.mtime, int) for m in archive)
    assert found == entries
    assert listing(data) == entries


def test_plain_names_cost_one_header() -> None:
    assert member_overhead_bytes("run/case 1.zarr.zip", 1 << 32) == 512
    assert member_overhead_bytes(VERY_LONG, 10) == 512 * 3
    assert b"PaxHeader" not in written({"a.json": b"{}", LONG: b"1"})


def test_gnu_tar_lists_every_name_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(written(dict.fromkeys(NAMES, b"1")))
    try:
        done = subprocess.run(
            ["tar", "--quoting-style=literal", "-tf", tmp_path / "a.tar"],
            capture_output=True,
            check=True,
        )
    except FileNotFoundError:
        pytest.skip("no tar program")
    assert done.stderr == b""
    assert done.stdout.decode().splitlines() == NAMES


def test_members_of_8_gib_have_a_pax_size() -> None:
    size = 9 << 30
    stream = io.BytesIO()
    archive = TarWriter(stream)
    archive.add("first", b"1")
    start = archive.begin("large", size)
    headers = stream.getvalue()
    archive.position = start + size
    after = archive.position
    tail = written({"after": b"2"})

    def read(begin: int, stop: int) -> bytes:
        if begin >= after:
            return tail[begin - after : stop - after]
        return headers[begin:stop].ljust(stop - begin, b"\0")

    found = list(read_tar_members(read, after + len(tail)))
    assert [(m.name, m.stop - m.start) for m in found] == [
        ("first", 1),
        ("large", size),
        ("after", 1),
    ]
    with tarfile.open(fileobj=io.BytesIO(headers[1024:]), mode="r:") as parsed:
        first = parsed.next()
        assert first is not None
        assert (first.name, first.size) == ("large", size)


@pytest.mark.parametrize(
    "form",
    [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT],
    ids=["ustar", "gnu", "pax"],
)
def test_archives_of_other_programs_are_read(form: int) -> None:
    names = [n for n in NAMES if form != tarfile.USTAR_FORMAT or n not in (VERY_LONG,)]
    entries = {name: name.encode() for name in names}
    data = foreign(entries, form)
    assert listing(data) == entries
    assert members(data)[0].mtime_s == 1234


def test_gnu_base_256_sizes_are_read() -> None:
    info = tarfile.TarInfo("large")
    info.size = 10 << 30
    header = info.tobuf(tarfile.GNU_FORMAT)
    end = len(header) + info.size

    def read(start: int, stop: int) -> bytes:
        return header[start:stop].ljust(stop - start, b"\0")

    (member,) = read_tar_members(read, end + 1024)
    assert member.stop - member.start == 10 << 30


def test_folders_and_links_are_passed_over_and_dot_slash_is_dropped() -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, kind in (
            ("./d", tarfile.DIRTYPE),
            ("l", tarfile.SYMTYPE),
            ("h", tarfile.LNKTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type = kind
            info.linkname = "/etc/passwd"
            archive.addfile(info)
        archive.addfile(tarfile.TarInfo("./d/file"))
    assert listing(stream.getvalue()) == {"d/file": b""}


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "a//b", "a\nb"])
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
def test_hostile_names_are_refused(name: str, form: int) -> None:
    for padded in (name, name + "/" + "x" * 150):
        with pytest.raises(FormatError, match="refused"):
            listing(foreign({padded: b"1"}, form))


def test_sparse_members_are_refused() -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("a")
        info.pax_headers = {"GNU.sparse.major": "1"}
        archive.addfile(info)
    with pytest.raises(FormatError, match="sparse"):
        listing(stream.getvalue())


def test_global_headers_may_comment_but_not_rename() -> None:
    for headers, fine in (({"comment": "hello"}, True), ({"path": "evil"}, False)):
        stream = io.BytesIO()
        with tarfile.open(
            fileobj=stream, mode="w", format=tarfile.PAX_FORMAT, pax_headers=headers
        ) as archive:
            archive.addfile(tarfile.TarInfo("a"))
        if fine:
            assert listing(stream.getvalue()) == {"a": b""}
        else:
            with pytest.raises(FormatError, match="global"):
                listing(stream.getvalue())


def test_every_prefix_is_refused() -> None:
    # Written ends: two blocks of zeros, of which a reader needs one.
    data = written({"a": b"1", VERY_LONG: b"2"})
    for length in range(0, len(data) - 512, 7):
        with pytest.raises(FormatError):
            listing(data[:length])


def resummed(block: bytearray) -> bytearray:
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    return block


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (b"77777777777\0", "declares"),
        (b"\x80" + b"\0" * 3 + b"\x7f" * 8, "declares"),
        (b"\xff" * 12, "negative"),
        (b"12x45678901\0", "not a number"),
        (b"-0000000001\0", "not a number"),
    ],
)
def test_lying_sizes_are_refused(field: bytes, message: str) -> None:
    data = bytearray(written({"a": b"1"}))
    data[124:136] = field
    with pytest.raises(FormatError, match=message):
        listing(bytes(resummed(data[:512]) + data[512:]))


@pytest.mark.parametrize(
    "record",
    [b"999 path=a\n", b"3 path=a\n", b"path=a\n", b"11 path=ab", b"0 path=a\n", b"9 size=x\n"],
)
def test_damaged_pax_records_are_refused(record: bytes) -> None:
    info = tarfile.TarInfo("h")
    info.type = tarfile.XHDTYPE
    info.size = len(record)
    data = info.tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"x") + written({"a": b"1"})
    with pytest.raises(FormatError, match="PAX"):
        listing(data)


def test_an_endless_extended_header_is_refused() -> None:
    info = tarfile.TarInfo("h")
    info.type = tarfile.XHDTYPE
    info.size = 1 << 30
    header = info.tobuf(tarfile.USTAR_FORMAT)
    with pytest.raises(FormatError, match="extended header of"):
        list(read_tar_members(lambda a, b: header[a:b].ljust(b - a, b"\0"), 1 << 31))


@given(at=st.integers(0, 511), bit=st.integers(0, 7))
def test_a_flipped_bit_in_a_header_is_refused(at: int, bit: int) -> None:
    data = bytearray(written({"a": b"1"}))
    data[at] ^= 1 << bit
    try:
        found = listing(bytes(data))
    except FormatError:
        return
    # The checksum field has bytes that do not count: its terminators.
    assert 148 <= at < 156
    assert found == {"a": b"1"}


def test_near_headers_share_a_read() -> None:
    data = written({f"{i}.json": b"{}" for i in range(16)})
    reads = []

    def read(start: int, stop: int) -> bytes:
        reads.append((start, stop))
        return data[start:stop]

    assert len(list(read_tar_members(read, len(data)))) == 16
    assert len(reads) <= 2


def test_a_reader_that_comes_up_short_is_noticed() -> None:
    data = written({"a": b"1"})
    with pytest.raises(FormatError, match="gave"):
        list(read_tar_members(lambda start, stop: data[start : stop - 1], len(data)))
