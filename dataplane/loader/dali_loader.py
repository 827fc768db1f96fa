"""`DaliPipeline`: a loader and a pipeline of DALI, joined so that a checkpoint fits both.

DALI asks for a batch whenever it has room for one, ahead of the training loop; with each goes the
loader's state behind it, in a queue beside DALI's own, and comes out when DALI hands the batch out.
So `state_dict()` is of the batch that the loop got last, whoever iterates: this class, or one of
DALI's iterators over `pipeline`.

An error of the loader takes the place of its batch: those before it are handed out first, and the
pass ends with it. A pass that is left before its end, or a state that is loaded, has DALI hand out
the few batches that it is ahead, to nobody.

A pipeline belongs to one thread. No GPU is touched before it is iterated over.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dataplane.datasets.layout import OFFSETS_SUFFIX, WEIGHT_SUFFIX
from dataplane.datasets.samples import KEY, SOURCE, TILE, Keys
from dataplane.errors import ConfigError, DataplaneError, LoaderError
from dataplane.gpu.dali_graph import PARAMETERS, PipelineOptions, Recipe, make_pipeline
from dataplane.gpu.dali_library import DeviceId, device_of
from dataplane.loader.dali_batches import Fed, Parameters, out_of_dali
from dataplane.loader.dali_feed import fed_batch
from dataplane.loader.dataloader import DataLoader

__all__ = ["DaliPipeline"]


@dataclass(slots=True)
class _InFlight:
    """A batch that DALI has and the loop has not.

    Attributes:
        keys: keys of its samples.
        others: what else the batch has that is no array: sources, tiles, weights.
        state: state of the loader behind it.
        memory: what DALI was given views of.
    """

    keys: Keys
    others: dict[str, Any]
    state: dict[str, Any]
    memory: Any


class DaliPipeline:
    """Batches of a loader that went through DALI. Made by `dali_pipeline`.

    Attributes:
        loader: loader of the batches before DALI.
        recipe: operations, bound to the arrays.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        recipe: Recipe,
        device_id: DeviceId,
        *,
        threads: int,
        prefetch: int,
        pins: bool,
        seed: int | None,
    ) -> None:
        self.loader = loader
        self.recipe = recipe
        self._asked_device = device_id
        self._seed = seed
        self._threads, self._prefetch, self._pins = threads, prefetch, pins
        self._pipeline: Any = None
        self._names: tuple[str, ...] = ()
        self._in_flight: deque[_InFlight] = deque()
        self._handed: _InFlight | None = None  # the latest that the loop got, still in use by it
        self._state: dict[str, Any] | None = None
        self._start: dict[str, Any] | None = None
        self._end: dict[str, Any] | None = None
        self._error: Exception | None = None
        self._steps = 0  # batches of this pass that were handed out
        self._is_open = False  # a pass has begun and its end was not said
        self._is_stopping = False
        self._passes = 0
        self._is_own = False

    def __len__(self) -> int:
        return len(self.loader)

    def __repr__(self) -> str:
        names = ", ".join(self.recipe.operations)
        return f"<DaliPipeline of {self.loader!r}, device_id={self._asked_device!r}: {names}>"

    @property
    def pipeline(self) -> Any:
        """DALI's own pipeline, for its iterators: `DALIGenericIterator(p.pipeline, p.names)`.

        It is made, and a GPU opened, when it is first asked for.

        Raises:
            ConfigError: `LOCAL_RANK` and the GPUs of this host do not fit.
            LoaderError: DALI makes none: there is no such GPU.
        """
        if self._pipeline is None:
            device_id = device_of(self._asked_device)
            if self._pins and device_id is not None:
                self.loader.pin_memory = True
            options = PipelineOptions(
                self.loader.batch_size or 1, device_id, self._threads, self._prefetch
            )
            try:
                made = make_pipeline(self.recipe, _Epochs(self), options, self._on_output)
            except RuntimeError as err:
                if isinstance(err, DataplaneError):
                    raise
                where = "the CPU" if device_id is None else f"GPU {device_id}"
                raise LoaderError(
                    f"DALI makes no pipeline on {where}: {err}",
                    hint="device_id=None runs on the CPU; `nvidia-smi` lists the GPUs",
                ) from err
            self._pipeline, self._names = made
        return self._pipeline

    @property
    def names(self) -> list[str]:
        """Names of the outputs of `pipeline`: arrays, then `__params__.<number>.<op>.<name>`."""
        assert self.pipeline is not None
        return list(self._names)

    @property
    def device_id(self) -> int | None:
        """Number of the GPU that it runs on; None for the CPU."""
        number: int | None = self.pipeline.device_id
        return number

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self._rewind("iterating")
        self._passes += 1
        self._is_own = True
        return self._batches(self._passes)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next pass reads, as the loader's own.

        Raises:
            ConfigError: the epoch is negative, or no whole number.
        """
        if self._is_own:
            self._rewind("setting an epoch")
        self.loader.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the loader behind the batch that the loop got last.

        Raises:
            ConfigError: as the loader's own.
        """
        return dict(self.loader.state_dict() if self._state is None else self._state)

    def load_state_dict(self, state_dict: Mapping[str, object]) -> None:
        """Let the next pass resume where `state_dict` was taken.

        Raises:
            ConfigError: as the loader's own, or one of DALI's iterators is at work already.
        """
        self._rewind("loading a state")
        self.loader.load_state_dict(state_dict)
        self._state = None

    def close(self) -> None:
        """End a pass, and let go of DALI's threads and memory; iterating makes them anew."""
        if self._is_own:
            self._rewind("closing")
        self._drop()

    def _drop(self) -> None:
        self._pipeline, self._handed, self._is_open, self._is_own = None, None, False, False
        self._in_flight.clear()
        self._passes += 1

    def _batches(self, number: int) -> Iterator[dict[str, Any]]:
        pipeline = self.pipeline
        while True:
            if number != self._passes:
                raise LoaderError(
                    "this pass over a DaliPipeline is over: another has begun, or it was closed",
                    hint="it has one pass at a time; make a pipeline for each loop",
                )
            try:
                outputs = pipeline.run()
            except StopIteration:
                pipeline.reset()
                return
            except Exception as err:
                if self._error is not None:  # of the loader, in the place of its batch
                    self._error = None
                    pipeline.reset()
                    raise
                self._drop()
                if isinstance(err, DataplaneError):
                    raise
                raise LoaderError(
                    f"DALI could not run the operations: {err}",
                    hint="the line behind 'encountered' is its reason",
                ) from err
            yield self._batch(outputs)

    def _batch(self, outputs: Sequence[Any]) -> dict[str, Any]:
        assert self._handed is not None
        batch: dict[str, Any] = {}
        parameters = Parameters()
        for name, output in zip(self._names, outputs, strict=True):
            spec = self.recipe.after.get(name)
            if spec is None:
                short = name.removeprefix(f"{PARAMETERS}.")
                parameters[short] = out_of_dali(output, ())[0]
                continue
            batch[name], offsets = out_of_dali(output, spec.shape)
            if offsets is not None:
                batch[name + OFFSETS_SUFFIX] = offsets
        batch[PARAMETERS] = parameters
        batch[KEY] = self._handed.keys
        batch |= self._handed.others
        return batch

    def _rewind(self, why: str) -> None:
        """Bring DALI back to the beginning of an epoch, whatever it is ahead."""
        if not self._is_open or self._pipeline is None:
            return
        if not self._is_own:
            raise ConfigError(
                f"{why}: one of DALI's iterators is at work on this pipeline",
                hint="load a state before the iterator is made, or make another pipeline",
            )
        self._passes += 1
        self._is_stopping = True
        try:
            with contextlib.suppress(StopIteration):
                while True:
                    self._pipeline.run()
        finally:
            self._is_stopping = False
        self._pipeline.reset()
        if self._steps <= 1 and self._start is not None:
            # A look at one batch moves nothing: the loader gave out more, but not to the loop.
            self.loader.load_state_dict(self._start)

    def _on_output(self, is_batch: bool) -> None:
        """Follow what DALI hands out: a batch, or the end of an epoch."""
        if self._is_stopping:
            self._in_flight.clear()
            self._is_open = is_batch
            return
        if is_batch:
            self._handed = self._in_flight.popleft()
            self._state = self._handed.state
            self._steps += 1
            return
        self._is_open = False
        self._handed = None
        if self._error is not None:
            raise self._error
        self._state = self._end

    def _is_told_to_stop(self) -> bool:
        return self._is_stopping

    def _epoch(self) -> Iterator[tuple[Fed, ...]]:
        """Yield what DALI is fed for each batch of a pass of the loader."""
        if self._is_stopping:
            return
        self._start, self._end, self._error = None, None, None
        self._steps, self._is_open = 0, True
        passing: Any = None
        try:
            passing = iter(self.loader)
            self._start = before = self.loader.state_dict()
            if self._state is None:
                self._state = before
            for batch in passing:
                state = self.loader.state_dict()
                looks = self.loader.looks_behind({**before, **_seed_of(state)})
                fed, keys = fed_batch(
                    self.recipe,
                    batch,
                    before,
                    state,
                    seed=self._seed,
                    looks=looks,
                    parts=self.loader.parts_behind(),
                )
                self._in_flight.append(_InFlight(keys, _others(batch), state, (batch, fed)))
                before = state
                yield fed
                if self._is_told_to_stop():
                    passing.close()
                    return
        except Exception as err:
            self._error = err
            if passing is not None:
                passing.close()
            return
        self._end = self.loader.state_dict()


def _others(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a batch goes past DALI: neither arrays nor keys."""
    return {
        name: value
        for name, value in batch.items()
        if name in (SOURCE, TILE) or name.endswith(WEIGHT_SUFFIX)
    }


def _seed_of(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the seed of a pass, which a state from before its first batch may lack."""
    return {name: state[name] for name in ("seed", "is_seed_of_pass") if name in state}


class _Epochs:
    """What DALI iterates over: each `iter` is a pass of the loader."""

    def __init__(self, owner: DaliPipeline) -> None:
        self._owner = owner

    def __iter__(self) -> Iterator[tuple[Fed, ...]]:
        return self._owner._epoch()
