"""Shared-memory transport of samples: their arrays and a description, in one memory file.

The file (a memfd, which lives in no folder and goes with its last handle) holds the values of all
arrays one after the other, each on a multiple of 64 bytes, then a JSON document, then the length of
that document. The reader maps it and makes its arrays on it: no second copy, and nothing to remove.
JSON and not pickle, because the writing process may have been taken over by the file that it read;
so everything in the document is checked against the memory that is there.

Pure functions over handles; thread-safe for different ones.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dataplane.pack.source import SourceFile
from dataplane.shards import SourceArray, SourceSample

__all__ = [
    "ALONE",
    "SHARED",
    "TOGETHER",
    "Crossed",
    "read_outcome",
    "read_request",
    "write_outcome",
    "write_request",
]

ALONE, SHARED, TOGETHER = b"a", b"s", b"t"
"""Messages with a request: the file needs a reader of its own, or can have one that has read
others; or it is several files, for one reader, and all of them valid or none."""

_ALIGNMENT = 64
_LENGTH_BYTES = 8


@dataclass(frozen=True, slots=True)
class Crossed:
    """An outcome: samples by file, and the rest of the other side's document."""

    samples: tuple[tuple[SourceSample, ...], ...]
    document: Mapping[str, Any]


def write_request(handle: int, sources: Sequence[SourceFile]) -> None:
    """Write the datasets that are to be read."""
    document = [
        {
            "path": str(source.path.absolute()),  # the other process may be in another folder
            "label": source.label,
            "name": source.name,
            "key": source.key,
            "format": source.format,
            "companions": [str(path.absolute()) for path in source.companions],
            "attributes": dict(source.attributes),
        }
        for source in sources
    ]
    with open(handle, "wb", closefd=False) as file:
        file.write(json.dumps(document).encode())


def read_request(handle: int) -> list[SourceFile]:
    """Undo `write_request`."""
    document = json.loads(os.pread(handle, os.fstat(handle).st_size, 0))
    for fields in document:
        fields["path"] = Path(fields["path"])
        fields["companions"] = tuple(map(Path, fields["companions"]))
    return [SourceFile(**fields) for fields in document]


def write_outcome(
    handle: int, samples: Iterable[Iterable[SourceSample]], document: Mapping[str, Any]
) -> None:
    """Write samples, and a document beside them, over the content of the memory file.

    Each array is let go as soon as it is written, so that memory holds one of them twice at most.

    Args:
        handle: handle of the memory file.
        samples: samples of each file; they are read as they are written.
        document: JSON values; it is written last, so it may be filled until then.
    """
    os.ftruncate(handle, 0)
    os.lseek(handle, 0, os.SEEK_SET)
    with open(handle, "wb", closefd=False) as file:
        described = [[_write_sample(file, sample) for sample in each] for each in samples]
        text = json.dumps({**document, "samples": described}).encode()
        file.write(text)
        file.write(len(text).to_bytes(_LENGTH_BYTES, "little"))


def read_outcome(handle: int) -> Crossed:
    """Undo `write_outcome`; the arrays are writable, and changes to them stay in this process.

    Raises:
        ValueError, KeyError, TypeError: the content contradicts itself.
    """
    memory = mmap.mmap(handle, 0, access=mmap.ACCESS_COPY)
    length = int.from_bytes(memory[-_LENGTH_BYTES:], "little")
    if length > len(memory) - _LENGTH_BYTES:
        raise ValueError(f"a document of {length} bytes in {len(memory)}")
    document = json.loads(memory[-_LENGTH_BYTES - length : -_LENGTH_BYTES])
    described = document.pop("samples")
    samples = tuple(tuple(_sample(memory, sample) for sample in each) for each in described)
    return Crossed(samples, document)


def _write_sample(file: BinaryIO, sample: SourceSample) -> dict[str, Any]:
    described: list[dict[str, Any]] = []
    arrays = dict(sample.arrays)
    key, attributes = sample.key, dict(sample.attributes)
    del sample
    for name in [*arrays]:
        array = arrays.pop(name)
        file.write(bytes(-file.tell() % _ALIGNMENT))
        described.append(
            {
                "name": name,
                "dtype": array.values.dtype.str,
                "shape": array.values.shape,
                "at": file.tell(),
                "dimension_names": array.dimension_names,
                "units": array.units,
                "attributes": dict(array.attributes),
            }
        )
        file.write(np.ascontiguousarray(array.values).data)
        del array
    return {"key": key, "attributes": attributes, "arrays": described}


def _sample(memory: mmap.mmap, described: Mapping[str, Any]) -> SourceSample:
    arrays = {str(item["name"]): _array(memory, item) for item in described["arrays"]}
    return SourceSample(str(described["key"]), arrays, dict(described["attributes"]))


def _array(memory: mmap.mmap, described: Mapping[str, Any]) -> SourceArray:
    shape = tuple(int(n) for n in described["shape"])
    if any(n < 0 for n in shape):
        raise ValueError(f"an array of the shape {list(shape)}")
    count = 1
    for n in shape:
        count *= n
    dtype = np.dtype(str(described["dtype"]))
    if count:
        values = np.frombuffer(memory, dtype, count, int(described["at"])).reshape(shape)
    else:
        values = np.empty(shape, dtype)
    names = described["dimension_names"]
    return SourceArray(
        values,
        None if names is None else tuple(map(str, names)),
        described["units"],
        dict(described["attributes"]),
    )
