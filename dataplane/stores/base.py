"""`Store`: the contract of object stores.

A store is a flat namespace of objects below one URL. Its comments are the contract; the conformance
suite in `dataplane_testing` checks each sentence against every store.

- Keys are relative to the store's URL, use `/`, never start with one, and are opaque otherwise.
- `get_range` returns exactly `stop - start` bytes or raises; a short response is an error, never a
  short buffer; `stream_range` likewise, in pieces. With `if_match` they raise `ObjectChanged` when
  the object's etag differs, also when it is replaced between a broken response and its resumption.
- `put` is atomic: readers see the old object or the new one. It may be repeated.
- A store raises only errors of `dataplane.errors`. It does no retries, counting or limiting of its
  own beyond what its client cannot switch off; those are wrappers with the same interface.
- Stores are thread-safe, picklable while unused, and are not used across fork: clients inside are
  created at first use in the process that uses them.

This module is not the place for caching; that is `dataplane.cache`.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

from dataplane.config import absolute_path, parse_flag, setting, with_attributes
from dataplane.errors import ConfigError

__all__ = ["CA_VARIABLES", "Buffer", "Listing", "ObjectInfo", "Store", "StoreConfig"]

CA_VARIABLES = (
    "DATAPLANE_CA_BUNDLE",
    "AWS_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "SSL_CERT_FILE",
)
"""Variables that name certificates to trust, ours and other tools'; the first one set counts."""

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Contiguous bytes. Stores return one of these; zero-copy results come as a memoryview."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object version.

    Attributes:
        key: name of the object below the store's URL.
        size_bytes: length of the object.
        etag: the store's version tag, opaque; for stores without one, a tag made of size and
            modification time. Equal tags mean equal bytes.
        modified_s: seconds since the epoch, or None where the store does not say.
    """

    key: str
    size_bytes: int
    etag: str
    modified_s: float | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """One directory level: the objects in it, and the names of the levels below.

    Attributes:
        objects: the objects directly at this level, in key order.
        prefixes: full prefixes of the levels below, each ending in `/`, in order.
        hidden: keys and prefixes of this level that are left out, as the store has them, because
            this interface cannot address them.
    """

    objects: tuple[ObjectInfo, ...]
    prefixes: tuple[str, ...]
    hidden: tuple[str, ...] = ()


@runtime_checkable
class Store(Protocol):
    """A flat namespace of objects below one URL. See the module's text for the contract."""

    @property
    def url(self) -> str:
        """URL as a person would write it; holds no credentials."""
        ...

    @property
    def identity(self) -> str:
        """Scheme, endpoint and bucket, which make two stores the same; no prefix, no secrets."""
        ...

    def full_key(self, key: str) -> str:
        """Key below `identity` (the URL's prefix joined with `key`)."""
        ...

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield all objects whose key starts with `prefix`, in key order.

        An object whose key cannot be addressed (`keys.py`) is left out, with one warning per store.

        Raises:
            Denied: the credentials do not allow it.
            BucketNotFound: no such bucket.
        """
        ...

    def list_level(self, prefix: str = "") -> Listing:
        """List one directory level; `prefix` is empty or ends in `/`."""
        ...

    def head(self, key: str) -> ObjectInfo:
        """Describe one object.

        Raises:
            NotFound: no such key.
        """
        ...

    def get_range(self, key: str, start: int, stop: int, *, if_match: str | None = None) -> Buffer:
        """Read bytes `[start, stop)` of an object.

        Raises:
            NotFound: no such key.
            ObjectChanged: its etag is not `if_match`.
            StoreError: fewer bytes than asked for, or any other failure.
        """
        ...

    def stream_range(
        self,
        key: str,
        start: int,
        stop: int,
        *,
        piece_bytes: int,
        if_match: str | None = None,
    ) -> Generator[Buffer, None, None]:
        """Read bytes `[start, stop)` in pieces, in order, as they arrive.

        Closing the generator gives the rest up. Without `if_match`, pieces of an object that is
        replaced meanwhile may be of different versions.

        Yields:
            `piece_bytes` bytes each, but for the last piece, which ends the range.

        Raises:
            As `get_range`, when the next piece is asked for.
        """
        ...

    def put(self, key: str, data: Buffer | os.PathLike[str]) -> ObjectInfo:
        """Write a whole object from memory or from a local file (in parts when it is large)."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; removing one that is not there is not an error."""
        ...

    def close(self) -> None:
        """Drop connections. Idempotent."""
        ...


@with_attributes
@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Settings of an object store. Credentials come from the standard chains, not from here.

    Raises:
        ConfigError: a value is out of its range, or `anonymous` comes with keys in
            `storage_options`.
    """

    endpoint_url: str | None = setting(
        None,
        env=("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
        doc="S3 endpoint, for servers other than AWS",
    )
    region: str | None = setting(None, doc="S3 region; the standard chain decides when absent")
    anonymous: bool = setting(
        False, env="DATAPLANE_ANONYMOUS", parse=parse_flag, doc="send no credentials"
    )
    max_attempts: int = setting(
        8, env="DATAPLANE_STORE_MAX_ATTEMPTS", parse=int, doc="tries per request"
    )
    deadline_s: float = setting(
        120.0,
        env="DATAPLANE_STORE_DEADLINE_S",
        parse=float,
        doc="time allowed per request, retries included",
    )
    timeout_s: float = setting(
        30.0,
        env="DATAPLANE_STORE_TIMEOUT_S",
        parse=float,
        doc="time allowed per try; of a stream, for a pause",
    )
    metadata_deadline_s: float = setting(
        15.0,
        env="DATAPLANE_STORE_METADATA_DEADLINE_S",
        parse=float,
        doc="time allowed to describe an object or list a page, retries included; a try gets half",
    )
    max_concurrency: int = setting(
        32, env="DATAPLANE_STORE_MAX_CONCURRENCY", parse=int, doc="requests under way at once"
    )
    hedge: bool = setting(
        True,
        env="DATAPLANE_STORE_HEDGE",
        parse=parse_flag,
        doc="send late reads a second time; where all are quick, once one was late",
    )
    hedge_floor_s: float = setting(
        0.2, env="DATAPLANE_STORE_HEDGE_FLOOR_S", parse=float, doc="no read is late before that"
    )
    direct: bool = setting(
        True,
        env="DATAPLANE_STORE_DIRECT",
        parse=parse_flag,
        doc="receive streams over HTTP and HTTPS straight into memory, past the client library",
    )
    ca_bundle: Path | None = setting(
        None,
        env=CA_VARIABLES[0],
        parse=absolute_path,
        is_path=True,
        doc="file or folder of certificates (PEM) to trust besides the system's; by default what "
        f"{', '.join(CA_VARIABLES[1:-1])} or {CA_VARIABLES[-1]} names",
    )
    storage_options: Mapping[str, object] = setting(
        default_factory=dict,
        doc="passed to fsspec for protocols that it serves",
        repr=False,  # it may hold secrets
    )

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ConfigError(f"store.max_attempts must be at least 1, got {self.max_attempts}")
        if self.max_concurrency < 1:
            raise ConfigError(
                f"store.max_concurrency must be at least 1, got {self.max_concurrency}"
            )
        if self.ca_bundle is not None:
            object.__setattr__(self, "ca_bundle", absolute_path(self.ca_bundle))
        for name in ("deadline_s", "timeout_s", "metadata_deadline_s", "hedge_floor_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"store.{name} must be positive, got {getattr(self, name)}")
        keys = {"key", "secret", "token", "account_key"} & self.storage_options.keys()
        if self.anonymous and keys:
            raise ConfigError(
                f"store.anonymous and store.storage_options.{min(keys)} exclude each other"
            )

    @property
    def metadata_timeout_s(self) -> float:
        """Time allowed for one try to describe or list, so that one that hangs can be repeated."""
        return min(self.timeout_s, self.metadata_deadline_s / 2)
