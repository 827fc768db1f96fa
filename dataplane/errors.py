"""Every error that dataplane raises, grouped by what a handler would do.

    DataplaneError
    ├── ConfigError                 the caller asked for something that cannot be: change the call
    │   └── MissingPackage          it needs an optional Python package that is not installed
    ├── StoreError                  the object store failed: look at the store, maybe try later
    │   ├── NotFound                no such key
    │   │   └── BucketNotFound      no such bucket
    │   ├── Denied                  wrong or missing credentials
    │   ├── Throttled               the store kept refusing for load
    │   ├── Timeout                 no answer within the deadline
    │   ├── Unavailable             it broke off, or failed itself
    │   └── ObjectChanged           the object was replaced while it was read
    ├── CacheError                  the local cache failed; reads go on without it where they can
    │   ├── Corrupt                 cached bytes do not match their checksum
    │   └── NoSpace                 the disk is full
    ├── FormatError                 a file is not what it claims to be: names the file and the place
    ├── DecodeError                 a chunk cannot be decoded
    │   ├── Truncated               it ends early
    │   ├── ChecksumMismatch        its bytes do not match its checksum
    │   └── TooLarge                it declares more bytes than its place holds
    ├── MountError                  a mount could not be made or removed
    └── LoaderError                 the loader could not go on
        └── MissingArray            a sample lacks an array that was asked for

Each class has a stable `kind` (for logs and `--json`), an `exit_code` (what a command returns; the
table is docs/errors.md) and `retryable` (whether the same call may succeed later). Messages say
what failed, where, expected and got, and what to do; they never hold credentials or signed URLs.
All errors pickle, so that they cross process borders whole.

Those that have a counterpart among Python's own errors are of that class as well, with its `errno`
where it has one, so that code written for files and the standard library catches them:
ConfigError is a ValueError, MissingPackage an ImportError, NotFound a FileNotFoundError, Denied a
PermissionError, Timeout a TimeoutError, and LoaderError a RuntimeError, as torch's loader raises.
A handler of both kinds asks for DataplaneError first.
"""

from __future__ import annotations

import errno
from typing import ClassVar

__all__ = [
    "BucketNotFound",
    "CacheError",
    "ChecksumMismatch",
    "ConfigError",
    "Corrupt",
    "DataplaneError",
    "DecodeError",
    "Denied",
    "FormatError",
    "LoaderError",
    "MissingArray",
    "MissingPackage",
    "MountError",
    "NoSpace",
    "NotFound",
    "ObjectChanged",
    "StoreError",
    "Throttled",
    "Timeout",
    "TooLarge",
    "Truncated",
    "Unavailable",
]


class DataplaneError(Exception):
    """Base of every error raised on purpose by dataplane."""

    kind: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.hint))


def _rebuild(cls: type[DataplaneError], message: str, hint: str | None) -> DataplaneError:
    return cls(message, hint=hint)


class ConfigError(DataplaneError, ValueError):
    """A setting, argument or URL cannot be used as given."""

    kind = "config"
    exit_code = 2


class MissingPackage(ConfigError, ImportError):
    """An optional Python package that the call needs is not installed."""

    kind = "missing_package"
    exit_code = 1


class StoreError(DataplaneError):
    """The object store failed after the retries that its policy allows."""

    kind = "store"
    exit_code = 3


class NotFound(StoreError, FileNotFoundError):
    """No such key, directory, bucket or container."""

    kind = "not_found"
    errno = errno.ENOENT


class BucketNotFound(NotFound):
    """The store says that the bucket or container itself is missing."""

    kind = "bucket_not_found"


class Denied(StoreError, PermissionError):
    """The store refused the credentials, or asked for some."""

    kind = "denied"
    errno = errno.EACCES


class Throttled(StoreError):
    """The store kept answering "slow down" until the deadline."""

    kind = "throttled"
    retryable = True


class Timeout(StoreError, TimeoutError):
    """The store did not answer within the deadline."""

    kind = "timeout"
    errno = errno.ETIMEDOUT
    retryable = True


class Unavailable(StoreError):
    """The store broke off or answered with a failure of its own; the same call may succeed."""

    kind = "unavailable"
    retryable = True


class ObjectChanged(StoreError):
    """The object was replaced since it was first seen; its bytes are never mixed."""

    kind = "object_changed"


class CacheError(DataplaneError):
    """The cache directory cannot be used."""

    kind = "cache"
    exit_code = 5


class Corrupt(CacheError):
    """Cached bytes do not match their checksum."""

    kind = "corrupt"


class NoSpace(CacheError):
    """The disk that holds the cache, or the destination of a write, is full."""

    kind = "no_space"


class FormatError(DataplaneError):
    """A file or its metadata is not in a format that can be read."""

    kind = "format"
    exit_code = 4


class DecodeError(DataplaneError):
    """A chunk cannot be decoded."""

    kind = "decode"
    exit_code = 4


class Truncated(DecodeError):
    """A chunk ends before its declared length."""

    kind = "truncated"


class ChecksumMismatch(DecodeError):
    """A chunk's bytes do not match its checksum."""

    kind = "checksum_mismatch"


class TooLarge(DecodeError):
    """A chunk declares more bytes than its destination or the limits allow."""

    kind = "too_large"


class MountError(DataplaneError):
    """A mount could not be made, found or removed."""

    kind = "mount"
    exit_code = 6


class LoaderError(DataplaneError, RuntimeError):
    """The loader could not go on."""

    kind = "loader"
    exit_code = 7


class MissingArray(LoaderError):
    """A sample lacks an array that was asked for."""

    kind = "missing_array"
