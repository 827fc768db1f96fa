"""Checks of limits: open files, locked memory, shared memory."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from dataplane.cli.checks import limits

NO_LIMIT = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "status", "advice"),
    [
        (65_536, 65_536, "ok", ""),
        (NO_LIMIT, NO_LIMIT, "ok", ""),
        (4096, 4096, "ok", ""),
        (1024, 524_288, "warn", "ulimit -n 65536"),
        (1024, 8192, "warn", "ulimit -n 8192"),
        (1024, NO_LIMIT, "warn", "ulimit -n 65536"),
        (1024, 1024, "warn", "ask root for 4,096 or more"),
    ],
)
def test_few_open_files_are_a_warning_that_says_how_many_may_be_had(
    soft: int, hard: int, status: str, advice: str
) -> None:
    found = limits.open_files((soft, hard))
    assert (found.status, found.advice) == (status, advice)


def test_the_limits_of_this_process_are_looked_at() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    expected = {
        name: None if it == NO_LIMIT else it for name, it in (("soft", soft), ("hard", hard))
    }
    assert limits.open_files().values == expected


@pytest.mark.parametrize(
    ("soft", "has_gpu", "status"),
    [
        (8 << 20, True, "warn"),
        (8 << 20, False, "ok"),
        (NO_LIMIT, True, "ok"),
        (NO_LIMIT, False, "ok"),
    ],
)
def test_locked_memory_matters_beside_a_gpu(soft: int, has_gpu: bool, status: str) -> None:
    found = limits.locked_memory((soft, soft), has_gpu=has_gpu)
    assert found.status == status
    assert ("memlock" in found.advice) == (status == "warn")


def test_the_shared_memory_of_a_default_container_is_too_small(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = 4096
    real = os.statvfs(tmp_path)

    def sized(size: int) -> os.statvfs_result:
        values = list(real)
        values[0] = values[1] = page
        values[2] = values[3] = values[4] = size // page
        return os.statvfs_result(values)

    monkeypatch.setattr(os, "statvfs", lambda _: sized(64 << 20))
    found = limits.shared_memory(tmp_path)
    assert found.status == "warn"
    assert "64 MiB of 64 MiB" in found.found
    assert "--shm-size" in found.advice
    monkeypatch.setattr(os, "statvfs", lambda _: sized(8 << 30))
    assert limits.shared_memory(tmp_path).status == "ok"
    monkeypatch.setattr(os, "statvfs", lambda _: sized(0))
    assert limits.shared_memory(tmp_path).status == "skip"


def test_shared_memory_that_is_not_there_is_named(tmp_path: Path) -> None:
    found = limits.shared_memory(tmp_path / "shm")
    assert found.status == "warn"
    assert str(tmp_path / "shm") in found.found
