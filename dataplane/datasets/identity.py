"""Identity of a dataset: a short name for its samples and their order, to compare two by.

It is a digest of what the index says of the content: keys, names, element types, shapes and
statistics of the arrays, in order. Where the samples lie (URL, shards, offsets) and how they are
compressed is no part of it, so a copy, or one that was packed again from the same values, has the
same identity. A pure function over an index; thread-safe.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pyarrow as pa

from dataplane.shards import DatasetIndex

__all__ = ["identity_of"]

_TEXTS = ("sample", "array", "dtype")
_NUMBERS = ("min", "max", "mean", "nan_count")


def identity_of(index: DatasetIndex) -> str:
    """Return the identity of the dataset that an index describes: 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    for name in _TEXTS:
        _add_text(digest, index.table.column(name))
    shapes: Any = index.table.column("shape").combine_chunks()
    for part in (shapes.value_lengths(), shapes.flatten()):
        digest.update(part.to_numpy(zero_copy_only=False).astype("<u8").tobytes())
    for name in _NUMBERS:
        values = index.table.column(name).to_numpy()  # with NaN where there is none
        digest.update(np.ascontiguousarray(values, "<f8").tobytes())
    return digest.hexdigest()


def _add_text(digest: Any, column: Any) -> None:
    """Add the texts of a column, each once, and which row has which."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    encoded = column.combine_chunks().dictionary_encode()  # numbered by first appearance
    digest.update(json.dumps(encoded.dictionary.to_pylist()).encode())
    digest.update(encoded.indices.to_numpy().astype("<u4").tobytes())
