"""`DataLoader`: torch's loader, with threads over the native decoder for packed datasets.

It is a subclass with torch's whole signature. For packed datasets, and torch's wrappers and the
user's own classes around them, the arguments keep their meaning, with threads in the place of
worker processes; docs/loader.md has the table of what each one does. For any other dataset torch's
own code runs, or torchdata's, which is that with a state.

Epochs: a loader counts its passes, from 0 on; whoever calls `set_epoch`, of the loader or of its
sampler, says which one is next. A pass that was left within its first batch was a look, and does
not count. After `load_state_dict` the next pass resumes where the state was taken, and a
`set_epoch` with the state's own epoch keeps that place.

A loader belongs to one thread. This module has arguments; epochs and state are in `place.py`, the
order in `sampler.py`, a pass in `epoch_iterator.py`, the user's code in `user_code.py`.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.utils.data
from torch.utils.data import default_convert

from dataplane.datasets.collation import LayoutCollate
from dataplane.datasets.dataset import Dataset
from dataplane.datasets.draws import Draws
from dataplane.datasets.mixture import Mix
from dataplane.datasets.provenance import StepProvenance
from dataplane.datasets.ragged import PaddingValue, RaggedAs, RaggedForm
from dataplane.datasets.sharded import Sharded
from dataplane.datasets.views import ViewReader, packed_inside, view_of
from dataplane.errors import ConfigError, LoaderError, MissingPackage
from dataplane.gpu.device import checked_device
from dataplane.gpu.route import Decode
from dataplane.loader.accelerate_shard import has_accelerator, make_shard
from dataplane.loader.batch_form import BatchForm, PackedSamples, with_offsets
from dataplane.loader.device_batches import DeviceBatches, check_decode
from dataplane.loader.epoch_iterator import Pass, Run
from dataplane.loader.order_arguments import Assign, OrderArguments, Shuffle, check_drawn_from
from dataplane.loader.other_datasets import stateful_loader
from dataplane.loader.place import Place
from dataplane.loader.prefetcher import InnerReads, Prefetcher, plan_ahead
from dataplane.loader.ranks import rank_of_process, whole_number
from dataplane.loader.sampler import EpochSampler
from dataplane.loader.stacklevel import users_stacklevel
from dataplane.loader.stages import (
    MAX_DECODE_THREADS,
    BatchWorker,
    PassOptions,
    decode_threads,
)
from dataplane.loader.state import LoaderState
from dataplane.loader.stats import LoaderStats, Meter
from dataplane.loader.user_code import UserCode, WorkerSetup
from dataplane.loader.workers import TransformMode, Workers
from dataplane.loader.yielded import Trail, steps_of_epoch
from dataplane.telemetry import logger

__all__ = ["DataLoader"]

T_co = TypeVar("T_co", covariant=True)

DEFAULT_PREFETCH_FACTOR = 2


class DataLoader(torch.utils.data.DataLoader[T_co]):
    """Yield batches of a dataset; a drop-in for `torch.utils.data.DataLoader`.

    Arguments are torch's. For a `dataplane.Dataset`, also inside of `Subset`, `ConcatDataset` and
    classes of your own: `num_workers` is the number of native decode threads and of workers that
    run your code (with 0 the calling thread runs it, and decodes, with as many threads as torch
    computes with, while bytes are still prefetched),
    `prefetch_factor` the number of finished batches kept ready, and without `transform` and
    `collate_fn` a batch has the layout of the dataset: one tensor `[B, ...]` per array, or a
    concatenated one plus `<name>.offsets` for arrays whose first extent varies, plus `"__key__"`.

    Args:
        dataset: a dataset that reads packed samples, or any other, for which torch's code runs.
        batch_size: samples per batch; None yields samples.
        shuffle: whether to read a new permutation each epoch; "shards" shuffles shards, and the
            samples of several at once; a mix shuffles its sources unless this is False.
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
        ragged_as: what arrays are whose first extent varies, as stored or as named by `ragged`:
            "offsets", concatenated, with `<name>.offsets`; "padded" [B, N_max, ...], with
            `<name>.lengths`, int64[B]; "nested", torch's nested tensors, without a copy.
        padding_value: what stands behind the elements of a sample in a padded array; one number, or
            numbers by name, 0 for others.
        keys: whether samples and batches have `"__key__"`.
        device: device that batches are yielded on: "cuda", which is the GPU of this process
            (`LOCAL_RANK`), "cuda:1", "cpu"; None for ordinary memory. Copies are made ahead, on a
            stream of their own, and no GPU is touched before the first pass. docs/gpu.md says more.
        decode: where batches for a device are decoded: on the `cpu`, on the `gpu` from compressed
            bytes, or `auto`, as is faster here; `stats()` says which, and why.
        transform_mode: where your code runs: in a `thread` per worker, each with its own copy of
            it, or in a `process` per worker, for code that holds Python's lock.
        weights: weight of each sample, float[n]: an epoch then draws samples with probabilities in
            these proportions, with replacement.
        num_samples: number of draws in an epoch with `weights`; by default as many as samples.
        shuffle_window: shards whose samples `shuffle="shards"` mixes, 16 by default; or samples
            whose looks are mixed (`Dataset(samples_per_read=)`), 128 by default.
        assign: which rank reads which samples of a global batch: "turns", ranks take turns, or
            "node", each sample goes to the node whose cache is to have it. docs/clusters.md says
            more. The global batch is the same.
        ranks_per_node: ranks on each node, for `assign="node"`; by default the launcher's
            LOCAL_WORLD_SIZE.
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
        shuffle: Shuffle = None,
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
        ragged_as: RaggedAs = "offsets",
        padding_value: PaddingValue = 0,
        keys: bool = True,
        transform_mode: TransformMode = "thread",
        device: str | torch.device | None = None,
        decode: Decode = "auto",
        weights: Any = None,
        num_samples: int | None = None,
        shuffle_window: int | None = None,
        assign: Assign = "turns",
        ranks_per_node: int | None = None,
    ) -> None:
        if isinstance(dataset, (str, os.PathLike)):
            raise ConfigError(
                f"DataLoader takes a dataset, got the {type(dataset).__name__} {dataset!r}",
                hint=f"wrap it: dataplane.Dataset({os.fspath(dataset)!r})",
            )
        # All before torch's constructor, which frameworks watch: they note what is set after it.
        self._view = view_of(dataset)
        self._inner = packed_inside(dataset) if self._view is None else []
        self._is_engine = self._view is not None or bool(self._inner)
        order = OrderArguments(
            shuffle,
            weights,
            num_samples,
            shuffle_window,
            isinstance(dataset, Mix),
            1 if self._view is None else self._view.looks,
            assign,
            ranks_per_node,
        )
        order.check()
        self._check_own_arguments(dataset, (seed, rank, world_size), ragged, transform_mode)
        self._seed = None if seed is None else whole_number("seed", seed)
        self._form = BatchForm(tuple(ragged), RaggedForm.of(ragged_as, padding_value))
        self._keys = keys
        self._mode = transform_mode
        self._device = checked_device(device)
        self._decode = check_decode(self._device, decode)
        if device is not None and not self._is_engine:
            raise ConfigError(
                f"device is for a dataplane.Dataset, this is a {type(dataset).__name__}",
                hint="move its batches yourself: batch.to(device)",
            )
        self._form.check(dataset, self._packed_samples, collate_fn)
        self._native_collate: object = None
        self._shard: Any = None
        self._place_: Place | None = None
        self._begin_anew()
        if not self._is_engine:
            order.check_without_engine(dataset)
        else:
            whole_number("num_workers", num_workers)
            if prefetch_factor is not None:
                whole_number("prefetch_factor", prefetch_factor)
            check_drawn_from(sampler, batch_sampler, generator)
            if seed is not None and generator is not None:
                raise ConfigError(
                    "seed and generator both say how to shuffle", hint="give one of them"
                )
            _keep_from_padding(batch_sampler)
            if sampler is None and batch_sampler is None:
                sampler = EpochSampler(
                    order.rule(dataset, self._view),
                    seed=seed,
                    generator=generator,
                    rank=rank,
                    world_size=world_size,
                    drop_last=drop_last,
                    by_node=order.by_node(_length_of(dataset), self._packed, batch_size or 1),
                    draws=any(one.is_random for one in self._packed),
                )
                shuffle = None
            elif (own := _own_sampler(sampler, batch_sampler)) is not None:
                order.check_beside_own(
                    own, dataset, self._view, seed=self._seed, ranks=(rank, world_size)
                )
            else:
                order.check_beside_sampler()
                if (rank, world_size) != (None, None):
                    raise ConfigError(
                        "rank and world_size do nothing beside a sampler, which is an order itself",
                        hint="leave the sampler out, or use DistributedSampler alone",
                    )
            if collate_fn is None or isinstance(collate_fn, LayoutCollate):
                is_single = batch_size is None and batch_sampler is None
                collate_fn = (
                    default_convert
                    if is_single
                    else self._form.collate(dataset, self._packed_samples)
                )
                self._native_collate = collate_fn
        super().__init__(
            dataset=dataset,
            batch_size=batch_size,
            shuffle=None if shuffle is None else bool(shuffle),
            sampler=sampler,
            batch_sampler=batch_sampler,
            num_workers=num_workers,
            collate_fn=collate_fn,
            pin_memory=pin_memory,
            drop_last=drop_last,
            timeout=timeout,
            worker_init_fn=worker_init_fn,
            multiprocessing_context=multiprocessing_context,
            generator=generator,
            prefetch_factor=prefetch_factor,
            persistent_workers=persistent_workers,
            pin_memory_device=pin_memory_device,
            in_order=in_order,
        )

    def _begin_anew(self) -> None:
        """Forget all passes: a loader that was just made, or copied."""
        self._meter: Meter | None = None
        self._trail: Trail | None = None
        self._ahead: Prefetcher | None = None
        self._workers: Workers | None = None
        self._stateful: Any = None
        self._is_stateful_known = False
        self._is_no_state_told = False
        self._is_quality_told = False

    def __iter__(self) -> Any:
        if not self._is_engine:
            other = self._other()
            return super().__iter__() if other is None else iter(other)
        if self._shard is not None:
            return iter(self._shard)
        return self._begin_pass()

    def _begin_pass(self) -> Pass:
        return Pass(self._begin_run, self._place.is_stale, self._length())

    def __len__(self) -> int:
        if self._is_engine:
            self._place.follow_length(_length_of(self.dataset))
        return super().__len__()

    def _follow_dataset(self) -> None:
        """Take over what the dataset is by now: other indices of a `Subset`, another length.

        Raises:
            ConfigError: indices are no samples by now, or the order cannot follow.
        """
        before = self._view
        if before is not None:
            view = view_of(self.dataset)
            if view is None:
                raise ConfigError(
                    f"the {type(self.dataset).__name__} was changed, and by now has indices that "
                    "are no samples of its dataset",
                    hint="correct its indices, or make another DataLoader",
                )
            self._view = view
        self._place.follow_length(_length_of(self.dataset))
        own = self._place.own
        if (
            before is not None
            and self._view is not None
            and own is not None
            and isinstance(own.rule, Sharded)
            and not self._view.has_samples_of(before)
        ):
            own.rule = Sharded.of(self._view.shards(), own.rule.window)

    def _begin_run(self) -> Run:
        self._follow_dataset()
        device = self._device_batches()
        progress, feed = self._place.begin(
            takes_any_index=self._view is None,
            drop_last=self.drop_last,
            draws=any(dataset.is_random for dataset in self._packed),
        )
        state = progress.start
        self._tell_quality()
        workers = self._make_workers(state)
        draws = Draws(state.seed or 0, state.order_epoch)
        reader = None if self._view is None else ViewReader(self._view, draws)
        reads = reader or InnerReads(self._inner, state.dataset_length, draws)
        size = self.batch_size or getattr(self.batch_sampler, "batch_size", None) or 1
        self._ahead = plan_ahead(reads, feed, size, self._ahead)
        own = self._place.own
        ranks = rank_of_process() if own is None else own.ranks
        view = self._view
        self._trail = None if reader is None or view is None else Trail(view, reader, state, ranks)
        run = Run(
            reader,
            workers,
            feed,
            self._options(state),
            progress=progress,
            ahead=self._ahead,
            device=device,
            trail=self._trail,
        )
        self._meter = run.meter
        return run

    def __repr__(self) -> str:
        if not self._is_engine:
            return super().__repr__()
        own = self._place.own
        how = [f"batch_size={self.batch_size}"] if self.batch_size else []
        if own is None:
            how.append("its order from a sampler")
        else:
            kind = own.rule.kind
            plain = {
                "sequential": "shuffle=False",
                "shuffled": "shuffle=True",
                "shards": f'shuffle="shards", shuffle_quality={own.rule.quality:.2f}',
            }
            how.append(plain.get(kind, f"order={kind}"))
            if own.shuffle and own.seed is not None:
                how.append(f"seed={own.seed}")
            if own.num_replicas > 1:
                how += [f"rank={own.rank}", f"world_size={own.num_replicas}"]
            if own.is_by_node:
                how.append('assign="node"')
        how.append(f"num_workers={self.num_workers}")
        return f"<DataLoader of {self.dataset!r}, {', '.join(how)}>"

    def __getstate__(self) -> dict[str, Any]:
        # What is of a pass is not of a copy; nor are locks and threads.
        state = self.__dict__.copy()
        for name in ("_meter", "_trail", "_ahead", "_workers", "_stateful", "_shard"):
            del state[name]
        state["_place_"] = self._place.carried
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _place_=None, _shard=None)
        self._begin_anew()
        self._place.carried = state["_place_"]

    @property
    def ragged_as(self) -> RaggedAs:
        """What arrays are whose first extent varies, as the loader was told."""
        return self._form.form.kind

    @property
    def shuffle_quality(self) -> float | None:
        """Quality of the shuffle, from 0 (the order of the dataset) to 1 (a full shuffle).

        It is 1 but for `shuffle="shards"`: there it is the probability that two samples that are
        mixed with each other are of different shards, divided by that of any two samples. None
        where the order is not the loader's own.
        """
        own = self._place.own if self._is_engine else None
        return None if own is None else own.rule.quality

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
        the same on all ranks. For a dataset without packed samples it is torchdata's, and empty
        where that is not installed.

        Raises:
            ConfigError: batches came out of order, and some are still to come before others.
        """
        if not self._is_engine:
            other = self._other()
            if other is None:
                self._warn_of_no_state()
                return {}
            return dict(other.state_dict())
        if self._shard is not None and self._shard.dl_state_dict is not None:
            return dict(self._shard.dl_state_dict)  # Accelerate's loop is a batch ahead
        if not self._place.is_in_pass:
            self._follow_dataset()
        return self._place.as_dict()

    def load_state_dict(self, state_dict: Mapping[str, object]) -> None:
        """Let the next pass resume where `state_dict` was taken.

        World size, batch size and number of workers may differ from those of the saved run, with
        the loader's own order. A sampler of yours must give the same indices again, or is refused
        when the pass begins.

        Raises:
            ConfigError: it is no state, or that of another dataset, seed or kind of order.
            MissingPackage: it is torchdata's, which is not installed.
        """
        if self._is_engine:
            if self._shard is not None:
                self._shard.dl_state_dict = None
            self._follow_dataset()
            self._place.load(state_dict)
            return
        other = self._other()
        if other is not None:
            other.load_state_dict(dict(state_dict))
        elif state_dict:
            raise MissingPackage(
                "the state of a dataset without packed samples is torchdata's, which is not "
                "installed",
                hint="pip install torchdata",
            )

    def provenance(self, batch: object = None) -> StepProvenance:
        """Return where the batch comes from that was yielded last: samples, draws, bytes.

        It costs microseconds; what costs more is found out by its `keys` and `as_dict()`.

        Args:
            batch: one of the latest batches, where a framework looks ahead; it is known by its
                `"__key__"`.

        Raises:
            LoaderError: no batch was yielded yet, or `batch` is none of the latest.
            ConfigError: samples come from code of yours, which may read what it likes.

        Example:
            >>> for batch in loader:  # doctest: +SKIP
            ...     print(json.dumps(loader.provenance().as_dict()), file=log)
        """
        self._check_provenance()
        if self._shard is not None and batch is None:
            raise ConfigError(
                "Accelerate's loop is a batch ahead of yours",
                hint="say which batch it is: loader.provenance(batch)",
            )
        if self._trail is None:
            raise LoaderError("no batch was yielded yet, so none has a provenance")
        return self._trail.step(batch)

    def provenance_of_epoch(self, epoch: int, *, first: int = 0) -> Iterator[StepProvenance]:
        """Yield where each batch of an epoch comes from, as planned; no byte of a sample is read.

        It is that of the epoch from its beginning. Samples that are left out or replaced since they
        cannot be read are not known beforehand.

        Args:
            epoch: epoch.
            first: step to begin with.

        Raises:
            ConfigError: as `provenance`; the order is a sampler's; or its seed is not known.
        """
        self._check_provenance()
        assert self._view is not None
        order, seed = self._place.order_of(epoch, draws=self._view.is_random)
        return steps_of_epoch(self._view, order, epoch, seed, first)

    def _check_provenance(self) -> None:
        if not self._is_engine or self._view is None:
            raise ConfigError(
                f"the samples come from a {type(self.dataset).__name__}, whose code may read what "
                "it likes: where they come from is not known",
                hint="read a dataplane.Dataset, or a Subset, ConcatDataset or mix of such",
            )
        if any(
            one.transform is not None and one.transform_errors != "raise" for one in self._packed
        ):
            raise ConfigError(
                "transform_errors leaves out or replaces samples in the workers: which ones a "
                "batch is of is not known",
                hint='leave it at "raise"',
            )

    def parts_behind(self) -> list[int] | None:
        """Return which tile of its sample, or look at it, each of the latest batch is, or None."""
        return None if self._trail is None else self._trail.parts

    def looks_behind(self, state_dict: Mapping[str, object]) -> Sequence[int] | None:
        """Return what tells the samples of a batch apart from their repetitions in the epoch.

        Args:
            state_dict: state before the batch, with the seed of its pass.

        Returns:
            The look of each sample, with the loader's own order; None where none comes twice.
        """
        return self._place.looks_behind(state_dict)

    @property
    def use_stateful_dataloader(self) -> bool:
        """Whether the loader has a state of its own, as Accelerate asks."""
        return self._is_engine

    @property
    def _is_accelerate_prepared(self) -> bool:
        """What Accelerate's `prepare` asks: see `accelerate_shard.py`."""
        own = self._place.own if self._is_engine else None
        if own is None or not has_accelerator():
            return False
        if self._shard is None:
            place = self._place
            own.is_by_batch = True  # as its own samplers deal, which `gather_for_metrics` relies on
            self.__dict__["_shard"] = make_shard(
                self,
                self._begin_pass,
                place.as_dict,
                lambda: own.num_replicas,
            )
        return True

    @_is_accelerate_prepared.setter
    def _is_accelerate_prepared(self, value: bool) -> None:
        """Take what `prepare` sets, which is known already."""

    def stats(self) -> LoaderStats:
        """Return what the latest pass did so far and which stage it waited for.

        Raises:
            ConfigError: the dataset has no packed samples, or nothing was read yet.
        """
        if not self._is_engine:
            raise ConfigError(
                f"stats needs a dataplane.Dataset, this is a {type(self.dataset).__name__}"
            )
        if self._meter is None:
            raise ConfigError("there are no statistics before the first pass")
        return self._meter.snapshot()

    def check_worker_number_rationality(self) -> None:
        """Warn of more worker processes than cores, as torch does; threads are not processes."""
        if not self._is_engine or self.num_workers > MAX_DECODE_THREADS:
            super().check_worker_number_rationality()

    @property
    def _place(self) -> Place:
        place = self._place_
        if place is None:
            place = self.__dict__["_place_"] = Place(
                self.sampler,
                self.batch_sampler,
                generator=self.generator,
                seed=self._seed,
                length=_length_of(self.dataset) if self._is_engine else 0,
                identity=functools.partial(_identity_of, self.dataset),
            )
        return place

    def _other(self) -> Any:
        """Return torchdata's loader for a dataset without packed samples, or None."""
        if not self._is_stateful_known:
            self.__dict__["_stateful"] = stateful_loader(self)
            self.__dict__["_is_stateful_known"] = True
        return self._stateful

    @property
    def _runs_user_code(self) -> bool:
        """Whether code of the user's makes samples or batches, and not decoding alone."""
        is_native = self._view is not None and self.collate_fn is self._native_collate
        return not is_native or self._packed_samples.has_transform

    @property
    def _packed_samples(self) -> PackedSamples:
        return PackedSamples(self._view, self._inner)

    @property
    def _packed(self) -> Sequence[Dataset]:
        """Packed datasets that samples come from."""
        return self._packed_samples.datasets

    @property
    def _is_single(self) -> bool:
        return self.batch_size is None and self.batch_sampler is None

    def _options(self, state: LoaderState) -> PassOptions:
        pin = self.pin_memory and self._device is None  # what goes to a device goes pinned
        if pin and not torch.accelerator.is_available():
            warnings.warn(
                "pin_memory is set, but there is no accelerator: batches are not pinned",
                stacklevel=users_stacklevel(),
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
            ragged=self._ragged_as_asked(),
            first=state.samples_consumed // world_size,
        )

    def _make_workers(self, state: LoaderState) -> Sequence[BatchWorker]:
        """Return the workers of a pass; none where decoding makes the batches."""
        if not self._runs_user_code:
            return []
        setup = WorkerSetup(
            id=None,
            num_workers=self.num_workers,
            seed=state.seed or 0,
            epoch=state.order_epoch,
            single=self._is_single,
            is_packed=self._view is not None,
            repeats=state.order == "sampler",
            keys=self._keys,
        )
        collate = self.collate_fn
        if collate is self._native_collate and not self._is_single:
            # A transform may have come or gone.
            collate = self._form.collate(self.dataset, self._packed_samples)
        # Workers make batches with offsets, which `Work` puts into their form.
        collate, collate_bulk = map(
            with_offsets, (collate, self._form.collate_samples(self._packed_samples))
        )
        code = UserCode(self.dataset, collate, collate_bulk, self.worker_init_fn)
        if self._workers is None:
            self._workers = Workers(self._mode, persistent=self.persistent_workers)
        return self._workers.make(code, setup)

    def _device_batches(self) -> DeviceBatches | None:
        """Return what makes the batches of a pass on the loader's device, if it has one."""
        if self._device is None:
            return None
        needs_cpu = ""
        if self._runs_user_code:
            needs_cpu = "transforms, collate_fn and datasets of your own run on the CPU"
        elif self._is_single:
            needs_cpu = "single samples (batch_size=None) are decoded on the CPU"
        return DeviceBatches(
            self._device,
            self._decode,
            threads=decode_threads(self.num_workers),
            needs_cpu=needs_cpu,
            ragged=self._ragged_as_asked(),
        )

    def _ragged_as_asked(self) -> RaggedForm | None:
        """Return what ragged arrays become in the batches of a pass.

        Raises:
            ConfigError: a `collate_fn` of the user's was set, which makes the batches itself.
        """
        if self._form.form.kind == "offsets":
            return None
        packed = self._packed_samples
        if self.collate_fn is not self._native_collate:
            self._form.check(self.dataset, packed, self.collate_fn)
        if not self._runs_user_code:
            assert self._view is not None
            return self._form.of(LayoutCollate.of(self._view.layouts))
        if self._is_single:  # of a list of indices in the place of one
            return self._form.of(self._form.collate_samples(packed))
        return self._form.of(self._form.collate(self.dataset, packed))

    def _tell_quality(self) -> None:
        """Log at the first pass how near a shuffle by shards is to a full one."""
        own = self._place.own
        if own is not None and isinstance(own.rule, Sharded) and not self._is_quality_told:
            self._is_quality_told = True
            logger.info(
                'shuffle="shards": quality %.2f (1.00 is a full shuffle), %d samples of %d shards, '
                "mixed by %d shards",
                own.rule.quality,
                own.rule.length,
                own.rule.shards,
                own.rule.window,
            )

    def _warn_of_no_state(self) -> None:
        if not self._is_no_state_told:
            self._is_no_state_told = True
            warnings.warn(
                f"the place in a {type(self.dataset).__name__} is not saved: it has no packed "
                "samples, and torchdata, which would know it, is not installed",
                stacklevel=users_stacklevel(),
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
        if not isinstance(ragged, Collection) or not all(isinstance(one, str) for one in ragged):
            raise ConfigError(f"ragged must be a list of names of arrays, got {ragged!r:.60}")
        if not self._is_engine and ranks != (None, None, None):
            raise ConfigError(
                f"seed, rank and world_size are for a dataplane.Dataset, "
                f"this is a {type(dataset).__name__}",
                hint="use generator= and torch.utils.data.DistributedSampler",
            )


def _length_of(dataset: Any) -> int:
    """Return the length of a dataset; 0 where it has none, and a sampler says all."""
    return len(dataset) if hasattr(dataset, "__len__") else 0


def _own_sampler(sampler: object, batch_sampler: object) -> EpochSampler | None:
    """Return the sampler of another loader that these are, or are made of."""
    for given in (sampler, getattr(batch_sampler, "sampler", None)):
        if isinstance(given, EpochSampler):
            return given
    return None


def _keep_from_padding(batch_sampler: Any) -> None:
    """Have Lightning's batch sampler for predictions, around ours, give each sample once."""
    if type(batch_sampler).__name__ != "_IndexBatchSamplerWrapper":
        return
    inner: Any = getattr(batch_sampler, "_batch_sampler", None)
    if isinstance(getattr(inner, "sampler", None), EpochSampler):
        inner.sampler = inner.sampler.without_padding()


def _identity_of(dataset: object) -> str:
    view = view_of(dataset)
    if view is not None:
        return view.identity
    parts = sorted(one.identity for one in packed_inside(dataset))
    return f"{type(dataset).__qualname__}({', '.join(parts)})"
