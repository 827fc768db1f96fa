"""Objects as files: every key is safe, everything survives a restart, nothing half-written does."""

from __future__ import annotations

import os
import threading

import pytest

from dataplane.errors import ConfigError
from dataplane_testing.s3 import S3Endpoint
from dataplane_testing.s3.model import S3Error
from dataplane_testing.s3.objects import Attributes, ObjectFiles, Precondition

HOSTILE_KEYS = [
    "a",
    "a/b",
    "a/",
    "/",
    "//",
    "/etc/passwd",
    "..",
    "../x",
    "../../../../tmp/x",
    "a/../b",
    "a/./b",
    ".",
    "with space, comma",
    "ünïcödé/日本/🦀",
    "nul\0byte",
    "new\nline\ttab\rreturn",
    'quote"<&>',
    "%2e%2e%2f",
    "back\\slash",
    "con",
    "x" * 1024,
    "ab.json",
]


def put(files: ObjectFiles, key: str, data: bytes, **options):
    with files.stage() as staged:
        staged.write(memoryview(data))
        return files.commit("data", key, staged, etag='"e"', attributes=Attributes(), **options)


def read(files: ObjectFiles, key: str) -> bytes:
    version, fd = files.open("data", key)
    with os.fdopen(fd, "rb") as stream:
        data = stream.read()
    assert len(data) == version.size_bytes
    return data


@pytest.fixture
def files(tmp_path):
    files = ObjectFiles(tmp_path / "root")
    files.create_bucket("data")
    return files


def test_hostile_keys_are_all_different_objects_inside_the_root(files, tmp_path):
    before = {path.name for path in tmp_path.iterdir()}
    for number, key in enumerate(HOSTILE_KEYS):
        put(files, key, b"%d" % number)
    for number, key in enumerate(HOSTILE_KEYS):
        assert read(files, key) == b"%d" % number, key
    assert {path.name for path in tmp_path.iterdir()} == before == {"root"}
    assert [version.key for version in files.snapshot("data")] == sorted(
        HOSTILE_KEYS, key=lambda key: key.encode()
    )


def test_all_objects_and_what_is_known_of_them_survive_a_restart(files, tmp_path):
    attributes = Attributes({"Content-Type": "text/plain"}, ("x-amz-checksum-crc32", "AAAA"))
    for key in HOSTILE_KEYS:
        with files.stage() as staged:
            staged.write(memoryview(key.encode()))
            files.commit("data", key, staged, etag='"e-1"', attributes=attributes)
    again = ObjectFiles(tmp_path / "root")
    assert again.buckets()[0][0] == "data"
    assert again.snapshot("data") == files.snapshot("data")
    assert all(read(again, key) == key.encode() for key in HOSTILE_KEYS)


def test_what_a_killed_endpoint_left_is_removed_at_the_next_start(files, tmp_path):
    put(files, "kept", b"kept")
    files.stage()
    lost = put(files, "lost", b"lost")
    lost.path.unlink()
    short = put(files, "short", b"short")
    short.path.write_bytes(b"sho")
    orphan = lost.path.with_suffix(".0123")
    orphan.write_bytes(b"orphan")
    again = ObjectFiles(tmp_path / "root")
    assert [version.key for version in again.snapshot("data")] == ["kept"]
    assert not orphan.exists()
    assert list((tmp_path / "root" / "staging").iterdir()) == []


def test_a_folder_with_other_things_in_it_is_not_taken(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="not empty"):
        ObjectFiles(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_a_temporary_folder_is_removed_at_close():
    files = ObjectFiles(None)
    assert files.root.is_dir()
    files.close()
    files.close()
    assert not files.root.exists()


@pytest.mark.parametrize(
    "name",
    ["", "a", "ab", "A-upper", "a..b", "../x", "a/b", "-abc", "abc-", "a" * 64, "ü-x", "a b"],
)
def test_bucket_names_that_s3_refuses_are_refused(files, name):
    with pytest.raises(S3Error):
        files.create_bucket(name)


def test_a_reader_keeps_the_version_that_it_opened(files):
    put(files, "k", b"old")
    _, fd = files.open("data", "k")
    put(files, "k", b"newer")
    files.delete("data", "k")
    with os.fdopen(fd, "rb") as stream:
        assert stream.read() == b"old"


def test_replaced_and_deleted_objects_leave_no_files(files, tmp_path):
    for data in (b"1", b"22", b"333"):
        put(files, "k", data)
    bucket = tmp_path / "root" / "buckets" / "data"
    assert len([path for path in bucket.rglob("*") if path.is_file()]) == 2
    files.delete("data", "k")
    assert [path for path in bucket.rglob("*") if path.is_file()] == []
    files.delete("data", "k")


def test_a_key_over_1024_bytes_is_refused(files):
    with pytest.raises(S3Error) as caught:
        put(files, "ü" * 513, b"")
    assert caught.value.code == "KeyTooLongError"


def test_only_one_of_many_conditional_writers_wins(files):
    won, lost = [], []
    barrier = threading.Barrier(8)

    def write(number: int) -> None:
        barrier.wait()
        try:
            put(files, "k", b"%d" % number, precondition=Precondition(must_be_absent=True))
            won.append(number)
        except S3Error:
            lost.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    assert read(files, "k") == b"%d" % won[0]


def test_readers_see_whole_versions_while_a_writer_replaces_them(files):
    put(files, "k", b"a" * 1000)
    stop = threading.Event()

    def write() -> None:
        letter = 0
        while not stop.is_set():
            letter = (letter + 1) % 26
            put(files, "k", bytes([97 + letter]) * (1000 + letter))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(500):
            data = read(files, "k")
            assert len(set(data)) == 1
            assert len(data) == 1000 + data[0] - 97
    finally:
        stop.set()
        writer.join()


def test_an_endpoint_serves_the_folder_of_an_earlier_one(tmp_path, connect):
    for expected in (404, 200):
        with S3Endpoint(tmp_path / "root", in_process=True, anonymous=True) as endpoint:
            assert connect(endpoint).get("/data/k")[0] == expected
            endpoint.put("data", "k", b"kept")
