"""Multipart uploads: parts arrive in any order, and become one object at once or not at all.

Parts are staged files that this module owns until the upload is completed or aborted. They do not
outlive the endpoint. Thread-safe: one lock guards the tables; files are written outside it, and an
upload that is being completed can no longer be added to.
"""

from __future__ import annotations

import hashlib
import itertools
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from dataplane_testing.s3.model import Limits, S3Error
from dataplane_testing.s3.objects import (
    Attributes,
    ObjectFiles,
    ObjectVersion,
    Precondition,
    Staged,
)

__all__ = ["MIN_PART_BYTES", "Part", "Upload", "Uploads"]

MIN_PART_BYTES = 5 << 20
_MAX_PARTS = 10_000


@dataclass(frozen=True, slots=True)
class Part:
    """One part that has arrived. `md5` is hex."""

    number: int
    staged: Staged
    size_bytes: int
    md5: str
    modified_s: float


@dataclass(slots=True)
class Upload:
    """An upload under way."""

    upload_id: str
    bucket: str
    key: str
    attributes: Attributes
    started_s: float
    parts: dict[int, Part] = field(default_factory=dict)
    completing: bool = False


class Uploads:
    """All multipart uploads of one endpoint."""

    def __init__(self, files: ObjectFiles, limits: Limits) -> None:
        self._files = files
        self._limits = limits
        self._lock = threading.Lock()
        self._uploads: dict[str, Upload] = {}

    def create(self, bucket: str, key: str, attributes: Attributes) -> str:
        """Begin an upload and return its id.

        Raises:
            S3Error: no such bucket, or too many uploads are under way.
        """
        self._files.require_bucket(bucket)
        upload_id = secrets.token_hex(16)
        with self._lock:
            if len(self._uploads) >= self._limits.uploads:
                raise S3Error(503, "SlowDown", "Too many multipart uploads are under way.")
            self._uploads[upload_id] = Upload(upload_id, bucket, key, attributes, time.time())
        return upload_id

    def add(self, bucket: str, key: str, upload_id: str, part: Part) -> None:
        """Take over a part that has arrived; a part of the same number is replaced.

        Raises:
            S3Error: no such upload. The part is then still the caller's.
        """
        if not 1 <= part.number <= _MAX_PARTS:
            raise S3Error(
                400, "InvalidArgument", f"Part number must be an integer between 1 and {_MAX_PARTS}"
            )
        with self._lock:
            upload = self._find_locked(bucket, key, upload_id)
            old = upload.parts.get(part.number)
            upload.parts[part.number] = part
        part.staged.seal()
        if old is not None:
            old.staged.close()

    def find(self, bucket: str, key: str, upload_id: str) -> Upload:
        """Return an upload under way.

        Raises:
            S3Error: no such upload.
        """
        with self._lock:
            return self._find_locked(bucket, key, upload_id)

    def under_way(self, bucket: str) -> list[Upload]:
        """Return a bucket's uploads in the order of their keys."""
        with self._lock:
            found = [upload for upload in self._uploads.values() if upload.bucket == bucket]
        return sorted(found, key=lambda upload: (upload.key, upload.started_s))

    def complete(
        self,
        upload: Upload,
        wanted: Sequence[tuple[int, str]],
        precondition: Precondition,
    ) -> ObjectVersion:
        """Join parts into an object.

        Args:
            upload: upload from `find`.
            wanted: number and ETag (bare or quoted) of each part, as the client lists them.
            precondition: precondition on the object that it replaces.

        Raises:
            S3Error: a part is missing, out of order, too small or not the one meant.
        """
        with self._lock:
            if upload.completing or upload.upload_id not in self._uploads:
                raise _no_such_upload()
            parts = _choose(upload, wanted)
            upload.completing = True
        try:
            version = self._join(upload, parts, precondition)
        except BaseException:
            upload.completing = False
            raise
        self._forget(upload)
        return version

    def abort(self, bucket: str, key: str, upload_id: str) -> None:
        """Throw an upload away.

        Raises:
            S3Error: no such upload.
        """
        self._forget(self.find(bucket, key, upload_id))

    def close(self) -> None:
        """Throw all uploads away. Idempotent."""
        with self._lock:
            uploads = list(self._uploads.values())
        for upload in uploads:
            self._forget(upload)

    def _join(
        self, upload: Upload, parts: Sequence[Part], precondition: Precondition
    ) -> ObjectVersion:
        digest = hashlib.md5(usedforsecurity=False)
        with self._files.stage() as staged:
            for part in parts:
                digest.update(bytes.fromhex(part.md5))
                staged.append(part.staged.path, part.size_bytes)
            etag = f'"{digest.hexdigest()}-{len(parts)}"'
            return self._files.commit(
                upload.bucket,
                upload.key,
                staged,
                etag=etag,
                attributes=upload.attributes,
                precondition=precondition,
            )

    def _forget(self, upload: Upload) -> None:
        with self._lock:
            self._uploads.pop(upload.upload_id, None)
            parts = list(upload.parts.values())
            upload.parts.clear()
        for part in parts:
            part.staged.close()

    def _find_locked(self, bucket: str, key: str, upload_id: str) -> Upload:
        upload = self._uploads.get(upload_id)
        if upload is None or (upload.bucket, upload.key) != (bucket, key) or upload.completing:
            raise _no_such_upload()
        return upload


def _choose(upload: Upload, wanted: Sequence[tuple[int, str]]) -> list[Part]:
    if not wanted:
        raise S3Error(400, "MalformedXML", "You must specify at least one part")
    numbers = [number for number, _ in wanted]
    if any(second <= first for first, second in itertools.pairwise(numbers)):
        raise S3Error(400, "InvalidPartOrder", "The list of parts was not in ascending order.")
    parts = []
    for number, etag in wanted:
        part = upload.parts.get(number)
        if part is None or etag.strip('"') != part.md5:
            raise S3Error(
                400, "InvalidPart", f"Part {number} was not uploaded, or its ETag differs."
            )
        parts.append(part)
    for part in parts[:-1]:
        if part.size_bytes < MIN_PART_BYTES:
            raise S3Error(
                400,
                "EntityTooSmall",
                f"Part {part.number} is smaller than {MIN_PART_BYTES} bytes and not the last.",
            )
    return parts


def _no_such_upload() -> S3Error:
    return S3Error(404, "NoSuchUpload", "The specified multipart upload does not exist.")
