"""NumPy files: `.npy` is one array, `.npz` several. Arrays keep their names, types and shapes.

An array of an `.npz` whose name has slashes (`point_data/pressure`) keeps them as folders, so a
file written with this project's names becomes a mesh or grid like any other. The array of an `.npy`
is called `values`. Text becomes an attribute. Pickled objects are refused: reading them runs code.

An `.npz` is a zip; its members' headers are read before their data, so a size that the file does
not back is refused before memory is allocated. Thread-safe: no state.
"""

from __future__ import annotations

import os
import tokenize
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from dataplane.errors import FormatError
from dataplane.pack.archives import UNSOUND_ZIP, check_beginning
from dataplane.pack.names import array_segment, unique_name
from dataplane.pack.source import Converted, SourceFile, describe_source, one_line
from dataplane.shards import SourceArray, SourceSample

__all__ = ["convert_npy", "convert_npz"]

MAX_MEMBERS = 100_000
_MAX_COMPRESSION = 1100  # deflate reaches 1032
_NUMERIC_KINDS = "biufc"
_TEXT_KINDS = "US"
_UNSOUND_NPY = (ValueError, TypeError, EOFError, SyntaxError, RecursionError, tokenize.TokenError)
"""What NumPy raises over damaged headers, which it parses as Python literals."""


def convert_npy(source: SourceFile) -> Iterator[SourceSample]:
    """Convert an `.npy` file: the array `values`.

    It is read and not mapped: a mapped file that is cut meanwhile ends the process (SIGBUS).
    """
    try:
        with source.path.open("rb") as stream:
            values = _read_array(stream, os.fstat(stream.fileno()).st_size, source.label)
    except (*_UNSOUND_NPY, OSError) as err:
        raise _unsound(source, err) from err
    converted = Converted()
    _add(converted, "values", values, source.label)
    yield _sample(source, converted)


def convert_npz(source: SourceFile) -> Iterator[SourceSample]:
    """Convert an `.npz` file: each of its arrays under its name."""
    converted = Converted()
    try:
        with zipfile.ZipFile(source.path) as archive:
            check_beginning(archive, source.label)
            members = archive.infolist()
            _check_members(members, source.path, source.label)
            for member in members:
                with archive.open(member) as stream:
                    where = f"{source.label}: member {member.filename!r}"
                    values = _read_array(cast(BinaryIO, stream), member.file_size, where)
                _add(converted, member.filename.removesuffix(".npy"), values, source.label)
    except (*UNSOUND_ZIP, *_UNSOUND_NPY, OSError) as err:
        raise _unsound(source, err) from err
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


def _read_array(stream: BinaryIO, size_bytes: int, where: str) -> npt.NDArray[Any]:
    """Read one array; its header must declare no more than the file or member holds."""
    form = np.lib.format
    version = form.read_magic(stream)
    if version == (1, 0):
        shape, fortran, dtype = form.read_array_header_1_0(stream)
    elif version in {(2, 0), (3, 0)}:
        # The headers differ in their text encoding only, which matters for field names alone.
        shape, fortran, dtype = form.read_array_header_2_0(stream)
    else:
        raise FormatError(f"{where} has the unknown version {version}")
    if dtype.hasobject:
        raise FormatError(f"{where} holds pickled objects, which are not read")
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
    return values.reshape(shape, order="F" if fortran else "C")


def _add(converted: Converted, original: str, values: npt.NDArray[Any], label: str) -> None:
    name = "/".join(array_segment(part) for part in original.strip("/").split("/"))
    if values.dtype.kind in _TEXT_KINDS:
        text = values.astype(np.str_) if values.dtype.kind == "S" else values
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
