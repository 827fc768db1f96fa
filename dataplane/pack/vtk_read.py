"""Run VTK's readers so that every complaint of theirs becomes a FormatError. Not for converting.

VTK's readers do not raise. They print, set a code or do neither, and return what they have: often
an empty or half-filled mesh. So a read counts as good only when

1. the file is whole (an XML file that was cut has no closing tag, and VTK does not always notice;
   for legacy files see vtk_legacy) and its header declares no more elements than its bytes could
   hold (VTK would allocate what a hostile header asks for, and a failed allocation ends the
   process);
2. no object of VTK reported an error while it ran;
3. the reader's error code is zero, and it gave a dataset.

Messages are caught at VTK's output window, because parsers inside a reader report there and not at
the reader. Warnings go to this module's logger.

This runs in a process of its own, one read at a time (`apart`): VTK trusts what it reads, and over
some damaged files it crashes. The window and VTK's log to stderr are taken over and not given back.
"""

from __future__ import annotations

import logging
import mmap
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dataplane.errors import FormatError, MissingPackage
from dataplane.extras import install_hint
from dataplane.pack.source import one_line
from dataplane.pack.vtk_legacy import check_legacy
from dataplane.pack.vtk_xml import xml_type

__all__ = ["MAX_COMPRESSION", "import_vtk", "read_legacy", "read_xml"]

_log = logging.getLogger(__name__)

_TAIL_BYTES = 4 << 10
MAX_COMPRESSION = 1100
"""Decoded bytes that one stored byte can stand for: deflate reaches 1032, LZ4 and LZMA less on
VTK's blocks of at most some megabytes."""
_XML_READERS = {
    name: f"vtkXML{name}Reader"
    for kind in ("ImageData", "PolyData", "RectilinearGrid", "StructuredGrid", "UnstructuredGrid")
    for name in (kind, f"P{kind}")
}
_PIECE = re.compile(rb"<(?:Piece|DataArray)\b[^>]{0,4096}>", re.DOTALL)
_COUNT = re.compile(rb"\b(?:NumberOf\w+)\s*=\s*[\"']\s*(-?\d{1,40})\s*[\"']")
_INTEGER = re.compile(rb"-?\d{1,40}")
_PIECE_EXTENT = re.compile(rb"\bExtent\s*=\s*[\"']([-\d\s]{1,200})[\"']")
_ADDRESS = re.compile(r" ?\(0x[0-9a-fA-F]+\)| ?\b0x[0-9a-fA-F]{5,}")
_LOCATION = re.compile(r"^(?:ERROR|Warning): In (\S+), line (\d+)\s*\n\S+ \(0x[0-9a-f]+\): ")


def import_vtk() -> None:
    """Import what reading needs.

    Raises:
        MissingPackage: it is not installed.
    """
    try:
        import vtkmodules.util.numpy_support
        import vtkmodules.vtkIOLegacy
        import vtkmodules.vtkIOXML  # noqa: F401  # imported for those who read
    except ImportError as err:
        raise MissingPackage(
            f"VTK files need the vtk package, which cannot be imported: {err}",
            hint=install_hint("vtk"),
        ) from err


def read_xml(path: Path, label: str, pieces: Sequence[Path] = ()) -> Any:
    """Read a VTK XML file into a vtkDataSet.

    Args:
        path: the file.
        label: how messages call it.
        pieces: for a parallel file, the files that it refers to; its reader merges them.

    Raises:
        MissingPackage: VTK is not installed.
        FormatError: the file is damaged, or holds something other than one dataset.
    """
    import_vtk()
    from vtkmodules import vtkIOXML

    kind = xml_type(path)
    if kind not in _XML_READERS:
        known = ", ".join(name for name in _XML_READERS if not name.startswith("P"))
        found = f"of the type {kind!r}" if kind else "not a VTK XML file"
        raise FormatError(f"{label}: it is {found}; expected one of {known}")
    _check_xml(path, label)
    for piece in pieces:
        _check_xml(piece, f"{label}: piece {piece.name}")
    reader = getattr(vtkIOXML, _XML_READERS[kind])()
    reader.SetFileName(str(path))
    output = _run(reader, label)
    if reader.GetNumberOfTimeSteps() > 1:
        raise FormatError(
            f"{label}: it holds {reader.GetNumberOfTimeSteps()} time steps in one file",
            hint="write one file per time step and a .pvd that lists them",
        )
    return output


def read_legacy(path: Path, label: str) -> Any:
    """Read a legacy VTK file into a vtkDataSet, with all its arrays.

    Raises:
        MissingPackage: VTK is not installed.
        FormatError: the file is damaged, or holds something other than one dataset.
    """
    import_vtk()
    from vtkmodules.vtkIOLegacy import vtkDataSetReader

    check_legacy(path, label)
    reader = vtkDataSetReader()
    reader.SetFileName(str(path))
    # By default it reads the first array of each kind and drops the others.
    for kind in ("Scalars", "Vectors", "Normals", "Tensors", "TCoords", "Fields"):
        getattr(reader, f"ReadAll{kind}On")()
    reader.ReadAllColorScalarsOn()
    return _run(reader, label)


def _run(reader: Any, label: str) -> Any:
    with _messages() as errors:
        reader.Update()
        output = reader.GetOutput()
    if errors:
        raise FormatError(f"{label}: {_tidied(errors[0])}")
    code = int(reader.GetErrorCode())
    if code:
        raise FormatError(f"{label}: VTK could not read it (error code {code})")
    if output is None:
        raise FormatError(f"{label}: VTK found no dataset in it")
    return output


def _check_xml(path: Path, label: str) -> None:
    """Refuse a file that was cut, or whose header asks for more than its bytes could hold."""
    size_bytes = path.stat().st_size
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY) as text:
        if b"</VTKFile>" not in text[max(0, size_bytes - _TAIL_BYTES) :]:
            raise FormatError(
                f"{label}: it ends before its closing tag </VTKFile>; the file was cut",
                hint="copy it again from where it was written",
            )
        appended = text.find(b"<AppendedData")
        header_stop = size_bytes if appended < 0 else appended
        limit = size_bytes * MAX_COMPRESSION
        for piece in _PIECE.finditer(text, 0, header_stop):
            for declared in _declared_elements(piece.group(), label):
                if not 0 <= declared <= limit:
                    raise FormatError(
                        f"{label}: its header declares {declared} elements, which cannot be in "
                        f"a file of {size_bytes} bytes"
                    )


def _declared_elements(tag: bytes, label: str) -> Iterator[int]:
    for found in _COUNT.finditer(tag):
        yield int(found.group(1))
    for found in _PIECE_EXTENT.finditer(tag):
        words = found.group(1).split()
        if len(words) != 6 or not all(map(_INTEGER.fullmatch, words)):
            raise FormatError(f"{label}: it has the extent {found.group(1)[:80].decode()!r}")
        bounds = [int(word) for word in words]
        elements = 1
        for low, high in zip(bounds[::2], bounds[1::2], strict=True):
            elements *= max(0, high - low + 1)
        yield elements


def _tidied(message: str) -> str:
    """VTK's message in one line, without addresses and source lines."""
    return one_line(_ADDRESS.sub("", " ".join(_LOCATION.sub("", message).split())))


@contextmanager
def _messages() -> Iterator[list[str]]:
    """Yield the list that errors of VTK's objects are appended to."""
    from vtkmodules.vtkCommonCore import VTK_STRING, vtkLogger, vtkOutputWindow

    errors: list[str] = []

    def on_error(_object: Any, _event: str, message: str | None = None) -> None:
        errors.append(message or "VTK reported an error without a message")

    def on_warning(_object: Any, _event: str, message: str | None = None) -> None:
        _log.info("VTK: %s", _tidied(message or ""))

    for callback in (on_error, on_warning):
        callback.CallDataType = VTK_STRING  # type: ignore[attr-defined]  # how VTK is told
    vtkLogger.SetStderrVerbosity(vtkLogger.VERBOSITY_OFF)
    window: Any = vtkOutputWindow()
    window.SetDisplayMode(window.NEVER)
    window.AddObserver("ErrorEvent", on_error)
    window.AddObserver("WarningEvent", on_warning)
    vtkOutputWindow.SetInstance(window)
    yield errors
    window.RemoveAllObservers()
