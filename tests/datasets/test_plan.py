"""Plans ask for exactly the chunks a selection touches, and refuse what the index cannot mean."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import dataplane as dp
from dataplane.datasets import plan as plan_room
from dataplane.datasets.batch import assemble, separate
from dataplane.datasets.layout import Arrangement, ArrayLayout
from dataplane.datasets.numbering import Numbering
from dataplane.datasets.plan import Planner
from dataplane.datasets.reader import SampleReader
from dataplane.datasets.selections import ArrayForm, Region, region_shape, whole, whole_region
from dataplane.shards.model import MISSING_CHUNK
from dataplane.stores.base import ObjectInfo
from tests.datasets.inside import kept_bytes, kept_plans, known_shards, read_by
from tests.datasets.packed import SAMPLES, Packed


@dataclasses.dataclass(frozen=True)
class Cyclic:
    """A run of `count` rows from `start` on, around the end: two ranges when it wraps."""

    start: int
    count: int
    is_random: bool = False

    def region(self, array: ArrayForm, *, draw: int) -> Region:
        del draw
        extent = array.shape[0]
        stop = min(self.start + self.count, extent)
        wrapped = self.count - (stop - self.start)
        rows = ((self.start, stop), (0, wrapped)) if wrapped else ((self.start, stop),)
        return (rows, *whole_region(array.shape[1:]))


class Shifted(Cyclic):
    """As Cyclic, from `draw` on."""

    def region(self, array: ArrayForm, *, draw: int) -> Region:
        return Cyclic(draw, self.count).region(array, draw=0)


def spans_by_hand(dataset: dp.Dataset, index: int) -> list[tuple[int, int]]:
    chunks = sorted(
        (int(offset), int(offset + nbytes))
        for name in dataset.array_names
        for offset, nbytes in zip(
            dataset.index[index].arrays[name].chunk_offsets,
            dataset.index[index].arrays[name].chunk_nbytes,
            strict=True,
        )
        if offset != MISSING_CHUNK
    )
    spans = [chunks[0]]
    for start, stop in chunks[1:]:
        if start > spans[-1][1] + plan_room.ROUND_TRIP_BYTES:
            spans.append((start, stop))
        else:
            spans[-1] = (spans[-1][0], max(spans[-1][1], stop))
    return spans


@pytest.mark.parametrize("gap", [0, 4096, 1 << 20])
@pytest.mark.parametrize("arrays", [None, ["points"], ["types/c16", "points", "types/u1"]])
def test_spans_are_what_merging_chunk_by_chunk_gives(
    packed: Packed, monkeypatch: pytest.MonkeyPatch, gap: int, arrays: list[str] | None
) -> None:
    monkeypatch.setattr(plan_room, "ROUND_TRIP_BYTES", gap)
    dataset = dp.Dataset(packed.url, arrays)
    for index in range(SAMPLES):
        plan = dataset.reader().planner.plan(index)
        assert list(plan.spans) == spans_by_hand(dataset, index)
        assert plan.packed_bytes == sum(stop - start for start, stop in plan.spans)
        for row in plan.rows[plan.rows["source_nbytes"] > 0]:
            name = dataset.array_names[row["destination"]]
            entry = dataset.index[index].arrays[name]
            expected = int(entry.chunk_offsets[row["chunk"]])
            assert plan.shard_offset(int(row["source_offset"])) == expected


def test_a_selection_of_two_ranges_is_put_together(packed: Packed) -> None:
    for start in (0, 5, 690, 699):
        dataset = dp.Dataset(packed.url, {"points": Cyclic(start, 40), "global_data/mach": whole()})
        sample = dataset[0]
        expected = np.roll(packed.values("case-000")["points"], -start, axis=0)[:40]
        assert np.array_equal(sample["points"].numpy(), expected)
        (points, mach) = dataset.layouts
        assert (points.arrangement, points.shape) == (Arrangement.STACKED, (40, 3))
        assert mach.shape == ()


def test_a_random_selection_is_planned_anew_for_each_draw(packed: Packed) -> None:
    dataset = dp.Dataset(packed.url, {"points": Shifted(0, 8, is_random=True)})
    reader = dataset.reader()
    points = packed.values("case-003")["points"]
    for draw in (0, 7, 100):
        (sample,) = separate([read_by(reader.planner.plan(3, draw=draw), reader)], reader.layouts)
        assert np.array_equal(sample["points"].numpy(), points[draw : draw + 8])


def test_plans_are_kept_within_bounds(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    planner = dp.Dataset(packed.url).reader().planner
    first = planner.plan(0)
    assert planner.plan(0) is first
    monkeypatch.setattr(plan_room, "MAX_KEPT_BYTES", 3 * first.kept_bytes)
    for index in range(SAMPLES):
        planner.plan(index)
    assert kept_bytes(planner) == sum(plan.kept_bytes for plan in kept_plans(planner).values())
    assert 0 < kept_bytes(planner) <= plan_room.MAX_KEPT_BYTES
    assert planner.plan(0) is not first


def test_a_chunk_outside_its_shard_is_refused(packed: Packed) -> None:
    dataset = dp.Dataset(packed.url)
    first_shard = dataset.index[0].shard
    size = dataset.index.shards[first_shard]

    def describe(shard: str) -> ObjectInfo:
        return ObjectInfo(shard, size // 16, "tag")

    planner = Planner(
        dataset.index, dataset.selections, describe, required=True, numbering=Numbering(SAMPLES)
    )
    last_of_its_shard = max(i for i in range(SAMPLES) if dataset.index[i].shard == first_shard)
    with pytest.raises(dp.FormatError, match="lies outside its shard"):
        planner.plan(last_of_its_shard)


def test_a_shard_of_another_length_is_refused(packed: Packed) -> None:
    dataset = dp.Dataset(packed.url, cache=False)
    for shard, info in known_shards(dataset).items():
        known_shards(dataset)[shard] = dataclasses.replace(info, size_bytes=info.size_bytes - 1)
    with pytest.raises(dp.FormatError, match="the index says"):
        dataset[0]


def test_a_store_that_cannot_list_is_asked_for_each_shard(packed: Packed) -> None:
    dataset = dp.Dataset(packed.url, cache=False)
    known_shards(dataset).clear()
    for index in range(SAMPLES):
        dataset[index]
    assert set(known_shards(dataset)) == {dataset.index[i].shard for i in range(SAMPLES)}


def test_the_layout_is_that_of_the_dataset(packed: Packed) -> None:
    layouts = {layout.name: layout for layout in dp.Dataset(packed.url).layouts}
    assert layouts["points"] == ArrayLayout("points", Arrangement.RAGGED, np.dtype("f4"), (3,))
    assert layouts["point_data/pressure"].shape == ()
    assert layouts["fields/velocity"].arrangement is Arrangement.STACKED
    assert layouts["fields/velocity"].shape == (17, 12, 10, 3)
    assert layouts["fields/empty"].shape == (0, 4)
    assert layouts["global_data/mach"].shape == ()


def fetched(dataset: dp.Dataset, indices: list[int]) -> tuple[SampleReader, list]:
    reader = dataset.reader()
    return reader, reader.fetch(indices)


def test_a_batch_holds_every_sample_in_its_place(packed: Packed) -> None:
    reader, samples = fetched(dp.Dataset(packed.url), [4, 9, 4, 0])
    for threads in (1, 3):
        batch = assemble(samples, reader.layouts, threads=threads)
        assert batch["__key__"] == ["case-004", "case-009", "case-004", "case-000"]
        for place, key in enumerate(batch["__key__"]):
            for name, values in packed.values(key).items():
                if f"{name}.offsets" in batch:
                    start, stop = batch[f"{name}.offsets"][place : place + 2]
                    got = batch[name][start:stop]
                else:
                    got = batch[name][place]
                assert got.numpy().dtype == values.dtype
                assert np.array_equal(got.numpy(), values), name


def test_ragged_structure_does_not_depend_on_the_batch(packed: Packed) -> None:
    reader, samples = fetched(dp.Dataset(packed.url, ["points"]), [3])
    batch = assemble(samples, reader.layouts)
    assert set(batch) == {"points", "points.offsets", "__key__"}
    assert batch["points.offsets"].dtype == torch.int64
    assert batch["points.offsets"].tolist() == [0, len(packed.values("case-003")["points"])]
    reader, samples = fetched(dp.Dataset(packed.url, ["fields/velocity"]), [0, 5])
    assert set(assemble(samples, reader.layouts)) == {"fields/velocity", "__key__"}


def test_shapes_of_selections() -> None:
    assert region_shape(whole().region(ArrayForm("a", (4, 5)), draw=0)) == (4, 5)
    assert region_shape(whole().region(ArrayForm("a", ()), draw=0)) == ()
    assert region_shape(Cyclic(8, 5).region(ArrayForm("a", (10, 3)), draw=0)) == (5, 3)
