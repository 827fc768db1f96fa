"""Elements that become something else on their way: byte order and float32 conversions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dataplane.codecs import ChunkTable, Convert, decode, parse_pipeline, reference
from dataplane.errors import ConfigError, FormatError
from tests.codecs.cases import BIG, BYTES, CHAINS, SHUFFLE, ZSTD, Stored, blosc

ODD = "blosc-odd-typesize"
WIDE = [BYTES, blosc("zstd", "shuffle", typesize=8)]
"""Two, four or no elements in each element of the shuffle."""


def every_half() -> np.ndarray:
    """All 65,536 of them."""
    return np.arange(1 << 16, dtype=np.uint16)


def doubles(count: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    values = rng.standard_normal(count) * 10.0 ** rng.integers(-60, 60, count)
    values[:8] = [np.nan, np.inf, -np.inf, -0.0, 1e300, -1e300, 1e-46, 2.0**-149 * 1.5]
    return values


CASES = {
    Convert.F64_TO_F32: doubles(4000),
    Convert.F16_TO_F32: every_half().view(np.float16),
    Convert.BF16_TO_F32: every_half(),
}


def widened(array: np.ndarray, convert: Convert) -> np.ndarray:
    """What NumPy, or PyTorch where NumPy has no such type, makes of the elements."""
    if convert is Convert.BF16_TO_F32:
        bits = torch.from_numpy(array.view(np.int16).copy())
        return bits.view(torch.bfloat16).to(torch.float32).numpy()
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal to the bit, except that any NaN equals any other."""
    numbers = ~np.isnan(a)
    return np.array_equal(np.isnan(a), np.isnan(b)) and (
        a[numbers].tobytes() == b[numbers].tobytes()
    )


CONVERTED_CHAINS = {
    **{name: chain for name, chain in CHAINS.items() if "crc32c" not in name},
    "blosc-two-elements-in-one": WIDE,
    "big-endian-shuffle-zstd": [BIG, SHUFFLE, ZSTD],
}


@pytest.mark.parametrize("chain", CONVERTED_CHAINS.values(), ids=CONVERTED_CHAINS.keys())
@pytest.mark.parametrize("convert", CASES, ids=lambda c: c.name)
def test_every_codec_converts_every_value(chain: Any, convert: Convert) -> None:
    array = CASES[convert]
    stored = Stored(array, (1000,), chain)
    out = np.empty(array.shape, np.float32)
    decode(stored.table(convert=convert), [stored.source], [out], threads=2)
    assert same(out, widened(array, convert))


@pytest.mark.parametrize("chain", ["blosc-lz4-shuffle", "blosc-big-endian", "zstd", ODD, "raw"])
@pytest.mark.parametrize("convert", CASES, ids=lambda c: c.name)
@pytest.mark.parametrize("width", [1, 3, 13])
def test_boxes_are_converted_as_the_reference_converts_them(
    chain: str, convert: Convert, width: int
) -> None:
    array = CASES[convert][:3840].reshape(12, 16, 20)
    stored = Stored(array, (5, 8, 20), CHAINS[chain], missing=(1,), fill_value=0)
    box = [(1, 11), (3, 15), (4, 4 + width)]
    ours = np.full((12, 14, width + 3), 77, np.float32)
    theirs = ours.copy()
    table = stored.table(box, convert=convert, destination_start=(1, 1, 2))
    decode(table, [stored.source], [ours])
    reference.decode(table, [stored.source], [theirs])
    assert same(ours.ravel(), theirs.ravel())
    inner = ours[1:11, 1:13, 2 : 2 + width]
    assert same(inner.ravel(), widened(stored.wanted(box), convert).ravel())


@pytest.mark.parametrize(
    ("convert", "dtype", "fill", "expected"),
    [
        (Convert.F64_TO_F32, "f8", 0.1, np.float32(0.1)),
        (Convert.F64_TO_F32, "f8", 1e300, np.float32(np.inf)),
        (Convert.F16_TO_F32, "f2", "0x3c00", np.float32(1)),
        (Convert.BF16_TO_F32, "u2", "0x3fc0", np.float32(1.5)),
        (Convert.BF16_TO_F32, "u2", -2.0, np.float32(-2)),
        (Convert.BF16_TO_F32, "u2", None, np.float32(0)),
    ],
)
def test_fill_values_are_converted_too(
    convert: Convert, dtype: str, fill: Any, expected: np.float32
) -> None:
    missing = np.full(2, 2**64 - 1, np.uint64)
    table = ChunkTable.for_box(
        shape=(6,), chunk_shape=(3,), dtype=dtype, pipeline=parse_pipeline([BYTES], dtype),
        offsets=missing, nbytes=missing, fill_value=fill, convert=convert,
    )  # fmt: skip
    out = np.empty(6, np.float32)
    decode(table, [], [out])
    assert (out == expected).all()


def test_a_conversion_is_only_of_its_own_element_type() -> None:
    stored = Stored(np.zeros(4, "f4"), (4,), CHAINS["raw"])
    with pytest.raises(ConfigError, match="F16_TO_F32 converts elements stored as float16"):
        stored.table(convert=Convert.F16_TO_F32)
    table = stored.table()
    for field, value, match in (
        ("convert", Convert.F16_TO_F32, "element size of a conversion"),
        ("convert", 9, "conversion"),
        ("shuffle", 3, "whole number of shuffled elements"),
    ):
        rows = table.rows.copy()
        rows[field] = value
        with pytest.raises((ConfigError, FormatError), match=match):
            decode(ChunkTable(rows), [stored.source], [np.empty(4, "f4")])


def test_the_destination_of_a_conversion_holds_float32() -> None:
    stored = Stored(np.zeros(4, "f8"), (4,), CHAINS["raw"])
    with pytest.raises(ConfigError, match="destination element size: expected 4, got 8"):
        decode(stored.table(convert=Convert.F64_TO_F32), [stored.source], [np.empty(4)])
