"""Operations on buckets: create, head, list, delete."""

from __future__ import annotations

import re
from urllib.parse import quote

from dataplane_testing.s3.bodies import receive_body
from dataplane_testing.s3.documents import document, element, iso_date, listing_document
from dataplane_testing.s3.exchange import Request, Response
from dataplane_testing.s3.listing import (
    MAX_KEYS,
    PageRequest,
    decode_token,
    encode_token,
    list_page,
)
from dataplane_testing.s3.model import S3Error
from dataplane_testing.s3.service import Operation, Service

__all__ = ["OPERATIONS"]


def list_buckets(service: Service, request: Request) -> Response:
    """List all buckets."""
    del request
    buckets = "".join(
        f"<Bucket>{element('Name', name)}{element('CreationDate', iso_date(created_s))}</Bucket>"
        for name, created_s in service.files.buckets()
    )
    owner = "<Owner><ID>dataplane</ID><DisplayName>dataplane</DisplayName></Owner>"
    body = document("ListAllMyBucketsResult", owner, f"<Buckets>{buckets}</Buckets>")
    return Response.xml(body)


def create_bucket(service: Service, request: Request) -> Response:
    """Make a bucket. The configuration in the body (a region) is read and not used."""
    receive_body(
        request.reader,
        request.head,
        request.signing,
        sink=lambda _: None,
        limit_bytes=service.limits.document_bytes,
    )
    service.files.create_bucket(request.bucket)
    return Response(200, f"Location: /{quote(request.bucket)}\r\n")


def head_bucket(service: Service, request: Request) -> Response:
    """Respond whether a bucket exists."""
    service.files.require_bucket(request.bucket)
    return Response(200, "x-amz-bucket-region: us-east-1\r\n")


def delete_bucket(service: Service, request: Request) -> Response:
    """Remove an empty bucket."""
    service.files.delete_bucket(request.bucket)
    return Response(204)


def get_bucket_location(service: Service, request: Request) -> Response:
    """Respond with a bucket's region: empty stands for us-east-1."""
    service.files.require_bucket(request.bucket)
    return Response.xml(document("LocationConstraint"))


def get_bucket_versioning(service: Service, request: Request) -> Response:
    """Respond that versioning was never switched on."""
    service.files.require_bucket(request.bucket)
    return Response.xml(document("VersioningConfiguration"))


def list_objects_v2(service: Service, request: Request) -> Response:
    """List a page of objects; the token of one page leads to the next."""
    parameters = request.parameters
    token = parameters.get("continuation-token")
    start_after = parameters.get("start-after", "")
    after = start_after if token is None else decode_token(token)
    wanted = _page_request(request, after)
    page = list_page(service.files.snapshot(request.bucket), wanted)
    extra = [element("KeyCount", len(page.objects) + len(page.prefixes))]
    url_encoded = _is_url_encoded(request)
    if token is not None:
        extra.append(element("ContinuationToken", token))
    if start_after:
        extra.append(element("StartAfter", quote(start_after) if url_encoded else start_after))
    if page.next_after is not None:
        extra.append(element("NextContinuationToken", encode_token(page.next_after)))
    body = listing_document(request.bucket, wanted, page, url_encoded=url_encoded, extra=extra)
    return Response.xml(body)


def list_objects(service: Service, request: Request) -> Response:
    """List a page of objects the old way: the next page begins after a marker."""
    marker = request.parameters.get("marker", "")
    wanted = _page_request(request, marker)
    page = list_page(service.files.snapshot(request.bucket), wanted)
    url_encoded = _is_url_encoded(request)
    extra = [element("Marker", quote(marker) if url_encoded else marker)]
    # Without a delimiter S3 leaves it to the client to go on from the last key it got.
    if page.next_after is not None and wanted.delimiter:
        following = quote(page.next_after) if url_encoded else page.next_after
        extra.append(element("NextMarker", following))
    body = listing_document(request.bucket, wanted, page, url_encoded=url_encoded, extra=extra)
    return Response.xml(body)


def _page_request(request: Request, after: str) -> PageRequest:
    parameters = request.parameters
    text = parameters.get("max-keys", str(MAX_KEYS))
    if not re.fullmatch(r"[0-9]{1,10}", text):
        raise S3Error(400, "InvalidArgument", "max-keys is not a number")
    return PageRequest(
        prefix=parameters.get("prefix", ""),
        delimiter=parameters.get("delimiter", ""),
        after=after,
        max_keys=min(int(text), MAX_KEYS),
    )


def _is_url_encoded(request: Request) -> bool:
    encoding = request.parameters.get("encoding-type", "")
    if encoding not in {"", "url"}:
        raise S3Error(400, "InvalidArgument", "Invalid Encoding Method specified in Request")
    return encoding == "url"


OPERATIONS: dict[str, Operation] = {
    "CreateBucket": create_bucket,
    "DeleteBucket": delete_bucket,
    "GetBucketLocation": get_bucket_location,
    "GetBucketVersioning": get_bucket_versioning,
    "HeadBucket": head_bucket,
    "ListBuckets": list_buckets,
    "ListObjects": list_objects,
    "ListObjectsV2": list_objects_v2,
}
