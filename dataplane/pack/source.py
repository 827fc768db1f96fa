"""Sources: files to convert, and those that cannot be, passed between pack's modules. Values.

A `SourceFile` is one dataset on disk before it is read: one file, or several that belong together.
A converter is a function from a `SourceFile` to samples; it reads when it is iterated.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from dataplane.errors import FormatError
from dataplane.pack.other_formats import OtherFormat
from dataplane.shards import SourceArray, SourceSample

__all__ = [
    "COPY_AGAIN",
    "Converted",
    "Converter",
    "SourceFile",
    "Unreadable",
    "describe_source",
    "one_line",
    "sha256_of",
]

_log = logging.getLogger(__name__)

COPY_AGAIN = "copy it again from where it was written"
"""Hint for a file that was cut."""
MAX_TEXT_CHARS = 64 << 10
"""Most text in the attributes of a sample; they travel in every index row of the sample."""
_MAX_REASON_CHARS = 500


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One dataset on disk.

    Attributes:
        path: file to read, or the first of several.
        label: name in messages: the path as given, or `archive.zip/member`.
        name: name in attributes: the same without the folders of this machine.
        key: key of its sample.
        stem_key: prefix of its samples' keys where it holds several: `key` before it was told apart
            from others.
        format: format of the file: `vtu`, `plot3d`, `npz`, …
        companions: further files of the same dataset.
        attributes: attributes that its samples get besides their own (time of a series, …).
    """

    path: Path
    label: str
    name: str
    key: str
    format: str
    companions: tuple[Path, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    stem_key: str = ""

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of the dataset."""
        return (self.path, *self.companions)

    def size_bytes(self) -> int:
        """Size of its files; 0 for those that are gone, which the converter will report."""
        return sum(path.stat().st_size for path in self.files if path.is_file())


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A source that cannot be packed.

    Attributes:
        label: name of the source.
        reason: reason, without the label.
        asked_for: whether the user named it, or its name promises a format that pack reads; False
            for a file that merely lies in a folder that the user named.
        hint: advice, where there is some.
        key: key that its sample would have had, and that no other sample gets; empty if unknown.
        is_note: whether nothing is lost, since all of it is packed through another source.
        group: for a format that pack does not read, the group that files of it are counted in (see
            `other_formats.OtherFormat`); None for everything else.
    """

    label: str
    reason: str
    asked_for: bool = True
    hint: str | None = None
    key: str = ""
    group: str | None = None
    is_note: bool = False

    @classmethod
    def from_error(cls, label: str, error: FormatError) -> Unreadable:
        """Make one from an error, whose message may begin with the label."""
        return cls(label, error.message.removeprefix(f"{label}: "), hint=error.hint)

    @classmethod
    def from_exception(cls, label: str, error: Exception) -> Unreadable:
        """Make one from any error of a converter.

        Libraries raise more kinds of errors over damaged files than can be listed. One that was not
        foreseen is named by its type, and its traceback goes to the log (`--debug`).
        """
        if isinstance(error, FormatError):
            return cls.from_error(label, error)
        if isinstance(error, OSError):
            return cls(label, f"it cannot be read: {error.strerror or one_line(str(error))}")
        if isinstance(error, MemoryError):
            return cls(label, "it does not fit into this machine's memory")
        _log.debug("reading %s failed", label, exc_info=error)
        return cls(label, f"reading it failed: {one_line(f'{type(error).__name__}: {error}')}")

    @classmethod
    def from_other(cls, label: str, other: OtherFormat, *, asked_for: bool = True) -> Unreadable:
        """Make one of a file whose format pack does not read."""
        return cls(label, other.reason, asked_for, other.hint, group=other.group)

    def error(self) -> FormatError:
        """Error to raise for it."""
        return FormatError(f"{self.label}: {self.reason}", hint=self.hint)


@dataclass(slots=True)
class Converted:
    """The arrays and attributes of a sample while they are gathered."""

    arrays: dict[str, SourceArray] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    text_chars: int = 0

    def add_text(self, name: str, values: list[str]) -> None:
        """Keep a text array as an attribute, or note that it was too long."""
        size = sum(map(len, values))
        if self.text_chars + size > MAX_TEXT_CHARS:
            note = {"name": name, "values": len(values), "characters": size}
            self.attributes.setdefault("text_left_out", []).append(note)
            return
        self.text_chars += size
        self.attributes.setdefault("text", {})[name] = values


Converter: TypeAlias = Callable[[SourceFile], Iterator[SourceSample]]
"""Function that reads a source; raises FormatError naming the label when it cannot."""


def one_line(text: str) -> str:
    """A message of a library, in one line of bounded length."""
    text = " ".join(text.split())
    return text if len(text) <= _MAX_REASON_CHARS else f"{text[:_MAX_REASON_CHARS]}…"


def sha256_of(path: Path) -> str:
    """Digest of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def describe_source(source: SourceFile) -> dict[str, Any]:
    """Return the attributes of a sample's origin, digests included."""
    files = [
        {"name": path.name, "size_bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in source.files
    ]
    return {
        "source": {"name": source.name, "format": source.format, "files": files},
        **source.attributes,
    }
