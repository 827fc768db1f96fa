"""NumPy files: `.npy` is one array, `.npz` several. Arrays keep their names, types and shapes.

An array of an `.npz` whose name has slashes (`point_data/pressure`) keeps them as folders, so a
file written with this project's names becomes a mesh or grid like any other. The array of an `.npy`
is called `values`. Text becomes an attribute. Pickled objects are never read, since reading them
runs code: an `.npy` of them is refused, and in an `.npz` they are left out with a note beside
arrays, as members that are no arrays are.

An `.npz` is a zip; its members' headers are read before their data, so a size that the file does
not back is refused before memory is allocated. Thread-safe: no state.
"""

from __future__ import annotations

import os
import tokenize
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from dataplane.errors import FormatError
from dataplane.pack.archives import UNSOUND_ZIP, check_directory
from dataplane.pack.names import array_segment, unique_name
from dataplane.pack.source import Converted, SourceFile, describe_source, one_line
from dataplane.shards import SourceArray, SourceSample

__all__ = ["convert_npy", "convert_npz"]


MAX_MEMBERS = 100_000
_MAX_COMPRESSION = 1100  # deflate reaches 1032
_NUMERIC_KINDS = "biufc"
_TEXT_KINDS = "US"
_MAGIC = b"\x93NUMPY"
_DRAIN_BYTES = 1 << 20
_PICKLED = "it holds pickled objects, which are not read"
_UNPICKLE = "save its arrays by name: `np.savez(path, **arrays)`"
_UNSOUND_NPY = (ValueError, TypeError, EOFError, SyntaxError, RecursionError, tokenize.TokenError)
"""Errors of NumPy over damaged headers, which it parses as Python literals."""


def convert_npy(source: SourceFile) -> Iterator[SourceSample]:
    """Convert an `.npy` file: the array `values`.

    It is read and not mapped: a mapped file that is cut meanwhile ends the process (SIGBUS).
    """
    try:
        with source.path.open("rb") as stream:
            header = _read_header(stream, source.label)
            if header.dtype.hasobject:
                raise FormatError(f"{source.label}: {_PICKLED}", hint=_UNPICKLE)
            size_bytes = os.fstat(stream.fileno()).st_size
            values = _read_values(stream, header, size_bytes, source.label)
    except (*_UNSOUND_NPY, OSError) as err:
        raise _unsound(source, err) from err
    converted = Converted()
    _add(converted, "values", values, source.label)
    yield _sample(source, converted)


def convert_npz(source: SourceFile) -> Iterator[SourceSample]:
    """Convert an `.npz` file: each of its arrays under its name."""
    converted = Converted()
    left_out: dict[str, str] = {}
    try:
        with zipfile.ZipFile(source.path) as archive:
            check_directory(archive, source.label)
            members = archive.infolist()
            _check_members(members, source.path, source.label)
            for member in members:
                if member.filename.endswith("/"):
                    continue
                with archive.open(member) as opened:
                    stream = cast(BinaryIO, opened)
                    reason = _add_member(converted, stream, member, source.label)
                    while reason is not None and stream.read(_DRAIN_BYTES):
                        pass  # a member that only looks like one to leave out fails its checksum
                if reason is not None:
                    left_out[member.filename] = reason
    except (*UNSOUND_ZIP, *_UNSOUND_NPY, OSError) as err:
        raise _unsound(source, err) from err
    if left_out:
        if not converted.arrays:
            listed = ", ".join(f"{name!r} ({reason})" for name, reason in left_out.items())
            pickled = _PICKLED in left_out.values()
            raise FormatError(
                f"{source.label}: it holds no numeric arrays, only {one_line(listed)}",
                hint=_UNPICKLE if pickled else None,
            )
        converted.attributes["members_left_out"] = left_out
    yield _sample(source, converted)


def _unsound(source: SourceFile, err: Exception) -> FormatError:
    kind = type(err).__name__
    return FormatError(
        f"{source.label}: it is not a sound .{source.format} file: {one_line(f'{kind}: {err}')}"
    )


def _check_members(members: list[zipfile.ZipInfo], path: Path, label: str) -> None:
    if len(members) > MAX_MEMBERS:
        raise FormatError(f"{label}: {len(members)} members; at most {MAX_MEMBERS} are read")
    names = [member.filename for member in members]
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise FormatError(f"{label}: it holds {double!r} twice")
    limit = path.stat().st_size * _MAX_COMPRESSION
    declared = sum(member.file_size for member in members)
    if declared > limit:
        raise FormatError(
            f"{label}: it declares {declared} bytes, which cannot be in a file of "
            f"{path.stat().st_size} bytes"
        )


@dataclass(frozen=True, slots=True)
class _Header:
    """The header before the values of an array."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]


def _add_member(
    converted: Converted, stream: BinaryIO, member: zipfile.ZipInfo, label: str
) -> str | None:
    """Add a member of an `.npz`, or return the reason that it is left out."""
    where = f"{label}: member {member.filename!r}"
    beginning = stream.read(len(_MAGIC))
    if not member.filename.endswith(".npy") and not beginning.startswith(_MAGIC):
        return "it is no array"
    stream.seek(0)
    header = _read_header(stream, where)
    if header.dtype.hasobject:
        return _PICKLED
    values = _read_values(stream, header, member.file_size, where)
    _add(converted, member.filename.removesuffix(".npy"), values, label)
    return None


def _read_header(stream: BinaryIO, where: str) -> _Header:
    form = np.lib.format
    version = form.read_magic(stream)
    if version == (1, 0):
        return _Header(*form.read_array_header_1_0(stream))
    if version in {(2, 0), (3, 0)}:
        # The headers differ in their text encoding only, which matters for field names alone.
        return _Header(*form.read_array_header_2_0(stream))
    raise FormatError(f"{where} has the unknown version {version}")


def _read_values(
    stream: BinaryIO, header: _Header, size_bytes: int, where: str
) -> npt.NDArray[Any]:
    """Read the values; the header must declare the size that the file or member has."""
    shape, dtype = header.shape, header.dtype
    count = 1
    for n in shape:
        count *= n
    if count * dtype.itemsize > size_bytes:
        raise FormatError(
            f"{where} declares {count * dtype.itemsize} bytes of {dtype}{list(shape)}, "
            f"but holds {size_bytes}"
        )
    if dtype.itemsize == 0 or dtype.subdtype is not None:
        raise FormatError(f"{where} has values of the type {dtype}, which is no plain type")
    values = np.empty(count, dtype)
    if values.nbytes:
        read_bytes = stream.readinto(values.view(np.uint8))  # type: ignore[attr-defined]  # binary
        if read_bytes != values.nbytes:
            raise FormatError(f"{where} ends after {read_bytes} of {values.nbytes} bytes")
    if stream.read(1):
        raise FormatError(
            f"{where} goes on after the {values.nbytes} bytes of {dtype}{list(shape)} that its "
            f"header declares",
            hint="save each array to a file of its own, or all with np.savez",
        )
    return values.reshape(shape, order="F" if header.fortran else "C")


def _add(converted: Converted, original: str, values: npt.NDArray[Any], label: str) -> None:
    name = "/".join(array_segment(part) for part in original.strip("/").split("/"))
    if values.dtype.kind in _TEXT_KINDS:
        text = values.astype(np.str_) if values.dtype.kind == "S" else values
        name = unique_name(name, converted.attributes.get("text", {}), "~")
        converted.add_text(name, [str(item) for item in text.reshape(-1)])
        return
    if values.dtype.kind not in _NUMERIC_KINDS:
        raise FormatError(
            f"{label}: array {original!r} has the type {values.dtype}, which is not numeric",
            hint="split structured arrays into one array per field",
        )
    name = unique_name(name, converted.arrays, "~")
    attributes = {} if name == original else {"name": original}
    converted.arrays[name] = SourceArray(values, None, None, attributes)


def _sample(source: SourceFile, converted: Converted) -> SourceSample:
    if not converted.arrays:
        raise FormatError(f"{source.label}: it holds no numeric arrays")
    attributes = {**converted.attributes, **describe_source(source)}
    return SourceSample(source.key, converted.arrays, attributes)
