"""Tiles cover every sample, each once, and are put back together."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset

import dataplane as dp
from dataplane.datasets.numbering import Numbering
from dataplane.shards import SourceArray, SourceSample
from tests.datasets.packed import Packed, pack
from tests.selections.data import COUNT

GRID = {"fields/u": dp.crop((5, 6, 7), "grid", overlap=(1, 0, 3))}


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> tuple[Packed, list[np.ndarray]]:
    """Volumes of several shapes, one smaller than a tile."""
    rng = np.random.default_rng(5)
    shapes = [(9, 8), (3, 7), (16, 5), (4, 4), (10, 11)]
    volumes = [rng.standard_normal(shape).astype("f4") for shape in shapes]
    samples = [
        SourceSample(f"v{n}", {"f": SourceArray(values, ("y", "x"))}, {})
        for n, values in enumerate(volumes)
    ]
    return pack(tmp_path_factory.mktemp("uneven"), samples), volumes


def identity(loader: Any, name: str) -> Iterator[tuple[Any, Any]]:
    for batch in loader:
        yield batch, batch[name]


def test_numbering() -> None:
    counts = np.array([2, 3, 1, 4])
    numbering = Numbering.of_tiles(counts)
    assert len(numbering) == 10
    expected = [(sample, tile) for sample, count in enumerate(counts) for tile in range(count)]
    assert [numbering.split(number) for number in range(10)] == expected
    samples, tiles = numbering.split_many(np.arange(10))
    assert list(zip(samples.tolist(), tiles.tolist(), strict=True)) == expected
    assert [list(numbering.range_of(n)) for n in range(4)] == [
        [0, 1],
        [2, 3, 4],
        [5],
        [6, 7, 8, 9],
    ]
    even = Numbering.of_tiles(np.array([3, 3]))
    assert even.firsts is None
    assert [even.split(number) for number in range(6)] == [
        (sample, tile) for sample in range(2) for tile in range(3)
    ]
    assert list(even.range_of(1)) == [3, 4, 5]


@pytest.mark.parametrize("blend", ["mean", "ramp", "first"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_tiles_come_back_to_what_was_cut(
    permuted: Packed, stored: list, blend: Any, num_workers: int
) -> None:
    dataset = dp.Dataset(permuted.url, GRID, cache=False)
    tiles = 3 * 3 * 4
    assert len(dataset) == COUNT * tiles
    loader = dp.DataLoader(dataset, batch_size=5, num_workers=num_workers, shuffle=True, seed=1)
    found = dict(dp.stitch(dataset, "fields/u", identity(loader, "fields/u"), blend=blend))
    assert sorted(found) == [f"case-{n}" for n in range(COUNT)]
    for n in range(COUNT):
        want = stored[n]["fields/u"]
        got = found[f"case-{n}"].numpy()
        assert got.dtype == want.dtype
        assert np.array_equal(got, want) if blend != "ramp" else np.allclose(got, want, atol=1e-6)


def test_a_batch_says_which_tile_it_holds(permuted: Packed) -> None:
    dataset = dp.Dataset(permuted.url, GRID, cache=False)
    seen = collections.Counter()
    for batch in dp.DataLoader(dataset, batch_size=4, rank=0, world_size=1):
        seen.update(zip(batch["__key__"], batch["__tile__"].tolist(), strict=True))
    assert set(seen.values()) == {1}
    assert len(seen) == len(dataset)
    sample = dataset[40]
    assert (sample["__key__"], int(sample["__tile__"])) == ("case-1", 4)
    batch = dp.collate([dataset[40], dataset[3]])
    assert batch["__tile__"].tolist() == [4, 3]


def test_samples_of_several_shapes(uneven: tuple[Packed, list[np.ndarray]]) -> None:
    packed, volumes = uneven
    grid = dp.crop((4, 5), "grid", pad=0.0)
    dataset = dp.Dataset(packed.url, {"f": grid}, cache=False)
    found = dict(dp.stitch(dataset, "f", identity(dp.DataLoader(dataset, batch_size=3), "f")))
    for n, volume in enumerate(volumes):
        assert np.array_equal(found[f"v{n}"].numpy(), volume)
    with pytest.raises(dp.ConfigError, match=r"v1.*larger than array 'f' along dimension y"):
        dp.Dataset(packed.url, {"f": dp.crop((4, 5), "grid")}, cache=False)


def test_results_may_have_other_components(permuted: Packed, stored: list) -> None:
    dataset = dp.Dataset(permuted.url, GRID, cache=False)
    loader = dp.DataLoader(dataset, batch_size=8)

    def speeds() -> Iterator[tuple[Any, Any]]:  # [B, 1, t, z, y, x], as a convolution gives
        for batch in loader:
            yield batch, batch["fields/u"].norm(dim=-1)[:, None]

    found = dict(dp.stitch(dataset, "fields/u", speeds(), axes=(-3, -2, -1)))
    want = torch.from_numpy(stored[2]["fields/u"]).norm(dim=-1)[None]
    assert found["case-2"].shape == want.shape
    assert torch.allclose(found["case-2"], want)


def test_a_ramp_counts_the_edges_of_tiles_less(uneven: tuple[Packed, list[np.ndarray]]) -> None:
    packed, _ = uneven
    dataset = dp.Dataset(packed.url, {"f": dp.crop((4, 4), "grid", overlap=2, pad=0)}, cache=False)

    def numbers() -> Iterator[tuple[Any, Any]]:
        for batch in dp.DataLoader(dataset, batch_size=3):
            yield batch, batch["__tile__"][:, None, None].expand(-1, 4, 4).float().numpy()

    found = dict(dp.stitch(dataset, "f", numbers(), blend="ramp"))["v2"]  # 16 rows, of 5 two tiles
    rows = found[:, 0]  # of tiles 0, 2, 4, …, which share two rows each
    assert rows[:2].tolist() == [0, 0]
    assert rows[2:4] == pytest.approx([2 * 1 / 3, 2 * 2 / 3])
    assert rows[4:6] == pytest.approx([2 + 2 * 1 / 3, 2 + 2 * 2 / 3])


def test_labels_are_not_averaged(permuted: Packed, stored: list) -> None:
    dataset = dp.Dataset(permuted.url, {"table": dp.crop({0: 20}, "grid")}, cache=False)
    loader = dp.DataLoader(dataset, batch_size=4, shuffle=True, seed=3)
    with pytest.raises(dp.ConfigError, match="no mean where tiles overlap"):
        list(dp.stitch(dataset, "table", identity(loader, "table")))
    found = dict(dp.stitch(dataset, "table", identity(loader, "table"), blend="first"))
    assert np.array_equal(found["case-3"].numpy(), stored[3]["table"])


def test_missing_tiles_and_other_shapes_are_errors(permuted: Packed) -> None:
    dataset = dp.Dataset(permuted.url, GRID, cache=False)
    loader = dp.DataLoader(dataset, batch_size=5, drop_last=True)
    with pytest.raises(dp.LoaderError, match=r"tiles are missing: of 'case-6' \(2 of 36\)"):
        list(dp.stitch(dataset, "fields/u", identity(loader, "fields/u")))
    wrong = ((batch, batch["fields/u"][:, :, 1:]) for batch in loader)
    with pytest.raises(dp.LoaderError, match=r"a result of shape .* has \[5, 6, 7\] elements"):
        list(dp.stitch(dataset, "fields/u", wrong))
    short = ((batch, batch["fields/u"][1:]) for batch in loader)
    with pytest.raises(dp.LoaderError, match="4 results came for a batch of 5"):
        list(dp.stitch(dataset, "fields/u", short))
    with pytest.raises(dp.ConfigError, match="not tiled"):
        dp.stitch(dataset, "points", [])
    with pytest.raises(dp.ConfigError, match="blend must be"):
        dp.stitch(dataset, "fields/u", [], blend="max")


def test_arrays_of_equal_extents_are_tiled_together(permuted: Packed, stored: list) -> None:
    grid = dp.crop({"z": 6, "y": 7, "x": 8}, "grid")
    dataset = dp.Dataset(
        permuted.url, {"fields/u": grid, "fields/p": grid, "ids": dp.whole()}, cache=False
    )
    sample = dataset[3]
    assert np.array_equal(sample["fields/u"].numpy(), stored[0]["fields/u"][:, :6, 7:, 8:])
    assert np.array_equal(sample["fields/p"].numpy(), stored[0]["fields/p"][:, :6, 7:, 8:])
    with pytest.raises(dp.ConfigError, match="8 of array 'fields/u' and 2 of array 'fields/p'"):
        dp.Dataset(permuted.url, {"fields/u": grid, "fields/p": dp.crop({"x": 8}, "grid")})


def few(folder: Path, shapes: list[tuple[int, ...] | None]) -> dp.Dataset:
    """Volumes of some shapes; None lacks the array."""
    samples = [
        SourceSample(
            f"s{n}",
            {"g": SourceArray(np.arange(3.0))}
            | ({} if shape is None else {"f": SourceArray(np.full(shape, n, "f4"), ("y", "x"))}),
            {},
        )
        for n, shape in enumerate(shapes)
    ]
    return dp.Dataset(pack(folder, samples).url, {"f": dp.crop((4, 4), "grid")}, cache=False)


def test_samples_of_one_tile_each_say_so(tmp_path: Path) -> None:
    dataset = few(tmp_path / "a", [(4, 4), (4, 4)])
    (batch,) = dp.DataLoader(dataset, batch_size=2)
    assert batch["__tile__"].tolist() == [0, 0]
    assert dict(dp.stitch(dataset, "f", [(batch, batch["f"])]))["s1"].mean() == 1
    both = ConcatDataset([dataset, few(tmp_path / "b", [(8, 4)])])
    (batch,) = dp.DataLoader(both, batch_size=4)
    assert batch["__tile__"].tolist() == [0, 0, 0, 1]


def test_one_tile_along_a_dimension_is_put_back_as_several_are(tmp_path: Path) -> None:
    dataset = few(tmp_path, [(4, 8), (8, 8)])
    results = [
        (batch, batch["f"][:, None].expand(-1, 2, -1, -1))
        for batch in dp.DataLoader(dataset, batch_size=3)
    ]
    found = dict(dp.stitch(dataset, "f", results, axes=(1, 2)))
    assert {key: tuple(field.shape) for key, field in found.items()} == {
        "s0": (2, 4, 8),
        "s1": (2, 8, 8),
    }


def test_a_sample_that_lacks_the_array_is_an_error_as_ever(tmp_path: Path) -> None:
    dataset = few(tmp_path, [(8, 4), None, (4, 4)])
    assert len(dataset) == 4
    with pytest.raises(dp.MissingArray, match="'s1' has no array 'f'"):
        list(dp.DataLoader(dataset, batch_size=4))


def test_what_a_grid_cannot_be_combined_with(permuted: Packed) -> None:
    grid = dp.crop({"x": 8}, "grid")
    for other in (dp.crop({"y": 3}), dp.crop({"y": 3}, "grid")):
        with pytest.raises(dp.ConfigError, match="cannot be combined"):
            _ = grid & other
    with pytest.raises(dp.ConfigError, match="a grid has none"):
        dp.Dataset(permuted.url, {"fields/p": grid}, samples_per_read=2, cache=False)
    both = dp.Dataset(permuted.url, {"fields/p": dp.steps(2, 3, start=0) & grid}, cache=False)
    assert len(both) == 2 * COUNT
    assert both.numpy(1)["fields/p"].shape == (2, 12, 14, 8)


def test_tiles_with_random_arrays_beside_them(tmp_path: Path, permuted: Packed) -> None:
    del tmp_path
    selections = {"fields/p": dp.crop({"x": 8}, "grid"), "table": dp.rows(3)}
    dataset = dp.Dataset(permuted.url, selections, cache=False)
    first = [batch["table"] for batch in dp.DataLoader(dataset, seed=1)]
    again = [batch["table"] for batch in dp.DataLoader(dataset, seed=1, num_workers=2)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({one.numpy().tobytes() for one in first}) > COUNT


def test_grids_whose_tiles_lie_elsewhere_are_refused(tmp_path: Path) -> None:
    values = np.arange(32, dtype="f4").reshape(8, 4)

    def opened(folder: str, first: tuple, second: tuple, turned: np.ndarray) -> dp.Dataset:
        arrays = {"a": SourceArray(values, first), "b": SourceArray(turned, second)}
        packed = pack(tmp_path / folder, [SourceSample("s", arrays, {})])
        return dp.Dataset(packed.url, dict.fromkeys("ab", dp.crop((2, 2), "grid")), cache=False)

    with pytest.raises(dp.ConfigError, match="2 along y by 4 along z and 4 along z by 2 along y"):
        opened("names", ("z", "y"), ("y", "z"), values.T.copy())
    with pytest.raises(dp.ConfigError, match="lie at other places in array 'b'"):
        opened("counts", ("z", "y"), ("p", "q"), values.T.copy())
    assert len(opened("alike", ("z", "y"), ("z", "y"), 2 * values)) == 8


def test_results_that_do_not_go_together_are_refused(uneven: tuple[Packed, list]) -> None:
    packed, _ = uneven
    dataset = dp.Dataset(packed.url, {"f": dp.crop((4, 4), "grid", pad=0)}, cache=False)
    loader = dp.DataLoader(dataset, batch_size=1)

    def results(*channels: int) -> Iterator[tuple[Any, Any]]:
        for number, batch in enumerate(loader):
            yield batch, batch["f"].unsqueeze(1).repeat(1, channels[number % len(channels)], 1, 1)

    assert len(list(dp.stitch(dataset, "f", results(3), axes=(1, 2)))) == 5
    with pytest.raises(dp.LoaderError, match=r"the first one has \[3\] elements"):
        list(dp.stitch(dataset, "f", results(3, 1), axes=(1, 2)))
    with pytest.raises(dp.LoaderError, match="which dimensions"):
        list(dp.stitch(dataset, "f", results(4), axes=(0, 0)))
