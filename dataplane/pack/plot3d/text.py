"""Text files under names of PLOT3D: a molecule, a point cloud, a PLOT3D grid in text.

Other programs use the same suffixes (`.xyz`, `.g`, `.x`) for text. Binary files are not looked at:
their block sizes hold zero bytes. Pure function, no state.
Source: the XYZ file format of chemistry: a count of atoms, a comment, then symbol and coordinates.
"""

from __future__ import annotations

import re

__all__ = ["text_content"]

_TEXT = re.compile(rb"[\t\n\v\f\r\x20-\x7e\x80-\xff]*")
_NUMBER = rb"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eEdD][+-]?\d+)?"
_MOLECULE = re.compile(
    rb"\s*\d+[ \t]*\r?\n[^\n]*\n[ \t]*(?:[A-Z][A-Za-z]?\w*|\d{1,3})(?:[ \t]+%b){3}" % _NUMBER
)
_BLOCK_SIZES = re.compile(rb"\s*(?:\d{1,6}[ \t]*\r?\n)?[ \t]*\d+(?:[ \t,]+\d+){1,2}[ \t]*\r?\n")
_POINTS = re.compile(
    rb"(?:\s*#[^\n]*\n)*\s*%b(?:[ \t,;]+%b){2,}[ \t]*(?:\r?\n|$)" % (_NUMBER, _NUMBER)
)


def text_content(head: bytes) -> tuple[str, str] | None:
    r"""Return the kind of a text file, and a hint; None for binary content.

    Args:
        head: first bytes of the file, some lines at least.

    Example:
        >>> text_content(b"3\nwater\nO 0 0 0.12\nH 0 0.76 -0.47\n")[0]
        'a molecule in text (XYZ of chemistry)'
        >>> text_content(bytes([5, 0, 0, 0, 4, 0, 0, 0])) is None
        True
    """
    if not _TEXT.fullmatch(head):
        return None
    if _MOLECULE.match(head):
        return "a molecule in text (XYZ of chemistry)", "save its coordinates with np.savez"
    if _BLOCK_SIZES.match(head):
        return "a PLOT3D file in text", "write it in binary form; text is not read"
    if _POINTS.match(head):
        return "a point cloud in text", "save its columns with np.savez, or convert it to .vtp"
    return "text, not binary PLOT3D", "convert it to VTK XML or .npz first"
