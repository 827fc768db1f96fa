"""Found files: those in the folders that the user named, before recognition. Opens none of them.

Hidden files are left out; links to folders are named and not followed. Thread-safe: no state.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dataplane.pack.formats import dataset_stem, has_known_suffix
from dataplane.pack.names import sample_key
from dataplane.pack.source import Unreadable

__all__ = ["Found", "walk"]


@dataclass(frozen=True, slots=True)
class Found:
    """A file before it is recognised.

    Attributes:
        path: path of the file.
        label: name in messages.
        parts: its folders below the source, and its name.
        prefix: prefix that attributes put before the parts.
        asked_for: whether the user named it, or its name promises a format that pack reads.
        known_place: path without links, if that is known already.
    """

    path: Path
    label: str
    parts: tuple[str, ...]
    prefix: str
    asked_for: bool
    known_place: Path | None = None

    @property
    def resolved(self) -> Path:
        """Path without links: one path for one file, by any way to it."""
        return self.known_place or self.path.resolve()

    @property
    def name(self) -> str:
        """Name in attributes."""
        return self.prefix + "/".join(self.parts)

    def key(self, stem: str | None = None) -> str:
        """Key of its sample: its folders, and its stem or the one that is given."""
        return sample_key([*self.parts[:-1], stem or dataset_stem(self.parts[-1])])


def walk(folder: Path, *, label: str, prefix: str) -> Iterator[Found | Unreadable]:
    """List the files of a folder in the order of their names, and folders that cannot be read."""
    denied: list[OSError] = []
    for directory, folders, files in os.walk(folder, onerror=denied.append):
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        linked = [name for name in folders if Path(directory, name).is_symlink()]
        here = Path(directory)
        place, above = here.resolve(), here.relative_to(folder).parts
        for name in sorted([*files, *linked]):
            if _is_hidden(name):
                continue
            path, parts = Path(directory, name), (*above, name)
            shown = f"{label}/{'/'.join(parts)}"
            if _is_plain_file(path):
                known = Path(place, name)
                yield Found(path, shown, parts, prefix, has_known_suffix(path), known)
            elif path.is_file():
                yield Found(path, shown, parts, prefix, has_known_suffix(path))
            elif path.is_dir():
                yield Unreadable(shown, "a link to a folder is not followed", asked_for=False)
            elif path.is_symlink():
                yield Unreadable(shown, "it links to nothing", asked_for=has_known_suffix(path))
    for err in denied:
        yield Unreadable(str(err.filename), f"it cannot be read: {err.strerror}")


def _is_plain_file(path: Path) -> bool:
    """Whether it is a regular file and no link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))
