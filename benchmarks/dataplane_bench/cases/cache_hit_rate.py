"""Hit rates of a shuffled epoch when the cache has space for a fraction c of the dataset.

Each epoch reads every block once in a new order. With a plan the cache should serve c of it, which
is the optimum: of a random order nothing better can be kept. Without a plan it evicts the least
recently used blocks, which come last in the next epoch too seldom: the share of an ideal LRU cache,
counted by a model that keeps the same orders in an ordered dictionary, is shown beside it.

The first epoch fills the cache and is not counted. Blocks are small, so that an epoch is quick; the
rates do not depend on their size. The store is a folder, and the requests to it are counted.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np

from dataplane.cache import Cache, CacheConfig, CachedObject, PlannedRead
from dataplane.cache.disk.entry_identity import map_disk_bytes
from dataplane.stores import open_store
from dataplane.stores.base import ObjectInfo, Store
from dataplane_bench.model import CEILING_PREFIX, OUR_SYSTEM, Figure, figure

__all__ = ["hit_rates"]

_BLOCK_BYTES = 4096
_OBJECTS = 4
_STEP_S = 0.001  # a training step; a reader that does nothing else asks before its plan has come by
_QUANTITY = "hit rate of shuffled epochs with room for a share of the dataset"
_Place = tuple[int, int]  # object, block


def hit_rates(
    folder: Path,
    *,
    shares: Sequence[float],
    blocks: int,
    epochs: int,
    seed: int,
    progress: Callable[[str], None],
) -> list[Figure]:
    """Measure each share with a plan and without, beside an ideal LRU cache and the optimum.

    Args:
        folder: folder of the dataset and the cache directories.
        shares: fractions of the dataset, each the budget of one comparison.
        blocks: number of blocks of the dataset.
        epochs: number of counted epochs.
        seed: seed of the orders.
        progress: function that is called with the measurement under way.
    """
    each = max(1, blocks // _OBJECTS)
    table = ("cache", f"{_OBJECTS * each} blocks", _QUANTITY, "room for")
    figures = []
    with ExitStack() as stack:
        data = Path(tempfile.mkdtemp(dir=folder, prefix="dataset-"))
        stack.callback(shutil.rmtree, data)
        store = stack.enter_context(closing(open_store(data.absolute().as_uri())))
        random_ = np.random.default_rng(seed)
        infos = [
            store.put(f"object{number}", random_.bytes(each * _BLOCK_BYTES))
            for number in range(_OBJECTS)
        ]
        for share in shares:
            progress(f"epochs with room for {share:g}")
            room = round(share * _OBJECTS * each)
            measured: dict[str, list[float]] = {OUR_SYSTEM: [], "dataplane without a plan": []}
            for name, read in zip(measured, (_read_planned, _read_unplanned), strict=True):
                orders = _orders(each, epochs, seed)
                measured[name] = _measured(folder, store, infos, room, orders=orders, read=read)
            measured["ideal LRU"] = _ideal_lru(_orders(each, epochs, seed), room)
            measured[f"{CEILING_PREFIX}optimum"] = [room / (_OBJECTS * each)]
            figures += [
                figure(table, name, share, "share", rates) for name, rates in measured.items()
            ]
    return figures


def _orders(each: int, epochs: int, seed: int) -> Iterator[list[_Place]]:
    """Yield the orders of all epochs, of the one that fills the cache first."""
    dice = random.Random(seed)
    order = [(number, block) for number in range(_OBJECTS) for block in range(each)]
    for _ in range(epochs + 1):
        dice.shuffle(order)
        yield list(order)


def _ideal_lru(orders: Iterable[list[_Place]], room: int) -> list[float]:
    """Count the hits of a cache that evicts exactly the least recently used block."""
    kept: OrderedDict[_Place, None] = OrderedDict()
    rates = []
    for order in orders:
        hits = 0
        for place in order:
            hits += place in kept
            kept[place] = None
            kept.move_to_end(place)
            if len(kept) > room:
                kept.popitem(last=False)
        rates.append(hits / len(order))
    return rates[1:]


def _measured(
    folder: Path,
    store: Store,
    infos: Sequence[ObjectInfo],
    room: int,
    *,
    orders: Iterable[list[_Place]],
    read: Callable[[Cache, Sequence[PlannedRead]], None],
) -> list[float]:
    """Return the share of each epoch, but for the first, that the store was not asked for."""
    each = infos[0].size_bytes // _BLOCK_BYTES
    size_bytes = room * _BLOCK_BYTES + _OBJECTS * map_disk_bytes(each)
    directory = Path(tempfile.mkdtemp(dir=folder, prefix="rate-"))
    config = CacheConfig(dir=directory, block_bytes=_BLOCK_BYTES, size_bytes=size_bytes)
    rates = []
    try:
        with Cache(config) as cache:
            blobs = [cache.open(store, info) for info in infos]
            for order in orders:
                before = _from_store(cache)
                read(cache, [_planned(blobs[i], block, n) for n, (i, block) in enumerate(order)])
                asked = _from_store(cache) - before
                rates.append(1 - asked / (len(order) * _BLOCK_BYTES))
    finally:
        shutil.rmtree(directory)
    return rates[1:]


def _planned(blob: CachedObject, block: int, step: int) -> PlannedRead:
    return PlannedRead(blob, block * _BLOCK_BYTES, (block + 1) * _BLOCK_BYTES, step)


def _read_planned(cache: Cache, reads: Sequence[PlannedRead]) -> None:
    with cache.plan(reads) as ahead:
        for read in reads:
            time.sleep(_STEP_S)
            read.source.read(read.start, read.stop)
            ahead.advance(read.step + 1)


def _read_unplanned(cache: Cache, reads: Sequence[PlannedRead]) -> None:
    del cache
    for read in reads:
        read.source.read(read.start, read.stop)


def _from_store(cache: Cache) -> int:
    counters = cache.counters
    return int(counters["cache_fetch_bytes"] + counters["cache_passthrough_bytes"])
