"""Crops hold the values of their box, wherever that is, and are refused where it cannot be."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

import dataplane as dp
from dataplane.datasets.crops import tile_starts
from dataplane.datasets.draws import Draws, draw_below
from dataplane.datasets.regions import outside
from dataplane.datasets.selections import ArrayForm, region_shape
from dataplane.shards import SourceArray, SourceSample
from tests.datasets.packed import Packed, pack
from tests.selections.data import VOLUME

BOX = (5, 6, 7)
P = ArrayForm("p", VOLUME, ("t", "z", "y", "x"))


def starts(region: tuple) -> list[int]:
    return [ranges[0][0] for ranges in region]


def taken(values: np.ndarray, region: tuple, pad: float | None = None) -> np.ndarray:
    """Return what a region of an array holds, element by element."""
    out = np.full(region_shape(region), 0 if pad is None else pad, values.dtype)
    places = [[n for start, stop in ranges for n in range(start, stop)] for ranges in region]
    for at, place in zip(np.ndindex(out.shape), itertools.product(*places), strict=True):
        if all(0 <= n < extent for n, extent in zip(place, values.shape, strict=True)):
            out[at] = values[place]
    return out


def test_a_random_crop_is_a_box_of_the_array_and_the_same_in_all_arrays(
    permuted: Packed, stored: list
) -> None:
    selections = {
        "fields/u": dp.crop(BOX),
        "fields/p": dp.crop({"z": 5, "y": 6, "x": 7}),
        "coords/x": dp.crop({"x": 7}),
    }
    dataset = dp.Dataset(permuted.url, selections, cache=False)
    reader = dataset.reader().drawing(Draws(5, 0))
    seen = set()
    for epoch in range(6):
        draws = Draws(5, epoch)
        for i in range(len(dataset)):
            (sample,) = dataset._load(reader.drawing(draws), [i])
            region = selections["fields/p"].region(P, draw=int(draws.of(i)[0]))
            _, z, y, x = starts(region)
            seen.add((z, y, x))
            assert np.array_equal(
                sample["fields/u"], stored[i]["fields/u"][:, z : z + 5, y : y + 6, x : x + 7]
            )
            assert np.array_equal(
                sample["fields/p"], stored[i]["fields/p"][:, z : z + 5, y : y + 6, x : x + 7]
            )
            assert np.array_equal(sample["coords/x"], stored[i]["coords/x"][x : x + 7])
    assert len(seen) > 30


def test_named_and_unnamed_dimensions_are_not_cropped_at_random_together(tmp_path: Path) -> None:
    values = np.arange(64.0).reshape(8, 8)
    arrays = {"u": SourceArray(values, ("y", "x")), "mask": SourceArray(values)}
    packed = pack(tmp_path, [SourceSample("a", arrays, {})])
    crops = {"u": dp.crop((3, 3)), "mask": dp.crop((3, 3))}
    with pytest.raises(dp.ConfigError, match="would be at different places"):
        dp.Dataset(packed.url, crops, cache=False)
    dp.Dataset(packed.url, {"u": dp.crop((3, 3)), "mask": dp.crop((3, 3), (0, 0))}, cache=False)
    rows = dp.Dataset(packed.url, {"u": dp.rows(2), "mask": dp.rows(2)}, cache=False).numpy(0)
    assert np.array_equal(rows["u"], rows["mask"])


def test_every_place_has_the_same_probability() -> None:
    counts = np.zeros((8, 9, 10), int)
    for draw in Draws(1, 0).of(np.arange(20_000)).tolist():
        _, z, y, x = starts(dp.crop(BOX).region(P, draw=draw))
        counts[z, y, x] += 1
    assert (counts > 0).all()
    for axes in ((1, 2), (0, 2), (0, 1)):
        found = counts.sum(axis=axes)
        expected = counts.sum() / len(found)
        assert ((found - expected) ** 2 / expected).sum() < 40  # chi², 9 degrees at most


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (dp.crop(BOX, "center"), (slice(None), slice(3, 8), slice(4, 10), slice(4, 11))),
        (dp.crop(BOX, (0, 8, 9)), (slice(None), slice(0, 5), slice(8, 14), slice(9, 16))),
        (dp.crop({"y": 3}, {"y": 2}), (slice(None), slice(None), slice(2, 5), slice(None))),
        (dp.crop({2: 3}, {2: 2}), (slice(None), slice(None), slice(2, 5), slice(None))),
        (dp.crop({"t": 2, "x": 1}, "center"), (slice(1, 3), slice(None), slice(None), slice(7, 8))),
        (dp.crop({"x": 2, "t": 1}, {"t": 4, "x": 3}), (slice(4, 5), ..., slice(3, 5))),
    ],
)
def test_crops_with_a_place(
    permuted: Packed, stored: list, selection: object, expected: tuple
) -> None:
    dataset = dp.Dataset(permuted.url, {"fields/p": selection}, cache=False)
    assert np.array_equal(dataset.numpy(2)["fields/p"], stored[2]["fields/p"][expected])


@pytest.mark.parametrize(
    "selection",
    [
        dp.crop((20, 6, 40), pad=7.0),
        dp.crop((20, 6, 17), "center", pad=-1),
        dp.crop((5, 6, 7), (10, 12, 14), pad=np.nan),
        dp.crop({"x": 9, "t": 8}, {"x": 12, "t": 0}, pad=2),
        dp.crop({"y": 4}, {"y": 14}, pad=2),
        dp.crop((13, 15, 17), "grid", pad=3.5),
    ],
)
def test_what_is_beyond_the_array_is_padded(
    permuted: Packed, stored: list, selection: object
) -> None:
    dataset = dp.Dataset(permuted.url, {"fields/p": selection}, cache=False)
    draws = Draws(3, 1)
    for i in range(3):
        (sample,) = dataset._load(dataset.reader().drawing(draws), [i])
        draw = int(draws.of(i)[0]) if selection.is_random else 0
        region = selection.region(P, draw=draw)
        want = taken(stored[i]["fields/p"], region, selection.pad)
        assert np.array_equal(sample["fields/p"], want, equal_nan=True)


def test_what_is_beyond_is_never_covered_twice_nor_left_out() -> None:
    shape = (3, 4)
    regions = [
        tuple(tuple(ranges) for ranges in region)
        for region in itertools.product(
            ([(-2, 2)], [(1, 5)], [(-1, 6)], [(5, 7)], [(0, 1), (2, 4)]),
            ([(0, 4)], [(-3, -1)], [(3, 4), (-1, 1)]),
        )
    ]
    for region in regions:
        covered = np.zeros(region_shape(region), int)
        inside = taken(np.ones(shape, int), region, 0)
        for box in outside(region, shape):
            covered[tuple(slice(*one) for one in box)] += 1
        assert np.array_equal(covered, 1 - inside), region


def test_only_the_chunks_that_a_crop_touches_are_read(permuted: Packed) -> None:
    dataset = dp.Dataset(permuted.url, {"fields/p": dp.crop((4, 4, 4))}, cache=False)
    planner = dataset.reader().planner
    array = dataset.index[0].arrays["fields/p"]
    fewest = len(array.chunk_nbytes)
    for draw in range(20):
        plan = planner.plan(0, draw=draw)
        touched = np.unique(plan.rows["chunk"])
        cut = array.meta.chunk_shape
        region = dp.crop((4, 4, 4)).region(P, draw=draw)
        expected = {
            np.ravel_multi_index(
                tuple(p // c for p, c in zip(place, cut, strict=True)), array.meta.grid_shape
            )
            for place in itertools.product(*(range(*ranges[0]) for ranges in region))
        }
        assert set(touched.tolist()) == expected
        fewest = min(fewest, len(touched))
    assert fewest <= len(array.chunk_nbytes) / 2


@pytest.mark.parametrize(
    ("name", "selection", "message"),
    [
        ("fields/p", dp.crop((5, 6, 17)), "larger than array 'fields/p' along dimension x: .*x=16"),
        ("fields/p", dp.crop({"w": 3}), "no dimension 'w' .*it is \\[t=5, z=12, y=14, x=16\\]"),
        ("fields/p", dp.crop({7: 3}), "no dimension 7"),
        ("fields/p", dp.crop((5, 6)), "a crop of 2 dimensions does not say which"),
        ("table", dp.crop((5, 6, 7)), "does not say which of array 'table'"),
        ("fields/p", dp.crop(BOX, (8, 0, 0)), "elements 8 to 13 reaches beyond"),
        ("fields/p", dp.crop({"x": 2, 3: 2}), "names a dimension twice"),
        ("fields/p", dp.crop((5, 6, 17), "grid"), "larger than array"),
        ("fields/p", dp.crop({"x": 4}) & dp.crop({"x": 2}), "both selections .* dimension x"),
    ],
)
def test_a_crop_that_does_not_fit_is_refused_when_the_dataset_is_opened(
    permuted: Packed, name: str, selection: object, message: str
) -> None:
    with pytest.raises(dp.ConfigError, match=message) as caught:
        dp.Dataset(permuted.url, {name: selection}, cache=False)
    assert "case-" in str(caught.value)


_PADDED = {
    "f2": ([1e300, 65520], [0.5, 65504, float("nan"), float("-inf"), 2049]),
    "f4": ([1e300], [0.5, 1e20, float("nan")]),
    "i4": ([0.5, float("nan"), float("inf"), 2**31, 1e10], [-7, 2.0, -(2**31)]),
    "u1": ([-1, 256], [255, 0]),
    "i8": ([2**63], [2**53 + 1, -(2**63)]),
    "?": ([2, -1, 0.5], [True, 0]),
    "c8": ([1e39], [1.5, float("nan")]),
}


@pytest.mark.parametrize("dtype", _PADDED)
def test_padding_is_what_was_asked_for_or_is_refused(tmp_path: Path, dtype: str) -> None:
    """As soon as the dataset is opened, whether or not something will be padded."""
    values = np.ones(5, dtype)
    packed = pack(tmp_path, [SourceSample("s", {"a": SourceArray(values, ("x",))}, {})])
    refused, held = _PADDED[dtype]
    for pad in refused:
        with pytest.raises(dp.ConfigError, match="array 'a' cannot be padded with"):
            dp.Dataset(packed.url, {"a": dp.crop({"x": 4}, pad=pad)}, cache=False)
    for pad in held:
        dataset = dp.Dataset(packed.url, {"a": dp.crop({"x": 7}, "center", pad=pad)}, cache=False)
        expected = np.full(7, pad).astype(dtype)
        expected[1:6] = 1
        assert np.array_equal(
            dataset.numpy(0)["a"], expected, equal_nan=np.dtype(dtype).kind in "fc"
        )


def test_selections_that_are_combined_have_one_padding(permuted: Packed) -> None:
    with pytest.raises(dp.ConfigError, match=r"padded with 1, the other with 2"):
        dp.crop({"z": 20}, "center", pad=1) & dp.crop({"y": 20}, "center", pad=2)
    both = dp.crop({"z": 20}, "center", pad=float("nan")) & dp.crop({"y": 6}, pad=float("nan"))
    assert dp.Dataset(permuted.url, {"fields/p": both}, cache=False).numpy(0)


def test_a_crop_that_is_no_cube_needs_dimensions_in_one_order(tmp_path: Path) -> None:
    values = np.arange(12**3, dtype="f4").reshape(12, 12, 12)
    arrays = {
        "a": SourceArray(values, ("z", "y", "x")),
        "b": SourceArray(values.T.copy(), ("x", "y", "z")),
    }
    packed = pack(tmp_path, [SourceSample("s", arrays, {})])

    def opened(selection: object) -> dp.Dataset:
        return dp.Dataset(packed.url, dict.fromkeys("ab", selection), cache=False)

    for position in ("random", "center", (0, 0, 0)):
        with pytest.raises(dp.ConfigError, match="dimension x of array 'a' and 6 of array 'b'"):
            opened(dp.crop((6, 4, 2), position))
    for selection in (dp.crop((4, 4, 4)), dp.crop({"z": 6, "y": 4, "x": 2})):
        sample = opened(selection).numpy(0)
        assert np.array_equal(sample["a"], sample["b"].T)


def test_an_array_without_elements_is_padded_like_any_other(tmp_path: Path) -> None:
    """Padding is no chunk: nothing is read for it."""
    lengths = (3, 0, 5, 0)
    samples = [
        SourceSample(f"s{n}", {"a": SourceArray(np.full(count, n, "f4"), ("x",))}, {})
        for n, count in enumerate(lengths)
    ]
    packed = pack(tmp_path / "packed", samples)
    dataset = dp.Dataset(
        packed.url, {"a": dp.crop({"x": 4}, "center", pad=9)}, cache=tmp_path / "cache"
    )
    expected = [[0, 0, 0, 9], [9] * 4, [2] * 4, [9] * 4]
    for number, values in enumerate(expected):
        assert np.array_equal(dataset.numpy(number)["a"], values)
    for order in ([0, 1, 2, 3], [3, 1], [1]):
        (batch,) = dp.DataLoader(dataset, batch_size=4, sampler=order)
        assert np.array_equal(batch["a"], [expected[number] for number in order])


def test_padding_touches_no_chunk(tmp_path: Path) -> None:
    samples = [
        SourceSample(f"s{n}", {"a": SourceArray(np.arange(4096, dtype="f4"), ("x",))}, {})
        for n in range(2)
    ]
    packed = pack(tmp_path, samples, chunk_bytes=1024, codec="none")

    def read_bytes(first: int, pad: float | None) -> int:
        selection = dp.crop({"x": 8}, {"x": first}, pad=pad)
        with dp.Dataset(packed.url, {"a": selection}, cache=False) as dataset:
            loader = dp.DataLoader(dataset, batch_size=1)
            list(loader)
            return loader.stats().read_bytes // len(dataset)

    assert read_bytes(4092, 0.0) == read_bytes(4088, None) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((0, 4, 4),), "whole number from 1"),
        ((("a", 4, 4),), "whole number"),
        ((5,), "a number per dimension"),
        (((),), "empty"),
        (((4, 4), "corner"), "'random', 'center', 'grid'"),
        (((4, 4), (1,)), "do not go together"),
        (((4, 4), {"x": 1}), "do not go together"),
        (({"x": 4}, {"y": 1}), "shape is of dimensions"),
    ],
)
def test_arguments_that_cannot_be_used(arguments: tuple, message: str) -> None:
    with pytest.raises(dp.ConfigError, match=message):
        dp.crop(*arguments)


def test_overlap_and_padding_are_checked() -> None:
    with pytest.raises(dp.ConfigError, match="from 0 to 3"):
        dp.crop((4, 4), "grid", overlap=4)
    with pytest.raises(dp.ConfigError, match='for position="grid"'):
        dp.crop((4, 4), overlap=1)
    with pytest.raises(dp.ConfigError, match="2 dimensions"):
        dp.crop((4, 4), "grid", overlap=(1, 1, 1))
    with pytest.raises(dp.ConfigError, match="pad must be a number"):
        dp.crop((4, 4), pad="edge")


def test_tiles_cover_the_array() -> None:
    for extent, size in itertools.product(range(1, 30), range(1, 12)):
        for overlap in range(size):
            found = tile_starts(extent, size, overlap)
            if extent >= size:
                assert {n for start in found for n in range(start, start + size)} == set(
                    range(extent)
                )
                assert all(b - a <= size - overlap for a, b in itertools.pairwise(found))
                assert found == sorted(set(found))


def test_draws_below_are_uniform() -> None:
    counts = np.bincount([draw_below(7, draw, "x") for draw in range(14_000)], minlength=7)
    assert len(counts) == 7
    assert ((counts - 2000) ** 2 / 2000).sum() < 30
