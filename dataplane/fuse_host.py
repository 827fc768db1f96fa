"""What a host needs for mounts: the device, fusermount3, libfuse 3 and its ctypes declarations.

The mount asks before it makes one, and `dataplane doctor` in advance. Functions without state.
"""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from dataplane.errors import MountError
from dataplane.extras import missing_package

__all__ = ["DEVICE", "check_device", "library_version", "load_library"]

DEVICE = Path("/dev/fuse")


def check_device(
    device: Path = DEVICE,
    *,
    user: int | None = None,
    which: Callable[[str], str | None] = shutil.which,
) -> None:
    """Check that this process can mount at all.

    Args:
        device: device to look for.
        user: user that mounts; by default the user of this process.
        which: function that finds programs.

    Raises:
        MountError: /dev/fuse is missing or may not be opened, or fusermount3 is missing.
    """
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError as err:
        raise MountError(
            f"{device} is missing",
            hint="load the module (modprobe fuse); in a container, pass --device /dev/fuse",
        ) from err
    except OSError as err:
        raise MountError(
            f"{device} cannot be opened: {err.strerror}",
            hint="in a container, pass --device /dev/fuse --cap-add SYS_ADMIN; elsewhere, join "
            "the group that may use it",
        ) from err
    if (os.geteuid() if user is None else user) != 0 and which("fusermount3") is None:
        raise MountError(
            "fusermount3 is missing, which mounts for users other than root",
            hint="install fuse3 (Debian, Ubuntu: apt install fuse3)",
        )


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
