"""`make setup` says what it is doing, and shows what went wrong when it fails."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_SCRIPT = Path(__file__).resolve().parents[1] / "tools" / "setup-venv.sh"
_PIP = r"""#!/bin/sh
echo "$*" >>calls
case "$*" in
  *"-e .[all,bench,dev]"*)
    echo '  Downloading small-1.0-py3-none-any.whl (9.9 MB)'
    echo '  Downloading https://registry.invalid/files/large-1.0-py3-none-any.whl (139.6 MB)'
    echo '  Downloading huge-1.0-py3-none-any.whl (2.1 GB)'
    echo '  [0/2] Re-checking globbed directories...'
    for n in $(seq 25); do echo "  [$n/25] Building CXX object $n.o"; done
    echo 'core/x.cpp:7:1: error: expected a semicolon' >&2
    [ -z "$FAIL" ] || exit 1
    echo 'Installing collected packages: large, huge, dataplane'
    ;;
esac
"""


def setup(folder: Path, fail: str = "") -> subprocess.CompletedProcess[str]:
    python = folder / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(_PIP)
    python.chmod(0o755)
    return subprocess.run(
        ["bash", str(_SCRIPT), "venv"], cwd=folder, env=os.environ | {"FAIL": fail},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_each_step_and_what_takes_long_in_it_is_a_line(tmp_path: Path) -> None:
    done = setup(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines if not line.startswith(" ")] == [
        *("setup 1/3", "setup 2/3", "setup 3/3", "setup")
    ]
    assert [line.strip() for line in lines if line.startswith(" ")] == [
        "downloading large-1.0-py3-none-any.whl (139 MB)",
        "downloading huge-1.0-py3-none-any.whl (2 GB)",
        *(f"compiling {count} of 25" for count in (10, 20, 25)),
        "installing 3 packages",
    ]


def test_a_failure_shows_what_the_compiler_said(tmp_path: Path) -> None:
    done = setup(tmp_path, fail="1")
    assert done.returncode == 1
    assert "core/x.cpp:7:1: error: expected a semicolon" in done.stderr
    assert "setup: done" not in done.stdout
    assert "error: expected" in (tmp_path / "build" / "setup.log").read_text()


def test_the_old_name_of_the_distribution_is_removed_before_the_new_one_is_installed(
    tmp_path: Path,
) -> None:
    done = setup(tmp_path)
    calls = (tmp_path / "calls").read_text().splitlines()
    removed = calls.index("-m pip uninstall --yes dataplane")
    (installed,) = (place for place, call in enumerate(calls) if "-e .[all,bench,dev]" in call)
    assert removed < installed
    assert done.returncode == 0
