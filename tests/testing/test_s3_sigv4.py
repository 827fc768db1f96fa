"""Signatures: AWS's published examples, what SDKs send, and what must be refused."""

from __future__ import annotations

import base64
import hashlib
import io
import urllib.error
import urllib.request
import zlib

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from botocore.httpchecksum import AwsChunkedWrapper, Crc32Checksum

from dataplane import _native
from dataplane_testing.s3 import Limits, S3Endpoint
from dataplane_testing.s3.http import parse_head
from dataplane_testing.s3.model import S3Error
from dataplane_testing.s3.sigv4 import EMPTY_SHA256, Verifier, split_query

# Source: the S3 reference, "Signature Calculations for the Authorization Header".
AWS_KEY = "AKIAIOSFODNN7EXAMPLE"
AWS_SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
AWS_NOW = 1369353600.0  # 20130524T000000Z


def aws_verifier(**changes):
    return Verifier({AWS_KEY: AWS_SECRET}, now=lambda: changes.get("now", AWS_NOW))


def aws_head(first_line, signed, signature, *headers):
    credential = f"{AWS_KEY}/20130524/us-east-1/s3/aws4_request"
    lines = [
        first_line,
        "Host: examplebucket.s3.amazonaws.com",
        f"Authorization: AWS4-HMAC-SHA256 Credential={credential},"
        f"SignedHeaders={signed},Signature={signature}",
        "x-amz-date: 20130524T000000Z",
        *headers,
    ]
    return parse_head("\r\n".join(lines).encode(), Limits())


GET_EXAMPLE = aws_head(
    "GET /test.txt HTTP/1.1",
    "host;range;x-amz-content-sha256;x-amz-date",
    "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
    "Range: bytes=0-9",
    f"x-amz-content-sha256: {EMPTY_SHA256}",
)


def test_the_published_get_is_accepted():
    signing = aws_verifier().verify(GET_EXAMPLE, {})
    assert signing is not None
    assert signing.payload == EMPTY_SHA256


def test_the_published_listing_is_accepted():
    head = aws_head(
        "GET /?max-keys=2&prefix=J HTTP/1.1",
        "host;x-amz-content-sha256;x-amz-date",
        "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        f"x-amz-content-sha256: {EMPTY_SHA256}",
    )
    assert aws_verifier().verify(head, split_query(head.query)) is not None


def test_the_published_put_with_an_escaped_path_is_accepted():
    head = aws_head(
        "PUT /test%24file.text HTTP/1.1",
        "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
        "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        "Date: Fri, 24 May 2013 00:00:00 GMT",
        "x-amz-storage-class: REDUCED_REDUNDANCY",
        "x-amz-content-sha256: 44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
    )
    assert aws_verifier().verify(head, {}) is not None


PRESIGNED = (
    "X-Amz-Algorithm=AWS4-HMAC-SHA256"
    "&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"
    "&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
    "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
)


def presigned_head(query=PRESIGNED):
    return parse_head(
        f"GET /test.txt?{query} HTTP/1.1\r\nHost: examplebucket.s3.amazonaws.com".encode(), Limits()
    )


def test_the_published_presigned_url_is_accepted_until_it_expires():
    head = presigned_head()
    parameters = split_query(head.query)
    assert aws_verifier(now=AWS_NOW + 86399).verify(head, parameters) is not None
    with pytest.raises(S3Error, match="expired"):
        aws_verifier(now=AWS_NOW + 86401).verify(head, parameters)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Expires=86400", "Expires=86401"),
        ("Expires=86400", "Expires=999999"),
        ("SignedHeaders=host", "SignedHeaders=date"),
        ("&X-Amz-Date=20130524T000000Z", ""),
        ("aeeed9", "beeed9"),
        ("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA1"),
        (AWS_KEY, "AKIDOTHER"),
    ],
)
def test_a_changed_presigned_url_is_refused(old, new):
    head = presigned_head(PRESIGNED.replace(old, new))
    with pytest.raises(S3Error) as caught:
        aws_verifier().verify(head, split_query(head.query))
    assert caught.value.status in {400, 403}


def test_the_published_chain_of_chunk_signatures_is_accepted():
    head = aws_head(
        "PUT /examplebucket/chunkObject.txt HTTP/1.1",
        "content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;"
        "x-amz-decoded-content-length;x-amz-storage-class",
        "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9",
        "Content-Encoding: aws-chunked",
        "x-amz-decoded-content-length: 66560",
        "x-amz-storage-class: REDUCED_REDUNDANCY",
        "Content-Length: 66824",
        "x-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
    )
    head.headers["host"] = "s3.amazonaws.com"
    signing = aws_verifier().verify(head, {})
    assert signing is not None
    chunks = [
        ("ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648", 65536),
        ("0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497", 1024),
        ("b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9", 0),
    ]
    for signature, size in chunks:
        signing.check_chunk(signature, hashlib.sha256(b"a" * size).hexdigest())
    with pytest.raises(S3Error) as caught:
        signing.check_chunk(chunks[0][0], hashlib.sha256(b"").hexdigest())
    assert caught.value.code == "SignatureDoesNotMatch"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"range": "bytes=0-10"}, "SignatureDoesNotMatch"),
        ({"x-amz-content-sha256": "UNSIGNED-PAYLOAD"}, "SignatureDoesNotMatch"),
        ({"x-amz-content-sha256": None}, "InvalidRequest"),
        ({"x-amz-date": "20130524T000001Z"}, "SignatureDoesNotMatch"),
        ({"x-amz-date": "yesterday"}, "AccessDenied"),
        ({"authorization": "AWS4-HMAC-SHA256 nonsense"}, "AuthorizationHeaderMalformed"),
        ({"authorization": "Basic YTpi"}, "AuthorizationHeaderMalformed"),
        ({"authorization": None}, "AccessDenied"),
    ],
)
def test_a_changed_request_is_refused(change, code):
    head = parse_head(b"GET /test.txt HTTP/1.1\r\nHost: h", Limits())
    head.headers = {**GET_EXAMPLE.headers, **change}
    head.headers = {name: value for name, value in head.headers.items() if value is not None}
    with pytest.raises(S3Error) as caught:
        aws_verifier().verify(head, {})
    assert caught.value.code == code


def test_a_request_from_another_time_is_refused():
    for now in (AWS_NOW - 901, AWS_NOW + 901):
        with pytest.raises(S3Error) as caught:
            aws_verifier(now=now).verify(GET_EXAMPLE, {})
        assert caught.value.code == "RequestTimeTooSkewed"


def test_wrong_keys_are_refused_as_s3_does(endpoint, boto_client):
    def code(**keys):
        with pytest.raises(ClientError) as caught:
            boto_client(endpoint, **keys).list_objects_v2(Bucket="data")
        response = caught.value.response
        return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]

    assert code(secret_key="wrong") == (403, "SignatureDoesNotMatch")
    assert code(access_key="nobody") == (403, "InvalidAccessKeyId")


def test_anonymous_requests_are_refused_unless_allowed(endpoint, open_endpoint, connect):
    open_endpoint.put("data", "a", b"x")
    endpoint.put("data", "a", b"x")
    status, _, body = connect(endpoint).get("/data/a")
    assert (status, b"<Code>AccessDenied</Code>" in body) == (403, True)
    assert connect(open_endpoint).get("/data/a")[0] == 200


def test_a_wrong_signature_is_refused_even_where_anonymous_requests_are_allowed(
    open_endpoint, boto_client
):
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        boto_client(open_endpoint, secret_key="wrong").list_objects_v2(Bucket="data")


def test_presigned_urls_of_boto3_work_for_get_and_put(endpoint, boto_client):
    client = boto_client(endpoint, signature_version="s3v4")
    target = {"Bucket": "data", "Key": "a b/ü+&=.txt"}
    url = client.generate_presigned_url("put_object", Params=target)
    request = urllib.request.Request(url, data=b"hello", method="PUT")
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200
    url = client.generate_presigned_url("get_object", Params=target)
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.read() == b"hello"
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(url.replace("Signature=", "Signature=0"), timeout=10)
    with caught.value:
        assert caught.value.code == 403


def signed_put(endpoint: S3Endpoint, key: str, body: bytes, payload: str, **headers: str) -> bytes:
    """Return a signed PUT as bytes, with a body that may be anything."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    request = AWSRequest(
        "PUT",
        f"{endpoint.url}/data/{key}",
        headers={**headers, "X-Amz-Content-SHA256": payload},
        data=b"",
    )
    request.context["payload_signing_enabled"] = False

    class Auth(S3SigV4Auth):
        def payload(self, request):
            return payload

    Auth(Credentials(endpoint.access_key, endpoint.secret_key), "s3", endpoint.region).add_auth(
        request
    )
    lines = {**dict(request.headers), "Host": f"127.0.0.1:{endpoint.port}"}
    lines["Content-Length"] = str(len(body))
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"PUT /data/{key} HTTP/1.1\r\n{head}\r\n".encode() + body


def chunked(data: bytes, chunk_size: int) -> bytes:
    """Frame a body as botocore does, with a CRC-32 trailer."""
    return AwsChunkedWrapper(
        io.BytesIO(data),
        checksum_cls=Crc32Checksum,
        checksum_name="x-amz-checksum-crc32",
        chunk_size=chunk_size,
    ).read()


@pytest.mark.parametrize("size", [0, 1, 1000, 3_000_000])
@pytest.mark.parametrize("chunk_size", [1000, 1 << 20])
def test_bodies_in_aws_chunks_with_a_trailer_are_decoded(
    endpoint, connect, boto_client, size, chunk_size
):
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    client = connect(endpoint)
    client.send(
        signed_put(
            endpoint,
            "chunked",
            chunked(data, chunk_size),
            "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
            content_encoding="gzip,aws-chunked",
            x_amz_decoded_content_length=str(size),
            x_amz_trailer="x-amz-checksum-crc32",
        )
    )
    status, headers, body = client.answer()
    assert status == 200, body
    expected = base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
    assert headers["x-amz-checksum-crc32"] == expected
    answer = boto_client(endpoint).get_object(Bucket="data", Key="chunked")
    assert answer["Body"].read() == data
    assert answer["ContentEncoding"] == "gzip"


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda body: body.replace(b"a", b"b", 1), b"BadDigest"),
        (lambda body: body.replace(b"crc32:", b"crc32:A"), b"BadDigest"),
        (lambda body: body.replace(b"x-amz-checksum-crc32", b"x-other"), b"BadDigest"),
        (lambda body: b"z" + body, b"InvalidRequest"),
        (lambda body: body.replace(b"64\r\n", b"63\r\n", 1), b"InvalidRequest"),
        (lambda body: body.replace(b"64\r\n", b"65\r\n", 1), b"InvalidRequest"),
        (lambda body: body.replace(b"64\r\n", b"fffffff\r\n", 1), b"EntityTooLarge"),
        (lambda body: body + b"more", b"IncompleteBody"),
        (lambda body: body[:-30], b"IncompleteBody"),
        (lambda _: b"0" * 5000, b"IncompleteBody"),
        (lambda _: b"0\r\n\r\n", b"IncompleteBody"),
    ],
)
def test_damaged_chunked_bodies_are_refused_and_leave_nothing(endpoint, connect, damage, code):
    client = connect(endpoint)
    client.send(
        signed_put(
            endpoint,
            "damaged",
            damage(chunked(b"a" * 100, 1 << 20)),
            "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
            x_amz_decoded_content_length="100",
            x_amz_trailer="x-amz-checksum-crc32",
        )
    )
    status, _, body = client.answer()
    assert status == 400
    if code != b"EntityTooLarge":
        assert b"<Code>%s</Code>" % code in body
    assert list((endpoint.root / "staging").iterdir()) == []
    assert not list((endpoint.root / "buckets").rglob("*.json"))


def test_signed_chunks_need_their_signatures(endpoint, connect):
    for body in (b"5\r\nhello\r\n0\r\n\r\n", b"5;chunk-signature=" + b"0" * 64 + b"\r\nhello\r\n"):
        client = connect(endpoint)
        client.send(
            signed_put(
                endpoint,
                "signed",
                body,
                "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
                x_amz_decoded_content_length="5",
            )
        )
        assert client.answer()[0] in {400, 403}


def test_a_body_must_match_its_signed_digest(endpoint, connect):
    client = connect(endpoint)
    good = hashlib.sha256(b"hello").hexdigest()
    client.send(signed_put(endpoint, "digest", b"hallo", good))
    status, _, body = client.answer()
    assert (status, b"XAmzContentSHA256Mismatch" in body) == (400, True)
    client.send(signed_put(endpoint, "digest", b"hello", good))
    assert client.answer()[0] == 200


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("x_amz_checksum_crc32", lambda data: zlib.crc32(data).to_bytes(4, "big")),
        ("x_amz_checksum_crc32c", lambda data: _native.crc32c(data).to_bytes(4, "big")),
        ("x_amz_checksum_sha1", lambda data: hashlib.sha1(data).digest()),
        ("x_amz_checksum_sha256", lambda data: hashlib.sha256(data).digest()),
        ("content_md5", lambda data: hashlib.md5(data).digest()),
    ],
)
def test_declared_checksums_are_checked(endpoint, connect, name, digest):
    client = connect(endpoint)
    for data, status in ((b"hello", 200), (b"hallo", 400)):
        declared = {name: base64.b64encode(digest(b"hello")).decode()}
        client.send(signed_put(endpoint, "sum", data, "UNSIGNED-PAYLOAD", **declared))
        answer = client.answer()
        assert answer[0] == status, answer[2]


def test_a_malformed_content_md5_is_refused(endpoint, connect):
    client = connect(endpoint)
    client.send(signed_put(endpoint, "sum", b"hello", "UNSIGNED-PAYLOAD", content_md5="?"))
    status, _, body = client.answer()
    assert (status, b"InvalidDigest" in body) == (400, True)
