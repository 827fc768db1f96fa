"""Small VTK files, and converters that do to a reader what damaged files do."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal

import numpy as np
import pyvista as pv

from dataplane.errors import FormatError
from dataplane.shards import SourceArray, SourceSample
from tests.pack.inside import MAX_GROWTH_BYTES


def mesh(path, **arguments):
    grid = pv.Sphere(theta_resolution=12, phi_resolution=12).cast_to_unstructured_grid()
    grid.point_data["p"] = np.random.default_rng(0).standard_normal(grid.n_points)
    grid.save(path, **arguments)
    return path


_POLYHEDRON = """<VTKFile type="UnstructuredGrid" version="1.0" byte_order="LittleEndian">
<UnstructuredGrid><Piece NumberOfPoints="4" NumberOfCells="1">
<Points><DataArray type="Float64" NumberOfComponents="3" format="ascii">
0 0 0 1 0 0 0 1 0 0 0 1 </DataArray></Points>
<Cells><DataArray type="Int64" Name="connectivity" format="ascii">0 1 2 3</DataArray>
<DataArray type="Int64" Name="offsets" format="ascii">{offset}</DataArray>
<DataArray type="UInt8" Name="types" format="ascii">42</DataArray>
<DataArray type="Int64" Name="faces" format="ascii">{faces}</DataArray>
<DataArray type="Int64" Name="faceoffsets" format="ascii">5</DataArray>
</Cells></Piece></UnstructuredGrid></VTKFile>"""


def crasher(path, *, offset=4, faces="1000000000 3 0 1 2"):
    """Write a polyhedron of a thousand million faces, which VTK looks for behind the array."""
    path.write_text(_POLYHEDRON.format(offset=offset, faces=faces))
    return path


NO_MEMORY = {"offset": 10**14}
NO_CRASH = {"faces": "1 1000000000 0 1 2"}


def crash(_source):
    faulthandler.disable()
    os.kill(os.getpid(), signal.SIGSEGV)


def complain(source):
    logging.getLogger("dataplane").info("VTK: warns")
    yield from plain(source)


def refuse(source):
    raise FormatError(f"{source.label}: not so")


def plain(source):
    yield SourceSample(source.key, {"p": SourceArray(np.arange(3))})


def grow(source):
    _kept.append(np.empty(MAX_GROWTH_BYTES + 1, np.uint8))
    yield from plain(source)


_kept = []
