"""The command line's frame: help, errors as one line, exit codes, Ctrl-C."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = [
    "bench",
    "bench decode",
    "bench loader",
    "bench store",
    "demo",
    "info",
    "mount",
    "pack",
    "umount",
]


def dataplane(*arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dataplane", *arguments],
        capture_output=True, text=True, timeout=timeout_s, check=False,
    )  # fmt: skip


def test_help_lists_every_command_with_a_sentence() -> None:
    done = dataplane("--help")
    assert done.returncode == 0
    listed = done.stdout.split("Commands:")[1].strip().splitlines()
    assert [line.split()[0] for line in listed] == sorted({c.split()[0] for c in COMMANDS})
    assert all(len(line.split()) > 3 for line in listed)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself_and_all_its_options(command: str) -> None:
    done = dataplane(*command.split(), "-h")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Usage: python -m dataplane {command}")
    options = [line for line in done.stdout.splitlines() if line.startswith("  -")]
    assert all(len(line.split()) > 1 for line in options)


def test_listing_the_commands_imports_nothing_heavy() -> None:
    code = (
        "import sys, dataplane.cli.main as m\n"
        "try: m.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([n for n in ('torch', 'pyarrow', 'pyvista', 'obstore') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_an_unknown_command_is_a_usage_error() -> None:
    done = dataplane("fetch")
    assert done.returncode == 2
    assert "No such command 'fetch'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["info", "nonsense://bucket/x"], 2, ["nonsense"]),
        (["info", "s3://"], 2, ["bucket"]),
        (["info", "file:///does/not/exist"], 3, ["/does/not/exist"]),
        (["mount", "memory://x", "/does/not/exist"], 6, ["/does/not/exist"]),
        (["demo", "--size", "1"], 2, ["--size"]),
        (["bench", "decode", "--codec", "zip", "--smoke"], 2, ["zip"]),
    ],
)
def test_a_wrong_argument_is_one_line_and_an_exit_code(
    arguments: list[str], code: int, words: list[str]
) -> None:
    done = dataplane(*arguments)
    assert done.returncode == code, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("dataplane: ")
    assert all(word in lines[0] for word in words)
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback() -> None:
    done = dataplane("--debug", "info", "nonsense://bucket/x")
    assert "Traceback" in done.stderr
    assert "ConfigError" in done.stderr


def test_a_local_folder_without_a_dataset_is_named(tmp_path: Path) -> None:
    done = dataplane("info", str(tmp_path))
    assert done.returncode in {3, 4}
    assert "index.parquet" in done.stderr
    assert "Traceback" not in done.stderr
