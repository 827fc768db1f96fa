"""The writer: what it writes and what it refuses; samples are never split."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataplane.errors import ConfigError, FormatError
from dataplane.shards import (
    DatasetIndex,
    DatasetWriter,
    PackSummary,
    SourceArray,
    SourceSample,
    WriteOptions,
)
from dataplane.stores import Store, open_store

from .conftest import make_sample, noise, one
from .reading import read_sample


def test_the_summary_counts_what_was_written(
    store: Store, samples: list[SourceSample], folder: Path
) -> None:
    with DatasetWriter(store) as writer:
        for sample in samples:
            writer.add(sample)
        summary = writer.finish()
        assert writer.finish() == summary
    source_bytes = sum(a.values.nbytes for s in samples for a in s.arrays.values())
    stored_bytes = sum(path.stat().st_size for path in folder.glob("*.tar"))
    names = {name for sample in samples for name in sample.arrays}
    assert summary == PackSummary(3, len(names), source_bytes, source_bytes, stored_bytes, 1)
    assert summary.ratio == source_bytes / stored_bytes


def test_leaving_the_block_finishes_the_dataset(store: Store) -> None:
    with DatasetWriter(store) as writer:
        writer.add(one())
    assert len(DatasetIndex.load(store)) == 1


def test_shards_roll_before_they_grow_too_large(store: Store, folder: Path) -> None:
    limit = 1 << 20
    with DatasetWriter(store, WriteOptions(shard_bytes=limit)) as writer:
        for i in range(6):
            writer.add(noise(f"s{i}", 400_000))
        writer.add(noise("large", 3 << 20))
        summary = writer.finish()
    index = DatasetIndex.load(store)
    assert summary.shards == len(index.shards) == 4
    sizes = {path.name: path.stat().st_size for path in folder.glob("shard-*")}
    assert sizes == dict(index.shards)
    assert sorted(sizes.values())[-2] <= limit
    assert [entry.shard for entry in index][:3] == ["shard-000000.tar"] * 2 + ["shard-000001.tar"]


def test_all_zero_chunks_are_not_stored_but_negative_zeros_are(store: Store) -> None:
    with DatasetWriter(store, WriteOptions(chunk_bytes=1024)) as writer:
        zeros = np.zeros(1024)
        zeros[300] = -0.0
        writer.add(one(x=zeros))
    entry = DatasetIndex.load(store)[0].arrays["x"]
    assert (entry.chunk_nbytes == 2**64 - 1).sum() == len(entry.chunk_nbytes) - 1
    assert np.signbit(read_sample(store, "a")["x"]).sum() == 1


def test_float32_and_rounding_are_applied_and_recorded(store: Store) -> None:
    values = np.random.default_rng(0).standard_normal(1000)
    with DatasetWriter(store, WriteOptions(float32=True, round_bits=8)) as writer:
        writer.add(one(x=values, n=np.arange(5)))
    stored = read_sample(store, "a")
    assert stored["x"].dtype == np.float32
    assert stored["n"].dtype == np.int64
    assert not (stored["x"].view(np.uint32) & ((1 << 15) - 1)).any()
    np.testing.assert_allclose(stored["x"], values, rtol=2**-9 * 1.01)
    record = DatasetIndex.load(store)[0].attributes["dataplane"]
    assert record == {"float32": True, "round_bits": 8, "rounded": {"x": 8}}


def test_values_beyond_float32_are_refused_not_made_infinite(store: Store) -> None:
    with DatasetWriter(store, WriteOptions(float32=True)) as writer:
        with pytest.raises(FormatError, match="'x' has values that float32 cannot hold"):
            writer.add(one(x=np.array([1e300])))
        writer.add(one(x=np.array([np.inf, np.nan, 1.0])))


def test_statistics_are_those_of_the_stored_values(store: Store) -> None:
    values = np.random.default_rng(0).standard_normal((200, 30))
    values[3, 4] = np.nan
    with DatasetWriter(store, WriteOptions(chunk_bytes=1024)) as writer:
        writer.add(one(x=values))
    stats = DatasetIndex.load(store)[0].arrays["x"].stats
    assert stats is not None
    assert stats.nan_count == 1
    assert (stats.minimum, stats.maximum) == (np.nanmin(values), np.nanmax(values))
    assert stats.mean == pytest.approx(np.nanmean(values))
    assert stats.std == pytest.approx(np.nanstd(values))


@pytest.mark.parametrize(
    "key",
    ["", "a.b", "/a", "a/", "a//b", "../a", "a\nb", "a\\b", "\ud800", "x" * 241, "y/" * 600 + "y"],
)
def test_keys_that_cannot_be_file_names_are_refused(store: Store, key: str) -> None:
    with DatasetWriter(store) as writer:
        with pytest.raises(ConfigError, match="cannot be used"):
            writer.add(one(key))
        writer.add(one("fine"))


def test_a_key_is_used_once_and_never_as_a_folder_too(store: Store) -> None:
    with DatasetWriter(store) as writer:
        writer.add(one("a/b"))
        with pytest.raises(ConfigError, match="already"):
            writer.add(one("a/b"))
        for key in ("a", "a/b/c"):
            with pytest.raises(ConfigError, match="a sample and a folder"):
                writer.add(one(key))


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("x", np.array(["text"]), "text belongs into attributes"),
        ("x", np.array([object()]), "object"),
        ("x", np.array(["2026-01-01"], "M8[D]"), "datetime64"),
        ("x", np.zeros(1, np.longdouble), "longdouble|float128"),
        ("x", np.zeros(1, [("a", "f4")]), "cannot be packed"),
        ("a/../b", np.zeros(1), "'..'"),
        ("__a", np.zeros(1), "reserves"),
        ("a/zarr.json", np.zeros(1), "reserves"),
        ("", np.zeros(1), "empty"),
    ],
)
def test_arrays_that_cannot_be_stored_are_refused_by_name(
    store: Store, name: str, values: np.ndarray, message: str
) -> None:
    with DatasetWriter(store) as writer:
        with pytest.raises(FormatError, match=message) as caught:
            writer.add(SourceSample("s", {name: SourceArray(values)}))
        assert repr(name) in str(caught.value)
        writer.add(one("fine"))


def test_other_mistakes_in_a_sample_are_named(store: Store) -> None:
    wrong = [
        (SourceSample("s", {}), "no arrays"),
        (SourceSample("s", {"x": SourceArray([1])}), "not an ndarray"),  # type: ignore[arg-type]
        (SourceSample("s", {"x": SourceArray(np.zeros(2), ("a", "b"))}), "2 names"),
        (one("s", **{"a": np.zeros(1), "a/b": np.zeros(1)}), "cannot be inside"),
        (SourceSample("s", one().arrays, {"bad": b"raw"}), "'bad'"),
    ]
    with DatasetWriter(store) as writer:
        for sample, message in wrong:
            with pytest.raises(FormatError, match=message):
                writer.add(sample)
        writer.add(one("s"))
    assert list(DatasetIndex.load(store).keys) == ["s"]


def test_a_refused_sample_leaves_no_trace_in_the_shard(store: Store) -> None:
    with DatasetWriter(store, WriteOptions(float32=True)) as writer:
        writer.add(one("before"))
        with pytest.raises(FormatError):
            writer.add(one("bad", x=np.arange(10), y=np.array([1e300])))
        writer.add(one("after"))
    assert list(DatasetIndex.load(store).keys) == ["before", "after"]
    np.testing.assert_array_equal(read_sample(store, "after")["x"], np.arange(10))


def test_an_existing_dataset_is_not_written_over_unless_asked(store: Store) -> None:
    with DatasetWriter(store) as writer:
        writer.add(one("old"))
    with pytest.raises(ConfigError, match="holds a dataset already"):
        DatasetWriter(store)
    assert list(DatasetIndex.load(store).keys) == ["old"]
    with DatasetWriter(store, WriteOptions(overwrite=True)) as writer:
        with pytest.raises(FormatError):  # While it is replaced there is no dataset.
            DatasetIndex.load(store)
        writer.add(one("new"))
    assert list(DatasetIndex.load(store).keys) == ["new"]


def test_a_folder_of_a_refused_sample_is_free_again(store: Store) -> None:
    with DatasetWriter(store) as writer:
        with pytest.raises(FormatError):
            writer.add(SourceSample("a/b", one().arrays, {"bad": b""}))
        writer.add(one("a"))
    assert list(DatasetIndex.load(store).keys) == ["a"]


def test_systems_without_sendfile_copy_in_memory(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*args: object) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "sendfile", unsupported)
    with DatasetWriter(store) as writer:
        writer.add(make_sample("a"))
        writer.add(make_sample("b"))
        writer.add(noise("c", 2 << 20))  # too large to be encoded into memory
    np.testing.assert_array_equal(
        read_sample(store, "c")["noise"], noise("c", 2 << 20).arrays["noise"].values
    )
    values = make_sample("b").arrays["fields/velocity"].values
    np.testing.assert_array_equal(read_sample(store, "b")["fields/velocity"], values)


def test_threads_may_add_together(store: Store) -> None:
    options = WriteOptions(shard_bytes=1 << 20, workers=2)
    with DatasetWriter(store, options) as writer, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: writer.add(make_sample(f"s{i}", i)), range(8)))
    assert sorted(DatasetIndex.load(store).keys) == [f"s{i}" for i in range(8)]
    for i in (0, 5):
        values = make_sample(f"s{i}", i).arrays["points"].values
        np.testing.assert_array_equal(read_sample(store, f"s{i}", ["points"])["points"], values)


def test_equal_samples_make_equal_bytes(tmp_path: Path) -> None:
    written = []
    for name in ("one", "two"):
        store = open_store(f"file://{tmp_path / name}")
        with DatasetWriter(store, WriteOptions(permute_seed=1, workers=3)) as writer:
            writer.add(make_sample("a"))
        written.append({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()})
    assert written[0] == written[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codec": "gzip"}, "no codec"),
        ({"level": 0}, "level"),
        ({"level": 10}, "level"),
        ({"codec": "none", "level": 3}, "level 3 does nothing"),
        ({"chunk_bytes": 10}, "chunk bytes"),
        ({"shard_bytes": 10}, "shard bytes"),
        ({"permute_seed": -1}, "seed"),
        ({"round_bits": 0}, "mantissa"),
        ({"workers": -1}, "workers"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        WriteOptions(**options)
