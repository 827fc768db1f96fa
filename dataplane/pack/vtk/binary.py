"""Lengths of binary values in VTK XML files: decoded bytes, without decoding.

Binary values are a run of bytes behind a header of one or more words (UInt32 or UInt64, in the byte
order of the file), either as they are (appended, raw) or as base64 (appended or inline):

    uncompressed   [bytes] values
    compressed     [blocks, block bytes, bytes of the last block or 0, stored bytes of each] blocks

In base64 the header of compressed values is a run of its own, with its own padding; before
uncompressed values it may be one. VTK reads what the header says and as far as it gets: text that
ends early or is broken into lines leaves memory as it was. So the header must say what the piece
needs, and the text must be as long as the header says, in the base64 alphabet, without whitespace.

Pure functions over bytes. Source: vtkXMLDataParser, vtkXMLWriter.
"""

from __future__ import annotations

import binascii
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dataplane.errors import FormatError
from dataplane.pack.vtk.xml import Content, Document

__all__ = ["BinaryFormat", "Run", "decoded_bytes", "encoded", "stored_bytes"]

_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_STEP_CHARS = 16 << 20
_BLOCK_BYTES = 32768
"""Size of blocks that are written here; VTK's writers use the same."""


@dataclass(frozen=True, slots=True)
class BinaryFormat:
    """Format of a file's binary values: words of the header, and the compressor."""

    word: np.dtype[Any]
    byte_order: str
    compressor: str | None

    @classmethod
    def of(cls, document: Document, label: str) -> BinaryFormat:
        """Return the format by the attributes of `<VTKFile>`.

        Raises:
            FormatError: they say nothing that is known.
        """
        orders = {"LittleEndian": "<", "BigEndian": ">"}
        words = {"UInt32": "u4", "UInt64": "u8"}
        order = document.attributes.get("byte_order", "LittleEndian")
        word = document.attributes.get("header_type", "UInt32")
        if order not in orders or word not in words:
            raise FormatError(f"{label}: its byte order is {order!r}, its header type {word!r}")
        return cls(
            np.dtype(orders[order] + words[word]),
            orders[order],
            document.attributes.get("compressor") or None,
        )


@dataclass(frozen=True, slots=True)
class Run:
    """A place that holds binary values: `content[start:stop]`, raw or as base64.

    `exact` says that the values must end where the run does; appended values end before others.
    """

    content: Content
    start: int
    stop: int
    base64: bool
    exact: bool

    def after(self, at: int, size_bytes: int) -> int:
        """The position behind a stretch of `size_bytes` that begins at `at`."""
        return at + (-(-size_bytes // 3) * 4 if self.base64 else size_bytes)

    def read(self, at: int, size_bytes: int) -> bytes:
        """Decode the first `size_bytes` from `at`.

        Raises:
            ValueError: they are not there.
        """
        stop = self.after(at, size_bytes)
        if stop > self.stop:
            raise ValueError("its values are cut")
        data = bytes(self.content[at:stop])
        if self.base64:
            data = _decoded(data)
        if len(data) < size_bytes:
            raise ValueError("its base64 text is padded too early")
        return data[:size_bytes]

    def check(self, start: int, stop: int, size_bytes: int) -> None:
        """Check that base64 text decodes to `size_bytes` and has no foreign characters in it."""
        if stop > self.stop:
            raise ValueError(f"its values are cut: {stop - self.stop} characters are missing")
        if not self.base64 or start == stop:
            return
        padding = -size_bytes % 3
        if self.content[stop - padding : stop] != b"=" * padding:
            raise ValueError("its base64 text is padded wrongly")
        _decoded(bytes(self.content[stop - 4 : stop]))
        for at in range(start, stop - padding, _STEP_CHARS):
            text = self.content[at : min(at + _STEP_CHARS, stop - padding)]
            foreign = text.translate(None, _ALPHABET)
            if foreign:
                raise ValueError(f"its base64 text holds {foreign[:8]!r}")


def _decoded(text: bytes) -> bytes:
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error as err:
        raise ValueError(f"its base64 text is damaged: {err}") from None
    if binascii.b2a_base64(data, newline=False) != text:
        raise ValueError("its base64 text is damaged: bits are set behind its end")
    return data


def stored_bytes(run: Run, form: BinaryFormat) -> int:
    """Return the decoded bytes of the values in a run, by its header, which is checked.

    Raises:
        ValueError: the run contradicts its header; the message is the reason.
    """
    total, stop = (_plain if form.compressor is None else _compressed)(run, form)
    if run.exact and stop != run.stop:
        raise ValueError(f"{run.stop - stop} characters follow its values")
    return total


def _plain(run: Run, form: BinaryFormat) -> tuple[int, int]:
    word = form.word.itemsize
    total, values = _plain_header(run, form)
    stop = run.after(values, total if values != run.start else word + total)
    if values == run.start:
        run.check(run.start, stop, word + total)
    else:
        run.check(values, stop, total)
    return total, stop


def _plain_header(run: Run, form: BinaryFormat) -> tuple[int, int]:
    """Return the length that the header gives, and the place of the values.

    That is the start of the run where header and values are one stretch of base64.
    """
    word = form.word.itemsize
    (total,) = _words(run.read(run.start, word), form)
    behind = run.after(run.start, word)
    if not run.base64:
        return total, behind
    padding = b"=" * (-word % 3)
    split = total and run.content[behind - len(padding) : behind] == padding
    return total, behind if split else run.start


def _compressed(run: Run, form: BinaryFormat) -> tuple[int, int]:
    total, decoded, sizes, at = _block_table(run, form)
    stored = sum(sizes)
    stop = run.after(at, stored)
    run.check(at, stop, stored)
    if not decoded and run.exact and stop < run.stop:
        # No values may have the fourth word of a table all the same.
        word = form.word.itemsize
        if run.after(stop, word) == run.stop and not any(run.read(stop, word)):
            stop = run.stop
    return total, stop


def _block_table(run: Run, form: BinaryFormat) -> tuple[int, list[int], list[int], int]:
    """Return decoded bytes, those of each block, stored bytes of each, and their place."""
    word = form.word.itemsize
    blocks, block_bytes, last_bytes = _words(run.read(run.start, 3 * word), form)
    available = run.stop - run.start
    if blocks > available // word:
        raise ValueError(f"its header announces {blocks} blocks in {available} bytes")
    is_empty = blocks == 1 and not block_bytes  # how some writers compress no values
    if blocks and (last_bytes > block_bytes or not (block_bytes or is_empty)):
        raise ValueError(f"its header announces blocks of {block_bytes} and {last_bytes} bytes")
    # Three words are whole groups of base64, so the others can be decoded by themselves.
    sizes = _words(run.read(run.after(run.start, 3 * word), blocks * word), form)
    decoded = [block_bytes] * blocks
    if blocks and last_bytes:
        decoded[-1] = last_bytes
    return sum(decoded), decoded, sizes, run.after(run.start, (3 + blocks) * word)


def _words(data: bytes, form: BinaryFormat) -> list[int]:
    code = "I" if form.word.itemsize == 4 else "Q"
    return list(struct.unpack(f"{form.byte_order}{len(data) // form.word.itemsize}{code}", data))


def decoded_bytes(run: Run, form: BinaryFormat) -> bytes:
    """Decode the values of a run that `stored_bytes` found valid.

    Raises:
        ValueError: they cannot be decompressed.
    """
    if form.compressor is None:
        total, at = _plain_header(run, form)
        skipped = form.word.itemsize if run.base64 and at == run.start else 0
        return run.read(at, skipped + total)[skipped:]
    _, decoded, sizes, at = _block_table(run, form)
    stored = run.read(at, sum(sizes))
    return b"".join(_decompressed(stored, decoded, sizes, form.compressor))


def _decompressed(
    stored: bytes, decoded: list[int], sizes: list[int], compressor: str
) -> Iterator[bytes]:
    codec = _codec(compressor)
    at = 0
    for size, stored_size in zip(decoded, sizes, strict=True):
        block = np.frombuffer(stored, np.uint8, stored_size, at)
        out = np.zeros(size, np.uint8)
        if codec.Uncompress(block, stored_size, out, size) != size:
            raise ValueError("a block of it cannot be decompressed")
        yield out.tobytes()
        at += stored_size


def encoded(values: bytes, form: BinaryFormat) -> bytes:
    """Encode values as inline base64, as a file of this format has them."""
    if form.compressor is None:
        header = np.array([len(values)], form.word).tobytes()
        return binascii.b2a_base64(header + values, newline=False)
    codec = _codec(form.compressor)
    blocks: list[bytes] = []
    for at in range(0, len(values), _BLOCK_BYTES):
        block = np.frombuffer(values[at : at + _BLOCK_BYTES], np.uint8)
        out = np.zeros(codec.GetMaximumCompressionSpace(len(block)), np.uint8)
        blocks.append(out[: codec.Compress(block, len(block), out, len(out))].tobytes())
    last_bytes = len(values) % _BLOCK_BYTES
    table = [len(blocks), _BLOCK_BYTES, last_bytes, *map(len, blocks)]
    header = binascii.b2a_base64(np.array(table, form.word).tobytes(), newline=False)
    return header + binascii.b2a_base64(b"".join(blocks), newline=False)


def _codec(compressor: str) -> Any:
    from vtkmodules import vtkIOCore

    known = ("vtkZLibDataCompressor", "vtkLZ4DataCompressor", "vtkLZMADataCompressor")
    if compressor not in known:
        raise ValueError(f"its compressor {compressor!r} is not known")
    return getattr(vtkIOCore, compressor)()
