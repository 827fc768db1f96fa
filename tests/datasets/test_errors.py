"""Corrupt and missing samples: what the message names, and what each policy does."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

import dataplane as dp
from dataplane.datasets import in_place
from dataplane.datasets import reader as reader_room
from tests.datasets.packed import SAMPLES, Packed


@pytest.fixture
def copy(packed: Packed, tmp_path: Path) -> Packed:
    """A copy of the dataset that a test may damage."""
    folder = tmp_path / "copy"
    shutil.copytree(packed.folder, folder)
    return Packed(folder, packed.samples)


def damage(copy: Packed, number: int, name: str = "points", chunk: int = 0) -> tuple[str, int]:
    """Flip a byte in the middle of a chunk of a sample; return its shard and offset."""
    entry = dp.Dataset(copy.url).index[number].arrays[name]
    offset = int(entry.chunk_offsets[chunk])
    path = copy.folder / entry.shard
    content = bytearray(path.read_bytes())
    content[offset + int(entry.chunk_nbytes[chunk]) // 2] ^= 0x40
    path.write_bytes(content)
    return entry.shard, offset


def remove_shard_of(copy: Packed, number: int) -> list[int]:
    """Delete a shard; return the numbers of the samples in it."""
    index = dp.Dataset(copy.url).index
    shard = index[number].shard
    (copy.folder / shard).unlink()
    return [i for i in range(SAMPLES) if index[i].shard == shard]


def keys(samples: list) -> list[str]:
    return [sample["__key__"] for sample in samples]


def test_a_corrupt_chunk_names_sample_array_chunk_and_offset(copy: Packed) -> None:
    shard, offset = damage(copy, 4, chunk=1)
    dataset = dp.Dataset(copy.url)
    with pytest.raises(dp.ChecksumMismatch) as raised:
        dataset[4]
    for part in ("'case-004'", "'points'", "chunk 1/0", shard, f"byte {offset}"):
        assert part in str(raised.value)
    with pytest.raises(dp.ChecksumMismatch):
        dataset.__getitems__([3, 4, 5])
    assert keys(dataset.__getitems__([3, 5])) == ["case-003", "case-005"]


def test_skip_leaves_the_sample_out_counts_and_logs_it(
    copy: Packed, caplog: pytest.LogCaptureFixture
) -> None:
    shard, _ = damage(copy, 4)
    dataset = dp.Dataset(copy.url, errors="skip")
    with caplog.at_level(logging.WARNING, "dataplane"):
        assert keys(dataset.__getitems__([3, 4, 5])) == ["case-003", "case-005"]
    assert dataset.counters["dataset_samples_skipped"] == 1
    (record,) = caplog.records
    for part in ("skipped 'case-004'", shard, "byte", "points"):
        assert part in record.getMessage()
    assert dataset.__getitems__([4]) == []
    with pytest.raises(dp.ChecksumMismatch):
        dataset[4]


def test_replace_takes_the_next_sample_by_number(copy: Packed) -> None:
    damage(copy, 4)
    damage(copy, 5)
    damage(copy, SAMPLES - 1)
    dataset = dp.Dataset(copy.url, errors="replace")
    assert keys(dataset.__getitems__([3, 4, 10])) == ["case-003", "case-006", "case-000"]
    assert dataset[4]["__key__"] == "case-006"
    assert dataset.counters["dataset_samples_replaced"] == 5
    values = dataset[4]["points"].numpy()
    assert np.array_equal(values, copy.values("case-006")["points"])


def test_a_dataset_without_a_sound_sample_is_an_error(copy: Packed) -> None:
    for number in range(SAMPLES):
        damage(copy, number)
    dataset = dp.Dataset(copy.url, errors="replace")
    with pytest.raises(dp.LoaderError, match="11 samples from number 2 on cannot be read"):
        dataset[2]


@pytest.mark.parametrize("cache", [False, None])
def test_a_missing_shard_falls_under_the_policy(copy: Packed, cache: bool | None) -> None:
    gone = remove_shard_of(copy, 5)
    whole = [number for number in range(SAMPLES) if number not in gone]
    assert gone
    assert whole
    with pytest.raises(dp.NotFound):
        dp.Dataset(copy.url, cache=cache)[gone[0]]
    dataset = dp.Dataset(copy.url, cache=cache, errors="skip")
    assert keys(dataset.__getitems__(range(SAMPLES))) == [f"case-{i:03d}" for i in whole]
    assert dataset.counters["dataset_samples_skipped"] == len(gone)


def test_a_changed_shard_is_never_skipped(copy: Packed) -> None:
    dataset = dp.Dataset(copy.url, cache=False, errors="skip")
    shard = copy.folder / dataset.index[4].shard
    content = shard.read_bytes()
    shard.unlink()
    shard.write_bytes(content)
    with pytest.raises(dp.ObjectChanged):
        dataset.__getitems__([4])


def test_bytes_that_are_wrong_only_in_the_cache_are_read_again_from_the_store(
    packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = dp.Dataset(packed.url)
    runtime = dataset.reader().runtime
    sound = type(runtime).read

    def broken(self, shard, spans, out) -> None:
        sound(self, shard, spans, out)
        out[len(out) // 2 :] ^= 0xFF

    monkeypatch.setattr(type(runtime), "read", broken)
    monkeypatch.setattr(in_place, "MAX_MAPPED_SPANS", 0)  # test_mapped.py has those
    samples = dataset.__getitems__([6, 7])
    for sample in samples:
        expected = packed.values(sample["__key__"])
        assert all(np.array_equal(sample[name].numpy(), expected[name]) for name in expected)
    assert dataset.counters["dataset_samples_reread"] == 2


def test_only_so_many_samples_in_a_row_are_replaced(
    copy: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        damage(copy, number)
    monkeypatch.setattr(reader_room, "MAX_REPLACEMENTS", 5)
    with pytest.raises(dp.LoaderError, match="5 samples"):
        dp.Dataset(copy.url, errors="replace")[0]
    monkeypatch.setattr(reader_room, "MAX_REPLACEMENTS", 6)
    assert dp.Dataset(copy.url, errors="replace")[0]["__key__"] == "case-005"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"url": 3}, "url must be a URL or a path, got a value of type int"),
        ({"store": {"secret": "HIDDEN"}}, r"store must be a dataplane\.StoreConfig"),
        ({"cache": 3}, "cache must be a CacheConfig, a directory or False"),
        ({"arrays": [1]}, "arrays must hold names, got 1"),
        ({"arrays": 3}, "arrays must be names or a selection by name"),
        ({"transform": 3}, "transform must be callable"),
    ],
)
def test_an_argument_of_the_wrong_type_is_named(
    packed: Packed, arguments: dict[str, object], complaint: str
) -> None:
    with pytest.raises(dp.ConfigError, match=complaint) as caught:
        dp.Dataset(**({"url": packed.url} | arguments))
    assert "HIDDEN" not in str(caught.value)


def test_what_a_transform_raises_says_for_which_sample(packed: Packed) -> None:
    def transform(sample: dict) -> dict:
        del sample["__key__"]
        raise KeyError("pressure")

    dataset = dp.Dataset(packed.url, transform=transform)
    note = f"in the transform of sample {dataset.keys[1]!r} of {packed.url}"
    with pytest.raises(KeyError) as caught:
        dataset[1]
    assert caught.value.__notes__ == [note]
    for workers in (0, 2):
        with pytest.raises(KeyError) as caught:
            list(dp.DataLoader(dataset, sampler=[1], num_workers=workers))
        assert caught.value.__notes__ == [note]


def test_collate_names_what_differs_and_what_to_do() -> None:
    samples = [{"__key__": "a", "p": 1, "same": 2}, {"__key__": "b", "same": 2}]
    with pytest.raises(dp.LoaderError, match=r"'p' is not in 'b' \(.*Dataset\(arrays=") as caught:
        dp.collate(samples)
    assert "same" not in str(caught.value).split("(")[0]


def test_objects_show_what_they_are(packed: Packed) -> None:
    dataset = dp.Dataset(packed.url, ["points"])
    assert repr(dataset) == f"<Dataset {packed.url}: {len(dataset)} samples of points>"
    assert repr(dataset.keys).startswith(f"<{len(dataset)} keys: {dataset.keys[0]!r}, ")
    loader = dp.DataLoader(dataset, batch_size=2, shuffle=True, seed=7)
    assert "batch_size=2, shuffle=True, seed=7, num_workers=0" in repr(loader)
    assert repr(dataset) in repr(loader)
    list(loader)
    assert repr(loader.stats()).startswith(f"LoaderStats(bottleneck={loader.stats().bottleneck!r}")
    dataset.counters.add("n", 2)
    assert repr(dataset.counters).startswith("Counters({")
    assert "'n': 2" in repr(dataset.counters)


@pytest.mark.parametrize("url", ["s3://bucket/cars", Path("cars")])
def test_a_loader_of_a_url_says_how_to_make_a_dataset(url: str | Path) -> None:
    with pytest.raises(dp.ConfigError, match=r"wrap it: dataplane\.Dataset\('.*cars'\)"):
        dp.DataLoader(url)


def test_a_state_that_is_no_dict_is_refused(packed: Packed) -> None:
    with pytest.raises(dp.ConfigError, match="a loader state is a dict"):
        dp.DataLoader(dp.Dataset(packed.url)).load_state_dict(None)
