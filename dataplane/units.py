"""Text for quantities, both ways: bytes, durations and rates. Pure functions, no state.

Sizes are read with binary (`KiB`, `MiB`, …) and decimal (`kB`, `MB`, …) units; a bare letter
(`4M`) is binary, as in coreutils. Output uses binary units for sizes that a person sets and decimal
units (GB/s) for rates, as storage vendors and the literature do.
"""

from __future__ import annotations

import re
from fractions import Fraction

from dataplane.errors import ConfigError

__all__ = [
    "format_bytes",
    "format_count",
    "format_duration",
    "format_rate",
    "parse_bytes",
    "parse_duration",
]

_BINARY = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_SECONDS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"\s*(\d{1,12}(?:\.\d{1,9})?)\s*(s|min|m|h|d|w|)\s*", re.IGNORECASE)
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?b|ib?)?\s*", re.IGNORECASE)


def parse_bytes(text: str | int) -> int:
    """Read a size such as `4MiB`, `1.5GB`, `64k` or `4096`.

    Returns:
        The size in bytes, rounded down.

    Raises:
        ConfigError: the text is not a size.

    Example:
        >>> parse_bytes("4MiB"), parse_bytes("1.5GB"), parse_bytes("64k"), parse_bytes(7)
        (4194304, 1500000000, 65536, 7)
    """
    if isinstance(text, int):
        if text < 0:
            raise ConfigError(f"a size cannot be negative: {text}")
        return text
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ConfigError(f"not a size: {text!r}", hint="write it as 4MiB, 1.5GB, 64k or 4096")
    number, letter, suffix = match.groups()
    base = 1000 if suffix is not None and suffix.lower() == "b" and letter else 1024
    return int(Fraction(number) * base ** _BINARY[letter.lower()])


def parse_duration(text: str) -> float:
    """Read a duration such as `90s`, `15min`, `12h`, `7d` or `2w`; only a zero needs no unit.

    Raises:
        ConfigError: the text is not a duration.

    Example:
        >>> parse_duration("1.5h"), parse_duration("7d"), parse_duration("0")
        (5400.0, 604800.0, 0.0)
    """
    match = _DURATION.fullmatch(text)
    if match is None or (not match.group(2) and float(match.group(1))):
        raise ConfigError(f"not a duration: {text!r}", hint="write it as 90s, 15min, 12h, 7d or 2w")
    return float(match.group(1)) * _SECONDS[match.group(2).lower()]


def format_bytes(count: float) -> str:
    """Write a size with a binary unit and three significant digits.

    Example:
        >>> format_bytes(0), format_bytes(4 << 20), format_bytes(1_610_612_736)
        ('0 B', '4 MiB', '1.5 GiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024 or unit == "TiB":
            break
        count /= 1024
    return f"{count:.3g} {unit}" if abs(count) < 1000 else f"{count:.0f} {unit}"


def format_rate(bytes_per_s: float) -> str:
    """Write a rate in decimal units.

    Example:
        >>> format_rate(2.5e9), format_rate(31e6)
        ('2.5 GB/s', '31 MB/s')
    """
    for unit, scale in (("GB/s", 1e9), ("MB/s", 1e6), ("kB/s", 1e3)):
        if abs(bytes_per_s) >= scale:
            return f"{bytes_per_s / scale:.3g} {unit}"
    return f"{bytes_per_s:.3g} B/s"


def format_duration(seconds: float) -> str:
    """Write a duration for a person.

    Example:
        >>> format_duration(0.0042), format_duration(3.21), format_duration(4000)
        ('4.2 ms', '3.21 s', '1 h 07 min')
    """
    if seconds < 1e-3:
        return f"{seconds * 1e6:.3g} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"


def format_count(count: int) -> str:
    """Write a count with thousands separators.

    Example:
        >>> format_count(1234567)
        '1,234,567'
    """
    return f"{count:,}"
