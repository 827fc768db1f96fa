"""VTK XML files read with ElementTree and NumPy: an independent, strict reader.

It follows the VTK XML format as published and forgives nothing: each array has exactly the values
that its piece needs, blocks decode to exactly the declared sizes, pieces fill the whole.
"""

from __future__ import annotations

import base64
import binascii
import lzma
import re
import zlib
from xml.etree import ElementTree

import lz4.block
import numpy as np

from tests.pack.corpus.model import Refused, Sample, encoded_name, put
from tests.pack.corpus.numbers import parse_text

__all__ = ["DTYPES", "XmlFile", "extent_of", "field_data", "need", "whole"]

DTYPES = {
    **{f"Int{8 * size}": f"i{size}" for size in (1, 2, 4, 8)},
    **{f"UInt{8 * size}": f"u{size}" for size in (1, 2, 4, 8)},
    "Float32": "f4",
    "Float64": "f8",
}
_COMPRESSORS = {
    "vtkZLibDataCompressor": lambda block, size: zlib.decompress(block),
    "vtkLZ4DataCompressor": lambda block, size: lz4.block.decompress(block, uncompressed_size=size),
    "vtkLZMADataCompressor": lambda block, size: lzma.decompress(block, lzma.FORMAT_XZ),
}
_SPACE = b" \t\r\n"


def need(condition, what):
    """Refuse the file unless a condition holds."""
    if not condition:
        raise Refused(what)


class XmlFile:
    """The header of a VTK XML file as elements, and the bytes appended to it."""

    def __init__(self, content: bytes) -> None:
        # What follows the closing tag says nothing; writers leave blank lines there.
        content = re.sub(rb"^<\?.*?\?>", b"", content, flags=re.DOTALL)  # says nothing either
        end = content.rfind(b"</VTKFile>")
        need(end >= 0, "no closing tag")
        found = re.search(rb"<AppendedData\b[^>]*>", content)
        self.appended: bytes | None = None
        if found:
            # Values are found by their offsets, so the tag that closes them need not be whole.
            stop = content.rfind(b"</AppendedData", found.end())
            inside = content[found.end() : stop if stop > 0 else end].lstrip(_SPACE)
            need(inside[:1] == b"_", "appended data does not begin with _")
            self.appended = inside[1:]
            content = content[: found.end()] + b"</AppendedData></VTKFile>"
        else:
            content = content[: end + len(b"</VTKFile>")]
        try:
            self.root = ElementTree.fromstring(content)
        except (ElementTree.ParseError, ValueError, LookupError) as err:
            raise Refused(f"XML: {err}") from err
        need(self.root.tag == "VTKFile", "root")
        self.kind = self.root.get("type", "")
        order = self.root.get("byte_order", "LittleEndian")
        need(order in {"LittleEndian", "BigEndian"}, "byte order")
        self.order = "<" if order == "LittleEndian" else ">"
        header = self.root.get("header_type", "UInt32")
        need(header in {"UInt32", "UInt64"}, "header type")
        self.header = np.dtype(self.order + ("u4" if header == "UInt32" else "u8"))
        compressor = self.root.get("compressor")
        need(compressor is None or compressor in _COMPRESSORS, "compressor")
        self.decode = _COMPRESSORS.get(compressor)
        appended = self.root.find("AppendedData")
        self.appended_encoding = None
        if appended is not None:
            self.appended_encoding = appended.get("encoding", "base64")
            need(self.appended_encoding in {"raw", "base64"}, "encoding")

    def values(self, element, tuples: int | None) -> tuple[np.ndarray, bool]:
        """Read the values of a DataArray, [tuples] or [tuples, components], and if it is text."""
        type_name = element.get("type", "")
        need(type_name in DTYPES, f"type {type_name}")
        dtype = np.dtype(DTYPES[type_name])
        components = max(1, whole(element.get("NumberOfComponents") or "1"))  # 0 is 1, as in VTK
        stated = element.get("NumberOfTuples", "").strip()
        if tuples is None and re.fullmatch(r"\d{1,18}", stated, re.ASCII):
            tuples = int(stated)
        count = None if tuples is None else tuples * components
        size = None if count is None else count * dtype.itemsize
        form = form_of(element)
        if form == "ascii":
            flat = parse_text((element.text or "").split(), dtype)
            need(count in {None, len(flat)}, f"{len(flat)} values for {count}")
        else:
            flat = np.frombuffer(self._bytes(element, form, size), np.uint8)
            need(len(flat) % dtype.itemsize == 0, "bytes left over")
            flat = flat.view(dtype.newbyteorder(self.order)).astype(dtype)
        if tuples is None:  # field data that does not say how many has what is there
            need(len(flat) % components == 0, "values left over")
            tuples = len(flat) // components
        shape = (tuples,) if components == 1 else (tuples, components)
        return flat.reshape(shape), form == "ascii"

    def text(self, element) -> list[str]:
        """Read a String array: characters, each string ended by a zero."""
        form = form_of(element)
        if form == "ascii":
            codes = bytes(parse_text((element.text or "").split(), np.dtype("u1")))
        else:
            codes = self._bytes(element, form, None)
        need(not codes or codes[-1] == 0, "string without end")
        strings = codes.split(b"\0")[:-1]
        components = whole(element.get("NumberOfComponents", "1"))
        need(len(strings) % components == 0, "strings left over")
        tuples = whole(element.get("NumberOfTuples", str(len(strings) // components)))
        need(len(strings) == tuples * components, "number of strings")
        try:
            return [string.decode() for string in strings]
        except UnicodeDecodeError as err:
            raise Refused("string is no UTF-8") from err

    def _bytes(self, element, form: str, size: int | None) -> bytes:
        if form == "binary":
            return self._encoded((element.text or "").encode(), size, exact=True)
        need(self.appended is not None, "no appended data")
        offset = whole(element.get("offset", ""))
        need(offset <= len(self.appended), "offset")
        rest = self.appended[offset:]
        if self.appended_encoding == "raw":
            return self._raw(rest, size)
        return self._encoded(rest, size, exact=False)

    def _raw(self, rest: bytes, size: int | None) -> bytes:
        width = self.header.itemsize
        if self.decode is None:
            (length,) = self._numbers(rest, 1)
            need(size is None or length == size, "size")
            need(length <= len(rest) - width, "cut")
            return rest[width : width + length]
        heads, sizes, at = self._blocks(rest, size)
        return self._inflate(rest[at : at + sum(sizes)], heads, sizes)

    def _numbers(self, content: bytes, count: int) -> list[int]:
        need(len(content) >= count * self.header.itemsize, "cut in a header")
        return [int(n) for n in np.frombuffer(content, self.header, count)]

    def _blocks(self, content: bytes, size: int | None):
        """Read the header of compressed blocks: their decoded sizes, stored sizes, its length."""
        (blocks,) = self._numbers(content, 1)
        need(blocks <= 1 << 20, "blocks")
        if blocks == 0:
            need(not size, "no blocks")
            return [], [], 3 * self.header.itemsize
        _, block, last = self._numbers(content, 3)
        # One block of nothing is how some writers compress no values.
        need(last <= block and (block > 0 or blocks == 1), "block sizes")
        decoded = [block] * blocks
        if last:
            decoded[-1] = last
        need(size is None or sum(decoded) == size, "size")
        stored = self._numbers(content, 3 + blocks)[3:]
        return decoded, stored, (3 + blocks) * self.header.itemsize

    def _inflate(self, content: bytes, decoded: list[int], stored: list[int]) -> bytes:
        out, at = [], 0
        for size, length in zip(decoded, stored, strict=True):
            need(at + length <= len(content), "cut")
            try:
                block = self.decode(content[at : at + length], size)
            except (zlib.error, lzma.LZMAError, lz4.block.LZ4BlockError, ValueError) as err:
                raise Refused(f"block: {err}") from err
            except (MemoryError, OverflowError) as err:
                raise Refused("block size") from err
            need(len(block) == size, "block size")
            out.append(block)
            at += length
        return b"".join(out)

    def _encoded(self, text: bytes, size: int | None, *, exact: bool) -> bytes:
        """Read base64: of header and values together, or of header and blocks one by one."""
        text = text.translate(None, _SPACE)
        width = self.header.itemsize
        if self.decode is None:
            (length,) = self._numbers(_base64(text[: _characters(width)], at_least=width), 1)
            need(size is None or length == size, "size")
            characters = _characters(width + length)
            need(characters == len(text) if exact else characters <= len(text), "cut or too long")
            content = _base64(text[:characters])
            need(len(content) == width + length, "base64 size")
            return content[width:]
        (blocks,) = self._numbers(_base64(text[: _characters(width)], at_least=width), 1)
        need(blocks <= 1 << 20, "blocks")
        stop = _characters((3 + blocks) * width)
        header = _base64(text[:stop])
        # Its last characters have room for two bytes more, which nobody reads.
        need(len(header) >= (3 + blocks) * width, "base64 header")
        decoded, stored, _ = self._blocks(header, size)
        characters = _characters(sum(stored))
        if exact:
            need(stop + characters == len(text), "cut or too long")
        content = _base64(text[stop : stop + characters])
        need(len(content) == sum(stored), "base64 size")
        return self._inflate(content, decoded, stored)


def _characters(size: int) -> int:
    return -(-size // 3) * 4


def _base64(text: bytes, at_least: int = 0) -> bytes:
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as err:
        raise Refused(f"base64: {err}") from err
    need(len(content) >= at_least, "base64 cut")
    return content


def form_of(element) -> str:
    """Where values are, as VTK decides: a place goes before a word, and other words mean text."""
    if element.get("offset"):
        return "appended"
    return "binary" if element.get("format") == "binary" else "ascii"


def whole(text: str) -> int:
    """Read a whole number that is not negative, which may end in a point and zeros."""
    found = re.fullmatch(r"\s*\+?(\d{1,19})(?:\.0*)?\s*", text, re.ASCII)
    if found is None:
        raise Refused(f"number {text[:20]!r}")
    return int(found[1])


def extent_of(element, name: str) -> list[int]:
    words = element.get(name, "").split()
    need(len(words) == 6 and all(re.fullmatch(r"[-+]?\d{1,9}", w) for w in words), name)
    return [int(word) for word in words]


def field_data(file: XmlFile, grid, sample: Sample) -> None:
    """Add the field data of a file."""
    taken: dict[str, object] = dict(sample.arrays)
    data = grid.find("FieldData")
    for element in () if data is None else data:
        if element.tag not in {"DataArray", "Array"}:
            continue
        path = f"global_data/{encoded_name(element.get('Name', ''))}"
        if element.get("type") == "String":
            name = put(taken, path, None)
            sample.attributes.setdefault("text", {})[name] = file.text(element)
            continue
        values, is_text = file.values(element, None)
        name = put(taken, path, values)
        sample.arrays[name] = values
        if is_text:
            sample.any_nan.add(name)
