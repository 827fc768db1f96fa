"""`FsspecStore`: every other protocol through fsspec (hf, sftp, smb, webdav …), or with options.

fsspec's file systems know no `If-Match`. Where a version is asked for, the object is described
again *after* each read, past all caches, and the read counts only when the version is still the
one expected: versions do not come back, so the bytes were that version's. That is a second request
per read, the price of never mixing bytes; it is why obstore serves the schemes that it can.

A version tag is the file system's own etag or checksum where it has one, else size and time.

Thread-safe where the file system is (all of fsspec's asynchronous ones are). Not used across fork:
`per_process.py` sees to that.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import fsspec
from fsspec.core import url_to_fs
from fsspec.registry import known_implementations

from dataplane.errors import (
    BucketNotFound,
    ConfigError,
    DataplaneError,
    MissingPackage,
    NotFound,
    ObjectChanged,
    StoreError,
)
from dataplane.extras import extra_of, missing_package
from dataplane.stores.base import Buffer, Listing, ObjectInfo, StoreConfig
from dataplane.stores.clients.piecewise import PiecewiseStore
from dataplane.stores.daemon_pool import shared_daemon_pool
from dataplane.stores.failures import from_python
from dataplane.stores.keys import (
    LeftOut,
    check_key,
    check_level,
    check_prefix,
    check_range,
    check_source,
    join_key,
    why_unusable,
)
from dataplane.stores.trust import named_bundle, tls_context
from dataplane.stores.urls import HTTP_SCHEMES, Location, identity_of, s3_endpoint
from dataplane.stores.versions import header_text, new_tag, same_version

__all__ = ["FsspecStore", "check_protocol"]

ResultT = TypeVar("ResultT")

_TAG_FIELDS = ("ETag", "etag", "e_tag", "sha256", "blob_id", "md5Hash", "content_hash", "oid")
_TIME_FIELDS = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")
_OBJECT_STORES = frozenset({"s3", "gs", "az", "abfs", "hf", "oss", "oci", "tos", "memory"})
"""Protocols whose writes appear at once; on all others we write beside and rename."""
_TEMP_PREFIX = ".dataplane-put-"


def check_protocol(location: Location) -> None:
    """Refuse a location that fsspec cannot serve.

    Raises:
        ConfigError: it does not know the protocol.
        MissingPackage: the package for it is not installed.
    """
    protocol = location.scheme
    try:
        fsspec.get_filesystem_class(protocol)
    except ValueError as err:
        hint = "use s3, gs, az, abfs, http, https, file, memory or a protocol of fsspec"
        if protocol in ("s3+http", "s3+https"):  # as `dataplane cache ls` prints it
            endpoint = f"{protocol.removeprefix('s3+')}://{location.bucket}"
            hint = f"write s3://{location.prefix} with --endpoint-url {endpoint}"
        raise ConfigError(f"unknown scheme {protocol}:// in {location.url!r}", hint=hint) from err
    except ImportError as err:
        # The error behind fsspec's own names the package that could not be imported.
        module = getattr(err.__cause__, "name", None) or err.name or ""
        if module and (extra := extra_of(module)) != "all":
            raise missing_package(f"{protocol}://", module, extra=extra) from err
        name = module.partition(".")[0]
        what = f"the Python package {name}, which" if name else "a Python package that"
        advice = known_implementations.get(protocol, {}).get("err", str(err))
        raise MissingPackage(f"{protocol}:// needs {what} is not installed", hint=advice) from err


class FsspecStore(PiecewiseStore):
    """A store over one fsspec file system. See the module's text."""

    def __init__(self, location: Location, config: StoreConfig) -> None:
        check_protocol(location)
        self._location = location
        self._config = config
        self._identity = identity_of(location, config)
        self._left_out = LeftOut(location.url)
        self._timeout_s = config.metadata_timeout_s
        options = _file_system_options(location, config)
        try:
            self._fs, root = url_to_fs(location.url, skip_instance_cache=True, **options)
        except Exception as err:
            # The error may quote the options, and those may hold secrets: say only its kind.
            raise ConfigError(
                f"cannot open {location.url} through fsspec: {type(err).__name__}",
                hint=f"options given: {', '.join(sorted(options)) or 'none'}",
            ) from (None if options else err)
        # A listing kept from before would hide a replaced object.
        if hasattr(self._fs, "dircache"):
            self._fs.dircache.use_listings_cache = False
        self._root = str(root).rstrip("/")

    @property
    def url(self) -> str:
        return self._location.url

    @property
    def identity(self) -> str:
        return self._identity

    def full_key(self, key: str) -> str:
        return join_key(self._location.prefix.strip("/"), key)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        folder = check_prefix(prefix).rpartition("/")[0]
        with self._errors(prefix, "list"):
            entries = self._fs.find(join_key(self._root, folder).rstrip("/"), detail=True)
        if not entries:
            self._check_bucket()
        found = [
            self._described(self._key_of(path, is_file=bool(info.get("size"))), info)
            for path, info in entries.items()
            if info.get("type") != "directory"
        ]
        # A zero-length object `name/`, as S3 consoles make them for folders, is listed as `name`.
        folders = {parent for info in found for parent in _parents(info.key)}
        found = [info for info in found if info.size_bytes or info.key not in folders]
        found = [i for i in found if i.key.startswith(prefix) and _is_object(i.key)]
        for info in sorted(found, key=lambda info: info.key):
            reason = why_unusable(info.key)
            if reason is None:
                yield info
            else:
                self._left_out.tell(info.key, reason)

    def list_level(self, prefix: str = "") -> Listing:
        check_level(prefix)
        here = join_key(self._root, prefix).rstrip("/")
        try:
            entries = self._fs.ls(here, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            entries = []
        except Exception as err:
            raise self._failure(err, prefix, "list") from err
        if not entries:
            self._check_bucket()
        objects: list[ObjectInfo] = []
        prefixes: set[str] = set()
        hidden: list[str] = []
        for info in entries:
            key = self._key_of(str(info["name"]))
            if not key.startswith(prefix) or not _is_object(key.removeprefix(prefix)):
                continue  # The level itself, as some file systems list it, or a write under way.
            if why_unusable(key) is not None:
                hidden.append(key)
                continue
            if info.get("type") == "directory":
                prefixes.add(f"{key.rstrip('/')}/")
            else:
                objects.append(self._described(key, info))
        objects.sort(key=lambda info: info.key)
        return Listing(tuple(objects), tuple(sorted(prefixes)), tuple(hidden))

    def head(self, key: str) -> ObjectInfo:
        path = self._path(key)
        with self._errors(key, "describe"):
            info = self._in_time(lambda: self._fs.info(path))
        if info.get("type") == "directory":
            raise NotFound(f"no object {self.url}/{key}: it is a folder")
        return self._described(key, info)

    def get_range(self, key: str, start: int, stop: int, *, if_match: str | None = None) -> Buffer:
        path = self._path(key)
        check_range(key, start, stop)
        if start == stop:
            return b""
        failure: DataplaneError | None = None
        content = b""
        try:
            content = self._fs.cat_file(path, start=start, end=stop)
        except Exception as err:
            failure = self._failure(err, key, "read")
            failure.__cause__ = err
        if isinstance(failure, NotFound):
            raise failure
        if if_match is not None and (failure is None or not failure.retryable):
            actual = self.head(key).etag
            if not same_version(actual, if_match):
                raise ObjectChanged(
                    f"{self.url}/{key} was replaced: expected etag {if_match}, it is now {actual}"
                )
        if failure is not None:
            raise failure
        if len(content) != stop - start:
            raise StoreError(
                f"cannot read {self.url}/{key}: bytes [{start}, {stop}) asked for, "
                f"{len(content)} received"
            )
        return content

    def put(self, key: str, data: Buffer | os.PathLike[str]) -> ObjectInfo:
        target = self._path(key)
        source = check_source(data)
        with self._errors(key, "write"):
            if self._location.scheme in _OBJECT_STORES:
                self._write(target, source)
            else:
                self._write_and_rename(target, source)
        return self.head(key)

    def delete(self, key: str) -> None:
        path = self._path(key)
        try:
            self._fs.rm_file(path)
        except FileNotFoundError:
            return
        except Exception as err:
            failure = self._failure(err, key, "delete")
            if not isinstance(failure, NotFound):
                raise failure from err

    def close(self) -> None:
        """Nothing to do: connections go with the file system, and that with this object."""

    def _path(self, key: str) -> str:
        # HTTP file systems are named by URLs, the others by plain paths.
        is_http = self._location.scheme in HTTP_SCHEMES
        return join_key(self._root, quote(check_key(key)) if is_http else check_key(key))

    def _in_time(self, call: Callable[[], ResultT]) -> ResultT:
        """Run a request within a time limit; one that hangs goes on in a thread without a caller.

        Listings have no such limit: one call fetches all of their pages.
        """
        future = shared_daemon_pool().run(call)
        return call() if future is None else future.result(self._timeout_s)

    def _write(self, target: str, source: Path | memoryview) -> None:
        if isinstance(source, Path):
            self._fs.put_file(str(source), target)
        else:
            self._fs.pipe_file(target, bytes(source))

    def _write_and_rename(self, target: str, source: Path | memoryview) -> None:
        folder = target.rpartition("/")[0]
        temp = f"{folder}/{_TEMP_PREFIX}{secrets.token_hex(8)}"
        self._fs.makedirs(folder, exist_ok=True)
        try:
            self._write(temp, source)
            self._fs.mv(temp, target)
        except BaseException:
            with contextlib.suppress(Exception):
                self._fs.rm_file(temp)
            raise

    def _check_bucket(self) -> None:
        """Tell an empty listing from a missing bucket."""
        bucket = self._location.bucket
        if not bucket or self._location.scheme == "memory":
            return
        with self._errors("", "list"):
            if not self._fs.exists(bucket):
                raise BucketNotFound(f"no such bucket: {self._location.scheme}://{bucket}")

    def _key_of(self, path: str, *, is_file: bool = False) -> str:
        path = path if is_file else path.rstrip("/")  # of a folder, or of a marker of one
        return path.removeprefix(self._root).removeprefix("/")

    def _described(self, key: str, info: Mapping[str, Any]) -> ObjectInfo:
        size = info.get("size")
        if not isinstance(size, int):
            raise StoreError(
                f"cannot describe {self.url}/{key}: the server does not say its size",
                hint="dataplane reads ranges, which need a size",
            )
        modified = next((_seconds(info[f]) for f in _TIME_FIELDS if info.get(f)), None)
        tag = _text(next((str(info[f]) for f in _TAG_FIELDS if info.get(f)), ""))
        if not tag:
            tag = (
                new_tag(self.url, size)
                if modified is None
                else f"modified-{modified:.6f}-inode-{info.get('ino', 0)}-size-{size}"
            )
        return ObjectInfo(key, size, tag, modified)

    def _failure(self, err: Exception, key: str, action: str) -> DataplaneError:
        where = f"{self.url}/{key}".rstrip("/")
        bucket = f"{self._location.scheme}://{self._location.bucket}"
        return from_python(err, where, bucket=bucket, action=action, config=self._config)

    @contextlib.contextmanager
    def _errors(self, key: str, action: str) -> Iterator[None]:
        try:
            yield
        except DataplaneError:
            raise
        except Exception as err:
            raise self._failure(err, key, action) from err


def _file_system_options(location: Location, config: StoreConfig) -> dict[str, Any]:
    options: dict[str, Any] = dict(config.storage_options)
    if location.scheme == "s3":
        _add_s3_options(options, config)
    elif location.scheme == "https" and named_bundle(config) is not None:
        options.setdefault("ssl", tls_context(config))
    elif config.anonymous and location.scheme == "gs":
        options["token"] = "anon"  # noqa: S105 - the name of a mode, not a secret
    elif config.anonymous and location.scheme in ("az", "abfs"):
        options["anon"] = True
    return options


def _add_s3_options(options: dict[str, Any], config: StoreConfig) -> None:
    endpoint = s3_endpoint(config)
    if endpoint and "endpoint_url" not in options:
        options["endpoint_url"] = endpoint
    if config.anonymous:
        options["anon"] = True
    client = dict(options.get("client_kwargs") or {})
    if config.region:
        client.setdefault("region_name", config.region)
    bundle = named_bundle(config)
    if bundle is not None and not bundle[0].is_dir():  # botocore takes a file alone
        client.setdefault("verify", str(bundle[0]))
    if client:
        options["client_kwargs"] = client
    # `retry.py` does that, within a deadline.
    if "config_kwargs" not in options:
        options["config_kwargs"] = {"retries": {"total_max_attempts": 1}}


def _text(tag: str) -> str:
    """Return a tag as text, also where the client has kept bytes that it could not read."""
    return header_text(tag.encode("utf-8", "surrogateescape").decode("latin-1"))


def _parents(key: str) -> Iterator[str]:
    while "/" in key:
        key = key.rpartition("/")[0]
        yield key


def _is_object(key: str) -> bool:
    return bool(key) and not key.rpartition("/")[2].startswith(_TEMP_PREFIX)


def _seconds(value: object) -> float | None:
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, datetime.datetime):
        return value.timestamp()
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return datetime.datetime.fromisoformat(value).timestamp()
    return None
