"""Checks of limits that the system sets: open files, locked memory, shared memory. Pure functions.

Numbers that a process may reach are compared with what the cache, a pinned buffer or torch's worker
processes want of them.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path

from dataplane.cli.checks.finding import Finding, Values, ok, skip, warn
from dataplane.units import format_bytes, format_count

__all__ = ["locked_memory", "open_files", "shared_memory"]

_ENOUGH_FILES = 4096
_ENOUGH_SHARED_BYTES = 1 << 30
_UNLIMITED = resource.RLIM_INFINITY


def open_files(limits: tuple[int, int] | None = None) -> Finding:
    """Check the limit of open files, of which the cache takes up to a quarter.

    Args:
        limits: soft and hard limit; by default those of this process.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE) if limits is None else limits
    values: Values = {"soft": _number(soft), "hard": _number(hard)}
    found = f"{_count(soft)}, and {_count(hard)} at most"
    if soft == _UNLIMITED or soft >= _ENOUGH_FILES:
        return ok(found, **values)
    may_have = soft != hard and (hard == _UNLIMITED or hard > soft)
    want = 65_536 if hard == _UNLIMITED else min(hard, 65_536)
    return warn(
        f"{found}: the cache keeps few objects open, and opens them again and again",
        f"ulimit -n {want}" if may_have else f"ask root for {_count(_ENOUGH_FILES)} or more",
        **values,
    )


def locked_memory(limits: tuple[int, int] | None = None, *, has_gpu: bool) -> Finding:
    """Check the limit of locked memory, beside a GPU.

    Args:
        limits: soft and hard limit in bytes; by default those of this process.
        has_gpu: whether there is a GPU.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK) if limits is None else limits
    found = "no limit" if soft == _UNLIMITED else format_bytes(soft)
    values: Values = {"soft_bytes": _number(soft)}
    if soft == _UNLIMITED:
        return ok(found, **values)
    if not has_gpu:
        return ok(f"{found}; without a GPU nothing here locks memory", **values)
    return warn(
        f"{found}: CUDA pins its buffers without asking it, but NCCL over InfiniBand and "
        "io_uring do",
        "ulimit -l unlimited; in a container, --ulimit memlock=-1",
        **values,
    )


def shared_memory(folder: Path = Path("/dev/shm")) -> Finding:  # noqa: S108 - the system's own
    """Check the size of shared memory, through which torch's worker processes send batches.

    Args:
        folder: place where it is mounted.
    """
    try:
        status = os.statvfs(folder)
    except FileNotFoundError:
        return warn(
            f"{folder} is missing: worker processes of torch's own DataLoader fail",
            "mount a tmpfs there; dataplane's loader needs none",
        )
    except OSError as err:
        return warn(f"{folder} cannot be looked at: {err.strerror}", "mount a tmpfs there")
    size = status.f_blocks * status.f_frsize
    free = status.f_bavail * status.f_frsize
    values: Values = {"size_bytes": size, "free_bytes": free}
    found = f"{format_bytes(free)} of {format_bytes(size)} free in {folder}"
    if not size:
        return skip(f"{folder} says no size", **values)
    if free < _ENOUGH_SHARED_BYTES:
        return warn(
            f"{found}: too little for worker processes of torch's own DataLoader",
            "in a container, --shm-size=8g; dataplane's loader needs none of it",
            **values,
        )
    return ok(found, **values)


def _number(limit: int) -> int | None:
    return None if limit == _UNLIMITED else limit


def _count(limit: int) -> str:
    return "no limit" if limit == _UNLIMITED else format_count(limit)
