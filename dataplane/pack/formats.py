"""Formats of files, by suffix and first bytes. Converts nothing.

Content decides where a format can be told by it; a suffix alone is not believed for those, so a
`.vtu` that holds image data is read as image data, and one that holds an error page is refused.
PLOT3D has no mark of its own: its files are known by their names, and by their sizes when read.
Thread-safe: no state.
"""

from __future__ import annotations

from pathlib import Path, PurePath

from dataplane.errors import FormatError
from dataplane.pack.foreign import HEAD_BYTES, foreign_content
from dataplane.pack.other_formats import UNKNOWN, OtherFormat, other_format
from dataplane.pack.plot3d.pairs import pair_name
from dataplane.pack.plot3d.text import text_content
from dataplane.pack.source import one_line
from dataplane.pack.vtk.xml import xml_type

__all__ = [
    "ARCHIVE",
    "COMPOSITE",
    "ONE_DATASET",
    "PARALLEL",
    "PLOT3D",
    "SERIES",
    "dataset_stem",
    "has_known_suffix",
    "recognise",
]

ARCHIVE = "zip"
LEGACY = "vtk"
PLOT3D = "plot3d"
SERIES = frozenset({"pvd", "series"})
"""Lists of datasets, each with its time."""
_JSON_SERIES = "series"
_XML = {
    "ImageData": "vti",
    "PolyData": "vtp",
    "RectilinearGrid": "vtr",
    "StructuredGrid": "vts",
    "UnstructuredGrid": "vtu",
}
_COMPOSITE_XML = {
    "vtkMultiBlockDataSet": "vtm",
    "vtkPartitionedDataSet": "vtpd",
    "vtkPartitionedDataSetCollection": "vtpc",
}
COMPOSITE = frozenset(_COMPOSITE_XML.values())
"""Trees of named blocks, each in a file of its own."""
PARALLEL = frozenset(f"p{name}" for name in _XML.values())
_XML_FORMATS = (
    _XML
    | {f"P{kind}": f"p{name}" for kind, name in _XML.items()}
    | _COMPOSITE_XML
    | {"Collection": "pvd"}
)
ONE_DATASET = frozenset({*_XML.values(), *PARALLEL, LEGACY, "npy", "npz"})
"""Formats of which a file is one dataset, and which are told by their suffix."""
_BY_SUFFIX = ONE_DATASET | COMPOSITE | SERIES | {"vtmb", ARCHIVE}
_KNOWN = (
    *(f".{name}" for name in ("vtu", "vtp", "vti", "vtr", "vts", LEGACY)),
    *(f".p{name}" for name in ("vtu", "vtp", "vti", "vtr", "vts")),
    *(f".{name}" for name in ("pvd", _JSON_SERIES, "vtm", "vtmb", "vtpc", "vtpd")),
    "PLOT3D pairs (…xyz.bin, …q.bin)",
    *(".npz", ".npy", ".zip"),
)
_UNKNOWN = OtherFormat(UNKNOWN, f"not a simulation format that pack knows: {', '.join(_KNOWN)}")


def has_known_suffix(path: Path) -> bool:
    """Whether a file's name promises a format that pack reads."""
    return path.suffix.lower().removeprefix(".") in _BY_SUFFIX or pair_name(path) is not None


def dataset_stem(name: str) -> str:
    """Return a file's name without its suffix, and for `case.vtu.series` without both.

    Example:
        >>> dataset_stem("case.vtu.series"), dataset_stem("case.v2.vtu"), dataset_stem("s.series")
        ('case', 'case.v2', 's')
    """
    path = PurePath(name)
    stem = PurePath(path.stem)
    is_series = path.suffix.lower() == f".{_JSON_SERIES}"
    return stem.stem if is_series and has_known_suffix(Path(stem)) else path.stem


def recognise(path: Path) -> str | OtherFormat:
    """Return the format of a file, or the description of one that pack does not read.

    Formats are called after their suffix (`vtu`, `pvtu`, `pvd`, `vtm`, `vtk`, `npz`, `zip`, …) and
    `plot3d`.

    Raises:
        FormatError: its name promises a format that its content is not; the message is the reason,
            without the file's name.
        OSError: it cannot be opened.
    """
    suffix = path.suffix.lower().removeprefix(".")
    with path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    if not head and not has_known_suffix(path):
        return other_format(path, head) or OtherFormat(UNKNOWN, "it is empty")
    if head.startswith(b"# vtk DataFile Version"):
        return LEGACY
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")) and suffix in {"npz", ARCHIVE}:
        return suffix
    if suffix == _JSON_SERIES and head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        return _JSON_SERIES
    kind = xml_type(path)
    if kind in _XML_FORMATS:
        return _XML_FORMATS[kind]
    shown = None if kind is None else one_line(kind)
    if shown is not None and suffix not in _BY_SUFFIX:
        return OtherFormat(
            f"VTK file of the type {shown}",
            f"a VTK file of the type {shown}, which is not supported",
        )
    if shown is not None:
        raise FormatError(f"a VTK file of the type {shown} is not supported")
    foreign = foreign_content(head)
    if foreign is not None and (suffix in _BY_SUFFIX or pair_name(path) is not None):
        what, hint = foreign
        raise FormatError(f"it is {what}", hint=hint)
    if suffix in _BY_SUFFIX:
        raise FormatError(f"its content is not that of a .{suffix} file")
    if pair_name(path) is not None:
        text = text_content(head)
        if text is not None:
            what, hint = text
            raise FormatError(f"it is {what}", hint=hint)
        return PLOT3D
    other = other_format(path, head)
    if other is None and foreign is not None:
        what, hint = foreign
        return OtherFormat(UNKNOWN, f"it is {what}", hint)
    return other or _UNKNOWN
