"""A whole endpoint in this process: server, objects, faults and log behind one set of calls.

`Settings` configures it; `Engine` is the running endpoint. `S3Endpoint` drives one directly, or one
in another process through `control`. Thread-safe.
"""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

from dataplane.errors import ConfigError
from dataplane_testing.s3 import bucket_operations, object_operations, upload_operations
from dataplane_testing.s3.connection import Shared
from dataplane_testing.s3.faults import FaultInjector, Faults
from dataplane_testing.s3.model import Limits, RequestRecord, S3Error
from dataplane_testing.s3.objects import Attributes, ObjectFiles, Staged
from dataplane_testing.s3.replacements import Replacements
from dataplane_testing.s3.request_log import RequestLog
from dataplane_testing.s3.server import Server
from dataplane_testing.s3.service import Operation, Service
from dataplane_testing.s3.sigv4 import Verifier
from dataplane_testing.s3.uploads import Uploads

__all__ = ["Engine", "Settings"]

_HASH_BYTES = 4 << 20
_OPERATIONS: dict[str, Operation] = {
    **bucket_operations.OPERATIONS,
    **object_operations.OPERATIONS,
    **upload_operations.OPERATIONS,
}
"""Every operation by S3's name of it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of an endpoint. `secret_key` is not shown when this is printed."""

    root: Path | None
    buckets: tuple[str, ...]
    access_key: str
    secret_key: str = field(repr=False)
    anonymous: bool
    port: int
    faults: Faults
    limits: Limits
    certificate: Path | None = None


class Engine:
    """A running endpoint.

    Raises:
        ConfigError: the folder, the port or a bucket's name cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._files = ObjectFiles(settings.root)
        self._stopping = threading.Event()
        try:
            for bucket in settings.buckets:
                self._files.create_bucket(bucket)
            self._uploads = Uploads(self._files, settings.limits)
            self._replacements = Replacements(self._files)
            self._faults = FaultInjector(settings.faults)
            self._log = RequestLog(settings.limits.log_records)
            service = Service(self._files, self._uploads, self._replacements, settings.limits)
            verifier = Verifier(
                {settings.access_key: settings.secret_key}, anonymous=settings.anonymous
            )
            shared = Shared(service, _OPERATIONS, verifier, self._faults, self._log, self._stopping)
            self._server = Server(shared, settings.port, settings.certificate)
        except S3Error as err:
            self._files.close()
            raise ConfigError(f"cannot make the endpoint's buckets: {err.message}") from err
        except BaseException:
            self._files.close()
            raise

    @property
    def port(self) -> int:
        """Port on loopback."""
        return self._server.port

    @property
    def root(self) -> Path:
        """Folder that holds the objects."""
        return self._files.root

    @property
    def staging(self) -> Path:
        """Folder of files for `adopt`, on the same file system as the objects."""
        return self._files.root / "staging"

    def adopt(self, bucket: str, key: str, path: Path, after_gets: int = 0) -> str:
        """Make a file of the staging folder an object, now or after some GETs; returns its ETag.

        Raises:
            ConfigError: no such bucket, or the key is not allowed.
        """
        staged = Staged(path, -1)
        etag = f'"{_md5(path)}"'
        try:
            if after_gets:
                self._files.find(bucket, key)
                self._replacements.schedule(bucket, key, staged, etag, after_gets)
                return etag
            with staged:
                self._files.commit(bucket, key, staged, etag=etag, attributes=Attributes())
        except S3Error as err:
            staged.close()
            raise ConfigError(f"cannot put {bucket}/{key}: {err.message}") from err
        return etag

    def create_bucket(self, bucket: str) -> None:
        """Make a bucket.

        Raises:
            ConfigError: the name is not allowed.
        """
        try:
            self._files.create_bucket(bucket)
        except S3Error as err:
            raise ConfigError(f"cannot make the bucket {bucket!r}: {err.message}") from err

    def set_faults(self, faults: Faults) -> None:
        """Use other faults from the next request on."""
        self._faults.set(faults)

    def fault_counts(self) -> dict[str, int]:
        """Return the number of faults of each kind, replacements included."""
        counts = self._faults.counts()
        if self._replacements.done:
            counts["replace"] = self._replacements.done
        return counts

    def requests(self) -> list[RequestRecord]:
        """Return the requests so far, in order of arrival."""
        return self._log.records()

    def clear_requests(self) -> None:
        """Forget the requests so far."""
        self._log.clear()

    def close(self) -> None:
        """Stop serving, end all threads, remove a temporary folder. Idempotent."""
        self._server.close()
        self._replacements.close()
        self._uploads.close()
        self._files.close()


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while part := os.read(fd, _HASH_BYTES):
            digest.update(part)
    finally:
        os.close(fd)
    return digest.hexdigest()
