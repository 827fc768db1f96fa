"""The environment of a figure: processor, memory, kernel, versions, commit, build."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import dataplane
from dataplane import _native
from dataplane.errors import ConfigError

__all__ = ["describe_gpu", "describe_machine", "require_release_build"]

_PACKAGES = (
    "torch", "numpy", "zarr", "zarrs", "tensorstore", "numcodecs", "blosc2", "webdataset",
    "litdata", "mosaicml-streaming", "obstore", "s3fs", "pyarrow",
)  # fmt: skip
_GPU_PACKAGES = (
    "triton", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "nvidia-libnvcomp-cu13",
    "nvidia-libnvcomp-cu12",
)  # fmt: skip
_RELEASE_BUILDS = frozenset({"Release", "RelWithDebInfo"})


def require_release_build() -> None:
    """Refuse to measure a native module that was built for debugging.

    Raises:
        ConfigError: the build is not optimised, or has sanitizers.
    """
    if _native.build_type not in _RELEASE_BUILDS or _native.sanitizers:
        built = " ".join(filter(None, (_native.build_type, _native.sanitizers)))
        raise ConfigError(
            f"the native module is a {built} build; its figures would mean nothing",
            hint="rebuild with: pip install --no-build-isolation -e .",
        )


def describe_machine() -> dict[str, object]:
    """Name the machine and the software, for the head of a report."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "dataplane": dataplane.__version__,
        "commit": _commit(),
        "native_build": _native.build_type,
        "versions": _versions(_PACKAGES),
    }


def describe_gpu(index: int | None) -> dict[str, object]:
    """Name a GPU and what drives it, for the head of a report; index None is the current one."""
    import torch

    found = torch.cuda.get_device_properties("cuda" if index is None else f"cuda:{index}")
    return {
        "name": found.name,
        "memory_bytes": found.total_memory,
        "capability": f"{found.major}.{found.minor}",
        "cuda": torch.version.cuda,
        "versions": _versions(_GPU_PACKAGES),
    }


def _versions(packages: Sequence[str]) -> dict[str, str | None]:
    versions: dict[str, str | None] = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match.group(1).strip() if match else platform.machine()


def _commit() -> str | None:
    """Commit of the checkout that this package is imported from, `+` when it has changes."""
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments],
            check=True, capture_output=True, text=True, timeout=10,
        ).stdout.strip()  # fmt: skip

    try:
        return git("rev-parse", "--short=12", "HEAD") + (
            "+" if git("status", "--porcelain") else ""
        )
    except (OSError, subprocess.SubprocessError):
        return None
