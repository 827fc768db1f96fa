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
  *nvidia-dali*)
    [ -z "$NO_WHEEL" ] || { echo "ERROR: No matching distribution found for nvidia-dali"; exit 1; }
    [ -z "$NO_DISK" ] || { echo "ERROR: No space left on device"; exit 1; }
    echo 'Installing collected packages: triton, nvidia-dali-cuda130'
    ;;
esac
"""


_PROJECT = """\
[project.optional-dependencies]
dali-cuda12 = ["nvidia-dali-cuda120>=2.0", "triton>=3.2"]
dali-cuda13 = ["nvidia-dali-cuda130>=2.0", "triton>=3.2"]
"""


def setup(folder: Path, fail: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    python = folder / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(_PIP)
    python.chmod(0o755)
    (folder / "pyproject.toml").write_text(_PROJECT)
    tools = folder / "tools"
    tools.mkdir()
    (tools / "nvidia-smi").write_text('#!/bin/sh\necho "| CUDA Version: ${CUDA:-13.0} |"\n')
    (tools / "nvidia-smi").chmod(0o755)
    given = {"FAIL": fail, "NO_WHEEL": "", "NO_DISK": "", **environment}
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", str(_SCRIPT), "venv"], cwd=folder, env=os.environ | given | {"PATH": path},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_each_step_and_what_takes_long_in_it_is_a_line(tmp_path: Path) -> None:
    done = setup(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines if not line.startswith(" ")] == [
        *("setup 1/4", "setup 2/4", "setup 3/4", "setup 4/4", "setup")
    ]
    assert [line.strip() for line in lines if line.startswith(" ")] == [
        "downloading large-1.0-py3-none-any.whl (139 MB)",
        "downloading huge-1.0-py3-none-any.whl (2 GB)",
        *(f"compiling {count} of 25" for count in (10, 20, 25)),
        "installing 3 packages",
        "installing 2 packages",
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


def installed_dali(folder: Path) -> str:
    calls = (folder / "calls").read_text().splitlines()
    (call,) = (call for call in calls if "nvidia-dali" in call)
    return call


def test_dali_is_installed_for_the_driver_s_cuda_and_from_wheels_alone(tmp_path: Path) -> None:
    for cuda, package in (
        ("13.1", "nvidia-dali-cuda130>=2.0"),
        ("12.8", "nvidia-dali-cuda120>=2.0"),
    ):
        folder = tmp_path / cuda
        folder.mkdir()
        assert setup(folder, CUDA=cuda).returncode == 0
        call = installed_dali(folder)
        assert call.endswith(f"{package} triton>=3.2")
        assert "--only-binary :all:" in call


def test_a_machine_that_dali_has_no_wheel_for_goes_without_and_is_told(tmp_path: Path) -> None:
    done = setup(tmp_path, NO_WHEEL="1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "there is no wheel of nvidia-dali-cuda130>=2.0 triton>=3.2 for this mach" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("setup: done")


def test_another_failure_of_dali_s_installation_is_a_failure(tmp_path: Path) -> None:
    done = setup(tmp_path, NO_DISK="1")
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "setup: done" not in done.stdout
