"""Batches of any structure on their way to a device: tensors are moved, the rest stays.

Dicts, lists and tuples are walked, also within one another, and what they hold is put into new ones
of the same kind; a tensor that occurs twice is moved once. Tensors that are on a device already,
keys, numbers, texts and objects of other classes are left as they are. Pure functions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence

__all__ = ["moved", "tensors_in"]


def moved(content: Any, move: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Return `content` with every tensor of the CPU replaced by what `move` makes of it.

    Example:
        >>> batch = {"x": torch.ones(2), "__key__": ["a", "b"]}
        >>> moved(batch, lambda tensor: tensor * 2)
        {'x': tensor([2., 2.]), '__key__': ['a', 'b']}
    """
    known: dict[int, torch.Tensor] = {}

    def walk(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            if value.device.type != "cpu":
                return value
            if id(value) not in known:
                known[id(value)] = move(value)
            return known[id(value)]
        if isinstance(value, Mapping):
            return _like(value, {name: walk(item) for name, item in value.items()})
        if isinstance(value, PackedSequence):
            # Its counts stay on the CPU, where cuDNN wants them.
            parts = [walk(value.data), value.batch_sizes]
            return PackedSequence(*parts, *map(walk, value[2:]))
        if isinstance(value, tuple):
            items = [walk(item) for item in value]
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        if type(value) is list:
            return [walk(item) for item in value]
        return value

    return walk(content)


def tensors_in(content: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors that `moved` would see; of one that is jagged, those that it is made of."""
    if isinstance(content, torch.Tensor) and content.layout is torch.jagged:
        yield content.values()
        yield content.offsets()  # type: ignore[attr-defined]  # of nested tensors, which are typed so
    elif isinstance(content, torch.Tensor):
        yield content
    elif isinstance(content, Mapping):
        for item in content.values():
            yield from tensors_in(item)
    elif isinstance(content, tuple) or type(content) is list:
        for item in content:
            yield from tensors_in(item)


def _like(original: Mapping[Any, Any], items: dict[Any, Any]) -> Any:
    """Return items in a mapping of the same kind, where that can be copied."""
    if type(original) is dict:
        return items
    try:
        clone: Any = copy.copy(original)
        clone.update(items)
    except (AttributeError, TypeError):
        return items
    return clone
