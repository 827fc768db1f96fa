"""Worker processes for tests, and what can be seen of processes from outside."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle

from dataplane.loader.worker_process import WorkerProcess


def worker_of(function: Callable[[Any], Any], name: str = "test-worker") -> WorkerProcess:
    return WorkerProcess(cloudpickle.dumps(function), name=name)


def wait_until(condition: Callable[[], object], timeout_s: float = 30) -> None:
    until_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until_s, "it never came to that"
        time.sleep(0.002)


def is_gone(pid: int) -> bool:
    """Whether a process has ended and, where it was a child, was waited for."""
    return not Path(f"/proc/{pid}").exists()


def has_ended(pid: int) -> bool:
    """Whether a process has ended; what nobody waited for counts as well."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def descriptors(pid: int | None = None) -> int:
    return len(os.listdir(f"/proc/{pid or os.getpid()}/fd"))


def script(tmp_path: Path, text: str) -> list[str]:
    """Write a program, without any guard around what it does; return its command."""
    path = tmp_path / "program.py"
    path.write_text(
        "import os, sys, threading, time\n"
        "import cloudpickle\n"
        "from dataplane.loader.worker_process import WorkerProcess\n" + text
    )
    return [sys.executable, "-W", "error", str(path)]


def run(tmp_path: Path, text: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        script(tmp_path, text), capture_output=True, text=True, timeout=60, check=False, **options
    )
