"""How hard the tests of this folder try: a little in `make test`, in full in `make stress`."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from multiprocessing.context import SpawnProcess
from pathlib import Path

import pytest

from tests.cache.fakes import FolderStore

FULL = os.environ.get("DATAPLANE_STRESS") == "full"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if FULL and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(3600))


@pytest.fixture
def trials() -> Callable[[int, int], int]:
    """Choose between the number of trials in full, and the short one."""
    return lambda full, short: full if FULL else short


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Print a figure, also while output is captured."""

    def say(line: str) -> None:
        if FULL:
            with capsys.disabled():
                print(f"\n  {line}", flush=True)

    return say


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    folder = tmp_path / "objects"
    folder.mkdir()
    return FolderStore(folder)


@pytest.fixture
def start_process() -> Iterator[Callable[..., SpawnProcess]]:
    """Start `function(*arguments)` in a fresh process; none outlives the test."""
    spawn = multiprocessing.get_context("spawn")
    processes: list[SpawnProcess] = []

    def start(function: Callable[..., None], *arguments: object) -> SpawnProcess:
        process = spawn.Process(target=function, args=arguments)
        process.start()
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.join()
        process.close()
