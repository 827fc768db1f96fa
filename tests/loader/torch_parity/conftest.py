"""Datasets for tests of torch's behaviour."""

from __future__ import annotations

from typing import Any

import pytest

import dataplane as dp
from tests.datasets.packed import Packed
from tests.loader.torch_parity.kinds import (
    NAMES,
    dataset_of,
)


@pytest.fixture
def dataset(packed: Packed, kind: str) -> Any:
    """A dataset of the kind that the test is run with."""
    return dataset_of(kind, packed)


@pytest.fixture
def plain(packed: Packed) -> dp.Dataset:
    return dp.Dataset(packed.url, NAMES, cache=False)
