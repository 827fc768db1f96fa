"""The head of a VTK XML file: which kind of dataset it says it holds. Reads no values.

Comments and processing instructions may come before the root element, at any length up to a limit.
Thread-safe: no state.
"""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["xml_type"]

_FIRST_BYTES = 16 << 10
MAX_PROLOG_BYTES = 16 << 20
"""Comments before the root element; a file with more of them is not taken for VTK XML."""
_BEFORE_ROOT = re.compile(
    rb"(?:\xef\xbb\xbf)?(?:\s+|<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^\[>]*(?:\[.*?\]\s*)?>)*", re.DOTALL
)
_ROOT = re.compile(rb"<VTKFile\b[^>]*?\stype\s*=\s*[\"']([^\"']{1,64})[\"']", re.DOTALL)


def xml_type(path: Path) -> str | None:
    """Return what a VTK XML file says it is (`UnstructuredGrid`, `Collection`, …), or None."""
    with path.open("rb") as stream:
        head = stream.read(_FIRST_BYTES)
        if b"<" not in head[:_FIRST_BYTES]:
            return None
        found = _root(head)
        if found is None and head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"<?", b"<!")):
            found = _root(head + stream.read(MAX_PROLOG_BYTES))
    return found.decode(errors="replace") if found else None


def _root(head: bytes) -> bytes | None:
    before = _BEFORE_ROOT.match(head)
    found = _ROOT.match(head, before.end() if before else 0)
    return found.group(1) if found else None
