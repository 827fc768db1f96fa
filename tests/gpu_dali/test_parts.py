"""Tiles of a sample, and looks at it, are changed each in their own way, and keep what says so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dataplane as dp
from dataplane import dali_ops as ops
from dataplane.gpu.dali_graph import PARAMETERS
from tests.datasets.packed import Packed
from tests.gpu_dali.cases import SAMPLES

dali = pytest.importorskip("nvidia.dali", reason="there is no DALI for this platform")

NAME = "fields/density"


def angles(of: dp.Dataset, batch_size: int, **options: Any) -> dict[str, list[float]]:
    """Return the angle of each part, by the key of its sample, in order."""
    found: dict[str, list[float]] = {}
    given = {"seed": 5, "threads": 1, **options}
    for batch in dp.dali_pipeline(of, batch_size, [ops.rotate(20)], **given):
        (drawn,) = (value for name, value in batch[PARAMETERS].items() if name.endswith("degrees"))
        for key, angle in zip(
            batch["__key__"], np.asarray(drawn).reshape(-1).tolist(), strict=True
        ):
            found.setdefault(key, []).append(angle)
    return found


@pytest.mark.parametrize("options", [{"shuffle": True}, {"shuffle": False, "num_workers": 2}])
def test_looks_at_a_sample_are_changed_each_anew(
    volume_data: Packed, options: dict[str, Any]
) -> None:
    of = dp.Dataset(volume_data.url, {NAME: dp.crop((4, 4, 4))}, cache=False, samples_per_read=4)
    found = angles(of, 3, **options)
    assert [len(set(drawn)) for drawn in found.values()] == [4] * SAMPLES
    assert {key: sorted(drawn) for key, drawn in angles(of, 5, **options).items()} == {
        key: sorted(drawn) for key, drawn in found.items()
    }


def test_tiles_are_changed_each_anew_and_say_which_they_are(volume_data: Packed) -> None:
    of = dp.Dataset(volume_data.url, {NAME: dp.crop((4, 4, 4), "grid")}, cache=False)
    tiles = len(of) // SAMPLES
    assert tiles > 1
    found = angles(of, 3, shuffle=False)
    assert [len(set(drawn)) for drawn in found.values()] == [tiles] * SAMPLES
    pipeline = dp.dali_pipeline(of, 4, [ops.normalise(NAME)], seed=5, threads=1)
    seen = [tile for batch in pipeline for tile in batch["__tile__"].tolist()]
    assert seen == [*range(tiles)] * SAMPLES
