from __future__ import annotations

from pathlib import Path

import pytest

import dataplane as dp
from tests.datasets.packed import Packed
from tests.gpu_dali.cases import SAMPLES, mesh, packed, volumes


@pytest.fixture(scope="session")
def volume_data(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    folder: Path = tmp_path_factory.mktemp("volumes")
    return packed(folder, [volumes(number) for number in range(SAMPLES)])


@pytest.fixture(scope="session")
def mesh_data(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    folder: Path = tmp_path_factory.mktemp("meshes")
    return packed(folder, [mesh(number) for number in range(SAMPLES)])


@pytest.fixture
def volume_set(volume_data: Packed) -> dp.Dataset:
    return dp.Dataset(volume_data.url, cache=False)


@pytest.fixture
def mesh_set(mesh_data: Packed) -> dp.Dataset:
    return dp.Dataset(mesh_data.url, cache=False)
