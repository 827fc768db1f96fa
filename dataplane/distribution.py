"""The distribution that this package comes in: its name, version, requirements, and its checkout.

The distribution is called `simdataplane`, since a public index has another project's `dataplane`;
the package and the command keep the short name. In a checkout (an editable installation, or a
program started in it) `pyproject.toml` lies beside the package and is what holds: the metadata of
the installed distribution are as old as its last installation. Elsewhere those metadata are read.
Pure functions of what is on the disk.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from dataplane.errors import ConfigError

__all__ = [
    "DISTRIBUTION",
    "checkout",
    "optional_requirements",
    "required_python",
    "requirements",
    "version",
]

DISTRIBUTION = "simdataplane"
_PROJECT_FILE = "pyproject.toml"


def checkout() -> Path | None:
    """Return the folder of the project when this package is imported from one, or None."""
    folder = Path(__file__).resolve().parents[1]
    return folder if _project(folder) else None


def version() -> str:
    """Return the version of this package.

    Raises:
        ConfigError: it was neither installed nor imported from a checkout.
    """
    folder = checkout()
    if folder is not None:
        return str(_project(folder)["version"])
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError as err:
        raise ConfigError(
            f"{Path(__file__).parent} belongs to no installed distribution {DISTRIBUTION}",
            hint=f"install it again: pip install {DISTRIBUTION}",
        ) from err


def required_python() -> str:
    """Return the range of Python versions, such as `>=3.11`; empty where that is not known."""
    folder = checkout()
    if folder is not None:
        return str(_project(folder).get("requires-python", ""))
    try:
        described = metadata.metadata(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return ""
    return str(described["Requires-Python"]) if "Requires-Python" in described else ""


def requirements() -> list[str]:
    """Return what the distribution requires in any case, as `click>=8.1`."""
    folder = checkout()
    if folder is not None:
        return [str(text) for text in _project(folder).get("dependencies", ())]
    try:
        required = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return []
    return [text.partition(";")[0].strip() for text in required if "extra ==" not in text]


def optional_requirements() -> Iterator[tuple[str, str]]:
    """Yield the extras of the distribution, each with one requirement at a time.

    Example:
        >>> ("fuse", "mfusepy") in {(extra, text[:7]) for extra, text in optional_requirements()}
        True
    """
    folder = checkout()
    if folder is not None:
        for extra, requirements in _project(folder)["optional-dependencies"].items():
            yield from ((extra, text) for text in requirements)
        return
    try:
        required = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return
    for text in required:
        requirement, _, marker = text.partition(";")
        name, _, extra = marker.partition("==")
        if name.strip() == "extra":
            yield extra.strip().strip("'\""), requirement.strip()


def _project(folder: Path) -> dict[str, Any]:
    """Return the table `project` of this project's file in a folder; empty when it is not there."""
    try:
        document = tomllib.loads((folder / _PROJECT_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    project = document.get("project", {})
    return project if isinstance(project, dict) and project.get("name") == DISTRIBUTION else {}
