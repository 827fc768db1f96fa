"""A dataset gives back what was packed, by number, in this process and in torch's workers."""

from __future__ import annotations

import gc
import pickle
import threading
import traceback
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.utils.data

import dataplane as dp
from dataplane.datasets import collate
from dataplane.datasets.samples import KEY
from dataplane.errors import FormatError
from dataplane.shards import SourceArray, SourceSample
from dataplane_testing.s3 import S3Endpoint
from tests.datasets.packed import SAMPLES, Packed, pack, source_sample


def assert_equal(sample: dict, packed: Packed, names: list[str] | None = None) -> None:
    expected = packed.values(sample[KEY])
    names = list(expected) if names is None else names
    assert set(sample) == {*names, KEY}
    for name in names:
        got = sample[name].numpy()
        assert got.dtype == expected[name].dtype, name
        assert np.array_equal(got, expected[name]), name


@pytest.fixture(params=["cached", "no cache"])
def dataset(request: pytest.FixtureRequest, packed: Packed, tmp_path: Path):
    cache = tmp_path / "cache" if request.param == "cached" else False
    with dp.Dataset(packed.url, cache=cache) as dataset:
        yield dataset


def test_every_sample_equals_its_source(dataset: dp.Dataset, packed: Packed) -> None:
    assert len(dataset) == SAMPLES
    assert list(dataset.keys) == [sample.key for sample in packed.samples]
    for number in range(SAMPLES):
        sample = dataset[number]
        assert sample[KEY] == packed.samples[number].key
        assert_equal(sample, packed)


def test_several_samples_come_in_the_order_that_was_asked_for(
    dataset: dp.Dataset, packed: Packed
) -> None:
    samples = dataset.__getitems__([7, 0, -1, 7])
    assert [sample[KEY] for sample in samples] == ["case-007", "case-000", "case-010", "case-007"]
    for sample in samples:
        assert_equal(sample, packed)
    samples[0]["points"][:] = 0
    assert_equal(samples[3], packed)
    assert dataset.__getitems__([]) == []


def test_negative_numbers_count_from_the_end_and_others_are_refused(dataset: dp.Dataset) -> None:
    assert dataset[-1][KEY] == "case-010"
    assert dataset[-SAMPLES][KEY] == "case-000"
    for number in (SAMPLES, -SAMPLES - 1):
        with pytest.raises(IndexError, match="of a dataset of 11"):
            dataset[number]
        with pytest.raises(IndexError):
            dataset.attributes(number)
    with pytest.raises(TypeError):
        dataset["case-000"]  # type: ignore[index]


def test_a_dataset_is_iterable_as_a_sequence(dataset: dp.Dataset) -> None:
    assert [sample[KEY] for sample in dataset] == list(dataset.keys)


def test_attributes_of_a_sample(dataset: dp.Dataset) -> None:
    assert dataset.attributes(3) == {"number": 3, "name": "a case, number 3"}
    assert dataset.attributes(-1)["number"] == SAMPLES - 1


def test_only_the_named_arrays_are_read(packed: Packed) -> None:
    names = ["point_data/pressure", "points"]
    for arrays in (names, dict.fromkeys(names, dp.whole()), tuple(names)):
        dataset = dp.Dataset(packed.url, arrays)
        assert dataset.array_names == tuple(names)
        assert_equal(dataset[2], packed, names)


def test_only_the_bytes_of_named_arrays_are_fetched(packed: Packed) -> None:
    with dp.Dataset(packed.url, ["global_data/mask"], cache=False) as dataset:
        plan = dataset.reader().planner.plan(0)
        assert 0 < plan.packed_bytes < 4096 + 128
        assert len(plan.spans) == 1


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (["pionts"], "did you mean 'points'"),
        (["pressure"], "did you mean 'point_data/pressure'"),
        (["zzz"], "it has cells/connectivity"),
        ([], "arrays is empty"),
        (["points", "points"], "twice"),
        ("points", "one string"),
        ({"points": 5}, "not a selection"),
    ],
)
def test_arrays_that_cannot_be_read_are_refused(
    packed: Packed, arrays: object, message: str
) -> None:
    with pytest.raises(dp.ConfigError, match=message):
        dp.Dataset(packed.url, arrays)  # type: ignore[arg-type]


def test_arguments_that_say_nothing_are_refused(packed: Packed, tmp_path: Path) -> None:
    with pytest.raises(dp.ConfigError, match="cache=True"):
        dp.Dataset(packed.url, cache=True)
    with pytest.raises(dp.ConfigError, match='"raise", "skip" or "replace"'):
        dp.Dataset(packed.url, errors="ignore")


@pytest.fixture
def bucket() -> Iterator[None]:
    """A bucket `data` that holds something else than a dataset."""
    with S3Endpoint(in_process=True, buckets=("data",)) as endpoint, endpoint.exported():
        endpoint.put("data", "runs/a.vtu", b"x")
        yield


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize(
    ("url", "error", "words"),
    [
        ("s3://data/none", dp.NotFound, "there is nothing below s3://data/none"),
        ("s3://none/x", dp.BucketNotFound, "no such bucket: s3://none"),
        ("s3://data", dp.FormatError, "not a packed dataset: it has no index.parquet"),
        ("/does/not/exist", dp.NotFound, "no such folder: /does/not/exist"),
        ("{folder}/empty", dp.NotFound, "there is nothing below"),
        ("{folder}", dp.FormatError, "not a packed dataset"),
        ("{folder}/a.vtu", dp.FormatError, "a.vtu is a file of 1 B, not a packed dataset"),
        ("memory://none/x", dp.NotFound, "there is nothing below memory://none/x"),
        ("nope://x/y", dp.ConfigError, "unknown scheme nope://"),
    ],
)
def test_a_wrong_url_is_one_error(
    url: str, error: type[Exception], words: str, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.vtu").write_bytes(b"x")
    with pytest.raises(error, match=words) as caught:
        dp.Dataset(url.format(folder=tmp_path))
    assert "".join(traceback.format_exception(caught.value)).count("Traceback") == 1


def test_a_web_server_that_has_no_index_and_cannot_list_has_no_dataset(tmp_path: Path) -> None:
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    ) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}/none"
        try:
            with pytest.raises(dp.NotFound, match=f"there is no index.parquet at {url}"):
                dp.Dataset(url)
        finally:
            server.shutdown()


def test_what_a_network_did_keeps_the_words_of_the_client() -> None:
    with pytest.raises(dp.Unavailable, match="no connection; gave up after 2 attempts") as caught:
        dp.Dataset("http://127.0.0.1:9/x", store=dp.StoreConfig(max_attempts=2))
    assert "obstore" in type(caught.value.__cause__).__module__
    assert "".join(traceback.format_exception(caught.value)).count("Traceback") == 2


def test_the_cache_is_where_it_was_asked_for(packed: Packed, tmp_path: Path) -> None:
    dp.Dataset(packed.url, cache=tmp_path / "here")[0]
    dp.Dataset(packed.url, cache=str(tmp_path / "there"))[0]
    dp.Dataset(packed.url, cache=dp.CacheConfig(dir=tmp_path / "config"))[0]
    dp.Dataset(packed.url)[0]  # DATAPLANE_CACHE_DIR, see tests/conftest.py
    for name in ("here", "there", "config", "cache"):
        assert any((tmp_path / name).iterdir()), name
    before = sorted(tmp_path.rglob("*"))
    dp.Dataset(packed.url, cache=False)[0]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_transform_takes_the_place_of_the_sample(packed: Packed) -> None:
    dataset = dp.Dataset(packed.url, ["points"], transform=lambda sample: sample["points"].sum())
    expected = packed.values("case-004")["points"].sum()
    assert dataset[4].item() == pytest.approx(float(expected), rel=1e-4)
    assert len(dataset.__getitems__([1, 2])) == 2


def test_samples_of_different_kinds_hold_what_they_have(tmp_path: Path) -> None:
    mixed = [source_sample(0), source_sample(1)]
    del mixed[1].arrays["points"]  # type: ignore[attr-defined]
    packed = pack(tmp_path / "ds", mixed)
    dataset = dp.Dataset(packed.url)
    assert_equal(dataset[0], packed)
    assert_equal(dataset[1], packed)
    with pytest.raises(dp.LoaderError, match="'case-001' has no array 'points'"):
        dp.Dataset(packed.url, ["points"])[1]


def test_a_dataset_pickles_before_and_after_its_first_read(packed: Packed) -> None:
    dataset = dp.Dataset(packed.url, ["points"])
    for _ in range(2):
        again = pickle.loads(pickle.dumps(dataset))
        assert_equal(again[5], packed, ["points"])
        assert_equal(dataset[5], packed, ["points"])


def test_a_closed_dataset_opens_again(packed: Packed) -> None:
    dataset = dp.Dataset(packed.url, ["points"], cache=False)
    dataset[0]
    dataset.close()
    dataset.close()
    assert_equal(dataset[0], packed, ["points"])


def test_threads_share_a_dataset(packed: Packed) -> None:
    dataset = dp.Dataset(packed.url)
    errors: list[BaseException] = []

    def work(first: int) -> None:
        try:
            for number in range(SAMPLES):
                assert_equal(dataset[(first + number) % SAMPLES], packed)
        except BaseException as err:
            errors.append(err)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_of_torch_read_the_same(packed: Packed, method: str) -> None:
    names = ["points", "fields/velocity", "point_data/pressure"]
    dataset = dp.Dataset(packed.url, names)
    dataset[0]  # the parent's cache and store are open when the workers start
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=3,
        num_workers=2,
        collate_fn=collate,
        multiprocessing_context=method,
    )
    seen = []
    for batch in loader:
        for place, key in enumerate(batch[KEY]):
            seen.append(key)
            expected = packed.values(key)
            start, stop = batch["points.offsets"][place : place + 2]
            assert np.array_equal(batch["points"][start:stop].numpy(), expected["points"])
            assert np.array_equal(batch["fields/velocity"][place], expected["fields/velocity"])
    assert seen == list(dataset.keys)
    del loader, batch
    gc.collect()


def test_stock_loader_collates_arrays_of_one_shape(packed: Packed) -> None:
    dataset = dp.Dataset(packed.url, ["fields/velocity"])
    batch = next(iter(torch.utils.data.DataLoader(dataset, batch_size=4)))
    assert batch["fields/velocity"].shape == (4, 17, 12, 10, 3)
    assert batch[KEY] == ["case-000", "case-001", "case-002", "case-003"]


def test_arrays_of_the_most_dimensions_that_can_be_packed_are_read(tmp_path):
    values = np.arange(768.0).reshape(2, 3, 2, 2, 2, 2, 2, 4)
    samples = [SourceSample(f"s{n}", {"x": SourceArray(values + n)}) for n in range(2)]
    packed = pack(tmp_path / "ds", samples)
    dataset = dp.Dataset(packed.url, cache=False)
    assert np.array_equal(dataset[1]["x"].numpy(), values + 1)
    with pytest.raises(FormatError, match="has 9 dimensions"):
        pack(tmp_path / "nine", [SourceSample("s", {"x": SourceArray(values[None])})])


def test_a_cache_directory_that_cannot_be_used_is_warned_of_where_the_dataset_is_made(
    packed: Packed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.tex").write_text("...")
    with pytest.warns(dp.CacheWarning, match="it holds 'thesis.tex'.*read from the store") as told:
        dataset = dp.Dataset(packed.url, cache=taken)
    assert told[0].filename == __file__
    assert len(dataset[0]) > 1
    dataset.close()
    assert len(told) == 1
    assert [it for it in caplog.records if it.levelname == "WARNING"] == []  # it was said
