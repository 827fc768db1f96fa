"""Rounding of the mantissas of floats, so that noise compresses away. Pure functions.

`round_mantissa` keeps the first `bits` explicit mantissa bits and rounds to nearest, ties to even.
The native module does it, without the GIL, by integer arithmetic on the bit patterns. NaNs and
infinities keep their bits; a finite value that would round to infinity is cut instead. The relative
error is at most 2^-(bits+1). Signed zeros and the sign of every value stay.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dataplane import _native

__all__ = ["round_mantissa"]

_MANTISSA_BITS = {2: 10, 4: 23, 8: 52}


def round_mantissa(values: npt.NDArray[Any], bits: int) -> npt.NDArray[Any]:
    """Round floats to `bits` explicit mantissa bits.

    Args:
        values: float or complex values, C-contiguous; not changed.
        bits: mantissa bits to keep, at least 1; nothing happens when the type has no more.

    Returns:
        A new array of the same type, or `values` itself when there is nothing to do.

    Example:
        >>> round_mantissa(np.array([1.0, 1.1, np.nan], np.float32), 2).tolist()
        [1.0, 1.0, nan]
    """
    width = values.dtype.itemsize // (2 if values.dtype.kind == "c" else 1)
    if bits >= _MANTISSA_BITS[width] or values.size == 0:
        return values
    contiguous = np.ascontiguousarray(values).reshape(values.shape)
    result = np.empty_like(contiguous)
    _native.round_mantissa(contiguous.data, result.data, width=width, bits=bits)
    return result
