"""Samples that are planned, read and decoded together are what they are one by one."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import dataplane as dp
from dataplane.cache import CacheConfig, PlannedRead
from dataplane.datasets import forms as forms_room
from dataplane.datasets.batch import Batch, assemble, separate
from dataplane.datasets.layout import Arrangement
from dataplane.datasets.plan import Planner
from dataplane.datasets.reader import SampleReader
from dataplane.datasets.samples import FetchedSample, FetchedTogether
from dataplane.shards import DatasetIndex, SourceArray, SourceSample, index_chunks
from dataplane.shards.model import MISSING_CHUNK
from dataplane.stores import open_store
from tests.datasets.packed import Packed, pack
from tests.datasets.test_plan import Cyclic

SAMPLES = 24


def small_sample(number: int) -> SourceSample:
    """Stacked, ragged, listed and partial arrays, scalars, eight axes, chunks not stored."""
    rng = np.random.default_rng([number, 77])
    half = np.zeros(2000, "f4")
    half[: 1000 if number % 3 else 0] = rng.random(1000 if number % 3 else 0)
    arrays = {
        "stacked": rng.random((3, 4), dtype="f4"),
        "scalar": np.array(number, "i8"),
        "ragged": rng.random((number % 4, 3)),
        "half": half,
        "nothing": np.zeros(1500, "f8"),
        "axes": rng.integers(0, 9, (1, 2) * 4, "i2"),
        "listed": rng.random((2 + number % 2, 2 + number % 3), dtype="f4"),
        "types": rng.random(5).astype("f4" if number % 2 else "f8"),
        "empty": np.zeros((0, 4), "f4"),
    }
    if number % 5:
        arrays["partial"] = rng.random((2, 2))
    if number % 7 == 1:
        arrays["rare"] = rng.random((number, 2), dtype="f4")[:, : 1 + number % 2]
    if number % 6 == 5:
        arrays = dict(reversed(arrays.items()))
    return SourceSample(
        key=f"small-{number:03d}",
        arrays={name: SourceArray(values, None, None, {}) for name, values in arrays.items()},
        attributes={"number": number},
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    folder = tmp_path_factory.mktemp("small")
    samples = (small_sample(number) for number in range(SAMPLES))
    made = pack(folder, samples, chunk_bytes=4096, shard_bytes=64 << 10)
    assert len(list(folder.glob("*.tar"))) > 2
    index = dp.Dataset(made.url, cache=False).index
    offsets = [index[i].arrays[name].chunk_offsets for i in (0, 1) for name in ("half", "nothing")]
    missing = [(places == MISSING_CHUNK).sum() for places in offsets]
    assert missing[0] > missing[2] > 0 < missing[1] == missing[3]
    return made


@pytest.fixture
def config(tmp_path: Path) -> CacheConfig:
    return CacheConfig(dir=tmp_path / "cache")


def one_by_one(dataset: dp.Dataset) -> Planner:
    """A planner that makes every plan by itself."""
    planner = copy.copy(dataset.reader().planner)
    planner.forms = None
    planner._kept = type(planner._kept)()
    return planner


def assert_same_plans(dataset: dp.Dataset) -> None:
    planner, single = dataset.reader().planner, one_by_one(dataset)
    for index in range(len(dataset)):
        one, other = planner.plan(index), single.plan(index)
        for name in ("index", "key", "shard", "parts", "spans", "packed_bytes"):
            assert getattr(one, name) == getattr(other, name)
        assert one.rows.tobytes() == other.rows.tobytes()
        assert one.entry.key == one.key


def assert_same_batches(one: Batch, other: Batch) -> None:
    assert list(one) == list(other)
    for name, value in one.items():
        if isinstance(value, torch.Tensor):
            assert value.dtype == other[name].dtype
            assert value.numpy().tobytes() == other[name].numpy().tobytes()
            assert value.shape == other[name].shape
            continue
        assert len(value) == len(other[name])
        for mine, its in zip(value, other[name], strict=True):
            assert type(mine) is type(its)
            assert mine.equal(its) if isinstance(mine, torch.Tensor) else mine == its


SELECTED = [
    None,
    ["stacked", "scalar"],
    ["types", "half", "nothing", "listed"],
    {"half": Cyclic(900, 1200), "stacked": dp.whole()},
]


@pytest.mark.parametrize("arrays", SELECTED)
def test_plans_are_those_made_one_by_one(small: Packed, arrays: object) -> None:
    dataset = dp.Dataset(small.url, arrays, cache=False)
    forms = dataset.reader().planner.forms
    assert (forms.find(np.arange(SAMPLES))[:, 0] >= 0).all()
    assert len(forms._forms) < SAMPLES
    assert_same_plans(dataset)


@pytest.mark.parametrize("gap_bytes", [0, 1000, 1 << 20])
def test_samples_whose_chunks_lie_apart_are_planned_alone(
    packed: Packed, monkeypatch: pytest.MonkeyPatch, gap_bytes: int
) -> None:
    monkeypatch.setattr("dataplane.datasets.plan.ROUND_TRIP_BYTES", gap_bytes)
    dataset = dp.Dataset(packed.url, ["points", "types/c16"], cache=False)
    has = dataset.reader().planner.forms.find(np.arange(len(dataset)))[:, 0] >= 0
    spans = [len(one_by_one(dataset).plan(index).spans) for index in range(len(dataset))]
    assert has.tolist() == [count == 1 for count in spans]
    assert has.all() == (gap_bytes == 1 << 20)
    assert_same_plans(dataset)


def test_stretches_and_the_number_of_forms_are_bounded(
    small: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_chunks, "MAX_CHUNKS_AT_ONCE", 50)
    monkeypatch.setattr(forms_room, "MAX_FORMS", 5)
    dataset = dp.Dataset(small.url, cache=False)
    forms = dataset.reader().planner.forms
    samples = np.array([5, 3, 5, 21, 0])
    pieces = list(dataset.index.chunks.stretches(np.arange(SAMPLES)))
    assert len(pieces) > 1
    assert np.concatenate(pieces).tolist() == list(range(SAMPLES))
    assert forms.find(samples).shape == (5, 4)
    assert_same_plans(dataset)
    assert len(forms._forms) == 5
    assert 0 < (forms.find(np.arange(SAMPLES))[:, 0] < 0).sum() < SAMPLES


def test_selections_that_draw_have_no_forms(small: Packed) -> None:
    dataset = dp.Dataset(small.url, {"half": Cyclic(3, 5, is_random=True)}, cache=False)
    planner = dataset.reader().planner
    assert planner.forms is None
    assert planner.plan_many(np.array([0, 1])) is None


def together_and_apart(
    dataset: dp.Dataset, indices: list[int]
) -> tuple[SampleReader, FetchedTogether, list[FetchedSample]]:
    reader = dataset.reader()
    together = reader.fetch(indices)
    assert isinstance(together, FetchedTogether)
    planner = one_by_one(dataset)
    return reader, together, [reader._fetch(planner.plan(index)) for index in indices]


@pytest.mark.parametrize("arrays", SELECTED)
@pytest.mark.parametrize("threads", [1, 3])
def test_batches_are_those_of_samples_read_one_by_one(
    small: Packed, config: CacheConfig, arrays: object, threads: int
) -> None:
    dataset = dp.Dataset(small.url, arrays, cache=config)
    rng = np.random.default_rng(threads)
    for indices in ([0], [4], list(range(SAMPLES)), *rng.integers(0, SAMPLES, (12, 7)).tolist()):
        reader, together, apart = together_and_apart(dataset, indices)
        kinds = {layout.arrangement for layout in reader.layouts}
        assert arrays is not None or kinds == set(Arrangement)
        batch = assemble(together, reader.layouts, threads=threads)
        assert_same_batches(batch, assemble(apart, reader.layouts))
        assert_same_batches(batch, assemble(list(together), reader.layouts))
        for mine, its in zip(
            separate(together, reader.layouts, threads=threads),
            separate(apart, reader.layouts),
            strict=True,
        ):
            assert_same_batches(mine, its)


def test_values_are_those_that_were_packed(small: Packed, config: CacheConfig) -> None:
    dataset = dp.Dataset(small.url, cache=config)
    for epoch in range(2):
        for batch in dp.DataLoader(dataset, batch_size=5, shuffle=True, num_workers=2, seed=epoch):
            for slot, key in enumerate(batch["__key__"]):
                values = small.values(key)
                assert np.array_equal(batch["stacked"][slot], values["stacked"])
                assert np.array_equal(batch["half"][slot], values["half"])
                assert np.array_equal(batch["axes"][slot], values["axes"])
                assert np.array_equal(batch["listed"][slot], values["listed"])
                start, stop = batch["partial.offsets"][slot : slot + 2].tolist()
                expected = values.get("partial", np.zeros((0, 2)))
                assert np.array_equal(batch["partial"][start:stop], expected)


def test_a_fetched_batch_is_a_sequence_of_samples(small: Packed, config: CacheConfig) -> None:
    _, together, apart = together_and_apart(dp.Dataset(small.url, cache=config), [3, 8, 3, 11])
    assert len(together) == 4
    assert [sample.plan.index for sample in together] == [3, 8, 3, 11]
    assert [sample.plan.key for sample in together[1:]] == [s.plan.key for s in apart[1:]]
    assert together.keys == ["small-003", "small-008", "small-003", "small-011"]
    assert bytes(together[-1].sources[0]) == bytes(apart[-1].sources[0])
    with pytest.raises(IndexError):
        together[4]


def test_large_samples_are_read_one_by_one(packed: Packed, tmp_path: Path) -> None:
    """What fills half a block may be shown in the memory of that block."""
    config = CacheConfig(dir=tmp_path / "cache", block_bytes=16 << 10)
    reader = dp.Dataset(packed.url, ["points"], cache=config).reader()
    longest = max(reader.planner.plan(index).packed_bytes for index in range(5))
    assert longest > 8 << 10
    assert isinstance(reader.fetch(range(5)), list)


def damaged(index: DatasetIndex, column: str, row: int, change: Callable) -> DatasetIndex:
    values = index.table.column(column).to_pylist()
    values[row] = change(values[row])
    kind = index.table.schema.field(column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    place = index.table.schema.get_field_index(column)
    table = index.table.set_column(place, column, pa.array(values, kind))
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(index.table.schema.metadata), sink)
    return DatasetIndex.parse(sink.getvalue(), "index")


def _first(value: int) -> Callable:
    return lambda values: [value, *values[1:]]


DAMAGE = [
    ("chunk_offsets", _first(3)),
    ("chunk_offsets", _first(2**64 - 1)),
    ("chunk_offsets", _first(2**63)),
    ("chunk_nbytes", _first(2**63 + 5)),
    ("chunk_nbytes", _first(2**64 - 1)),
    ("chunk_offsets", lambda values: values[1:]),
    ("chunk_nbytes", lambda values: [*values, 4]),
    ("shape", lambda values: [*values, 2]),
    ("shape", _first(2**62)),
    ("shape", lambda _: [1] * 12),
    ("chunk_shape", _first(0)),
    ("dtype", lambda _: "f4"),
    ("codecs", lambda _: "[]"),
    ("codecs", lambda _: '[{"name": "unheard-of"}]'),
    ("fill_value", lambda _: '"x"'),
    ("dimension_names", lambda _: '["a", "b", "c", "d", "e"]'),
    ("array", lambda _: "another"),
]


@pytest.mark.parametrize(("column", "change"), DAMAGE)
@pytest.mark.parametrize("arrays", [["stacked", "half", "scalar"], ["half"]])
def test_errors_of_a_damaged_index_are_those_of_the_single_plan(
    small: Packed, column: str, change: Callable, arrays: list[str]
) -> None:
    dataset = dp.Dataset(small.url, arrays, cache=False)
    victim = 10  # whose first chunk of that array is stored
    row = _first_row(dataset, victim) + 3
    assert list(dataset.index[victim].arrays)[3] == "half"
    layouts = dataset.layouts
    dataset = dp.Dataset(small.url, arrays, cache=False)
    dataset.index, dataset._layouts = damaged(dataset.index, column, row, change), layouts
    planner, single = dataset.reader().planner, one_by_one(dataset)
    has = planner.forms.find(np.arange(SAMPLES))[:, 0] >= 0
    assert np.flatnonzero(~has).tolist() == [victim]
    with pytest.raises(dp.DataplaneError) as alone:
        single.plan(victim)
    with pytest.raises(type(alone.value)) as raised:
        planner.plan(victim)
    assert str(raised.value) == str(alone.value)
    assert planner.plan_many(np.array([victim, 1])) is None
    assert planner.plan(1).rows.tobytes() == single.plan(1).rows.tobytes()


def _first_row(dataset: dp.Dataset, number: int) -> int:
    return dataset.index.table.column("sample_index").to_pylist().index(number)


@pytest.mark.parametrize(
    ("column", "text"),
    [("attributes", "not JSON"), ("attributes", "[]"), ("sample_attributes", "{")],
)
def test_damaged_attributes_are_refused_and_the_arrays_beside_them_read(
    small: Packed, column: str, text: str
) -> None:
    dataset = dp.Dataset(small.url, cache=False)
    expected = dataset.reader().planner.plan(10).rows.tobytes()
    dataset = dp.Dataset(small.url, cache=False)
    row = _first_row(dataset, 10)
    dataset.index = damaged(dataset.index, column, row, lambda _: text)
    assert dataset.reader().planner.plan(10).rows.tobytes() == expected
    assert dataset.index[9].attributes == {"number": 9}
    assert dataset.attributes(9) == {"number": 9}
    with pytest.raises(dp.FormatError, match=r"small-010.*(JSON|not an object)"):
        dataset.index[10]
    if column == "sample_attributes":
        with pytest.raises(dp.FormatError, match=r"small-010.*not valid JSON"):
            dataset.attributes(10)


def test_a_sample_that_lacks_an_array_is_missed_by_name(small: Packed) -> None:
    dataset = dp.Dataset(small.url, ["stacked", "partial"], cache=False)
    with pytest.raises(dp.MissingArray, match="'small-005' has no array 'partial'"):
        dataset.reader().planner.plan(5)
    assert dataset.reader().planner.plan_many(np.array([5])) is None


def test_a_shard_of_another_length_is_refused_and_asked_for_again(small: Packed) -> None:
    dataset = dp.Dataset(small.url, cache=False)
    reader = dataset.reader()
    known = dict(reader.runtime._shards)
    shard = dataset.index[0].shard
    info = known[shard]
    reader.runtime._shards[shard] = type(info)(info.key, info.size_bytes - 1, info.etag)
    with pytest.raises(dp.FormatError, match="the index says"):
        reader.planner.plan(0)
    reader.runtime._shards.update(known)
    reader.runtime._versions.clear()
    assert reader.planner.plan_many(np.array([0])) is not None


def test_a_corrupt_chunk_has_the_same_message_together_and_apart(
    small: Packed, config: CacheConfig, tmp_path: Path
) -> None:
    copied = pack(tmp_path / "copy", small.samples, chunk_bytes=4096, shard_bytes=64 << 10)
    index = DatasetIndex.load(open_store(copied.url))
    for number, name in ((8, "stacked"), (2, "half")):
        entry = index[number].arrays[name]
        path = copied.folder / entry.shard
        content = bytearray(path.read_bytes())
        content[int(entry.chunk_offsets[0]) + int(entry.chunk_nbytes[0]) // 2] ^= 1
        path.write_bytes(content)
    dataset = dp.Dataset(copied.url, cache=config)
    for indices in ([7, 8], [2, 8, 1], [8, 4, 2]):
        reader, together, apart = together_and_apart(dataset, indices)
        with pytest.raises(dp.DecodeError) as alone:
            assemble(apart, reader.layouts)
        with pytest.raises(dp.DecodeError) as raised:
            assemble(together, reader.layouts)
        assert str(raised.value) == str(alone.value)
        assert f"byte {int(index[8].arrays['stacked'].chunk_offsets[0])}" in str(
            raised.value
        ) or "'half'" in str(raised.value)


def test_reads_are_planned_for_many_as_for_one(small: Packed, config: CacheConfig) -> None:
    for arrays in (None, ["partial"], {"half": Cyclic(0, 3, is_random=True)}):
        reader = dp.Dataset(small.url, arrays, cache=config).reader()
        batches = [[3, 9], [], [0], [17, 3, 20, 5]]
        expected = [
            (read.source.name, read.start, read.stop, step, 2)
            for step, batch in enumerate(batches, 7)
            for index in batch
            for read in reader.planned(index, step, 2)
        ]
        found = []
        for reads in reader.planned_many(batches, 7, 2):
            if isinstance(reads, PlannedRead):
                found.append((reads.source.name, reads.start, reads.stop, reads.step, reads.epoch))
                continue
            table = zip(reads.source, reads.starts, reads.stops, reads.steps, strict=True)
            found += [
                (reads.sources[source].name, int(start), int(stop), int(step), reads.epoch)
                for source, start, stop, step in table
            ]
        assert [read for read in found if read[1] < read[2]] == expected


def test_what_cannot_be_planned_is_left_to_its_step(small: Packed, config: CacheConfig) -> None:
    reader = dp.Dataset(small.url, ["stacked"], cache=config).reader()
    (read,) = reader.planned_many([[10_000], [4]], 0)
    assert read.step == 1
    assert list(reader.planned_many([], 0)) == []
