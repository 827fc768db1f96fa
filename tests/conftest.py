"""Fixtures that several test folders share."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane.cache.cache import _shared
from tests.servers.s3 import (  # noqa: F401 - fixtures
    _s3_session_bucket,
    moto_server,
    moto_url,
    s3_bucket,
    s3_server,
    s3_url,
)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what it puts in the background so, and programs of tests would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Leave what is there by now out of all collections of garbage; it stays until the end."""
    gc.collect()
    gc.freeze()


_REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _isolated_environment(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keep the user's cache, configuration and credentials out of every test."""
    monkeypatch.setenv("DATAPLANE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    # Not in tmp_path, which some tests mount on.
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / "state"))
    monkeypatch.delenv("DATAPLANE_CONFIG", raising=False)
    for name in [*os.environ]:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws-credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws-config"))


@pytest.fixture(autouse=True)
def _closed_caches(tmp_path: Path) -> Iterator[None]:
    """Close the caches that a process keeps for its lifetime: here a test is a lifetime."""
    yield
    for config, cache in list(_shared.items()):
        if config.dir.is_relative_to(tmp_path):
            cache.close()


@pytest.fixture(scope="session")
def simulation_files() -> Path:
    """The folder of real simulation files, or a skip that says where they were looked for."""
    folder = Path(os.environ.get("DATAPLANE_TEST_DATA", _REPOSITORY.parent / "shared" / "data"))
    if not (folder / "can.vtu").exists():
        pytest.skip(f"no simulation files in {folder}; set DATAPLANE_TEST_DATA")
    return folder
