"""Fixtures for tests of the loader."""

from __future__ import annotations

import pytest

from tests.datasets.packed import SAMPLES, Packed, pack, source_sample


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    """Eleven samples in several shards; never written to."""
    folder = tmp_path_factory.mktemp("packed")
    result = pack(folder, (source_sample(number) for number in range(SAMPLES)))
    assert len(list(folder.glob("*.tar"))) > 1
    return result
