"""Round the mantissas of floats, so that what is noise compresses away. Pure functions.

`round_mantissa` keeps the first `bits` explicit mantissa bits and rounds to nearest, ties to even,
by integer arithmetic on the bit patterns: adding half a unit carries into the exponent where it
must. NaNs and infinities keep their bits; a finite value that would round to infinity is cut
instead. The relative error is at most 2^-(bits+1). Signed zeros and the sign of every value stay.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["round_mantissa"]

_MANTISSA_BITS = {2: 10, 4: 23, 8: 52}


def round_mantissa(values: npt.NDArray[Any], bits: int) -> npt.NDArray[Any]:
    """Round floats to `bits` explicit mantissa bits.

    Args:
        values: float or complex, C-contiguous; not changed.
        bits: mantissa bits to keep, at least 1; nothing happens when the type has no more.

    Returns:
        A new array of the same type, or `values` itself when there is nothing to do.

    Example:
        >>> round_mantissa(np.array([1.0, 1.1, np.nan], np.float32), 2).tolist()
        [1.0, 1.0, nan]
    """
    itemsize = values.dtype.itemsize // (2 if values.dtype.kind == "c" else 1)
    mantissa = _MANTISSA_BITS[itemsize]
    drop = mantissa - bits
    if drop <= 0 or values.size == 0:
        return values
    unsigned = np.dtype(f"u{itemsize}").type
    raw = np.ascontiguousarray(values).reshape(-1).view(unsigned)
    exponent = unsigned(((1 << (itemsize * 8 - 1)) - 1) & ~((1 << mantissa) - 1))
    keep = unsigned((1 << (itemsize * 8)) - (1 << drop))
    rounded = (raw >> unsigned(drop)) & unsigned(1)
    rounded += raw + unsigned((1 << (drop - 1)) - 1)
    rounded &= keep
    special = (raw & exponent) == exponent
    overflowed = ((rounded & exponent) == exponent) & ~special
    # Rare in simulation results, so the masks are applied only when they hold something. The carry
    # of a NaN's bits may reach the sign, so NaNs are taken from the original, not recognised after.
    if overflowed.any():
        rounded[overflowed] = raw[overflowed] & keep
    if special.any():
        rounded[special] = raw[special]
    result: npt.NDArray[Any] = rounded.view(values.dtype).reshape(values.shape)
    return result
