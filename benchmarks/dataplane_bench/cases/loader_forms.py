"""The forms that the dataset of a loader case is stored in, each as its own library writes it.

Samples are written once to flat arrays `[N, ...]`, and every form is made from those: packed (ours)
and packed uncompressed in the store; the others in a folder each, which is put into the store too.
A form that needs a package is written in a process of its own; where that is not installed, the
form is left out, and with it the loaders that read it.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane.errors import ConfigError
from dataplane.shards import CodecName, DatasetWriter, SourceArray, SourceSample, WriteOptions
from dataplane.shards.chunking import inner_chunk_shape
from dataplane.stores import open_store
from dataplane.units import format_bytes
from dataplane_bench.cases.loader_table import LoaderCase, make_samples
from dataplane_bench.isolated import Isolated, RivalFailed
from dataplane_bench.model import Cost, LeftOut
from dataplane_bench.rivals.loader_litdata import write_litdata
from dataplane_bench.rivals.loader_mosaicml import write_mds
from dataplane_bench.rivals.loader_webdataset import member_name
from dataplane_bench.rivals.loaders import LoaderInput, digest_of
from dataplane_bench.rounds import first_line, timed
from dataplane_bench.signing import presigned_url
from dataplane_testing.s3 import S3Endpoint

__all__ = ["FORM_OF", "Stored", "store_forms"]

_TAR_SHARDS = 4  # at least one per worker process
_COPIES = 18  # of the decoded bytes, for all forms in folder, store and caches
_SMALL_SAMPLE_BYTES = 1 << 20
_SHARD_BYTES = 32 << 20

FORM_OF = {
    "zarr-python": "zarr",
    "tensorstore": "zarr",
    "webdataset": "tar",
    "litdata": "litdata",
    "mosaicml-streaming": "mds",
}
"""The form that a rival reads."""

Flat = Mapping[str, npt.NDArray[np.float32]]


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
    """A dataset in its forms.

    Attributes:
        given: what loaders are told of it, cold.
        missing: forms that could not be written, and why.
    """

    given: LoaderInput
    missing: Mapping[str, str]

    def left_out(self, rival: str) -> LeftOut | None:
        """Return why a rival has nothing to read; None if it has."""
        reason = self.missing.get(FORM_OF[rival])
        return None if reason is None else LeftOut(rival, reason)


def store_forms(
    folder: Path,
    case: LoaderCase,
    samples: int,
    *,
    codec: CodecName,
    seed: int,
    batch_size: int,
    endpoint: S3Endpoint,
    bucket: str,
    forms: Sequence[str],
    progress: Callable[[str], None],
) -> Stored:
    """Generate the samples of a case and store them in every form.

    Args:
        folder: empty folder.
        case: case.
        samples: number of samples.
        codec: codec of the compressed forms.
        seed: seed of the data.
        batch_size: samples per batch.
        endpoint: endpoint to store them in; the environment leads there.
        bucket: bucket, which may hold other cases.
        forms: forms of rivals to write.
        progress: function that is told what is done.

    Raises:
        ConfigError: the disk has no room.
    """
    _check_room(folder, samples * case.sample_bytes)
    progress(f"{case.name}: generating samples")
    flat, digest = _write_flat(folder / "flat", case, samples, seed)
    # A run is a uniform sample of points that were permuted, and refused of others.
    permute_seed = seed if case.cut is not None and case.cut[0] == "run" else None
    for name, ours in (("packed", codec), ("packed-raw", "none")):
        progress(f"{case.name}: packing ({ours})")
        options = WriteOptions(codec=ours, permute_seed=permute_seed)
        _write_packed(f"s3://{bucket}/{case.name}/{name}", case, flat, options)
    del flat
    missing: dict[str, str] = {}
    local = folder / "forms"
    local.mkdir()
    for form in forms:
        progress(f"{case.name}: writing {form}")
        build = functools.partial(FormWriter, form, folder / "flat", local, case, codec)
        try:
            writer = Isolated(f"the writer of {form}", 1, build)
        except RivalFailed as err:
            missing[form] = first_line(err)
            continue
        try:
            writer.run()
        except RivalFailed as err:
            missing[form] = first_line(err)
        finally:
            writer.close()
    shutil.rmtree(folder / "flat")
    progress(f"{case.name}: storing")
    for path in sorted(local.rglob("*")):
        if path.is_file():
            endpoint.put(bucket, f"{case.name}/{path.relative_to(local).as_posix()}", path)
    environment = endpoint.environment()
    tars = sorted((local / "tar").glob("*.tar"))
    temporary = folder / "t"
    temporary.mkdir()
    given = LoaderInput(
        local=local,
        remote=f"s3://{bucket}/{case.name}",
        shapes=case.shapes,
        samples=samples,
        batch_size=batch_size,
        cut=case.cut,
        digest=digest if case.cut is None else None,
        shard_urls=tuple(
            presigned_url(environment, bucket, f"{case.name}/tar/{path.name}") for path in tars
        ),
        # What a library leaves in the folder of temporary files goes with the rest.
        environment=environment | {"TMPDIR": str(temporary)},
        scratch=folder / "scratch",
        cold=True,
        seed=seed,
    )
    return Stored(given, missing)


class FormWriter:
    """A `System` whose run writes one form of the dataset.

    Raises:
        ModuleNotFoundError: the package of the form is not installed.
    """

    threads = 1

    def __init__(
        self, form: str, flat: Path, local: Path, case: LoaderCase, codec: CodecName
    ) -> None:
        self.name = f"the writer of {form}"
        self._case, self._local, self._codec = case, local, codec
        self._write = _WRITERS[form]
        self._flat = {name: np.load(_flat_path(flat, name), mmap_mode="r") for name in case.shapes}

    def run(self) -> Cost:
        """Write it."""

        def work() -> int:
            self._write(self._local, self._case, self._flat, self._codec)
            return sum(values.nbytes for values in self._flat.values())

        return timed(work, samples=1)

    def close(self) -> None:
        """Nothing stays open."""


def _check_room(folder: Path, decoded_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < _COPIES * decoded_bytes:
        raise ConfigError(
            f"all forms of {format_bytes(decoded_bytes)} of samples need about "
            f"{format_bytes(_COPIES * decoded_bytes)}; {folder} has {format_bytes(free_bytes)}",
            hint="choose a smaller --size, or set TMPDIR to a larger disk",
        )


def _flat_path(folder: Path, name: str) -> Path:
    return folder / f"{member_name(name)}.npy"


def _write_flat(folder: Path, case: LoaderCase, samples: int, seed: int) -> tuple[Flat, int]:
    """Write every array of all samples as one; returns them, and the digest of an epoch."""
    folder.mkdir()
    flat: dict[str, npt.NDArray[np.float32]] = {
        name: np.lib.format.open_memmap(
            _flat_path(folder, name), mode="w+", dtype=np.float32, shape=(samples, *shape)
        )
        for name, shape in case.shapes.items()
    }
    digest = 0
    for number, sample in enumerate(make_samples(case, samples, seed)):
        for name, values in flat.items():
            values[number] = sample.arrays[name].values
            digest += digest_of(values[number : number + 1])
    return flat, digest


def _samples(flat: Flat) -> Iterator[dict[str, npt.NDArray[np.float32]]]:
    for number in range(len(next(iter(flat.values())))):
        yield {name: np.ascontiguousarray(values[number]) for name, values in flat.items()}


def _write_packed(url: str, case: LoaderCase, flat: Flat, options: WriteOptions) -> None:
    names = case.dimension_names
    store = open_store(url)
    try:
        with DatasetWriter(store, options) as writer:
            for number, sample in enumerate(_samples(flat)):
                arrays = {
                    name: SourceArray(values, names[name], None, {})
                    for name, values in sample.items()
                }
                writer.add(SourceSample(key=f"{number:06d}", arrays=arrays, attributes={}))
            writer.finish()
    finally:
        store.close()


def _write_tar(local: Path, case: LoaderCase, flat: Flat, codec: CodecName) -> None:
    del case, codec
    folder = local / "tar"
    folder.mkdir()
    writers = [tarfile.open(folder / f"shard-{i:06d}.tar", "w") for i in range(_TAR_SHARDS)]  # noqa: SIM115 - closed below
    for number, sample in enumerate(_samples(flat)):
        for name, values in sample.items():
            stream = io.BytesIO()
            np.save(stream, values)
            member = tarfile.TarInfo(f"{number:06d}.{member_name(name)}.npy")
            member.size = stream.tell()
            stream.seek(0)
            writers[number % _TAR_SHARDS].addfile(member, stream)
    for writer in writers:
        writer.close()


def _write_zarr(local: Path, case: LoaderCase, flat: Flat, codec: CodecName) -> None:
    """Write arrays `[N, ...]` twice: with our chunks and codec, and uncompressed."""
    import zarr
    from zarr.codecs import BloscCodec

    options = WriteOptions(codec=codec)
    for form in ("zarr", "zarr-raw"):
        group: Any = zarr.create_group(str(local / form), overwrite=True)
        for name, values in flat.items():
            shape = case.shapes[name]
            chunks = inner_chunk_shape(
                shape, values.itemsize, options.chunk_bytes, case.dimension_names[name]
            )
            if form == "zarr-raw" and case.cut is None:
                chunks = shape  # nothing is decoded, and all of it is read
            whole = tuple(-(-n // c) * c for n, c in zip(shape, chunks, strict=True))
            per_shard = _samples_per_shard(case)
            stored = group.create_array(
                name,
                shape=values.shape,
                dtype=values.dtype,
                chunks=(1, *chunks),
                shards=(per_shard, *whole) if (per_shard, whole) != (1, chunks) else None,
                compressors=None if form == "zarr-raw" else _blosc(BloscCodec, options),
            )
            for first in range(0, len(values), per_shard):
                stored[first : first + per_shard] = values[first : first + per_shard]


def _samples_per_shard(case: LoaderCase) -> int:
    """Return the number of samples of an object: small ones share it."""
    if case.sample_bytes >= _SMALL_SAMPLE_BYTES:
        return 1
    return max(1, _SHARD_BYTES // case.sample_bytes)


def _blosc(codec: Any, options: WriteOptions) -> Any:
    return codec(
        cname="zstd" if options.codec == "zstd" else "lz4",
        clevel=options.effective_level,
        shuffle="shuffle",
        typesize=4,
    )


def _write_litdata(local: Path, case: LoaderCase, flat: Flat, codec: CodecName) -> None:
    del case, codec
    write_litdata(local / "litdata", _samples(flat))


def _write_mds(local: Path, case: LoaderCase, flat: Flat, codec: CodecName) -> None:
    del codec
    write_mds(local / "mds", _samples(flat), case.shapes)


_WRITERS: dict[str, Callable[[Path, LoaderCase, Flat, CodecName], None]] = {
    "tar": _write_tar,
    "zarr": _write_zarr,
    "litdata": _write_litdata,
    "mds": _write_mds,
}
