"""The dataset that the tests of other frameworks read, and programs of two processes that do so."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np

from dataplane.shards import SourceArray, SourceSample

SAMPLES = 24
BATCH = 4
STEPS = SAMPLES // BATCH
SEED = 7
RANKS = 2
ARRAYS = ["image", "number", "points"]

_REPOSITORY = Path(__file__).resolve().parents[2]


def case(number: int) -> SourceSample:
    """An image, its number, a label that follows from the image, and points, more for each case."""
    rng = np.random.default_rng([number, 99])
    image = rng.standard_normal((1, 16, 16)).astype("f4")
    arrays = {
        "image": image,
        "label": 2 * image + 1,
        "number": np.array(number, "i8"),
        "points": rng.standard_normal((3 + number, 3)).astype("f4"),
    }
    return SourceSample(
        key=f"case-{number:03d}",
        arrays={name: SourceArray(values, None, None, {}) for name, values in arrays.items()},
        attributes={},
    )


def run_program(source: str, folder: Path, *arguments: str, launcher: tuple[str, ...] = ()) -> list:
    """Run a program of one process or of `RANKS`; return what each wrote with `report`.

    Args:
        source: the program; its arguments are `arguments`, and `report(rank, value)` is there.
        folder: an empty folder.
        arguments: arguments of the program.
        launcher: what starts it, after the interpreter; by default nothing does.
    """
    program = folder / "program.py"
    program.write_text(_PROLOGUE + source)
    done = subprocess.run(
        [sys.executable, *launcher, str(program), *arguments],
        check=False, capture_output=True, text=True, timeout=100, cwd=folder,
        env=os.environ | {
            "PYTHONPATH": os.pathsep.join([str(_REPOSITORY), *sys.path]),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(path.read_text()) for path in sorted(folder.glob("report-*.json"))]


def torchrun(ranks: int = RANKS) -> tuple[str, ...]:
    """Return the arguments of an interpreter that start a program so many times."""
    return ("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}")


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def assert_shared_out(ranks: list[list[list]], keys: list[str]) -> None:
    """Of runs `[rank][step] = (epoch, keys of the batch)`: each sample once per epoch.

    All ranks take equally many steps, and no two epochs have the same order.
    """
    assert len(ranks) == RANKS
    epochs = sorted({epoch for run in ranks for epoch, _ in run})
    orders = []
    for epoch in epochs:
        shares = [[key for when, batch in run if when == epoch for key in batch] for run in ranks]
        assert [len(share) for share in shares] == [len(keys) // RANKS] * RANKS, epoch
        assert sorted(key for share in shares for key in share) == sorted(keys), epoch
        orders.append(shares)
    assert len({str(order) for order in orders}) == len(epochs)


_PROLOGUE = """\
import atexit, json, logging, sys, warnings

warnings.simplefilter("ignore")
import torch.distributed.nn  # its functions would hold a group that was there before it


@atexit.register
def leave():
    # A thread of gloo that still holds a tensor when the interpreter ends aborts the process.
    import gc
    import torch.distributed as dist

    if dist.is_initialized():
        gc.collect()
        dist.destroy_process_group()


def report(rank, value):
    with open(f"report-{rank}.json", "w") as file:
        json.dump(value, file)


"""
