"""`dataplane stats`: one look for a script, a view that goes on for a person, all figures at 80."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from dataplane.cache import Cache, CacheConfig
from dataplane.cli.stats import stats as command
from dataplane.stores import open_store

_STATS = [sys.executable, "-m", "dataplane", "stats"]
_FIGURES = (
    *("read", "from store", "cached", "waiting", "ahead"),
    *("errors", "evicted", "corrupt", "jobs"),
)
_TIMEOUT_S = 60.0


@pytest.fixture
def reading(tmp_path: Path) -> Iterator[Cache]:
    """This process uses the cache of the environment."""
    (tmp_path / "a.bin").write_bytes(os.urandom(100_000))
    store = open_store(tmp_path)
    with Cache(CacheConfig(dir=tmp_path / "cache")) as cache:
        cache.open(store, store.head("a.bin")).read(0, 1)
        yield cache


def stats(*options: str, **environ: str) -> str:
    """Print to a pipe and end; a look that goes on would not come back."""
    done = subprocess.run(
        [*_STATS, *options], capture_output=True, text=True, check=True, timeout=_TIMEOUT_S,
        env=os.environ | environ,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout


@contextmanager
def on_terminal(columns: int, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run on a terminal; gives the process, and where its screen can be read."""
    screen, terminal = pty.openpty()
    try:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        environ = {name: it for name, it in os.environ.items() if name not in ("COLUMNS", "LINES")}
        with subprocess.Popen(
            [*_STATS, *options], stdin=terminal, stdout=terminal, stderr=terminal,
            env=environ | {"TERM": "xterm", "NO_COLOR": "1"},
        ) as process:  # fmt: skip
            try:
                yield process, screen
            finally:
                process.kill()
    finally:
        os.close(screen)
        os.close(terminal)


def read_until(screen: int, count: int, text: str) -> list[str]:
    """Read until a text was written so many times; return the lines, without control sequences."""
    content = b""
    deadline = time.monotonic() + _TIMEOUT_S
    while (plain := re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", content).decode()).count(text) < count:
        assert time.monotonic() < deadline, plain
        content += os.read(screen, 65_536)
    return plain.splitlines()


def test_a_pipe_gets_one_look_with_every_figure(reading: Cache) -> None:
    # FORCE_COLOR is what CI systems set, and rich then takes a pipe for a terminal.
    for options in ((), ("--once",), ("--once", "--interval", "1")):
        head, headings, row = stats(*options, FORCE_COLOR="1").splitlines()
        assert "1 process" in head
        assert all(name in headings for name in _FIGURES)
        assert str(os.getpid()) in row


def test_a_pipe_gets_one_look_as_json(reading: Cache) -> None:
    document = json.loads(stats("--json"))
    assert [process["pid"] for process in document["processes"]] == [os.getpid()]
    assert document["used_bytes"] == reading.usage_bytes()
    reading.close()
    assert json.loads(stats("--json", "--once"))["processes"] == []
    assert "0 processes" in stats()


def test_an_interval_that_is_no_number_is_a_usage_error() -> None:
    done = CliRunner().invoke(command, ["--interval", "nan"])
    assert done.exit_code == 2


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_pipe_with_an_interval_gets_one_look_after_the_other(
    reading: Cache, options: tuple[str, ...]
) -> None:
    with subprocess.Popen(
        [*_STATS, "--interval", "0.2", *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            pid = str(os.getpid())
            seen = 0
            while seen < 2:
                line = process.stdout.readline()
                assert line, "it ended by itself"
                seen += pid in line
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=_TIMEOUT_S)
        finally:
            process.kill()
    assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_a_terminal_shows_every_figure_again_and_again_until_ctrl_c(
    reading: Cache, columns: int
) -> None:
    with on_terminal(columns, "--interval", "0.2") as (process, screen):
        lines = read_until(screen, 3, str(os.getpid()))
        process.send_signal(signal.SIGINT)
        assert process.wait(_TIMEOUT_S) == 0
    assert all(any(name in line for line in lines) for name in _FIGURES)
    assert max(map(len, lines)) <= columns
    row = next(n for n, line in enumerate(lines) if str(os.getpid()) in line)
    # The figures of a process: in one line, or in two.
    cells = lines[row].split()[2:] + (lines[row + 1].split() if columns == 80 else [])
    assert len([cell for cell in cells if cell[0].isdigit()]) == len(_FIGURES)


def test_once_ends_on_a_terminal_too(reading: Cache) -> None:
    with on_terminal(80, "--once") as (process, screen):
        assert process.wait(_TIMEOUT_S) == 0
        assert "jobs" in " ".join(read_until(screen, 1, str(os.getpid())))
