"""Structure of a VTK XML file: pieces, their arrays, and the places of their values. No values.

The file is parsed with expat up to its appended data, which is no XML. Only element tags are
looked at; the text of a DataArray is passed over and described by its byte range, so a file of any
size takes no memory here but for its tags. Document types that declare entities or attributes are
refused: byte ranges would not have the meaning of the text.

Thread-safe: no state. Source: the VTK XML file formats (VTK user's guide, section 19.3).
"""

from __future__ import annotations

import mmap
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias
from xml.parsers import expat

from dataplane.errors import FormatError
from dataplane.pack.source import COPY_AGAIN

__all__ = [
    "ArrayElement",
    "Content",
    "Document",
    "Group",
    "Piece",
    "appended_range",
    "scan",
    "tag_end",
    "xml_type",
]

Content: TypeAlias = "bytes | mmap.mmap"

_FIRST_BYTES = 16 << 10
MAX_PROLOG_BYTES = 16 << 20
"""Comments before the root element; a file with more of them is not taken for VTK XML."""
MAX_ELEMENTS = 1_000_000
_BEFORE_ROOT = re.compile(
    rb"(?:\xef\xbb\xbf)?(?:\s+|<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^\[>]*(?:\[.*?\]\s*)?>)*", re.DOTALL
)
_ROOT = re.compile(rb"<VTKFile\b[^>]*?\stype\s*=\s*[\"']([^\"']{1,64})[\"']", re.DOTALL)
_TAG = re.compile(rb"<(?:[^<>\"']+|\"[^\"]*\"|'[^']*')*>", re.DOTALL)
_ARRAYS = frozenset({"DataArray", "Array", "PDataArray", "PArray"})
_INCOMPLETE = frozenset(
    {
        "no element found",
        "unclosed token",
        "unclosed CDATA section",
        "partial character",
    }
)


@dataclass(slots=True)
class ArrayElement:
    """A `<DataArray>`: its attributes, and the byte ranges of its tag and of its text."""

    attributes: dict[str, str]
    tag_start: int
    body_start: int = 0
    body_stop: int = 0

    @property
    def name(self) -> str:
        """Its name; empty when it has none."""
        return self.attributes.get("Name", "")


@dataclass(slots=True)
class Group:
    """A `<PointData>`, `<Cells>`, `<Points>`, … with its arrays; `stop` is behind its end tag.

    `depth` counts the elements that it lies in: 2 within the dataset, 3 within a piece.
    """

    name: str
    attributes: dict[str, str]
    start: int
    stop: int = 0
    depth: int = 2
    arrays: list[ArrayElement] = field(default_factory=list)


@dataclass(slots=True)
class Piece:
    """A `<Piece>`; `start` and `stop` are its byte range."""

    attributes: dict[str, str]
    start: int
    stop: int = 0
    groups: dict[str, Group] = field(default_factory=dict)


@dataclass(slots=True)
class Document:
    """Content of the tags of a file.

    Attributes:
        attributes: attributes of `<VTKFile>`.
        kind: kind of the dataset: `UnstructuredGrid`, `PImageData`, …
        dataset: attributes of the element of that name, which begins at `dataset_start`.
        groups: groups outside pieces: `PPointData`, … of a parallel file; and `FieldData`, which
            some writers put beside the dataset or into a piece.
        surplus: byte ranges of groups without arrays, of which there is another in their place.
        pieces: pieces in the order of the file.
        appended: start of the tag `<AppendedData>`, or None.
        encoding: encoding of the appended data.
    """

    content: Content
    attributes: dict[str, str]
    kind: str
    dataset: dict[str, str] = field(default_factory=dict)
    dataset_start: int = 0
    groups: dict[str, Group] = field(default_factory=dict)
    surplus: list[tuple[int, int]] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    appended: int | None = None
    encoding: str = "base64"


def xml_type(path: Path) -> str | None:
    """Return the type that a VTK XML file states (`UnstructuredGrid`, `Collection`, …), or None."""
    with path.open("rb") as stream:
        head = stream.read(_FIRST_BYTES)
        found = _root(head)
        if found is None and head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"<?", b"<!")):
            found = _root(head + stream.read(MAX_PROLOG_BYTES))
    return found.decode(errors="replace") if found else None


def _root(head: bytes) -> bytes | None:
    before = _BEFORE_ROOT.match(head)
    found = _ROOT.match(head, before.end() if before else 0)
    return found.group(1) if found else None


def scan(content: Content, label: str) -> Document:
    """Return the structure of a file.

    Raises:
        FormatError: it is no well-formed VTK XML file, or says one thing twice.
    """
    parser = expat.ParserCreate()
    scanner = _Scanner(parser, content, label)
    parser.StartElementHandler = scanner.start
    parser.EndElementHandler = scanner.end
    parser.EntityDeclHandler = scanner.declaration
    parser.AttlistDeclHandler = scanner.declaration
    parser.SkippedEntityHandler = scanner.declaration
    try:
        parser.Parse(content, True)
    except _AppendedData:
        pass
    except expat.ExpatError as err:
        what = expat.ErrorString(err.code)
        if what in _INCOMPLETE:
            raise FormatError(
                f"{label}: it ends before its closing tag </VTKFile>; the file was cut",
                hint=COPY_AGAIN,
            ) from None
        raise FormatError(f"{label}: it is not valid XML: {err}") from None
    if scanner.document is None:
        raise FormatError(f"{label}: it holds no dataset")
    return scanner.document


def appended_range(document: Document) -> tuple[int, int]:
    """Begin and end of the appended data.

    Raises:
        ValueError: there is none, or it has no beginning or no end.
    """
    start, content = document.appended, document.content
    if start is None:
        raise ValueError("it is appended, and the file has no appended data")
    if document.encoding not in {"base64", "raw"}:
        raise ValueError(f"the appended data is encoded as {document.encoding!r}")
    behind = content.find(b">", start) + 1
    begin = content.find(b"_", behind)
    stop = content.rfind(b"</AppendedData", start)
    if begin < 0 or stop < begin or content[behind:begin].strip():
        raise ValueError("the appended data does not begin with _ or is not closed")
    return begin + 1, stop


def tag_end(content: Content, start: int) -> int:
    """Position behind the tag that begins at `start`, with any text in its attributes.

    Raises:
        ValueError: it is no tag.
    """
    tag = _TAG.match(content, start)
    if tag is None:
        raise ValueError(f"its tag at byte {start} cannot be read")
    return tag.end()


class _AppendedData(Exception):  # no error: it ends the parsing where XML ends
    """The appended data was reached."""


class _Scanner:
    """Builder of a Document from the events of the parser. Used once."""

    def __init__(self, parser: expat.XMLParserType, content: Content, label: str) -> None:
        self._parser = parser
        self.document: Document | None = None
        self._content = content
        self._label = label
        self._path: list[str] = []
        self._array: ArrayElement | None = None
        self._group: Group | None = None
        self._piece: Piece | None = None
        self._elements = 0

    def declaration(self, *_: object) -> None:
        raise FormatError(f"{self._label}: it has entities or attributes of a document type")

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        depth = len(self._path)
        self._path.append(tag)
        if self._array is not None:
            if not self._array.body_stop:  # values end where the first nested element begins
                self._array.body_stop = self._parser.CurrentByteIndex
            return
        self._elements += 1
        if self._elements > MAX_ELEMENTS:
            raise FormatError(f"{self._label}: more than {MAX_ELEMENTS} elements")
        at, document = self._parser.CurrentByteIndex, self.document
        if document is None:
            if tag != "VTKFile":
                raise FormatError(f"{self._label}: it is not a VTK XML file but <{tag}>")
            self.document = Document(self._content, attributes, attributes.get("type", ""))
        elif self._group is not None:
            if tag in _ARRAYS:
                self._array = ArrayElement(attributes, at, body_start=self._behind(at))
                self._group.arrays.append(self._array)
        elif depth == 1:
            if tag == "AppendedData":
                document.appended = at
                document.encoding = attributes.get("encoding", "base64")
                raise _AppendedData
            if tag == document.kind:
                document.dataset, document.dataset_start = attributes, at
            elif tag == "FieldData" or tag in _ARRAYS:
                self._start_group(tag, attributes, at)
        elif self._path[1] != document.kind:
            return
        elif depth == 2 and tag == "Piece":
            self._piece = Piece(attributes, at)
            document.pieces.append(self._piece)
        elif depth == (2 if self._piece is None else 3):
            self._start_group(tag, attributes, at)

    def _start_group(self, tag: str, attributes: dict[str, str], at: int) -> None:
        if tag in _ARRAYS:
            raise FormatError(
                f"{self._label}: its array {attributes.get('Name', '')!r} lies in "
                f"<{self._path[-2]}>, where arrays have no meaning"
            )
        self._group = Group(tag, attributes, at, depth=len(self._path) - 1)

    def _end_group(self, group: Group) -> None:
        group.stop = self._behind_end(group.start)
        self._group = None
        assert self.document is not None
        holder = self.document if group.name == "FieldData" else self._piece or self.document
        groups = holder.groups
        other = groups.get(group.name)
        if other is not None and other.arrays and group.arrays:
            raise FormatError(f"{self._label}: a second <{group.name}> in one place")
        if other is None or group.arrays:
            groups[group.name] = group
        if other is not None:
            empty = other if group.arrays else group
            self.document.surplus.append((empty.start, empty.stop))

    def end(self, tag: str) -> None:
        self._path.pop()
        depth = len(self._path)
        array, group, piece = self._array, self._group, self._piece
        if array is not None:
            if tag in _ARRAYS and group is not None and depth == group.depth + 1:
                self._array = None
                if not array.body_stop:
                    array.body_stop = max(self._parser.CurrentByteIndex, array.body_start)
        elif group is not None:
            if depth == group.depth:
                self._end_group(group)
        elif piece is not None and depth == 2:
            piece.stop = self._behind_end(piece.start)
            self._piece = None

    def _behind(self, at: int) -> int:
        try:
            return tag_end(self._content, at)
        except ValueError as err:
            raise FormatError(f"{self._label}: {err}") from None

    def _behind_end(self, start: int) -> int:
        """Position behind the element that ends now and began at `start`."""
        # The parser is behind the tag of an element without content, else before the end tag.
        at = self._parser.CurrentByteIndex
        if self._content[at - 2 : at] == b"/>" and self._behind(start) == at:
            return at
        return self._content.find(b">", at) + 1
