"""Log where each batch of a run comes from, and read its samples again from the log alone.

    python examples/log_provenance.py s3://bucket/cars --log run.jsonl --rows points=1000
    python examples/log_provenance.py --replay run.jsonl --rows points=1000

Each line of the log is a step as JSON: keys, draws, shards with their etags, ranges of bytes. A log
is of one run and one process. Where MLflow is installed and a run of it is active, the run gets the
datasets as tags and, at the end, the log as an artifact.
"""

from __future__ import annotations

import argparse
import json
import operator
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from launch import count, natural

import dataplane as dp

Rows: TypeAlias = Sequence[tuple[str, int]]


class ProvenanceLog:
    """A log of the steps of a run; made by `opened`."""

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Without a buffer: a run that is killed has logged all of its steps.
            self._file = path.open("wb" if overwrite else "xb", buffering=0)
        except FileExistsError:
            raise dp.ConfigError(
                f"there is a log {path} already", hint="name another with --log, or --overwrite it"
            ) from None
        self._path = path
        self._mlflow = active_mlflow()
        self._is_tagged = False

    @classmethod
    @contextmanager
    def opened(cls, path: Path, *, overwrite: bool = False) -> Iterator[ProvenanceLog]:
        """Begin a log; at the end MLflow gets it.

        Raises:
            ConfigError: there is one already, and it is not to be overwritten.
            OSError: it cannot be written.
        """
        log = cls(path, overwrite=overwrite)
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
    with ProvenanceLog.opened(arguments.log, overwrite=arguments.overwrite) as log:
        for _ in range(arguments.epochs):
            for _batch in loader:  # train with it
                log.write(loader.provenance().as_dict())
                steps += 1
    print(f"{steps} steps in {arguments.log}")


def replay(path: Path, rows: Rows) -> None:
    """Read the samples of a log again, each as it was, and print a checksum of each step.

    Raises:
        ConfigError: the file is no log, or its datasets are others by now.
        OSError: it cannot be read.
    """
    datasets: dict[str, dp.Dataset] = {}
    for step in steps_of(path):
        for one in step["datasets"]:
            if one["url"] not in datasets:
                datasets[one["url"]] = dp.Dataset(one["url"], selections_of(rows))
            check_dataset(datasets[one["url"]], one)
        total = 0.0
        for sample in step["samples"]:
            dataset = datasets[step["datasets"][sample["dataset"]]["url"]]
            values = dataset.numpy(sample["number"], draw=sample["draw"])
            total += sum(float(np.sum(it)) for it in values.values() if isinstance(it, np.ndarray))
        print(f"epoch {step['epoch']} step {step['step']}: sum {total:.6g}")


def steps_of(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the steps of a log.

    Raises:
        ConfigError: a line is no step, or there are none.
        OSError: the file cannot be read.
    """
    number = 0
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            step = json.loads(line)
            _ = step["epoch"], step["step"]
            known = [(one["url"] + "", one["identity"], one["arrays"]) for one in step["datasets"]]
            for sample in step["samples"]:
                _ = known[sample["dataset"]], operator.index(sample["number"])
                _ = operator.index(0 if sample["draw"] is None else sample["draw"])
        except (ValueError, LookupError, TypeError, RecursionError):
            raise dp.ConfigError(
                f"{path}: line {number} is no step of a log of provenance",
                hint="give a file that this program has written",
            ) from None
        yield step
    if not number:
        raise dp.ConfigError(f"{path}: a log without a step")


def check_dataset(dataset: dp.Dataset, logged: dict[str, Any]) -> None:
    """Check that a dataset and its selections are those that were logged.

    Raises:
        ConfigError: they are others.
    """
    if dataset.identity != logged["identity"]:
        raise dp.ConfigError(f"{dataset.url} is another dataset than that of the log")
    arrays = {name: repr(it) for name, it in dataset.selections.items()}
    if arrays != logged["arrays"]:
        raise dp.ConfigError(
            f"the log is of {logged['arrays']}, and these are {arrays}", hint="give the same --rows"
        )


def selections_of(rows: Rows) -> dict[str, Any] | None:
    """Return the selections that `--rows` asks for; None for whole samples."""
    return {name: dp.rows(taken) for name, taken in rows} or None


def rows_of(text: str) -> tuple[str, int]:
    """Read `ARRAY=COUNT`."""
    name, _, taken = text.rpartition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"must be ARRAY=COUNT, got {text!r}")
    return name, count(taken)


def main(words: Sequence[str] | None = None) -> int:
    """Run the program, and return its exit code."""
    parser = argparse.ArgumentParser(description="Log where each batch of a run comes from.")
    add = parser.add_argument
    add("url", nargs="?", help="dataset to read")
    log = Path("provenance.jsonl")
    add("--log", type=Path, default=log, help="file for the steps, a new one (%(default)s)")
    add("--overwrite", action="store_true", help="begin --log anew where it is there already")
    add("--replay", type=Path, metavar="LOG", help="read the samples of a log again")
    add(
        "--rows", type=rows_of, action="append", default=[], metavar="ARRAY=COUNT",
        help="array to read, and how many rows of it, at random; may be repeated (all, whole)",
    )  # fmt: skip
    add("--batch-size", type=count, default=4, help="samples of a step (%(default)s)")
    add("--epochs", type=count, default=1, help="passes over the dataset (%(default)s)")
    add("--seed", type=natural, default=0, help="of the order and the rows (%(default)s)")
    arguments = parser.parse_args(words)
    if (arguments.url is None) == (arguments.replay is None):
        parser.error("give a dataset, or --replay with a log")
    try:
        if arguments.replay is not None:
            replay(arguments.replay, arguments.rows)
        else:
            read(arguments)
    except (dp.DataplaneError, OSError) as err:
        print(f"log_provenance: {err}", file=sys.stderr)
        return err.exit_code if isinstance(err, dp.DataplaneError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
