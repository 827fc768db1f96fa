"""The mount helper and the systemd unit: part of the package, and printed with its program."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from dataplane_fuse import boot

_ROOT = Path(__file__).resolve().parents[2]
_ODD = "/opt/my env/50% $HOME/bin/dataplane"


def printed(option: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dataplane", "mount", option],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout


@pytest.mark.parametrize("name", [boot.HELPER_NAME, boot.UNIT_NAME])
def test_the_files_are_in_a_package_of_the_wheel(name: str) -> None:
    build = tomllib.loads((_ROOT / "pyproject.toml").read_text())["tool"]["scikit-build"]
    (path,) = (_ROOT / "mounts").rglob(name)
    assert any(path.is_relative_to(_ROOT / package) for package in build["wheel"]["packages"])
    assert not any(fnmatch(str(path), pattern) for pattern in build["wheel"]["exclude"])


def test_the_unit_starts_the_program_that_printed_it() -> None:
    unit = printed("--print-systemd-unit")
    (start,) = (line for line in unit.splitlines() if line.startswith("ExecStart="))
    program, _, arguments = start.removeprefix('ExecStart="').partition('" ')
    assert program == boot.this_program()
    assert Path(program).is_absolute()
    assert arguments == (
        "mount --foreground $DATAPLANE_MOUNT_OPTIONS ${DATAPLANE_URL} ${DATAPLANE_MOUNTPOINT}"
    )
    assert "Type=notify" in unit.splitlines()


def test_the_helper_starts_the_program_that_printed_it(tmp_path: Path) -> None:
    helper = tmp_path / boot.HELPER_NAME
    helper.write_text(printed("--print-mount-helper"))
    # -f checks everything and mounts nothing; a PATH without the program stands for mount(8)'s.
    done = subprocess.run(
        ["/bin/sh", str(helper), "s3://b", "/mnt/x", "-f", "-o", "ro"],
        env={"PATH": "/nowhere"}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_odd_paths_are_quoted_for_the_shell_and_for_systemd(tmp_path: Path) -> None:
    program = tmp_path / _ODD.lstrip("/")
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$0" "$@"\n')
    program.chmod(0o755)
    helper = tmp_path / boot.HELPER_NAME
    helper.write_text(boot.mount_helper(str(program)))
    done = subprocess.run(
        ["/bin/sh", str(helper), "s3://b", "/mnt/x"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.splitlines() == [str(program), "mount", "--", "s3://b", "/mnt/x"]
    assert 'ExecStart="/opt/my env/50%% $$HOME/bin/dataplane" mount' in boot.systemd_unit(_ODD)
