"""Packed datasets are read by other programs, with none of this project's code in between."""

from __future__ import annotations

import gc
import io
import json
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dataplane.shards import SourceArray, SourceSample, WriteOptions
from dataplane.shards.archive import write_archive
from dataplane.stores import Store

zarr = pytest.importorskip("zarr")
tensorstore = pytest.importorskip("tensorstore")

CODECS = ["lz4", "zstd", "none"]


def extract(folder: Path, out: Path) -> dict[str, Path]:
    """Take the archives out of the shards with the standard library's tarfile."""
    found = {}
    for shard in sorted(folder.glob("shard-*.tar")):
        with tarfile.open(shard) as archive:
            archive.extractall(out, filter="data")
            found |= {
                name.removesuffix(".zarr.zip"): out / name
                for name in archive.getnames()
                if name.endswith(".zarr.zip")
            }
    return found


def read_with_tensorstore(path: Path, name: str) -> np.ndarray:
    base = {"driver": "file", "path": str(path)}
    spec = {"driver": "zarr3", "kvstore": {"driver": "zip", "base": base, "path": f"{name}/"}}
    return tensorstore.open(spec, open=True, read=True).result().read().result()


@pytest.mark.parametrize("codec", CODECS)
def test_zipfile_and_zarr_python_read_what_was_packed(
    codec: str,
    samples: list[SourceSample],
    pack: Callable[..., Store],
    folder: Path,
    tmp_path: Path,
) -> None:
    pack(*samples, codec=codec)
    paths = extract(folder, tmp_path / "out")
    assert sorted(paths) == sorted(sample.key for sample in samples)
    for sample in samples:
        with zipfile.ZipFile(paths[sample.key]) as archive:
            assert archive.testzip() is None
            assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
        with zarr.storage.ZipStore(paths[sample.key], mode="r") as zip_store:
            group = zarr.open_group(zip_store, mode="r")
            assert group.attrs["name"] == "Flügel"
            assert group.attrs["bad"] == "NaN"
            assert group["points"].attrs["units"] == "m"
            assert group["points"].attrs["frame"] == "body"
            assert group["points"].metadata.dimension_names == ("point", "axis")
            for name, array in sample.arrays.items():
                np.testing.assert_array_equal(group[name][...], array.values, strict=False)
                assert group[name].dtype == array.values.dtype.newbyteorder("=")


@pytest.mark.parametrize("codec", CODECS)
def test_tensorstore_reads_what_was_packed(
    codec: str,
    samples: list[SourceSample],
    pack: Callable[..., Store],
    folder: Path,
    tmp_path: Path,
) -> None:
    pack(*samples, codec=codec)
    for sample in samples:
        path = extract(folder, tmp_path / "out")[sample.key]
        for name, array in sample.arrays.items():
            np.testing.assert_array_equal(read_with_tensorstore(path, name), array.values)


@pytest.mark.parametrize("codec", CODECS)
def test_zarrs_reads_what_unzip_unpacked(
    codec: str,
    samples: list[SourceSample],
    pack: Callable[..., Store],
    folder: Path,
    tmp_path: Path,
) -> None:
    pytest.importorskip("zarrs")
    sample = samples[0]
    pack(sample, codec=codec)
    path = extract(folder, tmp_path / "out")[sample.key]
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "tree")
    # Strict: what zarrs would leave to zarr-python is an error, since that would prove nothing.
    strict = {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "codec_pipeline.strict": True}
    with zarr.config.set(strict):
        group = zarr.open_group(tmp_path / "tree", mode="r")
        for name, array in sample.arrays.items():
            np.testing.assert_array_equal(group[name][...], array.values)


# webdataset leaves its shards to the garbage collector to close.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_webdataset_finds_samples_and_attributes(
    samples: list[SourceSample], pack: Callable[..., Store], folder: Path
) -> None:
    webdataset = pytest.importorskip("webdataset")
    pack(*samples, shard_bytes=1 << 20)
    shards = sorted(str(path) for path in folder.glob("shard-*.tar"))
    assert len(shards) > 1
    found = {item["__key__"]: item for item in webdataset.WebDataset(shards, shardshuffle=False)}
    gc.collect()
    assert sorted(found) == sorted(sample.key for sample in samples)
    for sample in samples:
        item = found[sample.key]
        assert json.loads(item["json"])["mach"] == 0.5
        with zipfile.ZipFile(io.BytesIO(item["zarr.zip"])) as archive:
            assert "points/c/0/0" in archive.namelist()


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar program")
def test_gnu_tar_extracts_without_a_word(
    samples: list[SourceSample], pack: Callable[..., Store], folder: Path, tmp_path: Path
) -> None:
    pack(*samples)
    (tmp_path / "out").mkdir()
    for shard in folder.glob("shard-*.tar"):
        done = subprocess.run(
            ["tar", "-xf", shard, "-C", tmp_path / "out"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
    assert json.loads((tmp_path / "out/run/case 0.json").read_text())["name"] == "Flügel"


def test_pyarrow_reads_the_index_and_its_ranges_hold_the_chunks(
    samples: list[SourceSample], pack: Callable[..., Store], folder: Path
) -> None:
    pack(*samples, codec="none")
    rows = pq.read_table(folder / "index.parquet").to_pylist()
    row = next(r for r in rows if r["sample"] == samples[1].key and r["array"] == "points")
    data = (folder / row["shard"]).read_bytes()
    start, length = row["chunk_offsets"][0], row["chunk_nbytes"][0]
    values = np.frombuffer(data[start : start + length - 4], "<f4").reshape(row["chunk_shape"])
    np.testing.assert_array_equal(values, samples[1].arrays["points"].values)
    assert row["units"] == "m"


def test_archives_and_large_chunks_start_on_pages(
    samples: list[SourceSample], pack: Callable[..., Store], folder: Path
) -> None:
    pack(*samples)
    for row in pq.read_table(folder / "index.parquet").to_pylist():
        assert row["zip_start"] % 4096 == 0
        data = (folder / row["shard"]).read_bytes()
        assert data[row["zip_start"] :][:4] == b"PK\x03\x04"
        for start, length in zip(row["chunk_offsets"], row["chunk_nbytes"], strict=True):
            if 16_384 <= length < 2**63:
                assert start % 4096 == 0


DTYPES = st.sampled_from(
    ["?", "i1", "i2", "<i4", ">i8", "u1", "u2", "u4", "u8", "f2", "<f4", ">f8", "c8", "c16"]
)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_any_type_and_shape_reads_back_bit_for_bit(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    dtype = np.dtype(data.draw(DTYPES))
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9))
    values = data.draw(hnp.arrays(dtype, shape))
    codec = data.draw(st.sampled_from(CODECS))
    options = WriteOptions(codec=codec, chunk_bytes=1024)
    sample = SourceSample("s", {"a/b": SourceArray(values)})
    path = tmp_path_factory.mktemp("zip") / "s.zip"
    write(sample, path, options)
    with zarr.storage.ZipStore(path, mode="r") as zip_store:
        ours = zarr.open_group(zip_store, mode="r")["a/b"][...]
    expected = np.ascontiguousarray(values, dtype.newbyteorder("="))
    assert np.asarray(ours).tobytes() == expected.tobytes()
    assert np.asarray(read_with_tensorstore(path, "a/b")).tobytes() == expected.tobytes()


def write(sample: SourceSample, path: Path, options: WriteOptions) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with path.open("wb+") as stream, ThreadPoolExecutor(2) as pool:
        write_archive(sample, stream, options, pool)
