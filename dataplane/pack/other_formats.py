"""Formats of this field that pack does not read: names, and hints to convert them.

Told by suffix and, where a suffix alone is not believed, by the first bytes. Thread-safe: no state.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["UNKNOWN", "OtherFormat", "other_format"]

UNKNOWN = ""
"""Group of the files whose format has no name here."""


@dataclass(frozen=True, slots=True)
class OtherFormat:
    """A format that pack does not read.

    Attributes:
        group: name of a file of it in the singular, under which files are counted; UNKNOWN where
            nothing is known.
        reason: reason that a file of it is left out.
        hint: advice, where there is some.
    """

    group: str
    reason: str
    hint: str | None = None


_PARAVIEW = "save it from ParaView as .vtu or .vtm"
_MESHIO = "convert it to .vtu, with ParaView or meshio"
_FOAM_CASE = ("OpenFOAM case", "run foamToVTK in the case and pack its folder VTK")
_FOAM_FILE = ("OpenFOAM file", _FOAM_CASE[1])
_HDF5 = b"\x89HDF\r\n\x1a\n"
_NETCDF = (b"CDF\x01", b"CDF\x02", b"CDF\x05", _HDF5)
_EXODUS = ("Exodus II file", _MESHIO, _NETCDF)
_HDF5_FILE = ("HDF5 file", "save its arrays as .npz, with h5py", (_HDF5,))
_XDMF = ("XDMF file", _MESHIO, ())
_TECPLOT_TEXT = ("Tecplot text file", _MESHIO, (b"TITLE", b"VARIABLES", b"ZONE", b"FILETYPE"))
_BY_SUFFIX: dict[str, tuple[str, str, tuple[bytes, ...]]] = {
    "foam": (*_FOAM_CASE, ()),
    "openfoam": (*_FOAM_CASE, ()),
    "cgns": ("CGNS file", _PARAVIEW, ()),
    "e": _EXODUS,
    "ex2": _EXODUS,
    "exo": _EXODUS,
    "h5": _HDF5_FILE,
    "hdf": _HDF5_FILE,
    "hdf5": _HDF5_FILE,
    "vtkhdf": ("VTKHDF file", _PARAVIEW, (_HDF5,)),
    "xdmf": _XDMF,
    "xmf": _XDMF,
    "stl": ("STL surface", "convert it to .vtp, with ParaView or PyVista", ()),
    "obj": ("OBJ surface", "convert it to .vtp, with ParaView or PyVista", ()),
    "ply": ("PLY surface", "convert it to .vtp, with ParaView or PyVista", (b"PLY",)),
    "nc": ("NetCDF file", "save its arrays as .npz, with netCDF4 or xarray", _NETCDF),
    "case": ("EnSight case", _PARAVIEW, (b"FORMAT", b"#")),
    "msh": ("Gmsh or Fluent mesh", _MESHIO, ()),
    "dat": _TECPLOT_TEXT,
    "tec": _TECPLOT_TEXT,
    "plt": ("Tecplot binary file", _PARAVIEW, (b"#!TDV", *_TECPLOT_TEXT[2])),
    "szplt": ("Tecplot binary file", _PARAVIEW, ()),
}
"""By suffix: name, hint, and the beginnings of which a file must have one, if any are listed."""
_ALSO_OTHERS = frozenset({"case", "dat", "e", "ply", "plt", "tec"})
"""Suffixes that other programs use, too: they say nothing of an empty file."""


def other_format(path: Path, head: bytes) -> OtherFormat | None:
    """Name the format of a file that pack does not read, or return None where it has no name here.

    Args:
        path: path of the file, by whose name it is told.
        head: first bytes of the file, at least 64 unless it is shorter.
    """
    suffix = path.suffix.lower().removeprefix(".")
    name, hint, beginnings = _BY_SUFFIX.get(suffix, ("", "", ()))
    is_believed = not beginnings or (not head and suffix not in _ALSO_OTHERS)
    if name and (is_believed or head.lstrip().upper().startswith(beginnings)):
        return _named(name, hint)
    # The banner or the first entry with which OpenFOAM begins its files, which have no suffix.
    if head.startswith(b"FoamFile") or (head.startswith(b"/*--") and b"*- C++ -*" in head):
        return _named(*_FOAM_FILE)
    return None


def _named(name: str, hint: str) -> OtherFormat:
    article = "an" if name[0] in "AEIOUX" or name.startswith(("HDF", "STL")) else "a"
    return OtherFormat(name, f"{article} {name}, which pack does not read", hint)
