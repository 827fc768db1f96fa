"""Provenance says what was read, so that it can be read again: samples, draws, versions, bytes."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Subset

import dataplane as dp
from dataplane.datasets.draws import Draws
from dataplane.errors import ConfigError, LoaderError
from dataplane.stores import open_store
from tests.selections.data import pack_meshes

SELECTIONS = {"points": dp.points(50), "fields/p": dp.crop((4, 4, 4))}
COUNT = 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("meshes")
    pack_meshes(folder, COUNT, permute_seed=3)
    assert len(list(folder.glob("*.tar"))) > 1
    return folder


@pytest.fixture
def dataset(folder: Path) -> Iterator[dp.Dataset]:
    with dp.Dataset(folder, SELECTIONS) as opened:
        yield opened


def again(step: dict[str, Any], selections: Any = SELECTIONS) -> list[dict[str, Any]]:
    """Read the samples of a step from nothing but what JSON has kept of its provenance."""
    step = json.loads(json.dumps(step))
    opened = [dp.Dataset(one["url"], selections, cache=False) for one in step["datasets"]]
    assert [one.identity for one in opened] == [one["identity"] for one in step["datasets"]]
    return [
        opened[one["dataset"]].numpy(one["number"], draw=one["draw"] or 0)
        for one in step["samples"]
    ]


def check_read_again(batch: dict[str, Any], step: dict[str, Any], **given: Any) -> None:
    samples = again(step, **given)
    assert [sample["__key__"] for sample in samples] == list(batch["__key__"])
    assert [one["key"] for one in step["samples"]] == list(batch["__key__"])
    for slot, sample in enumerate(samples):
        for name, values in sample.items():
            if name != "__key__":
                assert np.array_equal(batch[name][slot].numpy(), values), name


@pytest.mark.parametrize("options", [{}, {"device": "cpu", "decode": "gpu"}], ids=str)
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("given", [{"shuffle": True}, {"weights": range(COUNT)}], ids=str)
def test_every_step_can_be_read_again(
    dataset: dp.Dataset, given: dict[str, Any], num_workers: int, options: dict[str, Any]
) -> None:
    loader = dp.DataLoader(dataset, 2, seed=5, num_workers=num_workers, **given, **options)
    for epoch in range(2):
        planned = loader.provenance_of_epoch(epoch)
        for number, batch in enumerate(loader):
            found = loader.provenance()
            step = found.as_dict()
            assert (step["step"], step["epoch"], step["seed"]) == (number, epoch, 5)
            assert found.keys == batch["__key__"]
            assert step == next(planned).as_dict()
            check_read_again(batch, step)
        assert next(planned, None) is None


def test_draws_and_looks_are_those_of_the_order(dataset: dp.Dataset) -> None:
    loader = dp.DataLoader(dataset, 3, seed=5, weights=[1, 5, *[0] * (COUNT - 2)], num_samples=12)
    looks = set()
    for step in loader.provenance_of_epoch(4):
        for one in step.as_dict()["samples"]:
            assert one["draw"] == int(Draws(5, 4).of(one["number"], one["look"])[0])
            looks.add((one["number"], one["look"]))
    assert len(looks) == 12


def test_it_names_the_version_and_the_bytes_of_each_shard(
    folder: Path, dataset: dp.Dataset
) -> None:
    loader = dp.DataLoader(dataset, 4, seed=5)
    store = open_store(f"file://{folder}")
    seen = 0
    for step in loader.provenance_of_epoch(0):
        for one in step.as_dict()["samples"]:
            info = store.head(one["shard"])
            assert one["etag"] == info.etag
            entry = dataset.index.places(one["number"])
            assert entry.shard == one["shard"]
            for start, stop in one["ranges"]:
                assert entry.zip_start <= start < stop <= entry.zip_stop
                seen += stop - start
    assert 0 < seen < sum(path.stat().st_size for path in folder.glob("*.tar"))


def test_an_epoch_is_told_without_reading_a_byte_of_a_sample(dataset: dp.Dataset) -> None:
    def read() -> dict[str, float]:
        counted = dataset.counters.snapshot()
        return {name: value for name, value in counted.items() if "bytes" in name}

    before = read()
    steps = [step.as_dict() for step in dp.DataLoader(dataset, 2, seed=5).provenance_of_epoch(3)]
    assert len(steps) == 5
    assert read() == before
    dataset.numpy(0)
    assert read() != before, "which is what reading changes"
    (last,) = dp.DataLoader(dataset, 2, seed=5).provenance_of_epoch(3, first=4)
    assert last.as_dict() == steps[-1]


def test_ranks_share_an_epoch_and_each_tells_its_own(dataset: dp.Dataset) -> None:
    keys = []
    for rank in range(3):
        loader = dp.DataLoader(dataset, 2, shuffle=True, seed=5, rank=rank, world_size=3)
        for step in loader.provenance_of_epoch(0):
            assert (step.rank, step.world_size) == (rank, 3)
            keys += step.keys
    assert sorted(keys) == sorted(dataset.keys)


def test_steps_of_a_resumed_run_go_on_counting(dataset: dp.Dataset) -> None:
    loader = dp.DataLoader(dataset, 2, shuffle=True, seed=5)
    batches = iter(loader)
    next(batches)
    next(batches)
    other = dp.DataLoader(dataset, 2, shuffle=True, seed=5)
    other.load_state_dict(loader.state_dict())
    wanted = [step.as_dict() for step in loader.provenance_of_epoch(0)]
    assert [other.provenance().as_dict() for _ in other] == wanted[2:]


def test_subsets_and_mixes_tell_the_dataset_and_the_number_in_it(
    folder: Path, dataset: dp.Dataset
) -> None:
    with dp.Dataset(folder, SELECTIONS) as other:
        for data in (
            Subset(dataset, [4, 2, 8]),
            ConcatDataset([Subset(dataset, [3, 1]), other]),
            dp.mix([dataset, other], weights=[1, 2], stop=14),
        ):
            loader = dp.DataLoader(data, 2, seed=5, shuffle=True)
            for batch, planned in zip(loader, loader.provenance_of_epoch(0), strict=True):
                step = loader.provenance().as_dict()
                assert step == planned.as_dict()
                step["datasets"] = [one | {"url": str(folder)} for one in step["datasets"]]
                again_of = dict(batch)
                again_of.pop("__source__", None)
                assert [one["key"] for one in step["samples"]] == batch["__key__"]
                check_read_again(again_of, step)


def test_tiles_and_whole_arrays_draw_nothing(folder: Path) -> None:
    selections = {"fields/p": dp.crop((8, 8, 8), "grid")}
    loader = dp.DataLoader(dp.Dataset(folder, selections), 3)
    for batch in loader:
        step = loader.provenance().as_dict()
        assert [one["tile"] for one in step["samples"]] == batch["__tile__"].tolist()
        assert {one["draw"] for one in step["samples"]} == {None}
        check_read_again(batch, step, selections=selections)


def test_looks_at_a_sample_have_draws_of_their_own(folder: Path) -> None:
    dataset = dp.Dataset(folder, {"fields/p": dp.crop((4, 4, 4))}, samples_per_read=3)
    steps = [step.as_dict() for step in dp.DataLoader(dataset, 3, seed=1).provenance_of_epoch(0)]
    assert [one["number"] for one in steps[0]["samples"]] == [0, 1, 2]
    assert len({one["draw"] for step in steps for one in step["samples"]}) == 3 * COUNT


def test_what_replaced_a_sample_is_what_is_told(tmp_path: Path) -> None:
    pack_meshes(tmp_path, 5, permute_seed=3)
    with dp.Dataset(tmp_path, SELECTIONS, cache=False) as opened:
        array = opened.index.places(1).arrays["fields/p"]
    content = bytearray((tmp_path / array.shard).read_bytes())
    content[array.start : array.stop] = bytes(array.stop - array.start)
    (tmp_path / array.shard).write_bytes(content)
    for policy, wanted in (("replace", [0, 2, 2, 3, 4]), ("skip", [0, 2, 3, 4])):
        opened = dp.Dataset(tmp_path, SELECTIONS, errors=policy, cache=False)
        loader = dp.DataLoader(opened, 5, seed=2)
        (batch,) = loader
        step = loader.provenance().as_dict()
        assert [one["number"] for one in step["samples"]] == wanted
        check_read_again(batch, step)
        sizes = []
        again_and_again = dp.DataLoader(opened, 4, seed=2, weights=[1] * 5, num_samples=16)
        for batch in again_and_again:
            check_read_again(batch, again_and_again.provenance().as_dict())
            sizes.append(len(batch["__key__"]))
        assert (min(sizes) < 4) == (policy == "skip")


def test_a_batch_is_known_by_its_keys_where_a_framework_looks_ahead(dataset: dp.Dataset) -> None:
    loader = dp.DataLoader(dataset, 2, shuffle=True, seed=5)
    batches = iter(loader)
    first, second = next(batches), next(batches)
    assert loader.provenance(first).step == 0
    assert loader.provenance(pickle.loads(pickle.dumps(second))).step == 1
    with pytest.raises(LoaderError, match="none of the last 2 batches"):
        loader.provenance({"__key__": ["case-0"]})
    with pytest.raises(ConfigError, match="has no '__key__'"):
        loader.provenance({"points": first["points"]})


def test_where_accelerate_s_loop_is_ahead_the_batch_has_to_be_named(dataset: dp.Dataset) -> None:
    loader = dp.DataLoader(dataset, 2, seed=5)
    batch = next(iter(loader))
    loader.__dict__["_shard"] = object()
    with pytest.raises(ConfigError, match=r"loader\.provenance\(batch\)"):
        loader.provenance()
    assert loader.provenance(batch).step == 0


def test_single_samples_are_steps(dataset: dp.Dataset) -> None:
    loader = dp.DataLoader(dataset, batch_size=None, shuffle=True, seed=5)
    for sample, planned in zip(loader, loader.provenance_of_epoch(0), strict=True):
        assert loader.provenance(sample).keys == [sample["__key__"]] == planned.keys


def test_a_transform_changes_nothing_of_it(folder: Path, dataset: dp.Dataset) -> None:
    plain = dp.DataLoader(dataset, 2, shuffle=True, seed=5)
    wanted = [step.as_dict()["samples"] for step in plain.provenance_of_epoch(0)]
    changed = dp.Dataset(folder, SELECTIONS, transform=lambda sample: {"x": sample["points"] * 2})
    loader = dp.DataLoader(changed, 2, shuffle=True, seed=5, num_workers=2)
    assert [loader.provenance().as_dict()["samples"] for _ in loader] == wanted


def test_a_sampler_and_a_drawn_seed_are_told_batch_by_batch(dataset: dp.Dataset) -> None:
    for given in ({"sampler": [3, 1, 3, 5]}, {"shuffle": True}, {}):
        loader = dp.DataLoader(dataset, 2, **given)
        for batch in loader:
            check_read_again(batch, loader.provenance().as_dict())
        with pytest.raises(ConfigError, match="when it was yielded"):
            loader.provenance_of_epoch(0)


def test_before_the_first_batch_there_is_none(dataset: dp.Dataset) -> None:
    loader = dp.DataLoader(dataset, 2, seed=5)
    with pytest.raises(LoaderError, match="no batch was yielded yet"):
        loader.provenance()
    batches = iter(loader)
    with pytest.raises(LoaderError, match="no batch was yielded yet"):
        loader.provenance()
    next(batches)
    assert pickle.loads(pickle.dumps(loader))._trail is None


def test_what_cannot_be_known_is_refused(folder: Path, dataset: dp.Dataset) -> None:
    class Own(torch.utils.data.Dataset[Any]):
        def __init__(self) -> None:
            self.inner = dataset

        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Any:
            return self.inner[index % 2]

    skipping = dp.Dataset(folder, SELECTIONS, transform=dict, transform_errors="skip")
    for data, message in ((Own(), "code may read"), (skipping, "transform_errors"), ([1], "list")):
        loader = dp.DataLoader(data, 1)
        with pytest.raises(ConfigError, match=message):
            loader.provenance()
        with pytest.raises(ConfigError, match=message):
            loader.provenance_of_epoch(0)
    with pytest.raises(ConfigError, match="epoch"):
        dp.DataLoader(dataset, seed=5).provenance_of_epoch(-1)


def test_repetitions_of_a_sample_in_a_subset_are_counted(dataset: dp.Dataset) -> None:
    loader = dp.DataLoader(Subset(dataset, [0, 1, 0, 0]), 4, seed=3)
    next(iter(loader))
    samples = loader.provenance().as_dict()["samples"]
    assert [one["repetition"] for one in samples] == [0, 0, 1, 2]
    assert [one["look"] for one in samples] == [0] * 4
    assert len({one["draw"] for one in samples}) == 4
