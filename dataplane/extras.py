"""What to say when an optional package is missing: which extra of the project brings it.

The extras and what is in them are read from the metadata of the installed distribution, so this
room repeats nothing of pyproject.toml but the import names that differ from those of packages. The
distribution is installed from a checkout; a bare `pip install 'dataplane[…]'` would ask the package
index for somebody else's package. Pure functions.
"""

from __future__ import annotations

import re
from importlib import metadata

from dataplane.errors import MissingPackage

__all__ = ["extra_of", "install_hint", "missing_package"]

_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)[^;]*;\s*extra\s*==\s*['\"]([^'\"]+)['\"]")
_IMPORTED_AS = {
    "aiobotocore": "s3fs",
    "aiohttp": "s3fs",
    "botocore": "s3fs",
    "vtk": "pyvista",
    "vtkmodules": "pyvista",
}
_NOT_FOR_USERS = frozenset({"all", "dev"})


def install_hint(extra: str) -> str:
    """Return how to install an extra.

    Example:
        >>> install_hint("torch")
        "in the checkout: pip install '.[torch]'"
    """
    return f"in the checkout: pip install '.[{extra}]'"


def extra_of(module: str) -> str:
    """Return the extra that brings a module; `all` when none is known to.

    Example:
        >>> extra_of("zarr"), extra_of("botocore.session"), extra_of("antigravity")
        ('bench', 's3', 'all')
    """
    name = module.partition(".")[0]
    name = _normal(_IMPORTED_AS.get(name, name))
    for requirement in metadata.requires("dataplane") or ():
        match = _REQUIREMENT.match(requirement)
        if match and _normal(match.group(1)) == name and match.group(2) not in _NOT_FOR_USERS:
            return match.group(2)
    return "all"


def missing_package(what: str, module: str, *, extra: str | None = None) -> MissingPackage:
    """Return the error for something that needs a package which is not installed.

    Args:
        what: needs it.
        module: that could not be imported.
        extra: that brings it; by default found in the metadata.
    """
    name = module.partition(".")[0]
    return MissingPackage(
        f"{what} needs the Python package {name}, which is not installed",
        hint=install_hint(extra or extra_of(module)),
    )


def _normal(distribution: str) -> str:
    return distribution.replace("_", "-").lower()
