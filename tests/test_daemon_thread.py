"""Daemon threads of ours: they do not abort a program that ends while one is in C++ of others."""

from __future__ import annotations

import ast
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import dataplane
import dataplane_fuse

_PROGRAM = """
import threading, torch
from dataplane.daemon_thread import DaemonThread

matrix = torch.ones(600, 600, dtype=torch.float64)
begun = threading.Event()

def work():
    begun.set()
    while True:
        torch.mm(matrix, matrix)  # lets go of the interpreter in frames that cannot be unwound

thread = {thread}
thread.start()
begun.wait()
threading.Event().wait(0.05)
print(thread.name, thread.daemon)
"""


def _end(thread: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", _PROGRAM.format(thread=thread)]
    return subprocess.run(program, check=False, capture_output=True, text=True, timeout=120)


def test_a_program_ends_well_while_a_daemon_thread_computes() -> None:
    ended = _end('DaemonThread(work, name="dp-test")')
    assert (ended.returncode, ended.stdout) == (0, "dp-test True\n"), ended.stderr


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="Python itself lets such a thread wait")
def test_a_thread_of_python_would_abort_it() -> None:
    assert _end("threading.Thread(target=work, daemon=True)").returncode == -signal.SIGABRT


def _calls(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


def test_no_thread_of_ours_is_made_otherwise() -> None:
    # An installed package may have a folder for its native module alone, besides its sources.
    roots = [Path(root) for package in (dataplane, dataplane_fuse) for root in package.__path__]
    sources = [path for root in roots for path in root.rglob("*.py")]
    made = {path.name for path in sources if "DaemonThread" in _calls(path)}
    assert {"download.py", "pipeline.py", "fusepy.py"} <= made
    others = {"threading.Thread", "Thread"}  # a timer is cancelled by the block that made it
    assert [str(path) for path in sources if others & _calls(path)] == []
