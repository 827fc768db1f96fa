"""In Fabric a loader is what torch's is, on one process and on two, and its state is saved."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import dataplane as dp
from tests.datasets.packed import Packed
from tests.frameworks.cases import ARRAYS, BATCH, SEED, STEPS, assert_shared_out, run_program

Fabric = pytest.importorskip("lightning.fabric").Fabric

pytestmark = pytest.mark.filterwarnings("ignore")  # it warns of parts of its own


@pytest.fixture
def dataset(cases: Packed) -> Iterator[dp.Dataset]:
    with dp.Dataset(cases.url, arrays=ARRAYS, cache=False) as dataset:
        yield dataset


def loader(dataset: dp.Dataset, **options: object) -> dp.DataLoader:
    given = {"batch_size": BATCH, "shuffle": True, "seed": SEED, "num_workers": 1, **options}
    return dp.DataLoader(dataset, **given)


def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)


def epochs(loader: dp.DataLoader, count: int) -> list[list[list[str]]]:
    return [[batch["__key__"] for batch in loader] for _ in range(count)]


def test_each_epoch_is_the_loader_s_own_next_one(dataset: dp.Dataset) -> None:
    given = fabric().setup_dataloaders(loader(dataset))
    assert len(given) == STEPS
    assert epochs(given, 3) == epochs(loader(dataset), 3)


def test_batches_are_moved_with_their_offsets_and_keys(dataset: dp.Dataset) -> None:
    for batch in fabric().setup_dataloaders(loader(dataset)):
        assert isinstance(batch["image"], torch.Tensor)
        assert batch["__key__"] == [f"case-{int(number):03d}" for number in batch["number"]]
        sizes = [3 + int(number) for number in batch["number"]]
        assert batch["points.offsets"].diff().tolist() == sizes


@pytest.mark.parametrize("step", [2, STEPS + 1])
def test_a_saved_loader_resumes_with_the_very_next_batch(
    dataset: dp.Dataset, tmp_path: Path, step: int
) -> None:
    expected = [batch for one in epochs(loader(dataset), 3) for batch in one]
    first = fabric()
    given = first.setup_dataloaders(loader(dataset))
    for seen, batch in enumerate(batch for _ in range(2) for batch in given):
        assert batch["__key__"] == expected[seen]
        if seen + 1 == step:
            first.save(tmp_path / "mid.ckpt", {"loader": given})
            break
    second = fabric()
    resumed = second.setup_dataloaders(loader(dataset))
    second.load(tmp_path / "mid.ckpt", {"loader": resumed})
    rest = epochs(resumed, 3 - step // STEPS)
    assert [batch for one in rest for batch in one] == expected[step:]


# Three runs of two processes: a whole one, one that leaves a state, and one that resumes.
_RANKS = """
from lightning.fabric import Fabric
import dataplane as dp

url, sampler, made = sys.argv[1:]
fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")

def loader():
    dataset = dp.Dataset(url, arrays=["number", "points"], cache=False)
    return dp.DataLoader(dataset, batch_size=2, shuffle=True, seed=7, num_workers=1)

early = [loader() for _ in range(3)] if made == "before" else []
fabric.launch()
loaders = early or [loader() for _ in range(3)]
whole, part, rest = (
    fabric.setup_dataloaders(one, use_distributed_sampler=sampler == "True") for one in loaders
)

def read(loader, first=0, stop=None):
    steps = []
    for epoch in range(first, 2):
        for batch in loader:
            assert len(batch["points.offsets"]) == len(batch["__key__"]) + 1
            steps.append((epoch, batch["__key__"]))
            if len(steps) == stop:
                fabric.save("mid.ckpt", {"loader": loader})
                return steps
    return steps

steps = [read(whole), read(part, stop=8)]
fabric.barrier()
fabric.load("mid.ckpt", {"loader": rest})
report(fabric.global_rank, [*steps, read(rest, first=1)])
"""


@pytest.mark.parametrize("made", ["before", "after the launch"])
@pytest.mark.parametrize("use_distributed_sampler", [True, False])
def test_two_processes_share_every_epoch_and_resume_in_its_middle(
    cases: Packed, tmp_path: Path, use_distributed_sampler: bool, made: str
) -> None:
    ranks = run_program(_RANKS, tmp_path, cases.url, str(use_distributed_sampler), made)
    assert_shared_out([whole for whole, *_ in ranks], [one.key for one in cases.samples])
    for whole, part, rest in ranks:
        assert part + rest == whole
