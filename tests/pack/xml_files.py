"""VTK XML files written by hand, in every encoding, byte order and header type. For tests."""

import base64
import itertools
import lzma
import zlib

import numpy as np

__all__ = ["Writer", "ascii_array", "grid", "mesh", "mesh_piece", "surface_piece", "wrap"]

TYPES = {"f4": "Float32", "f8": "Float64", "i4": "Int32", "i8": "Int64", "u1": "UInt8"}
COMPRESSORS = {"zlib": "vtkZLibDataCompressor", "lzma": "vtkLZMADataCompressor"}


def ascii_array(name, text, kind="Float64", components=1, more=""):
    named = f'Name="{name}" ' if name is not None else ""
    return (
        f'<DataArray type="{kind}" {named}NumberOfComponents="{components}" format="ascii" {more}>'
        f"{text}</DataArray>"
    )


class Writer:
    """Writes arrays in one encoding: `inline`, `base64` (appended) or `raw` (appended)."""

    def __init__(self, encoding, order="<", word="u4", compressor=None, block_bytes=64):
        self.encoding, self.order, self.word = encoding, order, order + word
        self.compressor, self.block_bytes = compressor, block_bytes
        self.appended = b""

    def encoded(self, data):
        """Header and values of an array."""
        if self.compressor is None:
            content = np.array([len(data)], self.word).tobytes() + data
            return content if self.encoding == "raw" else base64.b64encode(content)
        blocks = [data[at : at + self.block_bytes] for at in range(0, len(data), self.block_bytes)]
        compress = {"zlib": zlib.compress, "lzma": lzma.compress}[self.compressor]
        stored = [compress(block) for block in blocks]
        table = [len(blocks), self.block_bytes, len(data) % self.block_bytes, *map(len, stored)]
        header, content = np.array(table, self.word).tobytes(), b"".join(stored)
        if self.encoding == "raw":
            return header + content
        return base64.b64encode(header) + base64.b64encode(content)

    def array(self, name, values, more=""):
        values = np.asarray(values)
        data = values.astype(values.dtype.newbyteorder(self.order)).tobytes()
        components = values.shape[1] if values.ndim > 1 else 1
        tag = (
            f'<DataArray type="{TYPES[values.dtype.str[1:]]}" Name="{name}" '
            f'NumberOfComponents="{components}" {more}'
        )
        if self.encoding == "inline":
            return f'{tag}format="binary">{self.encoded(data).decode()}</DataArray>'
        offset = len(self.appended)
        self.appended += self.encoded(data)
        return f'{tag}format="appended" offset="{offset}"/>'

    def file(self, kind, body, attributes=""):
        order = "LittleEndian" if self.order == "<" else "BigEndian"
        header = "UInt32" if self.word.endswith("4") else "UInt64"
        compressor = f'compressor="{COMPRESSORS[self.compressor]}"' if self.compressor else ""
        head = (
            f'<?xml version="1.0"?>\n<VTKFile type="{kind}" version="1.0" byte_order="{order}" '
            f'header_type="{header}" {compressor}>\n<{kind} {attributes}>{body}</{kind}>'
        ).encode()
        if self.appended:
            encoding = "raw" if self.encoding == "raw" else "base64"
            head += f'<AppendedData encoding="{encoding}">_'.encode()
            head += self.appended + b"</AppendedData>"
        return head + b"</VTKFile>\n"


def wrap(body, kind="UnstructuredGrid", attributes="", more=""):
    """A file of ASCII arrays."""
    return (
        f'<?xml version="1.0"?>\n<VTKFile type="{kind}" version="1.0" byte_order="LittleEndian" '
        f'header_type="UInt64" {more}><{kind} {attributes}>{body}</{kind}></VTKFile>'
    ).encode()


def mesh_piece(points, cells, point_data="", cell_data="", place=0.0):
    """A piece of triangles and other cells, given as lists of points."""
    corners = " ".join(str(point) for cell in cells for point in cell)
    ends = " ".join(map(str, itertools.accumulate(map(len, cells))))
    types = " ".join("5" if len(cell) == 3 else "10" for cell in cells)
    coordinates = " ".join(f"{place + n} {n} 0" for n in range(points))
    return (
        f'<Piece NumberOfPoints="{points}" NumberOfCells="{len(cells)}">'
        f"<PointData>{point_data}</PointData><CellData>{cell_data}</CellData>"
        f"<Points>{ascii_array('Points', coordinates, components=3)}</Points>"
        f"<Cells>{ascii_array('connectivity', corners, 'Int64')}"
        f"{ascii_array('offsets', ends, 'Int64')}{ascii_array('types', types, 'UInt8')}</Cells>"
        "</Piece>"
    )


def mesh(point_data="", cell_data="", fields=""):
    """A file with one tetrahedron."""
    return wrap(fields + mesh_piece(4, [[0, 1, 2, 3]], point_data, cell_data))


def surface_piece(points, cell_data, **lists):
    """A piece of a surface: `Verts`, `Lines`, `Polys`, `Strips`, each a list of lists of points."""
    groups, counts = "", ""
    for name in ("Verts", "Lines", "Strips", "Polys"):
        cells = lists.get(name, [])
        corners = " ".join(str(point) for cell in cells for point in cell)
        ends = " ".join(map(str, itertools.accumulate(map(len, cells))))
        counts += f' NumberOf{name}="{len(cells)}"'
        groups += f"<{name}>{ascii_array('connectivity', corners, 'Int64')}"
        groups += f"{ascii_array('offsets', ends, 'Int64')}</{name}>"
    coordinates = " ".join(f"{n} 0 0" for n in range(points))
    values = ascii_array("q", " ".join(map(str, cell_data)))
    return (
        f'<Piece NumberOfPoints="{points}"{counts}><CellData>{values}</CellData>'
        f"<Points>{ascii_array('Points', coordinates, components=3)}</Points>{groups}</Piece>"
    )


def grid(whole, pieces, point_data):
    """Image data in pieces: the extent of each and its values at points."""
    body = "".join(
        f'<Piece Extent="{extent}"><PointData>{ascii_array("p", values)}</PointData></Piece>'
        for extent, values in zip(pieces, point_data, strict=True)
    )
    attributes = f'WholeExtent="{whole}" Origin="1 2 3" Spacing="0.5 0.5 0.5"'
    return wrap(body, "ImageData", attributes)
