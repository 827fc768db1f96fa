"""Element types on their way to a device: what is stored, what is placed, and what lies between.

A row of a chunk table says how many bytes a stored element has, which of them are reversed, and
whether it is converted (`Convert`). On the device two more things can happen in the same pass: a
cast to another floating type, and `x * scale + shift`. `Normalise` asks for these; `Rule` is what a
kernel is made for, one for every pair of a stored and a placed type. Values; safe from any thread.

Arithmetic of a normalisation is float64 where either type is, else float32; its product and its sum
are rounded each, on every device, so that results are the same bit for bit. A cast to a narrower
type rounds to nearest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from dataplane.codecs.table import Convert
from dataplane.errors import ConfigError

__all__ = ["PLAIN", "Normalise", "Rule", "kind_of", "rule_of"]

_KINDS: Final[dict[torch.dtype, str]] = {
    torch.bool: "b1",
    torch.uint8: "u1",
    torch.uint16: "u2",
    torch.uint32: "u4",
    torch.uint64: "u8",
    torch.int8: "i1",
    torch.int16: "i2",
    torch.int32: "i4",
    torch.int64: "i8",
    torch.float16: "f2",
    torch.bfloat16: "bf2",
    torch.float32: "f4",
    torch.float64: "f8",
    torch.complex64: "c8",
    torch.complex128: "c16",
}
_FLOATS: Final = frozenset({"f2", "bf2", "f4", "f8"})
_CONVERTED: Final[dict[Convert, str]] = {
    Convert.F64_TO_F32: "f8",
    Convert.F16_TO_F32: "f2",
    Convert.BF16_TO_F32: "bf2",
}


@dataclass(frozen=True, slots=True)
class Normalise:
    """What is done to the elements of one destination, besides placing them.

    Attributes:
        stored: type of the elements as they are stored; None where it is the destination's.
        scale: factor.
        shift: what is added to the product.
    """

    stored: np.dtype[np.generic] | None = None
    scale: float = 1.0
    shift: float = 0.0


PLAIN: Final = Normalise()
"""Nothing: elements are placed as they are stored."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How elements are made of stored bytes.

    Attributes:
        stored: kind of the stored number: `u1` … `f8`, `bf2`, `c16`; `b1` for bool.
        placed: kind of the element in the destination.
        scaled: whether scale and shift are applied.
    """

    stored: str
    placed: str
    scaled: bool

    @property
    def is_copy(self) -> bool:
        """Whether the bits stay as they are."""
        return self.stored == self.placed and not self.scaled

    @property
    def stored_bytes(self) -> int:
        """Bytes of a stored element."""
        return int(self.stored.lstrip("abcdefghijklmnopqrstuvwxyz"))

    @property
    def computes_in_float64(self) -> bool:
        """Whether scale and shift are applied in float64."""
        return "f8" in {self.stored, self.placed}


def kind_of(dtype: torch.dtype) -> str:
    """Return the kind of an element type.

    Raises:
        ConfigError: no array has this type.

    Example:
        >>> kind_of(torch.float32)
        'f4'
    """
    try:
        return _KINDS[dtype]
    except KeyError:
        raise ConfigError(f"elements of {dtype} cannot be placed") from None


def rule_of(convert: Convert, placed: torch.dtype, normalise: Normalise) -> Rule:
    """Return the rule for rows with a conversion, a destination, and what is asked beside it.

    Raises:
        ConfigError: there is no such conversion.
    """
    to = kind_of(placed)
    scaled = (normalise.scale, normalise.shift) != (1.0, 0.0)
    if convert is not Convert.NONE:
        stored = _CONVERTED[convert]
    elif normalise.stored is None:
        stored = to
    else:
        stored = kind_of(torch.from_numpy(np.empty(0, normalise.stored)).dtype)
    rule = Rule(stored, to, scaled)
    if not rule.is_copy and (to not in _FLOATS or stored in {"b1", "c8", "c16"}):
        raise ConfigError(
            f"elements stored as {stored} cannot be placed as {to}"
            f"{' with a scale' if scaled else ''}",
            hint="only real numbers are cast or scaled, and only to a floating type",
        )
    return rule
