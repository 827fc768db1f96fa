"""Runs of points, rows and steps hold what they say, and weights sum up to all points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import dataplane as dp
from dataplane.datasets.draws import Draws
from dataplane.datasets.selections import ArrayForm
from dataplane.shards import SourceArray, SourceSample
from tests.datasets.packed import Packed, pack
from tests.selections.data import POINTS, mesh_sample, pack_meshes

N = 100
MESH = {
    "points": dp.points(N),
    "point_data/pressure": dp.points(N),
    "point_data/history": dp.points(N),
    "cell_data/stress": dp.points(40),
}


def test_all_arrays_of_an_entity_get_the_same_run(permuted: Packed, stored: list) -> None:
    dataset = dp.Dataset(permuted.url, MESH, cache=False)
    firsts = set()
    for epoch in range(8):
        reader = dataset.reader().drawing(Draws(1, epoch))
        for i, sample in enumerate(dataset._load(reader, list(range(len(dataset))))):
            of_first = (stored[i]["points"] == sample["points"][0]).all(axis=1)
            first = int(np.flatnonzero(of_first)[0])
            firsts.add(first)
            run = np.arange(first, first + N) % POINTS
            assert np.array_equal(sample["points"], stored[i]["points"][run])
            assert np.array_equal(
                sample["point_data/pressure"], stored[i]["point_data/pressure"][run]
            )
            assert np.array_equal(
                sample["point_data/history"], stored[i]["point_data/history"][:, run]
            )
            assert sample["cell_data/stress"].shape == (40, 6)
            assert sample["points.weight"] == POINTS / N
            assert sample["cell_data/stress.weight"] == 401 / 40
    assert len(firsts) > 50
    assert any(first > POINTS - N for first in firsts), "no run has gone around the end"


def test_every_point_is_taken_equally_often() -> None:
    array = ArrayForm("points", (50, 3), ("point", "c"), ("point",))
    counts = np.zeros(50, int)
    for draw in Draws(0, 0).of(np.arange(20_000)).tolist():
        for start, stop in dp.points(7).region(array, draw=draw)[0]:
            counts[start:stop] += 1
    expected = 20_000 * 7 / 50
    assert abs(counts - expected).max() < 6 * np.sqrt(expected)


def test_weights_estimate_sums_over_all_points(permuted: Packed, stored: list) -> None:
    dataset = dp.Dataset(permuted.url, {"point_data/pressure": dp.points(N)}, cache=False)
    estimates = []
    for epoch in range(400):
        (sample,) = dataset._load(dataset.reader().drawing(Draws(2, epoch)), [0])
        estimates.append(sample["point_data/pressure"].sum() * sample["point_data/pressure.weight"])
    total = stored[0]["point_data/pressure"].sum(dtype="f8")
    spread = np.std(estimates) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates) - total) < 5 * spread


def test_a_batch_has_the_weights(permuted: Packed) -> None:
    dataset = dp.Dataset(permuted.url, MESH, cache=False)
    (batch,) = dp.DataLoader(dataset, batch_size=7, seed=1)
    assert batch["points"].shape == (7, N, 3)
    assert batch["points.weight"].dtype == torch.float64
    assert batch["points.weight"].tolist() == [POINTS / N] * 7
    collated = dp.collate([dataset[i] for i in range(3)])
    assert collated["points.weight"].tolist() == [POINTS / N] * 3


def test_an_array_that_is_called_as_weights_are_is_refused(tmp_path: Path) -> None:
    values = np.arange(40.0)
    arrays = {name: SourceArray(values, ("point",)) for name in ("p", "p.weight")}
    packed = pack(tmp_path, [SourceSample("a", arrays, {})], permute_seed=1)
    with pytest.raises(dp.ConfigError, match=r"under the name of array 'p\.weight'"):
        dp.Dataset(packed.url, {"p": dp.points(4), "p.weight": dp.points(4)}, cache=False)
    assert dp.Dataset(packed.url, {"p": dp.points(4)}, cache=False).numpy(0)["p.weight"] == 10


def test_too_few_points(permuted: Packed, stored: list) -> None:
    with pytest.raises(dp.ConfigError, match="2000 points of array 'points' are asked for"):
        dp.Dataset(permuted.url, {"points": dp.points(2000)}, cache=False)
    whole = dp.Dataset(permuted.url, {"points": dp.points(2000, short="whole")}, cache=False)
    sample = whole.numpy(1)
    assert np.array_equal(sample["points"], stored[1]["points"])
    assert sample["points.weight"] == 1
    repeat = dp.Dataset(permuted.url, {"points": dp.points(2500, short="repeat")}, cache=False)
    (sample,) = repeat._load(repeat.reader().drawing(Draws(9, 9)), [1])
    first = int(np.flatnonzero((stored[1]["points"] == sample["points"][0]).all(axis=1))[0])
    run = np.arange(first, first + 2500) % POINTS
    assert np.array_equal(sample["points"], stored[1]["points"][run])
    assert sample["points.weight"] == POINTS / 2500


def test_meshes_of_several_sizes_are_stacked(tmp_path: Path) -> None:
    samples = [mesh_sample(i, points=300 + 50 * i) for i in range(4)]
    packed = pack(tmp_path, samples, permute_seed=1)
    dataset = dp.Dataset(packed.url, {"points": dp.points(300)}, cache=False)
    (batch,) = dp.DataLoader(dataset, batch_size=4)
    assert batch["points"].shape == (4, 300, 3)
    assert batch["points.weight"].tolist() == [1, 350 / 300, 400 / 300, 450 / 300]
    ragged = dp.Dataset(packed.url, {"points": dp.points(360, short="whole")}, cache=False)
    (batch,) = dp.DataLoader(ragged, batch_size=4)
    assert batch["points.offsets"].tolist() == [0, 300, 650, 1010, 1370]
    assert batch["points.weight"].tolist() == [1, 1, 400 / 360, 450 / 360]


def test_points_that_were_not_permuted_are_refused(plain: Packed) -> None:
    with pytest.raises(dp.ConfigError, match="--permute-seed") as caught:
        dp.Dataset(plain.url, {"points": dp.points(N)}, cache=False)
    assert "not permuted" in str(caught.value)
    assert "neighbours" in str(caught.value)
    assert "dp.rows" in str(caught.value)


def test_one_sample_that_was_not_permuted_is_refused_when_it_is_read(tmp_path: Path) -> None:
    packed = pack_meshes(tmp_path, 2, permute_seed=3)
    dataset = dp.Dataset(packed.url, {"points": dp.points(N)}, cache=False)
    assert dataset.index[1].attributes["dataplane"]["permuted"] == ["point", "cell"]
    assert dataset._permuted[1] == ("point", "cell")
    dataset._permuted._of[1] = 0
    with pytest.raises(dp.ConfigError, match=r"case-1.*not permuted"):
        dataset[1]
    assert dataset[0]["points"].shape == (N, 3)


@pytest.mark.parametrize("name", ["fields/p", "table", "coords/x"])
def test_arrays_without_points_are_refused(permuted: Packed, name: str) -> None:
    with pytest.raises(dp.ConfigError, match="no dimension of that name"):
        dp.Dataset(permuted.url, {name: dp.points(3)}, cache=False)


def test_rows(permuted: Packed, stored: list) -> None:
    dataset = dp.Dataset(permuted.url, {"table": dp.rows(10), "ids": dp.rows(4, 3)}, cache=False)
    assert np.array_equal(dataset.numpy(2)["ids"], stored[2]["ids"][3:7])
    seen = set()
    for epoch in range(200):
        (sample,) = dataset._load(dataset.reader().drawing(Draws(1, epoch)), [2])
        places = [
            n for n in range(41) if np.array_equal(stored[2]["table"][n : n + 10], sample["table"])
        ]
        assert len(places) == 1
        seen.update(places)
    assert {0, 40} <= seen
    for selection, message in ((dp.rows(51), "51 entries from 0"), (dp.rows(5, 46), "5 entries")):
        with pytest.raises(dp.ConfigError, match=message):
            dp.Dataset(permuted.url, {"table": selection}, cache=False)


def test_steps(permuted: Packed, stored: list) -> None:
    def read(selection: object, name: str = "fields/u", epoch: int = 0) -> np.ndarray:
        dataset = dp.Dataset(permuted.url, {name: selection}, cache=False)
        (sample,) = dataset._load(dataset.reader().drawing(Draws(1, epoch)), [3])
        return sample[name]

    u = stored[3]["fields/u"]
    assert np.array_equal(read(dp.steps(2, start=1)), u[1:3])
    assert np.array_equal(read(dp.steps(3, 2, start=0)), u[0:5:2])
    assert np.array_equal(read(dp.steps(2, 3, start=1)), u[1:5:3])
    assert np.array_equal(
        read(dp.steps(2, 2, start=0, dimension=1), "fields/p"), stored[3]["fields/p"][:, 0:4:2]
    )
    both = dp.steps(3, 2, start=0) & dp.crop((4, 4, 4), "center")
    assert np.array_equal(read(both), u[0:5:2, 4:8, 5:9, 6:10])
    seen = {read(dp.steps(2, 3), epoch=epoch).tobytes() for epoch in range(30)}
    assert seen == {u[0:4:3].tobytes(), u[1:5:3].tobytes()}
    with pytest.raises(dp.ConfigError, match="7 entries from 0"):
        read(dp.steps(4, 2))
    with pytest.raises(dp.ConfigError, match="no dimension called step, t, time"):
        read(dp.steps(4), "points")


@pytest.mark.parametrize(
    "make",
    [
        lambda: dp.points(0),
        lambda: dp.points(2.5),
        lambda: dp.points(True),
        lambda: dp.points(3, short="twice"),
        lambda: dp.rows(0),
        lambda: dp.rows(3, -1),
        lambda: dp.steps(3, 0),
        lambda: dp.steps("a"),
    ],
)
def test_arguments_that_cannot_be_used(make: object) -> None:
    with pytest.raises(dp.ConfigError):
        make()


def test_numbers_of_numpy_are_numbers() -> None:
    assert dp.points(np.int64(4)) == dp.points(4)
    assert dp.crop(np.array([4, 5]).tolist()) == dp.crop((4, 5))


def test_all_points_stay_in_their_order() -> None:
    """There is nothing to choose, and what counts points, as edges do, stays true."""
    array = ArrayForm("p", (8,), ("point",), ("point",))
    for short in ("error", "repeat", "whole"):
        for draw in range(20):
            assert dp.points(8, short=short).region(array, draw=draw) == (((0, 8),),)
        assert dp.points(8, short=short).weight(array) == 1


def test_no_points_cannot_be_repeated() -> None:
    array = ArrayForm("p", (0,), ("point",), ("point",))
    with pytest.raises(dp.ConfigError, match="no points that could be repeated"):
        dp.points(4, short="repeat").region(array, draw=1)
    assert dp.points(4, short="whole").region(array, draw=1) == (((0, 0),),)
