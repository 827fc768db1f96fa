"""Forms of ragged arrays in a batch: concatenated with offsets, padded, or nested.

Batches are made with offsets, `<name>` [sum of N, ...] and `<name>.offsets`, int64[B + 1], wherever
they come from. A `RaggedForm` then puts another form in the place of the two:

- padded: `<name>` [B, N_max, ...], with a value behind the elements of each sample, and
  `<name>.lengths`, int64[B]. One copy, into memory of the pool, or pinned.
- nested: `<name>`, a nested tensor of torch (jagged layout) over the same memory. Arrays whose
  samples have equal lengths in a batch share their offsets, so torch computes with them together.

Values and pure functions; safe from any thread.
"""

from __future__ import annotations

import copy
import itertools
import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy.typing as npt
import torch

from dataplane.buffers import shared_pool
from dataplane.datasets.layout import LENGTHS_SUFFIX, OFFSETS_SUFFIX
from dataplane.errors import ConfigError

__all__ = ["PaddingValue", "RaggedAs", "RaggedForm"]

RaggedAs: TypeAlias = Literal["offsets", "padded", "nested"]
PaddingValue: TypeAlias = "float | Mapping[str, float]"


@dataclass(frozen=True, slots=True)
class RaggedForm:
    """What ragged arrays become in a batch.

    Attributes:
        names: names of the arrays.
        kind: form.
        padding: value behind the elements of a sample that is padded.
        paddings: that of single arrays, by name.
    """

    names: tuple[str, ...]
    kind: RaggedAs
    padding: float = 0
    paddings: tuple[tuple[str, float], ...] = ()

    @classmethod
    def of(cls, kind: object, padding_value: object) -> RaggedForm:
        """Return the form that arguments of a loader ask for, of no arrays yet.

        Raises:
            ConfigError: they cannot be used.
        """
        if kind not in get_args(RaggedAs):
            raise ConfigError(f"ragged_as must be one of {get_args(RaggedAs)}, got {kind!r}")
        by_name = padding_value if isinstance(padding_value, Mapping) else {}
        values = [*by_name.values()] if isinstance(padding_value, Mapping) else [padding_value]
        for value in values:
            if not isinstance(value, numbers.Real):
                raise ConfigError(f"padding_value must be a number, got {value!r}")
        if kind != "padded" and (by_name or padding_value != 0):
            raise ConfigError(
                f'padding_value is what ragged_as="padded" fills up with, and ragged_as is {kind!r}'
            )
        padding: Any = 0 if isinstance(padding_value, Mapping) else padding_value
        return cls((), kind, padding, tuple(by_name.items()))  # type: ignore[arg-type]  # checked

    def padding_of(self, name: str, dtype: torch.dtype) -> Any:
        """Return what stands behind the elements of a sample.

        Raises:
            ConfigError: elements of this type cannot hold it.
        """
        value = dict(self.paddings).get(name, self.padding)
        if not _holds(dtype, value):
            raise ConfigError(
                f"ragged array {name!r} cannot be padded with {value!r}: it holds {dtype}",
                hint=f"give it a value of its own: padding_value={{{name!r}: 0}}",
            )
        return value

    def apply(self, content: Any, host: Any = None, *, pin: bool = False) -> Any:
        """Return a batch with its ragged arrays in this form; what else it holds stays.

        Args:
            content: batch with offsets; it is not changed.
            host: the same batch, with offsets on the CPU; by default `content` is.
            pin: whether to pad in pinned memory.

        Raises:
            ConfigError: an array cannot hold the value that it is to be padded with.
        """
        if self.kind == "offsets" or not self.names:
            return content
        return self._changed(content, content if host is None else host, pin)

    def _changed(self, content: Any, host: Any, pin: bool) -> Any:
        if isinstance(content, dict):
            return _like(content, self._of_dict(content, host, pin))
        if type(content) in (list, tuple):
            parts = zip(content, host, strict=True)
            return type(content)(self._changed(one, other, pin) for one, other in parts)
        return content

    def _of_dict(self, content: dict[Any, Any], host: dict[Any, Any], pin: bool) -> dict[Any, Any]:
        ragged = {name for name in self.names if name + OFFSETS_SUFFIX in content}
        dropped = {name + OFFSETS_SUFFIX for name in ragged}
        made: dict[Any, Any] = {}
        shared: list[tuple[torch.Tensor, torch.Tensor]] = []  # of each: on the CPU, and where it is
        for name, value in content.items():
            if name in dropped:
                continue
            if name not in ragged:
                made[name] = self._changed(value, host[name], pin)
                continue
            offsets, on_host = content[name + OFFSETS_SUFFIX], host[name + OFFSETS_SUFFIX]
            if self.kind == "nested":
                known = (one for other, one in shared if torch.equal(other, on_host))
                same = next(known, None)
                if same is None:
                    shared.append((on_host, offsets))
                    same = offsets
                made[name] = torch.nested.nested_tensor_from_jagged(value, same)
            else:
                padding = self.padding_of(name, value.dtype)
                made[name] = _padded(value, on_host.tolist(), padding, pin)
                made[name + LENGTHS_SUFFIX] = offsets.diff()
        return made


def _padded(values: torch.Tensor, offsets: Sequence[int], padding: Any, pin: bool) -> torch.Tensor:
    """Return values [sum of N, ...] as [B, N_max, ...]; nothing waits for a device."""
    bounds = list(itertools.pairwise(offsets))
    longest = max((stop - start for start, stop in bounds), default=0)
    shape = (len(bounds), longest, *values.shape[1:])
    source: Any = _array(values)
    if source is None:
        padded = torch.empty(shape, dtype=values.dtype, device=values.device)
        target: Any = padded
        source = values
    else:
        # By NumPy: torch would wake its threads for each sample, beside those that decode.
        if pin:
            padded = torch.empty(shape, dtype=values.dtype, pin_memory=True)
        else:
            padded = torch.from_numpy(shared_pool().array(shape, source.dtype))
        target = padded.numpy()
    for slot, (start, stop) in enumerate(bounds):
        target[slot, : stop - start] = source[start:stop]
        target[slot, stop - start :] = padding
    return padded


def _array(values: torch.Tensor) -> npt.NDArray[Any] | None:
    """Return an array over a tensor's memory, or None where it cannot be one."""
    if values.device.type != "cpu" or values.layout is not torch.strided or values.requires_grad:
        return None
    try:
        return values.numpy()
    except (TypeError, RuntimeError):  # NumPy has no such type
        return None


def _holds(dtype: torch.dtype, value: float) -> bool:
    """Whether elements of a type can hold a value; fractions are rounded to a type that has any."""
    if dtype.is_complex or dtype.is_floating_point:
        largest = torch.finfo(dtype).max
        return not math.isfinite(value) or abs(value) <= largest
    if not math.isfinite(value) or value != int(value):
        return False
    if dtype is torch.bool:
        return value in (0, 1)
    info = torch.iinfo(dtype)
    return info.min <= int(value) <= info.max


def _like(content: dict[Any, Any], made: dict[Any, Any]) -> dict[Any, Any]:
    """Return items in a dict of the same kind, where that can be copied."""
    if type(content) is dict:
        return made
    try:
        clone = copy.copy(content)
        clone.clear()
        clone.update(made)
    except TypeError:
        return made
    return clone
