"""Form of a loader's batches: how samples are put together where the user gave no `collate_fn`.

Samples of packed datasets keep the layout of these; what a transform makes of them, or a class of
the user's, is stacked but for the names of `ragged`. What is ragged comes with offsets, or in the
form of `ragged_as`.

Values; a view and its datasets may be others in each pass.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import StackDataset, default_collate

from dataplane.datasets.collation import LayoutCollate
from dataplane.datasets.dataset import Dataset
from dataplane.datasets.layout import Arrangement
from dataplane.datasets.ragged import RaggedForm
from dataplane.datasets.views import View
from dataplane.errors import ConfigError

__all__ = ["BatchForm", "PackedSamples", "with_offsets"]

_SHOWN = 8
"""Most names that a message lists."""


@dataclass(frozen=True, slots=True)
class PackedSamples:
    """Packed samples that batches are made of.

    Attributes:
        view: what a loader's dataset shows of packed datasets; None where code of the user's reads.
        inner: packed datasets that this code holds.
    """

    view: View | None
    inner: Sequence[Dataset]

    @property
    def datasets(self) -> Sequence[Dataset]:
        """Packed datasets that samples come from."""
        return self.inner if self.view is None else self.view.datasets

    @property
    def has_transform(self) -> bool:
        """Whether one of them has a transform."""
        # Not by its truth: that is the user's code as well, which may answer with its length.
        return any(dataset.transform is not None for dataset in self.datasets)


@dataclass(frozen=True, slots=True)
class BatchForm:
    """Form of batches. See the module's text.

    Attributes:
        ragged: names of arrays whose first extent varies in what a transform returns.
        form: what becomes of ragged arrays.
    """

    ragged: tuple[str, ...]
    form: RaggedForm

    def collate(self, dataset: object, packed: PackedSamples) -> Callable[[Any], Any]:
        """Return what makes a batch where the user gave no `collate_fn`."""
        if packed.view is None and type(dataset) is not StackDataset and not self.ragged:
            return default_collate  # what a class of the user's returns has no layout
        return self.collate_samples(packed)

    def collate_samples(self, packed: PackedSamples) -> LayoutCollate:
        """Return what makes a batch of samples: as stored, or as a transform made them."""
        if self.ragged or packed.has_transform:
            found = LayoutCollate(self.ragged, is_declared=True)
        elif packed.view is not None:
            found = LayoutCollate.of(packed.view.layouts)
        else:
            found = LayoutCollate.of(one for dataset in packed.inner for one in dataset.layouts)
        if self.form.kind == "offsets":
            return found
        return replace(found, form=replace(self.form, names=found.ragged))

    def of(self, collate: object) -> RaggedForm:
        """Return what becomes of the ragged arrays of batches that `collate` makes."""
        return replace(
            self.form, names=collate.ragged if isinstance(collate, LayoutCollate) else ()
        )

    def check(self, dataset: object, packed: PackedSamples, collate_fn: object) -> None:
        """Refuse a form that batches cannot have.

        Raises:
            ConfigError: a `collate_fn` makes the batches, the dataset is not packed, an array is
                named that is none, or cannot hold what it is padded with.
        """
        self._check_names(packed)
        kind = self.form.kind
        if kind == "offsets":
            return
        if not packed.datasets:
            raise ConfigError(
                f"ragged_as is for a dataplane.Dataset, this is a {type(dataset).__name__}"
            )
        if collate_fn is not None and not isinstance(collate_fn, LayoutCollate):
            raise ConfigError(
                f"ragged_as={kind!r} and collate_fn both say what a batch is",
                hint="leave one of them out",
            )
        if packed.view is None or self.ragged or packed.has_transform:
            return
        for layout in packed.view.layouts:
            if layout.arrangement is Arrangement.RAGGED and kind == "padded":
                of_elements = torch.from_numpy(np.empty(0, layout.dtype)).dtype
                self.form.padding_of(layout.name, of_elements)

    def _check_names(self, packed: PackedSamples) -> None:
        """Refuse names of arrays that are in no batch, as far as that is known.

        What is in the results of a transform is not, but for what `ragged` says of it.
        """
        padded = [name for name, _ in self.form.paddings]
        if not (self.ragged or padded) or not packed.datasets:
            return
        known = list(self.ragged)
        if not packed.has_transform:
            stored = [one.name for dataset in packed.datasets for one in dataset.layouts]
            if packed.view is not None:
                _check_known("ragged", self.ragged, stored, "the dataset has")
            known += stored
        what = "ragged has" if packed.has_transform else "the dataset has"
        _check_known("padding_value", padded, known, what)


def _check_known(argument: str, names: Sequence[str], known: Sequence[str], what: str) -> None:
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            each = [*map(repr, dict.fromkeys(known))]
            shown = ", ".join(each[:_SHOWN]) or "none"
            more = f" and {len(each) - _SHOWN} more" if len(each) > _SHOWN else ""
            raise ConfigError(
                f"{argument} names {name!r}, and {what} {shown}{more}",
                hint=f"did you mean {close[0]!r}?" if close else None,
            )


def with_offsets(collate: Any) -> Any:
    """Return what makes batches with offsets, in whatever form they come in the end."""
    return replace(collate, form=None) if isinstance(collate, LayoutCollate) else collate
