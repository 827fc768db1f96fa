"""`Keys`: the keys of the samples of an index, as one buffer of bytes with offsets.

A key becomes a Python string when it is asked for. Looking a key up is a binary search, in the
order of the keys themselves where they ascend, as they mostly do, and otherwise in one that is
found at the first look-up.

Immutable but for that order, so thread-safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dataplane.errors import FormatError
from dataplane.shards.index_compact import Ints
from dataplane.shards.names import check_member_name

__all__ = ["Keys"]

_SHOWN_KEYS = 5
_SLASH = ord("/")
_IS_PLAIN = np.zeros(256, bool)
_IS_PLAIN[list(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_/")] = True
_MAX_PLAIN_BYTES = 240
"""Longest key of plain characters that needs no look at its parts."""


class Keys(Sequence[str]):
    """The keys of samples, in their order.

    Args:
        parts: Arrow arrays of texts, in order.
        where: place to name in messages.

    Raises:
        FormatError: two keys are the same, or one may not be a key.
    """

    def __init__(self, parts: Sequence[Any], where: str) -> None:
        if sum(part.nbytes for part in parts) > np.iinfo(np.int32).max:
            parts = [part.cast(pa.large_string()) for part in parts]
        texts = pa.concat_arrays(list(parts))
        self._kind = texts.type
        _, bounds, data = texts.buffers()
        self._data: bytes = b"" if data is None else data.to_pybytes()
        # Concatenated arrays begin at the start of their buffers.
        bits = np.int64 if pa.types.is_large_string(self._kind) else np.int32
        self._bounds: Ints = np.frombuffer(bounds, bits)[: len(texts) + 1]
        self._check_names(where)
        self._is_ascending = bool(pc.all(pc.less(texts[:-1], texts[1:])).as_py())
        self._order: Ints | None = None
        if not self._is_ascending and pc.count_distinct(texts).as_py() != len(texts):
            raise FormatError(f"{where}: two samples have the same key")

    def __reduce__(self) -> tuple[object, ...]:
        return (Keys, ([self._texts()], "keys"))

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[str]: ...
    def __getitem__(self, i: int | slice) -> str | Sequence[str]:
        if isinstance(i, slice):
            return self.take(np.arange(*i.indices(len(self))))
        if not -len(self) <= i < len(self):
            raise IndexError(f"key {i} of {len(self)}")
        return self._bytes(i % len(self)).decode()

    def take(self, samples: npt.NDArray[np.int64]) -> list[str]:
        """Return the keys of several samples."""
        data = self._data
        starts, stops = self._bounds[samples].tolist(), self._bounds[samples + 1].tolist()
        return [data[a:b].decode() for a, b in zip(starts, stops, strict=True)]

    def __repr__(self) -> str:
        more = ", …" if len(self) > _SHOWN_KEYS else ""
        shown = ", ".join(map(repr, self[:_SHOWN_KEYS]))
        return f"<{len(self):,} keys: {shown}{more}>"

    def position(self, key: str) -> int | None:
        """Return the position of the sample with a key, or None."""
        try:
            wanted = key.encode()
        except UnicodeEncodeError:
            return None
        order = self._found_order()
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            place = middle if order is None else int(order[middle])
            found = self._bytes(place)
            if found == wanted:
                return place
            low, high = (middle + 1, high) if found < wanted else (low, middle)
        return None

    def _texts(self) -> Any:
        """Return all keys as an Arrow array, over the same memory."""
        buffers = [None, pa.py_buffer(self._bounds), pa.py_buffer(self._data)]
        return pa.Array.from_buffers(self._kind, len(self), buffers)

    def _bytes(self, i: int) -> bytes:
        return self._data[int(self._bounds[i]) : int(self._bounds[i + 1])]

    def _found_order(self) -> Ints | None:
        """Return the positions of the keys in ascending order; None where that is their order."""
        if self._order is None and not self._is_ascending:
            # Two threads may both make it; they make the same.
            order = pc.array_sort_indices(self._texts()).to_numpy()
            self._order = order.astype(np.uint32 if len(order) < 1 << 32 else np.uint64)
        return self._order

    def _check_names(self, where: str) -> None:
        """Check keys, those of plain characters all at once.

        Raises:
            FormatError: a key is no relative path.
        """
        data = np.frombuffer(self._data, np.uint8)[: int(self._bounds[-1])]
        lengths = np.diff(self._bounds)
        odd = np.flatnonzero((lengths == 0) | (lengths > _MAX_PLAIN_BYTES))
        places = [np.flatnonzero(~_IS_PLAIN[data])]
        slashes = np.flatnonzero(data == _SLASH)
        if slashes.size:
            # No part is empty where no slash is at an end of a key, nor behind another.
            places.append(slashes[1:][np.diff(slashes) == 1])
            edges = np.concatenate([self._bounds[:-1], self._bounds[1:] - 1])
            places.append(slashes[np.isin(slashes, edges)])
        of = np.searchsorted(self._bounds, np.concatenate(places), side="right") - 1
        for i in np.unique(np.concatenate([odd, of])).tolist():
            try:
                key = self[i]
            except UnicodeDecodeError as err:
                raise FormatError(f"{where}: the key of sample {i} is not text: {err}") from err
            check_member_name(key, f"{where}: sample")
