"""Request bodies: read whole or not at all, with a check of every digest the client declared.

Three framings arrive at S3: plain, aws-chunked with a signature per chunk, and aws-chunked with
trailing headers (what current SDKs send when the checksum is computed on the way). All are decoded
here, hashed once (MD5 for the ETag, plus declared digests) and handed to a sink piece by piece.

A body is good only when `receive_body` returns; until then the sink's bytes mean nothing. Runs on
the connection's thread and keeps no state.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from dataplane import _native
from dataplane_testing.s3.http import ConnectionReader, RequestHead
from dataplane_testing.s3.model import S3Error
from dataplane_testing.s3.sigv4 import UNSIGNED_PAYLOAD, Signing

__all__ = ["ReceivedBody", "body_size", "receive_body"]

_CHUNK_LINE_BYTES = 256
_TRAILER_LINE_BYTES = 1024
_MAX_TRAILERS = 8
_READ_BYTES = 1 << 20
_CHUNK_LINE = re.compile(rb"([0-9a-fA-F]{1,12})(?:;chunk-signature=([0-9a-f]{64}))?")
_CHECKSUM_PREFIX = "x-amz-checksum-"
_NOT_CHECKSUMS = frozenset(
    {"x-amz-checksum-mode", "x-amz-checksum-algorithm", "x-amz-checksum-type"}
)


@dataclass(frozen=True, slots=True)
class ReceivedBody:
    """A body that arrived whole and matches its declared digests and lengths.

    Attributes:
        size_bytes: decoded length of the body.
        md5: hex MD5 of it: the ETag of a simple object.
        checksum: header name and base64 value of the checksum it was sent with, if any.
    """

    size_bytes: int
    md5: str
    checksum: tuple[str, str] | None


class _Digest(Protocol):
    def update(self, data: memoryview, /) -> None: ...
    def digest(self) -> bytes: ...


class _Crc:
    """A CRC-32 with the interface of hashlib."""

    def __init__(self, step: Callable[[memoryview, int], int]) -> None:
        self._step = step
        self._value = 0

    def update(self, data: memoryview, /) -> None:
        self._value = self._step(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


_CHECKSUMS: dict[str, Callable[[], _Digest]] = {
    "x-amz-checksum-crc32": lambda: _Crc(zlib.crc32),
    "x-amz-checksum-crc32c": lambda: _Crc(_native.crc32c),
    "x-amz-checksum-sha1": lambda: hashlib.sha1(usedforsecurity=False),
    "x-amz-checksum-sha256": hashlib.sha256,
}
# Known to S3 but not worth computing in Python: taken on trust, and not told back.
_UNCHECKED = frozenset({"x-amz-checksum-crc64nvme"})


class _Meter:
    """A filter that passes bytes to the sink, hashing them on the way."""

    def __init__(self, sink: Callable[[memoryview], object], limit_bytes: int) -> None:
        self._sink = sink
        self._limit_bytes = limit_bytes
        self.size_bytes = 0
        self.md5 = hashlib.md5(usedforsecurity=False)
        self.digests: list[_Digest] = [self.md5]

    def write(self, part: memoryview) -> None:
        self.size_bytes += len(part)
        if self.size_bytes > self._limit_bytes:
            raise _too_large(self._limit_bytes)
        for digest in self.digests:
            digest.update(part)
        self._sink(part)


def body_size(head: RequestHead, *, required: bool) -> int:
    """Return the declared length on the wire.

    Raises:
        S3Error: it is malformed, or absent where it is required.
    """
    size = head.content_length()
    if size is None and required:
        raise S3Error(
            411,
            "MissingContentLength",
            "You must provide the Content-Length HTTP header.",
            close=True,
        )
    return size or 0


def receive_body(
    reader: ConnectionReader,
    head: RequestHead,
    signing: Signing | None,
    *,
    sink: Callable[[memoryview], object],
    limit_bytes: int,
) -> ReceivedBody:
    """Read the request's body into `sink`, checking length, signature and checksums.

    Raises:
        S3Error: it is too large, malformed, or does not match its declaration.
        OSError: the client left, or the sink failed.
    """
    payload = _payload_kind(head, signing)
    if payload.startswith("STREAMING-"):
        declared = head.headers.get("x-amz-decoded-content-length", "")
        if not re.fullmatch(r"[0-9]{1,18}", declared):
            raise S3Error(
                411, "MissingContentLength", "x-amz-decoded-content-length is missing", close=True
            )
        size_bytes = int(declared)
    else:
        size_bytes = reader.body_left
    if size_bytes > limit_bytes:
        raise _too_large(limit_bytes)
    meter = _Meter(sink, limit_bytes)
    declared_md5 = head.headers.get("content-md5")
    checksum_name = _checksum_name(head)
    checksum = _CHECKSUMS[checksum_name]() if checksum_name in _CHECKSUMS else None
    if checksum is not None:
        meter.digests.append(checksum)
    trailers: dict[str, str] = {}
    if payload.startswith("STREAMING-"):
        trailers = _receive_chunks(reader, meter, signing if "AWS4-HMAC" in payload else None)
    else:
        _receive_plain(reader, meter, payload)
    if meter.size_bytes != size_bytes:
        raise S3Error(
            400,
            "IncompleteBody",
            f"the body has {meter.size_bytes} bytes, {size_bytes} were declared",
            close=True,
        )
    if declared_md5 is not None and meter.md5.digest() != _decode_base64(declared_md5, 16):
        raise S3Error(400, "BadDigest", "The Content-MD5 you specified did not match the body.")
    if checksum is None or checksum_name is None:
        return ReceivedBody(size_bytes, meter.md5.hexdigest(), None)
    claimed = head.headers.get(checksum_name, trailers.get(checksum_name))
    computed = base64.b64encode(checksum.digest()).decode()
    if claimed != computed:
        raise S3Error(
            400, "BadDigest", f"The {checksum_name} you specified did not match the body."
        )
    return ReceivedBody(size_bytes, meter.md5.hexdigest(), (checksum_name, computed))


def _payload_kind(head: RequestHead, signing: Signing | None) -> str:
    """Return the required kind of the body: a hex SHA-256, unsigned, or a streaming framing."""
    if signing is not None:
        payload = signing.payload
    else:
        payload = head.headers.get("x-amz-content-sha256", UNSIGNED_PAYLOAD)
        if payload.startswith("STREAMING-AWS4-HMAC"):
            raise S3Error(400, "InvalidRequest", "signed chunks need a signed request", close=True)
    known = {
        UNSIGNED_PAYLOAD,
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
    }
    if payload not in known and not re.fullmatch(r"[0-9a-f]{64}", payload):
        raise S3Error(
            400, "InvalidRequest", "x-amz-content-sha256 is not one that is supported", close=True
        )
    return payload


def _checksum_name(head: RequestHead) -> str | None:
    names = [
        name
        for name in head.headers
        if name.startswith(_CHECKSUM_PREFIX) and name not in _NOT_CHECKSUMS
    ]
    trailer = head.headers.get("x-amz-trailer", "").strip().lower()
    if trailer:
        names.append(trailer)
    if not names:
        return None
    if len(names) > 1 or (names[0] not in _CHECKSUMS and names[0] not in _UNCHECKED):
        raise S3Error(
            400, "InvalidRequest", "expecting a single, known x-amz-checksum- header", close=True
        )
    return names[0]


def _receive_plain(reader: ConnectionReader, meter: _Meter, payload: str) -> None:
    sha256 = None
    if payload != UNSIGNED_PAYLOAD:
        sha256 = hashlib.sha256()
        meter.digests.append(sha256)
    while part := reader.read_body(_READ_BYTES):
        meter.write(part)
    if sha256 is not None and sha256.hexdigest() != payload:
        raise S3Error(
            400,
            "XAmzContentSHA256Mismatch",
            "The provided 'x-amz-content-sha256' header does not match what was computed.",
        )


def _receive_chunks(
    reader: ConnectionReader, meter: _Meter, signing: Signing | None
) -> dict[str, str]:
    """Decode aws-chunked; return the trailing headers."""
    while True:
        match = _CHUNK_LINE.fullmatch(reader.read_line(_CHUNK_LINE_BYTES))
        if match is None or (signing is not None and match[2] is None):
            raise S3Error(400, "InvalidRequest", "a chunk's header is malformed", close=True)
        left = int(match[1], 16)
        last = left == 0
        sha256 = hashlib.sha256() if signing is not None else None
        while left:
            part = reader.read_body(min(left, _READ_BYTES))
            if not part:
                raise S3Error(400, "IncompleteBody", "a chunk ends early", close=True)
            left -= len(part)
            if sha256 is not None:
                sha256.update(part)
            meter.write(part)
        if signing is not None and sha256 is not None:
            signing.check_chunk(match[2].decode(), sha256.hexdigest())
        if last:
            return _receive_trailers(reader, signing)
        if reader.read_line(_CHUNK_LINE_BYTES):
            raise S3Error(400, "InvalidRequest", "a chunk is longer than it said", close=True)


def _receive_trailers(reader: ConnectionReader, signing: Signing | None) -> dict[str, str]:
    trailers: dict[str, str] = {}
    text = b""
    while reader.body_left:
        line = reader.read_line(_TRAILER_LINE_BYTES)
        if not line:
            break
        name, _, value = line.decode("latin-1").partition(":")
        name = name.strip().lower()
        if name == "x-amz-trailer-signature":
            if signing is not None:
                signing.check_trailer(value.strip(), text)
                signing = None
            continue
        trailers[name] = value.strip()
        text += f"{name}:{value.strip()}\n".encode("latin-1")
        if len(trailers) > _MAX_TRAILERS:
            raise S3Error(400, "InvalidRequest", "too many trailing headers", close=True)
    if reader.body_left:
        raise S3Error(400, "IncompleteBody", "bytes follow the last chunk", close=True)
    if trailers and signing is not None:
        raise S3Error(403, "SignatureDoesNotMatch", "the trailer is not signed", close=True)
    return trailers


def _decode_base64(text: str, size_bytes: int) -> bytes:
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        value = b""
    if len(value) != size_bytes:
        raise S3Error(400, "InvalidDigest", "The Content-MD5 you specified is not valid.")
    return value


def _too_large(limit_bytes: int) -> S3Error:
    return S3Error(
        400,
        "EntityTooLarge",
        f"Your proposed upload exceeds the maximum allowed size of {limit_bytes} bytes",
        close=True,
    )
