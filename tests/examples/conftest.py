"""Fixtures: the programs of examples/ as modules, runs of them, and what they said and logged."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SMALL = {
    "train_meshes": ["--samples", "48", "--points", "80", "--width", "32", "--batch-size", "6"],
    "train_volumes": ["--samples", "24", "--cells", "8", "--width", "4", "--batch-size", "3"],
}
TRAINED_WITH = {"train_meshes": 42, "train_volumes": 21}  # an eighth is held out


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
