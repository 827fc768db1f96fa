"""`Dataset`: a packed dataset as a map-style torch dataset; without torch, of NumPy arrays.

It loads the index once and nothing else until a sample is asked for; store and cache are opened in
the process that reads, so a dataset can be pickled to workers and inherited by a fork. Used with
`dataplane.DataLoader` its samples are decoded into batches by native threads; it works in torch's
own `DataLoader` too, with worker processes, where each worker reads through the same cache.

Without torch, `numpy(i)` reads samples and all but tensors works.

Thread-safe. The order is in `order.py`, batches in `batch.py`, the error policy in `reader.py`.
"""

from __future__ import annotations

import hashlib
import operator
import os
import sys
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import NoneType, TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias, TypeVar, cast

from dataplane.cache import CacheConfig, CacheWarning
from dataplane.cache.admin import is_news, unusable_warning
from dataplane.config import assemble
from dataplane.datasets.array_forms import Permuted, asks_what_was_permuted
from dataplane.datasets.draws import GivenDraw, checked_draw, current_draws, looks_here
from dataplane.datasets.identity import identity_of
from dataplane.datasets.layout import (
    ArrayLayout,
    ArraysArgument,
    find_layouts,
    resolve_selections,
)
from dataplane.datasets.looks import Looked
from dataplane.datasets.plan import Planner
from dataplane.datasets.reader import SAMPLE_ERRORS, ErrorPolicy, SampleReader, check_policy
from dataplane.datasets.runtime import Runtime, cached_reader, describe_shards
from dataplane.datasets.samples import KEY, ArraySample, separate_arrays
from dataplane.datasets.selections import Selection, Whole, as_count, is_tiled
from dataplane.datasets.tiling import number_samples
from dataplane.errors import ConfigError, DataplaneError, MissingPackage, NotFound, StoreError
from dataplane.extras import install_hint
from dataplane.shards import DatasetIndex
from dataplane.stores import open_store
from dataplane.stores.base import ObjectInfo, StoreConfig
from dataplane.telemetry import Counters

if TYPE_CHECKING:
    import torch.utils.data

    from dataplane.datasets.batch import Sample

    _MapDataset = torch.utils.data.Dataset[Sample]
else:
    try:
        from torch.utils.data import Dataset as _MapDataset
    except ModuleNotFoundError as err:
        if err.name != "torch":
            raise
        _MapDataset = object

__all__ = ["CacheArgument", "Dataset", "Transform"]

CacheArgument: TypeAlias = "CacheConfig | str | os.PathLike[str] | bool | None"
Transform: TypeAlias = "Callable[[Sample], object]"

T = TypeVar("T")

_SHOWN_ARRAYS = 8
MOST_THREADS = 4
"""Native threads for samples read outside a loader; a loader says how many it wants."""


class OpenedReader:
    """The reader of a dataset in this process. Thread-safe; a pickle of it is empty."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reader: SampleReader | None = None

    def get(self, make: Callable[[], SampleReader]) -> SampleReader:
        """Return the reader, made by `make` where this process has none."""
        with self._lock:
            reader = self._reader
            if reader is None or reader.runtime.pid != os.getpid():
                reader = self._reader = make()
            return reader

    def close(self) -> None:
        """Drop its connections and open files. Idempotent."""
        with self._lock:
            reader, self._reader = self._reader, None
        if reader is not None:
            reader.runtime.close()

    def __reduce__(self) -> tuple[object, ...]:
        return (OpenedReader, ())


class Dataset(_MapDataset):
    """The samples of a packed dataset, by number.

    A sample is a dict from array name to CPU tensor, plus `"__key__"`. Indices may be negative.
    Tensors need torch; `numpy(i)` gives a sample as NumPy arrays, and does not.

    Args:
        url: URL of the dataset: `s3://bucket/cars`, `file:///data/cars`, a path, …
        arrays: names of the arrays to read, or a selection by name (`whole`, `crop`, `points`,
            `rows`, `steps`, or your own `Selection`); every sample must have them. By default a
            sample is all the arrays that it has.
        transform: function called with each sample; what it returns takes the sample's place.
        cache: a `CacheConfig`, a directory, or False for none; by default the user's cache.
        store: configuration of the store; by default from the environment and configuration file.
        errors: policy for corrupt or missing samples: `raise`, `skip` (in batches; a single
            index still raises) or `replace` by the next sample.
        transform_errors: policy for samples whose transform raises, in a `DataLoader`; likewise.
        samples_per_read: looks at each sample, which random selections make different: the dataset
            is as many times as long, with those of a sample next to each other. A `DataLoader`
            that shuffles spreads them (docs/partial-reads.md).

    Raises:
        ConfigError: an argument cannot be used; an unknown array comes with similar names.
        NotFound: there is nothing at `url`.
        FormatError: what is there is not a packed dataset.

    Example:
        >>> import dataplane as dp
        >>> ds = dp.Dataset(url, arrays=["points"])  # doctest: +SKIP
        >>> ds[0]["points"].shape  # doctest: +SKIP
        torch.Size([65536, 3])
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        arrays: ArraysArgument = None,
        *,
        transform: Transform | None = None,
        cache: CacheArgument = None,
        store: StoreConfig | None = None,
        errors: str = "raise",
        transform_errors: str = "raise",
        samples_per_read: int = 1,
    ) -> None:
        self.url = os.fspath(_checked_argument("url", url, (str, os.PathLike), "a URL or a path"))
        if transform is not None and not callable(transform):
            raise ConfigError(f"transform must be callable, got {_shown(transform)}")
        _checked_argument("store", store, (StoreConfig, NoneType), "a dataplane.StoreConfig")
        self.transform = transform
        self.errors = check_policy(errors)
        self.transform_errors = check_policy(transform_errors, "transform_errors")
        self.counters = Counters()
        self._cache_config = _cache_config(cache)
        self._store_config = store
        if self._cache_config is not None:
            _warn_if_unusable(self._cache_config)
        self.index, self._shards = self._load_index()
        self.selections = resolve_selections(arrays, self.index.array_names)
        self._required = arrays is not None
        self.samples_per_read = as_count("samples_per_read", samples_per_read)
        self.numbering = number_samples(self.index, self.selections, self.samples_per_read)
        self._opened = OpenedReader()
        asks = any(map(asks_what_was_permuted, self.selections.values()))
        self._permuted = Permuted(self.index) if asks else None
        self._layouts: tuple[ArrayLayout, ...] | None = None
        self._identity: str | None = None
        if self.reads_parts:
            _ = self.layouts  # what does not fit an array is said here, and not at the first step

    def __len__(self) -> int:
        return len(self.numbering)

    def __repr__(self) -> str:
        names = list(self.array_names)
        shown = ", ".join(names[:_SHOWN_ARRAYS])
        more = f", … ({len(names)})" if len(names) > _SHOWN_ARRAYS else ""
        of = "" if self.numbering.is_plain else f" from {self.numbering.samples:,}"
        return f"<Dataset {self.url}: {len(self):,} samples{of} of {shown}{more}>"

    @property
    def keys(self) -> Sequence[str]:
        """Keys of the samples, in order; those of the dataset on disk, each once."""
        return self.index.keys

    @property
    def reads_parts(self) -> bool:
        """Whether a selection takes a part of its array."""
        return not all(isinstance(selection, Whole) for selection in self.selections.values())

    @property
    def is_random(self) -> bool:
        """Whether a selection draws at random."""
        return any(selection.is_random for selection in self.selections.values())

    @property
    def array_names(self) -> tuple[str, ...]:
        """Names of the arrays that a sample holds, in order."""
        return tuple(self.selections)

    @property
    def layouts(self) -> tuple[ArrayLayout, ...]:
        """Layout of each array in a batch.

        Raises:
            FormatError: an array has an element type that torch has none for.
        """
        if self._layouts is None:
            self._layouts = find_layouts(
                self.index, self.selections, required=self._required, permuted=self._permuted
            )
        return self._layouts

    @property
    def identity(self) -> str:
        """Name of the samples and their order, by content: 16 hexadecimal digits.

        The same for a copy elsewhere, or one that was packed again from the same values.
        """
        if self._identity is None:
            self._identity = identity_of(self.index)
        return self._identity

    @property
    def numbered_identity(self) -> str:
        """Name of the samples and their order, and of what its numbers are: tiles, or looks."""
        if self.numbering.is_plain and not self.numbering.is_tiled:
            return self.identity
        tiled = {name: one for name, one in self.selections.items() if is_tiled(one)}
        what = f"{self.identity} {self.samples_per_read} {_named(tiled)}"
        return hashlib.blake2b(what.encode(), digest_size=8).hexdigest()

    @property
    def reads_as_packed(self) -> bool:
        """Whether a sample is what is stored, and then what the transform makes of it.

        False for a subclass with a `__getitem__` or `__getitems__` of its own.
        """
        kind = type(self)
        return kind.__getitem__ is Dataset.__getitem__ and kind.__getitems__ is Dataset.__getitems__

    def attributes(self, i: int) -> Mapping[str, object]:
        """Return the JSON attributes of a sample.

        They are read from the index when they are asked for, some thousand samples at a time: in
        order, that is quick; in no order, it takes milliseconds each in a large dataset.

        Raises:
            IndexError: there is no such sample.
            FormatError: they are damaged.
        """
        return self.index.attributes(self.numbering.split(self._checked(i))[0])

    def __getitem__(self, i: int) -> Sample:
        tensors_of = _tensors_of()  # first, so that nothing is downloaded in vain
        return self._transformed([tensors_of(self._load_one(i))])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Return several samples, decoded in one call; torch's loader asks for batches so.

        A subclass with a `__getitem__` of its own is asked for each.
        """
        if type(self).__getitem__ is not Dataset.__getitem__:
            return [self[i] for i in indices]
        tensors_of = _tensors_of()
        positions = [self._checked(i) for i in indices]
        samples = self._load(self._drawing(), self._looked(positions))
        return self._transformed([tensors_of(sample) for sample in samples])

    def numpy(self, i: int, *, draw: int | None = None) -> ArraySample:
        """Return a sample as NumPy arrays, plus `"__key__"`; the transform, if any, is not called.

        Args:
            i: number of the sample.
            draw: draw of random selections, 0 to 2^64 - 1, as `DataLoader.provenance` tells it;
                without random selections it has no effect. The sample is then read as it is or
                not at all, whatever `errors` says. By default as `dataset[i]` draws.

        Raises:
            IndexError: there is no such sample.
            ConfigError: `draw` is none.
            DataplaneError: it cannot be read.

        Example:
            >>> ds.numpy(0)["points"].mean(axis=0)  # doctest: +SKIP
            array([0.41, 0.02, 0.31], dtype=float32)
        """
        if draw is None:
            return self._load_one(i)
        given = self.reader().drawing(GivenDraw(checked_draw(draw)), "raise")
        return self._load(given, [self._checked(i)])[0]

    def transformed(self, sample: Sample) -> object:
        """Call the transform with a sample; what it raises says which sample that was."""
        assert self.transform is not None
        key = sample.get(KEY)
        try:
            return self.transform(sample)
        except Exception as err:
            if key is not None:
                err.add_note(f"in the transform of sample {key!r} of {self.url}")
            raise

    def reader(self) -> SampleReader:
        """Return the reader of samples in this process; made at the first call in each process."""
        return self._opened.get(self._make_reader)

    def close(self) -> None:
        """Drop connections and open files; the next read opens them again. Idempotent."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _load_index(self) -> tuple[DatasetIndex, dict[str, ObjectInfo]]:
        """Read what is at the URL, with errors that a person who mistyped it can read at a glance.

        A message says all about what is not there, so that has no cause. What a server or a network
        did keeps its cause, the client's own words, without the same story in ours in between.
        """
        try:
            with closing(open_store(self.url, self._store_config, counters=self.counters)) as store:
                index = DatasetIndex.load(store, cached_reader(store, self._cache_config))
                return index, describe_shards(store)
        except (ConfigError, NotFound) as err:
            raise err from None
        except StoreError as err:
            raise err from _first_cause(err)

    def _make_reader(self) -> SampleReader:
        runtime = Runtime(
            self.url,
            store_config=self._store_config,
            cache_config=self._cache_config,
            shards=self._shards,
            sizes=self.index.shards,
            counters=self.counters,
            reads_parts=self.reads_parts,
        )
        planner = Planner(
            self.index,
            self.selections,
            runtime.describe,
            required=self._required,
            numbering=self.numbering,
            permuted=self._permuted,
        )
        return SampleReader(
            runtime, planner, self.layouts, policy=self.errors, counters=self.counters
        )

    def _drawing(self, policy: ErrorPolicy | None = None) -> SampleReader:
        """Return the reader for samples that are asked for one by one."""
        reader = self.reader()
        if not self.is_random and policy is None:
            return reader
        return reader.drawing(current_draws() if self.is_random else None, policy)

    def _load_one(self, i: int) -> ArraySample:
        wanted = self._looked([self._checked(i)])
        samples = self._load(self._drawing(), wanted)
        if not samples:
            # The policy left it out, but a single index has nothing to be left out of.
            samples = self._load(self._drawing("raise"), wanted)
        return samples[0]

    def _looked(self, positions: list[int]) -> list[int]:
        """Return positions with which look at its sample each one is, where that counts."""
        looks = looks_here(self, positions) if self.is_random else None
        return positions if looks is None else Looked(positions, looks)

    def _load(self, reader: SampleReader, positions: list[int]) -> list[ArraySample]:
        threads = _decode_threads()
        fetched = reader.fetch(positions)
        try:
            return separate_arrays(fetched, reader.layouts, threads=threads)
        except SAMPLE_ERRORS:
            fetched = reader.recover(positions)
            return separate_arrays(fetched, reader.layouts, threads=threads)

    def _transformed(self, samples: list[Sample]) -> list[Sample]:
        if self.transform is None:
            return samples
        return [cast("Sample", self.transformed(sample)) for sample in samples]

    def _checked(self, i: int) -> int:
        count = len(self)
        index = operator.index(i)
        if not -count <= index < count:
            raise IndexError(f"sample {index} of a dataset of {count}: {self.url}")
        return index % count


def _named(selections: Mapping[str, Selection]) -> str:
    """Return a text for selections that is the same in every process."""
    shown = {name: repr(selection) for name, selection in sorted(selections.items())}
    return "; ".join(
        f"{name} {type(selections[name]).__qualname__ if ' object at 0x' in text else text}"
        for name, text in shown.items()
    )


def _tensors_of() -> Callable[[ArraySample], Sample]:
    """Return what turns arrays into tensors of the same memory.

    Raises:
        MissingPackage: there is no torch.
    """
    try:
        from dataplane.datasets.batch import tensors_of
    except ModuleNotFoundError as err:
        if err.name != "torch":
            raise
        raise MissingPackage(
            "samples as tensors need the Python package torch, which is not installed",
            hint=f"{install_hint('torch')}, or read NumPy arrays with Dataset.numpy(i)",
        ) from None
    return tensors_of


def _checked_argument(name: str, value: T, kinds: tuple[type, ...], wanted: str) -> T:
    """Return an argument that has one of the types.

    Raises:
        ConfigError: it has none of them.
    """
    if not isinstance(value, kinds):
        raise ConfigError(f"{name} must be {wanted}, got {_shown(value)}")
    return value


def _first_cause(err: DataplaneError) -> BaseException | None:
    """Return what another library raised and became this error, perhaps in several steps."""
    cause = err.__cause__
    return _first_cause(cause) if isinstance(cause, DataplaneError) else cause


def _warn_if_unusable(config: CacheConfig) -> None:
    """Say where the caller sees it, and not only in a log, that nothing will be cached."""
    warning = unusable_warning(config.dir, sharing=config.sharing)
    if warning is not None:
        is_news(config.dir)  # the caches that run into it need not say it again
        warnings.warn(warning, CacheWarning, stacklevel=3)


def _shown(value: object) -> str:
    """Name a value by its type, since it may be anything, also a dict with secrets."""
    return f"a value of type {type(value).__name__}"


def _cache_config(cache: CacheArgument) -> CacheConfig | None:
    if cache is False:
        return None
    if cache is None:
        return assemble(CacheConfig, "cache").value
    if isinstance(cache, CacheConfig):
        return cache
    if isinstance(cache, bool):
        raise ConfigError("cache=True says nothing", hint="leave it out for the user's cache")
    _checked_argument("cache", cache, (str, os.PathLike), "a CacheConfig, a directory or False")
    return assemble(CacheConfig, "cache", {"dir": Path(cache)}).value


def _decode_threads() -> int:
    # Looked up, since a process that never imported torch is no worker of its loader.
    loading = sys.modules.get("torch.utils.data")
    if loading is not None and loading.get_worker_info() is not None:
        return 1  # the loader runs a process per core already
    return min(MOST_THREADS, len(os.sched_getaffinity(0)))
