"""Operations on multipart uploads: create, add a part, complete, abort, list."""

from __future__ import annotations

import re
import time

from dataplane_testing.s3.bodies import body_size, receive_body
from dataplane_testing.s3.conditions import write_precondition
from dataplane_testing.s3.documents import document, element, iso_date, read_document
from dataplane_testing.s3.exchange import Request, Response
from dataplane_testing.s3.model import S3Error
from dataplane_testing.s3.object_operations import read_attributes, receive_document
from dataplane_testing.s3.objects import Attributes, check_key
from dataplane_testing.s3.service import Operation, Service
from dataplane_testing.s3.uploads import Part

__all__ = ["OPERATIONS"]

_NUMBER = re.compile(r"[0-9]{1,6}")


def create_multipart_upload(service: Service, request: Request) -> Response:
    """Begin an upload."""
    check_key(request.key)
    attributes = Attributes(read_attributes(request.head.headers))
    upload_id = service.uploads.create(request.bucket, request.key, attributes)
    return Response.xml(
        document(
            "InitiateMultipartUploadResult",
            element("Bucket", request.bucket),
            element("Key", request.key),
            element("UploadId", upload_id),
        )
    )


def upload_part(service: Service, request: Request) -> Response:
    """Take one part."""
    upload_id = request.parameters["uploadId"]
    number = request.parameters.get("partNumber", "")
    if not _NUMBER.fullmatch(number):
        raise S3Error(400, "InvalidArgument", "Part number must be an integer")
    service.uploads.find(request.bucket, request.key, upload_id)
    body_size(request.head, required=True)
    staged = service.files.stage()
    try:
        received = receive_body(
            request.reader,
            request.head,
            request.signing,
            sink=staged.write,
            limit_bytes=service.limits.object_bytes,
        )
        part = Part(int(number), staged, received.size_bytes, received.md5, time.time())
        service.uploads.add(request.bucket, request.key, upload_id, part)
    except BaseException:
        staged.close()
        raise
    headers = f'ETag: "{received.md5}"\r\n'
    if received.checksum is not None:
        headers += f"{received.checksum[0]}: {received.checksum[1]}\r\n"
    return Response(200, headers)


def complete_multipart_upload(service: Service, request: Request) -> Response:
    """Join the parts into an object."""
    items, _ = read_document(receive_document(service, request), "CompleteMultipartUpload", "Part")
    wanted = []
    for item in items:
        if not _NUMBER.fullmatch(item.get("PartNumber", "")) or "ETag" not in item:
            raise S3Error(400, "MalformedXML", "a Part has no PartNumber or no ETag")
        wanted.append((int(item["PartNumber"]), item["ETag"]))
    upload = service.uploads.find(request.bucket, request.key, request.parameters["uploadId"])
    version = service.uploads.complete(upload, wanted, write_precondition(request.head.headers))
    return Response.xml(
        document(
            "CompleteMultipartUploadResult",
            element("Location", f"/{request.bucket}/{request.key}"),
            element("Bucket", request.bucket),
            element("Key", request.key),
            element("ETag", version.etag),
        )
    )


def abort_multipart_upload(service: Service, request: Request) -> Response:
    """Throw an upload away."""
    service.uploads.abort(request.bucket, request.key, request.parameters["uploadId"])
    return Response(204)


def list_parts(service: Service, request: Request) -> Response:
    """List the parts that have arrived, all in one page."""
    upload = service.uploads.find(request.bucket, request.key, request.parameters["uploadId"])
    parts = "".join(
        f"<Part>{element('PartNumber', part.number)}"
        f"{element('LastModified', iso_date(part.modified_s))}"
        f"{element('ETag', chr(34) + part.md5 + chr(34))}{element('Size', part.size_bytes)}</Part>"
        for _, part in sorted(upload.parts.copy().items())
    )
    return Response.xml(
        document(
            "ListPartsResult",
            element("Bucket", request.bucket),
            element("Key", request.key),
            element("UploadId", upload.upload_id),
            "<IsTruncated>false</IsTruncated>",
            parts,
        )
    )


def list_multipart_uploads(service: Service, request: Request) -> Response:
    """List the uploads under way, all in one page (there is a limit to their number)."""
    service.files.require_bucket(request.bucket)
    prefix = request.parameters.get("prefix", "")
    uploads = "".join(
        f"<Upload>{element('Key', upload.key)}{element('UploadId', upload.upload_id)}"
        f"{element('Initiated', iso_date(upload.started_s))}</Upload>"
        for upload in service.uploads.under_way(request.bucket)
        if upload.key.startswith(prefix)
    )
    return Response.xml(
        document(
            "ListMultipartUploadsResult",
            element("Bucket", request.bucket),
            "<IsTruncated>false</IsTruncated>",
            uploads,
        )
    )


OPERATIONS: dict[str, Operation] = {
    "AbortMultipartUpload": abort_multipart_upload,
    "CompleteMultipartUpload": complete_multipart_upload,
    "CreateMultipartUpload": create_multipart_upload,
    "ListMultipartUploads": list_multipart_uploads,
    "ListParts": list_parts,
    "UploadPart": upload_part,
}
