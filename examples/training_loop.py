"""The loop of the training examples: steps, checkpoints, interrupts.

`Trainer` knows neither meshes nor volumes: it gets a model, a loss and the two parts of a dataset.

Under torchrun each process reads its share of every epoch and the model is a
DistributedDataParallel. There is one checkpoint: model and optimizer are the same on all ranks, and
so is the loader's state, which counts the places of the order that all ranks together used up. So
another number of ranks may go on with it, at the very next sample.

Ctrl-C and SIGTERM let the step under way end. Ranks then agree on the step to stop at, since one
that went on alone would wait for the others forever, and the first of them saves a checkpoint. A
second Ctrl-C ends the run at once.
"""

from __future__ import annotations

import argparse
import math
import pickle
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist
from launch import Place
from reports import Progress, SampleLog
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset

import dataplane as dp

__all__ = ["Batch", "Interrupt", "Trainer"]

Batch = dict[str, Any]
MAX_GRADIENT_NORM = 1.0


class Trainer:
    """A model with its optimizer and its place in the data.

    Args:
        program: name of the program, which its checkpoints carry.
        model: model to train.
        loss_of: function of model and batch that returns the mean over the samples of the batch, so
            that two ranks with batches of four train as one process does with batches of eight.
        parts: samples to train with, and samples to validate with.
        settings: what must be the same for a checkpoint to fit the model.
        arguments: those of `launch.make_parser`.
        place: this process and its device.

    Raises:
        ConfigError: the checkpoint to resume from is of something else, or none can be written.
    """

    def __init__(
        self,
        program: str,
        model: torch.nn.Module,
        loss_of: Callable[[torch.nn.Module, Batch], torch.Tensor],
        parts: tuple[Dataset[Any], Dataset[Any]],
        *,
        settings: Mapping[str, Any],
        arguments: argparse.Namespace,
        place: Place,
    ) -> None:
        self.arguments = arguments
        self.place = place
        self.model = self.replica = model.to(place.device)
        self.loss_of = loss_of
        self.optimizer = torch.optim.Adam(model.parameters(), lr=arguments.learning_rate)
        self.loader, self.validation = (self._make_loader(part) for part in parts)
        self.belongs_to = {"program": program, **settings}
        self.use_amp = arguments.amp
        if self.use_amp is None:
            self.use_amp = place.device.type == "cuda"
        self.epoch = self.step = 0
        _check_file(arguments.checkpoint)
        place.wait_for_all()  # the first rank may still be writing the file that all are to read
        if arguments.resume:
            self._resume(arguments.checkpoint)
        place.wait_for_all()  # now it may write the next one
        if place.world_size > 1:
            own = [place.device.index] if place.device.type == "cuda" else None
            self.replica = DistributedDataParallel(model, device_ids=own)

    def run(self) -> int:
        """Train until the last epoch, `--stop-after` or a signal; return the exit code."""
        first_epoch, end = self.epoch, self.arguments.epochs
        last_step = self.step + (self.arguments.stop_after or 0)
        if first_epoch >= end:
            self.place.say(f"all {end} epochs are done: --epochs gives more")
        with Interrupt() as interrupt, SampleLog(self.arguments.log_samples) as log:
            for self.epoch in range(first_epoch, end):
                progress = Progress(self.loader, self.place.world_size)
                for batch in self.loader:
                    signum = self._step(batch, interrupt, log, progress)
                    if signum or self.step == last_step:
                        self._save(self.arguments.checkpoint)
                        saved = self.arguments.checkpoint
                        self.place.say(f"stopped after step {self.step}, saved {saved}")
                        return 128 + signum if signum else 0
                    if self.step % self.arguments.save_every == 0:
                        self._save(self.arguments.checkpoint)
                self._save(self.arguments.checkpoint)  # at the beginning of the next epoch
                error = self._validate()
                self.place.say(f"epoch {self.epoch}: {progress.summary()}, validation {error:.4f}")
        return 0

    def _step(self, batch: Batch, interrupt: Interrupt, log: SampleLog, progress: Progress) -> int:
        """Train on a batch; return the signal that any rank got, or 0."""
        self.replica.train()
        loss = self._loss(self.replica, batch)
        self.optimizer.zero_grad()
        loss.backward()  # here the gradients of the ranks are averaged
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT_NORM)
        self.optimizer.step()
        self.step += 1
        log.write(
            epoch=self.epoch,
            step=self.step,
            rank=self.place.rank,
            keys=list(batch["__key__"]),
            loss=loss.item(),
            gradient_norm=norm.item(),
        )
        mean_loss, signum = self._agree(loss.item(), interrupt.signum)
        if not math.isfinite(mean_loss):
            raise dp.DataplaneError(
                f"the loss is {mean_loss} at step {self.step}; samples: {list(batch['__key__'])}",
                hint="lower --learning-rate, or look for NaNs with `dataplane info`",
            )
        progress.count(mean_loss)
        if self.step % self.arguments.log_every == 0:
            self.place.say(f"epoch {self.epoch} step {self.step}: {progress.line()}")
        return signum

    def _agree(self, loss: float, signum: int) -> tuple[float, int]:
        """Return the mean loss of all ranks, and the signal that any of them got, or 0."""
        if self.place.world_size == 1:
            return loss, signum
        votes = [loss, signum == signal.SIGINT, signum == signal.SIGTERM]
        total = torch.tensor(votes, dtype=torch.float64, device=self.place.device)
        dist.all_reduce(total)
        total_loss, interrupted, terminated = total.tolist()
        agreed = signal.SIGINT if interrupted else signal.SIGTERM if terminated else 0
        return total_loss / self.place.world_size, agreed

    @torch.no_grad()
    def _validate(self) -> float:
        """Return the mean loss over the samples that were held out.

        Of several ranks each computes a share. Where the samples do not divide by the ranks, the
        first few count twice.
        """
        self.model.eval()
        total = torch.zeros(2, dtype=torch.float64, device=self.place.device)
        for batch in self.validation:
            count = len(batch["__key__"])
            total += torch.stack([self._loss(self.model, batch) * count, total.new_tensor(count)])
        if self.place.world_size > 1:
            dist.all_reduce(total)
        return float(total[0] / total[1])

    def _loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        with torch.autocast(self.place.device.type, torch.bfloat16, enabled=self.use_amp):
            return self.loss_of(model, batch)

    def _make_loader(self, part: Dataset[Any]) -> dp.DataLoader[Batch]:
        """Make a loader; it asks for rank and world size when it is iterated over."""
        return dp.DataLoader(
            part,
            batch_size=self.arguments.batch_size,
            shuffle=True,
            num_workers=self.arguments.workers,
            device=self.place.device,  # batches come there, the next one while this one is used
            seed=self.arguments.seed,  # the same on all ranks, which share one order
        )

    def _save(self, path: Path) -> None:
        """Write the checkpoint at once: a run that is killed here leaves the one before."""
        if not self.place.is_first:
            return
        state = {
            "belongs_to": self.belongs_to,
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "loader": self.loader.state_dict(),
        }
        draft = path.with_name(f".{path.name}.tmp")
        torch.save(state, draft)
        draft.replace(path)

    def _resume(self, path: Path) -> None:
        """Go on where the checkpoint is, if there is one.

        Raises:
            ConfigError: it is of another program, model or dataset.
            FormatError: it is no checkpoint.
        """
        if not path.exists():
            self.place.say(f"no checkpoint {path} yet: starting anew")
            return
        try:
            saved = torch.load(path, map_location=self.place.device, weights_only=True)
            belongs_to, self.step = saved["belongs_to"], saved["step"]
        except (RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as err:
            raise dp.FormatError(
                f"{path} is not a checkpoint of this program, or is damaged",
                hint="remove it, or give another --checkpoint",
            ) from err
        if belongs_to != self.belongs_to:
            raise dp.ConfigError(
                f"the checkpoint {path} is of {belongs_to}, this run is {self.belongs_to}",
                hint="give the same arguments, or another --checkpoint",
            )
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        for group in self.optimizer.param_groups:
            group["lr"] = self.arguments.learning_rate  # not the one that was saved
        self.loader.load_state_dict(saved["loader"])
        self.epoch = saved["loader"]["epoch"]
        self.place.say(f"resumed from {path} in epoch {self.epoch}, after step {self.step}")


def _check_file(path: Path) -> None:
    """Make the folder of a checkpoint, before anything is computed for it.

    Raises:
        ConfigError: the path is a folder itself.
        OSError: the folder cannot be made.
    """
    if path.is_dir():
        raise dp.ConfigError(f"--checkpoint {path} is a folder", hint="name a file in it")
    path.parent.mkdir(parents=True, exist_ok=True)


class Interrupt:
    """Takes down the first Ctrl-C or SIGTERM, for the loop to end after its step.

    The handlers that were there before come back at the end of the `with` block.
    """

    def __init__(self) -> None:
        self.signum = 0

    def __enter__(self) -> Self:
        self._before = {
            signum: signal.signal(signum, self._note) for signum in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        if self.signum:
            raise KeyboardInterrupt
        self.signum = signum
