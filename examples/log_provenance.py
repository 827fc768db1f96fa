"""Log where each batch of a run comes from, and read its samples again from the log alone.

    python examples/log_provenance.py s3://bucket/cars --log run.jsonl --rows points=1000
    python examples/log_provenance.py --replay run.jsonl --rows points=1000

Each line of the log is a step as JSON: keys, draws, shards with their etags, ranges of bytes. Where
MLflow is installed and a run of it is active, the run gets the datasets as tags and, at the end,
the log as an artifact.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import dataplane as dp


class ProvenanceLog:
    """A log of the steps of a run; made by `opened`."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # One write a line, so that ranks may share a file.
        self._file = path.open("ab", buffering=0)
        self._path = path
        self._mlflow = active_mlflow()
        self._is_tagged = False

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Iterator[ProvenanceLog]:
        """Open a log to add to; at the end MLflow gets it."""
        log = cls(path)
        try:
            yield log
        finally:
            log._file.close()
            if log._mlflow is not None:
                log._mlflow.log_artifact(str(path))

    def write(self, step: dict[str, Any]) -> None:
        """Add what `loader.provenance().as_dict()` gave."""
        self._file.write(json.dumps(step).encode() + b"\n")
        if self._mlflow is not None and not self._is_tagged:
            self._is_tagged = True
            for number, dataset in enumerate(step["datasets"]):
                self._mlflow.set_tag(f"dataset.{number}.url", dataset["url"])
                self._mlflow.set_tag(f"dataset.{number}.identity", dataset["identity"])


def active_mlflow() -> Any:
    """Return MLflow where it is installed and has an active run, else None."""
    try:
        import mlflow
    except ModuleNotFoundError:
        return None
    return mlflow if mlflow.active_run() is not None else None


def read(arguments: argparse.Namespace) -> None:
    """Read a dataset, and log where each batch comes from."""
    dataset = dp.Dataset(arguments.url, selections_of(arguments.rows))
    loader = dp.DataLoader(dataset, arguments.batch_size, shuffle=True, seed=arguments.seed)
    steps = 0
    with ProvenanceLog.opened(arguments.log) as log:
        for _ in range(arguments.epochs):
            for _batch in loader:  # train with it
                log.write(loader.provenance().as_dict())
                steps += 1
    print(f"{steps} steps in {arguments.log}")


def replay(path: Path, rows: Sequence[str]) -> None:
    """Read the samples of a log again, each as it was, and print a checksum of each step."""
    for line in path.read_text().splitlines():
        step = json.loads(line)
        datasets = [dp.Dataset(one["url"], selections_of(rows)) for one in step["datasets"]]
        total = 0.0
        for dataset, one in zip(datasets, step["datasets"], strict=True):
            if dataset.identity != one["identity"]:
                raise dp.ConfigError(f"{one['url']} is another dataset than that of the log")
            if {name: repr(it) for name, it in dataset.selections.items()} != one["arrays"]:
                raise dp.ConfigError("the log is of other selections; give the same --rows")
        for sample in step["samples"]:
            values = datasets[sample["dataset"]].numpy(sample["number"], draw=sample["draw"])
            total += sum(float(np.sum(it)) for it in values.values() if isinstance(it, np.ndarray))
        print(f"epoch {step['epoch']} step {step['step']}: sum {total:.6g}")


def selections_of(rows: Sequence[str]) -> dict[str, Any] | None:
    """Return the selections that `--rows` asks for; None for whole samples."""
    pairs = [text.rpartition("=") for text in rows]
    return {name: dp.rows(int(count)) for name, _, count in pairs} or None


def main(words: Sequence[str] | None = None) -> int:
    """Run the program, and return its exit code."""
    parser = argparse.ArgumentParser(description="Log where each batch of a run comes from.")
    parser.add_argument("url", nargs="?", help="dataset to read")
    parser.add_argument("--log", type=Path, default=Path("provenance.jsonl"))
    parser.add_argument(
        "--replay", type=Path, metavar="LOG", help="read the samples of a log again"
    )
    parser.add_argument("--rows", nargs="*", default=[], metavar="ARRAY=COUNT", help="random rows")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(words)
    if (arguments.url is None) == (arguments.replay is None):
        parser.error("give a dataset, or --replay with a log")
    try:
        if arguments.replay is not None:
            replay(arguments.replay, arguments.rows)
        else:
            read(arguments)
    except dp.DataplaneError as err:
        print(f"log_provenance: {err}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
