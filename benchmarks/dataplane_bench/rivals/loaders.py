"""Training loaders that are not ours, over the same samples, from the same store or local copy.

- `ZarrSamples` in the stock DataLoader: each sample is a Zarr v3 group with the same chunks and
  codec as ours; cold it is read from the store by zarr-python through obstore (faster than s3fs),
  warm from a full local copy, which is the best a cache could do for it.
- `WebDataset`: tar shards of `.npy` members; cold they stream through curl from presigned URLs, and
  warm they are local files.

Both deliver dictionaries of stacked tensors in shuffled order. Worker processes are forked before
anything is opened and stay alive between epochs, as the documentation of both advises.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.utils.data

from dataplane_bench.model import Cost
from dataplane_bench.rounds import cpu_seconds

__all__ = ["LoaderInput", "WebDatasetLoader", "ZarrLoader", "consume"]


@dataclasses.dataclass(frozen=True, slots=True)
class LoaderInput:
    """One dataset in every form that the contenders need.

    Attributes:
        dataset_url: URL of our packed dataset.
        zarr_url: prefix of the Zarr groups; a local folder when warm.
        shard_urls: URLs of the WebDataset shards, presigned; local files when warm.
        keys: sample keys.
        arrays: array names, all of one shape across samples.
        decoded_bytes: decoded size of all samples.
        batch_size: samples per batch.
        environment: variables that hold endpoint and credentials.
        cache_dir: folder of our cache.
        cold: whether every run starts without local data.
    """

    dataset_url: str
    zarr_url: str
    shard_urls: tuple[str, ...]
    keys: tuple[str, ...]
    arrays: tuple[str, ...]
    decoded_bytes: int
    batch_size: int
    environment: Mapping[str, str]
    cache_dir: Path
    cold: bool


def consume(batches: Iterable[Mapping[str, Any]], arrays: Sequence[str], samples: int) -> Cost:
    """Read one epoch, touching every tensor's last element so that none can be lazy.

    Raises:
        RuntimeError: the epoch did not hold `samples` samples.
    """
    cpu, start = cpu_seconds(), time.perf_counter()
    first_s: float | None = None
    nbytes = count = 0
    for batch in batches:
        for name in arrays:
            tensor = batch[name]
            float(tensor.reshape(-1)[-1])
            nbytes += tensor.numel() * tensor.element_size()
        count += len(batch[arrays[0]])
        if first_s is None:
            first_s = time.perf_counter() - start
    elapsed_s = time.perf_counter() - start
    if count != samples:
        raise RuntimeError(f"an epoch held {count} samples instead of {samples}")
    return Cost(elapsed_s, cpu_seconds() - cpu, nbytes, samples, first_batch_s=first_s)


class ZarrSamples(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Samples as Zarr groups; opened lazily in the process that reads them."""

    def __init__(self, given: LoaderInput) -> None:
        self._given = given
        self._root: Any = None
        self._arrays: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self._given.keys)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        key = self._given.keys[index]
        return {
            name: torch.from_numpy(np.asarray(self._array(f"{key}/{name}")[...]))
            for name in self._given.arrays
        }

    def _array(self, path: str) -> Any:
        import zarr

        if self._root is None:
            self._root = zarr.open_group(self._store(), mode="r")
        if path not in self._arrays:
            self._arrays[path] = self._root[path]
        return self._arrays[path]

    def _store(self) -> Any:
        if not self._given.cold:
            return self._given.zarr_url
        import obstore.store
        from zarr.storage import ObjectStore

        store = obstore.store.S3Store.from_url(
            self._given.zarr_url, client_options={"allow_http": True}
        )
        return ObjectStore(store, read_only=True)


class ZarrLoader:
    """The stock DataLoader over `ZarrSamples`."""

    name = "zarr-python + DataLoader"

    def __init__(self, given: LoaderInput, threads: int) -> None:
        os.environ.update(given.environment)
        self.threads = threads
        self._given = given
        self._loader: torch.utils.data.DataLoader[Any] = torch.utils.data.DataLoader(
            ZarrSamples(given),
            batch_size=given.batch_size,
            shuffle=True,
            num_workers=threads,
            persistent_workers=threads > 0,
            multiprocessing_context="fork" if threads else None,
            generator=torch.Generator().manual_seed(0),
        )

    def run(self) -> Cost:
        """Read one epoch."""
        return consume(self._loader, self._given.arrays, len(self._given.keys))

    def close(self) -> None:
        """Stop the workers."""
        del self._loader


class WebDatasetLoader:
    """webdataset's loader over tar shards of `.npy` members."""

    name = "webdataset"

    def __init__(self, given: LoaderInput, threads: int) -> None:
        os.environ.update(given.environment)
        import webdataset

        self.threads = threads
        self._given = given
        dataset = (
            webdataset.WebDataset(
                list(given.shard_urls),
                shardshuffle=len(given.shard_urls),
                seed=0,
                empty_check=False,
            )
            .shuffle(16)
            .decode()
            .map(self._tensors)
            .batched(given.batch_size, collation_fn=torch.utils.data.default_collate)
        )
        self._loader: Any = webdataset.WebLoader(
            dataset, batch_size=None, num_workers=threads, persistent_workers=threads > 0
        )

    def run(self) -> Cost:
        """Read one epoch."""
        return consume(self._batches(), self._given.arrays, len(self._given.keys))

    def close(self) -> None:
        """Stop the workers."""
        del self._loader

    def _batches(self) -> Iterator[Mapping[str, Any]]:
        yield from self._loader

    def _tensors(self, sample: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        return {
            name: torch.from_numpy(sample[f"{member_name(name)}.npy"])
            for name in self._given.arrays
        }


def member_name(array: str) -> str:
    """Name of an array's tar member: WebDataset knows no folders inside a sample."""
    return array.replace("/", "_")
