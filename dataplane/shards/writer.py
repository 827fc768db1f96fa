"""Writer of a packed dataset: samples into shards, shards to the store as they fill, index last.

`DatasetWriter.add` encodes a sample into an archive of its own (in memory where it is small, or
else in a nameless temporary file), then appends it to the shard under construction, a local tar
file. A shard that the next sample would make too large is closed and uploaded by a background
thread while the next one fills; at most one upload is under way, so local disk use stays below two
shards and one sample per adding thread. `finish` uploads the rest, then the index: until then
nothing at the destination is a dataset, so a writer that is killed leaves none. Its leftovers at
the destination are overwritten or removed by the next writer that finishes; those on the local
disk, by the next one that starts.

Thread-safe: several threads may `add`; samples are numbered as their encoding completes. One lock
guards the shard under construction and is held while a sample is appended, which it serialises.
Encoding happens outside it.
"""

from __future__ import annotations

import io
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import BinaryIO, Self, cast

from dataplane.errors import BucketNotFound, ConfigError, DataplaneError, NotFound
from dataplane.shards.archive import Archive, write_archive
from dataplane.shards.index_schema import INDEX_KEY, SHARD_NAME, IndexBuilder
from dataplane.shards.nonfinite import NonFiniteTally
from dataplane.shards.options import PackSummary, WriteOptions
from dataplane.shards.scratch import ScratchFolder
from dataplane.shards.shard import ShardFile, disk_error
from dataplane.shards.source import SourceSample
from dataplane.stores.base import Store
from dataplane.telemetry import logger

__all__ = ["DatasetWriter"]

_BROKEN = "broken by an earlier failure"
_MEMORY_SPOOL_BYTES = 1 << 20
"""Samples up to this decoded size are encoded into memory, and larger ones into a file."""


class DatasetWriter:
    """A writer of one dataset to the URL of a store; a context manager.

    Leaving the `with` block normally finishes the dataset; leaving it by an exception abandons it.

    Args:
        store: store of the dataset; its URL is the dataset's.
        options: options of the writer.

    Raises:
        ConfigError: a dataset is there already and `options.overwrite` is not set.

    Example:
        >>> with DatasetWriter(store, WriteOptions()) as writer:      # doctest: +SKIP
        ...     writer.add(sample)
        ...     summary = writer.finish()
    """

    def __init__(self, store: Store, options: WriteOptions | None = None) -> None:
        self._store = store
        self._options = options = options or WriteOptions()
        _make_room(store, overwrite=options.overwrite)
        try:
            self._folder = ScratchFolder(options.temp_dir)
        except OSError as err:
            raise disk_error(err, f"to {options.temp_dir or tempfile.gettempdir()}") from err
        self._pool = ThreadPoolExecutor(options.effective_workers, "dp-encode")
        self._uploader = ThreadPoolExecutor(1, "dp-upload")
        self._lock = threading.Lock()
        self._keys: set[str] = set()
        self._array_names: set[str] = set()
        self._nonfinite = NonFiniteTally()
        self._folders: Counter[str] = Counter()
        self._shard: ShardFile | None = None
        self._upload: Future[None] | None = None
        self._shards: list[tuple[str, int]] = []
        self._index = IndexBuilder()
        self._summary = PackSummary()
        self._state = "open"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if exc_type is None and self._state == "open":
                self.finish()
        finally:
            self.abort()

    def add(self, sample: SourceSample, progress: Callable[[int], None] | None = None) -> None:
        """Encode a sample and append it.

        A sample that is refused leaves the dataset as it was, and others can follow.

        Args:
            sample: sample to add.
            progress: function called in this thread while a sample of many chunks is encoded, with
                the decoded bytes that were.

        Raises:
            ConfigError: the key cannot be used or is there already, or the writer is closed.
            FormatError: an array or attribute cannot be stored.
            NoSpace: the local disk is full.
            StoreError: an upload failed.
        """
        sample.check()
        self._reserve(sample.key)
        try:
            with self._spool(sample) as content:
                archive = write_archive(
                    sample, content, self._options, self._pool, progress=progress
                )
                with self._lock:
                    self._check_open()
                    self._append_locked(sample.key, archive, content)
        except BaseException as err:
            self._release(sample.key)
            if isinstance(err, OSError) and not isinstance(err, DataplaneError):
                raise disk_error(err, f"sample {sample.key!r} to {self._folder.path}") from err
            raise

    def finish(self) -> PackSummary:
        """Upload the rest, then the index. Calling it again returns the same summary.

        Raises:
            ConfigError: there are no samples, or the writer was abandoned.
            StoreError: an upload failed; there is no dataset then.
        """
        with self._lock:
            if self._state == "finished":
                return self._summary
            self._check_open()
            if not self._summary.samples:
                raise ConfigError(f"no samples to write to {self._store.url}")
            try:
                self._roll_locked()
                self._wait_for_upload_locked()
                index = self._index.finish(self._shards)
                self._store.put(INDEX_KEY, index)
            except DataplaneError:
                raise
            except OSError as err:
                raise disk_error(err, f"shards to {self._folder.path}") from err
            stored_bytes = sum(size for _, size in self._shards)
            self._summary = replace(
                self._summary,
                stored_bytes=stored_bytes,
                shards=len(self._shards),
                nonfinite=self._nonfinite.found(),
                unused_patterns=self._unused_patterns(),
            )
            self._state = "finished"
        self._remove_leftovers()
        return self._summary

    def abort(self) -> None:
        """Give up an unfinished dataset and remove temporary files. Idempotent.

        Shards of an unfinished dataset are removed from the store where it lets us.
        """
        with self._lock:
            if self._state == "closed":
                return
            unfinished = self._state != "finished"
            self._state = "closed"
            self._pool.shutdown(cancel_futures=True)
            self._uploader.shutdown(cancel_futures=True)
            if self._shard is not None:
                self._shard.discard()
                self._shard = None
            self._folder.close()
        if unfinished:
            for key, _ in self._shards:
                self._delete_quietly(key)

    def _check_open(self) -> None:
        if self._state != "open":
            raise ConfigError(f"the writer of {self._store.url} is {self._state}")

    def _reserve(self, key: str) -> None:
        """Take a key; keys must be distinct, and none may be the folder of another."""
        parents = _folders_of(key)
        with self._lock:
            self._check_open()
            if key in self._keys:
                raise ConfigError(
                    f"sample {key!r} is in the dataset already", hint="give each sample its own key"
                )
            above = next((parent for parent in parents if parent in self._keys), None)
            clash = key if self._folders[key] else above
            if clash:
                raise ConfigError(
                    f"sample {key!r} cannot be added: {clash!r} would be a sample and a folder"
                )
            self._keys.add(key)
            self._folders.update(parents)

    def _release(self, key: str) -> None:
        with self._lock:
            self._keys.discard(key)
            self._folders.subtract(_folders_of(key))

    def _spool(self, sample: SourceSample) -> BinaryIO:
        if sum(array.values.nbytes for array in sample.arrays.values()) <= _MEMORY_SPOOL_BYTES:
            return io.BytesIO()
        # Nameless from the start, so that nothing is left of it when the process is killed.
        return cast(BinaryIO, tempfile.TemporaryFile(dir=self._folder.path))

    def _append_locked(self, key: str, archive: Archive, content: BinaryIO) -> None:
        shard = self._shard
        if shard is not None and shard.size_with(key, archive) > self._options.shard_bytes:
            self._roll_locked()
            shard = None
        if shard is None:
            name = f"shard-{len(self._shards):06d}.tar"
            shard = self._shard = ShardFile(name, self._folder.path / name)
        entry = shard.append(key, archive, content)
        self._index.add(entry)
        self._array_names.update(array.name for array in archive.arrays)
        for array in archive.arrays:
            self._nonfinite.add(array, key)
        summary = self._summary
        self._summary = replace(
            summary,
            samples=summary.samples + 1,
            arrays=len(self._array_names),
            source_bytes=summary.source_bytes + archive.source_bytes,
            decoded_bytes=summary.decoded_bytes
            + sum(array.meta.nbytes for array in archive.arrays),
        )

    def _roll_locked(self) -> None:
        """Close the shard under construction and start its upload."""
        shard, self._shard = self._shard, None
        if shard is None:
            return
        try:
            size = shard.finish()
            self._wait_for_upload_locked()
        except BaseException:
            # The index refers to this shard already: no dataset can come of it any more.
            self._state = _BROKEN
            raise
        self._shards.append((shard.key, size))
        self._upload = self._uploader.submit(self._put, shard)

    def _put(self, shard: ShardFile) -> None:
        try:
            self._store.put(shard.key, shard.path)
        finally:
            shard.discard()

    def _wait_for_upload_locked(self) -> None:
        upload, self._upload = self._upload, None
        if upload is not None:
            try:
                upload.result()
            except BaseException:
                self._state = _BROKEN
                raise

    def _unused_patterns(self) -> tuple[str, ...]:
        """Return the patterns of the options that held for no array, which may be misspelt."""
        used = {self._options.rounding_of(name)[0] for name in self._array_names}
        return tuple(dict.fromkeys(it for it, _ in self._options.round_arrays if it not in used))

    def _remove_leftovers(self) -> None:
        """Remove shards that an earlier writer left and that this dataset does not have."""
        ours = {key for key, _ in self._shards}
        try:
            found = [info.key for info in self._store.list("shard-")]
        except DataplaneError as err:
            logger.warning("cannot look for leftover shards in %s: %s", self._store.url, err)
            return
        for key in found:
            if key not in ours and SHARD_NAME.fullmatch(key):
                self._delete_quietly(key)

    def _delete_quietly(self, key: str) -> None:
        try:
            self._store.delete(key)
        except BucketNotFound:
            pass  # nothing is left where there is no bucket
        except DataplaneError as err:
            logger.warning("cannot remove %s from %s: %s", key, self._store.url, err)


def _folders_of(key: str) -> list[str]:
    return [key[:cut] for cut in range(len(key)) if key[cut] == "/"]


def _make_room(store: Store, *, overwrite: bool) -> None:
    """Refuse to write over a dataset, or stop the old one from being one."""
    try:
        store.head(INDEX_KEY)
    except BucketNotFound:
        raise  # before anything is packed, and not at the first shard
    except NotFound:
        return
    if not overwrite:
        raise ConfigError(
            f"{store.url} holds a dataset already",
            hint="choose another URL, or replace it: --overwrite, WriteOptions(overwrite=True)",
        )
    # First the index: its chunk tables must not point into shards that are being replaced.
    store.delete(INDEX_KEY)
