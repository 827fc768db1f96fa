"""Series and trees of blocks for tests: files of them, and what the plan makes of a folder."""

import json

from dataplane.pack.plan import plan_sources
from dataplane.pack.source import SourceFile, Unreadable

TIME = (
    "<FieldData><DataArray type='{kind}' Name='TimeValue' NumberOfTuples='1' format='{format}'>"
    "{text}</DataArray></FieldData>"
)


def write_vtu(path, value=0.0):
    """Write a triangle whose point field `p` is `value` everywhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        '<VTKFile type="UnstructuredGrid" version="1.0" byte_order="LittleEndian">'
        '<UnstructuredGrid><Piece NumberOfPoints="3" NumberOfCells="1"><PointData>'
        f'<DataArray type="Float64" Name="p" format="ascii">{value} {value} {value}</DataArray>'
        '</PointData><Points><DataArray type="Float64" NumberOfComponents="3" format="ascii">'
        "0 0 0 1 0 0 0 1 0</DataArray></Points><Cells>"
        '<DataArray type="Int64" Name="connectivity" format="ascii">0 1 2</DataArray>'
        '<DataArray type="Int64" Name="offsets" format="ascii">3</DataArray>'
        '<DataArray type="UInt8" Name="types" format="ascii">5</DataArray>'
        "</Cells></Piece></UnstructuredGrid></VTKFile>"
    )


def write_pvd(path, *entries):
    lines = "".join(f"<DataSet {entry}/>" for entry in entries)
    path.write_text(f'<VTKFile type="Collection"><Collection>{lines}</Collection></VTKFile>')


def write_vtm(path, tree, after="", attributes=""):
    kind = "vtkMultiBlockDataSet"
    path.write_text(f'<VTKFile type="{kind}"{attributes}><{kind}>{tree}</{kind}>{after}</VTKFile>')


def write_series(path, *files):
    path.write_text(json.dumps({"file-series-version": "1.0", "files": files}))


def plan_of(*paths):
    return {item.key: item for item in plan_sources([*paths]) if isinstance(item, SourceFile)}


def reasons_of(*paths):
    return [item.reason for item in plan_sources([*paths]) if isinstance(item, Unreadable)]


def attributes_of(*paths):
    return {key: item.attributes for key, item in plan_of(*paths).items()}


TREE = (
    '<DataSet index="0" name="internal" file="case/internal.vtu"/>'
    '<Block index="1" name="boundary">'
    '<DataSet index="0" name="inlet 1" file="case\\boundary\\inlet.vtu"/>'
    '<DataSet index="1" name="nothing"/></Block>'
)


def write_case(folder, name="case", time="100"):
    write_vtu(folder / "case" / "internal.vtu", 1)
    write_vtu(folder / "case" / "boundary" / "inlet.vtu", 4)
    after = TIME.format(kind="Float64", format="ascii", text=time) if time else ""
    write_vtm(folder / f"{name}.vtm", TREE, after)
