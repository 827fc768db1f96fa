"""One table from the errors of dataplane to what a program sees in `errno`.

`dataplane.errors` gives an errno to the classes that have a counterpart in Python. A program that
reads a file knows less: it asked for bytes, not for a store. So the table below makes the choice
for the mount, with a sentence for each that could be argued about; a dataplane error that is not
listed is EIO. Pure functions, no state.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from types import MappingProxyType

from dataplane.errors import (
    CacheError,
    ConfigError,
    DataplaneError,
    Denied,
    NoSpace,
    NotFound,
    ObjectChanged,
    StoreError,
    Throttled,
    Timeout,
    TooLarge,
)

__all__ = ["ERRNO_OF_ERROR", "errno_of", "os_error"]

ERRNO_OF_ERROR: Mapping[type, int] = MappingProxyType(
    {
        # A name that is not there. Object stores answer the same for a missing bucket.
        NotFound: errno.ENOENT,
        # Credentials may expire while the mount lives. EACCES is what NFS answers then, and what
        # makes a person look at permissions; EPERM would suggest that no one may.
        Denied: errno.EACCES,
        # The bytes under an open file were replaced or removed. ESTALE is the word that NFS has
        # for it, and opening the file again is what helps. EIO would suggest a broken disk.
        ObjectChanged: errno.ESTALE,
        # The store's "slow down" outlived every retry. EAGAIN would promise that the same read()
        # works in a moment, which no program expects of a regular file: many treat it as a bug.
        Throttled: errno.EIO,
        # Kept apart from EIO, so that a log of the program says where to look: the network.
        Timeout: errno.ETIMEDOUT,
        StoreError: errno.EIO,
        # The *cache's* disk is full. The reader did not write anything; ENOSPC would send it to
        # the wrong place. The cache reads past itself when it can, so this is rare.
        NoSpace: errno.EIO,
        CacheError: errno.EIO,
        # EINVAL is for the caller's arguments; a setting of the mount is not one of them.
        ConfigError: errno.EIO,
        # A length in a file is a lie. EFBIG is about writing past a limit.
        TooLarge: errno.EIO,
    }
)
"""Class of `dataplane.errors` -> errno of the mount; the nearest class of an error's line wins."""


def errno_of(err: BaseException) -> int:
    """Return the errno that a program sees for `err`."""
    if isinstance(err, DataplaneError):
        line = (ERRNO_OF_ERROR[c] for c in type(err).__mro__ if c in ERRNO_OF_ERROR)
        return next(line, errno.EIO)
    if isinstance(err, MemoryError):
        return errno.ENOMEM
    if isinstance(err, OSError) and isinstance(err.errno, int) and err.errno > 0:
        return err.errno
    return errno.EIO


def os_error(code: int, path: str) -> OSError:
    """Make the OSError of a plain answer, such as ENOENT for a name that is not there."""
    return OSError(code, os.strerror(code), path)
