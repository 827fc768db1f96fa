"""Records of runs are kept, read again, and refused where they are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import dataplane as dp
from dataplane.errors import ConfigError, NotFound
from tests.datasets.packed import pack_numbered


def recorded(folder: Path) -> dp.RunRecord:
    packed = pack_numbered(folder / "ds", 8)
    record = dp.RunRecord()
    loader = dp.DataLoader(
        dp.Dataset(packed.url, cache=folder / "cache"), batch_size=2, num_workers=1
    )
    for _ in range(2):
        list(loader)
        record.add(loader)
    return record


def test_a_record_is_what_loader_and_counters_said_after_each_epoch(tmp_path: Path):
    record = recorded(tmp_path)
    record.save(tmp_path / "run.json")
    document = json.loads((tmp_path / "run.json").read_text())
    assert [epoch["loader"]["batches"] for epoch in document["epochs"]] == [4, 4]
    again = dp.RunRecord.load(tmp_path / "run.json")
    assert len(again) == 2
    assert again.counter("store_get_bytes", 1) > 0
    # A file store, which is counted as any other; the second epoch came from the cache.
    assert again.counter("store_get_bytes", 2) == again.counter("store_get_bytes", 1)
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "ds", "run.json"}


def test_counters_are_counted_from_where_the_record_was_made(tmp_path: Path):
    recorded(tmp_path)
    record = dp.RunRecord()
    record.epochs.append({"loader": {}, "stats": dp.stats()})
    assert record.counter("store_get_bytes", 1) == 0


def test_there_is_nothing_to_record_before_a_pass(tmp_path: Path):
    packed = pack_numbered(tmp_path / "ds", 2)
    loader = dp.DataLoader(dp.Dataset(packed.url, cache=tmp_path / "cache"))
    with pytest.raises(ConfigError, match="before the first pass"):
        dp.RunRecord().add(loader)


def test_a_loader_without_statistics_is_refused():
    loader = torch.utils.data.DataLoader([1, 2])
    with pytest.raises(ConfigError, match="DataLoader has no statistics"):
        dp.RunRecord().add(loader)  # type: ignore[arg-type]


def test_a_pass_without_a_batch_is_read_again(tmp_path: Path):
    document = sound()
    document["epochs"][0]["loader"].update(batches=0, first_batch_s=None)
    (tmp_path / "run.json").write_text(json.dumps(document))
    assert len(dp.RunRecord.load(tmp_path / "run.json")) == 1


def sound() -> dict[str, Any]:
    figures = {"batches": 1, "decoded_bytes": 1, "read_bytes": 1, "wait_s": 0.1, "elapsed_s": 1.0}
    return {
        "format": "dataplane-run",
        "version": 1,
        "before": {},
        "epochs": [
            {"loader": {**figures, "first_batch_s": 0.1}, "stats": {"store_get_requests": 3}}
        ],
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda it: it.update(format="other"), "no record"),
        (lambda it: it.update(version=2), "version 2"),
        (lambda it: it.update(epochs=[]), "no epochs"),
        (lambda it: it.update(before={"x": "y"}), "before"),
        (lambda it: it["epochs"][0].pop("stats"), "epoch 0"),
        (lambda it: it["epochs"][0]["loader"].pop("elapsed_s"), "epoch 0"),
        (lambda it: it["epochs"][0]["loader"].update(wait_s=float("nan")), "epoch 0"),
        (lambda it: it["epochs"][0]["loader"].update(elapsed_s=-1.0), "epoch 0"),
        (lambda it: it["epochs"][0]["loader"].update(batches=10**400), "epoch 0"),
        (lambda it: it["epochs"][0]["loader"].pop("first_batch_s"), "epoch 0"),
        (lambda it: it["epochs"][0]["loader"].update(first_batch_s="soon"), "epoch 0"),
        (lambda it: it["epochs"][0]["loader"].update(first_batch_s=float("nan")), "epoch 0"),
        (lambda it: it["epochs"][0]["loader"].update(first_batch_s=-1), "epoch 0"),
        (lambda it: it["epochs"][0]["stats"].update(store_get_bytes=-1), "epoch 0"),
        (lambda it: it["before"].update(store_get_bytes=1), "store_get_bytes falls from 1 to 0"),
        (
            lambda it: it["epochs"].append({**it["epochs"][0], "stats": {"store_get_requests": 2}}),
            "store_get_requests falls from 3 to 2 in epoch 1",
        ),
        (lambda it: it["epochs"].append(7), "epoch 1"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path: Path, change: Any, words: str):
    path = tmp_path / "run.json"
    document = sound()
    path.write_text(json.dumps(document))
    assert len(dp.RunRecord.load(path)) == 1
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=words):
        dp.RunRecord.load(path)


def test_files_that_are_not_there_or_no_json_are_refused(tmp_path: Path):
    with pytest.raises(NotFound, match=r"run\.json"):
        dp.RunRecord.load(tmp_path / "run.json")
    (tmp_path / "run.json").write_bytes(b"\xff{")
    with pytest.raises(ConfigError, match="no record of a run"):
        dp.RunRecord.load(tmp_path / "run.json")
