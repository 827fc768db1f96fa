"""`DataLoader`: torch's loader, with threads over the native decoder for packed datasets.

It is a subclass with torch's whole signature. For any dataset but a `dataplane.Dataset` nothing is
overridden: torch's own code runs. For a `dataplane.Dataset` the arguments keep their meaning, with
threads in the place of worker processes; docs/loader.md has the table of what each one does.

Epochs: a loader counts its passes; each `iter()` reads the next epoch, from 0 on. `set_epoch` says
which one is next. After `load_state_dict` the next pass resumes where the state was taken, and a
`set_epoch` with the state's own epoch keeps that place.

A loader belongs to one thread. This module has arguments, order, epochs and state; a pass is in
`epoch_iterator.py`.
"""

from __future__ import annotations

import functools
import operator
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, SupportsIndex, TypeVar, cast

import torch
import torch.distributed
import torch.utils.data

from dataplane.datasets.collation import collate
from dataplane.datasets.dataset import Dataset
from dataplane.datasets.layout import Arrangement
from dataplane.datasets.order import permutation, rank_positions
from dataplane.errors import ConfigError
from dataplane.loader.batch_source import BatchSource, KnownBatches, KnownOrder, SamplerBatches
from dataplane.loader.epoch_iterator import Pass, PassOptions, plan_ahead
from dataplane.loader.prefetcher import Prefetcher
from dataplane.loader.state import LoaderState, Progress
from dataplane.loader.stats import LoaderStats, Meter

__all__ = ["DataLoader"]

T_co = TypeVar("T_co", covariant=True)

DEFAULT_PREFETCH_FACTOR = 2
MAX_WORKERS = 256
"""As many threads as the native decoder takes."""


class DataLoader(torch.utils.data.DataLoader[T_co]):
    """Yield batches of a dataset; a drop-in for `torch.utils.data.DataLoader`.

    Arguments are torch's. For a `dataplane.Dataset`: `num_workers` is the number of native decode
    threads (0 decodes in the calling thread while bytes are still prefetched), `prefetch_factor`
    the number of finished batches kept ready, and without `collate_fn` a batch has the layout of
    the dataset: one tensor `[B, ...]` per array, or a concatenated one plus `<name>.offsets` for
    arrays whose first extent varies, plus `"__key__"`.

    Args:
        dataset: a `dataplane.Dataset`, or any other dataset, for which torch's code runs.
        batch_size: samples per batch; None yields samples.
        shuffle: whether to read a new permutation each epoch.
        sampler: iterable of indices; the order is then its own.
        batch_sampler: iterable of lists of indices.
        num_workers: see above.
        collate_fn: function from a list of samples to a batch; runs in worker threads.
        pin_memory: whether to decode into page-locked memory.
        drop_last: whether to leave out an incomplete last batch, and a tail that not all ranks get.
        timeout: seconds to wait for a batch; 0 waits.
        worker_init_fn: function of a thread's number, called in each that runs `transform` or
            `collate_fn`.
        multiprocessing_context: of no use to threads; accepted.
        generator: for a shuffle without `seed`: its `initial_seed()` is the seed.
        seed: seed of the shuffle, the same on all ranks; 0 by default.
        rank: rank of this process; by default torch.distributed's, where initialised, else 0.
        world_size: number of ranks; by default torch.distributed's, else 1.
        prefetch_factor: see above; 2 by default.
        persistent_workers: threads start in microseconds; accepted.
        pin_memory_device: as in torch.
        in_order: batches always come in order.

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
    ) -> None:
        if isinstance(dataset, (str, os.PathLike)):
            raise ConfigError(
                f"DataLoader takes a dataset, got the {type(dataset).__name__} {dataset!r}",
                hint=f"wrap it: dataplane.Dataset({os.fspath(dataset)!r})",
            )
        self._plane: Dataset | None = dataset if isinstance(dataset, Dataset) else None
        if self._plane is None and not (seed is None and rank is None and world_size is None):
            raise ConfigError(
                f"seed, rank and world_size are for a dataplane.Dataset, "
                f"this is a {type(dataset).__name__}",
                hint="use generator= and torch.utils.data.DistributedSampler",
            )
        if self._plane is not None and _whole("num_workers", num_workers) > MAX_WORKERS:
            raise ConfigError(
                f"num_workers={num_workers}: at most {MAX_WORKERS} threads can decode",
                hint="as many as the process has cores is enough",
            )
        self._user_collate = collate_fn
        self._own_order = sampler is None and batch_sampler is None
        self._order = None
        if self._plane is not None and self._own_order:
            self._order = _known_order(
                len(self._plane),
                shuffle=bool(shuffle),
                seed=_seed(seed, generator),
                ranks=_ranks(rank, world_size),
                batch_size=batch_size,
                drop_last=drop_last,
            )
        elif self._plane is not None and not (seed is None and rank is None and world_size is None):
            raise ConfigError(
                "seed, rank and world_size do nothing beside a sampler, which is an order itself",
                hint="leave the sampler out, or use DistributedSampler alone",
            )
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
        self._next_epoch = 0
        self._resume: LoaderState | None = None
        self._progress = Progress(self._fresh_state(0), self._order)
        self._meter: Meter | None = None
        self._ahead: Prefetcher | None = None

    def __iter__(self) -> Any:
        if self._plane is None:
            return super().__iter__()
        state = self._resume or self._fresh_state(self._next_epoch)
        self._resume = None
        self._next_epoch = state.epoch + 1
        self._set_sampler_epoch(state.epoch)
        self._progress = Progress(state, self._order)
        reader, feed, options = self._plane.reader(), self._feed(state), self._options()
        self._ahead = plan_ahead(reader, feed, options, self._ahead)
        current = Pass(reader, feed, options, self._progress, self._ahead)
        self._meter = current.meter
        return current

    def __len__(self) -> int:
        if self._order is None:
            return super().__len__()
        count = self._order.count()
        size = self._order.batch_size
        return count // size if self._order.drop_last else -(-count // size)

    def __repr__(self) -> str:
        if self._plane is None:
            return super().__repr__()
        order = self._order
        how = [f"batch_size={self.batch_size}"] if self.batch_size else []
        if order is None:
            how.append("its order from a sampler")
        else:
            how += [f"shuffle={order.shuffle}"] + ([f"seed={order.seed}"] if order.shuffle else [])
            if order.world_size > 1:
                how += [f"rank={order.rank}", f"world_size={order.world_size}"]
        how.append(f"num_workers={self.num_workers}")
        return f"<DataLoader of {self._plane!r}, {', '.join(how)}>"

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next pass reads; the ones after it follow on.

        Raises:
            ConfigError: the epoch is negative, or no whole number.
        """
        epoch = _whole("epoch", epoch)
        if epoch < 0:
            raise ConfigError(f"epoch must be at least 0, got {epoch}")
        if self._resume is not None and self._resume.epoch != epoch:
            self._resume = None
        if self._resume is None:
            self._next_epoch = epoch
        self._set_sampler_epoch(epoch)

    def state_dict(self) -> dict[str, int | str]:
        """Return the place of the training loop: in the latest pass, or before the first.

        It counts batches that were yielded, not those that wait; it is the same on all ranks.

        Raises:
            ConfigError: the dataset is not a `dataplane.Dataset`.
        """
        self._require_plane("state_dict")
        return (self._resume or self._progress.state).as_dict()

    def load_state_dict(self, state_dict: Mapping[str, object]) -> None:
        """Let the next pass resume where `state_dict` was taken.

        World size, batch size and number of workers may differ from those of the saved run. With a
        sampler of the user's the batches before that place are passed over, so it must yield the
        same ones again.

        Raises:
            ConfigError: it is no state, or that of another dataset, seed or kind of order.
        """
        self._require_plane("load_state_dict")
        state = LoaderState.from_dict(state_dict)
        own = self._fresh_state(0)
        state.check_fits(order=own.order, seed=own.seed, dataset_length=own.dataset_length)
        self._resume = state
        self._next_epoch = state.epoch

    def stats(self) -> LoaderStats:
        """Return what the latest pass did so far and which stage it waited for.

        Raises:
            ConfigError: the dataset is not a `dataplane.Dataset`, or nothing was read yet.
        """
        self._require_plane("stats")
        if self._meter is None:
            raise ConfigError("there are no statistics before the first pass")
        return self._meter.snapshot()

    def check_worker_number_rationality(self) -> None:
        """Warn of more worker processes than cores, as torch does; threads are not processes."""
        if self._plane is None:
            super().check_worker_number_rationality()

    def _fresh_state(self, epoch: int) -> LoaderState:
        order = self._order
        kind = "sampler" if order is None else "shuffled" if order.shuffle else "sequential"
        return LoaderState(
            epoch=epoch,
            samples_consumed=0,
            num_yielded=0,
            order=kind,
            seed=0 if order is None else order.seed,
            dataset_length=0 if self._plane is None else len(self._plane),
        )

    def _feed(self, state: LoaderState) -> BatchSource:
        if self._order is not None:
            return KnownBatches(self._order, state.epoch, state.samples_consumed)
        sampler: Iterable[object] = (
            self.sampler if self.batch_sampler is None else self.batch_sampler
        )
        return SamplerBatches(sampler, skip=state.num_yielded, length=state.dataset_length)

    def _options(self) -> PassOptions:
        assert self._plane is not None
        pin = self.pin_memory
        if pin and not torch.accelerator.is_available():
            warnings.warn(
                "pin_memory is set, but there is no accelerator: batches are not pinned",
                stacklevel=3,
            )
            pin = False
        return PassOptions(
            batch_size=self.batch_size or getattr(self.batch_sampler, "batch_size", None) or 1,
            num_workers=self.num_workers,
            prefetch_factor=(
                DEFAULT_PREFETCH_FACTOR if self.prefetch_factor is None else self.prefetch_factor
            ),
            pin=pin,
            timeout_s=self.timeout or None,
            single=self.batch_size is None and self.batch_sampler is None,
            transform=None if self._plane.transform is None else self._plane.transformed,
            collate=self._collate(),
            worker_init=self.worker_init_fn,
        )

    def _collate(self) -> Callable[[Any], Any] | None:
        """Return what makes a batch of transformed samples, or None where decoding makes it."""
        assert self._plane is not None
        if (
            self._user_collate is not None
            or self._plane.transform is None
            or (self.batch_size is None and self.batch_sampler is None)
        ):
            return self._user_collate
        layouts = self._plane.layouts
        return functools.partial(
            collate,
            ragged=[one.name for one in layouts if one.arrangement is Arrangement.RAGGED],
            listed=[one.name for one in layouts if one.arrangement is Arrangement.LISTED],
        )

    def _set_sampler_epoch(self, epoch: int) -> None:
        for sampler in (self.sampler, self.batch_sampler):
            set_epoch = getattr(sampler, "set_epoch", None)
            if callable(set_epoch):
                set_epoch(epoch)

    def _require_plane(self, what: str) -> None:
        if self._plane is None:
            raise ConfigError(
                f"{what} needs a dataplane.Dataset, this is a {type(self.dataset).__name__}",
                hint="torchdata.stateful_dataloader serves other datasets",
            )


def _known_order(
    length: int,
    *,
    shuffle: bool,
    seed: int,
    ranks: tuple[int, int],
    batch_size: int | None,
    drop_last: bool,
) -> KnownOrder:
    rank, world_size = ranks
    order = KnownOrder(
        length=length,
        shuffle=shuffle,
        seed=seed,
        rank=rank,
        world_size=world_size,
        # torch's constructor, which comes next, refuses what is neither None nor positive.
        batch_size=batch_size if isinstance(batch_size, int) and batch_size > 0 else 1,
        drop_last=drop_last,
    )
    permutation(0, seed=seed, epoch=0)  # refuses a bad seed now and not at the first pass
    rank_positions(0, rank=rank, world_size=world_size)
    return order


def _seed(seed: int | None, generator: torch.Generator | None) -> int:
    if seed is not None and generator is not None:
        raise ConfigError("seed and generator both say how to shuffle", hint="give one of them")
    if generator is not None:
        return generator.initial_seed()
    return 0 if seed is None else _whole("seed", seed)


def _ranks(rank: int | None, world_size: int | None) -> tuple[int, int]:
    if (rank is None) != (world_size is None):
        raise ConfigError(
            f"rank={rank} and world_size={world_size} go together", hint="give both or neither"
        )
    if rank is not None and world_size is not None:
        return _whole("rank", rank), _whole("world_size", world_size)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    world = os.environ.get("WORLD_SIZE", "")  # set by torchrun
    if world not in ("", "0", "1"):
        warnings.warn(
            f"WORLD_SIZE is {world}, but torch.distributed is not initialised: this process reads "
            "every sample and not its share; make the DataLoader after init_process_group, or give "
            "rank and world_size",
            stacklevel=3,
        )
    return 0, 1


def _whole(name: str, value: object) -> int:
    """Return an argument that is a whole number, of Python, NumPy or torch.

    Raises:
        ConfigError: it is something else; True and False are answers, not numbers.
    """
    try:
        if not isinstance(value, bool):
            return operator.index(cast(SupportsIndex, value))
    except TypeError:
        pass
    raise ConfigError(f"{name} must be a whole number, got {value!r:.60}")
