"""Damaged copies of files: cut, with changed bits and bytes, with parts lost, doubled or moved."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from tests.pack.corpus.model import Case

__all__ = ["damage"]


def damage(case: Case, rng: np.random.Generator) -> tuple[str, Case]:
    """Return a copy of a case with one kind of damage in one file, and what was done."""
    names = sorted(name for name, content in case.files.items() if content)
    name = str(rng.choice(names))
    content = case.files[name]
    low, high = 0, len(content)
    for marked, start, stop in case.headers:
        if marked == name and stop > start and rng.random() < 0.6:
            low, high = start, stop
    kind, changed = _KINDS[int(rng.integers(len(_KINDS)))](content, low, high, rng)
    files: Mapping[str, bytes] = {**case.files, name: changed}
    return f"{name}: {kind}", replace(case, files=files)


def _cut(content, low, high, rng):
    at = int(rng.integers(low, high))
    return f"cut at {at}", content[:at]


def _cut_near_the_end(content, low, high, rng):
    del low, high
    at = max(0, len(content) - int(rng.integers(1, 40)))
    return f"cut at {at}", content[:at]


def _flip_a_bit(content, low, high, rng):
    at, bit = int(rng.integers(low, high)), int(rng.integers(8))
    return f"bit {bit} of byte {at}", _with(content, at, bytes([content[at] ^ 1 << bit]))


def _change_a_byte(content, low, high, rng):
    at, value = int(rng.integers(low, high)), int(rng.integers(256))
    return f"byte {at} becomes {value}", _with(content, at, bytes([value]))


def _change_a_character(content, low, high, rng):
    """One printable character for another: damage that a parser does not see at once."""
    at = int(rng.integers(low, high))
    character = int(rng.choice(list(b'0123456789 -.eE\n"<>/AaNnz')))
    return f"byte {at} becomes {chr(character)!r}", _with(content, at, bytes([character]))


def _change_a_number(content, low, high, rng):
    """A number in text becomes another one."""
    found = [*re.finditer(rb"\d+", content[low:high])]
    if not found:
        return _flip_a_bit(content, low, high, rng)
    one = found[int(rng.integers(len(found)))]
    number = rng.choice([b"0", b"1", b"2", b"7", b"99999999999", b"-1", b"2147483648",
                         b"4294967297", b"18446744073709551617"])  # fmt: skip
    start, stop = low + one.start(), low + one.end()
    return f"number at {start} becomes {bytes(number)!r}", (
        content[:start] + bytes(number) + content[stop:]
    )


def _count_wrongly(content, low, high, rng):
    """A number in a tag or section header is one more or one less: a header that lies a little."""
    found = [*re.finditer(rb"(?<=[\"' (])\d{1,6}(?=[\"' ),\n])", content[low:high])]
    if not found:
        return _flip_a_bit(content, low, high, rng)
    one = found[int(rng.integers(len(found)))]
    number = max(0, int(one.group()) + int(rng.choice([-1, 1])))
    start, stop = low + one.start(), low + one.end()
    return f"number at {start} becomes {number}", (
        content[:start] + str(number).encode() + content[stop:]
    )


def _lose_a_part(content, low, high, rng):
    start, stop = _range(low, high, rng)
    return f"bytes {start} to {stop} are lost", content[:start] + content[stop:]


def _zero_a_part(content, low, high, rng):
    start, stop = _range(low, high, rng)
    return f"bytes {start} to {stop} become 0", _with(content, start, bytes(stop - start))


def _double_a_part(content, low, high, rng):
    start, stop = _range(low, high, rng)
    return f"bytes {start} to {stop} are doubled", content[:stop] + content[start:]


def _swap_lines(content, low, high, rng):
    """Two neighbouring lines change places."""
    del low, high
    lines = content.split(b"\n")
    if len(lines) < 3:
        return _swap_bytes(content, rng)
    at = int(rng.integers(len(lines) - 1))
    lines[at], lines[at + 1] = lines[at + 1], lines[at]
    return f"lines {at} and {at + 1} change places", b"\n".join(lines)


def _swap_bytes(content, rng):
    at = int(rng.integers(max(1, len(content) - 1)))
    pair = content[at : at + 2]
    return f"bytes {at} and {at + 1} change places", _with(content, at, pair[::-1])


def _append(content, low, high, rng):
    del low, high
    tail = bytes(rng.integers(0, 256, int(rng.integers(1, 30)), np.uint8))
    if rng.random() < 0.5:
        tail = b"\n1 2 3\n"
    return f"{len(tail)} bytes more at the end", content + tail


def _range(low, high, rng):
    start = int(rng.integers(low, high))
    return start, min(high, start + int(rng.choice([1, 2, 4, 8, 16, 64, 512])))


def _with(content, at, new):
    return content[:at] + new + content[at + len(new) :]


_KINDS = (
    *(_cut, _cut_near_the_end, _flip_a_bit, _flip_a_bit, _change_a_byte, _change_a_character),
    *(_change_a_character, _change_a_number, _count_wrongly, _count_wrongly, _lose_a_part),
    *(_zero_a_part, _double_a_part),
    *(_swap_lines, _append),
)
