"""Prediction of a training run: the dataset's real order and plans, simulated on one host.

`predict` opens the dataset (its index alone is read), makes the orders of the ranks of one host,
and runs the simulator over them, from an empty cache. Where a run is too large, samples are left
out in whole groups, with the cache made smaller in proportion, and epochs behind the point where
nothing changes any more are taken to be like the last one; `Prediction.notes` says so.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from dataplane.cache import Cache, CacheConfig
from dataplane.cache.admin import (
    MIN_JOBS_PER_THREAD,
    REQUESTS_PER_THREAD,
    SHARED_BYTES,
    used_bytes,
)
from dataplane.datasets.dataset import Dataset
from dataplane.datasets.selections import Selection
from dataplane.datasets.views import view_of
from dataplane.errors import ConfigError
from dataplane.loader.known_batches import KnownOrder
from dataplane.loader.order_arguments import OrderArguments
from dataplane.loader.prefetcher import BATCHES_AHEAD
from dataplane.loader.stages import MAX_READ_THREADS, READ_AHEAD
from dataplane.planning.batches import StagePolicy
from dataplane.planning.blocks import BlockTable
from dataplane.planning.decode_rate import measure_decode_rate
from dataplane.planning.downloads import DownloadPolicy
from dataplane.planning.memory import MemoryEstimate, estimate_memory
from dataplane.planning.reads import DatasetReads, coarsen, mean_sizes
from dataplane.planning.settings import RunSettings
from dataplane.planning.simulator import EpochFigures, HostSimulator, Setup
from dataplane.planning.window import WindowPolicy
from dataplane.shards import INDEX_KEY
from dataplane.stores import StoreConfig, open_store
from dataplane.units import format_bytes

__all__ = ["Prediction", "predict"]

Arrays: TypeAlias = Sequence[str] | Mapping[str, Selection] | None

_SAME = 0.01  # epochs that differ by less are alike
_ALIKE = 3  # so many of them, one after another, and the others are not simulated


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What a run comes to.

    Attributes:
        url: dataset.
        samples: samples of an epoch, as the dataset counts them.
        stored_bytes: bytes of its shards.
        index_bytes: bytes of its index, which each host downloads once.
        index_requests: requests for it.
        epochs: figures of one host, by epoch; the last is repeated where not all were simulated.
        scale: what bytes, requests and times were multiplied by, of a coarsened run.
        settings: settings of the run; with the decode rate that was measured.
        arrays: arrays that it reads by name, and the text of the selection of each.
        limit_bytes: budget of the cache of a host.
        resident_bytes: bytes of the dataset that are in it at the end.
        connections: requests of a host at once.
        memory: memory of a process.
        notes: what was left out or assumed.
    """

    url: str
    samples: int
    stored_bytes: int
    index_bytes: int
    index_requests: int
    epochs: Sequence[EpochFigures]
    scale: float
    settings: RunSettings
    arrays: Mapping[str, str]
    limit_bytes: int
    resident_bytes: int
    connections: int
    memory: MemoryEstimate
    notes: Sequence[str]

    @property
    def fetched_bytes(self) -> int:
        """Bytes that all hosts download, with the index."""
        of_host = sum(one.fetched_bytes for one in self.epochs) + self.index_bytes
        return of_host * self.settings.hosts

    @property
    def requests(self) -> int:
        """Requests of all hosts, with those for the index."""
        of_host = sum(one.requests for one in self.epochs) + self.index_requests
        return of_host * self.settings.hosts

    @property
    def elapsed_s(self) -> float:
        """Time of all epochs."""
        return sum(one.elapsed_s for one in self.epochs)

    @property
    def cost(self) -> float | None:
        """What the store charges for it; None without prices."""
        return self.settings.prices.of(self.fetched_bytes, self.requests)

    def required_bytes_per_s(self, epoch: EpochFigures) -> float:
        """Return the bandwidth that a host needs in an epoch, for its loops not to wait."""
        compute_s = epoch.steps * self.settings.step_s
        return epoch.fetched_bytes / compute_s if compute_s else float("inf")

    def available_bytes_per_s(self, epoch: EpochFigures) -> float:
        """Return the bandwidth that a host can have, with requests of the length they have."""
        mean = epoch.fetched_bytes / epoch.requests if epoch.requests else 0.0
        return self.settings.network.available(self.connections, mean)


def predict(
    url: str,
    settings: RunSettings,
    arrays: Arrays = None,
    *,
    store: StoreConfig | None = None,
    opening: AbstractContextManager[object] | None = None,
) -> Prediction:
    """Predict a run over a packed dataset.

    Args:
        url: URL of the dataset.
        settings: settings of the run.
        arrays: as of `Dataset`.
        store: configuration of the store.
        opening: what is entered while the index is downloaded, and left before anything is
            computed.

    Raises:
        ConfigError: arguments contradict each other, or do not fit the dataset.
        NotFound: there is nothing at `url`.
        FormatError: it is no packed dataset.
    """
    with tempfile.TemporaryDirectory(prefix="dataplane-plan-") as folder:
        # The directory is used for the index alone: no shard is read, unless decoding is measured.
        config = replace(
            settings.cache, dir=Path(folder) / "cache", size_bytes=None, encrypt=False,
            key_file=None, sharing="private",
        )  # fmt: skip
        with opening or contextlib.nullcontext():
            dataset = Dataset(
                url, arrays, cache=config, store=store, samples_per_read=settings.samples_per_read
            )
        with dataset:
            try:
                return _predict(dataset, settings, _index_bytes(url, store))
            finally:
                cache = dataset.reader().runtime.cache
                assert cache is not None
                cache.close()


def _index_bytes(url: str, store: StoreConfig | None) -> int:
    with contextlib.closing(open_store(url, store)) as opened:
        return opened.head(INDEX_KEY).size_bytes


def _predict(dataset: Dataset, settings: RunSettings, index_bytes: int) -> Prediction:
    if not len(dataset):
        raise ConfigError(f"there are no samples in {dataset.url}")
    process_bytes = MemoryEstimate.of_this_process()
    if settings.decode_bytes_per_s is None:
        rate = measure_decode_rate(dataset, settings.workers, settings.batch_size)
        settings = replace(settings, decode_bytes_per_s=rate)
    orders = _orders(dataset, settings)
    config = settings.cache.for_parts() if dataset.reads_parts else settings.cache
    reader = dataset.reader()
    packed = mean_sizes(reader)[1]
    sample_blocks = 1 + packed / config.block_bytes
    uses = sum(order.count() for order in orders) * sample_blocks * settings.epochs
    coarsening = coarsen(dataset.numbering.samples, uses, settings.most_uses, sample_blocks)
    table = BlockTable()
    reads = DatasetReads(dataset, orders, settings.seed, table, coarsening)
    limit_bytes = settings.cache.size_bytes
    if limit_bytes is None:
        limit_bytes = _disk_limit(settings.cache)
    lengths = _block_lengths(index_bytes, settings.cache.block_bytes)
    setup = _setup(settings, config, limit_bytes, reader.mean_sample_bytes)
    simulated = replace(
        setup,
        limit_bytes=limit_bytes // coarsening.stride,
        foreign=lengths if coarsening.stride == 1 else (),
    )
    simulator = HostSimulator(
        simulated, table, ranks=len(orders), epochs=settings.epochs, reads_of=reads.of
    )
    done = simulator.run(_is_steady if settings.epochs > _ALIKE else None)
    notes = list(_notes(settings, coarsening.stride, coarsening.group, len(done)))
    # A batch may be asked for that is larger than all samples of a rank.
    batch = min(settings.batch_size, max(order.count() for order in orders))
    steps = -(-orders[0].count() // settings.batch_size)
    notes += _window_notes(setup, config, packed * batch, steps)
    scale = _scale(orders, settings, done, coarsening.stride)
    epochs = [_scaled(one, scale) for one in done]
    epochs += [_later(epochs[-1], epoch) for epoch in range(len(done), settings.epochs)]
    memory = estimate_memory(
        process_bytes,
        setup,
        block_bytes=config.block_bytes,
        held_bytes=max(window.peak_held_bytes for window in simulator.windows),
        packed_bytes=packed * batch,
        decoded_bytes=mean_sizes(reader)[0] * batch,
        steps=steps,
    )
    connections = setup.downloads.threads * settings.host_ranks
    return Prediction(
        url=dataset.url,
        samples=len(dataset),
        stored_bytes=reader.runtime.stored_bytes,
        index_bytes=index_bytes,
        index_requests=len(lengths),
        epochs=epochs,
        scale=scale,
        settings=settings,
        arrays={name: repr(one) for name, one in dataset.selections.items()},
        limit_bytes=limit_bytes,
        resident_bytes=round(simulator.disk.resident_bytes * coarsening.stride),
        connections=min(connections, config.host_requests or connections),
        memory=memory,
        notes=notes,
    )


def _orders(dataset: Dataset, settings: RunSettings) -> list[KnownOrder]:
    """Return the orders of the ranks of the first host."""
    arguments = OrderArguments(
        settings.shuffle,
        window=settings.shuffle_window,
        looks=settings.samples_per_read,
        assign=settings.assign,
    )
    arguments.check()
    rule = arguments.rule(dataset, view_of(dataset))
    by_node = arguments.by_node(len(dataset), [dataset], settings.batch_size)
    return [
        KnownOrder(
            rule=rule,
            seed=settings.seed if rule.is_drawn else 0,
            rank=rank,
            world_size=settings.ranks,
            batch_size=settings.batch_size,
            drop_last=settings.drop_last,
            nodes=None if by_node is None else by_node.of_nodes(settings.hosts),
        )
        for rank in range(settings.host_ranks)
    ]


def _setup(settings: RunSettings, config: CacheConfig, limit_bytes: int, mean_bytes: int) -> Setup:
    """Return what is simulated, as loader and cache would be set up."""
    request_bytes = _request_bytes(config)
    window = max(config.prefetch_window_bytes, BATCHES_AHEAD * settings.batch_size * mean_bytes)
    if config.size_bytes is not None:
        window = min(window, config.size_bytes // 2)
    read_threads = min(1 + settings.workers // 4, MAX_READ_THREADS)
    return Setup(
        network=settings.network,
        downloads=DownloadPolicy(
            threads=config.fetch_threads,
            host_requests=config.host_requests,
            request_blocks=request_bytes // config.block_bytes,
            shared_blocks=SHARED_BYTES // config.block_bytes,
        ),
        window=WindowPolicy(
            window_bytes=window,
            next_epoch_bytes=config.next_epoch_bytes,
            memory_bytes=config.prefetch_memory_bytes,
            least_jobs=MIN_JOBS_PER_THREAD * config.fetch_threads,
            most_job_bytes=REQUESTS_PER_THREAD * request_bytes * config.fetch_threads,
        ),
        stages=StagePolicy(
            read_threads=read_threads,
            read_capacity=READ_AHEAD + read_threads - 1,
            decode_capacity=max(settings.prefetch_factor, 1),
            decodes_inline=settings.workers == 0,
            decode_bytes_per_s=settings.decode_bytes_per_s,
        ),
        step_s=settings.step_s,
        limit_bytes=limit_bytes,
    )


def _request_bytes(config: CacheConfig) -> int:
    with Cache(config) as cache:  # attaches to its directory when it is first used, which it is not
        return cache.request_bytes


def _disk_limit(config: CacheConfig) -> int:
    """Return what a cache without a budget may take: it leaves a tenth of the disk free."""
    there = next(path for path in (config.dir, *config.dir.parents) if path.exists())
    usage = shutil.disk_usage(there)
    return max(0, usage.free - usage.total // 10 + used_bytes(config))


def _block_lengths(size_bytes: int, block_bytes: int) -> list[int]:
    whole, rest = divmod(size_bytes, block_bytes)
    return [block_bytes] * whole + [rest] * (rest > 0)


def _is_steady(done: list[EpochFigures]) -> bool:
    """Whether the last epochs are alike, so that those to come will be, too."""
    last = done[-_ALIKE:]
    if len(done) <= _ALIKE:
        return False
    return all(
        abs(one.fetched_bytes - other.fetched_bytes) <= _SAME * max(other.needed_bytes, 1)
        and abs(one.elapsed_s - other.elapsed_s) <= _SAME * other.elapsed_s
        for one, other in itertools.pairwise(last)
    )


def _scale(
    orders: Sequence[KnownOrder], settings: RunSettings, done: Sequence[EpochFigures], stride: int
) -> float:
    """Return what to multiply the figures of a coarsened run by: its share of all steps."""
    if stride == 1 or not done[0].steps:
        return 1.0
    return orders[0].count() / settings.batch_size / done[0].steps


def _scaled(one: EpochFigures, scale: float) -> EpochFigures:
    if scale == 1.0:
        return one
    steady_s = one.elapsed_s - one.first_batch_s
    return replace(
        one,
        steps=round(one.steps * scale),
        elapsed_s=one.first_batch_s + steady_s * scale,
        wait_s=one.first_batch_s + (one.wait_s - one.first_batch_s) * scale,
        needed_bytes=round(one.needed_bytes * scale),
        missed_bytes=round(one.missed_bytes * scale),
        fetched_bytes=round(one.fetched_bytes * scale),
        again_bytes=round(one.again_bytes * scale),
        requests=round(one.requests * scale),
        waits=[
            replace(wait, step=round(wait.step * scale), stands_for=scale if wait.step else 1.0)
            for wait in one.waits
        ],
    )


def _later(one: EpochFigures, epoch: int) -> EpochFigures:
    return replace(one, epoch=epoch)


def _window_notes(setup: Setup, config: CacheConfig, batch_bytes: float, steps: int) -> list[str]:
    """Say so where a loader reads further ahead than its plan."""
    stages, window = setup.stages, setup.window.window_bytes
    ahead = min(stages.read_capacity + stages.read_threads + stages.decode_capacity + 1, steps)
    batches = window / batch_bytes if batch_bytes else ahead
    if batches >= ahead:
        return []
    is_half = config.size_bytes is not None and window == config.size_bytes // 2
    why = "a window is half of the cache at most" if is_half else "DATAPLANE_PREFETCH_WINDOW"
    return [
        f"the window of {format_bytes(window)} has room for {batches:.1f} batches, and the loader "
        f"reads up to {ahead} ahead: more may be downloaded than is predicted ({why})"
    ]


def _notes(settings: RunSettings, stride: int, group: int, simulated: int) -> list[str]:
    notes = ["the cache is empty at first, and nothing else uses it, the disk or the network"]
    if stride > 1:
        notes.append(
            f"coarsened: of every {stride} groups of {group} samples one was simulated, with a "
            f"cache of 1/{stride}, and its figures were scaled up; the waits that are listed are a "
            "sample of all (--most-uses sets how many uses of blocks are simulated)"
        )
    if simulated < settings.epochs:
        notes.append(
            f"epochs {simulated} to {settings.epochs - 1} are taken to be like epoch "
            f"{simulated - 1}: the {_ALIKE} before them are within {_SAME:.0%} of each other"
        )
    if settings.hosts > 1:
        turns = settings.assign == "turns"
        notes.append(
            f"one of {settings.hosts} hosts was simulated; the others are taken to be like it"
            + (', and ranks to take turns (with assign="node" more is hit)' if turns else "")
        )
    return notes
