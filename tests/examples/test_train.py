"""The training example runs, and resumes with the very next batch."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from dataplane.shards import DatasetWriter, WriteOptions
from dataplane.stores import open_store
from dataplane.testing.generate import generate_samples

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "train.py"


@pytest.fixture
def train() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_interrupted_run_equals_an_uninterrupted_one(
    train: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"file://{tmp_path}/meshes"
    with DatasetWriter(open_store(url), WriteOptions()) as writer:
        for sample in generate_samples(2 << 20, seed=3, kinds=("mesh",), sample_bytes=128 << 10):
            writer.add(sample)
        writer.finish()

    def run(name: str, *more: str) -> list:
        given = [url, "--checkpoint", str(tmp_path / name), "--epochs", "2", "--batch-size", "4"]
        return train.train(train.parse([*given, *more]))

    whole = run("whole.pt")
    assert [epoch for epoch, _, _ in whole] == sorted(epoch for epoch, _, _ in whole)
    half = len(whole) // 2 - 1
    parts = run("parts.pt", "--stop-after", str(half)) + run("parts.pt", "--num-workers", "0")
    assert [(epoch, keys) for epoch, keys, _ in parts] == [
        (epoch, keys) for epoch, keys, _ in whole
    ]
    assert [loss for *_, loss in parts] == pytest.approx([loss for *_, loss in whole], rel=1e-4)
    output = capsys.readouterr().out
    assert f"stopped after {half} batches" in output
    assert f"resumed in epoch 0, batch {half}" in output
    assert "GB/s" in output
