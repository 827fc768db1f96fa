"""Trees of blocks: multi-block (`.vtm`, `.vtmb`) and partitioned (`.vtpc`, `.vtpd`) VTK files.

Such a file holds names and references; the data of each block lies in a file of its own. A block
is called after its place in the tree, `boundary/inlet`. Several pieces of one block, and several
partitions, are told apart by number. Reads no data but the time. Thread-safe: no state.

Source: VTK's writers vtkXMLMultiBlockDataWriter and vtkXMLPartitionedDataSetCollectionWriter.
"""

from __future__ import annotations

import base64
import binascii
import logging
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from dataplane.errors import FormatError
from dataplane.pack.references import check_element, check_name, parse_xml, resolve_reference

__all__ = ["Block", "Blocks", "read_blocks"]

_log = logging.getLogger(__name__)

_MAX_DEPTH = 32
_TIME_ARRAY = "TimeValue"
_BRANCHES = frozenset({"Block", "Piece", "Partitions"})
_OF_EMPTY_BLOCKS = frozenset({"index", "name"})
_PARTITIONED = frozenset({"Piece", "Partitions", "vtkPartitionedDataSet"})
"""Elements whose data sets are pieces of one block."""
_TYPES = {
    **{f"Float{bits}": f"f{bits // 8}" for bits in (32, 64)},
    **{f"Int{bits}": f"i{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"UInt{bits}": f"u{bits // 8}" for bits in (8, 16, 32, 64)},
}
_OTHER_COMPRESSORS = frozenset({"vtkLZ4DataCompressor", "vtkLZMADataCompressor"})
_MAX_VALUE_CHARS = 4096


@dataclass(frozen=True, slots=True)
class Block:
    """A dataset in a tree of blocks.

    Attributes:
        path: file of the dataset.
        names: names of the blocks that it is in, and its own; empty for a bare partition.
        group: names that the file's assembly has for its place, where there is one.
        partition: number of the piece in its block; None for the only one.
    """

    path: Path
    names: tuple[str, ...]
    group: tuple[str, ...] = ()
    partition: int | None = None


@dataclass(frozen=True, slots=True)
class Blocks:
    """The datasets of a tree, in its order, and its time, where the file gives one."""

    blocks: tuple[Block, ...]
    time: float | None


def read_blocks(path: Path, label: str, root: Path | None = None) -> Blocks:
    """Read a `.vtm`, `.vtpc` or `.vtpd` file. Blocks that are empty have no file and are left out.

    Args:
        path: the file.
        label: name in messages.
        root: folder that references may not leave; None allows any.

    Raises:
        FormatError: the file is damaged, lists nothing, or refers outside `root`.
    """
    document = parse_xml(path, label)
    kind = document.get("type") or ""
    tree = document.find(kind) if kind.isalnum() else None
    if tree is None:
        raise FormatError(f"{label}: it has no <{kind[:80]}>")
    assembly = tree.find("DataAssembly")
    groups = {} if assembly is None else _assembly(assembly, label)
    blocks: dict[Block, None] = {}  # the same file under the same name says nothing new
    for place, (names, partition, file) in _leaves(tree, (), 0, label):
        target = resolve_reference(path, file, label, root)
        blocks[Block(target, names, groups.get(place, ()), partition)] = None
    if not blocks:
        raise FormatError(f"{label}: it lists no data sets")
    return Blocks(tuple(blocks), _time(document, label))


_Leaf = tuple[tuple[str, ...], int | None, str]


def _leaves(
    element: ElementTree.Element, names: tuple[str, ...], depth: int, label: str
) -> Iterator[tuple[int, _Leaf]]:
    """Yield the data sets below an element, each with the index of its branch at the top."""
    if depth > _MAX_DEPTH:
        raise FormatError(f"{label}: its blocks are nested more than {_MAX_DEPTH} deep")
    children = [child for child in element if child.tag != "DataAssembly"]
    is_partitioned = element.tag in _PARTITIONED
    pieces = sum(child.tag == "DataSet" for child in children)
    for position, child in enumerate(children):
        check_element(child, _BRANCHES | {"DataSet"}, label)
        index = _index(child, position, label)
        name = check_name(child.get("name") or "", label) or f"block{index}"
        if child.tag in _BRANCHES:
            for place, leaf in _leaves(child, (*names, name), depth + 1, label):
                yield (index if depth == 0 else place), leaf
        elif file := child.get("file"):
            own = names if is_partitioned else (*names, name)
            yield index, (own, index if is_partitioned and pieces > 1 else None, file)
        elif not _OF_EMPTY_BLOCKS.issuperset(child.keys()):
            raise FormatError(f"{label}: its block {name} names no file")


def _index(element: ElementTree.Element, position: int, label: str) -> int:
    text = element.get("index")
    if text is None:
        return position
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise FormatError(f"{label}: a block has the index {text[:80]!r}")
    return int(text)


def _assembly(element: ElementTree.Element, label: str) -> dict[int, tuple[str, ...]]:
    """Return the names on the way to each dataset in a data assembly, without its root's."""
    text = "".join((element.text or "").split())
    try:
        is_encoded = element.get("encoding") == "base64"
        content = base64.b64decode(text, validate=True) if is_encoded else element.text or ""
        root = ElementTree.fromstring(content)  # noqa: S314  # expat limits expansion
    except (binascii.Error, ElementTree.ParseError, LookupError, ValueError) as err:
        raise FormatError(f"{label}: its data assembly is damaged: {err}") from err
    groups: dict[int, tuple[str, ...]] = {}
    waiting: list[tuple[ElementTree.Element, tuple[str, ...]]] = [(root, ())]
    while waiting:
        node, names = waiting.pop()
        for child in reversed(node):
            if child.tag != "dataset":
                if len(names) < _MAX_DEPTH:
                    waiting.append((child, (*names, check_name(child.tag, label))))
            elif (text := child.get("id") or "").isdigit():
                groups.setdefault(int(text), names)
    return groups


def _time(document: ElementTree.Element, label: str) -> float | None:
    """Return the time in a file's field data, if it has one that is finite."""
    array = document.find(f"FieldData/DataArray[@Name='{_TIME_ARRAY}']")
    if array is None:
        return None
    text = (array.text or "").strip()
    values: list[float] | None = None
    try:
        if array.get("format") == "ascii":
            values = [float(word) for word in text[:_MAX_VALUE_CHARS].split()]
        elif array.get("format") == "binary":
            values = _inline_values(document, array, "".join(text[:_MAX_VALUE_CHARS].split()))
        else:
            raise ValueError(f"it is stored as {(array.get('format') or '')[:80]!r}")
    except (ValueError, KeyError, IndexError, zlib.error) as err:
        raise FormatError(f"{label}: its {_TIME_ARRAY} is damaged: {err}") from err
    if values is None:
        _log.warning("%s: its %s is compressed in a way that is not read", label, _TIME_ARRAY)
        return None
    declared = array.get("NumberOfTuples")
    if declared is not None and declared.strip() != str(len(values)):
        raise FormatError(
            f"{label}: its {_TIME_ARRAY} declares {declared[:80]!r} values, it has {len(values)}"
        )
    return values[0] if len(values) == 1 and math.isfinite(values[0]) else None


def _inline_values(
    document: ElementTree.Element, array: ElementTree.Element, text: str
) -> list[float] | None:
    """Decode an inline array: base64 of a header and one block, compressed with zlib or not.

    Returns None for other compressors.
    """
    order = ">" if document.get("byte_order") == "BigEndian" else "<"
    word = np.dtype(order + ("u8" if document.get("header_type") == "UInt64" else "u4"))
    compressor = document.get("compressor")
    words = 4 if compressor else 1
    header_chars = (words * word.itemsize + 2) // 3 * 4
    header = np.frombuffer(base64.b64decode(text[:header_chars])[: words * word.itemsize], word)
    if compressor is None:
        separate = text[:header_chars].endswith("=")
        content = base64.b64decode(text[header_chars:] if separate else text)
        content = content if separate else content[word.itemsize :]
        if len(content) != header[0]:
            raise ValueError(f"{len(content)} bytes, expected {header[0]}")
    elif compressor == "vtkZLibDataCompressor":
        if header[0] != 1:
            raise ValueError(f"{header[0]} compressed blocks, expected 1")
        limit = 8 * _MAX_VALUE_CHARS
        content = zlib.decompressobj().decompress(base64.b64decode(text[header_chars:]), limit)
    elif compressor in _OTHER_COMPRESSORS:
        return None
    else:
        raise ValueError(f"unknown compressor {compressor[:80]!r}")
    return [float(value) for value in np.frombuffer(content, order + _TYPES[array.get("type", "")])]
