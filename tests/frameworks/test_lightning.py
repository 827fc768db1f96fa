"""In Lightning's Trainer a loader is what torch's is: every sample once per epoch, also resumed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Subset, TensorDataset

import dataplane as dp
from tests.datasets.packed import Packed, pack
from tests.frameworks.cases import (
    ARRAYS,
    BATCH,
    SAMPLES,
    SEED,
    STEPS,
    assert_shared_out,
    case,
    run_program,
)

L = pytest.importorskip("lightning")

# It warns of small numbers of workers and steps, of missing loggers, and of its own parts.
pytestmark = pytest.mark.filterwarnings("ignore")

Steps = list[tuple[int, list]]
EPOCHS = 3


class Model(L.LightningModule):
    """Trains a weight on nothing, and writes down what it is given.

    Args:
        loader: for the hooks, where the trainer gets no loader.
    """

    def __init__(self, loader: Callable[[], Any] | None = None) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.steps: Steps = []
        self.validated: list[list] = []
        if loader is not None:
            self.train_dataloader = self.predict_dataloader = loader

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.steps.append((self.current_epoch, names(batch)))
        return self.layer(torch.ones(1, 1)).sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.validated.append(names(batch))

    def predict_step(self, batch: Any, batch_idx: int) -> list:
        return names(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class Checkpoint(L.Callback):
    """Writes one checkpoint, after a step or after an epoch, as ModelCheckpoint does."""

    def __init__(self, path: Path, *, step: int | None = None, epoch: int | None = None) -> None:
        self.path, self.step, self.epoch = path, step, epoch

    def on_train_batch_end(self, trainer: Any, *_: object) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer: Any, *_: object) -> None:
        if trainer.current_epoch == self.epoch:
            trainer.save_checkpoint(self.path)


def names(batch: Any) -> list:
    if isinstance(batch, dict):
        return batch["__key__"]
    return batch[0].tolist() if isinstance(batch, (list, tuple)) else batch.tolist()


def trainer(tmp_path: Path, *callbacks: L.Callback, **options: object) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu", devices=1, default_root_dir=tmp_path, callbacks=list(callbacks),
        logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **{"max_epochs": EPOCHS, **options},
    )  # fmt: skip


@pytest.fixture
def dataset(cases: Packed) -> Iterator[dp.Dataset]:
    with dp.Dataset(cases.url, arrays=ARRAYS, cache=False) as dataset:
        yield dataset


def loader(dataset: dp.Dataset, **options: object) -> dp.DataLoader:
    given = {"batch_size": BATCH, "shuffle": True, "seed": SEED, "num_workers": 1, **options}
    return dp.DataLoader(dataset, **given)


def order(dataset: dp.Dataset, epochs: int = EPOCHS) -> Steps:
    """What a run reads that nothing interrupts and no framework disturbs."""
    own = loader(dataset)
    return [(epoch, batch["__key__"]) for epoch in range(epochs) for batch in own]


def test_each_epoch_is_the_loader_s_own_next_one(dataset: dp.Dataset, tmp_path: Path) -> None:
    model = Model()
    trainer(tmp_path).fit(model, loader(dataset))
    assert model.steps == order(dataset)


def test_ragged_arrays_come_with_their_offsets(dataset: dp.Dataset, tmp_path: Path) -> None:
    batches = []

    class Keeping(Model):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            batches.append(batch)
            return super().training_step(batch, batch_idx)

    trainer(tmp_path, max_epochs=1).fit(Keeping(), loader(dataset))
    assert len(batches) == STEPS
    for batch in batches:
        sizes = [3 + int(number) for number in batch["number"]]
        assert batch["points.offsets"].diff().tolist() == sizes


@pytest.mark.parametrize("step", [2, STEPS + 1])
def test_a_checkpoint_in_mid_epoch_resumes_with_the_very_next_batch(
    dataset: dp.Dataset, tmp_path: Path, step: int
) -> None:
    path = tmp_path / "mid.ckpt"
    trainer(tmp_path, Checkpoint(path, step=step)).fit(Model(), loader(dataset))
    resumed = Model()
    trainer(tmp_path).fit(resumed, loader(dataset), ckpt_path=path, weights_only=False)
    assert resumed.steps == order(dataset)[step:]


@pytest.mark.parametrize("when", [{"step": STEPS}, {"epoch": 0}])
def test_a_checkpoint_at_the_end_of_an_epoch_resumes_with_the_next(
    dataset: dp.Dataset, tmp_path: Path, when: dict
) -> None:
    path = tmp_path / "end.ckpt"
    trainer(tmp_path, Checkpoint(path, **when)).fit(Model(), loader(dataset))
    resumed = Model()
    trainer(tmp_path).fit(resumed, loader(dataset), ckpt_path=path, weights_only=False)
    assert resumed.steps == order(dataset)[STEPS:]


def test_loaders_made_anew_for_each_epoch_read_different_epochs(
    dataset: dp.Dataset, tmp_path: Path
) -> None:
    model = Model(lambda: loader(dataset))
    trainer(tmp_path, reload_dataloaders_every_n_epochs=1).fit(model)
    assert model.steps == order(dataset)


def test_validation_reads_every_sample_each_time(dataset: dp.Dataset, tmp_path: Path) -> None:
    model = Model()
    validation = loader(dataset, shuffle=False, seed=None)
    trainer(tmp_path, val_check_interval=0.5, num_sanity_val_steps=1, max_epochs=2).fit(
        model, loader(dataset), validation
    )
    sanity, *rest = model.validated
    assert sanity == dataset.keys[:BATCH]
    assert [key for batch in rest for key in batch] == list(dataset.keys) * 4
    assert model.steps == order(dataset, 2)


@pytest.mark.parametrize("in_hook", [False, True])
def test_predictions_come_in_order_with_the_indices_of_their_samples(
    dataset: dp.Dataset, tmp_path: Path, in_hook: bool
) -> None:
    indices: list[list[int]] = []

    class Writer(L.pytorch.callbacks.BasePredictionWriter):
        def write_on_batch_end(self, trainer: Any, model: Any, _: Any, batch: Any, *__: Any):
            indices.append(batch)

    def sequential() -> dp.DataLoader:
        # A seed says nothing of samples in their order, and is often given all the same.
        return loader(dataset, shuffle=False)

    runner = trainer(tmp_path, Writer("batch"))
    given = [] if in_hook else [sequential()]
    predicted = runner.predict(Model(sequential), *given)
    assert [key for batch in predicted for key in batch] == list(dataset.keys)
    assert [index for batch in indices for index in batch] == list(range(SAMPLES))


@pytest.mark.parametrize("in_hook", [False, True])
def test_overfitting_repeats_the_first_batches(
    dataset: dp.Dataset, tmp_path: Path, in_hook: bool
) -> None:
    model = Model((lambda: loader(dataset)) if in_hook else None)
    given = [] if in_hook else [loader(dataset)]
    trainer(tmp_path, overfit_batches=2).fit(model, *given)
    first = [list(dataset.keys[:BATCH]), list(dataset.keys[BATCH : 2 * BATCH])]
    assert [batch for _, batch in model.steps] == first * EPOCHS


def test_runs_of_one_seed_are_equal_whatever_draws_random_numbers(
    cases: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "0")  # which is undone, as what Lightning writes there is not

    def noisy(sample: dict) -> dict:
        draws = [torch.rand(()).item(), np.random.random(), random.random()]
        return {"__key__": sample["__key__"], "draws": torch.tensor(draws)}

    def run() -> list:
        drawn = []

        class Drawing(Model):
            def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
                drawn.append((batch["__key__"], batch["draws"].tolist(), torch.rand(()).item()))
                return super().training_step(batch, batch_idx)

        L.seed_everything(7, workers=True, verbose=False)
        with dp.Dataset(cases.url, arrays=["number"], cache=False, transform=noisy) as dataset:
            runner = trainer(tmp_path, max_epochs=2)
            runner.fit(Drawing(), loader(dataset, num_workers=3))
        return drawn

    first = run()
    assert [run() for _ in range(4)] == [first] * 4
    noise = [value for _, draws, _ in first for one in draws for value in one]
    assert len(set(noise)) == len(noise) == 3 * 2 * SAMPLES


def whole(dataset: dp.Dataset) -> TensorDataset:
    del dataset
    return TensorDataset(torch.arange(SAMPLES))


def part(dataset: dp.Dataset) -> Subset:
    return Subset(dataset, range(4, SAMPLES))


@pytest.mark.parametrize("other", [whole, part])
def test_checkpoints_hold_loaders_of_other_datasets_too(
    dataset: dp.Dataset, tmp_path: Path, other: Callable[[dp.Dataset], Any]
) -> None:
    def make() -> dp.DataLoader:
        collate = dp.collate if other is part else None
        return dp.DataLoader(other(dataset), batch_size=BATCH, collate_fn=collate)

    path = tmp_path / "other.ckpt"
    first, resumed = Model(), Model()
    trainer(tmp_path, Checkpoint(path, step=2), max_epochs=2).fit(first, make())
    trainer(tmp_path, max_epochs=2).fit(resumed, make(), ckpt_path=path, weights_only=False)
    assert resumed.steps == first.steps[2:]


# A class that is imported in a hook is not among those that Lightning has looked at before it.
_IMPORTED_IN_THE_HOOK = """
import lightning as L
import dataplane as dp

url = sys.argv[1]
dataset = dp.Dataset(url, arrays=["number"], cache=False)

class Model(L.LightningModule):
    def predict_dataloader(self):
        assert "dataplane.loader.dataloader" not in sys.modules
        return dp.DataLoader(dataset, batch_size=4, seed=3)

    def predict_step(self, batch, batch_idx):
        return batch["__key__"]

trainer = L.Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)
report(0, trainer.predict(Model()))
"""


def test_the_class_may_be_imported_in_a_hook(cases: Packed, tmp_path: Path) -> None:
    (predicted,) = run_program(_IMPORTED_IN_THE_HOOK, tmp_path, cases.url)
    assert [key for batch in predicted for key in batch] == [one.key for one in cases.samples]


# Three runs of two processes: a whole one, one that leaves a checkpoint, and one that resumes.
_RANKS = """
import lightning as L
import torch
import dataplane as dp

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
url, sampler, made = sys.argv[1:]

def loader():
    dataset = dp.Dataset(url, arrays=["number", "points"], cache=False)
    return dp.DataLoader(dataset, batch_size=2, shuffle=True, seed=7, num_workers=1)

class Model(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.steps = []
        if made == "in the hook":
            self.train_dataloader = loader

    def training_step(self, batch, batch_idx):
        assert len(batch["points.offsets"]) == len(batch["__key__"]) + 1
        self.steps.append((self.current_epoch, batch["__key__"]))
        return self.layer(torch.ones(1, 1)).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

class Checkpoint(L.Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 8:
            trainer.save_checkpoint("mid.ckpt")

def run(*callbacks, **options):
    model = Model()
    trainer = L.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", use_distributed_sampler=sampler == "True",
        max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(callbacks),
    )
    trainer.fit(model, *([loader()] if made == "before" else []), **options)
    return trainer.global_rank, model.steps

rank, whole = run(Checkpoint())
_, rest = run(ckpt_path="mid.ckpt", weights_only=False)
report(rank, [whole, rest])
"""


@pytest.mark.parametrize("made", ["before", "in the hook"])
@pytest.mark.parametrize("use_distributed_sampler", [True, False])
def test_two_processes_share_every_epoch_and_resume_in_its_middle(
    cases: Packed, tmp_path: Path, use_distributed_sampler: bool, made: str
) -> None:
    ranks = run_program(_RANKS, tmp_path, cases.url, str(use_distributed_sampler), made)
    assert_shared_out([whole for whole, _ in ranks], [one.key for one in cases.samples])
    for whole, rest in ranks:
        assert rest == whole[8:]


_PREDICTING_RANKS = """
import lightning as L
import dataplane as dp

class Model(L.LightningModule):
    def predict_step(self, batch, batch_idx):
        return batch["number"].tolist()

dataset = dp.Dataset(sys.argv[1], arrays=["number"], cache=False)
trainer = L.Trainer(
    accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_progress_bar=False,
)
given = {"assign": sys.argv[2], "ranks_per_node": 1 if sys.argv[2] == "node" else None}
report(trainer.global_rank, trainer.predict(Model(), dp.DataLoader(dataset, batch_size=2, **given)))
"""


@pytest.mark.parametrize("assign", ["turns", "node"])
def test_two_processes_predict_for_each_sample_once(tmp_path: Path, assign: str) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    odd = pack(folder, (case(number) for number in range(7)))
    (tmp_path / "run").mkdir()
    ranks = run_program(_PREDICTING_RANKS, tmp_path / "run", odd.url, assign)
    predicted = [number for rank in ranks for batch in rank for number in batch]
    assert sorted(predicted) == list(range(7))
