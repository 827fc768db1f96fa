"""Mounts at boot: the helper of mount(8), and a systemd unit.

Both lie in `system/`, beside this module and so in every installation, and are printed with the
program of this installation in them: mount(8) and systemd search a short PATH, in which a virtual
environment never is. Pure functions but for `this_program`, which looks on the disk.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

__all__ = ["HELPER_NAME", "UNIT_NAME", "mount_helper", "systemd_unit", "this_program"]

HELPER_NAME = "mount.dataplane"
UNIT_NAME = "dataplane-mount@.service"

_FOLDER = Path(__file__).with_name("system")
_HELPER_PROGRAM = "program=dataplane\n"
_UNIT_PROGRAM = "/usr/bin/env dataplane "


def this_program() -> str:
    """Return the path of this installation's `dataplane`, or its bare name where there is none."""
    beside = Path(sys.executable).with_name("dataplane")
    return str(beside) if beside.exists() else shutil.which("dataplane") or "dataplane"


def mount_helper(program: str) -> str:
    """Return the script that mount(8) runs for the type `dataplane`; `bin=` still overrides."""
    text = (_FOLDER / HELPER_NAME).read_text("utf-8")
    return text.replace(_HELPER_PROGRAM, f"program={shlex.quote(program)}\n", 1)


def systemd_unit(program: str) -> str:
    """Return the template unit that serves one mount per instance."""
    text = (_FOLDER / UNIT_NAME).read_text("utf-8")
    # A command of a unit is split at blanks outside quotes, and % and $ are special in it.
    quoted = program.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return text.replace(_UNIT_PROGRAM, f'"{quoted.replace("$", "$$")}" ', 1)
