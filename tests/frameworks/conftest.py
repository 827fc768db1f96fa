"""Fixtures for tests of other frameworks."""

from __future__ import annotations

import pytest

from tests.datasets.packed import Packed, pack
from tests.frameworks.cases import SAMPLES, case


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    """Two dozen cases, a number that two ranks share evenly; never written to."""
    return pack(tmp_path_factory.mktemp("cases"), (case(number) for number in range(SAMPLES)))


@pytest.fixture(scope="session")
def many_cases(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    """So many cases that threads that disturb each other do so now and then."""
    return pack(tmp_path_factory.mktemp("many"), (case(number) for number in range(4 * SAMPLES)))
