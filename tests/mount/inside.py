"""What tests look at inside of a mount: the one place that knows how it is built."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dataplane.errors import DataplaneError
from dataplane_fuse import daemon
from dataplane_fuse.filesystem import Filesystem
from dataplane_fuse.frontends import fusepy


def mount_options(options: fusepy.FrontEndOptions, library: Any) -> list[str]:
    """The options that libfuse is given."""
    return fusepy._mount_options(options, library).split(",")


def daemon_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a daemon, whose working directory is another."""
    return daemon._absolute_paths(environment)


def error_of(kind: str) -> type[DataplaneError]:
    """The class of an error that a daemon reports."""
    return daemon._error_of_kind(kind)


def open_log(path: Path) -> int:
    """The open file that a daemon writes its log to."""
    return daemon._open_log(path)


def remembered_names(files: Filesystem) -> int:
    """The number of names that a mount remembers."""
    return files._tree.levels.entries
