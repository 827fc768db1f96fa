"""Objects of the endpoint as files, in a folder that it owns.

    ROOT/dataplane-s3-root            marks the folder as ours; no other folder is touched
    ROOT/staging/                     bodies that are still arriving
    ROOT/buckets/BUCKET/ab/abcd….json     one object: its key, size, etag, headers, data file
    ROOT/buckets/BUCKET/ab/abcd….VERSION  its bytes

File names are the SHA-256 of the key, so no key can name a path: `..`, slashes, spaces, NULs,
names of any length and `a` beside `a/b` are all alike. Bucket names are S3's (lower case, digits,
dots, dashes) and are checked before they become folders. The index is in memory and is rebuilt
from the JSON files at start.

A version's data file never changes after it got its name. Replacing an object writes a new file
and unlinks the old one, so a response under way goes on from the version that it opened.

Thread-safe. One lock guards the index; under it are only the two renames that must happen in the
same order on disk as in memory. Nothing is synced: this is no place for data that matters.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Self

from dataplane.errors import ConfigError
from dataplane_testing.s3.http import http_date
from dataplane_testing.s3.model import S3Error

__all__ = [
    "Attributes",
    "ObjectFiles",
    "ObjectVersion",
    "Precondition",
    "Staged",
    "append_file",
    "check_key",
]

DEFAULT_CONTENT_TYPE = "binary/octet-stream"
_MARKER = "dataplane-s3-root"
_BUCKET = re.compile(r"(?!.*\.\.)[a-z0-9][a-z0-9.\-]{1,61}[a-z0-9]")
_MAX_KEY_BYTES = 1024
_OPEN_ATTEMPTS = 16


@dataclass(frozen=True, slots=True)
class Attributes:
    """Attributes that a client gives an object and gets back with it.

    Attributes:
        headers: response headers such as `Content-Type` and `x-amz-meta-…`, with their values.
        checksum: header name and base64 value, as sent with the object.
    """

    headers: Mapping[str, str] = field(
        default_factory=lambda: MappingProxyType({"Content-Type": DEFAULT_CONTENT_TYPE})
    )
    checksum: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class ObjectVersion:
    """One version of an object. `etag` has its quotes."""

    key: str
    path: Path
    size_bytes: int
    etag: str
    modified_s: float
    attributes: Attributes
    head: str
    """Response headers that describe it, ready to send."""


@dataclass(slots=True)
class Staged:
    """A body on its way in: a file in the staging folder. Closing it without commit removes it."""

    path: Path
    fd: int

    def write(self, part: memoryview) -> None:
        """Append bytes."""
        while part:
            part = part[os.write(self.fd, part) :]

    def append(self, source: Path, size_bytes: int) -> None:
        """Append the first bytes of another file."""
        source_fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            append_file(source_fd, self.fd, size_bytes)
        finally:
            os.close(source_fd)

    def seal(self) -> None:
        """Close the file but keep it: nothing more is written. Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def close(self) -> None:
        """Close the file, and remove it unless it was adopted. Idempotent."""
        self.seal()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Precondition:
    """A precondition of a write on the object that it replaces."""

    must_be_absent: bool = False
    etag: str | None = None

    def check(self, current: ObjectVersion | None) -> None:
        """Raise S3Error when it does not hold."""
        if self.etag is not None and current is None:
            raise S3Error(404, "NoSuchKey", "The specified key does not exist.")
        if (self.must_be_absent and current is not None) or (
            self.etag is not None and current is not None and current.etag != self.etag
        ):
            raise S3Error(
                412,
                "PreconditionFailed",
                "At least one of the pre-conditions you specified did not hold",
            )


@dataclass(slots=True)
class _Bucket:
    folder: Path
    created_s: float
    versions: dict[str, ObjectVersion] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)  # sorted
    snapshot: tuple[ObjectVersion, ...] | None = None  # in key order; None after a write


class ObjectFiles:
    """Buckets and objects below one folder.

    Args:
        root: folder, made when absent; None makes a temporary one that `close` removes.

    Raises:
        ConfigError: the folder holds other things.
    """

    def __init__(self, root: Path | None) -> None:
        self._temporary = root is None
        self.root = Path(tempfile.mkdtemp(prefix="dataplane-s3-")) if root is None else root
        self._lock = threading.Lock()
        self._buckets: dict[str, _Bucket] = {}
        self._claim_root()
        self._staging = self.root / "staging"
        self._load()

    def _claim_root(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        marker = self.root / _MARKER
        if not marker.exists():
            if any(self.root.iterdir()):
                raise ConfigError(
                    f"{self.root} is not empty and was not made by this endpoint",
                    hint="give it an empty folder",
                )
            marker.touch()
        shutil.rmtree(self.root / "staging", ignore_errors=True)
        (self.root / "staging").mkdir(mode=0o700)
        (self.root / "buckets").mkdir(exist_ok=True, mode=0o700)

    def _load(self) -> None:
        for folder in sorted((self.root / "buckets").iterdir()):
            bucket = _Bucket(folder, folder.stat().st_mtime)
            kept: set[Path] = set()
            for sidecar in folder.glob("*/*.json"):
                version = _read_sidecar(sidecar)
                if version is not None:
                    bucket.versions[version.key] = version
                    kept.update((sidecar, version.path))
            for path in folder.glob("*/*"):  # left by a killed endpoint
                if path not in kept:
                    path.unlink()
            bucket.keys = sorted(bucket.versions)
            self._buckets[folder.name] = bucket

    def create_bucket(self, name: str) -> None:
        """Make a bucket; making one that exists is not an error, as in us-east-1.

        Raises:
            S3Error: the name is not allowed.
        """
        if not _BUCKET.fullmatch(name):
            raise S3Error(400, "InvalidBucketName", "The specified bucket is not valid.")
        folder = self.root / "buckets" / name
        with self._lock:
            if name not in self._buckets:
                folder.mkdir(exist_ok=True, mode=0o700)
                self._buckets[name] = _Bucket(folder, time.time())

    def delete_bucket(self, name: str) -> None:
        """Remove an empty bucket.

        Raises:
            S3Error: no such bucket, or objects are in it.
        """
        with self._lock:
            bucket = self._bucket(name)
            if bucket.versions:
                raise S3Error(409, "BucketNotEmpty", "The bucket you tried to delete is not empty")
            del self._buckets[name]
        shutil.rmtree(bucket.folder, ignore_errors=True)

    def buckets(self) -> list[tuple[str, float]]:
        """Return the names and creation times of all buckets, in order."""
        with self._lock:
            return sorted((name, bucket.created_s) for name, bucket in self._buckets.items())

    def require_bucket(self, name: str) -> None:
        """Raise S3Error when there is no such bucket."""
        self._bucket(name)

    def snapshot(self, name: str) -> tuple[ObjectVersion, ...]:
        """Return all objects of a bucket in key order, as they are now.

        It is made once per change of the bucket, so that paging through a listing is cheap.
        """
        with self._lock:
            bucket = self._bucket(name)
            if bucket.snapshot is None:
                bucket.snapshot = tuple(bucket.versions[key] for key in bucket.keys)
            return bucket.snapshot

    def find(self, bucket: str, key: str) -> ObjectVersion:
        """Return the current version of an object.

        Raises:
            S3Error: no such bucket or key.
        """
        # One dict lookup each: atomic without the lock.
        version = self._bucket(bucket).versions.get(key)
        if version is None:
            raise S3Error(404, "NoSuchKey", "The specified key does not exist.")
        return version

    def open(self, bucket: str, key: str) -> tuple[ObjectVersion, int]:
        """Open the current version for reading; the caller closes the descriptor.

        Raises:
            S3Error: no such bucket or key.
        """
        for _ in range(_OPEN_ATTEMPTS):
            version = self.find(bucket, key)
            try:
                return version, os.open(version.path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # replaced between the two lines; its successor is in the index
        raise S3Error(500, "InternalError", "the object is being replaced too fast to open")

    def stage(self) -> Staged:
        """Return an empty file for a body that arrives."""
        path = self._staging / secrets.token_hex(16)
        return Staged(path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))

    def commit(
        self,
        bucket_name: str,
        key: str,
        staged: Staged,
        *,
        etag: str,
        attributes: Attributes,
        precondition: Precondition | None = None,
    ) -> ObjectVersion:
        """Make a staged file the current version of `key`, atomically for readers and on disk.

        Raises:
            S3Error: the key is not allowed, no such bucket, or the precondition does not hold.
        """
        check_key(key)
        size_bytes = staged.path.stat().st_size
        sidecar = _sidecar_path(self._bucket(bucket_name).folder, key)
        sidecar.parent.mkdir(mode=0o700, exist_ok=True)
        version = _describe(
            key,
            sidecar.with_suffix(f".{secrets.token_hex(8)}"),
            size_bytes=size_bytes,
            etag=etag,
            modified_s=time.time(),
            attributes=attributes,
        )
        arriving = staged.path.with_suffix(".json")
        arriving.write_text(_sidecar_text(version))
        try:
            with self._lock:
                bucket = self._bucket(bucket_name)
                old = bucket.versions.get(key)
                if precondition is not None:
                    precondition.check(old)
                staged.path.rename(version.path)
                arriving.rename(sidecar)
                bucket.versions[key] = version
                bucket.snapshot = None
                if old is None:
                    bisect.insort(bucket.keys, key)
        finally:
            arriving.unlink(missing_ok=True)
        if old is not None:
            old.path.unlink()
        return version

    def delete(self, bucket_name: str, key: str) -> None:
        """Remove an object; removing one that is not there is not an error."""
        with self._lock:
            bucket = self._bucket(bucket_name)
            old = bucket.versions.pop(key, None)
            if old is None:
                return
            bucket.snapshot = None
            del bucket.keys[bisect.bisect_left(bucket.keys, key)]
            _sidecar_path(bucket.folder, key).unlink()
        old.path.unlink()

    def close(self) -> None:
        """Remove the folder if it was temporary. Idempotent."""
        if self._temporary:
            shutil.rmtree(self.root, ignore_errors=True)

    def _bucket(self, name: str) -> _Bucket:
        bucket = self._buckets.get(name)
        if bucket is None:
            raise S3Error(404, "NoSuchBucket", "The specified bucket does not exist")
        return bucket


def check_key(key: str) -> None:
    """Raise S3Error when a key is longer than S3 allows."""
    if len(key.encode()) > _MAX_KEY_BYTES:
        raise S3Error(400, "KeyTooLongError", "Your key is too long")


def _sidecar_path(folder: Path, key: str) -> Path:
    name = hashlib.sha256(key.encode()).hexdigest()
    return folder / name[:2] / f"{name}.json"


def _describe(
    key: str, path: Path, *, size_bytes: int, etag: str, modified_s: float, attributes: Attributes
) -> ObjectVersion:
    head = f"ETag: {etag}\r\nLast-Modified: {http_date(modified_s)}\r\nAccept-Ranges: bytes\r\n"
    lines = [f"{name}: {value}\r\n" for name, value in attributes.headers.items()]
    return ObjectVersion(key, path, size_bytes, etag, modified_s, attributes, head + "".join(lines))


def _sidecar_text(version: ObjectVersion) -> str:
    return json.dumps(
        {
            "key": version.key,
            "file": version.path.name,
            "size_bytes": version.size_bytes,
            "etag": version.etag,
            "modified_s": version.modified_s,
            "headers": dict(version.attributes.headers),
            "checksum": version.attributes.checksum,
        }
    )


def _read_sidecar(path: Path) -> ObjectVersion | None:
    """Return the version that a sidecar describes, or None where its data is not whole."""
    record = json.loads(path.read_text())
    file = path.parent / record["file"]
    if not file.is_file() or file.stat().st_size != record["size_bytes"]:
        return None
    checksum = record["checksum"]
    return _describe(
        record["key"],
        file,
        size_bytes=record["size_bytes"],
        etag=record["etag"],
        modified_s=record["modified_s"],
        attributes=Attributes(record["headers"], tuple(checksum) if checksum else None),
    )


def append_file(source_fd: int, target_fd: int, size_bytes: int) -> None:
    """Append a file's first bytes to another, inside the kernel."""
    done = 0
    while done < size_bytes:
        count = os.copy_file_range(source_fd, target_fd, size_bytes - done, done)
        if count == 0:
            raise OSError(f"a source file ended at {done} of {size_bytes} bytes")
        done += count
