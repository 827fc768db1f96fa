"""Checks of software: Python, the packages that are required, torch, extras, the native module.

Requirements are those of the distribution; nothing of pyproject.toml is repeated here. torch is not
imported: its version is in its metadata.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from dataplane.cli.checks.finding import Finding, Values, fail, ok, skip, warn
from dataplane.cli.checks.versions import installed_version, package_of, range_of, satisfies
from dataplane.cli.text import plural
from dataplane.extras import install_hint

if TYPE_CHECKING:
    from dataplane.codecs import NativeInfo

__all__ = ["extras", "native_module", "packages", "python", "torch"]

Installed = Callable[[str], str | None]
_NOT_FOR_USERS = frozenset({"all", "dev"})
_SIMD_FLAGS = frozenset({"avx2", "asimd"})


def python(
    version: str | None = None, wanted: str = "", *, implementation: str | None = None
) -> Finding:
    """Check the version of Python.

    Args:
        version: version that runs; by default this one.
        wanted: range that is supported.
        implementation: its name; by default of this one.
    """
    version = version or platform.python_version()
    name = implementation or platform.python_implementation()
    if not satisfies(version, wanted):
        return fail(
            f"{name} {version}, outside of {wanted}",
            f"make an environment with Python {wanted}",
            version=version,
            wanted=wanted,
        )
    return ok(f"{name} {version} ({wanted})", version=version, wanted=wanted)


def packages(required: Iterable[str], installed: Installed = installed_version) -> Finding:
    """Check the packages that are required in any case.

    Args:
        required: requirements such as `click>=8.1`.
        installed: function that tells an installed version.
    """
    required = list(required)
    wrong = [text for text in (_wrong(it, installed) for it in required) if text]
    if wrong:
        return fail("; ".join(wrong), "install the project again", wrong=len(wrong))
    count = len(required)
    return ok(f"{count} {plural('package', count)} in their ranges", packages=count, wrong=0)


def torch(optional: Iterable[tuple[str, str]], installed: Installed = installed_version) -> Finding:
    """Check the version of torch, which the DataLoader needs.

    Args:
        optional: extras, each with one requirement at a time.
        installed: function that tells an installed version.
    """
    wanted = next((text for _, text in optional if package_of(text) == "torch"), "torch")
    version = installed("torch")
    if version is None:
        return skip(
            "not installed; Dataset.numpy and mounts work without it, the DataLoader does not",
            install_hint("torch"),
            version=None,
        )
    if not satisfies(version, range_of(wanted)):
        return fail(
            f"torch {version}, outside of {range_of(wanted)}",
            install_hint("torch"),
            version=version,
            wanted=range_of(wanted),
        )
    return ok(f"torch {version} ({range_of(wanted)})", version=version, wanted=range_of(wanted))


def extras(
    optional: Iterable[tuple[str, str]], installed: Installed = installed_version
) -> Finding:
    """Check which extras are there, and that what is installed of them is in its range.

    Args:
        optional: extras, each with one requirement at a time.
        installed: function that tells an installed version.
    """
    by_extra: dict[str, list[str]] = {}
    for extra, text in optional:
        if extra not in _NOT_FOR_USERS:
            by_extra.setdefault(extra, []).append(text)
    wrong = []
    there = []
    for extra, texts in by_extra.items():
        present = [text for text in texts if installed(package_of(text)) is not None]
        wrong += [text for text in (_wrong(it, installed) for it in present) if text]
        if len(present) == len(texts):
            there.append(extra)
    absent = [extra for extra in by_extra if extra not in there]
    parts = [f"{', '.join(there) or 'none'} installed"]
    parts += [f"without {', '.join(absent)}"] if absent else []
    values: Values = {"installed": ", ".join(there), "absent": ", ".join(absent)}
    if wrong:
        return warn("; ".join([*dict.fromkeys(wrong), *parts]), "upgrade them with pip", **values)
    return ok("; ".join(parts), **values)


def native_module(
    cpuinfo: Path = Path("/proc/cpuinfo"), ask: Callable[[], NativeInfo] | None = None
) -> Finding:
    """Check the build of the native module, and that it uses what this processor can.

    Args:
        cpuinfo: file with the flags of the processor.
        ask: function that describes the native module; by default it is loaded here.
    """
    try:
        info = (ask or _native_info)()
    except (ImportError, AttributeError) as err:  # an older one lacks names
        return fail(
            f"the native module cannot be loaded: {_first_line(err)}",
            "build it again: make native in a checkout, else install the project again",
        )
    found = f"{info.build_type}, {info.simd}, zstd {info.zstd_version}, lz4 {info.lz4_version}"
    values: Values = {
        "build_type": info.build_type,
        "simd": info.simd,
        "sanitizers": info.sanitizers,
    }
    if not info.optimised:
        with_sanitizers = f" with sanitizers ({info.sanitizers})" if info.sanitizers else ""
        return warn(
            f"{found}: not optimised{with_sanitizers}",
            "decoding is slow; build it with CMAKE_BUILD_TYPE=Release, which is the default",
            **values,
        )
    if info.simd == "scalar" and _SIMD_FLAGS & _flags(cpuinfo):
        return warn(
            f"{found}: without the vector instructions that this processor has",
            "decoding is slow; build the native module on this machine",
            **values,
        )
    return ok(found, **values)


def _native_info() -> NativeInfo:
    from dataplane.codecs import native_info

    return native_info()


def _wrong(requirement: str, installed: Installed) -> str:
    """Return what is wrong with a requirement, or an empty text."""
    package, wanted = package_of(requirement), range_of(requirement)
    version = installed(package)
    if version is None:
        return f"{package} is not installed"
    return "" if satisfies(version, wanted) else f"{package} {version} is not {wanted}"


def _flags(cpuinfo: Path) -> set[str]:
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return set()
    named = (line.partition(":") for line in lines)
    return {
        flag
        for name, _, flags in named
        if name.strip() in ("flags", "Features")
        for flag in flags.split()
    }


def _first_line(err: BaseException) -> str:
    return (str(err).splitlines() or [type(err).__name__])[0]
