"""Checks of the GPU: driver, DALI and its CUDA version, nvCOMP, torch's build, Triton.

All but the driver's check ask what is installed. DALI is imported by a child process which sees no
GPU; here nothing of it is imported, and no CUDA context is made anywhere.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path

from dataplane.child_process import Output, output_of
from dataplane.cli.checks.finding import Finding, Values, fail, ok, skip, warn
from dataplane.cli.checks.nvml import NOT_LOADED, VERSIONS_DIFFER, Driver
from dataplane.cli.checks.versions import installed_version, package_of, range_of, satisfies
from dataplane.extras import install_hint
from dataplane.units import format_bytes

__all__ = ["dali", "dali_import", "driver", "nvcomp", "torch_build", "triton"]

Installed = Callable[[str], str | None]
_DALI = {"nvidia-dali-cuda110": 11, "nvidia-dali-cuda120": 12, "nvidia-dali-cuda130": 13}
_DALI_EXTRAS = {12: "dali-cuda12", 13: "dali-cuda13"}
_USES_NVCOMP = (
    *_DALI,
    *(f"nvidia-nvcomp-cu{major}" for major in (11, 12, 13)),
)
_IMPORT_TIMEOUT_S = 60.0
_ONLY_CPU = "without a GPU it runs pipelines on the CPU"
_IN_CONTAINER = "in a container, start it with --gpus all; else install NVIDIA's driver"


def driver(
    said: Driver, *, on_bus: int, visible: str | None, has_device: bool | None = None
) -> Finding:
    """Check that there is a GPU with a driver that works.

    Args:
        said: answer of the driver.
        on_bus: number of NVIDIA GPUs on the PCI bus.
        visible: value of CUDA_VISIBLE_DEVICES, or None.
        has_device: whether the driver's device node is there; by default it is looked for.
    """
    if has_device is None:
        has_device = Path("/dev/nvidiactl").exists()
    if said.is_late:
        return fail(
            "the NVIDIA driver does not answer",
            "look for Xid lines in dmesg; the machine may have to be restarted",
        )
    if not said.has_library or said.error == NOT_LOADED:
        if on_bus or has_device:
            return warn(
                "there is an NVIDIA GPU, but no driver for it in reach", _IN_CONTAINER, gpus=0
            )
        return skip("no NVIDIA GPU; everything runs on the CPU", gpus=0)
    if said.error == VERSIONS_DIFFER:
        return fail(
            "the driver's libraries and its kernel module are of different versions",
            "restart the machine, or load the module of the installed version",
            gpus=0,
        )
    if said.error:
        return fail(
            f"the NVIDIA driver failed with code {said.error} of NVML",
            "nvidia-smi may say more; look for Xid lines in dmesg",
            gpus=0,
        )
    cuda = f"CUDA {said.cuda[0]}.{said.cuda[1]}" if said.cuda else "no CUDA version"
    about = f"driver {said.version}, {cuda}"
    if not said.gpus:
        return warn(f"{about}, but it shows no GPU", _IN_CONTAINER, gpus=0)
    names = [f"{gpu.name} ({format_bytes(gpu.memory_bytes)})" for gpu in said.gpus]
    counts = [
        name if (count := names.count(name)) == 1 else f"{count} × {name}"
        for name in dict.fromkeys(names)
    ]
    found = f"{', '.join(counts)}; {about}"
    values: Values = {
        "gpus": len(said.gpus),
        "driver": said.version,
        "cuda_major": said.cuda[0] if said.cuda else None,
        "memory_bytes": min(gpu.memory_bytes for gpu in said.gpus),
    }
    if not said.has_cuda_library:
        return fail(
            f"{found}; but libcuda.so.1 cannot be loaded",
            "in a container, set NVIDIA_DRIVER_CAPABILITIES=compute,utility; else install the "
            "driver's CUDA library",
            **values,
        )
    if visible is not None and visible.strip() in ("", "-1", "NoDevFiles"):
        return warn(
            f"{found}; CUDA_VISIBLE_DEVICES hides all of them",
            "unset CUDA_VISIBLE_DEVICES",
            **values,
        )
    return ok(found, **values)


def dali(said: Driver, installed: Installed = installed_version) -> Finding:
    """Check that the installed DALI is built for a CUDA version that the driver runs.

    Args:
        said: answer of the driver.
        installed: function that tells an installed version.
    """
    there = {name: version for name in _DALI if (version := installed(name)) is not None}
    runs = said.cuda[0] if said.has_gpu and said.cuda else None
    if not there:
        if not said.has_gpu:
            return skip("DALI is not installed; it is for GPUs")
        extra = _extra_for(runs)
        return warn(
            "DALI is not installed; samples are decoded on the CPU",
            install_hint(extra) if extra else "update NVIDIA's driver to one that runs CUDA 12",
        )
    found = ", ".join(f"{name} {version}" for name, version in there.items())
    if len(there) > 1:
        keep = min(there, key=lambda name: (runs is None or _DALI[name] > runs, -_DALI[name]))
        return fail(
            f"{found}: they are one Python package, and overwrite each other",
            f"pip uninstall {' '.join(there)}; pip install {keep}",
        )
    ((name, version),) = there.items()
    built_for = _DALI[name]
    values: Values = {"package": name, "version": version, "cuda_major": built_for}
    if runs is None:
        return ok(f"{found}, for CUDA {built_for}; {_ONLY_CPU}", **values)
    if built_for > runs:
        extra = _extra_for(runs)
        instead = f"pip uninstall {name}; {install_hint(extra)}; or " if extra else ""
        return fail(
            f"{found} is for CUDA {built_for}, and the driver {said.version} runs CUDA {runs}",
            f"{instead}update NVIDIA's driver",
            **values,
        )
    return ok(f"{found}, for CUDA {built_for}, on a driver for CUDA {runs}", **values)


def nvcomp(
    requires: Callable[[str], Iterable[str] | None] | None = None,
    installed: Installed = installed_version,
) -> Finding:
    """Check that the packages that bring or need nvCOMP agree on its version.

    Args:
        requires: function that tells the requirements of an installed package; None where it is
            not installed.
        installed: function that tells an installed version.
    """
    ask = _requirements if requires is None else requires
    wrong: list[str] = []
    found: dict[str, str] = {}
    users: list[str] = []
    for user in _USES_NVCOMP:
        for text in ask(user) or ():
            package, wanted = package_of(text), range_of(text)
            if "nvcomp" not in package or "extra ==" in text:
                continue
            users.append(user)
            version = installed(package)
            if version is None:
                wrong.append(f"{user} needs {package}{wanted}, which is not installed")
                continue
            found[package] = version
            if not satisfies(version, wanted):
                wrong.append(f"{user} needs {package}{wanted}, and {version} is installed")
    if wrong:
        others = [user for user in dict.fromkeys(users) if user not in _DALI]
        return fail(
            "; ".join(wrong),
            f"pip uninstall {' '.join(others)}; then install the DALI extra again"
            if others
            else "install the DALI extra again",
        )
    if not found:
        return skip("no package here needs nvCOMP")
    said = ", ".join(f"{name} {version}" for name, version in found.items())
    return ok(f"{said}, as {', '.join(dict.fromkeys(users))} wants", **found)


def dali_import(
    installed: Installed = installed_version,
    ask: Callable[..., Output | None] = output_of,
    environ: Mapping[str, str] | None = None,
) -> Finding:
    """Check that DALI can be imported, in a child process that sees no GPU.

    Args:
        installed: function that tells an installed version.
        ask: function that runs a command within a time.
        environ: the environment.
    """
    if all(installed(name) is None for name in _DALI):
        return skip("DALI is not installed")
    environ = os.environ if environ is None else environ
    program = "import nvidia.dali as dali; print('dali', dali.__version__)"
    output = ask(
        [sys.executable, "-W", "ignore", "-c", program],
        _IMPORT_TIMEOUT_S,
        environ={**environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    if output is None:
        return fail(f"import nvidia.dali did not end within {_IMPORT_TIMEOUT_S:g} s", _AGAIN)
    words = output.text.split()
    if output.code or "dali" not in words:
        lines = output.errors.strip().splitlines() or [f"it ended with {output.code}"]
        return fail(f"import nvidia.dali fails: {lines[-1][:300]}", _AGAIN)
    version = words[words.index("dali") + 1]
    return ok(f"nvidia.dali {version} is imported", version=version)


_AGAIN = "install the DALI extra again, in an environment of its own if others need its packages"


def torch_build(
    said: Driver,
    version_file: Path | None = None,
    find: Callable[[str], str | None] | None = None,
) -> Finding:
    """Check that torch is built for CUDA, and for one that the driver runs; it is not imported.

    Args:
        said: answer of the driver.
        version_file: torch's `version.py`; by default that of the installed one.
        find: function that finds the folder of a package.
    """
    if not said.has_gpu:
        return skip("no GPU, so whether torch is built for one does not matter")
    if version_file is None:
        folder = (find or _folder_of)("torch")
        if folder is None:
            return skip("torch is not installed")
        version_file = Path(folder) / "version.py"
    try:
        text = version_file.read_text()
    except OSError:
        return warn(f"the build of torch is not known: {version_file} cannot be read", "")
    built = re.search(r"^cuda[^=\n]*=\s*['\"](\d+)\.(\d+)", text, re.MULTILINE)
    if built is None:
        return warn(
            "torch is built without CUDA: its tensors stay on the CPU",
            "install torch with CUDA: https://pytorch.org/get-started/locally",
        )
    major, minor = int(built[1]), int(built[2])
    runs = said.cuda[0] if said.cuda else 0
    values: Values = {"cuda_major": major, "cuda_minor": minor}
    if major > runs:
        return fail(
            f"torch is built for CUDA {major}.{minor}, and the driver {said.version} runs "
            f"CUDA {runs}",
            f"update NVIDIA's driver, or install torch for CUDA {runs}",
            **values,
        )
    return ok(f"torch is built for CUDA {major}.{minor}", **values)


def triton(
    said: Driver,
    environ: Mapping[str, str] | None = None,
    installed: Installed = installed_version,
    which: Callable[[str], str | None] = shutil.which,
    flags_of: Callable[[Path], int] | None = None,
) -> Finding:
    """Check what Triton needs to build kernels: a C compiler, and a folder that may hold programs.

    Args:
        said: answer of the driver.
        environ: the environment.
        installed: function that tells an installed version.
        which: function that finds programs.
        flags_of: function that tells the flags of the file system of a folder (`statvfs`).
    """
    environ = os.environ if environ is None else environ
    version = installed("triton")
    if version is None:
        return skip("Triton is not installed")
    if not said.has_gpu:
        return skip(f"triton {version}; without a GPU it builds no kernels", version=version)
    compiler = environ.get("CC") or next(filter(None, map(which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        return fail(
            f"triton {version} finds no C compiler to build its launcher with",
            "install one (Debian, Ubuntu: apt install gcc), or name it in CC",
            version=version,
        )
    home = environ.get("TRITON_CACHE_DIR")
    folder = Path(home) if home else Path("~/.triton/cache").expanduser()
    if (flags_of or _flags_of)(folder) & os.ST_NOEXEC:
        return fail(
            f"Triton keeps what it builds in {folder}, whose file system is mounted noexec",
            "set TRITON_CACHE_DIR to a folder that may hold programs",
            version=version,
        )
    return ok(f"triton {version}, compiler {compiler}, kernels in {folder}", version=version)


def _extra_for(major: int | None) -> str | None:
    """Return the extra with the newest DALI that a driver for a CUDA version runs."""
    fitting = [it for it in _DALI_EXTRAS if major is not None and it <= major]
    return _DALI_EXTRAS[max(fitting)] if fitting else None


def _requirements(package: str) -> Iterable[str] | None:
    try:
        return metadata.requires(package) or []
    except metadata.PackageNotFoundError:
        return None


def _folder_of(package: str) -> str | None:
    spec = importlib.util.find_spec(package)
    return str(Path(spec.origin).parent) if spec is not None and spec.origin else None


def _flags_of(folder: Path) -> int:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return os.statvfs(folder).f_flag
