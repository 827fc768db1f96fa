"""Mantissa rounding: to nearest, ties to even, specials untouched."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.shards.rounding import round_mantissa

MANTISSA = {"f2": 10, "f4": 23, "f8": 52}


def reference(value: float, bits: int, dtype: str) -> Fraction:
    """Round with exact fractions, as the definition says."""
    exact = Fraction(value)
    if exact == 0:
        return exact
    info = np.finfo(dtype)
    exponent = max(int(np.floor(np.log2(abs(float(value))))), info.minexp)
    while Fraction(2) ** exponent > abs(exact) and exponent > info.minexp:
        exponent -= 1
    while Fraction(2) ** (exponent + 1) <= abs(exact):
        exponent += 1
    unit = Fraction(2) ** (exponent - bits)
    return round(exact / unit) * unit  # Python rounds halves to even.


def numpy_twin(values: np.ndarray, bits: int) -> np.ndarray:
    """The definition once more, with NumPy's integers."""
    itemsize = values.dtype.itemsize // (2 if values.dtype.kind == "c" else 1)
    mantissa = MANTISSA[f"f{itemsize}"]
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
    rounded[overflowed] = raw[overflowed] & keep
    rounded[special] = raw[special]
    return rounded.view(values.dtype).reshape(values.shape)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8", "c16"])
@pytest.mark.parametrize("bits", [1, 3, 7, 9, 10, 22, 23, 51, 52])
def test_every_kind_of_bit_pattern_rounds_as_numpy_does(dtype: str, bits: int) -> None:
    raw = np.random.default_rng(bits).integers(0, 256, 80_016, np.uint8)
    raw[:64] = 0xFF
    values = raw.view(dtype)[1:-2].copy()
    expected = numpy_twin(values, bits)
    assert round_mantissa(values, bits).tobytes() == expected.tobytes()


@pytest.mark.parametrize("shape", [(), (0,), (7, 5, 3)])
def test_the_shape_is_kept_and_strides_do_not_matter(shape: tuple[int, ...]) -> None:
    values = np.asarray(np.random.default_rng(1).standard_normal(shape))
    rounded = round_mantissa(np.array(values, order="F"), 6)
    assert rounded.shape == shape
    np.testing.assert_array_equal(rounded, numpy_twin(values, 6))


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@given(data=st.data())
def test_it_equals_exact_arithmetic(dtype: str, data: st.DataObject) -> None:
    width = {"f2": 16, "f4": 32, "f8": 64}[dtype]
    value = data.draw(st.floats(width=width, allow_nan=False, allow_infinity=False))
    bits = data.draw(st.integers(1, MANTISSA[dtype]))
    got = float(round_mantissa(np.array([value], dtype), bits)[0])
    expected = reference(value, bits, dtype)
    if abs(expected) > np.finfo(dtype).max:
        assert abs(got) <= abs(value)
        assert np.isfinite(got)
    else:
        assert got == expected


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_nans_and_infinities_keep_their_bits(dtype: str) -> None:
    unsigned = f"u{np.dtype(dtype).itemsize}"
    values = np.array([np.nan, -np.nan, np.inf, -np.inf], dtype)
    all_ones = np.array([np.iinfo(unsigned).max, np.iinfo(unsigned).max // 2], unsigned)
    raw = np.concatenate([values.view(unsigned), all_ones])
    rounded = round_mantissa(raw.view(dtype), 1)
    np.testing.assert_array_equal(rounded.view(unsigned), raw)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_the_largest_finite_value_does_not_become_infinite(dtype: str) -> None:
    largest = np.finfo(dtype).max
    rounded = round_mantissa(np.array([largest, -largest], dtype), 3)
    assert np.isfinite(rounded).all()
    assert rounded[0] == -rounded[1] > largest * 0.9


def test_dropped_bits_are_zero() -> None:
    values = np.random.default_rng(0).standard_normal(1000).astype("f4")
    assert not (round_mantissa(values, 10).view("u4") & ((1 << 13) - 1)).any()


def test_complex_parts_round_on_their_own() -> None:
    values = (np.random.default_rng(0).random(10) * (1 + 3j)).astype("c8")
    rounded = round_mantissa(values, 4)
    np.testing.assert_array_equal(rounded.real, round_mantissa(values.real.copy(), 4))
    np.testing.assert_array_equal(rounded.imag, round_mantissa(values.imag.copy(), 4))


def test_the_input_is_not_changed() -> None:
    values = np.full(5, 1.1, "f4")
    round_mantissa(values, 2)
    assert (values == np.float32(1.1)).all()
