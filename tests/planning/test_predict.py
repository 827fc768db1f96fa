"""Predictions for small packed datasets are what real runs then download."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import dataplane as dp
from dataplane.cache import Cache, CacheConfig
from dataplane.errors import ConfigError
from dataplane.planning.causes import Wait
from dataplane.planning.check import check
from dataplane.planning.document import prediction_document
from dataplane.planning.network import NetworkSettings
from dataplane.planning.predict import Prediction, predict
from dataplane.planning.settings import Prices, RunSettings
from dataplane.planning.simulator import HostSimulator
from dataplane.shards import DatasetWriter, SourceArray, SourceSample, WriteOptions
from dataplane.stores import open_store
from dataplane_testing.s3 import S3Endpoint

SAMPLES = 48
BLOCK = 32 << 10
NETWORK = NetworkSettings(0.0005, None, 100e6)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Endpoint]:
    """A packed dataset of 2 MiB in an emulated cloud; what it stores does not compress."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("s3")
    with S3Endpoint(root=folder, buckets=("data",)) as server:
        options = WriteOptions(codec="lz4", chunk_bytes=8192, shard_bytes=512 << 10)
        with server.exported(), DatasetWriter(open_store("s3://data/ds"), options) as writer:
            for number in range(SAMPLES):
                values = rng.standard_normal((24, 24, 18)).astype("f4")
                writer.add(SourceSample(f"s{number:02d}", {"u": SourceArray(values)}))
            writer.finish()
        yield server


@pytest.fixture
def cloud(endpoint: S3Endpoint, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Its URL; late requests are not sent twice, which would be bytes by chance."""
    monkeypatch.setenv("DATAPLANE_STORE_HEDGE", "0")
    with endpoint.exported():
        yield "s3://data/ds"


def config_of(folder: Path, **given: Any) -> CacheConfig:
    sizes = {
        "block_bytes": BLOCK,
        "part_block_bytes": BLOCK // 2,
        "request_bytes": 4 * BLOCK,
        "prefetch_window_bytes": 16 * BLOCK,
        "prefetch_memory_bytes": 64 * BLOCK,
        "next_epoch_bytes": 4 * BLOCK,
        "fetch_threads": 4,
    }
    return CacheConfig(dir=folder / "cache", **{**sizes, **given})


def settings_of(config: CacheConfig, **given: Any) -> RunSettings:
    defaults = {"epochs": 3, "batch_size": 4, "workers": 2, "seed": 5, "decode_bytes_per_s": 1e9}
    return RunSettings(network=NETWORK, step_s=0.002, cache=config, **{**defaults, **given})


def ran(
    url: str, settings: RunSettings, arrays: Any = None, **ranks: Any
) -> tuple[dp.RunRecord, int]:
    """Run what was predicted; return its record, and the bytes that the cache downloaded."""
    with Cache.shared(settings.cache.for_parts() if arrays else settings.cache) as cache:
        record = dp.RunRecord()
        dataset = dp.Dataset(
            url, arrays, cache=settings.cache, samples_per_read=settings.samples_per_read
        )
        loader = dp.DataLoader(
            dataset,
            batch_size=settings.batch_size,
            shuffle=settings.shuffle,
            seed=settings.seed,
            num_workers=settings.workers,
            **ranks,
        )
        for _ in range(settings.epochs):
            for _batch in loader:
                pass
            record.add(loader)
        return record, int(cache.counters["cache_fetch_bytes"])


def bytes_row(prediction: Prediction, record: dp.RunRecord) -> Any:
    (row,) = [row for row in check(prediction, [record]) if row.name == "downloaded"]
    return row


@pytest.mark.parametrize(
    "given", [{"shuffle": True}, {"shuffle": False}, {"shuffle": "shards", "workers": 0}], ids=str
)
def test_a_dataset_that_fits_is_downloaded_as_predicted_to_the_byte(
    cloud: str, tmp_path: Path, given: dict[str, Any]
):
    settings = settings_of(config_of(tmp_path), **given)
    prediction = predict(cloud, settings)
    record, _ = ran(cloud, settings)
    row = bytes_row(prediction, record)
    assert row.predicted == row.measured > 2 << 20
    assert [one.hit_rate for one in prediction.epochs] == [0.0, 1.0, 1.0]
    assert [one.steps for one in prediction.epochs] == [SAMPLES // 4] * 3


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_cache_that_is_too_small_downloads_what_is_predicted(
    cloud: str, tmp_path: Path, share: float
):
    config = config_of(tmp_path, size_bytes=int(share * (2 << 20)))
    # Batches of one: the window, half of the cache at most, has room for what the loader reads.
    settings = settings_of(config, epochs=4, batch_size=1)
    prediction = predict(cloud, settings)
    record, _ = ran(cloud, settings)
    row = bytes_row(prediction, record)
    assert row.ratio == pytest.approx(1.0, abs=0.1)
    assert row.is_within
    assert prediction.epochs[-1].again_bytes > 0
    assert prediction.resident_bytes <= config.size_bytes


def test_parts_are_drawn_as_the_run_draws_them(cloud: str, tmp_path: Path):
    arrays = {"u": dp.crop((6, 6, 6))}
    settings = settings_of(config_of(tmp_path), samples_per_read=2)
    prediction = predict(cloud, settings, arrays)
    record, _ = ran(cloud, settings, arrays)
    row = bytes_row(prediction, record)
    # The next epoch, which is not of the run, may have begun to come.
    assert row.ratio == pytest.approx(1.0, abs=0.1)
    assert prediction.epochs[0].fetched_bytes < prediction.stored_bytes
    assert prediction.epochs[2].missed_bytes < prediction.epochs[0].missed_bytes


def test_a_rank_of_several_hosts_downloads_what_is_predicted(cloud: str, tmp_path: Path):
    settings = settings_of(config_of(tmp_path, next_epoch_bytes=0), ranks=3, hosts=3)
    prediction = predict(cloud, settings)
    record, _ = ran(cloud, settings, rank=0, world_size=3)
    row = bytes_row(prediction, record)
    assert row.ratio == pytest.approx(1.0, abs=0.02)
    assert prediction.fetched_bytes == 3 * row.predicted


@pytest.mark.parametrize(("share", "room"), [(2, 0.35), (4, 0.5), (2, 1.0)])
def test_a_node_that_reads_what_it_owns_downloads_what_is_predicted(
    cloud: str, tmp_path: Path, share: int, room: float
):
    room_bytes = int(room * (2 << 20))
    config = config_of(tmp_path, next_epoch_bytes=0, size_bytes=room_bytes, block_bytes=16 << 10)
    given = {"ranks": 3, "hosts": 3, "batch_size": share, "epochs": 6}
    settings = settings_of(config, assign="node", **given)
    prediction = predict(cloud, settings)
    record, _ = ran(cloud, settings, rank=0, world_size=3, assign="node", ranks_per_node=1)
    row = bytes_row(prediction, record)
    assert row.ratio == pytest.approx(1.0, abs=0.1)
    turns = predict(cloud, settings_of(config, **given))
    assert prediction.fetched_bytes < 0.9 * turns.fetched_bytes
    assert prediction_document(prediction)["settings"]["assign"] == "node"


def test_ranks_of_one_host_share_what_is_downloaded(cloud: str, tmp_path: Path):
    alone = predict(cloud, settings_of(config_of(tmp_path), epochs=1))
    shared = predict(cloud, settings_of(config_of(tmp_path), epochs=1, ranks=3))
    assert shared.epochs[0].fetched_bytes == alone.epochs[0].fetched_bytes
    assert shared.epochs[0].steps == SAMPLES // 4 // 3
    assert shared.connections == 3 * alone.connections


def test_a_coarsened_run_comes_to_about_the_same_and_says_so(
    cloud: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # So that so few samples make groups enough.
    monkeypatch.setattr("dataplane.planning.reads._GROUP_BLOCKS", 4)
    monkeypatch.setattr("dataplane.planning.reads._LEAST_GROUPS", 4)
    config = config_of(tmp_path, size_bytes=1 << 20)
    whole = predict(cloud, settings_of(config))
    coarse = predict(cloud, settings_of(config, most_uses=150))
    assert whole.scale == 1.0
    assert coarse.scale > 1.0
    assert any("coarsened" in note for note in coarse.notes)
    assert not any("coarsened" in note for note in whole.notes)
    assert coarse.fetched_bytes == pytest.approx(whole.fetched_bytes, rel=0.3)
    assert coarse.epochs[0].steps == whole.epochs[0].steps


def test_waits_of_a_coarsened_run_are_as_long_as_they_were_and_stand_for_all(
    cloud: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("dataplane.planning.reads._GROUP_BLOCKS", 4)
    monkeypatch.setattr("dataplane.planning.reads._LEAST_GROUPS", 4)
    # Every step waits: the network is slow.
    slow = {"network": NetworkSettings(0.0, 1e6), "batch_size": 1}
    config = config_of(tmp_path, size_bytes=1 << 20)
    whole = predict(cloud, replace(settings_of(config), **slow)).epochs[0]
    prediction = predict(cloud, replace(settings_of(config, most_uses=150), **slow))
    coarse = prediction.epochs[0]
    assert prediction.scale > 1.0

    def mean_s(waits: list[Wait]) -> float:
        return sum(wait.total_s for wait in waits) / sum(wait.stands_for for wait in waits)

    assert mean_s(coarse.waits[1:]) == pytest.approx(mean_s(whole.waits[1:]), rel=0.3)
    count = sum(wait.stands_for for wait in coarse.waits)
    assert count == pytest.approx(len(whole.waits), rel=0.3)
    assert sum(wait.total_s for wait in coarse.waits) == pytest.approx(coarse.wait_s, abs=1e-3)
    listed = prediction_document(prediction)["epochs"][0]["waits"][1]
    assert (listed["wait_s"], listed["stands_for"]) == (coarse.waits[1].wait_s, prediction.scale)
    assert sum(wait.stands_for for wait in whole.waits) == len(whole.waits)


def test_what_the_cache_takes_already_is_room_for_it(
    cloud: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    warm, empty = config_of(tmp_path / "warm"), config_of(tmp_path / "empty")
    _, downloaded_bytes = ran(cloud, settings_of(warm, epochs=1))
    usage = SimpleNamespace(total=100 << 20, free=30 << 20)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    assert predict(cloud, settings_of(empty)).limit_bytes == 20 << 20
    more = predict(cloud, settings_of(warm)).limit_bytes - (20 << 20)
    assert more == pytest.approx(downloaded_bytes, rel=0.05)


def test_a_batch_holds_no_more_than_the_samples_of_a_rank(cloud: str, tmp_path: Path):
    config = config_of(tmp_path, size_bytes=1 << 20)
    all_at_once = predict(cloud, settings_of(config, batch_size=SAMPLES))
    larger = predict(cloud, settings_of(config, batch_size=10**6))
    # A batch that is there, one that is decoded, the loop's own and the one before it.
    assert all_at_once.memory.decoded_bytes == 4 * SAMPLES * 24 * 24 * 18 * 4
    assert larger.memory.decoded_bytes == all_at_once.memory.decoded_bytes
    assert larger.memory.compressed_bytes == all_at_once.memory.compressed_bytes
    assert larger.notes == all_at_once.notes


def test_a_window_that_is_too_small_for_the_loader_is_said(cloud: str, tmp_path: Path):
    config = config_of(tmp_path, size_bytes=1 << 20)
    notes = predict(cloud, settings_of(config)).notes
    (note,) = [note for note in notes if "has room for" in note]
    assert note.endswith("(a window is half of the cache at most)")
    notes = predict(cloud, settings_of(config_of(tmp_path, prefetch_window_bytes=BLOCK))).notes
    (note,) = [note for note in notes if "has room for" in note]
    assert note.endswith("(DATAPLANE_PREFETCH_WINDOW)")
    notes = predict(cloud, settings_of(config, batch_size=1)).notes
    assert not any("has room for" in note for note in notes)


def test_epochs_that_are_alike_are_not_simulated_and_that_is_said(cloud: str, tmp_path: Path):
    prediction = predict(cloud, settings_of(config_of(tmp_path), epochs=50))
    assert [one.epoch for one in prediction.epochs] == list(range(50))
    assert any("are taken to be like" in note for note in prediction.notes)
    assert prediction.epochs[-1].fetched_bytes == 0


def test_no_shard_is_read_and_the_cache_of_the_run_is_not_touched(cloud: str, tmp_path: Path):
    before = dp.stats().get("store_get_bytes", 0)
    config = config_of(tmp_path)
    prediction = predict(cloud, settings_of(config))
    assert dp.stats()["store_get_bytes"] - before == prediction.index_bytes
    assert not config.dir.exists()


def test_what_is_entered_for_the_opening_is_left_before_anything_is_computed(
    cloud: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    happened: list[str] = []

    @contextmanager
    def opening() -> Iterator[None]:
        happened.append("opens")
        yield
        happened.append("is open")

    class Simulator(HostSimulator):
        def run(self, *given: Any) -> Any:
            happened.append("is simulated")
            return super().run(*given)

    monkeypatch.setattr("dataplane.planning.predict.HostSimulator", Simulator)
    predict(cloud, settings_of(config_of(tmp_path)), opening=opening())
    assert happened == ["opens", "is open", "is simulated"]


def test_decoding_is_measured_where_no_rate_is_given(cloud: str, tmp_path: Path):
    prediction = predict(cloud, settings_of(config_of(tmp_path), decode_bytes_per_s=None))
    assert prediction.settings.decode_bytes_per_s > 0


def test_cost_is_of_bytes_and_requests_of_all_hosts(cloud: str, tmp_path: Path):
    settings = settings_of(config_of(tmp_path), ranks=2, hosts=2)
    free = predict(cloud, settings)
    assert free.cost is None
    paid = predict(cloud, replace(settings, prices=Prices(per_gb=1000.0, per_1000_requests=1.0)))
    assert paid.cost == pytest.approx(paid.fetched_bytes / 1e6 + paid.requests / 1000)


def test_memory_is_that_of_the_process_and_of_what_waits(cloud: str, tmp_path: Path):
    memory = predict(cloud, settings_of(config_of(tmp_path))).memory
    assert memory.process_bytes > 20 << 20
    assert 0 < memory.window_bytes <= 16 * BLOCK
    assert memory.decoded_bytes == 5 * 4 * 24 * 24 * 18 * 4
    assert memory.total_bytes > memory.process_bytes


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"ranks": 3, "hosts": 2}, "equally many"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"shuffle": "blocks"}, "shuffle"),
        ({"shuffle_window": 4}, "shuffle_window"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    cloud: str, tmp_path: Path, given: dict[str, Any], words: str
):
    with pytest.raises(ConfigError, match=words):
        predict(cloud, settings_of(config_of(tmp_path), **given))


def test_an_array_that_is_not_there_is_refused(cloud: str, tmp_path: Path):
    with pytest.raises(ConfigError, match="'v'"):
        predict(cloud, settings_of(config_of(tmp_path)), ["v"])
