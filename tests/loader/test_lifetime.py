"""However a pass ends, its threads end with it and the loader can be used again."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import weakref

import pytest

import dataplane as dp
from tests.datasets.packed import SAMPLES, Packed


def loader_threads() -> list[str]:
    stages = ("dp-read-", "dp-decode-", "dp-collate-")
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(stages)]


def assert_no_loader_threads() -> None:
    """Those of an abandoned pass end soon: the cleanup thread tells them to."""
    until_s = time.monotonic() + 10
    while (names := loader_threads()) and time.monotonic() < until_s:
        time.sleep(0.001)
    assert names == []


@pytest.fixture(params=[0, 2])
def loader(request: pytest.FixtureRequest, packed: Packed) -> dp.DataLoader:
    dataset = dp.Dataset(packed.url, ["points", "fields/velocity"])
    return dp.DataLoader(dataset, batch_size=2, shuffle=True, num_workers=request.param)


def assert_usable(loader: dp.DataLoader) -> None:
    assert_no_loader_threads()
    assert sum(len(batch["__key__"]) for batch in loader) == SAMPLES
    assert_no_loader_threads()


def test_after_a_whole_epoch(loader: dp.DataLoader) -> None:
    list(loader)
    assert_usable(loader)


def test_after_a_break(loader: dp.DataLoader) -> None:
    for _ in loader:
        break
    assert_usable(loader)


def test_after_a_pass_that_nothing_was_taken_from(loader: dp.DataLoader) -> None:
    iter(loader)
    assert_usable(loader)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_exception_in_the_loop(loader: dp.DataLoader, error: type) -> None:
    def train() -> None:
        for _ in loader:
            raise error

    with pytest.raises(error):
        train()
    gc.collect()
    assert_usable(loader)


def test_after_an_interrupt_while_a_batch_is_waited_for(
    loader: dp.DataLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataplane.loader.pipeline import Pipeline

    batches = iter(loader)
    next(batches)

    def interrupted(self: Pipeline, timeout_s: float | None = None) -> object:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "take", interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(batches)
    assert_no_loader_threads()
    with pytest.raises(StopIteration):
        next(batches)
    assert_usable(loader)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_after_an_error_of_the_transform(packed: Packed, num_workers: int) -> None:
    def broken(sample: dict) -> dict:
        if sample["__key__"] == "case-005":
            raise ZeroDivisionError("in the transform")
        return sample

    dataset = dp.Dataset(packed.url, ["global_data/mach"], transform=broken)
    loader = dp.DataLoader(dataset, batch_size=2, num_workers=num_workers)
    batches = iter(loader)
    assert [next(batches)["__key__"][0] for _ in range(2)] == ["case-000", "case-002"]
    with pytest.raises(ZeroDivisionError, match="in the transform"):
        next(batches)
    # A run that ends here resumes with the batch that failed; one that goes on has passed it over.
    assert loader.state_dict()["num_yielded"] == 2
    assert [batch["__key__"][0] for batch in batches] == ["case-006", "case-008", "case-010"]
    assert_no_loader_threads()
    dataset.transform = None
    assert_usable(loader)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_after_an_error_that_nobody_goes_on_from(packed: Packed, num_workers: int) -> None:
    def broken(sample: dict) -> dict:
        raise ZeroDivisionError("in the transform")

    def train() -> None:
        for _ in loader:
            pass

    dataset = dp.Dataset(packed.url, ["global_data/mach"], transform=broken)
    loader = dp.DataLoader(dataset, batch_size=2, num_workers=num_workers)
    with pytest.raises(ZeroDivisionError):
        train()
    gc.collect()
    dataset.transform = None
    assert_usable(loader)


def test_two_passes_at_once_do_not_disturb_each_other(loader: dp.DataLoader) -> None:
    first, second = iter(loader), iter(loader)
    keys: tuple[list[str], list[str]] = ([], [])
    for one, other in zip(first, second, strict=True):
        keys[0].extend(one["__key__"])
        keys[1].extend(other["__key__"])
    assert sorted(keys[0]) == sorted(keys[1])
    assert keys[0] != keys[1]
    assert_usable(loader)


def test_a_finished_pass_stays_finished(loader: dp.DataLoader) -> None:
    batches = iter(loader)
    assert len(list(batches)) == 6
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(batches)
    batches.close()


def test_a_closed_pass_yields_no_more(loader: dp.DataLoader) -> None:
    batches = iter(loader)
    next(batches)
    batches.close()
    batches.close()
    with pytest.raises(StopIteration):
        next(batches)
    assert_usable(loader)


def test_nothing_keeps_a_dropped_loader_alive(packed: Packed) -> None:
    dataset = dp.Dataset(packed.url, ["global_data/mach"])
    loader = dp.DataLoader(dataset, num_workers=2)
    batches = iter(loader)
    next(batches)
    kept = weakref.ref(loader), weakref.ref(batches), weakref.ref(dataset)
    del loader, batches, dataset
    gc.collect()
    assert [ref() for ref in kept] == [None] * 3
    assert_no_loader_threads()


def test_a_program_that_ends_in_the_middle_of_an_epoch_ends(packed: Packed) -> None:
    program = (
        "import dataplane as dp, sys\n"
        "loader = dp.DataLoader(dp.Dataset(sys.argv[1]), num_workers=2)\n"
        "batches = iter(loader); next(batches)\n"
        "print('one batch')\n"
        "raise SystemExit(3)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, packed.url],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env=dict(os.environ),
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "one batch\n", "")
