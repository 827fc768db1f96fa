"""What Accelerate prepares still reads through the engine, in the order of its own seed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import dataplane as dp
from tests.datasets.packed import Packed, pack
from tests.frameworks.cases import (
    ARRAYS,
    BATCH,
    SEED,
    STEPS,
    assert_shared_out,
    case,
    run_program,
    torchrun,
)

accelerate = pytest.importorskip("accelerate")

pytestmark = pytest.mark.filterwarnings("ignore")  # it warns of parts of its own


@pytest.fixture
def dataset(cases: Packed) -> Iterator[dp.Dataset]:
    with dp.Dataset(cases.url, arrays=ARRAYS, cache=False) as dataset:
        yield dataset


@pytest.fixture
def accelerator() -> Iterator[accelerate.Accelerator]:
    config = accelerate.utils.DataLoaderConfiguration(use_stateful_dataloader=True)
    yield accelerate.Accelerator(cpu=True, dataloader_config=config)
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


def loader(dataset: dp.Dataset, **options: object) -> dp.DataLoader:
    given = {"batch_size": BATCH, "shuffle": True, "seed": SEED, "num_workers": 1, **options}
    return dp.DataLoader(dataset, **given)


def epochs(loader: dp.DataLoader, count: int) -> list[list[list[str]]]:
    return [[batch["__key__"] for batch in loader] for _ in range(count)]


def test_each_epoch_is_the_loader_s_own_next_one(
    dataset: dp.Dataset, accelerator: accelerate.Accelerator
) -> None:
    given = accelerator.prepare(loader(dataset))
    assert len(given) == STEPS
    assert epochs(given, 3) == epochs(loader(dataset), 3)


def test_a_prepared_loader_reads_through_the_engine(
    dataset: dp.Dataset, accelerator: accelerate.Accelerator
) -> None:
    given = accelerator.prepare(loader(dataset))
    epochs(given, 1)
    assert given.stats().batches == STEPS


def test_ragged_arrays_come_with_their_offsets(
    dataset: dp.Dataset, accelerator: accelerate.Accelerator
) -> None:
    batches = list(accelerator.prepare(loader(dataset)))
    assert len(batches) == STEPS
    for batch in batches:
        sizes = [3 + int(number) for number in batch["number"]]
        assert batch["points.offsets"].diff().tolist() == sizes


def test_a_loader_is_prepared_once(
    dataset: dp.Dataset, accelerator: accelerate.Accelerator
) -> None:
    once = accelerator.prepare(loader(dataset))
    assert accelerator.prepare(once) is once
    assert epochs(once, 2) == epochs(loader(dataset), 2)


@pytest.mark.parametrize("step", [2, STEPS, STEPS + 1])
def test_a_saved_state_resumes_with_the_very_next_batch(
    dataset: dp.Dataset, tmp_path: Path, accelerator: accelerate.Accelerator, step: int
) -> None:
    expected = [batch for one in epochs(loader(dataset), 3) for batch in one]
    given = accelerator.prepare(loader(dataset))
    for seen, _ in enumerate(batch for _ in range(3) for batch in given):
        if seen + 1 == step:
            accelerator.save_state(str(tmp_path / "state"))
            break
    accelerator.free_memory()
    resumed = accelerator.prepare(loader(dataset))
    accelerator.load_state(str(tmp_path / "state"))
    assert [batch for one in epochs(resumed, 3) for batch in one][: 3 * STEPS - step] == (
        expected[step:]
    )


def test_gradients_are_synchronised_after_the_last_batch(dataset: dp.Dataset) -> None:
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=4)
    try:
        given = accelerator.prepare(loader(dataset))
        synchronised = []
        for _ in range(2):
            for _ in given:
                with accelerator.accumulate():
                    synchronised.append(accelerator.sync_gradients)
        assert synchronised == [step in (3, 5) for step in range(STEPS)] * 2
    finally:
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
        accelerate.state.GradientState._reset_state()


# Three runs of two processes: a whole one, one that leaves a state, and one that resumes.
_RANKS = """
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
import dataplane as dp

url, made = sys.argv[1:]

def loader():
    dataset = dp.Dataset(url, arrays=["number", "points"], cache=False)
    return dp.DataLoader(dataset, batch_size=2, shuffle=True, seed=7, num_workers=1)

early = [loader() for _ in range(3)] if made == "before" else []
config = DataLoaderConfiguration(use_stateful_dataloader=True)
accelerator = Accelerator(cpu=True, dataloader_config=config)
whole, part, rest = early or [loader() for _ in range(3)]

def read(loader, first=0, stop=None):
    steps = []
    for epoch in range(first, 2):
        for batch in loader:
            assert len(batch["points.offsets"]) == len(batch["__key__"]) + 1
            steps.append((epoch, batch["__key__"]))
            if len(steps) == stop:
                accelerator.save_state("state")
                return steps
    return steps

steps = [read(accelerator.prepare(whole))]
accelerator.free_memory()
steps.append(read(accelerator.prepare(part), stop=8))
accelerator.free_memory()
accelerator.wait_for_everyone()
rest = accelerator.prepare(rest)
accelerator.load_state("state")
report(accelerator.process_index, [*steps, read(rest, first=1)])
"""


@pytest.mark.parametrize("made", ["before", "after the accelerator"])
def test_two_processes_share_every_epoch_and_resume_in_its_middle(
    cases: Packed, tmp_path: Path, made: str
) -> None:
    ranks = run_program(_RANKS, tmp_path, cases.url, made, launcher=torchrun())
    assert_shared_out([whole for whole, *_ in ranks], [one.key for one in cases.samples])
    for whole, part, rest in ranks:
        assert part + rest == whole


_METRICS = """
from accelerate import Accelerator
import dataplane as dp

accelerator = Accelerator(cpu=True)
dataset = dp.Dataset(sys.argv[1], arrays=["number"], cache=False)
given = {"assign": sys.argv[2], "ranks_per_node": 1 if sys.argv[2] == "node" else None}
loader = accelerator.prepare(dp.DataLoader(dataset, batch_size=2, num_workers=1, **given))
numbers = [n for batch in loader for n in accelerator.gather_for_metrics(batch["number"]).tolist()]
report(accelerator.process_index, numbers)
"""


@pytest.mark.parametrize("assign", ["turns", "node"])
def test_metrics_count_no_sample_twice(tmp_path: Path, assign: str) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    odd = pack(folder, (case(number) for number in range(10)))
    (tmp_path / "run").mkdir()
    ranks = run_program(_METRICS, tmp_path / "run", odd.url, assign, launcher=torchrun(3))
    # Their last batches hold four samples, and two that came before.
    assert [sorted(numbers) for numbers in ranks] == [list(range(10))] * 3
