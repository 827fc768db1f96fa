"""Zarr v3 arrays `[N, ...]` in torch's DataLoader, read by zarr-python or by tensorstore.

Samples lie along the first dimension, one per shard or chunk, so that a batch is one request to the
library, which reads its samples at once: the best form of such a dataset. It is there with our
chunks and codec and uncompressed; a part of a sample is read as a region, not cut from the whole.

- zarr-python reads the store through obstore (faster than s3fs), and a local copy directly.
- tensorstore reads with threads of its own. Without worker processes the batches ahead of the one
  that is computed are asked for already, as its futures allow.

Worker processes are forked before a library has started a thread, and open what they read.
"""

from __future__ import annotations

import functools
import operator
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.utils.data

from dataplane_bench.rivals.loaders import Batch, LoaderInput, Settings, draw_box

__all__ = ["TensorStoreLoader", "ZarrLoader"]

_BATCHES_AHEAD = 2  # as torch's DataLoader has per worker


class _Batches(torch.utils.data.Dataset[Batch]):
    """Whole batches of a reader, which is made in the process that reads."""

    def __init__(self, reader: Any, given: LoaderInput, settings: Settings) -> None:
        self._reader, self._given, self._settings = reader, given, settings
        self._opened: Any = None

    def __len__(self) -> int:
        return self._given.samples

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        if self._opened is None:
            self._opened = self._reader(self._given, self._settings)
        return _finished(self._opened.start(indices))


def _finished(started: Mapping[str, Any]) -> Batch:
    return {name: torch.from_numpy(np.asarray(one())) for name, one in started.items()}


def _stacked(parts: Sequence[Callable[[], Any]]) -> Any:
    return np.stack([part() for part in parts])


def _as_it_is(batch: Any) -> Any:
    return batch


def _torch_loader(
    dataset: _Batches, given: LoaderInput, workers: int
) -> torch.utils.data.DataLoader[Batch]:
    return torch.utils.data.DataLoader(
        dataset,
        batch_size=given.batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context="fork" if workers else None,
        generator=torch.Generator().manual_seed(given.seed),
        collate_fn=_as_it_is,
    )


class ZarrLoader:
    """torch's DataLoader over zarr-python."""

    name = "zarr-python"
    SETTINGS: ClassVar[dict[str, Settings]] = {
        "compressed": {"form": "zarr", "concurrency": 10},
        "raw": {"form": "zarr-raw", "concurrency": 10},
        "raw, 64 at once": {"form": "zarr-raw", "concurrency": 64},
    }

    def __init__(
        self, given: LoaderInput, workers: int, settings: Settings, scratch: object
    ) -> None:
        del scratch  # it keeps nothing
        self._loader: Any = _torch_loader(_Batches(_ZarrReader, given, settings), given, workers)

    @staticmethod
    def load() -> None:
        """Import zarr-python."""
        import zarr.storage  # noqa: F401

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._loader)

    def close(self) -> None:
        """Stop the workers."""
        self._loader = None


class _ZarrReader:
    """Arrays opened by zarr-python."""

    def __init__(self, given: LoaderInput, settings: Settings) -> None:
        import zarr

        zarr.config.set({"async.concurrency": settings["concurrency"]})
        self._given = given
        self._rng = np.random.default_rng([given.seed, os.getpid()])
        root: Any = zarr.open_group(self._store(settings["form"]), mode="r")
        self._arrays = {name: root[name] for name in given.shapes}

    def _store(self, form: str) -> Any:
        url = self._given.url(form)
        if not self._given.cold:
            return url
        import obstore.store
        from zarr.storage import ObjectStore

        store = obstore.store.S3Store.from_url(url, client_options={"allow_http": True})
        return ObjectStore(store, read_only=True)

    def start(self, indices: Sequence[int]) -> dict[str, Any]:
        """Return a function per array that reads its part of the batch."""
        if self._given.cut is None:
            chosen = np.asarray(indices)
            return {
                name: functools.partial(operator.getitem, array.oindex, chosen)
                for name, array in self._arrays.items()
            }
        first = next(iter(self._given.shapes.values()))
        boxes = [(index, *draw_box(first, self._given.cut, self._rng)) for index in indices]
        return {
            name: functools.partial(
                _stacked, [functools.partial(operator.getitem, array, box) for box in boxes]
            )
            for name, array in self._arrays.items()
        }


class TensorStoreLoader:
    """tensorstore, in torch's DataLoader where it has workers."""

    name = "tensorstore"
    SETTINGS: ClassVar[dict[str, Settings]] = {
        "compressed": {"form": "zarr"},
        "raw": {"form": "zarr-raw"},
    }

    def __init__(
        self, given: LoaderInput, workers: int, settings: Settings, scratch: object
    ) -> None:
        del scratch  # it keeps nothing
        self._given = given
        self._order = torch.Generator().manual_seed(given.seed)
        self._reader = None if workers else _TensorStoreReader(given, settings)
        dataset = _Batches(_TensorStoreReader, given, settings)
        self._loader: Any = _torch_loader(dataset, given, workers) if workers else None

    @staticmethod
    def load() -> None:
        """Import tensorstore."""
        import tensorstore  # noqa: F401

    def __iter__(self) -> Iterator[Batch]:
        return self._ahead(self._reader) if self._reader is not None else iter(self._loader)

    def close(self) -> None:
        """Stop the workers."""
        self._loader = self._reader = None

    def _ahead(self, reader: _TensorStoreReader) -> Iterator[Batch]:
        order = torch.randperm(self._given.samples, generator=self._order).tolist()
        size = self._given.batch_size
        started: deque[dict[str, Any]] = deque()
        for first in range(0, len(order), size):
            started.append(reader.start(order[first : first + size]))
            if len(started) > _BATCHES_AHEAD:
                yield _finished(started.popleft())
        while started:
            yield _finished(started.popleft())


class _TensorStoreReader:
    """Arrays opened by tensorstore."""

    def __init__(self, given: LoaderInput, settings: Settings) -> None:
        import tensorstore

        self._tensorstore: Any = tensorstore
        self._given = given
        self._rng = np.random.default_rng([given.seed, os.getpid()])
        context = tensorstore.Context({"cache_pool": {"total_bytes_limit": 0}})
        opened = {
            name: tensorstore.open(
                {"driver": "zarr3", "kvstore": self._kvstore(f"{settings['form']}/{name}/")},
                context=context,
                open=True,
                read=True,
            )
            for name in given.shapes
        }
        self._arrays: dict[str, Any] = {name: one.result() for name, one in opened.items()}

    def _kvstore(self, path: str) -> dict[str, Any]:
        if not self._given.cold:
            return {"driver": "file", "path": str(self._given.local / path)}
        bucket, _, prefix = self._given.remote.removeprefix("s3://").partition("/")
        return {
            "driver": "s3",
            "bucket": bucket,
            "path": f"{prefix}/{path}",
            "endpoint": os.environ["AWS_ENDPOINT_URL"],
            "aws_region": os.environ["AWS_REGION"],
            "aws_credentials": {"type": "environment"},
        }

    def start(self, indices: Sequence[int]) -> dict[str, Any]:
        """Begin to read a batch; returns a function per array that waits for its part."""
        if self._given.cut is None:
            reads = {name: array[list(indices)].read() for name, array in self._arrays.items()}
            return {name: read.result for name, read in reads.items()}
        first = next(iter(self._given.shapes.values()))
        boxes = [(index, *draw_box(first, self._given.cut, self._rng)) for index in indices]
        parts = {name: [array[box].read() for box in boxes] for name, array in self._arrays.items()}
        return {
            name: functools.partial(_stacked, [part.result for part in of])
            for name, of in parts.items()
        }
