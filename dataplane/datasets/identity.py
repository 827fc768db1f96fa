"""Identity of a dataset: a short name for its samples and their order, to compare two by.

It is a digest of what the index says of the content: keys, names, element types, shapes and
statistics of the arrays, in order. Where the samples lie (URL, shards, offsets) and how they are
compressed is no part of it, so a copy, or one that was packed again from the same values, has the
same identity. A pure function over an index; thread-safe.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from dataplane.shards import DatasetIndex

__all__ = ["identity_of"]

_TEXTS_AT_ONCE = 65_536
_NUMBERS = ("min", "max", "mean", "nan_count")


def identity_of(index: DatasetIndex) -> str:
    """Return the identity of the dataset that an index describes: 16 hexadecimal digits.

    Columns are decoded one after another, and each piece by piece.
    """
    digest = hashlib.blake2b(digest_size=8)
    _add_list(digest, index.keys)
    for piece in _pieces(index, "sample_index"):
        digest.update(piece.to_numpy().astype("<u4"))
    for name in ("array", "dtype"):
        numbers: dict[str, int] = {}
        for piece in _pieces(index, name):
            for value in _encoded(piece).dictionary.to_pylist():
                numbers.setdefault(value, len(numbers))
        _add_list(digest, list(numbers))
        for piece in _pieces(index, name):
            encoded = _encoded(piece)
            codes = np.array([numbers[value] for value in encoded.dictionary.to_pylist()], "<u4")
            digest.update(codes[encoded.indices.to_numpy()].tobytes())
    for piece in _pieces(index, "shape"):
        digest.update(piece.value_lengths().to_numpy(zero_copy_only=False).astype("<u8"))
    for piece in _pieces(index, "shape"):
        digest.update(piece.flatten().to_numpy(zero_copy_only=False).astype("<u8"))
    for name in _NUMBERS:
        for piece in _pieces(index, name):
            values = piece.to_numpy(zero_copy_only=False)  # with NaN where there is none
            digest.update(np.ascontiguousarray(values, "<f8").tobytes())
    return digest.hexdigest()


def _pieces(index: DatasetIndex, name: str) -> Iterator[Any]:
    """Yield a column in pieces that are one array each."""
    for table in index.column_groups([name]):
        yield from table.column(name).chunks


def _encoded(piece: Any) -> Any:
    """Return texts as a dictionary that is numbered by first appearance."""
    if pa.types.is_dictionary(piece.type):
        piece = piece.cast(piece.type.value_type)
    return piece.dictionary_encode()


def _add_list(digest: Any, texts: Sequence[str]) -> None:
    """Add texts as a list in JSON."""
    digest.update(b"[")
    for first in range(0, len(texts), _TEXTS_AT_ONCE):
        digest.update(b", " if first else b"")
        digest.update(json.dumps(list(texts[first : first + _TEXTS_AT_ONCE]))[1:-1].encode())
    digest.update(b"]")
