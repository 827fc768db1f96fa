"""Batches on their way into DALI and out of it: views both ways, no copies.

Into DALI goes NumPy: of a stacked array the whole batch, of others an array per sample. Never a
torch tensor, for which DALI asks CUDA for a stream, also in a pipeline on the CPU. Out of it come
tensors over DALI's own memory, which lives as long as they do.

Functions without state.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.dlpack import from_dlpack

from dataplane.datasets.layout import OFFSETS_SUFFIX
from dataplane.errors import ConfigError, LoaderError

__all__ = ["Fed", "Parameters", "fed_values", "out_of_dali", "sample_shapes"]

Fed: TypeAlias = "npt.NDArray[Any] | list[npt.NDArray[Any]]"
"""A batch of an array: stacked, or an array per sample."""


class Parameters(dict[str, torch.Tensor]):
    """The parameters of a batch's samples, by name: a dict that moves along with the tensors.

    So `{name: value.to(device) for name, value in batch.items()}` moves the whole of a batch.
    """

    def to(self, *args: Any, **kwargs: Any) -> Parameters:
        """Return the parameters with each tensor moved, as `torch.Tensor.to`."""
        return Parameters({name: value.to(*args, **kwargs) for name, value in self.items()})

    def cuda(self, *args: Any, **kwargs: Any) -> Parameters:
        """Return the parameters on a GPU, as `torch.Tensor.cuda`."""
        return Parameters({name: value.cuda(*args, **kwargs) for name, value in self.items()})

    def cpu(self) -> Parameters:
        """Return the parameters on the CPU."""
        return self.to("cpu")


def fed_values(batch: Mapping[str, Any], name: str) -> Fed:
    """Return an array of a batch as DALI takes it: views of the same memory.

    Raises:
        LoaderError: the batch has no such array, or not for every sample.
        ConfigError: it is on a GPU already.
    """
    if name not in batch:
        raise LoaderError(
            f"the batch has no array {name!r}: it has {', '.join(map(repr, batch))}",
            hint="a transform may have left it out or renamed it",
        )
    value, offsets = batch[name], batch.get(name + OFFSETS_SUFFIX)
    if isinstance(value, torch.Tensor):
        values = _array(value, name)
        if offsets is None:
            return values
        return [values[start:stop] for start, stop in itertools.pairwise(offsets.tolist())]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_array(part, name) for part in value]
    return _array(value, name)


def sample_shapes(fed: Fed) -> list[tuple[int, ...]]:
    """Return the shape of each sample."""
    if isinstance(fed, np.ndarray):
        return [fed.shape[1:]] * fed.shape[0]
    return [part.shape for part in fed]


def out_of_dali(output: Any, shape: Sequence[int | None]) -> tuple[Any, torch.Tensor | None]:
    """Return what DALI made of an array in the layout of a batch.

    Args:
        output: `TensorList` of DALI.
        shape: shape of a sample; None for an extent that varies over the dataset.

    Returns:
        A tensor `[B, ...]` and None; where only the first extent varies a tensor `[sum of N, ...]`
        and offsets, int64[B + 1]; where others do, a list of tensors and None.
    """
    if None not in shape:
        return from_dlpack(output.as_tensor()), None
    parts = [from_dlpack(part) for part in output]
    if None in shape[1:]:
        return parts, None
    offsets = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(part) for part in parts], out=offsets[1:])
    return torch.cat(parts), torch.from_numpy(offsets)


def _array(value: object, name: str) -> npt.NDArray[Any]:
    if isinstance(value, np.ndarray):
        return np.ascontiguousarray(value)
    if not isinstance(value, torch.Tensor):
        raise LoaderError(
            f"array {name!r} of a batch is a value of type {type(value).__name__}, and DALI takes "
            "tensors",
            hint="leave it out, or let every sample have it: Dataset(url, arrays=[...])",
        )
    if value.device.type != "cpu":
        raise ConfigError(
            f"array {name!r} of the batch is on {value.device}, and DALI is fed from the CPU",
            hint="leave device= out of the loader: the pipeline brings the batch to its GPU",
        )
    return np.ascontiguousarray(value.detach().numpy())
