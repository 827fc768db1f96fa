"""Which format a file has, by its suffix and its first bytes. Converts nothing.

Content decides where a format can be told by it; a suffix alone is not believed for those, so a
`.vtu` that holds image data is read as what it is, and one that holds an error page is refused.
PLOT3D has no mark of its own: its files are known by their names, and by their sizes when read.
Thread-safe: no state.
"""

from __future__ import annotations

from pathlib import Path

from dataplane.errors import FormatError
from dataplane.pack.foreign import HEAD_BYTES, foreign_content
from dataplane.pack.plot3d_pairs import pair_name
from dataplane.pack.vtk_xml import xml_type

__all__ = ["ARCHIVE", "PARALLEL", "PLOT3D", "SERIES", "has_known_suffix", "recognise"]

ARCHIVE = "zip"
LEGACY = "vtk"
PLOT3D = "plot3d"
SERIES = "pvd"
_XML = {
    "ImageData": "vti",
    "PolyData": "vtp",
    "RectilinearGrid": "vtr",
    "StructuredGrid": "vts",
    "UnstructuredGrid": "vtu",
}
PARALLEL = frozenset(f"p{name}" for name in _XML.values())
_XML_FORMATS = (
    _XML | {f"P{kind}": f"p{name}" for kind, name in _XML.items()} | {"Collection": SERIES}
)
_BY_SUFFIX = frozenset({*_XML_FORMATS.values(), LEGACY, "npy", "npz", ARCHIVE})
_KNOWN = (
    *(f".{name}" for name in ("vtu", "vtp", "vti", "vtr", "vts", "vtk", "pvd", "pvtu")),
    "PLOT3D pairs (…xyz.bin, …q.bin)",
    *(".npz", ".npy", ".zip"),
)


def has_known_suffix(path: Path) -> bool:
    """Say whether a file's name promises something that pack reads."""
    return path.suffix.lower().removeprefix(".") in _BY_SUFFIX or pair_name(path) is not None


def recognise(path: Path) -> str:
    """Return the format of a file: `vtu`, `pvtu`, `vtk`, `pvd`, `plot3d`, `npz`, `npy` or `zip`.

    Raises:
        FormatError: pack does not read it; the message is the reason, without the file's name.
        OSError: it cannot be opened.
    """
    suffix = path.suffix.lower().removeprefix(".")
    with path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    if head.startswith(b"# vtk DataFile Version"):
        return LEGACY
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")) and suffix in {"npz", ARCHIVE}:
        return suffix
    kind = xml_type(path)
    if kind in _XML_FORMATS:
        return _XML_FORMATS[kind]
    if kind is not None:
        raise FormatError(f"a VTK file of the type {kind} is not supported")
    foreign = foreign_content(head)
    if foreign is not None and (suffix in _BY_SUFFIX or not head or pair_name(path) is not None):
        what, hint = foreign
        raise FormatError(f"it is {what}", hint=hint)
    if suffix in _BY_SUFFIX:
        raise FormatError(f"its content is not that of a .{suffix} file")
    if pair_name(path) is not None:
        return PLOT3D
    raise FormatError(f"not a simulation format that pack knows: {', '.join(_KNOWN)}")
