"""Datasets: samples by number, their order, and how they become batches.

Tensors and `collate` need torch (the extra `torch`); a `Dataset` of NumPy arrays, order and
selections do not, so nothing here imports it before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dataplane.datasets.crops import crop
from dataplane.datasets.order import global_order, rank_count, rank_positions
from dataplane.datasets.permutations import Permutation, permutation
from dataplane.datasets.runs import points, rows, steps
from dataplane.datasets.selections import ArrayForm, Selection, Whole, whole
from dataplane.datasets.stitching import stitch
from dataplane.extras import missing_package

if TYPE_CHECKING:
    from dataplane.datasets.collation import collate
    from dataplane.datasets.dataset import Dataset
    from dataplane.datasets.graphs import to_pyg
    from dataplane.datasets.mixing import mix

__all__ = [
    "ArrayForm",
    "Dataset",
    "Permutation",
    "Selection",
    "Whole",
    "collate",
    "crop",
    "global_order",
    "mix",
    "permutation",
    "points",
    "rank_count",
    "rank_positions",
    "rows",
    "steps",
    "stitch",
    "to_pyg",
    "whole",
]

_LAZY = {
    "Dataset": "dataplane.datasets.dataset",
    "collate": "dataplane.datasets.collation",
    "mix": "dataplane.datasets.mixing",
    "to_pyg": "dataplane.datasets.graphs",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    try:
        module = importlib.import_module(_LAZY[name])
    except ModuleNotFoundError as err:
        if err.name != "torch":
            raise
        raise missing_package(f"dataplane.{name}", "torch") from None
    return getattr(module, name)
