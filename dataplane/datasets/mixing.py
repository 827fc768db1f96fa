"""`mix`: several packed datasets as one that is read in given proportions.

What the proportions mean is in `mixture.py`. Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from dataplane.datasets.mixture import MAX_LENGTH, MAX_SHARES, Mix, place_of
from dataplane.datasets.views import View, view_of
from dataplane.errors import ConfigError

__all__ = ["mix"]


def mix(
    sources: Sequence[Any],
    weights: Sequence[float] | None = None,
    *,
    stop: int | Literal["first", "all"] = "first",
    names: Sequence[str] | None = None,
) -> Mix:
    """Return a dataset that `dataplane.DataLoader` reads from several, in given proportions.

    Each part of an epoch has the proportions, and each source is read in passes, with a permutation
    of its own for each. Batches say in `"__source__"` which source each sample is of.

    Args:
        sources: `dataplane.Dataset`s, or `Subset`s and `ConcatDataset`s of such, with the same
            arrays.
        weights: share of each source in a batch, above zero; they need not sum to 1. By default
            the sources' lengths, so that all of them end together.
        stop: what ends an epoch: "first", when a source has none left for its next place, so that
            no sample comes twice; "all", when each source was read once, while those that were
            done before begin further passes; or a number of samples.
        names: names of the sources; by default the last parts of their URLs.

    Raises:
        ConfigError: a source, weight, name or `stop` cannot be used, or arrays differ.

    Example:
        >>> mixed = dp.mix([cars, wings], weights=[0.8, 0.2], names=["cars", "wings"])
        ... # doctest: +SKIP
        >>> loader = dp.DataLoader(mixed, batch_size=8, seed=7)  # doctest: +SKIP
        >>> next(iter(loader))["__source__"]  # doctest: +SKIP
        ['cars', 'cars', 'wings', 'cars', 'cars', 'cars', 'cars', 'wings']
    """
    given: object = sources
    if not isinstance(given, Sequence) or isinstance(given, (str, bytes)) or not given:
        raise ConfigError(
            f"mix takes a list of datasets, got a value of type {type(sources).__name__}",
            hint="dataplane.mix([a, b], weights=[0.5, 0.5])",
        )
    views = [_view(source, number) for number, source in enumerate(sources)]
    _check_arrays(views)
    sizes = [len(view) for view in views]
    shares = _shares(sizes if weights is None else weights, len(sources))
    return Mix(sources, _names(names, views), shares, _epoch_length(sizes, shares, stop))


def _view(source: Any, number: int) -> View:
    if isinstance(source, Mix):
        raise ConfigError(f"source {number} is a mix itself", hint="mix all of their sources")
    view = view_of(source)
    if view is None:
        raise ConfigError(
            f"mix takes dataplane.Datasets, or Subsets and ConcatDatasets of such, source {number} "
            f"is of type {type(source).__name__}",
        )
    if not len(view):
        raise ConfigError(f"source {number} of the mix has no samples")
    return view


def _check_arrays(views: Sequence[View]) -> None:
    first = views[0].datasets[0].array_names
    for number, view in enumerate(views):
        for dataset in view.datasets:
            if set(dataset.array_names) != set(first):
                odd = ", ".join(sorted(set(dataset.array_names) ^ set(first)))
                raise ConfigError(
                    f"source {number} of the mix has other arrays than the first: {odd}",
                    hint="choose arrays that all have with Dataset(arrays=[…])",
                )
            if dataset.array_names != first:
                raise ConfigError(
                    f"source {number} of the mix has the arrays of the first in another order",
                    hint="give all of them the same Dataset(arrays=[…])",
                )


def _shares(weights: Sequence[float], count: int) -> list[int]:
    """Return whole numbers in the proportions of weights."""
    try:
        found = np.asarray(weights, np.float64)
    except (TypeError, ValueError) as err:
        raise ConfigError(f"weights must be numbers, got {weights!r:.60}") from err
    if found.shape != (count,):
        raise ConfigError(f"weights of a mix are one number for each of its {count} sources")
    for number, weight in enumerate(found.tolist()):
        if not math.isfinite(weight) or weight <= 0:
            raise ConfigError(
                f"weights of a mix must be finite and above zero, that of source {number} is "
                f"{weight:g}",
                hint="leave out a source that is not wanted",
            )
    exact = [Fraction(weight) for weight in found.tolist()]
    total = sum(exact)
    if total <= MAX_SHARES and all(weight.denominator == 1 for weight in exact):
        return [int(weight) for weight in exact]
    unit = total / (MAX_SHARES - count)  # each may be rounded up by one
    return [max(round(weight / unit), 1) for weight in exact]


def _epoch_length(sizes: Sequence[int], shares: Sequence[int], stop: object) -> int:
    if stop in ("first", "all") and isinstance(stop, str):
        # Before the place that would begin a second pass, or with the one that ends a first pass.
        more = int(stop == "first")
        ends = [place_of(number, size + more, shares) for number, size in enumerate(sizes)]
        known = [end - more for end in ends if end is not None]
        if stop == "first" and known:
            return min(known)
        if len(known) == len(ends):
            return max(known)
        raise ConfigError(
            f"with these weights an epoch of the mix would have more than {MAX_LENGTH} samples",
            hint="say how many: stop=N",
        )
    if isinstance(stop, bool) or not isinstance(stop, (int, np.integer)):
        raise ConfigError(f'stop must be "first", "all" or a number of samples, got {stop!r:.60}')
    if not 1 <= stop <= MAX_LENGTH:
        raise ConfigError(f"stop must be from 1 to {MAX_LENGTH} samples, got {stop}")
    return int(stop)


def _names(names: Sequence[str] | None, views: Sequence[View]) -> list[str]:
    if names is None:
        found: list[str] = []
        for view in views:
            name = view.datasets[0].url.rstrip("/").rsplit("/", 1)[-1] or "source"
            others = sum(one == name or one.startswith(f"{name}~") for one in found)
            found.append(f"{name}~{others + 1}" if others else name)
        return found
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"names of a mix are a list of texts, got {names!r:.60}")
    if len(names) != len(views) or len(set(names)) != len(names):
        raise ConfigError(
            f"names of a mix are one for each of its {len(views)} sources, and all different"
        )
    return list(names)
