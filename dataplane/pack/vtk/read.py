"""VTK's readers, run so that each of their complaints becomes a FormatError. Not for converting.

VTK's readers do not raise. They print, set a code or do neither, and return an often empty or
half-filled mesh. So a read counts as good only when

1. the file's content is as declared (`check` and `prepare` for XML files, `legacy` for the others),
   so that VTK neither makes values up nor allocates the memory that a hostile header asks for;
2. no object of VTK reported an error while it ran;
3. the reader's error code is zero, and it gave a dataset;
4. that dataset is the content of the file (`confirm`, `legacy_confirm`).

Messages are caught at VTK's output window, because parsers inside a reader report there and not at
the reader. Warnings go to this module's logger.

This runs in a process of its own, one read at a time (`reader`): VTK trusts its files, and over
some damaged ones it crashes. The window and VTK's log to stderr are taken over and not given back.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from dataplane.errors import FormatError, MissingPackage
from dataplane.extras import install_hint
from dataplane.pack.source import one_line
from dataplane.pack.vtk.confirm import check_faces, confirm
from dataplane.pack.vtk.legacy import check_legacy
from dataplane.pack.vtk.legacy_confirm import confirm_legacy, rename_arrays
from dataplane.pack.vtk.pieces import MAX_COMPRESSION
from dataplane.pack.vtk.prepare import Prepared, prepare
from dataplane.pack.vtk.xml import xml_type

__all__ = ["MAX_COMPRESSION", "import_vtk", "read_legacy", "read_xml"]

_log = logging.getLogger(__name__)

_XML_READERS = {
    name: f"vtkXML{name}Reader"
    for kind in ("ImageData", "PolyData", "RectilinearGrid", "StructuredGrid", "UnstructuredGrid")
    for name in (kind, f"P{kind}")
}
_FACES = ("PolyhedronFaces", "PolyhedronFaceLocations")
_ADDRESS = re.compile(r" ?\(0x[0-9a-fA-F]+\)| ?\b0x[0-9a-fA-F]{5,}")
_LOCATION = re.compile(r"^(?:ERROR|Warning): In (\S+), line (\d+)\s*\n\S+ \(0x[0-9a-f]+\): ")


def on_progress(_fraction: float) -> None:
    """Receive VTK's progress with a file, 0 to 1; the process that reads replaces this function."""


def import_vtk() -> None:
    """Import the modules that reading needs.

    Raises:
        MissingPackage: it is not installed.
    """
    try:
        import vtkmodules.util.numpy_support
        import vtkmodules.vtkIOLegacy
        import vtkmodules.vtkIOXML  # noqa: F401  # imported for the readers
    except ImportError as err:
        raise MissingPackage(
            f"VTK files need the vtk package, which cannot be imported: {err}",
            hint=install_hint("vtk"),
        ) from err


def read_xml(path: Path, label: str, pieces: Sequence[Path] = ()) -> tuple[Any, list[str]]:
    """Read a VTK XML file into a vtkDataSet.

    Args:
        path: the file.
        label: name in messages.
        pieces: files that a parallel file refers to; its reader merges them.

    Returns:
        The dataset, and the names of arrays that were left out of it.

    Raises:
        MissingPackage: VTK is not installed.
        FormatError: the file is damaged, or holds something other than one dataset.
    """
    import_vtk()
    kind = xml_type(path)
    if kind not in _XML_READERS:
        known = ", ".join(name for name in _XML_READERS if not name.startswith("P"))
        found = f"of the type {kind!r}" if kind else "not a VTK XML file"
        raise FormatError(f"{label}: it is {found}; expected one of {known}")
    with ExitStack() as stack:
        prepared = prepare(path, label, pieces, stack)
        if prepared.parts:
            output = _read_parts(prepared, label)
        else:
            reader = _reader(kind, prepared.path)
            output = _run(reader, label)
            _check_steps(reader, label)
        if prepared.fields is not None:
            output.SetFieldData(_run(_reader("PolyData", prepared.fields), label).GetFieldData())
    confirm(output, prepared, label)
    return output, prepared.left_out


def _reader(kind: str, path: Path) -> Any:
    from vtkmodules import vtkIOXML

    reader = getattr(vtkIOXML, _XML_READERS[kind])()
    reader.SetFileName(str(path))
    return reader


def _read_parts(prepared: Prepared, label: str) -> Any:
    """Read pieces one by one, and put them together."""
    from vtkmodules import vtkFiltersCore

    if prepared.kind == "PolyData":
        append: Any = vtkFiltersCore.vtkAppendPolyData()
    else:
        append = vtkFiltersCore.vtkAppendFilter()
        append.MergePointsOff()
    append.SetOutputPointsPrecision(append.DEFAULT_PRECISION)
    field_data = None
    wide: set[str] = set()
    for number, (path, piece, pieces) in enumerate(prepared.parts):
        reader = _reader(prepared.kind, path)
        part = _run(reader, label, (piece, pieces, 0))
        _check_steps(reader, label)
        check_faces(part, f"{label}: piece {number}")
        append.AddInputData(part)
        wide |= {name for name, cells in _cell_arrays(part) if cells.IsStorage64Bit()}
        field_data = field_data or part.GetFieldData()
    output = _run(append, label)
    output.SetFieldData(field_data)
    for name, cells in _cell_arrays(output):  # VTK puts them together as 64 bit
        if name not in wide and cells.CanConvertTo32BitStorage():
            cells.ConvertTo32BitStorage()
    return output


def _cell_arrays(mesh: Any) -> Iterator[tuple[str, Any]]:
    """The lists of cells that a mesh has any of, by name."""
    for name in ("Verts", "Lines", "Polys", "Strips", "Cells", *_FACES):
        cells = getattr(mesh, f"Get{name}", lambda: None)()
        if cells is not None and cells.GetNumberOfCells():
            yield name, cells


def _check_steps(reader: Any, label: str) -> None:
    if reader.GetNumberOfTimeSteps() > 1:
        raise FormatError(
            f"{label}: it holds {reader.GetNumberOfTimeSteps()} time steps in one file",
            hint="write one file per time step and a .pvd that lists them",
        )


def read_legacy(path: Path, label: str) -> Any:
    """Read a legacy VTK file into a vtkDataSet, with all its arrays.

    Raises:
        MissingPackage: VTK is not installed.
        FormatError: the file is damaged, or holds something other than one dataset.
    """
    import_vtk()
    from vtkmodules.vtkIOLegacy import vtkDataSetReader

    checked = check_legacy(path, label)
    reader = vtkDataSetReader()
    # By default it reads the first array of each kind and drops the others.
    for kind in ("Scalars", "Vectors", "Normals", "Tensors", "TCoords", "Fields"):
        getattr(reader, f"ReadAll{kind}On")()
    reader.ReadAllColorScalarsOn()
    with ExitStack() as stack:
        readable, names = rename_arrays(path, checked, label, stack)
        reader.SetFileName(str(readable))
        output = _run(reader, label)
    confirm_legacy(output, checked, names, label)
    return output


def _run(reader: Any, label: str, piece: tuple[int, int, int] | None = None) -> Any:
    """Run a reader or filter: all of it, or (number, number of pieces, ghost levels) of it."""
    with _messages() as errors:
        # Of the caller, and not of `reader`: an observer that holds its object is never freed.
        reader.AddObserver("ProgressEvent", lambda caller, _: on_progress(caller.GetProgress()))
        if piece is None:
            reader.Update()
        else:
            reader.UpdatePiece(*piece)
        output = reader.GetOutput()
    if errors:
        raise FormatError(f"{label}: {_tidied(errors[0])}")
    code = int(reader.GetErrorCode())
    if code:
        raise FormatError(f"{label}: VTK could not read it (error code {code})")
    if output is None:
        raise FormatError(f"{label}: VTK found no dataset in it")
    return output


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
