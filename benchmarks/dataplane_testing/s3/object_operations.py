"""Operations on objects: get, head, put, copy, delete."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

from dataplane_testing.s3.bodies import body_size, receive_body
from dataplane_testing.s3.conditions import is_unmodified, parse_range, write_precondition
from dataplane_testing.s3.documents import document, element, iso_date, read_document
from dataplane_testing.s3.exchange import Request, Response
from dataplane_testing.s3.model import S3Error
from dataplane_testing.s3.objects import (
    DEFAULT_CONTENT_TYPE,
    Attributes,
    ObjectVersion,
    append_file,
    check_key,
)
from dataplane_testing.s3.service import Operation, Service

__all__ = ["OPERATIONS", "read_attributes", "receive_document"]

_MAX_DELETED = 1000
_MAX_METADATA_BYTES = 2048
_KEPT_HEADERS = {
    "cache-control": "Cache-Control",
    "content-disposition": "Content-Disposition",
    "content-encoding": "Content-Encoding",
    "content-language": "Content-Language",
    "content-type": "Content-Type",
    "expires": "Expires",
}
_USER_PREFIX = "x-amz-meta-"


def get_object(service: Service, request: Request) -> Response:
    """Respond with an object or a range of it, from a file that stays open until it is sent."""
    version, fd = service.files.open(request.bucket, request.key)
    try:
        response = _describe(version, request.head.headers)
        if response.status != 304:
            response.fd = fd
        # The version is open, so this GET sees the old bytes even if it is the last to do so.
        service.replacements.note_get(request.bucket, request.key)
    except BaseException:
        os.close(fd)
        raise
    if response.fd < 0:
        os.close(fd)
    return response


def head_object(service: Service, request: Request) -> Response:
    """Describe an object as its GET would, without the body."""
    return _describe(service.files.find(request.bucket, request.key), request.head.headers)


def _describe(version: ObjectVersion, headers: Mapping[str, str]) -> Response:
    if is_unmodified(headers, version):
        return Response(304, version.head)
    wanted = headers.get("range")
    span = None if wanted is None else parse_range(wanted, version.size_bytes)
    if span is None:
        response = Response(200, version.head)
        response.length = version.size_bytes
        checksum = version.attributes.checksum
        if checksum is not None and headers.get("x-amz-checksum-mode", "").upper() == "ENABLED":
            response.headers += f"{checksum[0]}: {checksum[1]}\r\n"
        return response
    start, stop = span
    content_range = f"Content-Range: bytes {start}-{stop - 1}/{version.size_bytes}\r\n"
    response = Response(206, version.head + content_range)
    response.start, response.length, response.range = start, stop - start, span
    return response


def put_object(service: Service, request: Request) -> Response:
    """Store the body as the object's next version."""
    service.files.require_bucket(request.bucket)
    check_key(request.key)
    precondition = write_precondition(request.head.headers)
    attributes = read_attributes(request.head.headers)
    body_size(request.head, required=True)
    with service.files.stage() as staged:
        received = receive_body(
            request.reader,
            request.head,
            request.signing,
            sink=staged.write,
            limit_bytes=service.limits.object_bytes,
        )
        version = service.files.commit(
            request.bucket,
            request.key,
            staged,
            etag=f'"{received.md5}"',
            attributes=Attributes(attributes, received.checksum),
            precondition=precondition,
        )
    headers = f"ETag: {version.etag}\r\n"
    if received.checksum is not None:
        headers += f"{received.checksum[0]}: {received.checksum[1]}\r\n"
    return Response(200, headers)


def copy_object(service: Service, request: Request) -> Response:
    """Copy an object inside the endpoint."""
    bucket, key = _copy_source(request.head.headers["x-amz-copy-source"])
    service.files.require_bucket(request.bucket)
    source, fd = service.files.open(bucket, key)
    try:
        _check_copy_conditions(request.head.headers, source)
        if request.head.headers.get("x-amz-metadata-directive", "COPY").upper() == "REPLACE":
            attributes = Attributes(read_attributes(request.head.headers))
        elif (bucket, key) == (request.bucket, request.key):
            raise S3Error(
                400,
                "InvalidRequest",
                "This copy request is illegal because it is trying to copy an object to itself "
                "without changing the object's metadata.",
            )
        else:
            attributes = source.attributes
        with service.files.stage() as staged:
            append_file(fd, staged.fd, source.size_bytes)
            # The copy of an object that was made of parts keeps its tag: equal tag, equal bytes.
            version = service.files.commit(
                request.bucket,
                request.key,
                staged,
                etag=source.etag,
                attributes=attributes,
                precondition=write_precondition(request.head.headers),
            )
    finally:
        os.close(fd)
    return Response.xml(
        document(
            "CopyObjectResult",
            element("LastModified", iso_date(version.modified_s)),
            element("ETag", version.etag),
        )
    )


def delete_object(service: Service, request: Request) -> Response:
    """Remove an object, or do nothing where there is none."""
    service.files.delete(request.bucket, request.key)
    return Response(204)


def delete_objects(service: Service, request: Request) -> Response:
    """Remove many objects in one request."""
    items, fields = read_document(receive_document(service, request), "Delete", "Object")
    if not 0 < len(items) <= _MAX_DELETED:
        raise S3Error(400, "MalformedXML", f"a Delete names 1 to {_MAX_DELETED} objects")
    service.files.require_bucket(request.bucket)
    parts = []
    for item in items:
        key = item.get("Key", "")
        if not key:
            raise S3Error(400, "MalformedXML", "an Object has no Key")
        service.files.delete(request.bucket, key)
        if fields.get("Quiet", "false").lower() != "true":
            parts.append(f"<Deleted>{element('Key', key)}</Deleted>")
    return Response.xml(document("DeleteResult", *parts))


def receive_document(service: Service, request: Request) -> bytes:
    """Read a request's body that is a document."""
    body_size(request.head, required=True)
    text = bytearray()
    receive_body(
        request.reader,
        request.head,
        request.signing,
        sink=text.extend,
        limit_bytes=service.limits.document_bytes,
    )
    return bytes(text)


def read_attributes(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the attributes of a write that later responses repeat.

    Raises:
        S3Error: more user metadata than S3 allows.
    """
    kept = {"Content-Type": DEFAULT_CONTENT_TYPE}
    user_bytes = 0
    for name, value in headers.items():
        if name in _KEPT_HEADERS:
            kept[_KEPT_HEADERS[name]] = value
        elif name.startswith(_USER_PREFIX):
            kept[name] = value
            user_bytes += len(name) - len(_USER_PREFIX) + len(value)
    if user_bytes > _MAX_METADATA_BYTES:
        raise S3Error(
            400, "MetadataTooLarge", f"user metadata is larger than {_MAX_METADATA_BYTES} bytes"
        )
    # The framing of the upload is not a property of the object.
    encoding = kept.get("Content-Encoding", "").split(",")
    kept["Content-Encoding"] = ",".join(
        part.strip() for part in encoding if part.strip().lower() != "aws-chunked"
    )
    return {name: value for name, value in kept.items() if value}


def _copy_source(text: str) -> tuple[str, str]:
    path, _, version = text.partition("?versionId=")
    if version not in {"", "null"}:
        raise S3Error(501, "NotImplemented", "versions are not implemented by this endpoint")
    try:
        bucket, _, key = unquote_to_bytes(path).decode().removeprefix("/").partition("/")
    except UnicodeDecodeError:
        bucket = key = ""
    if not bucket or not key:
        raise S3Error(400, "InvalidArgument", "Copy Source must mention the source bucket and key")
    return bucket, key


def _check_copy_conditions(headers: Mapping[str, str], source: ObjectVersion) -> None:
    prefix = "x-amz-copy-source-if-"
    conditions = {
        f"if-{name.removeprefix(prefix)}": value
        for name, value in headers.items()
        if name.startswith(prefix)
    }
    if is_unmodified(conditions, source):
        raise S3Error(412, "PreconditionFailed", "a condition on the copy's source did not hold")


OPERATIONS: dict[str, Operation] = {
    "CopyObject": copy_object,
    "DeleteObject": delete_object,
    "DeleteObjects": delete_objects,
    "GetObject": get_object,
    "HeadObject": head_object,
    "PutObject": put_object,
}
