from __future__ import annotations

import numpy as np
import pytest

import dataplane as dp
from tests.datasets.packed import Packed
from tests.selections.data import pack_meshes


@pytest.fixture(scope="session")
def permuted(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    return pack_meshes(tmp_path_factory.mktemp("permuted"), permute_seed=3)


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    return pack_meshes(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="session")
def stored(permuted: Packed) -> list[dict[str, np.ndarray]]:
    """Values of each sample as they are stored, read whole."""
    dataset = dp.Dataset(permuted.url, cache=False)
    return [dataset.numpy(i) for i in range(len(dataset))]
