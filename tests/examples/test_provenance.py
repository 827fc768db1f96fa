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
    rows = ["--rows", "table=7", "--rows", "ids=3"]
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
    assert program.main(["--replay", str(log), "--rows", "table=6"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "rows(7)" in line
    assert "rows(6)" in line


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


def test_a_log_is_of_one_run(
    program: ModuleType, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = str(tmp_path / "run.jsonl")
    assert program.main([url, "--log", log, "--rows", "table=7"]) == 0
    logged = Path(log).read_text()
    capsys.readouterr()
    assert program.main([url, "--log", log]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "there is a log" in line
    assert Path(log).read_text() == logged
    assert program.main(["--log", log, "--overwrite", "--rows", "table=6", url]) == 0
    assert program.main(["--replay", log, "--rows", "table=6"]) == 0


def test_a_replay_opens_each_dataset_once(
    program: ModuleType, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = str(tmp_path / "run.jsonl")
    assert program.main([url, "--log", log, "--batch-size", "1"]) == 0
    opened: list[str] = []
    plain = dp.Dataset
    monkeypatch.setattr(
        dp, "Dataset", lambda url, *more: (opened.append(url), plain(url, *more))[1]
    )
    assert program.main(["--replay", log]) == 0
    assert opened == [url]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "7",
        "[1]",
        '{"step": 1}',
        '{"step": 1, "epoch": 0, "datasets": [1], "samples": []}',
        '{"step": 1, "epoch": 0, "datasets": [], "samples": [{"dataset": 0}]}',
        "\xff",
    ],
)
def test_what_is_no_log_is_said_in_one_line(
    program: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (tmp_path / "other.json").write_text(text, "latin-1")
    assert program.main(["--replay", str(tmp_path / "other.json")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "other.json" in line


def test_files_that_cannot_be_used_are_said_in_one_line(
    program: ModuleType, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, code in (
        (["--replay", str(tmp_path / "nope.jsonl")], 1),
        (["--replay", str(tmp_path)], 1),
        ([url, "--log", str(tmp_path)], 2),
        ([url, "--log", str(tmp_path), "--overwrite"], 1),
        ([url, "--rows", "nope=3"], 2),
        ([str(tmp_path / "nothing")], 3),
    ):
        capsys.readouterr()
        assert program.main(words) == code
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("log_provenance: ")


@pytest.mark.parametrize(
    "words",
    [
        ["--rows", "points"],
        ["--rows", "points=x"],
        ["--rows", "=3"],
        ["--rows", "points=0"],
        ["--batch-size", "0"],
        ["--epochs", "-1"],
        ["--seed", "-1"],
    ],
)
def test_arguments_that_are_none_are_usage_errors(
    program: ModuleType, url: str, words: list[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        program.main([url, *words])
    assert ended.value.code == 2
