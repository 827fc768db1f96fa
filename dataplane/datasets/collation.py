"""Collation of samples that already are tensors, for callers that transform or collate themselves.

The loader decodes straight into batches and does not come here unless a transform changes samples,
or torch's own `DataLoader` is used. Pure functions; safe from any thread.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.utils.data import default_collate

from dataplane.datasets.layout import OFFSETS_SUFFIX, Arrangement, ArrayLayout
from dataplane.datasets.ragged import RaggedForm
from dataplane.datasets.samples import KEY, SOURCE, Keys
from dataplane.errors import LoaderError

__all__ = ["LayoutCollate", "collate"]


@dataclass(frozen=True, slots=True)
class LayoutCollate:
    """A `collate_fn` that makes the batches of certain datasets: what a loader of theirs uses.

    Attributes:
        ragged: names of tensors that are concatenated, with offsets.
        listed: names of values that are put into a list as they are.
        is_declared: whether the user named what is ragged; a name that is nowhere is warned of.
        form: what ragged tensors become; None leaves them with offsets.
    """

    ragged: tuple[str, ...] = ()
    listed: tuple[str, ...] = ()
    is_declared: bool = False
    form: RaggedForm | None = None

    @classmethod
    def of(cls, layouts: Iterable[ArrayLayout]) -> LayoutCollate:
        """Return what collates samples as they are stored."""
        found = tuple(layouts)
        return cls(
            tuple(one.name for one in found if one.arrangement is Arrangement.RAGGED),
            tuple(one.name for one in found if one.arrangement is Arrangement.LISTED),
        )

    def __call__(self, samples: Sequence[Any]) -> Any:
        """Return the batch of some samples."""
        if self.is_declared:
            _warn_of_unknown(self.ragged, samples)
        batch = collate(samples, self.ragged, self.listed)
        return batch if self.form is None else self.form.apply(batch)


_TEXTS = (KEY, SOURCE)
_SHOWN = 3
"""Most names and samples that a message lists."""


def collate(
    samples: Sequence[Any], ragged: Collection[str] | None = None, listed: Collection[str] = ()
) -> Any:
    """Collate samples as `dataplane.DataLoader` does: a `collate_fn` for torch's `DataLoader`.

    Dicts are collated by name: tensors of one shape are stacked, tensors named in `ragged` are
    concatenated with `<name>.offsets`, int64[B + 1], beside them, and everything else is left to
    `torch.utils.data.default_collate`, as are samples that are no dicts; dicts within dicts and
    tuples are collated likewise. A sample that lacks a
    name of `ragged` has no elements of it, one that lacks a name of `listed` has None.

    Args:
        samples: at least one.
        ragged: names of the tensors whose first extent varies; by default those that differ in
            shape within this batch, which makes the structure depend on the batch.
        listed: names of the values that are put into a list as they are.

    Raises:
        LoaderError: samples do not fit together.

    Example:
        >>> batch = collate([{"points": torch.zeros(2, 3)}, {"points": torch.ones(1, 3)}])
        >>> batch["points"].shape, batch["points.offsets"].tolist()
        (torch.Size([3, 3]), [0, 2, 3])
    """
    if all(type(sample) is tuple for sample in samples) and len(set(map(len, samples))) == 1:
        return [collate(parts, ragged, listed) for parts in zip(*samples, strict=True)]
    if not all(isinstance(sample, dict) for sample in samples):
        return _default(samples, "samples")
    batch: dict[Any, Any] = {}
    for name in dict.fromkeys(name for sample in samples for name in sample):
        values = _values(name, samples, ragged or (), listed)
        if name in _TEXTS:
            batch[name] = Keys(values)
        elif name in listed:
            batch[name] = values
        elif all(isinstance(value, dict) for value in values):
            batch[name] = collate(values, ragged, listed)
        elif _is_ragged(name, values, ragged):
            batch[name] = torch.cat(values)
            counts = torch.tensor([0, *(len(value) for value in values)])
            batch[f"{name}{OFFSETS_SUFFIX}"] = counts.cumsum(0)
        else:
            batch[name] = _default(values, repr(name))
    return batch if type(samples[0]) is dict else _of_its_kind(samples[0], batch)


def _warn_of_unknown(ragged: Collection[str], samples: Sequence[Any]) -> None:
    known = set(_names(samples))
    unknown = [name for name in ragged if name not in known]
    if unknown:
        warnings.warn(
            f"ragged={unknown} names nothing in a batch, whose samples have "
            f"{sorted(map(str, known))}: nothing is concatenated for it",
            stacklevel=2,
        )


def _names(values: Iterable[Any]) -> Iterator[Any]:
    """Yield the names in samples, and in dicts and tuples inside of them."""
    for value in values:
        if isinstance(value, dict):
            yield from value
            yield from _names(value.values())
        elif type(value) is tuple:
            yield from _names(value)


def _of_its_kind(sample: dict[Any, Any], batch: dict[Any, Any]) -> dict[Any, Any]:
    """Return a batch as a dict of the samples' kind, as torch does where that can be copied."""
    try:
        clone = copy.copy(sample)
        clone.update(batch)
    except TypeError:
        return batch
    return clone


def _values(
    name: Any, samples: Sequence[Any], ragged: Collection[str], listed: Collection[str]
) -> list[Any]:
    """Return the values of one name, with stand-ins for those that are not there."""
    having = [sample for sample in samples if name in sample]
    if len(having) == len(samples) or name in listed:
        return [sample.get(name) for sample in samples]
    known = having[0][name]
    if name not in ragged or not isinstance(known, torch.Tensor) or not known.ndim:
        raise LoaderError(
            f"samples of one batch have different names: {_difference(samples)}",
            hint="choose arrays that all samples have with Dataset(arrays=[…]), or let the "
            "transform return the same names for every sample",
        )
    return [sample.get(name, known[:0]) for sample in samples]


def _difference(samples: Sequence[Any]) -> str:
    """Say which names some of the samples have, and which samples lack them."""
    everywhere = set.intersection(*(set(sample) for sample in samples))
    parts = []
    for name in dict.fromkeys(name for sample in samples for name in sample):
        if name not in everywhere:
            lacking = [at for at, sample in enumerate(samples) if name not in sample]
            whose = [repr(samples[at].get("__key__", f"number {at}")) for at in lacking[:_SHOWN]]
            more = ", …" if len(lacking) > _SHOWN else ""
            parts.append(f"{name!r} is not in {', '.join(whose)}{more}")
    return "; ".join(parts[:_SHOWN]) + ("; …" if len(parts) > _SHOWN else "")


def _is_ragged(name: Any, values: Sequence[Any], ragged: Collection[str] | None) -> bool:
    if not all(isinstance(value, torch.Tensor) and value.ndim > 0 for value in values):
        return False
    if len({value.shape[1:] for value in values}) != 1:
        return False
    if ragged is None:
        return len({value.shape for value in values}) > 1
    return name in ragged


def _default(values: Sequence[Any], what: str) -> Any:
    try:
        return default_collate(cast("list[Any]", values))  # a tuple stays one in what it makes
    except TypeError as err:
        err.add_note(f"while collating {what}; pass a collate_fn that can")
        raise
    except RuntimeError as err:
        shapes = {tuple(value.shape) for value in values if isinstance(value, torch.Tensor)}
        if len(shapes) < 2:
            raise LoaderError(
                f"cannot collate {what}: {err}", hint="pass a collate_fn that can"
            ) from err
        shown = " and ".join(str(list(shape)) for shape in sorted(shapes)[:_SHOWN])
        raise LoaderError(
            f"cannot collate {what}: samples have the shapes {shown}",
            hint=f"have all samples return one shape, or pass ragged=[{what}] to concatenate them, "
            "with offsets",
        ) from err
