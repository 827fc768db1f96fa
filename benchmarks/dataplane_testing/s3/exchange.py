"""Requests and responses as the operations see them: read, named, and not yet sent.

Also the rules by which a method, a path and a query become one of S3's operations. Pure data and
functions; a request belongs to the thread of its connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

from dataplane_testing.s3.http import ConnectionReader, RequestHead
from dataplane_testing.s3.model import S3Error
from dataplane_testing.s3.sigv4 import Signing

__all__ = ["Request", "Response", "name_operation", "split_path"]

# Parts of S3 that are recognised, so that they are refused instead of mistaken for something else.
_NOT_HERE = frozenset(
    {
        "accelerate",
        "acl",
        "analytics",
        "attributes",
        "cors",
        "encryption",
        "inventory",
        "legal-hold",
        "lifecycle",
        "logging",
        "metrics",
        "notification",
        "object-lock",
        "ownershipControls",
        "policy",
        "policyStatus",
        "publicAccessBlock",
        "replication",
        "requestPayment",
        "restore",
        "retention",
        "select",
        "session",
        "tagging",
        "torrent",
        "versions",
        "website",
    }
)


class Request:
    """One request: its head, its bucket, key and operation, and the body still to be read."""

    __slots__ = ("bucket", "head", "key", "operation", "parameters", "reader", "signing")

    def __init__(self, head: RequestHead, reader: ConnectionReader) -> None:
        self.head = head
        self.reader = reader
        self.operation = ""
        self.bucket = ""
        self.key = ""
        self.parameters: Mapping[str, str] = {}
        self.signing: Signing | None = None


class Response:
    """A response: a status, header lines that each end in CRLF, and a body from memory or a file.

    Attributes:
        fd: open file that holds the body, or -1. The sender of the response closes it.
        start: start of the body in the file.
        length: length of the body; also the one that a HEAD declares without sending it.
        range: `[start, stop)` of a 206, for the log.
        bodiless: whether neither a body nor a Content-Length goes with it (204, 304).
    """

    __slots__ = ("bodiless", "body", "fd", "headers", "length", "range", "start", "status")

    def __init__(self, status: int = 200, headers: str = "", body: bytes = b"") -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.fd = -1
        self.start = 0
        self.length = len(body)
        self.range: tuple[int, int] | None = None
        self.bodiless = status in {204, 304}

    @classmethod
    def xml(cls, body: bytes, status: int = 200) -> Response:
        """Make a response of a document."""
        return cls(status, "Content-Type: application/xml\r\n", body)


def split_path(path: str) -> tuple[str, str]:
    """Return bucket and key of a path-style path; either may be empty.

    The key is everything after the second slash, decoded once and otherwise left alone.

    Raises:
        S3Error: it is not UTF-8 below its percent signs.
    """
    bucket, _, key = path[1:].partition("/")
    try:
        if "%" in path:
            return unquote_to_bytes(bucket).decode(), unquote_to_bytes(key).decode()
    except UnicodeDecodeError:
        raise S3Error(400, "InvalidURI", "Couldn't parse the specified URI.") from None
    return bucket, key


def name_operation(request: Request) -> str:
    """Return S3's name of the operation that a request asks for.

    Raises:
        S3Error: an operation that this endpoint does not have.
    """
    method, parameters = request.head.method, request.parameters
    if parameters and not _NOT_HERE.isdisjoint(parameters):
        raise _not_here(next(iter(_NOT_HERE.intersection(parameters))))
    if request.key:
        name = _name_object_operation(request, method, parameters)
    elif request.bucket:
        name = _name_bucket_operation(method, parameters)
    else:
        name = "ListBuckets" if method == "GET" else None
    if name is None:
        raise S3Error(
            405, "MethodNotAllowed", "The specified method is not allowed against this resource."
        )
    return name


def _name_object_operation(
    request: Request, method: str, parameters: Mapping[str, str]
) -> str | None:
    if method == "GET":
        return "ListParts" if "uploadId" in parameters else "GetObject"
    if method == "PUT":
        copies = "x-amz-copy-source" in request.head.headers
        if "uploadId" in parameters:
            if copies:
                raise _not_here("UploadPartCopy")
            return "UploadPart"
        return "CopyObject" if copies else "PutObject"
    if method == "POST":
        if "uploads" in parameters:
            return "CreateMultipartUpload"
        return "CompleteMultipartUpload" if "uploadId" in parameters else None
    if method == "DELETE":
        return "AbortMultipartUpload" if "uploadId" in parameters else "DeleteObject"
    return "HeadObject" if method == "HEAD" else None


def _name_bucket_operation(method: str, parameters: Mapping[str, str]) -> str | None:
    if method == "GET":
        if "location" in parameters:
            return "GetBucketLocation"
        if "versioning" in parameters:
            return "GetBucketVersioning"
        if "uploads" in parameters:
            return "ListMultipartUploads"
        return "ListObjectsV2" if parameters.get("list-type") == "2" else "ListObjects"
    if method == "POST":
        return "DeleteObjects" if "delete" in parameters else None
    if method == "PUT" and "versioning" in parameters:
        raise _not_here("versioning")
    return {"HEAD": "HeadBucket", "PUT": "CreateBucket", "DELETE": "DeleteBucket"}.get(method)


def _not_here(name: str) -> S3Error:
    return S3Error(501, "NotImplemented", f"{name} is not implemented by this endpoint")
