"""The examples under torchrun: ranks share every epoch, train alike, and stop together."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.examples.conftest import (
    DEADLINE_S,
    EXAMPLES,
    Runner,
    interrupt_after,
    read_steps,
    started,
)

PROCESSES = 2
TRAINED_WITH = {"train_meshes": 42, "train_volumes": 28}  # of 48 and 32, an eighth is held out
BATCHES = {"train_meshes": 3, "train_volumes": 2}
STEPS = 7  # of an epoch, in both


def torchrun(run: Runner, example: str, *more: str) -> list[str]:
    """Return the command of a small run with two processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    program = [str(EXAMPLES / f"{example}.py"), *run.arguments(example, *more)]
    return [*launcher, f"--nproc_per_node={PROCESSES}", *program]


def by_step(log: Path) -> list[list[dict]]:
    """Return the lines of all ranks, in the order of ranks, for each step."""
    steps = defaultdict(list)
    for line in read_steps(log):
        steps[line["step"]].append(line)
    assert [*steps] == [*range(1, len(steps) + 1)]
    return [sorted(lines, key=lambda line: line["rank"]) for lines in steps.values()]


@pytest.mark.parametrize("example", ["train_meshes", "train_volumes"])
@pytest.mark.timeout(3 * DEADLINE_S)
def test_two_processes_train_as_one_does_and_one_goes_on_with_their_checkpoint(
    run: Runner, example: str
) -> None:
    log = run.folder / "ranks.jsonl"
    data = ["--epochs", "2"] if example == "train_meshes" else ["--epochs", "2", "--samples", "32"]
    each = ["--batch-size", str(BATCHES[example])]
    together = ["--batch-size", str(BATCHES[example] * PROCESSES)]
    stop = ["--log-samples", str(log), "--stop-after", str(STEPS + 2)]
    with started(torchrun(run, example, *data, *each, *stop)) as program:
        output, errors = program.communicate(timeout=DEADLINE_S)
    assert program.returncode == 0, errors
    ranks = by_step(log)
    rest = run(example, *data, *together, "--resume")
    whole = run(example, *data, *together, "--checkpoint", str(run.folder / "whole.pt"))

    assert [len(lines) for lines in ranks] == [PROCESSES] * (STEPS + 2)
    for lines, alone in zip(ranks, whole.steps, strict=False):
        # Places of the order go to the ranks in turn.
        dealt = zip(*(line["keys"] for line in lines), strict=True)
        assert [key for keys in dealt for key in keys] == alone["keys"]
        norms = {line["gradient_norm"] for line in lines}
        assert len(norms) == 1  # the very same gradients
        assert norms.pop() == pytest.approx(alone["gradient_norm"], rel=1e-2)
        mean = sum(line["loss"] for line in lines) / PROCESSES
        assert mean == pytest.approx(alone["loss"], rel=1e-3)
    for epoch in (0, 1):
        read = [key for lines in ranks for line in lines for key in line["keys"]
                if line["epoch"] == epoch]  # fmt: skip
        read += [key for when, _, keys in rest.samples for key in keys if when == epoch]
        assert len(read) == len(set(read)) == TRAINED_WITH[example]
    assert rest.samples == whole.samples[STEPS + 2 :]
    assert rest.losses == pytest.approx(whole.losses[STEPS + 2 :], rel=1e-2)

    # One of them speaks and writes.
    for said in ("data: generating", "epoch 0: loss", f"stopped after step {STEPS + 2}"):
        assert output.count(said) == 1
    assert {path.name for path in run.folder.glob("*.pt")} == {"checkpoint.pt", "whole.pt"}
    assert not list(run.folder.glob(".*.tmp"))


@pytest.mark.timeout(3 * DEADLINE_S)
def test_ctrl_c_stops_all_processes_at_one_step_with_a_checkpoint(run: Runner) -> None:
    log = run.folder / "ranks.jsonl"
    more = ["--epochs", "100000", "--log-samples", str(log)]
    with started(torchrun(run, "train_meshes", *more)) as program:
        output, errors = interrupt_after(program, log, 10)
    ranks = by_step(log)
    assert [len(lines) for lines in ranks] == [PROCESSES] * len(ranks)
    assert f"stopped after step {len(ranks)}, saved " in output
    assert "terminate called" not in errors
    rest = run("train_meshes", "--epochs", "100000", "--resume", "--stop-after", "1")
    assert any(f"after step {len(ranks)}" in line for line in rest.output)


_TELLING = """\
import atexit, os, runpy, sys

@atexit.register
def tell():
    count = 0
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/comm") as file:
                count += "gloo" in file.read()
        except OSError:  # it ends just now
            pass
    print("threads of gloo:", count, flush=True)

sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.timeout(3 * DEADLINE_S)
def test_no_thread_of_gloo_outlives_the_group(run: Runner) -> None:
    # One that still held a tensor when the interpreter ends would abort the process.
    telling = run.folder / "telling.py"
    telling.write_text(_TELLING)
    command = torchrun(run, "train_volumes", "--epochs", "1", "--stop-after", "2")
    example = next(at for at, word in enumerate(command) if word.endswith("train_volumes.py"))
    command.insert(example, str(telling))
    with started(command) as program:
        output, errors = program.communicate(timeout=DEADLINE_S)
    assert program.returncode == 0, errors
    assert output.count("threads of gloo: 0") == PROCESSES
