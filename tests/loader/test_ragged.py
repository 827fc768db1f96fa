"""Ragged arrays padded and nested hold what those with offsets hold, wherever they are made."""

from __future__ import annotations

import io
import itertools
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import Dataset as TorchDataset

import dataplane as dp
from dataplane.datasets.ragged import RaggedForm
from dataplane.errors import ConfigError
from tests.datasets.packed import SAMPLES, Packed

NAMES = ["points", "point_data/pressure", "cells/connectivity", "fields/velocity"]
RAGGED = NAMES[:3]
DEVICES = [{}, {"device": "cpu", "decode": "cpu"}, {"device": "cpu", "decode": "gpu"}]
FORMS = ["padded", "nested"]


@pytest.fixture
def dataset(packed: Packed) -> Iterator[dp.Dataset]:
    with dp.Dataset(packed.url, NAMES) as opened:
        yield opened


def parts_of(batch: dict[str, Any], name: str) -> list[torch.Tensor]:
    """The samples of a ragged array, whatever the form, with what says how long they are."""
    values = batch[name]
    if values.is_nested:
        assert f"{name}.offsets" not in batch
        assert f"{name}.lengths" not in batch
        assert values.layout is torch.jagged
        return list(values.unbind())
    if f"{name}.lengths" in batch:
        assert f"{name}.offsets" not in batch
        lengths = batch[f"{name}.lengths"]
        assert lengths.dtype is torch.int64
        assert values.shape[:2] == (len(lengths), lengths.max())
        return [values[slot, :length] for slot, length in enumerate(lengths.tolist())]
    offsets = batch[f"{name}.offsets"].tolist()
    return [values[start:stop] for start, stop in itertools.pairwise(offsets)]


def check_same(got: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    assert len(got) == len(wanted) > 1
    for one, other in zip(got, wanted, strict=True):
        assert one["__key__"] == other["__key__"]
        assert torch.equal(one["fields/velocity"], other["fields/velocity"])
        for name in RAGGED:
            pairs = zip(parts_of(one, name), parts_of(other, name), strict=True)
            assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("options", DEVICES, ids=str)
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("form", FORMS)
def test_each_form_holds_the_same(
    dataset: dp.Dataset, form: Any, num_workers: int, options: dict[str, Any]
) -> None:
    given = {"batch_size": 4, "shuffle": True, "seed": 5, "num_workers": num_workers}
    wanted = list(dp.DataLoader(dataset, **given))
    got = list(dp.DataLoader(dataset, ragged_as=form, **given, **options))
    assert all(batch["points"].is_nested == (form == "nested") for batch in got)
    check_same(got, wanted)


@pytest.mark.parametrize("options", DEVICES, ids=str)
def test_what_is_behind_a_sample_is_the_padding(
    dataset: dp.Dataset, options: dict[str, Any]
) -> None:
    value = {"points": float("nan"), "cells/connectivity": -1}
    loader = dp.DataLoader(dataset, 4, ragged_as="padded", padding_value=value, **options)
    seen = 0
    for batch in loader:
        for name, is_padding in (
            ("points", torch.isnan),
            ("cells/connectivity", lambda part: part == -1),
            ("point_data/pressure", lambda part: part == 0),
        ):
            for row, length in zip(batch[name], batch[f"{name}.lengths"].tolist(), strict=True):
                assert is_padding(row[length:]).all()
                assert not is_padding(row[:length]).any()
                seen += len(row) - length
    assert seen


class Halved:
    """A transform that gives half of the points, in a dict within the sample too."""

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        half = sample["points"][::2]
        return {
            "__key__": sample["__key__"],
            "points": half,
            "inner": {"points": half * 2, "mean": half.mean(0)},
        }


@pytest.mark.parametrize("options", [{}, {"device": "cpu"}], ids=str)
@pytest.mark.parametrize("workers", [(0, "thread"), (2, "thread"), (1, "process")], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_what_a_transform_returns_gets_the_form_as_well(
    packed: Packed, form: Any, workers: tuple[int, Any], options: dict[str, Any]
) -> None:
    dataset = dp.Dataset(packed.url, ["points"], transform=Halved())
    given = {"batch_size": 4, "ragged": ["points"], "num_workers": workers[0]}
    wanted = list(dp.DataLoader(dataset, **given))
    loader = dp.DataLoader(dataset, ragged_as=form, transform_mode=workers[1], **given, **options)
    got = list(loader)
    assert len(got) == len(wanted)
    for one, other in zip(got, wanted, strict=True):
        assert torch.equal(one["inner"]["mean"], other["inner"]["mean"])
        for own, its in ((one, other), (one["inner"], other["inner"])):
            pairs = zip(parts_of(own, "points"), parts_of(its, "points"), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)
    assert got[0]["inner"]["points"].is_nested == (form == "nested")


@pytest.mark.parametrize("form", FORMS)
def test_a_tuple_of_a_transform_has_the_form_in_each_part(packed: Packed, form: Any) -> None:
    def pair(sample: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        return {"x": sample["points"]}, {"x": sample["points"][1:], "key": sample["__key__"]}

    dataset = dp.Dataset(packed.url, ["points"], transform=pair)
    wanted = list(dp.DataLoader(dataset, 4, ragged=["x"]))
    got = list(dp.DataLoader(dataset, 4, ragged=["x"], ragged_as=form))
    for batch, other in zip(got, wanted, strict=True):
        assert batch[1]["key"] == other[1]["key"]
        for one, its in zip(batch, other, strict=True):
            pairs = zip(parts_of(one, "x"), parts_of(its, "x"), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)


def test_a_transform_whose_results_are_stacked_has_nothing_to_pad(packed: Packed) -> None:
    dataset = dp.Dataset(packed.url, ["points"], transform=lambda sample: sample["points"].mean(0))
    for batch in dp.DataLoader(dataset, 4, ragged_as="nested"):
        assert not batch.is_nested


def test_nested_tensors_are_views_of_the_batch() -> None:
    batch = {"x": torch.arange(12.0).reshape(6, 2), "x.offsets": torch.tensor([0, 2, 2, 6])}
    made = RaggedForm(("x",), "nested").apply(batch)
    assert list(made) == ["x"]
    assert made["x"].values().data_ptr() == batch["x"].data_ptr()
    assert made["x"].offsets().data_ptr() == batch["x.offsets"].data_ptr()
    assert list(batch) == ["x", "x.offsets"], "what was given is not changed"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.bool, torch.complex64])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_elements_of_every_type_are_padded(dtype: torch.dtype, requires_grad: bool) -> None:
    values = torch.tensor([[0, 1], [1, 1], [1, 0]]).to(dtype)
    if requires_grad and dtype is not torch.bool:
        values.requires_grad_()
    batch = {"x": values, "x.offsets": torch.tensor([0, 1, 1, 3])}
    padded = RaggedForm(("x",), "padded", 1).apply(batch)["x"]
    assert padded.dtype is dtype
    assert padded.requires_grad == values.requires_grad
    expected = [[[0, 1], [1, 1]], [[1, 1], [1, 1]], [[1, 1], [1, 0]]]
    assert torch.equal(padded, torch.tensor(expected).to(dtype))


def test_nested_arrays_of_equal_lengths_are_computed_with_together(dataset: dp.Dataset) -> None:
    loader = dp.DataLoader(dataset, 4, ragged_as="nested")
    for batch, wanted in zip(loader, dp.DataLoader(dataset, 4), strict=True):
        product = batch["points"][..., 0:1].squeeze(-1) * batch["point_data/pressure"]
        expected = wanted["points"][:, 0] * wanted["point_data/pressure"]
        assert torch.equal(product.values(), expected)
        with pytest.raises(RuntimeError):
            _ = batch["point_data/pressure"] * batch["cells/connectivity"][..., 0:1].squeeze(-1)


@pytest.mark.parametrize("form", ["offsets", *FORMS])
def test_batches_are_saved_and_pickled(dataset: dp.Dataset, form: Any) -> None:
    batches = list(dp.DataLoader(dataset, 4, ragged_as=form))
    kept = io.BytesIO()
    torch.save(batches, kept)
    kept.seek(0)
    check_same(torch.load(kept, weights_only=True), batches)
    check_same(pickle.loads(pickle.dumps(batches)), batches)


def test_another_loader_that_is_put_together_of_it_reads_the_same(dataset: dp.Dataset) -> None:
    ours = dp.DataLoader(dataset, 4, ragged_as="padded", padding_value=-2)
    other = TorchLoader(dataset, 4, sampler=ours.sampler, collate_fn=ours.collate_fn)
    for one, wanted in zip(other, ours, strict=True):
        assert torch.equal(one["points"], wanted["points"])
        assert torch.equal(one["points.lengths"], wanted["points.lengths"])
    copied = dp.DataLoader(dataset, 4, collate_fn=ours.collate_fn, ragged_as="padded")
    assert torch.equal(next(iter(copied))["points.lengths"], wanted_lengths(dataset))


def wanted_lengths(dataset: dp.Dataset) -> torch.Tensor:
    return torch.tensor([len(dataset[number]["points"]) for number in range(4)])


def test_single_samples_have_no_form(dataset: dp.Dataset) -> None:
    samples = list(dp.DataLoader(dataset, batch_size=None, ragged_as="padded"))
    assert len(samples) == SAMPLES
    assert all("points.lengths" not in sample for sample in samples)


@pytest.mark.parametrize("transform", [None, dict])
def test_a_list_in_the_place_of_an_index_is_a_batch(packed: Packed, transform: Any) -> None:
    dataset = dp.Dataset(packed.url, ["points"], transform=transform)
    ragged = [] if transform is None else ["points"]
    loader = dp.DataLoader(
        dataset, batch_size=None, sampler=[[1, 2]], ragged_as="padded", ragged=ragged
    )
    (batch,) = loader
    assert batch["points.lengths"].tolist() == [len(dataset[i]["points"]) for i in (1, 2)]


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_without_samples_has_the_form(dataset: dp.Dataset, form: Any) -> None:
    loader = dp.DataLoader(dataset, batch_sampler=[[], [1]], ragged_as=form)
    empty, one = loader
    assert empty["points"].shape[0] == 0
    assert one["points"].shape[0] == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ragged_as": "list"}, "ragged_as must be one of"),
        ({"ragged_as": "padded", "padding_value": "0"}, "padding_value must be a number"),
        ({"ragged_as": "padded", "padding_value": {"points": None}}, "must be a number"),
        ({"ragged_as": "nested", "padding_value": 1}, "fills up with"),
        ({"padding_value": {"points": 1}}, "fills up with"),
        ({"ragged_as": "padded", "padding_value": 0.5}, "cells/connectivity.*cannot be padded"),
        ({"ragged_as": "padded", "padding_value": 2**31}, "cells/connectivity.*torch.int32"),
        ({"ragged_as": "padded", "padding_value": float("nan")}, "cells/connectivity"),
        ({"ragged_as": "padded", "padding_value": {"points": 1e300}}, "points.*float32"),
        ({"ragged_as": "padded", "collate_fn": list}, "both say what a batch is"),
        (
            {"ragged_as": "padded", "padding_value": {"point": -1}},
            "padding_value names 'point'.*did you mean 'points'",
        ),
        ({"ragged": ["nope"]}, "ragged names 'nope'.*the dataset has 'points', 'point_data"),
        ({"ragged": ["points", "nope"], "ragged_as": "nested"}, "ragged names 'nope'"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(
    dataset: dp.Dataset, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        dp.DataLoader(dataset, 4, **given)


def test_a_value_that_a_transform_s_result_cannot_hold_is_refused(packed: Packed) -> None:
    dataset = dp.Dataset(
        packed.url, ["points"], transform=lambda sample: {"mask": sample["points"][:, 0] > 0}
    )
    loader = dp.DataLoader(dataset, 4, ragged=["mask"], ragged_as="padded", padding_value=2)
    with pytest.raises(ConfigError, match=r"mask.*torch\.bool"):
        next(iter(loader))


def test_a_padding_of_what_no_transform_makes_ragged_is_refused(packed: Packed) -> None:
    dataset = dp.Dataset(packed.url, ["points"], transform=dict)
    given: dict[str, Any] = {"ragged": ["points"], "ragged_as": "padded"}
    assert next(iter(dp.DataLoader(dataset, 4, **given, padding_value={"points": 1})))
    with pytest.raises(ConfigError, match=r"padding_value names 'point'.*ragged has 'points'"):
        dp.DataLoader(dataset, 4, **given, padding_value={"point": 1})


def test_a_collate_fn_that_is_set_later_is_refused(dataset: dp.Dataset) -> None:
    loader = dp.DataLoader(dataset, 4, ragged_as="padded")
    loader.collate_fn = list
    with pytest.raises(ConfigError, match="both say what a batch is"):
        iter(loader)


def test_other_datasets_and_dali_are_refused(dataset: dp.Dataset) -> None:
    class Other(TorchDataset[int]):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> int:
            return index

    with pytest.raises(ConfigError, match="ragged_as is for"):
        dp.DataLoader(Other(), 2, ragged_as="padded")
    with pytest.raises(ConfigError, match="without ragged_as"):
        dp.dali_source(dp.DataLoader(dataset, 4, ragged_as="nested"))
    with pytest.raises(ConfigError, match="with offsets"):
        dp.dali_pipeline(dataset, 4, [], ragged_as="padded")
