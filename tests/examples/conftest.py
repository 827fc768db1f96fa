"""Fixtures: the programs of examples/ as modules, runs of them, and what they said and logged."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

DEADLINE_S = 150  # of a program that starts beside many others
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SMALL = {
    "train_meshes": ["--samples", "48", "--points", "80", "--width", "32", "--batch-size", "6"],
    "train_volumes": ["--samples", "24", "--cells", "8", "--width", "4", "--batch-size", "3"],
}


@dataclass(frozen=True)
class Run:
    """One run of an example in this process.

    Attributes:
        code: exit code.
        steps: lines of `--log-samples`.
        output: lines of standard output.
        errors: standard error.
    """

    code: int
    steps: list[dict[str, Any]]
    output: list[str]
    errors: str

    @property
    def samples(self) -> list[tuple[int, int, list[str]]]:
        """Epoch, step and keys of every step."""
        return [(line["epoch"], line["step"], line["keys"]) for line in self.steps]

    @property
    def losses(self) -> list[float]:
        return [line["loss"] for line in self.steps]


@contextmanager
def started(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Start a program; at the end none of its processes is left, however the test went."""
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    ) as program:
        try:
            yield program
        finally:
            for child in _children(program.pid):  # torchrun's are in sessions of their own
                os.kill(child, signal.SIGKILL)
            program.kill()


def _children(pid: int) -> list[int]:
    try:
        return [int(it) for it in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # it has ended
        return []


def interrupt_after(program: subprocess.Popen[str], log: Path, lines: int) -> tuple[str, str]:
    """Send Ctrl-C to a program once it has logged so much, and return what it printed."""
    deadline = time.monotonic() + DEADLINE_S
    while not (log.exists() and len(log.read_bytes().splitlines()) >= lines):
        assert program.poll() is None, program.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    program.send_signal(signal.SIGINT)
    return program.communicate(timeout=DEADLINE_S)


def read_steps(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """All modules of examples/, as a program there would import them."""
    monkeypatch.syspath_prepend(EXAMPLES)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    names = sorted(path.stem for path in EXAMPLES.glob("*.py"))
    yield {name: importlib.import_module(name) for name in names}
    torch.set_num_threads(threads)
    for name in names:
        del sys.modules[name]


class Runner:
    """Runs an example with small data in a folder that all runs of a test share."""

    def __init__(
        self, modules: dict[str, ModuleType], folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.modules = modules
        self.folder = folder
        self._capsys = capsys
        self._runs = 0

    def arguments(self, example: str, *more: str) -> list[str]:
        """Return the arguments of a small run; later ones count."""
        data = ["--folder", str(self.folder), "--checkpoint", str(self.folder / "checkpoint.pt")]
        return [*SMALL[example], *data, "--device", "cpu", *more]

    def __call__(self, example: str, *more: str) -> Run:
        self._runs += 1
        log = self.folder / f"run{self._runs}.jsonl"
        self._capsys.readouterr()
        code = self.modules[example].main(self.arguments(example, "--log-samples", str(log), *more))
        output, errors = self._capsys.readouterr()
        steps = read_steps(log) if log.exists() else []
        return Run(code, steps, output.splitlines(), errors)


@pytest.fixture
def run(
    modules: dict[str, ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Runner:
    return Runner(modules, tmp_path, capsys)
