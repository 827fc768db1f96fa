"""How the training examples are started: arguments, ranks and devices, errors, exit codes.

`run` wraps a whole program. Under torchrun it joins the other processes and leaves them again,
whatever happens in between, since a process that ends within a group aborts: a thread of gloo may
still hold a tensor of the last step, and giving it back takes the interpreter that ends. What goes
wrong becomes one line and an exit code.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

import dataplane as dp

__all__ = ["Place", "count", "make_parser", "natural", "run"]

FOLDER = Path("dataplane-examples")


@dataclass(frozen=True, slots=True)
class Place:
    """The place of this process among all that train together.

    Attributes:
        device: device to compute on.
        rank: number of this process, from 0 on.
        world_size: number of processes.
    """

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def wait_for_all(self) -> None:
        if self.world_size > 1:
            dist.barrier()

    def say(self, line: str) -> None:
        """Print a line, of one process for all."""
        if self.is_first:
            print(line, flush=True)


def make_parser(name: str, description: str, *, samples: int) -> argparse.ArgumentParser:
    """Make a parser with the arguments that all examples have.

    Args:
        name: name of the example's data.
        description: purpose of the program.
        samples: number of samples to generate by default.
    """
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    checkpoint = FOLDER / f"{name}.pt"
    add("--data", metavar="URL", help="packed dataset; without it one is generated into --folder")
    add("--folder", type=Path, default=FOLDER, help="for what is generated (%(default)s)")
    add("--samples", type=count, default=samples, help="to generate (%(default)s)")
    add("--holdout", type=share, default=0.125, help="share to validate with (%(default)s)")
    add("--epochs", type=count, default=8, help="in all, with those before a resume (%(default)s)")
    add("--batch-size", type=count, default=4, help="of each process (%(default)s)")
    add("--workers", type=natural, default=2, help="threads that decode (%(default)s)")
    add("--learning-rate", type=positive, default=2e-3, help="of Adam (%(default)s)")
    add("--seed", type=int, default=0, help="of the order and the first weights (%(default)s)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(%(default)s)")
    add(
        "--amp",
        action=argparse.BooleanOptionalAction,
        help="bfloat16 where autocast takes it for safe; without a word of yours, on GPUs",
    )
    add("--checkpoint", type=Path, default=checkpoint, help="file (%(default)s)")
    add("--resume", action="store_true", help="go on with the checkpoint, if there is one")
    add("--save-every", type=count, default=100, help="steps, and after each epoch (%(default)s)")
    add("--stop-after", type=count, help="steps: save and stop then, with exit code 0")
    add("--log-every", type=count, default=10, help="steps (%(default)s)")
    add(
        "--log-samples", type=Path, metavar="FILE", help="gets keys and loss of every step, as JSON"
    )
    add("--cache-dir", type=Path, help="cache for --data; by default the user's")
    return parser


def run(
    program: str,
    arguments: argparse.Namespace,
    train: Callable[[argparse.Namespace, Place], int],
) -> int:
    """Train with the processes that torchrun started, if it did; return the exit code."""
    try:
        with _place(arguments.device) as place:
            torch.manual_seed(arguments.seed)
            return train(arguments, place)
    except (dp.DataplaneError, OSError) as err:
        print(f"{program}: {err}", file=sys.stderr, flush=True)
        return err.exit_code if isinstance(err, dp.DataplaneError) else 1
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr, flush=True)
        return 128 + signal.SIGINT


@contextmanager
def _place(wanted: str) -> Iterator[Place]:
    """Join the other processes, if torchrun started us. No GPU is touched but our own.

    Raises:
        ConfigError: the device that is wanted is not there.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    gpus = torch.cuda.device_count()
    if wanted == "cuda" and local_rank >= gpus:
        raise dp.ConfigError(
            f"--device cuda: process {local_rank} of this host needs a GPU of its own, and torch "
            f"{torch.__version__} sees {gpus}",
            hint="use --device cpu, fewer processes, or a torch that was built for CUDA",
        )
    # All processes of a host choose alike, since they have one backend between them.
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    on_gpu = wanted == "cuda" or (wanted == "auto" and local_world_size <= gpus)
    device = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield Place(device)
        return
    # DistributedDataParallel imports it when it is made. Were a group there by then, functions of
    # the module would hold it as a default argument, and `destroy_process_group` not end it.
    importlib.import_module("torch.distributed.nn")
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Place(device, dist.get_rank(), dist.get_world_size())
    finally:
        gc.collect()  # a replica of the model holds the group, too
        dist.destroy_process_group()


def count(text: str) -> int:
    """Read a whole number of 1 or more."""
    return _whole(text, 1)


def natural(text: str) -> int:
    """Read a whole number of 0 or more."""
    return _whole(text, 0)


def positive(text: str) -> float:
    """Read a finite number above 0."""
    if not 0 < float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0 and finite, got {text!r}")
    return float(text)


def share(text: str) -> float:
    """Read a number from 0 to 1."""
    if not 0 <= float(text) <= 1:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1, got {text!r}")
    return float(text)


def _whole(text: str, least: int) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number of {least} or more, got {text!r}")
    return int(text)
