"""Rewritten VTK XML files: parts that VTK reads wrongly, in a form that it reads rightly.

Edits replace byte ranges of a file. The result is a memory file (memfd), which VTK opens by its
name below `/proc/self/fd` and which is gone when it is closed. Only files that need an edit are
copied. Tags are written anew from their attributes, in ASCII with character references, so they
mean the same in every encoding of the document.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import quoteattr

from dataplane.pack.vtk.xml import Content

__all__ = ["Edits", "tag"]

_STEP_BYTES = 16 << 20


def tag(name: str, attributes: Mapping[str, str], *, closed: bool = False) -> bytes:
    """A start tag, or with `closed` an element without content."""
    written = "".join(f" {key}={quoteattr(value)}" for key, value in attributes.items())
    return f"<{name}{written}{'/' * closed}>".encode("ascii", "xmlcharrefreplace")


@dataclass(slots=True)
class Edits:
    """Replacements of byte ranges of one file, which do not overlap unless one holds the other."""

    ranges: list[tuple[int, int, bytes]] = field(default_factory=list)

    def replace(self, start: int, stop: int, text: bytes) -> None:
        """Put `text` in the place of `content[start:stop]`."""
        self.ranges.append((start, stop, text))

    def apply(self, content: Content, stack: ExitStack) -> Path:
        """Write the edited file; it lives as long as the stack."""
        handle = os.memfd_create("dataplane-vtk-file")
        stack.callback(os.close, handle)
        with open(handle, "wb", closefd=False) as file:
            at = 0
            for start, stop, text in sorted(self.ranges, key=_insertions_first):
                if start < at:  # within a range that was replaced as a whole
                    continue
                for part in range(at, start, _STEP_BYTES):
                    file.write(content[part : min(part + _STEP_BYTES, start)])
                file.write(text)
                at = stop
            for part in range(at, len(content), _STEP_BYTES):
                file.write(content[part : part + _STEP_BYTES])
        return Path(f"/proc/self/fd/{handle}")


def _insertions_first(item: tuple[int, int, bytes]) -> tuple[int, bool, int]:
    """Sort key: by place; in one place insertions first, then the one that holds the others."""
    start, stop, _ = item
    return start, stop > start, -stop
