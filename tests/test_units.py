"""Quantities as text, both ways."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane import units
from dataplane.errors import ConfigError
from dataplane.units import (
    format_bytes,
    format_count,
    format_duration,
    format_rate,
    parse_bytes,
    parse_duration,
)


def test_the_examples_in_the_docstrings_are_true() -> None:
    result = doctest.testmod(units)
    assert result.attempted >= 5
    assert result.failed == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("4096", 4096),
        ("4096B", 4096),
        ("1k", 1024),
        ("1K", 1024),
        ("1KiB", 1024),
        ("1kB", 1000),
        ("1KB", 1000),
        ("4M", 4 << 20),
        ("4MiB", 4 << 20),
        ("4MB", 4_000_000),
        (" 1.5 GiB ", 3 << 29),
        ("2T", 2 << 40),
        ("1PiB", 1 << 50),
        ("0.5k", 512),
    ],
)
def test_sizes_are_read(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize(
    "text", ["", " ", "MiB", "-1", "1e6", "4 MiB 2", "4XB", "0x10", "1,5GB", "nan", "inf", "½"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not a size"):
        parse_bytes(text)


def test_a_negative_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="negative"):
        parse_bytes(-1)


@given(st.integers(0, 1 << 80))
def test_a_written_number_reads_back(count: int) -> None:
    assert parse_bytes(str(count)) == count


@given(st.integers(0, 1 << 50))
def test_a_formatted_size_reads_back_within_its_three_digits(count: int) -> None:
    assert parse_bytes(format_bytes(count)) == pytest.approx(count, rel=6e-3, abs=0.5)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1000 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1023 << 10, "1023 KiB"),
        (5 << 40, "5 TiB"),
        (2048 << 40, "2048 TiB"),
    ],
)
def test_sizes_are_written(count: int, expected: str) -> None:
    assert format_bytes(count) == expected


@pytest.mark.parametrize(
    ("rate", "expected"),
    [(0, "0 B/s"), (999, "999 B/s"), (1e3, "1 kB/s"), (1e6, "1 MB/s"), (3.18e9, "3.18 GB/s")],
)
def test_rates_are_written(rate: float, expected: str) -> None:
    assert format_rate(rate) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 µs"),
        (5e-6, "5 µs"),
        (0.5, "500 ms"),
        (1, "1 s"),
        (59.94, "59.9 s"),
        (60, "1 min 00 s"),
        (61.4, "1 min 01 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 00 min"),
        (7199, "2 h 00 min"),
        (90_000, "25 h 00 min"),
    ],
)
def test_durations_are_written(seconds: float, expected: str) -> None:
    assert format_duration(seconds) == expected


def test_counts_have_separators() -> None:
    assert format_count(0) == "0"
    assert format_count(1_000_000) == "1,000,000"


def test_a_duration_has_a_unit() -> None:
    assert parse_duration("0") == 0
    for text in ("14", "1.5"):
        with pytest.raises(ConfigError, match="not a duration"):
            parse_duration(text)
