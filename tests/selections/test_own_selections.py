"""Selections of a user's own get what they ask for, or are refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dataplane as dp
from dataplane.datasets.selections import ArrayForm, Region
from dataplane.shards import SourceArray, SourceSample
from tests.datasets.packed import Packed, pack


@dataclass(frozen=True)
class Chosen:
    """The region that a function gives."""

    choose: Callable[[ArrayForm, int], Any]
    count: int | None = None
    is_random: bool = False

    def region(self, array: ArrayForm, *, draw: int) -> Region:
        found: Region = self.choose(array, draw)
        return found


@dataclass(frozen=True)
class Padded(Chosen):
    """The same, which reaches beyond the array."""

    pad: Any = None


class Tiled(Chosen):
    """The same, of several tiles."""

    def tiles(self, array: ArrayForm) -> int:
        assert self.count is not None
        return self.count


@pytest.fixture(scope="module")
def half_permuted(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    """Samples of one structure, of which the first says that its points were permuted."""
    samples = [
        SourceSample(
            f"c{number}",
            {"p": SourceArray(np.arange(16, dtype="f4") + 100 * number, ("point",))},
            {"dataplane": {"permuted": ["point"]}} if number == 0 else {},
        )
        for number in range(4)
    ]
    return pack(tmp_path_factory.mktemp("half"), samples)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    samples = [
        SourceSample(
            f"v{number}",
            {"a": SourceArray(np.arange(64, dtype="f4").reshape(8, 8) + number, ("z", "y"))},
            {},
        )
        for number in range(3)
    ]
    return pack(tmp_path_factory.mktemp("volumes"), samples)


def _more_where_permuted(array: ArrayForm, draw: int) -> Region:
    return (((0, 8 if "point" in array.permuted else 4),),)


def _where_permuted(array: ArrayForm, draw: int) -> Region:
    if "point" not in array.permuted:
        raise dp.ConfigError("not permuted")
    return (((0, 4),),)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 3]], ids=str)
def test_what_was_permuted_is_that_of_each_sample(
    half_permuted: Packed, tmp_path: Path, order: list[int]
) -> None:
    dataset = dp.Dataset(half_permuted.url, {"p": Chosen(_more_where_permuted)}, cache=tmp_path)
    (batch,) = dp.DataLoader(dataset, batch_size=4, sampler=order)
    lengths = [8 if number == 0 else 4 for number in order]
    assert batch["p.offsets"].tolist() == np.cumsum([0, *lengths]).tolist()
    expected = [
        100.0 * number + np.arange(length) for number, length in zip(order, lengths, strict=True)
    ]
    assert np.array_equal(batch["p"].numpy(), np.concatenate(expected))


def test_a_form_that_a_selection_refuses_is_seen_when_the_dataset_is_opened(
    half_permuted: Packed,
) -> None:
    with pytest.raises(dp.ConfigError, match="sample 'c1': not permuted"):
        dp.Dataset(half_permuted.url, {"p": Chosen(_where_permuted)}, cache=False)


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (None, "gives no region of array 'a' but None"),
        ((((0, 4),), ((0.5, 4),)), "gives no region"),
        (((0, 4), (0, 4)), "gives no region"),
        ((((0, 4),),), "gives 1 dimensions for array 'a', which has 2"),
        ((((-1, 4),), ((0, 8),)), "range -1 to 4 of dimension 0"),
        ((((5, 4),), ((0, 8),)), "range 5 to 4 of dimension 0"),
    ],
)
@pytest.mark.parametrize("beside", [False, True])
def test_a_region_that_cannot_be_is_refused(
    volumes: Packed, region: Any, message: str, beside: bool
) -> None:
    own = Chosen(lambda _array, _draw: region)
    # The padding of the other one is no leave to reach beyond the array.
    selection = dp.crop({"y": 9}, "center", pad=0) & own if beside else own
    with pytest.raises(dp.ConfigError, match=message):
        dp.Dataset(volumes.url, {"a": selection}, cache=False)


def test_a_region_of_some_draws_that_cannot_be_is_refused_when_it_is_drawn(
    volumes: Packed,
) -> None:
    own = Chosen(lambda _array, draw: (((0, 4 if draw == 0 else 9),), ((0, 8),)), is_random=True)
    dataset = dp.Dataset(volumes.url, {"a": own}, cache=False)
    with pytest.raises(dp.ConfigError, match="range 0 to 9 of dimension 0"):
        next(iter(dp.DataLoader(dataset, batch_size=1)))


@pytest.mark.parametrize("pad", [10**400, 1j, "zero"])
def test_a_pad_that_is_no_number_is_refused(volumes: Packed, pad: Any) -> None:
    own = Padded(lambda _array, _draw: (((0, 9),), ((0, 8),)), pad=pad)
    with pytest.raises(dp.ConfigError, match=r"cannot be padded with .* no number that a float"):
        dp.Dataset(volumes.url, {"a": own}, cache=False)


def test_a_region_of_lists_is_one(volumes: Packed) -> None:
    own = Chosen(lambda _array, _draw: [[[1, 3]], [(np.int64(0), 8)]])
    for selection in (own, dp.crop({"y": 8}, "center") & own):
        dataset = dp.Dataset(volumes.url, {"a": selection}, cache=False)
        assert np.array_equal(dataset.numpy(1)["a"], volumes.values("v1")["a"][1:3])


def test_tiles_that_leave_something_out_are_not_stitched(volumes: Packed) -> None:
    tiled = Tiled(lambda _array, draw: (((5 * draw, 5 * draw + 3),), ((0, 8),)), 2)
    dataset = dp.Dataset(volumes.url, {"a": tiled}, cache=False)
    for blend in ("mean", "ramp", "first"):
        results = ((batch, batch["a"]) for batch in dp.DataLoader(dataset, batch_size=2))
        with pytest.raises(dp.LoaderError, match="do not cover it: 2 of 8"):
            list(dp.stitch(dataset, "a", results, blend=blend))


def test_tiles_of_several_ranges_are_not_stitched(volumes: Packed) -> None:
    tiled = Tiled(lambda _array, draw: (((draw, draw + 1), (draw + 4, draw + 5)), ((0, 8),)), 4)
    dataset = dp.Dataset(volumes.url, {"a": tiled}, cache=False)
    results = ((batch, batch["a"]) for batch in dp.DataLoader(dataset, batch_size=2))
    with pytest.raises(dp.ConfigError, match="several ranges along a dimension"):
        list(dp.stitch(dataset, "a", results))
