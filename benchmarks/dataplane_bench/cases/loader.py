"""The loader case: an epoch through our DataLoader, zarr-python and webdataset, cold and warm.

The dataset is generated once and stored three times in an embedded S3 endpoint that runs in a
process of its own: packed (ours), as plain Zarr groups, and as WebDataset tars of `.npy` members.

- *cold*: nothing local. Ceiling: the encoded bytes of the packed dataset as raw ranged GETs by the
  same client, not decoded.
- *warm*: ours from the filled SSD cache, the rivals from full local copies. Ceiling: one memcpy of
  every decoded byte.

Small samples are a part of their own (`loader_small.py`).

Ratios compare samples per second. "From store" counts bytes that the endpoint sent during the run.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dataplane.cache import CacheConfig
from dataplane.datasets import Dataset
from dataplane.loader import DataLoader
from dataplane.shards import CodecName, DatasetWriter, SourceSample, WriteOptions
from dataplane.shards.chunking import inner_chunk_shape
from dataplane.stores import Store, open_store
from dataplane_bench.cases.loader_small import run_small
from dataplane_bench.model import CEILING_PREFIX, OUR_SYSTEM, Case, Cost, Row, System, summarise
from dataplane_bench.rivals.loaders import (
    LoaderInput,
    WebDatasetLoader,
    ZarrLoader,
    consume,
    member_name,
)
from dataplane_bench.rounds import cpu_seconds, run_rounds, start_all, timed
from dataplane_bench.signing import presigned_url
from dataplane_testing.ceilings import GET_THREADS, fetch_everything
from dataplane_testing.generate import generate_samples
from dataplane_testing.s3 import S3Endpoint

__all__ = ["LoaderOptions", "run"]

_BUCKET = "bench"
_WEBDATASET_SHARDS = 4  # at least one per worker process


def _cores() -> int:
    return len(os.sched_getaffinity(0))


@dataclasses.dataclass(frozen=True, slots=True)
class LoaderOptions:
    """Options of the loader case.

    Attributes:
        total_bytes: decoded size of the dataset.
        sample_bytes: approximate size of a sample.
        codec: codec: lz4 or zstd.
        batch_size: samples per batch.
        threads: number of our decode threads.
        workers: numbers of worker processes of the rivals; every one is a row of its own.
        rounds: counted rounds per state; one more warms up.
        seed: seed of the data and of the order of systems.
        parts: `large`, `small` or both; see `loader_small.py` for small samples.
        small_samples: number of them.
    """

    total_bytes: int = 1 << 30
    sample_bytes: int = 32 << 20
    codec: CodecName = "lz4"
    batch_size: int = 2
    threads: int = dataclasses.field(default_factory=_cores)
    workers: tuple[int, ...] = (0, 2)
    rounds: int = 5
    seed: int = 0
    parts: tuple[str, ...] = ("large", "small")
    small_samples: int = 8192


def run(options: LoaderOptions, progress: Callable[[str], None]) -> list[Row]:
    """Generate, store, stream; return the rows of the parts, in all states."""
    rows: list[Row] = []
    if "large" in options.parts:
        rows += _run_large(options, progress)
    if "small" in options.parts:
        rows += run_small(
            options.small_samples,
            threads=min(options.threads, 2),
            rounds=options.rounds,
            seed=options.seed,
            progress=progress,
        )
    return rows


def _run_large(options: LoaderOptions, progress: Callable[[str], None]) -> list[Row]:
    rows: list[Row] = []
    with (
        tempfile.TemporaryDirectory(prefix="dataplane-bench-") as name,
        S3Endpoint(root=Path(name) / "s3", buckets=(_BUCKET,)) as endpoint,
        endpoint.exported(),
    ):
        folder = Path(name)
        progress("generating and storing the dataset")
        given = _prepare(folder, options, endpoint.environment())
        for state in ("cold", "warm"):
            mine = dataclasses.replace(given, cold=state == "cold")
            if not mine.cold:
                mine = dataclasses.replace(
                    mine,
                    zarr_url=str(folder / "zarr"),
                    shard_urls=tuple(str(p) for p in sorted((folder / "wds").iterdir())),
                )
            rows += _compare(mine, state, options, endpoint, progress)
    return rows


def case_of(options: LoaderOptions, samples: int, state: str) -> Case:
    """Return the common fields of all systems in one state of the cache."""
    return Case(
        "loader",
        f"{samples} turbulent volumes float32",
        codec=f"blosc-{options.codec}",
        chunk_bytes=_write_options(options).chunk_bytes,
        selection="whole",
        state=state,
    )


def _write_options(options: LoaderOptions) -> WriteOptions:
    return WriteOptions(codec=options.codec)


def _compare(
    given: LoaderInput,
    state: str,
    options: LoaderOptions,
    endpoint: S3Endpoint,
    progress: Callable[[str], None],
) -> list[Row]:
    case = case_of(options, len(given.keys), state)
    ceiling = f"{CEILING_PREFIX}raw-get" if given.cold else f"{CEILING_PREFIX}memcpy"
    builders: list[tuple[str, int, Callable[[], System]]] = [
        (OUR_SYSTEM, options.threads, functools.partial(OurLoader, given, options.threads))
    ]
    for workers in options.workers:
        builders += [
            (ZarrLoader.name, workers, functools.partial(ZarrLoader, given, workers)),
            (WebDatasetLoader.name, workers, functools.partial(WebDatasetLoader, given, workers)),
        ]
    if given.cold:
        builders.append((ceiling, GET_THREADS, functools.partial(RawGet, given)))
    else:
        builders.append((ceiling, 1, functools.partial(MemcpySamples, given)))
    systems = [_Metered(system, endpoint) for system in start_all(builders, progress)]
    alive, costs = run_rounds(
        systems,
        rounds=options.rounds,
        warmup=1,
        seed=options.seed,
        progress=lambda text: progress(f"{state}: {text}"),
    )
    return summarise(case, alive, costs, ceiling=ceiling)


class OurLoader:
    """`dp.DataLoader` over `dp.Dataset` and the SSD cache."""

    name = OUR_SYSTEM

    def __init__(self, given: LoaderInput, threads: int) -> None:
        os.environ.update(given.environment)
        self.threads = threads
        self._given = given
        self._epoch = 0
        self._loader: DataLoader[Any] | None = None

    def run(self) -> Cost:
        """Read one epoch; cold, with an empty cache and a new dataset, opened inside the time."""
        if self._loader is None or self._given.cold:
            shutil.rmtree(self._given.cache_dir, ignore_errors=True)
            # A directory of its own per run: the process's cache keeps files of the old one open.
            self._epoch += 1
            self._loader = None
            cache_dir = self._given.cache_dir / str(self._epoch)
            cpu, start = cpu_seconds(), time.perf_counter()
            loader = self._open(cache_dir)
            opened_s, opened_cpu_s = time.perf_counter() - start, cpu_seconds() - cpu
            self._loader = loader
        else:
            opened_s = opened_cpu_s = 0.0
            loader = self._loader
        cost = consume(loader, self._given.arrays, len(self._given.keys))
        assert cost.first_batch_s is not None
        return dataclasses.replace(
            cost,
            elapsed_s=cost.elapsed_s + opened_s,
            cpu_s=cost.cpu_s + opened_cpu_s,
            first_batch_s=cost.first_batch_s + opened_s,
        )

    def close(self) -> None:
        """Drop the loader and the cache."""
        self._loader = None
        shutil.rmtree(self._given.cache_dir, ignore_errors=True)

    def _open(self, cache_dir: Path) -> DataLoader[Any]:
        dataset = Dataset(
            self._given.dataset_url,
            arrays=list(self._given.arrays),
            cache=CacheConfig(dir=cache_dir),
        )
        return DataLoader(
            dataset,
            batch_size=self._given.batch_size,
            shuffle=True,
            num_workers=self.threads,
            seed=0,
        )


class RawGet:
    """The cold ceiling: every byte of the packed shards as ranged GETs, thrown away."""

    name = f"{CEILING_PREFIX}raw-get"
    threads = GET_THREADS

    def __init__(self, given: LoaderInput) -> None:
        os.environ.update(given.environment)
        self._given = given
        self._store = open_store(given.dataset_url)

    def run(self) -> Cost:
        """Fetch the whole dataset once."""
        return timed(lambda: fetch_everything(self._store), samples=len(self._given.keys))

    def close(self) -> None:
        """Drop the connections."""
        self._store.close()


class MemcpySamples:
    """The warm ceiling: as many bytes as all samples decode to, copied to reused memory."""

    name = f"{CEILING_PREFIX}memcpy"
    threads = 1

    def __init__(self, given: LoaderInput) -> None:
        self._given = given
        batches = -(-len(given.keys) // given.batch_size)
        self._batches = batches
        self._from = np.ones(given.decoded_bytes // batches, np.uint8)
        self._to = np.empty_like(self._from)

    def run(self) -> Cost:
        """Copy every batch once."""

        def work() -> int:
            for _ in range(self._batches):
                np.copyto(self._to, self._from)
            return self._batches * int(self._to.nbytes)

        return timed(work, samples=len(self._given.keys))

    def close(self) -> None:
        """Nothing stays open."""


class _Metered:
    """A system that adds the bytes that the endpoint sent during a run to the run's cost."""

    def __init__(self, system: System, endpoint: S3Endpoint) -> None:
        self._system = system
        self._endpoint = endpoint

    @property
    def name(self) -> str:
        return self._system.name

    @property
    def threads(self) -> int:
        return self._system.threads

    def run(self) -> Cost:
        self._endpoint.clear_requests()
        cost = self._system.run()
        sent = sum(record.bytes_sent for record in self._endpoint.requests())
        return dataclasses.replace(cost, bytes_fetched=sent)

    def close(self) -> None:
        self._system.close()


def _prepare(folder: Path, options: LoaderOptions, environment: dict[str, str]) -> LoaderInput:
    """Generate the samples once and store them in the three forms."""
    keys: list[str] = []
    names: tuple[str, ...] = ()
    decoded = 0
    tars = [folder / "wds" / f"shard-{i:06d}.tar" for i in range(_WEBDATASET_SHARDS)]
    tars[0].parent.mkdir()
    packed = open_store(f"s3://{_BUCKET}/packed")
    writers = [tarfile.open(path, "w") for path in tars]  # noqa: SIM115 - closed below
    write_options = _write_options(options)
    with DatasetWriter(packed, write_options) as writer:
        for number, sample in enumerate(
            generate_samples(
                options.total_bytes,
                seed=options.seed,
                kinds=("volume",),
                sample_bytes=options.sample_bytes,
            )
        ):
            writer.add(sample)
            _add_to_tar(writers[number % len(writers)], sample)
            _write_zarr(folder / "zarr" / sample.key, sample, write_options)
            keys.append(sample.key)
            names = tuple(sample.arrays)
            decoded += sum(array.values.nbytes for array in sample.arrays.values())
        writer.finish()
    for tar in writers:
        tar.close()
    bucket = open_store(f"s3://{_BUCKET}")
    _upload(bucket, folder / "wds", "wds")
    (folder / "zarr" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    _upload(bucket, folder / "zarr", "zarr")
    return LoaderInput(
        dataset_url=f"s3://{_BUCKET}/packed",
        zarr_url=f"s3://{_BUCKET}/zarr",
        shard_urls=tuple(presigned_url(environment, _BUCKET, f"wds/{path.name}") for path in tars),
        keys=tuple(keys),
        arrays=names,
        decoded_bytes=decoded,
        batch_size=options.batch_size,
        environment=environment,
        cache_dir=folder / "cache",
        cold=True,
    )


def _add_to_tar(tar: tarfile.TarFile, sample: SourceSample) -> None:
    for name, array in sample.arrays.items():
        stream = io.BytesIO()
        np.save(stream, array.values)
        member = tarfile.TarInfo(f"{sample.key}.{member_name(name)}.npy")
        member.size = stream.tell()
        stream.seek(0)
        tar.addfile(member, stream)


def _write_zarr(folder: Path, sample: SourceSample, options: WriteOptions) -> None:
    """Write a sample as zarr-python would, with the chunks and codec that our writer chooses."""
    import zarr
    from zarr.codecs import BloscCodec

    group = zarr.create_group(str(folder), overwrite=True)
    for name, array in sample.arrays.items():
        values = array.values
        chunks = inner_chunk_shape(
            values.shape, values.itemsize, options.chunk_bytes, array.dimension_names
        )
        stored = group.create_array(
            name,
            shape=values.shape,
            dtype=values.dtype,
            chunks=chunks,
            shards=tuple(-(-n // c) * c for n, c in zip(values.shape, chunks, strict=True)),
            compressors=BloscCodec(
                cname="zstd" if options.codec == "zstd" else "lz4",
                clevel=options.effective_level,
                shuffle="shuffle",
                typesize=values.itemsize,
            ),
        )
        stored[...] = values


def _upload(store: Store, folder: Path, prefix: str) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            store.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path)
