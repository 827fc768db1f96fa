"""The training example runs, on one process and on two, and resumes with the very next batch."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from dataplane.shards import DatasetWriter, SourceArray, SourceSample, WriteOptions
from dataplane.stores import open_store
from dataplane_testing.generate import generate_samples

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "train.py"
EPOCHS = 2
PROCESSES = 2
STOP_AFTER = 3

# What each process does: a whole run, one that stops in the first epoch, and the rest of it, as it
# would be after a restart. Starting Python with torch takes longer than all three.
_RANK = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
import train

url, folder = sys.argv[2:]
with train.process_group() as device:
    def run(name, *more):
        given = [url, "--checkpoint", f"{folder}/{name}", "--cache-dir", f"{folder}/cache", *more]
        return train.train(train.parse(given), device)

    runs = [run("whole.pt"), run("parts.pt", "--stop-after", "3"), run("parts.pt")]
    with open(f"{folder}/rank-{os.environ['RANK']}.json", "w") as file:
        json.dump(runs, file)
"""


@pytest.fixture
def train() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pack(url: str, count: int) -> set[str]:
    """Pack so many meshes; return their keys."""
    keys = set()
    many = generate_samples(1 << 30, seed=3, kinds=("mesh",), sample_bytes=128 << 10)
    with DatasetWriter(open_store(url), WriteOptions()) as writer:
        for sample in islice(many, count):
            writer.add(sample)
            keys.add(sample.key)
        writer.finish()
    return keys


def test_an_interrupted_run_equals_an_uninterrupted_one(
    train: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"file://{tmp_path}/meshes"
    pack(url, 16)

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


def test_meshes_of_one_size_come_stacked(train: ModuleType, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/meshes"
    with DatasetWriter(open_store(url), WriteOptions()) as writer:
        for number in range(4):
            points = np.random.default_rng(number).random((50, 3)).astype(np.float32)
            arrays = {
                "points": SourceArray(points),
                "point_data/pressure": SourceArray(points[:, 0]),
            }
            writer.add(SourceSample(f"mesh{number}", arrays))
    given = [url, "--checkpoint", str(tmp_path / "c.pt"), "--epochs", "1", "--batch-size", "2"]
    losses = [loss for *_, loss in train.train(train.parse(given))]
    assert len(losses) == 2
    assert all(np.isfinite(losses))


def test_two_processes_share_every_epoch_and_one_checkpoint(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/meshes"
    keys = pack(url, 48)  # a multiple of the ranks: else some samples come twice
    (tmp_path / "rank.py").write_text(_RANK)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *(f"--nproc_per_node={PROCESSES}", str(tmp_path / "rank.py")),
            *(str(EXAMPLE.parent), url, str(tmp_path)),
        ],
        check=False, capture_output=True, text=True, timeout=90,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(PROCESSES)]
    for epoch in range(EPOCHS):
        read = [
            [key for when, batch, _ in whole if when == epoch for key in batch]
            for whole, _, _ in ranks
        ]
        # Each rank its share, of the same size, and together every sample once.
        assert [len(share) for share in read] == [len(keys) // PROCESSES] * PROCESSES
        assert sorted(key for share in read for key in share) == sorted(keys)
    for whole, first, rest in ranks:
        assert len(first) == STOP_AFTER
        parts = first + rest
        assert [(epoch, batch) for epoch, batch, _ in parts] == [
            (epoch, batch) for epoch, batch, _ in whole
        ]
        # The same models: gradients were averaged, and the checkpoint has what both went on with.
        assert [loss for *_, loss in parts] == pytest.approx([loss for *_, loss in whole], rel=1e-4)
    # One of them speaks and writes.
    assert done.stdout.count(f"resumed in epoch 0, batch {STOP_AFTER}") == 1
    assert {path.name for path in tmp_path.glob("*.pt")} == {"whole.pt", "parts.pt"}
    assert not list(tmp_path.glob(".*.tmp"))
