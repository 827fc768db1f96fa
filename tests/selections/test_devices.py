"""Parts of arrays are the same on a device, by either route, and through DALI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

import dataplane as dp
from dataplane.datasets.selections import Region, whole_region
from tests.datasets.packed import Packed
from tests.selections.data import COUNT

SELECTIONS: dict[str, dict[str, Any]] = {
    "drawn": {
        "points": dp.points(100),
        "fields/u": dp.crop((5, 6, 7)),
        "fields/p": dp.steps(2, 3) & dp.crop({"x": 20}, pad=1.5),
        "table": dp.rows(4),
    },
    "tiles": {"fields/u": dp.crop((5, 6, 7), "grid"), "ids": dp.whole()},
    "fixed": {"fields/p": dp.crop((5, 6, 7), "center"), "table": dp.rows(4, 2)},
}


@dataclass(frozen=True)
class EveryOther:
    """Every other row, each of which stands for two: a selection of a user's."""

    is_random = False

    def region(self, array: dp.ArrayForm, *, draw: int) -> Region:
        del draw
        rows = tuple((row, row + 1) for row in range(0, array.shape[0], 2))
        return (rows, *whole_region(array.shape[1:]))

    def weight(self, array: dp.ArrayForm) -> float:
        return array.shape[0] / len(range(0, array.shape[0], 2))


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return one == other


@pytest.mark.parametrize("kind", SELECTIONS)
@pytest.mark.parametrize("decode", ["cpu", "gpu"])
def test_batches_on_a_device_are_those_of_the_cpu(permuted: Packed, kind: str, decode: Any) -> None:
    dataset = dp.Dataset(permuted.url, SELECTIONS[kind], cache=False)

    def read(**options: Any) -> list[dict[str, Any]]:
        return list(dp.DataLoader(dataset, batch_size=3, shuffle=True, seed=2, **options))

    expected, found = read(), read(device="cpu", decode=decode, num_workers=2)
    assert len(expected) == len(found) >= COUNT // 3
    for one, other in zip(expected, found, strict=True):
        assert one.keys() == other.keys()
        assert all(same(value, other[name]) for name, value in one.items())


def test_a_user_s_selection_with_weights(permuted: Packed, stored: list) -> None:
    dataset = dp.Dataset(permuted.url, {"table": EveryOther()}, cache=False)
    assert np.array_equal(dataset.numpy(3)["table"], stored[3]["table"][::2])
    (batch,) = dp.DataLoader(dataset, batch_size=COUNT)
    assert batch["table.weight"].tolist() == [2.0] * COUNT
    assert all(
        np.array_equal(batch["table"][n].numpy(), stored[n]["table"][::2]) for n in range(COUNT)
    )


@dataclass(frozen=True)
class Growing:
    """A selection whose extents depend on its draw, which must not be."""

    is_random = True

    def region(self, array: dp.ArrayForm, *, draw: int) -> Region:
        return (((0, 1 + draw % 3),), *whole_region(array.shape[1:]))


def test_extents_that_depend_on_the_draw_are_refused(permuted: Packed) -> None:
    dataset = dp.Dataset(permuted.url, {"table": Growing()}, cache=False)
    with pytest.raises(dp.ConfigError, match="must not depend on its draw"):
        list(dp.DataLoader(dataset, batch_size=COUNT, seed=1))
