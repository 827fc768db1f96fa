"""One shard while it is built: a local tar file that samples are appended to.

Each sample is two members: `KEY.json`, its attributes, and `KEY.zarr.zip`, its archive. The archive
must start at a page boundary of the object. Tar members start at multiples of 512, so the JSON
before it is padded with spaces, which every JSON reader ignores: that needs nothing of tar, where a
PAX comment header or a padding member would be one more thing for a reader to trip over.

Not thread-safe; the writer serialises.
"""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dataplane.errors import ConfigError, DataplaneError, NoSpace
from dataplane.shards.archive import PAGE_BYTES, Archive
from dataplane.shards.model import MISSING_CHUNK, ArrayEntry, SampleEntry
from dataplane.shards.tar import BLOCK_BYTES, TarWriter, member_overhead_bytes

__all__ = ["ShardFile", "disk_error"]


@dataclass(frozen=True, slots=True)
class _Placement:
    json_bytes: int
    end: int


class ShardFile:
    """A shard that is being written to a local file."""

    def __init__(self, key: str, path: Path) -> None:
        self.key = key
        self.path = path
        self.samples = 0
        self._stream: BinaryIO = path.open("wb")
        self._tar = TarWriter(self._stream)

    def size_with(self, key: str, archive: Archive) -> int:
        """Return the size of the shard if a sample were added and it were closed."""
        return self._place(key, _attributes_json(archive.attributes), archive).end + 2 * BLOCK_BYTES

    def append(self, key: str, archive: Archive, content: BinaryIO) -> SampleEntry:
        """Append a sample; the shard is as before when that fails.

        Args:
            key: key of the sample.
            archive: description of the archive in `content`.
            content: stream of the archive, read from its start.

        Returns:
            The sample with offsets that are absolute in the shard.
        """
        before = self._tar.position
        text = _attributes_json(archive.attributes)
        padding = self._place(key, text, archive).json_bytes - len(text)
        try:
            self._tar.add(f"{key}.json", text + b" " * (padding - 1) + b"\n" if padding else text)
            start = self._tar.begin(f"{key}.zarr.zip", archive.size_bytes)
            self._stream.flush()
            _copy(content, self._stream, archive.size_bytes)
            self._tar.end(start, archive.size_bytes)
            self._stream.flush()
        except BaseException:
            self._rewind(before)
            raise
        self.samples += 1
        return SampleEntry(
            key=key,
            attributes=archive.attributes,
            arrays={array.name: _placed(array, self.key, start) for array in archive.arrays},
            shard=self.key,
            zip_start=start,
            zip_stop=start + archive.size_bytes,
        )

    def finish(self) -> int:
        """Write the end of the archive and close the file.

        Returns:
            The size of the shard.
        """
        size = self._tar.finish()
        self._stream.close()
        return size

    def discard(self) -> None:
        """Close and remove the file. Idempotent."""
        try:
            self._stream.close()
        finally:
            self.path.unlink(missing_ok=True)

    def _place(self, key: str, text: bytes, archive: Archive) -> _Placement:
        json_start = self._tar.position + member_overhead_bytes(f"{key}.json", len(text))
        overhead = member_overhead_bytes(f"{key}.zarr.zip", archive.size_bytes)
        json_stop = json_start + len(text)
        zip_start = json_stop + overhead + -(json_stop + overhead) % PAGE_BYTES
        end = zip_start + archive.size_bytes + -archive.size_bytes % BLOCK_BYTES
        return _Placement(zip_start - overhead - json_start, end)

    def _rewind(self, position: int) -> None:
        """Forget everything after `position`, buffered bytes that could not be written included."""
        with suppress(OSError):
            self._stream.close()
        self._stream = self.path.open("r+b")
        self._stream.truncate(position)
        self._stream.seek(position)
        self._tar = TarWriter(self._stream, position)


def disk_error(err: OSError, what: str) -> DataplaneError:
    """Turn a failure of the local disk into one of our errors."""
    if err.errno in {errno.ENOSPC, errno.EDQUOT}:
        return NoSpace(
            f"the disk is full while writing {what}",
            hint="free some, or name another folder with TMPDIR",
        )
    return ConfigError(f"cannot write {what}: {err.strerror or err}")


def _attributes_json(attributes: Mapping[str, Any]) -> bytes:
    return json.dumps(attributes, ensure_ascii=False, allow_nan=False).encode()


def _copy(source: BinaryIO, destination: BinaryIO, size: int) -> None:
    """Append a file of `size` bytes to another, within the kernel where it can."""
    if isinstance(source, io.BytesIO):
        destination.write(source.getbuffer())
        return
    source.flush()
    copied = 0
    out = destination.fileno()
    try:
        while copied < size:
            count = os.sendfile(out, source.fileno(), copied, size - copied)
            if count == 0:
                raise OSError(errno.EIO, "the archive is shorter than it was written")
            copied += count
        destination.seek(0, os.SEEK_END)
    except OSError as err:
        if copied or err.errno not in {errno.EINVAL, errno.ENOSYS, errno.EXDEV}:
            raise
        source.seek(0)
        shutil.copyfileobj(source, destination, 1 << 20)


def _placed(array: ArrayEntry, shard: str, zip_start: int) -> ArrayEntry:
    """Make the offsets of an entry absolute."""
    offsets = array.chunk_offsets.copy()
    offsets[offsets != MISSING_CHUNK] += np.uint64(zip_start)
    return replace(
        array,
        shard=shard,
        start=array.start + zip_start,
        stop=array.stop + zip_start,
        chunk_offsets=offsets,
    )
