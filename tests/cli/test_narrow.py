"""`dataplane cache` and `dataplane stats` in terminals of any width: whole words, all figures."""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from dataplane.cache import Cache, CacheConfig
from dataplane.cache.maintenance.verify import VerifyReport
from dataplane.cli import cache_maintain
from dataplane.cli.cache import cache as cache_command
from dataplane.cli.stats import stats
from dataplane.stores import open_store
from tests.cli.inside import verify_bar

_NAME = "a_rather_long_name_of_a_simulation.vtu"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with one object, some of which is in a cache that this process has open."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / _NAME).write_bytes(os.urandom(9_000_000))
    store = open_store(tmp_path)
    with Cache(CacheConfig(dir=tmp_path / "cache")) as cache:
        cache.open(store, store.head(_NAME)).read(0, 1)
        yield tmp_path


def shown(monkeypatch: pytest.MonkeyPatch, width: int | None, *arguments: str) -> list[str]:
    """The lines that a command prints, on a terminal of a width or in a pipe."""
    if width is not None:
        console = functools.partial(Console, width=width, force_terminal=True, color_system=None)
        for module in ("cache_inspect", "stats"):
            monkeypatch.setattr(sys.modules[f"dataplane.cli.{module}"], "output", console)
    command = stats if arguments[0] == "stats" else cache_command
    given = arguments[1:] if command is stats else arguments
    done = CliRunner().invoke(command, list(given), catch_exceptions=False)
    assert done.exit_code == 0
    return done.output.splitlines()


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200, None])
def test_names_and_figures_of_objects_stay_whole(
    folder: Path, width: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = shown(monkeypatch, width, "ls")
    text = "\n".join(lines)
    # One word, which a terminal may wrap, but which copies as it is.
    assert f"file://{folder}/{_NAME}" in text
    assert "4 MiB" in text
    assert "8.58 MiB" in text
    assert "47%" in text
    if width is not None:
        assert all(len(line) <= width for line in lines if " " in line.strip())


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200, None])
def test_stores_of_the_cache_stay_whole(
    folder: Path, width: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = shown(monkeypatch, width, "info")
    assert not [line for line in lines if line.split()[:1] in (["KiB"], ["MiB"], ["GiB"], ["B"])]
    words = " ".join(lines).split()
    assert {"objects", "whole", "cached", "file://", "directory"} <= set(words)
    assert " ".join(words).count("4 MiB") >= 2


@pytest.mark.parametrize("width", [40, 50, 60, 80, 120, 200, None])
def test_figures_of_processes_have_whole_names(
    folder: Path, width: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = shown(monkeypatch, width, "stats", "--once")
    words = " ".join(lines).split()
    assert str(os.getpid()) in words
    named = {"read", "store", "cached", "waiting", "ahead", "errors", "evicted", "corrupt", "jobs"}
    assert named <= set(words)
    if width is not None:
        assert all(len(line) <= width for line in lines if not line.startswith(("/", str(folder))))


@pytest.mark.parametrize("bad", [0, 3])
def test_the_bar_of_verify_takes_the_whole_line(
    bad: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    console = functools.partial(Console, width=60, force_terminal=True, color_system=None)
    monkeypatch.setattr(cache_maintain, "Console", console)
    with verify_bar(1 << 30) as show:
        show(VerifyReport(checked_bytes=1 << 29, corrupt_blocks=bad))
    drawn = [
        re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", line)
        for line in capsys.readouterr().err.split("\r")
    ]
    lines = [line.rstrip("\n") for line in drawn if "checked" in line]
    assert {len(line) for line in lines} == {60}
    assert not lines[-1].endswith(" ")
    assert (f"{bad} bad" in lines[-1]) == bool(bad)
