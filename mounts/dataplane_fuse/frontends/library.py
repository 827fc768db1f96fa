"""Loading of libfuse 3 and its ctypes declarations."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

from dataplane.errors import MountError
from dataplane.extras import missing_package

__all__ = ["library_version", "load_library"]


def load_library() -> ModuleType:
    """Import mfusepy on libfuse 3.

    Raises:
        MissingPackage: mfusepy is not installed.
        MountError: libfuse 3 is not.
    """
    # Left alone, mfusepy takes libfuse 2 where both are installed.
    if not os.environ.get("FUSE_LIBRARY_PATH"):
        os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")
    try:
        fuse = importlib.import_module("mfusepy")
    except ModuleNotFoundError as err:
        raise missing_package("mounting", "mfusepy") from err
    except (OSError, AttributeError) as err:
        raise MountError(
            f"libfuse 3 cannot be loaded: {err}",
            hint="install it (Debian, Ubuntu: apt install fuse3; RHEL: dnf install fuse3)",
        ) from err
    if fuse.fuse_version_major != 3:
        raise MountError(
            f"libfuse {fuse.fuse_version_major} was loaded where libfuse 3 is needed",
            hint="unset FUSE_LIBRARY_PATH and FUSE_LIBRARY_NAME, and install fuse3",
        )
    return fuse


def library_version(fuse: ModuleType) -> tuple[int, int]:
    """Return the version of libfuse that mfusepy loaded."""
    return fuse.fuse_version_major, fuse.fuse_version_minor
