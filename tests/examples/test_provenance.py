"""The example that logs provenance: JSON lines, MLflow, and samples read again from the log."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import dataplane as dp
from tests.selections.data import pack_meshes


@pytest.fixture
def program(modules: dict[str, ModuleType]) -> ModuleType:
    return modules["log_provenance"]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return pack_meshes(tmp_path / "meshes", 5).url


class Mlflow(ModuleType):
    """What the example calls of MLflow."""

    def __init__(self, run: object) -> None:
        super().__init__("mlflow")
        self.run = run
        self.tags: dict[str, str] = {}
        self.artifacts: list[str] = []

    def active_run(self) -> object:
        return self.run

    def set_tag(self, name: str, value: str) -> None:
        self.tags[name] = value

    def log_artifact(self, path: str) -> None:
        self.artifacts.append(Path(path).read_text())


def test_a_run_is_logged_and_its_samples_are_read_again(
    program: ModuleType, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "logs" / "run.jsonl"
    rows = ["--rows", "table=7", "ids=3"]
    words = [url, "--log", str(log), "--batch-size", "2", "--epochs", "2", *rows]
    assert program.main(words) == 0
    steps = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(step["epoch"], step["step"]) for step in steps] == [
        (epoch, step) for epoch in range(2) for step in range(3)
    ]
    capsys.readouterr()
    assert program.main(["--replay", str(log), *rows]) == 0
    lines = capsys.readouterr().out.splitlines()
    selections = {"table": dp.rows(7), "ids": dp.rows(3)}
    loader = dp.DataLoader(dp.Dataset(url, selections), 2, shuffle=True, seed=0)
    sums = [float(batch["table"].sum() + batch["ids"].sum()) for _ in range(2) for batch in loader]
    assert [line.rpartition(" ")[2] for line in lines] == [f"{total:.6g}" for total in sums]
    assert program.main(["--replay", str(log), "--rows", "table=6"]) == 1


@pytest.mark.parametrize("run", [None, "a run"])
def test_a_run_of_mlflow_gets_the_dataset_and_the_log(
    program: ModuleType, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Any
) -> None:
    mlflow = Mlflow(run)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    log = tmp_path / "run.jsonl"
    assert program.main([url, "--log", str(log)]) == 0
    if run is None:
        assert (mlflow.tags, mlflow.artifacts) == ({}, [])
    else:
        identity = dp.Dataset(url).identity
        assert mlflow.tags == {"dataset.0.url": url, "dataset.0.identity": identity}
        assert mlflow.artifacts == [log.read_text()]


def test_it_wants_a_dataset_or_a_log(program: ModuleType) -> None:
    with pytest.raises(SystemExit):
        program.main([])
