"""Caches and objects that the tests of this folder share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane.cache import Cache, CacheConfig
from dataplane.cache.entries.keys import KEY_VARIABLE
from tests.cache.fakes import BLOCK, FolderStore


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    folder = tmp_path / "objects"
    folder.mkdir()
    return FolderStore(folder)


@pytest.fixture
def config(tmp_path: Path) -> CacheConfig:
    """One block per request; test_coalesced_requests.py has more."""
    return CacheConfig(
        dir=tmp_path / "cache", block_bytes=BLOCK, request_bytes=BLOCK, fetch_threads=4
    )


@pytest.fixture
def one_thread(tmp_path: Path) -> CacheConfig:
    """One thread, whose requests are of many blocks."""
    return CacheConfig(dir=tmp_path / "cache", block_bytes=BLOCK, fetch_threads=1)


@pytest.fixture
def cache(config: CacheConfig) -> Iterator[Cache]:
    with Cache(config) as opened:
        yield opened


@pytest.fixture
def content() -> bytes:
    """Ten and a half blocks."""
    return os.urandom(BLOCK * 10 + BLOCK // 2)


@pytest.fixture(params=["plain", "sealed"])
def any_cache(request, tmp_path, monkeypatch):
    if request.param == "sealed":
        monkeypatch.setenv(KEY_VARIABLE, os.urandom(32).hex())
    config = CacheConfig(
        dir=tmp_path / "cache",
        block_bytes=BLOCK,
        fetch_threads=4,
        encrypt=request.param == "sealed",
    )
    with Cache(config) as cache:
        yield cache
