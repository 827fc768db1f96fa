"""The clients that the endpoint is for: obstore, s3fs, and boto3's transfers."""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import boto3.s3.transfer
import obstore
import pytest
from botocore.exceptions import ClientError
from obstore.exceptions import AlreadyExistsError, PermissionDeniedError, PreconditionError
from obstore.store import S3Store

from dataplane_testing.s3 import Faults, S3Endpoint

BODY = bytes(range(251)) * 50_000  # 12.5 MB
KEY = "dir with space/ünï, comma+plus%.bin"


def obstore_store(endpoint: S3Endpoint, **options: Any) -> S3Store:
    return S3Store(
        "data",
        endpoint=endpoint.url,
        region=endpoint.region,
        access_key_id=endpoint.access_key,
        secret_access_key=options.pop("secret_key", endpoint.secret_key),
        virtual_hosted_style_request=False,
        client_options={"allow_http": True, "timeout": timedelta(seconds=2)},
        retry_config={
            "max_retries": options.pop("retries", 0),
            "backoff": {
                "init_backoff": timedelta(milliseconds=1),
                "max_backoff": timedelta(milliseconds=2),
                "base": 2,
            },
            "retry_timeout": timedelta(seconds=10),
        },
        **options,
    )


@pytest.mark.parametrize("multipart", [True, False])
def test_obstore_writes_reads_lists_copies_and_deletes(endpoint, multipart):
    store = obstore_store(endpoint)
    written = obstore.put(store, KEY, BODY, use_multipart=multipart, chunk_size=5 << 20)
    assert obstore.head(store, KEY)["e_tag"] == written["e_tag"]
    assert obstore.head(store, KEY)["size"] == len(BODY)
    assert bytes(obstore.get(store, KEY).bytes()) == BODY
    assert bytes(obstore.get_range(store, KEY, start=5, end=5_000_000)) == BODY[5:5_000_000]
    pieces = obstore.get_ranges(store, KEY, starts=[0, 9_000_000], ends=[10, 9_000_010])
    assert [bytes(piece) for piece in pieces] == [BODY[:10], BODY[9_000_000:9_000_010]]
    obstore.copy(store, KEY, "copy")
    obstore.rename(store, "copy", "renamed")
    assert [entry["path"] for entry in obstore.list(store).collect()] == [KEY, "renamed"]
    level = obstore.list_with_delimiter(store)
    assert level["common_prefixes"] == ["dir with space"]
    obstore.delete(store, [KEY, "renamed", "absent"])
    assert obstore.list(store).collect() == []


def test_obstore_lists_many_pages_in_order(endpoint):
    keys = [f"k{number:05d}" for number in range(1100)]
    for key in reversed(keys):
        endpoint.put("data", key, b"")
    found = [entry["path"] for batch in obstore.list(obstore_store(endpoint)) for entry in batch]
    assert found == keys
    assert [record.operation for record in endpoint.requests()] == ["ListObjectsV2"] * 2


def test_obstore_conditions(endpoint):
    store = obstore_store(endpoint)
    etag = obstore.put(store, "k", b"one", mode="create")["e_tag"]
    with pytest.raises(AlreadyExistsError):
        obstore.put(store, "k", b"two", mode="create")
    obstore.put(store, "k", b"two", mode={"e_tag": etag})
    with pytest.raises(PreconditionError):
        obstore.put(store, "k", b"three", mode={"e_tag": etag})
    with pytest.raises(PreconditionError):
        obstore.get(store, "k", options={"range": (0, 1), "if_match": etag})
    with pytest.raises(FileNotFoundError):
        obstore.get(store, "missing")
    with pytest.raises(PermissionDeniedError):
        obstore.get(obstore_store(endpoint, secret_key="wrong"), "k")


def test_obstore_presigned_urls_are_honoured(endpoint):
    import urllib.request

    endpoint.put("data", KEY, b"signed")
    store = obstore_store(endpoint)
    url = obstore.sign(store, "GET", KEY, timedelta(seconds=60))
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.read() == b"signed"


@pytest.mark.parametrize("fault", ["slow_down", "reset", "reset_body", "truncate"])
def test_obstore_gets_over_each_fault_by_asking_again(endpoint, fault):
    etag = endpoint.put("data", "k", BODY)
    endpoint.set_faults(Faults(script=(fault, fault)))
    store = obstore_store(endpoint, retries=5)
    answer = obstore.get(store, "k", options={"range": (0, len(BODY)), "if_match": etag})
    assert bytes(answer.bytes()) == BODY
    assert endpoint.fault_counts() == {fault: 2}
    assert [record.fault for record in endpoint.requests()] == [fault, fault, None]


def test_obstore_does_not_stitch_a_replaced_object(endpoint):
    etag = endpoint.put("data", "k", BODY)
    endpoint.replace_between("data", "k", BODY[::-1])
    endpoint.set_faults(Faults(script=("truncate",), cut_bytes=6_000_000))
    store = obstore_store(endpoint, retries=5)
    with pytest.raises(Exception, match=r"412|[Pp]recondition"):
        obstore.get(store, "k", options={"range": (0, len(BODY)), "if_match": etag}).bytes()


def test_boto3_transfers_in_parts_both_ways(endpoint, boto_client):
    client = boto_client(endpoint, attempts=3)
    config = boto3.s3.transfer.TransferConfig(
        multipart_threshold=1 << 20, multipart_chunksize=5 << 20
    )
    client.upload_fileobj(io.BytesIO(BODY), "data", KEY, Config=config)
    target = io.BytesIO()
    client.download_fileobj("data", KEY, target, Config=config)
    assert target.getvalue() == BODY
    operations = {record.operation for record in endpoint.requests()}
    assert {"CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"} <= operations


def test_boto3_parts_must_come_in_order(endpoint, boto_client):
    client = boto_client(endpoint)
    here = {"Bucket": "data", "Key": "k"}
    uid = {**here, "UploadId": client.create_multipart_upload(**here)["UploadId"]}
    etags = [client.upload_part(**uid, PartNumber=n, Body=b"x")["ETag"] for n in (1, 2)]
    parts = [{"PartNumber": n, "ETag": etag} for n, etag in enumerate(etags, 1)][::-1]
    with pytest.raises(ClientError, match="InvalidPartOrder"):
        client.complete_multipart_upload(**uid, MultipartUpload={"Parts": parts})
    for number in (0, 10_001):
        with pytest.raises(ClientError, match="InvalidArgument"):
            client.upload_part(**uid, PartNumber=number, Body=b"x")
    client.abort_multipart_upload(**uid)
    assert list((endpoint.root / "staging").iterdir()) == []


def test_boto3_gets_over_slow_down(endpoint, boto_client):
    endpoint.put("data", "k", b"x")
    endpoint.set_faults(Faults(script=("slow_down",)))
    client = boto_client(endpoint, attempts=3)
    assert client.get_object(Bucket="data", Key="k")["Body"].read() == b"x"


def test_boto3_can_check_the_stored_checksum(endpoint, boto_client):
    client = boto_client(endpoint)
    client.put_object(Bucket="data", Key="k", Body=b"x", ChecksumAlgorithm="CRC32")
    expected = base64.b64encode(zlib.crc32(b"x").to_bytes(4, "big")).decode()
    answer = client.get_object(Bucket="data", Key="k", ChecksumMode="ENABLED")
    assert (answer["ChecksumCRC32"], answer["Body"].read()) == (expected, b"x")


@pytest.fixture
def filesystem(endpoint: S3Endpoint) -> Iterator[Any]:
    s3fs = pytest.importorskip("s3fs")
    filesystem = s3fs.S3FileSystem(
        key=endpoint.access_key,
        secret=endpoint.secret_key,
        client_kwargs={"endpoint_url": endpoint.url, "region_name": endpoint.region},
        skip_instance_cache=True,
    )
    yield filesystem
    filesystem.close_session(filesystem.loop, filesystem.s3)


def test_s3fs_writes_reads_lists_moves_and_deletes(filesystem):
    path = f"data/{KEY}"
    filesystem.pipe_file(path, BODY)
    assert filesystem.cat_file(path) == BODY
    assert filesystem.cat_file(path, start=10, end=20) == BODY[10:20]
    assert filesystem.info(path)["size"] == len(BODY)
    with filesystem.open("data/streamed", "wb", block_size=5 << 20) as stream:
        stream.write(BODY)
    with filesystem.open("data/streamed", "rb") as stream:
        stream.seek(1_000_000)
        assert stream.read(100) == BODY[1_000_000:1_000_100]
    filesystem.mv("data/streamed", "data/dir with space/moved")
    assert sorted(filesystem.find("data")) == [
        f"data/{name}" for name in sorted([KEY, "dir with space/moved"])
    ]
    assert filesystem.ls("data", detail=False) == ["data/dir with space"]
    filesystem.rm("data/dir with space", recursive=True)
    assert filesystem.find("data", refresh=True) == []
    with pytest.raises(FileNotFoundError):
        filesystem.cat_file(path)
