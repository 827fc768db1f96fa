"""The training examples learn, resume with the very next batch, and say what is wrong in a line."""

from __future__ import annotations

import re
import shlex
import signal
import sys
from typing import Any

import numpy as np
import pytest
import torch

from dataplane.shards import DatasetWriter, SourceArray, SourceSample
from dataplane.stores import open_store
from tests.examples.conftest import (
    DEADLINE_S,
    EXAMPLES,
    Run,
    Runner,
    interrupt_after,
    read_steps,
    started,
)

LEARNING = {
    "train_meshes": ["--samples", "128", "--batch-size", "4", "--epochs", "6"],
    "train_volumes": ["--samples", "48", "--batch-size", "3", "--epochs", "6"],
}
both = pytest.mark.parametrize("example", ["train_meshes", "train_volumes"])


COMMAND = re.compile(r"examples/(train_\w+)\.py([^`#\n]*)")


def validations(run: Run) -> list[float]:
    """Return the validation errors that a run printed, epoch by epoch."""
    return [float(line.rpartition(" ")[2]) for line in run.output if "validation" in line]


@both
@pytest.mark.parametrize("amp", ["--amp", "--no-amp"])
def test_the_loss_falls_and_so_does_that_of_samples_that_were_held_out(
    run: Runner, example: str, amp: str
) -> None:
    done = run(example, *LEARNING[example], amp)
    assert done.code == 0, done.errors
    third = len(done.losses) // 3
    assert np.mean(done.losses[-third:]) < 0.7 * np.mean(done.losses[:third])
    errors = validations(done)
    assert len(errors) == 6
    assert errors[-1] < min(0.8, errors[0])  # predicting the mean everywhere gives 1
    epochs = [
        [key for epoch, _, keys in done.samples if epoch == e for key in keys] for e in (0, 5)
    ]
    assert sorted(epochs[0]) == sorted(set(epochs[0])) == sorted(epochs[1])
    assert len(epochs[0]) == {"train_meshes": 112, "train_volumes": 42}[example]
    assert epochs[0] != epochs[1]  # another order
    assert "samples/s, loader wait" in done.output[-1]


@both
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(run: Runner, example: str) -> None:
    whole = run(example, "--epochs", "2", "--checkpoint", str(run.folder / "whole.pt"))
    first = run(example, "--epochs", "2", "--stop-after", "4")
    rest = run(example, "--epochs", "2", "--resume", "--workers", "0", "--save-every", "1")
    assert (whole.code, first.code, rest.code) == (0, 0, 0), whole.errors
    assert first.output[-1].startswith("stopped after step 4, saved ")
    assert any("in epoch 0, after step 4" in line for line in rest.output)
    assert first.samples + rest.samples == whole.samples
    assert first.losses + rest.losses == pytest.approx(whole.losses, rel=1e-4)
    assert validations(rest) == pytest.approx(validations(whole), rel=1e-3)
    assert not list(run.folder.glob(".*.tmp"))


def test_a_run_may_stop_at_the_end_of_an_epoch_and_after_the_last(run: Runner) -> None:
    steps = 7  # of an epoch: 42 of 48 meshes, six at a time
    whole = run("train_meshes", "--epochs", "2", "--checkpoint", str(run.folder / "whole.pt"))
    first = run("train_meshes", "--epochs", "2", "--stop-after", str(steps))
    rest = run("train_meshes", "--epochs", "2", "--resume")
    assert first.samples + rest.samples == whole.samples
    assert validations(rest) == pytest.approx(validations(whole), rel=1e-3)
    done = run("train_meshes", "--epochs", "2", "--resume")
    assert done.code == 0
    assert done.steps == []
    assert "all 2 epochs are done" in done.output[-1]


def test_without_resume_a_run_begins_anew_and_with_it_where_nothing_is(run: Runner) -> None:
    first = run("train_meshes", "--stop-after", "2", "--resume")
    assert any("starting anew" in line for line in first.output)
    again = run("train_meshes", "--stop-after", "2")
    assert again.steps == first.steps


def test_what_was_generated_is_used_again_and_what_was_half_made_is_not(run: Runner) -> None:
    first = run("train_meshes", "--stop-after", "1")
    assert first.output[0].startswith("data: generating 48 samples into ")
    assert run("train_meshes", "--stop-after", "1").output[0].endswith(", generated before")
    folder = next(run.folder.glob("meshes-*"))
    (folder / "index.parquet").unlink()  # as if the run had been killed before its end
    again = run("train_meshes", "--stop-after", "1")
    assert again.output[0] == first.output[0]
    assert again.steps == first.steps


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(
    run: Runner, monkeypatch: pytest.MonkeyPatch, signum: signal.Signals
) -> None:
    log = run.modules["reports"].SampleLog
    write = log.write

    def interrupted(self: object, **values: Any) -> None:
        write(self, **values)
        if values["step"] == 3:
            signal.raise_signal(signum)

    whole = run("train_meshes", "--stop-after", "8")
    before = signal.getsignal(signum)
    with monkeypatch.context() as patch:
        patch.setattr(log, "write", interrupted)
        first = run("train_meshes")
    assert first.code == 128 + signum
    assert first.output[-1].startswith("stopped after step 3, saved ")
    assert signal.getsignal(signum) == before
    rest = run("train_meshes", "--resume", "--stop-after", "5")
    assert first.samples + rest.samples == whole.samples


@pytest.mark.timeout(3 * DEADLINE_S)
def test_ctrl_c_saves_a_checkpoint_and_ends_the_program_with_130(run: Runner) -> None:
    log = run.folder / "log.jsonl"
    more = ["--epochs", "100000", "--log-samples", str(log)]
    arguments = run.arguments("train_meshes", *more)
    with started([sys.executable, str(EXAMPLES / "train_meshes.py"), *arguments]) as program:
        output, errors = interrupt_after(program, log, 5)
    first = read_steps(log)
    assert (program.returncode, errors) == (130, "")
    assert output.splitlines()[-1].startswith(f"stopped after step {len(first)}, saved ")
    rest = run("train_meshes", "--epochs", "100000", "--resume", "--stop-after", "3")
    whole = run("train_meshes", "--epochs", "100000", "--stop-after", str(len(first) + 3))
    read = [(line["epoch"], line["step"], line["keys"]) for line in first]
    assert read + rest.samples == whole.samples


def test_a_second_ctrl_c_does_not_wait_for_the_step(run: Runner) -> None:
    with run.modules["training_loop"].Interrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.signum == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_meshes_of_one_size_come_stacked_and_train_alike(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = run.folder / "stacked"
    with DatasetWriter(open_store(str(url))) as writer:
        for number in range(8):
            points = np.random.default_rng(number).random((50, 3)).astype(np.float32)
            pressure = SourceArray(points[:, 0] ** 2)
            arrays = {"points": SourceArray(points), "point_data/pressure": pressure}
            writer.add(SourceSample(f"mesh{number}", arrays))
    more = ["--data", str(url), "--target", "point_data/pressure", "--features"]
    stacked = run("train_meshes", *more, "--epochs", "2")
    assert stacked.code == 0, stacked.errors
    loss = run.modules["train_meshes"].MeshLoss
    call = loss.__call__

    def ragged(self: object, model: torch.nn.Module, batch: dict) -> torch.Tensor:
        meshes, size, _ = batch["points"].shape
        offsets = torch.arange(0, (meshes + 1) * size, size)
        names = ("points", "point_data/pressure")
        flat = {name: batch[name].flatten(0, 1) for name in names}
        return call(self, model, batch | flat | {"points.offsets": offsets})

    monkeypatch.setattr(loss, "__call__", ragged)
    assert run("train_meshes", *more, "--epochs", "2").losses == pytest.approx(stacked.losses)


@both
def test_what_is_wrong_is_said_in_one_line(run: Runner, example: str) -> None:
    def refused(*more: str) -> tuple[int, str]:
        done = run(example, "--epochs", "1", *more)
        assert done.steps == []
        [line] = done.errors.splitlines()
        assert line.startswith(f"{example}: ")
        return done.code, line

    other = {"train_meshes": "train_volumes", "train_volumes": "train_meshes"}[example]
    assert run(example, "--stop-after", "1").code == 0
    checkpoint = ["--checkpoint", str(run.folder / "other.pt")]
    assert run(other, "--stop-after", "1", *checkpoint).code == 0
    code, line = refused("--resume", *checkpoint)
    assert (code, f"this run is {{'program': '{example}'" in line) == (2, True)
    code, line = refused("--resume", "--width", "16")
    assert (code, "'width': 16" in line) == (2, True)
    code, line = refused("--resume", "--samples", "25")
    assert (code, "the state is of" in line) == (2, True)
    (run.folder / "other.pt").write_bytes(b"not a checkpoint")
    code, line = refused("--resume", *checkpoint)
    assert (code, "is not a checkpoint" in line) == (4, True)
    code, line = refused("--target", "fields/pressuer")
    assert (code, "fields/pressuer" in line) == (2, True)
    code, line = refused("--holdout", "0")
    assert (code, "both parts need at least one" in line) == (2, True)
    code, line = refused("--data", str(run.folder / "nothing"))
    assert (code, str(run.folder / "nothing") in line) == (3, True)
    code, line = refused("--checkpoint", str(run.folder))
    assert (code, "is a folder" in line) == (2, True)
    (run.folder / "file").touch()
    code, line = refused("--folder", str(run.folder / "file"))
    assert (code, str(run.folder / "file") in line) == (1, True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_an_error_and_auto_does_without(run: Runner) -> None:
    done = run("train_meshes", "--device", "cuda")
    assert done.code == 2
    assert "--device cuda: process 0 of this host needs a GPU of its own" in done.errors
    assert run("train_meshes", "--device", "auto", "--stop-after", "1").code == 0


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_checkpoint(run: Runner) -> None:
    assert run("train_meshes", "--stop-after", "1").code == 0
    kept = (run.folder / "checkpoint.pt").read_bytes()
    done = run("train_meshes", "--resume", "--learning-rate", "1e20")
    assert done.code == 1
    assert "the loss is nan at step 3; samples: ['ellipsoid-" in done.errors
    assert (run.folder / "checkpoint.pt").read_bytes() == kept


@pytest.mark.parametrize(
    ("example", "words"),
    [
        ("train_meshes", ("--workers", "-1")),
        ("train_meshes", ("--holdout", "nan")),
        ("train_meshes", ("--learning-rate", "inf")),
        ("train_meshes", ("--width", "0")),
        ("train_meshes", ("--points", "0")),
        ("train_volumes", ("--width", "0")),
        ("train_volumes", ("--cells", "0")),
    ],
)
def test_numbers_that_cannot_be_are_usage_errors(
    run: Runner, example: str, words: tuple[str, str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(example, *words)
    assert ended.value.code == 2


def test_fields_that_the_network_cannot_halve_are_refused(run: Runner) -> None:
    done = run("train_volumes", "--cells", "10")
    assert done.code == 2
    assert "fields/velocity [10, 10, 10, 3], fields/pressure [10, 10, 10]" in done.errors


def test_a_scalar_field_is_an_input_as_a_vector_field_is(run: Runner) -> None:
    url = run.folder / "scalars"
    with DatasetWriter(open_store(str(url))) as writer:
        for number in range(4):
            field = np.random.default_rng(number).random((8, 8, 8)).astype(np.float32)
            arrays = {"fields/t": SourceArray(field), "fields/pressure": SourceArray(2 * field)}
            writer.add(SourceSample(f"box{number}", arrays))
    done = run(
        "train_volumes",
        "--data",
        str(url),
        "--inputs",
        "fields/t",
        "--epochs",
        "1",
        "--holdout",
        "0.25",
    )
    assert done.code == 0, done.errors
    assert len(done.steps) == 1


def test_arrays_of_another_length_than_the_points_are_refused(run: Runner) -> None:
    done = run("train_meshes", "--features", "cells/connectivity")
    assert done.code == 2
    assert "'cells/connectivity' is [" in done.errors
    done = run("train_meshes", "--target", "point_data/normals", "--features")
    assert done.code == 2
    assert "'point_data/normals' is [" in done.errors


def test_the_commands_that_the_pages_show_are_accepted(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted = []
    pages = [
        EXAMPLES / "README.md",
        *(EXAMPLES.parent / name for name in ("README.md", "docs/loader.md")),
    ]
    pages += [EXAMPLES / f"{name}.py" for name in LEARNING]
    for page in pages:
        for name, words in COMMAND.findall(page.read_text()):
            if words.startswith((")", "]")):
                continue  # a link
            module = run.modules[name]
            monkeypatch.setattr(module, "run", lambda *it: accepted.append(it) or 0)
            assert module.main(shlex.split(words)) == 0
    assert len(accepted) >= 12
    assert {program for program, *_ in accepted} == {*LEARNING}
