"""`DataLoader`: torch's loader, with threads over the native decoder for packed datasets.

It is a subclass with torch's whole signature. For packed datasets, and torch's wrappers and the
user's own classes around them, the arguments keep their meaning, with threads in the place of
worker processes; docs/loader.md has the table of what each one does. For any other dataset nothing
is overridden: torch's own code runs.

Epochs: a loader counts its passes, from 0 on; whoever calls `set_epoch`, of the loader or of its
sampler, says which one is next. A pass that was left within its first batch was a look, and does
not count. After `load_state_dict` the next pass resumes where the state was taken, and a
`set_epoch` with the state's own epoch keeps that place.

A loader belongs to one thread. This module has arguments, epochs and state; the order is in
`sampler.py`, a pass in `epoch_iterator.py`, the user's code in `user_code.py`.
"""

from __future__ import annotations

import functools
import os
import threading
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import torch
import torch.utils.data
from torch.utils.data import default_collate

from dataplane.datasets.collation import collate
from dataplane.datasets.dataset import Dataset
from dataplane.datasets.layout import Arrangement
from dataplane.datasets.views import ViewReader, packed_inside, view_of
from dataplane.errors import ConfigError
from dataplane.loader.epoch_iterator import MAX_DECODE_THREADS, BatchWorker, Pass, PassOptions
from dataplane.loader.place import Place
from dataplane.loader.prefetcher import InnerReads, Prefetcher, plan_ahead
from dataplane.loader.ranks import whole_number
from dataplane.loader.sampler import EpochSampler
from dataplane.loader.state import LoaderState
from dataplane.loader.stats import LoaderStats, Meter
from dataplane.loader.user_code import UserCode, Worker, WorkerSetup, make_workers

__all__ = ["DataLoader"]

T_co = TypeVar("T_co", covariant=True)

DEFAULT_PREFETCH_FACTOR = 2


class DataLoader(torch.utils.data.DataLoader[T_co]):
    """Yield batches of a dataset; a drop-in for `torch.utils.data.DataLoader`.

    Arguments are torch's. For a `dataplane.Dataset`, also inside of `Subset`, `ConcatDataset` and
    classes of your own: `num_workers` is the number of native decode threads and of workers that
    run your code (0 does both in the calling thread while bytes are still prefetched),
    `prefetch_factor` the number of finished batches kept ready, and without `transform` and
    `collate_fn` a batch has the layout of the dataset: one tensor `[B, ...]` per array, or a
    concatenated one plus `<name>.offsets` for arrays whose first extent varies, plus `"__key__"`.

    Args:
        dataset: a dataset that reads packed samples, or any other, for which torch's code runs.
        batch_size: samples per batch; None yields samples.
        shuffle: whether to read a new permutation each epoch.
        sampler: iterable of indices; the order is then its own.
        batch_sampler: iterable of lists of indices.
        num_workers: see above.
        collate_fn: function from a list of samples to a batch; runs in the workers.
        pin_memory: whether to decode into page-locked memory.
        drop_last: whether to leave out an incomplete last batch, and a tail that not all ranks get.
        timeout: seconds to wait for a batch; 0 waits.
        worker_init_fn: function of a worker's number, called in each that runs your code.
        multiprocessing_context: of no use to threads; accepted.
        generator: what a seed is drawn from, where none is given; by default torch's own.
        seed: seed of the shuffle and of what your code draws, the same on all ranks; by default
            drawn when a pass begins.
        rank: rank of this process; by default torch.distributed's, else the launcher's, else 0.
        world_size: number of ranks, likewise; 1 reads all of the dataset in this process.
        ragged: names of arrays whose first extent varies in what a transform returns: they are
            concatenated, with offsets. What is not named is stacked.
        keys: whether samples and batches have `"__key__"`.
        transform_mode: where your code runs: in `thread`s, each with its own copy of it, or in
            `process`es, for code that holds Python's lock.
        prefetch_factor: see above; 2 by default.
        persistent_workers: whether workers keep their copies of your code from pass to pass.
        pin_memory_device: as in torch.
        in_order: whether batches come in order; False gives out what is ready.

    Raises:
        ConfigError: arguments contradict each other.
        ValueError: as torch's loader, for its own arguments.

    Example:
        >>> import dataplane as dp
        >>> loader = dp.DataLoader(ds, batch_size=4, shuffle=True, num_workers=4, seed=7)
        ... # doctest: +SKIP
        >>> for batch in loader: ...  # doctest: +SKIP
        >>> state = loader.state_dict()  # doctest: +SKIP
    """

    def __init__(  # noqa: PLR0917 - torch's signature
        self,
        dataset: torch.utils.data.Dataset[T_co],
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Iterable[Any] | None = None,
        batch_sampler: Iterable[list[Any]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: torch.Generator | None = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
        seed: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        ragged: Collection[str] = (),
        keys: bool = True,
        transform_mode: Literal["thread", "process"] = "thread",
    ) -> None:
        if isinstance(dataset, (str, os.PathLike)):
            raise ConfigError(
                f"DataLoader takes a dataset, got the {type(dataset).__name__} {dataset!r}",
                hint=f"wrap it: dataplane.Dataset({os.fspath(dataset)!r})",
            )
        self._view = view_of(dataset)
        self._inner = packed_inside(dataset) if self._view is None else []
        self._is_engine = self._view is not None or bool(self._inner)
        self._check_own_arguments(dataset, (seed, rank, world_size), ragged, transform_mode)
        if self._is_engine:
            whole_number("num_workers", num_workers)
            if seed is not None and generator is not None:
                raise ConfigError(
                    "seed and generator both say how to shuffle", hint="give one of them"
                )
            if sampler is None and batch_sampler is None:
                sampler = EpochSampler(
                    len(dataset),  # type: ignore[arg-type]  # map-style datasets have a length
                    shuffle=bool(shuffle),
                    seed=seed,
                    generator=generator,
                    rank=rank,
                    world_size=world_size,
                    drop_last=drop_last,
                )
                shuffle = None
            elif not _is_ours(sampler, batch_sampler) and (seed, rank, world_size) != (
                None,
                None,
                None,
            ):
                raise ConfigError(
                    "seed, rank and world_size do nothing beside a sampler, which is an order "
                    "itself",
                    hint="leave the sampler out, or use DistributedSampler alone",
                )
        self._seed = seed
        self._ragged = tuple(ragged)
        self._keys = keys
        self._mode = transform_mode
        self._native_collate: object = None
        super().__init__(
            dataset,
            batch_size,
            shuffle,
            sampler,
            batch_sampler,
            num_workers,
            collate_fn,
            pin_memory,
            drop_last,
            timeout,
            worker_init_fn,
            multiprocessing_context,
            generator,
            prefetch_factor=prefetch_factor,
            persistent_workers=persistent_workers,
            pin_memory_device=pin_memory_device,
            in_order=in_order,
        )
        if self._is_engine and collate_fn is None and not self._is_single:
            self.collate_fn = self._own_collate()
        if self._is_engine and collate_fn is None:
            self._native_collate = self.collate_fn
        self._place = self._make_place()
        self._begin_anew()

    def _begin_anew(self) -> None:
        """Forget all passes: a loader that was just made, or copied."""
        self._meter: Meter | None = None
        self._ahead: Prefetcher | None = None
        self._workers: list[Worker] = []
        self._is_sharing_told = False
        self._lock = threading.Lock()

    def __iter__(self) -> Any:
        if not self._is_engine:
            return super().__iter__()
        state, feed = self._place.begin(
            takes_any_index=self._view is None, drop_last=self.drop_last
        )
        workers = self._make_workers(state)
        reader = None if self._view is None else ViewReader(self._view)
        reads = reader or InnerReads(self._inner, state.dataset_length)
        size = self.batch_size or getattr(self.batch_sampler, "batch_size", None) or 1
        self._ahead = plan_ahead(reads, feed, size, self._ahead)
        current = Pass(
            reader,
            workers,
            feed,
            self._options(state),
            progress=self._place.progress,
            ahead=self._ahead,
            length=self._length(),
        )
        self._place.follow(current)
        self._meter = current.meter
        return current

    def __repr__(self) -> str:
        if not self._is_engine:
            return super().__repr__()
        own = self._place.own
        how = [f"batch_size={self.batch_size}"] if self.batch_size else []
        if own is None:
            how.append("its order from a sampler")
        else:
            how.append(f"shuffle={own.shuffle}")
            if own.shuffle and own.seed is not None:
                how.append(f"seed={own.seed}")
            if own.num_replicas > 1:
                how += [f"rank={own.rank}", f"world_size={own.num_replicas}"]
        how.append(f"num_workers={self.num_workers}")
        return f"<DataLoader of {self.dataset!r}, {', '.join(how)}>"

    def __getstate__(self) -> dict[str, Any]:
        # What is of a pass is not of a copy; nor are locks and threads.
        state = self.__dict__.copy()
        for name in ("_meter", "_ahead", "_workers", "_lock"):
            del state[name]
        if self._is_engine:
            state["_place"] = self._place.epochs
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin_anew()
        if self._is_engine:
            self.__dict__["_place"] = self._make_place()
            self._place.epochs = state["_place"]

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next pass reads; the ones after it follow on.

        It is passed on to a sampler of yours that has a `set_epoch`.

        Raises:
            ConfigError: the epoch is negative, or no whole number.
        """
        self._place.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return the place of the training loop: in the latest pass, or before the next.

        It counts batches that were yielded, not those that wait. With the loader's own order it is
        the same on all ranks.

        Raises:
            ConfigError: the dataset has no packed samples, or batches came out of order.
        """
        self._require_engine("state_dict")
        return self._place.state.as_dict()

    def load_state_dict(self, state_dict: Mapping[str, object]) -> None:
        """Let the next pass resume where `state_dict` was taken.

        World size, batch size and number of workers may differ from those of the saved run, with
        the loader's own order. A sampler of yours must give the same indices again, or is refused
        when the pass begins.

        Raises:
            ConfigError: it is no state, or that of another dataset, seed or kind of order.
        """
        self._require_engine("load_state_dict")
        self._place.load(state_dict)

    def stats(self) -> LoaderStats:
        """Return what the latest pass did so far and which stage it waited for.

        Raises:
            ConfigError: the dataset has no packed samples, or nothing was read yet.
        """
        self._require_engine("stats")
        if self._meter is None:
            raise ConfigError("there are no statistics before the first pass")
        return self._meter.snapshot()

    def check_worker_number_rationality(self) -> None:
        """Warn of more worker processes than cores, as torch does; threads are not processes."""
        if not self._is_engine or self.num_workers > MAX_DECODE_THREADS:
            super().check_worker_number_rationality()

    @property
    def _packed(self) -> Sequence[Dataset]:
        """Packed datasets that samples come from."""
        return self._inner if self._view is None else self._view.datasets

    @property
    def _is_single(self) -> bool:
        return self.batch_size is None and self.batch_sampler is None

    def _make_place(self) -> Place:
        return Place(
            self.sampler,
            self.batch_sampler,
            generator=self.generator,
            seed=self._seed,
            length=len(self.dataset) if self._is_engine else 0,  # type: ignore[arg-type]
            identity=functools.partial(_identity_of, self.dataset),
        )

    def _options(self, state: LoaderState) -> PassOptions:
        pin = self.pin_memory
        if pin and not torch.accelerator.is_available():
            warnings.warn(
                "pin_memory is set, but there is no accelerator: batches are not pinned",
                stacklevel=3,
            )
            pin = False
        own = self._place.own
        world_size = 1 if own is None else own.num_replicas
        return PassOptions(
            num_workers=self.num_workers,
            prefetch_factor=(
                DEFAULT_PREFETCH_FACTOR if self.prefetch_factor is None else self.prefetch_factor
            ),
            pin=pin,
            timeout_s=self.timeout or None,
            single=self._is_single,
            keys=self._keys,
            in_order=self.in_order,
            first=state.samples_consumed // world_size,
        )

    def _make_workers(self, state: LoaderState) -> list[BatchWorker]:
        """Return the workers of a pass; none where decoding makes the batches."""
        is_native = self._view is not None and self.collate_fn is self._native_collate
        if is_native and not any(dataset.transform for dataset in self._packed):
            return []
        setup = WorkerSetup(
            id=None,
            num_workers=self.num_workers,
            seed=state.seed or 0,
            epoch=state.order_epoch,
            single=self._is_single,
            is_packed=self._view is not None,
            repeats=state.order == "sampler",
        )
        code = UserCode(self.dataset, self.collate_fn, self._collate_samples(), self.worker_init_fn)
        self._workers = make_workers(
            code,
            setup,
            lock=self._lock,
            before=self._workers if self.persistent_workers else [],
            tell=self._warn_of_sharing,
        )
        return list(self._workers)

    def _warn_of_sharing(self, why: Exception) -> None:
        if not self._is_sharing_told:
            self._is_sharing_told = True
            warnings.warn(
                f"transform, collate_fn or dataset cannot be copied for each worker ({why}): the "
                f"{self.num_workers} workers take turns with the one there is; have it open files "
                "and handles at its first call, and it can be copied",
                stacklevel=5,
            )

    def _own_collate(self) -> Callable[[list[Any]], Any]:
        """Return what makes a batch where the user gave no `collate_fn`."""
        if self._view is None and type(self.dataset) is not torch.utils.data.StackDataset:
            return self._collate_samples() if self._ragged else default_collate
        return self._collate_samples()

    def _collate_samples(self) -> Callable[[list[Any]], Any]:
        if self._ragged or any(dataset.transform for dataset in self._packed):
            return functools.partial(collate, ragged=self._ragged)
        layouts = [layout for dataset in self._inner for layout in dataset.layouts]
        if self._view is not None:
            layouts = list(self._view.layouts)
        return functools.partial(
            collate,
            ragged=[one.name for one in layouts if one.arrangement is Arrangement.RAGGED],
            listed=[one.name for one in layouts if one.arrangement is Arrangement.LISTED],
        )

    def _length(self) -> int | None:
        try:
            return len(self)
        except TypeError:
            return None

    def _check_own_arguments(
        self, dataset: object, ranks: tuple[object, ...], ragged: object, transform_mode: object
    ) -> None:
        if transform_mode not in ("thread", "process"):
            raise ConfigError(
                f'transform_mode must be "thread" or "process", got {transform_mode!r}'
            )
        if isinstance(ragged, str):
            raise ConfigError(
                f"ragged={ragged!r} is one string", hint=f"for one array write ragged=[{ragged!r}]"
            )
        if not self._is_engine and ranks != (None, None, None):
            raise ConfigError(
                f"seed, rank and world_size are for a dataplane.Dataset, "
                f"this is a {type(dataset).__name__}",
                hint="use generator= and torch.utils.data.DistributedSampler",
            )

    def _require_engine(self, what: str) -> None:
        if not self._is_engine:
            raise ConfigError(
                f"{what} needs a dataplane.Dataset, this is a {type(self.dataset).__name__}",
                hint="torchdata.stateful_dataloader serves other datasets",
            )


def _is_ours(sampler: object, batch_sampler: object) -> bool:
    return isinstance(sampler, EpochSampler) or isinstance(
        getattr(batch_sampler, "sampler", None), EpochSampler
    )


def _identity_of(dataset: object) -> str:
    view = view_of(dataset)
    if view is not None:
        return view.identity
    parts = sorted(one.identity for one in packed_inside(dataset))
    return f"{type(dataset).__qualname__}({', '.join(parts)})"
