"""A writer of VTK XML files in every encoding, byte order, header and compressor, without VTK."""

from __future__ import annotations

import base64
import lzma
import re
import zlib
from xml.sax.saxutils import quoteattr

import lz4.block
import numpy as np

from tests.pack.corpus.model import Sample, encoded_name, put
from tests.pack.corpus.numbers import format_text
from tests.pack.corpus.xml_oracle import DTYPES

__all__ = ["KINDS", "Encoding", "Written", "draw_arrays", "draw_encoding", "draw_values"]

_NAMES = (
    *("p", "velocity", "p/q", "Body, Nose", "100%", "..", ".", "zarr.json", "__x", "é µ", "a\\b"),
    *("t\tab", "<&>\"'", " lead", "U:0", "名前", "p~2", "P", "x" * 60),
)
KINDS = {"vtu": "UnstructuredGrid", "vtp": "PolyData", "vti": "ImageData",
          "vtr": "RectilinearGrid", "vts": "StructuredGrid"}  # fmt: skip
_COMPRESSORS = {
    "zlib": ("vtkZLibDataCompressor", zlib.compress),
    "lz4": ("vtkLZ4DataCompressor", lambda block: lz4.block.compress(block, store_size=False)),
    "lzma": (
        "vtkLZMADataCompressor",
        lambda block: lzma.compress(block, lzma.FORMAT_XZ, lzma.CHECK_CRC32, 0),
    ),
}
_TYPE_NAMES = {np.dtype(code): name for name, code in DTYPES.items()}


class Encoding:
    """How the arrays of one file are written; gathers what is appended."""

    def __init__(self, rng: np.random.Generator, style: str, order: str, header: str) -> None:
        self.rng, self.style, self.order, self.header = rng, style, order, header
        self.compressor: str | None = None
        self.block_bytes = 1 << int(rng.integers(5, 16))
        self.appended = bytearray()
        self.omit_header_type = header == "u4" and rng.random() < 0.3

    def attributes(self) -> str:
        order = "LittleEndian" if self.order == "<" else "BigEndian"
        out = f'byte_order="{order}"'
        if not self.omit_header_type:
            out += f' header_type="{"UInt32" if self.header == "u4" else "UInt64"}"'
        if self.compressor:
            out += f' compressor="{_COMPRESSORS[self.compressor][0]}"'
        return out

    def describe(self) -> str:
        return f"{self.style} {self.order}{self.header} {self.compressor or 'plain'}"

    def element(self, values: np.ndarray, name: str | None, *, tuples: bool = False) -> str:
        """One DataArray element."""
        out = f'<DataArray type="{_TYPE_NAMES[values.dtype]}"'
        if name is not None:
            out += f" Name={quoteattr(name, {chr(9): '&#9;', chr(10): '&#10;'})}"
        components = values.shape[1] if values.ndim > 1 else 1
        if components != 1 or self.rng.random() < 0.5:
            out += f' NumberOfComponents="{components}"'
        if tuples:
            out += f' NumberOfTuples="{len(values)}"'
        if self.style == "ascii":
            return f'{out} format="ascii">{self._words(format_text(values))}</DataArray>'
        stored = np.ascontiguousarray(values).astype(values.dtype.newbyteorder(self.order))
        return f"{out} {self._stored(stored.tobytes())}"

    def strings(self, name: str, values: list[str]) -> str:
        """One String array of the field data."""
        content = b"".join(value.encode() + b"\0" for value in values)
        out = f'<Array type="String" Name={quoteattr(name)} NumberOfTuples="{len(values)}"'
        if self.style == "ascii":
            return f'{out} format="ascii">{self._words(map(str, content))}</Array>'
        return f"{out} {self._stored(content)}".replace("</DataArray>", "</Array>")

    def _words(self, words) -> str:
        words = list(words)
        step = int(self.rng.integers(1, 12))
        lines = (" ".join(words[at : at + step]) for at in range(0, len(words), step))
        return "\n" + "\n".join(lines) + "\n"

    def _stored(self, content: bytes) -> str:
        if self.style == "raw":
            place = self._append(b"".join(self._parts(content)))
        elif self.style == "appended base64":
            place = self._append(self._base64(content))
        else:
            text = self._base64(content).decode()
            if self.style == "wrapped base64":
                text = "\n".join(text[at : at + 76] for at in range(0, len(text), 76))
            return f'format="binary">\n{text}\n</DataArray>'
        return f'format="appended" offset="{place}"></DataArray>'

    def _append(self, content: bytes) -> int:
        place = len(self.appended)
        self.appended += content
        return place

    def _parts(self, content: bytes) -> tuple[bytes, bytes]:
        """Header and values."""
        header = np.dtype(self.order + self.header)
        if self.compressor is None:
            return np.array([len(content)], header).tobytes(), content
        size = self.block_bytes
        blocks = [content[at : at + size] for at in range(0, len(content), size)]
        compressed = [_COMPRESSORS[self.compressor][1](block) for block in blocks]
        last = len(blocks[-1]) % size if blocks else 0
        numbers = [len(blocks), size, last, *map(len, compressed)]
        return np.array(numbers, header).tobytes(), b"".join(compressed)

    def _base64(self, content: bytes) -> bytes:
        header, values = self._parts(content)
        if self.compressor is None:
            return base64.b64encode(header + values)
        return base64.b64encode(header) + base64.b64encode(values)

    def appended_data(self) -> bytes:
        if self.style not in {"raw", "appended base64"}:
            return b""
        encoding = "raw" if self.style == "raw" else "base64"
        start = f'<AppendedData encoding="{encoding}">\n_'.encode()
        return start + bytes(self.appended) + b"\n</AppendedData>\n"


def draw_encoding(rng: np.random.Generator) -> Encoding:
    """Any style, byte order, header and compressor."""
    styles = ("ascii", "base64", "wrapped base64", "raw", "appended base64")
    encoding = Encoding(rng, str(rng.choice(styles)), str(rng.choice(["<", ">"])),
                        str(rng.choice(["u4", "u8"])))  # fmt: skip
    if encoding.style != "ascii" and rng.random() < 0.6:
        encoding.compressor = str(rng.choice([*_COMPRESSORS]))
    return encoding


def draw_values(rng: np.random.Generator, shape, dtype: str) -> np.ndarray:
    """Values of a type: its limits, NaN, infinities and ordinary ones."""
    kind = np.dtype(dtype)
    if kind.kind in "iu":
        limits = np.iinfo(kind)
        values = rng.integers(limits.min, limits.max, shape, kind, endpoint=True)
        small = rng.random(shape) < 0.7
        return np.where(small, rng.integers(0, 100, shape).astype(kind), values).astype(kind)
    values = rng.standard_normal(shape).astype(kind)
    odd = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-30, 3e38, 1e-42], kind)
    return np.where(rng.random(shape) < 0.15, rng.choice(odd, shape), values).astype(kind)


def draw_arrays(rng: np.random.Generator, tuples: int, limit: int = 3) -> list:
    """Some arrays: (name, values [tuples] or [tuples, components])."""
    arrays = []
    for name in rng.choice(len(_NAMES), int(rng.integers(0, limit + 1)), replace=False):
        components = int(rng.choice([1, 1, 1, 2, 3, 9]))
        shape = (tuples,) if components == 1 else (tuples, components)
        arrays.append((_NAMES[name], draw_values(rng, shape, str(rng.choice([*DTYPES.values()])))))
    return arrays


class Written:
    """A file under way: its elements, and the sample that reading it must give."""

    def __init__(self, encoding: Encoding, kind: str, *, parallel: bool = False) -> None:
        self.encoding, self.kind, self.parallel = encoding, kind, parallel
        self.pieces: list[str] = []
        self.alone: list[bytes] = []
        self.grid_attributes = ""
        self.version = "1.0"
        self.sample = Sample({}, {"dataset": KINDS[kind]})
        self.global_data = ""

    def data(self, tag: str, arrays) -> str:
        inside = "".join(self.encoding.element(values, name) for name, values in arrays)
        return f"<{tag}>{inside}</{tag}>"

    def end_piece(self, text: str) -> None:
        """Take a piece; of a parallel file, into a file of its own."""
        self.pieces.append(text)
        if self.parallel:
            extent = re.search(r'<Piece Extent="([^"]*)"', text)
            attributes = f' WholeExtent="{extent[1]}"' if extent else ""
            self.alone.append(self.content(attributes, [text]))
            self.encoding.appended.clear()

    def content(self, attributes: str | None = None, pieces: list[str] | None = None) -> bytes:
        """The file with all pieces, or with some."""
        kind = KINDS[self.kind]
        attributes = self.grid_attributes if attributes is None else attributes
        head = '<?xml version="1.0"?>\n' if self.encoding.rng.random() < 0.7 else ""
        text = (
            f'{head}<VTKFile type="{kind}" version="{self.version}" {self.encoding.attributes()}>\n'
            f"<{kind}{attributes}>{self.global_data}\n"
            + "\n".join(self.pieces if pieces is None else pieces)
            + f"\n</{kind}>\n"
        )
        return text.encode() + self.encoding.appended_data() + b"</VTKFile>\n"

    def add_field_data(self) -> None:
        rng = self.encoding.rng
        if rng.random() < 0.6:
            return
        inside = ""
        taken: dict[str, object] = {}
        for name, values in draw_arrays(rng, int(rng.integers(1, 5)), 2):
            inside += self.encoding.element(values, name, tuples=True)
            self.add(put(taken, f"global_data/{encoded_name(name)}", None), values)
        if rng.random() < 0.5:
            time = np.array([rng.standard_normal()])
            inside += self.encoding.element(time, "TimeValue", tuples=True)
            self.add("global_data/TimeValue", time)
            self.sample.attributes["time"] = float(time[0])
        if rng.random() < 0.4:
            words = ["solver", "", "é µ", "a b"][: int(rng.integers(1, 5))]
            inside += self.encoding.strings("notes", words)
            self.sample.attributes["text"] = {"global_data/notes": words}
        self.global_data = f"<FieldData>{inside}</FieldData>"

    def add(self, name: str, values: np.ndarray) -> None:
        self.sample.arrays[name] = values
        if self.encoding.style == "ascii":
            self.sample.any_nan.add(name)
