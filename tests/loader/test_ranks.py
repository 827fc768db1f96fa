"""Which share of the samples a process reads."""

from __future__ import annotations

import pytest

import dataplane as dp
from tests.datasets.packed import SAMPLES, Packed


def keys(loader: dp.DataLoader) -> list[str]:
    return [key for batch in loader for key in batch["__key__"]]


def test_a_loader_made_before_the_process_group_says_that_it_reads_everything(
    packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with dp.Dataset(packed.url, arrays=["points"], cache=False) as dataset:
        with pytest.warns(UserWarning, match="after init_process_group") as caught:
            loader = dp.DataLoader(dataset, batch_size=2)
        assert caught[0].filename == __file__
        assert len(keys(loader)) == SAMPLES


def test_ranks_that_are_given_need_no_process_group(
    packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with dp.Dataset(packed.url, arrays=["points"], cache=False) as dataset:
        loader = dp.DataLoader(dataset, batch_size=2, rank=1, world_size=2)
        assert len(keys(loader)) == -(-SAMPLES // 2)


def test_one_process_under_torchrun_is_told_nothing(
    packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    with dp.Dataset(packed.url, arrays=["points"], cache=False) as dataset:
        assert len(keys(dp.DataLoader(dataset, batch_size=2))) == SAMPLES
