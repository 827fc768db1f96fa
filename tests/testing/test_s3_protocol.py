"""S3 as boto3 sees it: the same checks against the embedded endpoint and against Ceph radosgw.

What is asserted here, both servers do; so the endpoint cannot drift from the real thing. What only
the endpoint does is tested elsewhere.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

from dataplane_testing.s3 import S3Endpoint

BODY = bytes(range(256)) * 4
ETAG = f'"{hashlib.md5(BODY).hexdigest()}"'
PART_BYTES = 5 << 20
KEYS = [
    "plain",
    "with space, comma",
    "ünïcödé/日本/🦀",
    "a",
    "a/b",
    "a/",
    "a//b",
    "dots/../inside",
    "plus+and%25percent%2F",
    "quote\"'<&>",
    "question?mark#hash",
    "tilde~(paren)*!$@:;=,[]{}|^`\\",
    "tab\tnewline\n",
    "x" * 1000,
]


@dataclass(frozen=True)
class Server:
    """Where a server is and with what keys."""

    url: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"

    def client(self, **changes: Any) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=changes.pop("access_key", self.access_key),
            aws_secret_access_key=changes.pop("secret_key", self.secret_key),
            region_name=self.region,
            config=Config(
                s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, **changes
            ),
        )


@pytest.fixture(scope="module", params=["embedded", pytest.param("real", marks=pytest.mark.ceph)])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """The embedded endpoint, then a real server, or a skip that says why there is none."""
    if request.param == "embedded":
        with S3Endpoint(in_process=True) as endpoint:
            yield Server(endpoint.url, endpoint.access_key, endpoint.secret_key)
    else:
        real = request.getfixturevalue("s3_server")
        yield Server(real.endpoint, real.access_key, real.secret_key, real.region)


@pytest.fixture(scope="module")
def s3(server: Server) -> Iterator[Any]:
    client = server.client()
    yield client
    client.close()


@pytest.fixture
def bucket(s3: Any) -> Iterator[str]:
    name = f"protocol-{uuid.uuid4().hex[:12]}"
    s3.create_bucket(Bucket=name)
    yield name
    for upload in s3.list_multipart_uploads(Bucket=name).get("Uploads", []):
        s3.abort_multipart_upload(Bucket=name, Key=upload["Key"], UploadId=upload["UploadId"])
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=name):
        for entry in page.get("Contents", []):
            s3.delete_object(Bucket=name, Key=entry["Key"])
    s3.delete_bucket(Bucket=name)


def refused(call: Any, **arguments: Any) -> tuple[int, str]:
    """Return status and code of a call that must be refused."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    response = caught.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]


def test_an_object_comes_back_with_its_metadata(s3, bucket):
    written = s3.put_object(
        Bucket=bucket,
        Key="k",
        Body=BODY,
        ContentType="model/vtu",
        CacheControl="no-cache",
        ContentEncoding="gzip",
        Metadata={"solver": "openfoam", "mixed-case": "Value, with comma"},
    )
    assert written["ETag"] == ETAG
    for answer in (s3.get_object(Bucket=bucket, Key="k"), s3.head_object(Bucket=bucket, Key="k")):
        assert answer["ETag"] == ETAG
        assert answer["ContentLength"] == len(BODY)
        assert answer["ContentType"] == "model/vtu"
        assert answer["CacheControl"] == "no-cache"
        assert answer["ContentEncoding"] == "gzip"
        assert answer["Metadata"] == {"solver": "openfoam", "mixed-case": "Value, with comma"}
        assert answer["AcceptRanges"] == "bytes"
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == BODY


@pytest.mark.parametrize("key", KEYS)
def test_any_key_is_its_own_object(s3, bucket, key):
    s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == key.encode()
    assert [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket)["Contents"]] == [key]
    s3.delete_object(Bucket=bucket, Key=key)
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


@pytest.mark.parametrize(
    ("text", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=1000-", 1000, 1024),
        ("bytes=-24", 1000, 1024),
        ("bytes=-5000", 0, 1024),
        ("bytes=1020-9999", 1020, 1024),
    ],
)
def test_a_range_is_a_206_that_says_where_it_lies(s3, bucket, text, start, stop):
    s3.put_object(Bucket=bucket, Key="k", Body=BODY)
    answer = s3.get_object(Bucket=bucket, Key="k", Range=text)
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert answer["ContentRange"] == f"bytes {start}-{stop - 1}/1024"
    assert answer["ContentLength"] == stop - start
    assert answer["Body"].read() == BODY[start:stop]


@pytest.mark.parametrize("text", ["bytes=1024-", "bytes=2000-3000"])
def test_a_range_outside_the_object_is_416(s3, bucket, text):
    s3.put_object(Bucket=bucket, Key="k", Body=BODY)
    assert refused(s3.get_object, Bucket=bucket, Key="k", Range=text) == (416, "InvalidRange")


def test_a_range_of_an_empty_object_is_416(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b""
    status, _ = refused(s3.get_object, Bucket=bucket, Key="k", Range="bytes=0-0")
    assert status == 416


def test_what_is_not_there_is_404_by_name(s3, bucket):
    assert refused(s3.get_object, Bucket=bucket, Key="k") == (404, "NoSuchKey")
    assert refused(s3.head_object, Bucket=bucket, Key="k") == (404, "404")
    nowhere = f"{bucket}-nowhere"
    assert refused(s3.get_object, Bucket=nowhere, Key="k") == (404, "NoSuchBucket")
    assert refused(s3.list_objects_v2, Bucket=nowhere) == (404, "NoSuchBucket")
    assert refused(s3.put_object, Bucket=nowhere, Key="k", Body=b"x") == (404, "NoSuchBucket")
    assert refused(s3.head_bucket, Bucket=nowhere) == (404, "404")


def test_conditions_on_a_read(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=BODY)
    here = {"Bucket": bucket, "Key": "k"}
    assert s3.get_object(**here, IfMatch=ETAG)["Body"].read() == BODY
    assert s3.get_object(**here, IfMatch=ETAG.strip('"'))["Body"].read() == BODY
    assert s3.get_object(**here, IfNoneMatch='"other"')["Body"].read() == BODY
    assert refused(s3.get_object, **here, IfMatch='"other"') == (412, "PreconditionFailed")
    assert refused(s3.get_object, **here, IfNoneMatch=ETAG)[0] == 304
    assert refused(s3.head_object, **here, IfMatch='"other"')[0] == 412
    modified = s3.head_object(**here)["LastModified"]
    assert refused(s3.get_object, **here, IfModifiedSince=modified)[0] == 304
    assert s3.get_object(**here, IfUnmodifiedSince=modified)["Body"].read() == BODY


def test_a_range_with_if_match_is_412_after_the_object_changed(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=BODY)
    s3.put_object(Bucket=bucket, Key="k", Body=BODY[::-1])
    status, code = refused(s3.get_object, Bucket=bucket, Key="k", Range="bytes=0-9", IfMatch=ETAG)
    assert (status, code) == (412, "PreconditionFailed")


def test_if_none_match_star_writes_only_once(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=BODY, IfNoneMatch="*")
    again = refused(s3.put_object, Bucket=bucket, Key="k", Body=b"other", IfNoneMatch="*")
    assert again == (412, "PreconditionFailed")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == BODY


def test_listings_come_in_pages_and_levels(s3, bucket):
    keys = sorted(
        [f"dir{number}/file{item}" for number in range(3) for item in range(3)]
        + ["dir1", "top", "dir1-x", "z/"],
        key=lambda key: key.encode(),
    )
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    for size in (1, 2, 5, 1000):
        pages = s3.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, PaginationConfig={"PageSize": size}
        )
        assert [entry["Key"] for page in pages for entry in page["Contents"]] == keys
        levels = s3.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Delimiter="/", PaginationConfig={"PageSize": size}
        )
        pages = list(levels)
        found = [
            [entry["Key"] for page in pages for entry in page.get("Contents", [])],
            [entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", [])],
        ]
        assert found == [["dir1", "dir1-x", "top"], ["dir0/", "dir1/", "dir2/", "z/"]]
    level = s3.list_objects_v2(Bucket=bucket, Prefix="dir1/", Delimiter="/")
    assert [entry["Key"] for entry in level["Contents"]] == [f"dir1/file{n}" for n in range(3)]
    assert [(entry["Size"], entry["ETag"]) for entry in level["Contents"]] == [
        (10, f'"{hashlib.md5(f"dir1/file{n}".encode()).hexdigest()}"') for n in range(3)
    ]
    after = s3.list_objects_v2(Bucket=bucket, StartAfter="dir2/file1")
    assert [entry["Key"] for entry in after["Contents"]] == ["dir2/file2", "top", "z/"]
    empty = s3.list_objects_v2(Bucket=bucket, Prefix="nothing")
    assert (empty["KeyCount"], empty["IsTruncated"], "Contents" in empty) == (0, False, False)


def test_the_first_version_of_listings_pages_by_marker(s3, bucket):
    for number in range(5):
        s3.put_object(Bucket=bucket, Key=f"k{number}", Body=b"")
    pages = s3.get_paginator("list_objects").paginate(
        Bucket=bucket, PaginationConfig={"PageSize": 2}
    )
    keys = [entry["Key"] for page in pages for entry in page["Contents"]]
    assert keys == [f"k{number}" for number in range(5)]


def test_a_multipart_upload_becomes_one_object(s3, bucket):
    here = {"Bucket": bucket, "Key": "large, in parts"}
    parts = [b"a" * PART_BYTES, b"b" * PART_BYTES, b"tail"]
    upload = s3.create_multipart_upload(**here, Metadata={"m": "v"}, ContentType="model/vtu")
    uid = {**here, "UploadId": upload["UploadId"]}
    assert [one["Key"] for one in s3.list_multipart_uploads(Bucket=bucket)["Uploads"]] == [
        here["Key"]
    ]
    done = []
    for number in (3, 1, 2):
        answer = s3.upload_part(**uid, PartNumber=number, Body=parts[number - 1])
        assert answer["ETag"] == f'"{hashlib.md5(parts[number - 1]).hexdigest()}"'
        done.append({"PartNumber": number, "ETag": answer["ETag"]})
    listed = s3.list_parts(**uid)["Parts"]
    assert [(part["PartNumber"], part["Size"]) for part in listed] == [
        (1, PART_BYTES),
        (2, PART_BYTES),
        (3, 4),
    ]
    assert refused(s3.get_object, **here) == (404, "NoSuchKey")
    done.sort(key=lambda part: part["PartNumber"])
    s3.complete_multipart_upload(**uid, MultipartUpload={"Parts": done})
    answer = s3.get_object(**here)
    digests = b"".join(hashlib.md5(part).digest() for part in parts)
    assert answer["ETag"] == f'"{hashlib.md5(digests).hexdigest()}-3"'
    assert (answer["Metadata"], answer["ContentType"]) == ({"m": "v"}, "model/vtu")
    assert answer["Body"].read() == b"".join(parts)
    seam = s3.get_object(**here, Range=f"bytes={PART_BYTES - 2}-{PART_BYTES + 1}")
    assert seam["Body"].read() == b"aabb"


def test_a_multipart_upload_that_is_wrong_is_refused_and_one_aborted_is_gone(s3, bucket):
    here = {"Bucket": bucket, "Key": "k"}
    uid = {**here, "UploadId": s3.create_multipart_upload(**here)["UploadId"]}
    etags = [s3.upload_part(**uid, PartNumber=n, Body=b"small")["ETag"] for n in (1, 2)]
    ok = [{"PartNumber": n, "ETag": etag} for n, etag in enumerate(etags, 1)]

    def complete(parts: list[dict[str, Any]]) -> tuple[int, str]:
        return refused(s3.complete_multipart_upload, **uid, MultipartUpload={"Parts": parts})

    assert complete([{"PartNumber": 1, "ETag": '"' + "0" * 32 + '"'}]) == (400, "InvalidPart")
    assert complete([{"PartNumber": 7, "ETag": etags[0]}]) == (400, "InvalidPart")
    assert complete(ok) == (400, "EntityTooSmall")
    s3.abort_multipart_upload(**uid)
    assert refused(s3.list_parts, **uid)[0] == 404
    assert refused(s3.upload_part, **uid, PartNumber=1, Body=b"x") == (404, "NoSuchUpload")
    assert refused(s3.get_object, **here) == (404, "NoSuchKey")


def test_objects_are_deleted_one_by_one_and_many_at_once(s3, bucket):
    for key in KEYS:
        s3.put_object(Bucket=bucket, Key=key, Body=b"")
    s3.delete_object(Bucket=bucket, Key="never there")
    wanted = [{"Key": key} for key in KEYS if key.isprintable()]
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [*wanted, {"Key": "absent"}]})
    assert {entry["Key"] for entry in answer["Deleted"]} == {
        *(entry["Key"] for entry in wanted),
        "absent",
    }
    quiet = s3.delete_objects(
        Bucket=bucket, Delete={"Objects": [{"Key": "tab\tnewline\n"}], "Quiet": True}
    )
    assert "Deleted" not in quiet


def test_an_object_is_copied_with_its_metadata_or_with_new(s3, bucket):
    source = {"Bucket": bucket, "Key": "from, ünï/x+y"}
    s3.put_object(**source, Body=BODY, Metadata={"m": "v"})
    s3.copy_object(Bucket=bucket, Key="same", CopySource=source)
    s3.copy_object(
        Bucket=bucket,
        Key="new",
        CopySource=source,
        MetadataDirective="REPLACE",
        Metadata={"m": "w"},
    )
    for key, value in (("same", "v"), ("new", "w")):
        answer = s3.get_object(Bucket=bucket, Key=key)
        assert (answer["Body"].read(), answer["Metadata"]) == (BODY, {"m": value})
    missing = {"Bucket": bucket, "Key": "missing"}
    status, code = refused(s3.copy_object, Bucket=bucket, Key="x", CopySource=missing)
    assert (status, code) == (404, "NoSuchKey")


def test_a_bucket_in_use_cannot_be_removed(s3, bucket):
    s3.head_bucket(Bucket=bucket)
    assert bucket in [entry["Name"] for entry in s3.list_buckets()["Buckets"]]
    s3.put_object(Bucket=bucket, Key="k", Body=b"")
    assert refused(s3.delete_bucket, Bucket=bucket) == (409, "BucketNotEmpty")
    assert refused(s3.create_bucket, Bucket="Not_Allowed..Name")[0] == 400


def test_wrong_keys_and_no_keys_are_refused(server, bucket):
    for changes, code in (
        ({"secret_key": "wrong"}, "SignatureDoesNotMatch"),
        ({"access_key": "NOBODY"}, "InvalidAccessKeyId"),
        ({"signature_version": UNSIGNED}, "AccessDenied"),
    ):
        client = server.client(**changes)
        try:
            assert refused(client.list_objects_v2, Bucket=bucket) == (403, code)
        finally:
            client.close()


@pytest.mark.parametrize("algorithm", ["CRC32", "SHA1", "SHA256"])
def test_checksums_of_the_sdk_are_accepted(s3, bucket, algorithm):
    s3.put_object(Bucket=bucket, Key="k", Body=BODY, ChecksumAlgorithm=algorithm)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == BODY
