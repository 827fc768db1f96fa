"""Extras of the project: which one brings an optional package that is missing.

The extras and what is in them are those of the distribution, so this module repeats nothing of
pyproject.toml but the import names that differ from those of packages. Pure functions.
"""

from __future__ import annotations

import re

from dataplane.distribution import DISTRIBUTION, checkout, optional_requirements
from dataplane.errors import MissingPackage

__all__ = ["extra_of", "install_hint", "missing_package"]

_NAME = re.compile(r"[A-Za-z0-9._-]+")
_IMPORTED_AS = {
    "aiobotocore": "s3fs",
    "aiohttp": "s3fs",
    "botocore": "s3fs",
    "vtkmodules": "vtk",
}
_NOT_FOR_USERS = frozenset({"all", "bench-peers", "dev"})


def install_hint(extra: str) -> str:
    """Return how to install an extra: by the distribution's name, or from the checkout in use.

    Example:
        >>> install_hint("torch").endswith("[torch]'")
        True
    """
    if checkout() is not None:
        return f"in the checkout: pip install '.[{extra}]'"
    return f"pip install '{DISTRIBUTION}[{extra}]'"


def extra_of(module: str) -> str:
    """Return the extra that brings a module; `all` when none is known to.

    Example:
        >>> extra_of("zarr"), extra_of("botocore.session"), extra_of("antigravity")
        ('bench', 's3', 'all')
    """
    name = module.partition(".")[0]
    name = _normal(_IMPORTED_AS.get(name, name))
    for extra, requirement in optional_requirements():
        match = _NAME.match(requirement)
        if match and _normal(match.group()) == name and extra not in _NOT_FOR_USERS:
            return extra
    return "all"


def missing_package(what: str, module: str, *, extra: str | None = None) -> MissingPackage:
    """Return the error for something that needs a package which is not installed.

    Args:
        what: thing that needs it.
        module: module that could not be imported.
        extra: extra that brings it; by default found among the distribution's.
    """
    name = module.partition(".")[0]
    return MissingPackage(
        f"{what} needs the Python package {name}, which is not installed",
        hint=install_hint(extra or extra_of(module)),
    )


def _normal(distribution: str) -> str:
    return distribution.replace("_", "-").lower()
