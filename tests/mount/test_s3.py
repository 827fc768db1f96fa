"""Mounts of buckets: the embedded endpoint with its log and faults, and a real S3 server."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dataplane.stores import open_store
from dataplane_testing.s3 import S3Endpoint
from tests.mount.conftest import MakeMount, Mounted, write_dataset
from tests.servers.s3 import S3Bucket

pytestmark = pytest.mark.fuse

MIB = 1 << 20
LARGE = os.urandom(40 * MIB + 17)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[S3Endpoint]:
    with S3Endpoint() as served:
        served.put("data", "runs/large.bin", LARGE)
        served.put("data", "runs/a b,ü.txt", b"small")
        served.put("data", "runs/deep/er/x", b"x")
        served.put("data", "runs/marker/", b"")
        served.put("data", "one", b"1")
        yield served


@pytest.fixture
def mounted(endpoint: S3Endpoint, make_mount: MakeMount) -> Mounted:
    mount = make_mount("s3://data/runs", **endpoint.environment())
    done = mount.mount()
    assert done.status == 0, done.errors
    endpoint.clear_requests()
    return mount


def gets(endpoint: S3Endpoint) -> list[object]:
    return [record for record in endpoint.requests() if record.operation == "GetObject"]


def test_a_bucket_reads_as_files(mounted: Mounted) -> None:
    listed = mounted.shell("find . | sort")
    assert listed.output.split("\n")[:-1] == [
        ".",
        "./a b,ü.txt",
        "./deep",
        "./deep/er",
        "./deep/er/x",
        "./large.bin",
        "./marker",
    ]
    assert mounted.shell("cat 'a b,ü.txt'").output == "small"
    digest = mounted.shell("sha256sum <large.bin").output[:64]
    assert digest == hashlib.sha256(LARGE).hexdigest()


def test_a_sequential_read_fetches_every_block_once(endpoint: S3Endpoint, mounted: Mounted) -> None:
    for _ in ("cold", "warm"):
        assert mounted.shell("dd if=large.bin of=/dev/null bs=1M").status == 0
        assert len(gets(endpoint)) == 11


def test_a_warmed_dataset_is_shown_without_a_byte_from_the_store(
    endpoint: S3Endpoint, make_mount: MakeMount, tmp_path: Path
) -> None:
    write_dataset(tmp_path / "ds", np.random.default_rng(3))
    for path in (tmp_path / "ds").iterdir():
        endpoint.put("data", f"sets/cars/{path.name}", path.read_bytes())
    mount = make_mount("s3://data/sets", **endpoint.environment())
    cache = ("--cache-dir", str(mount.home / "cache"))
    assert mount.command("warm", "s3://data/sets/cars", *cache).status == 0
    endpoint.clear_requests()
    assert mount.mount().status == 0
    assert "car4.zarr.zip" in mount.shell("ls cars").output.split()
    assert '"zarr_format"' in mount.shell("cat cars/car2/points/zarr.json").output
    read = [it for it in endpoint.requests() if it.operation == "GetObject" and it.status < 400]
    assert read == [], "names may be probed, but no object is read"


def test_random_reads_fetch_the_blocks_they_touch_and_no_more(
    endpoint: S3Endpoint, mounted: Mounted
) -> None:
    program = """
import os, sys
file = os.open(sys.argv[1] + "/large.bin", os.O_RDONLY)
for offset in (33, 9, 21):
    assert len(os.pread(file, 65536, offset << 20)) == 65536
"""
    mounted.python(program)
    assert len(gets(endpoint)) == 3


def test_an_object_replaced_while_it_is_read_is_estale(
    endpoint: S3Endpoint, make_mount: MakeMount
) -> None:
    endpoint.put("data", "changing/x", LARGE)
    mount = make_mount("s3://data/changing", **endpoint.environment())
    assert mount.mount().status == 0
    endpoint.replace_between("data", "changing/x", LARGE[::-1], after_gets=1)
    program = """
import os, sys
file = os.open(sys.argv[1] + "/x", os.O_RDONLY)
os.pread(file, 4096, 0)
try:
    os.pread(file, 4096, 30 << 20)
except OSError as err:
    print(err.errno)
"""
    assert mount.python(program) == f"{errno.ESTALE}\n"
    assert mount.shell("sha256sum <x").output[:64] == hashlib.sha256(LARGE[::-1]).hexdigest()


class TestRefusals:
    @staticmethod
    def refuse(mount: Mounted, status: int, word: str) -> None:
        done = mount.mount()
        assert done.status == status, done.errors
        assert done.errors.count("\n") == 1, done.errors
        assert word in done.errors
        assert "WRONGSECRET" not in done.errors

    def test_wrong_keys(self, endpoint: S3Endpoint, make_mount: MakeMount) -> None:
        environ = {**endpoint.environment(), "AWS_SECRET_ACCESS_KEY": "WRONGSECRET"}
        self.refuse(make_mount("s3://data/runs", **environ), 3, "s3://data")

    def test_a_bucket_that_is_not_there(self, endpoint: S3Endpoint, make_mount: MakeMount) -> None:
        self.refuse(make_mount("s3://nope", **endpoint.environment()), 3, "nope")

    def test_a_prefix_with_nothing_below(self, endpoint: S3Endpoint, make_mount: MakeMount) -> None:
        self.refuse(make_mount("s3://data/rnus", **endpoint.environment()), 3, "nothing below")

    def test_a_url_of_one_object(self, endpoint: S3Endpoint, make_mount: MakeMount) -> None:
        mount = make_mount("s3://data/runs/large.bin", **endpoint.environment())
        self.refuse(mount, 6, "mount s3://data/runs instead")


@pytest.mark.ceph
def test_a_bucket_of_a_real_server_reads_as_its_source(
    source: Path, s3_bucket: S3Bucket, make_mount: MakeMount
) -> None:
    store = open_store(f"{s3_bucket.url}/some/prefix")
    files = {str(p.relative_to(source)): p for p in source.rglob("*") if p.is_file()}
    for key, path in files.items():
        store.put(key, path)
    mount = make_mount(f"{s3_bucket.url}/some/prefix")
    done = mount.mount()
    assert done.status == 0, done.errors
    listed = mount.shell("find . -type f -print0 | xargs -0 sha256sum --zero")
    found = {line[68:]: line[:64] for line in listed.output.split("\0") if line}
    expected = {key: hashlib.sha256(path.read_bytes()).hexdigest() for key, path in files.items()}
    assert {key: found.get(key) for key in expected} == expected
    program = """
import sys, zarr
for i in range(5):
    group = zarr.open_group(f"{sys.argv[1]}/dataset/car{i}", mode="r")
    print(group["points"].shape[0], group.attrs["speed"])
"""
    assert mount.python(program) == "".join(f"20000 {float(i)}\n" for i in range(5))


def test_a_key_that_cannot_be_addressed_costs_the_mount_that_key_and_nothing_else(
    make_mount: MakeMount,
) -> None:
    odd = ("a//b", "x/./y", "x/../y", "two\nlines", "deep/er/bell\x07", "/front")
    with S3Endpoint() as endpoint:
        for key in odd:
            endpoint.put("data", key, b"odd")
        for key in ("a/1", "deep/er/2", "x/3", "top"):
            endpoint.put("data", key, key.encode())
        mount = make_mount("s3://data", **endpoint.environment())
        done = mount.mount()
        assert done.status == 0, done.errors
        listed = mount.shell("find . -type f | sort | xargs grep -H .")
        assert listed.output.split("\n")[:-1] == [
            "./a/1:a/1",
            "./deep/er/2:deep/er/2",
            "./top:top",
            "./x/3:x/3",
        ]
        assert listed.errors == ""
        log = mount.log.read_text()
        assert "'two\\nlines' in directory '', because it holds a control character" in log
        assert "'/' in directory 'a', because it is empty" in log
        cache = ("--cache-dir", str(mount.home / "warmed"))
        warmed = mount.command("warm", "s3://data", *cache)
        assert warmed.status == 0, warmed.errors
        assert "4 objects" in warmed.output
        assert warmed.errors.count("holds a key that cannot be addressed") == 1
