"""The law of pack's readers: exact or refused, never anything else.

`judge` opens files through the product and says which of the two it was; anything else is a
`Wrong`: another exception, a message of several lines, a missing or additional array, one bit.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataplane.errors import FormatError
from dataplane.pack import open_source
from tests.pack.corpus.model import Case, Refused, Sample

__all__ = ["Outcome", "Wrong", "compare", "judge", "refused", "write"]

_MAX_MESSAGE_CHARS = 1500
_INDICES = re.compile(r"cells/(?!types)")


class Wrong(AssertionError):
    """The product broke the law."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a file: `exact`, or `refused` with the message."""

    exact: bool
    message: str = ""

    @property
    def reason(self) -> str:
        """The message without what differs from file to file, for counting."""
        text = re.sub(r"'[^']*'|\"[^\"]*\"", "…", self.message)
        text = re.sub(r"\S*/\S*(: )?", "", text)
        text = re.sub(r"\d+", "N", text)
        return " ".join(text.split())[:70]


def write(files, folder: Path) -> None:
    """Write files below an empty folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def judge(case: Case, folder: Path, *, damaged: bool) -> Outcome:
    """Open the case's files, which are in a folder, and hold what comes to the oracle.

    Raises:
        Wrong: what came is neither exact nor a refusal.
    """
    path = folder / case.entry
    try:
        found = list(open_source(path))
    except FormatError as err:
        return refused(case, err, path, damaged=damaged)
    except Exception as err:
        raise Wrong(f"{type(err).__name__} instead of FormatError: {err}") from err
    expected: list[Sample] | None
    if damaged:
        try:
            expected = case.oracle(path)
        except Refused as err:
            raise Wrong(f"read, though damaged: {err}; got {_shown(found)}") from err
    else:
        expected = case.expected
        if expected is None:
            raise Wrong(f"read, though it must be refused; got {_shown(found)}")
    compare(found, expected)
    return Outcome(exact=True)


def refused(case: Case, err: FormatError, path: Path, *, damaged: bool) -> Outcome:
    """Hold a refusal to the law: one line, which names the file, and not of a sound file.

    Raises:
        Wrong: it is none of that.
    """
    message = str(err)
    if "\n" in message or len(message) > _MAX_MESSAGE_CHARS:
        raise Wrong(f"a message of more than one line: {message!r}") from err
    if path.name.partition(".")[0] not in message:
        raise Wrong(f"a message that does not name the file: {message!r}") from err
    if not damaged and case.expected is not None and not case.may_refuse:
        raise Wrong(f"a sound file is refused: {message}") from err
    return Outcome(exact=False, message=message.replace(str(path), path.name))


def _shown(found) -> str:
    text = "; ".join(
        f"{name} {array.values.dtype}{list(array.values.shape)}"
        for sample in found
        for name, array in sample.arrays.items()
    )
    return text[:400]


def compare(found, expected: list[Sample]) -> None:
    """Compare samples with what they have to be.

    Raises:
        Wrong: they differ.
    """
    if len(found) != len(expected):
        raise Wrong(f"{len(found)} samples, expected {len(expected)}")
    for mine, sample in zip(found, expected, strict=True):
        names, wanted = set(mine.arrays), set(sample.arrays)
        if names != wanted:
            raise Wrong(f"more arrays: {names - wanted}, missing: {wanted - names}")
        for name, values in sample.arrays.items():
            got = np.asarray(mine.arrays[name].values)
            other = sample.either.get(name)
            either = other is not None and got.shape == values.shape
            difference = _differs(
                got,
                np.where(got == other, other, values) if either else values,
                index=_INDICES.match(name) is not None,
                any_nan=name in sample.any_nan,
            )
            if difference:
                raise Wrong(f"{name}: {difference}")
        for name, value in sample.attributes.items():
            got = mine.attributes.get(name)
            if not _same(got, value):
                raise Wrong(f"attribute {name}: {got!r}, expected {value!r}")


def _differs(mine: np.ndarray, values: np.ndarray, *, index: bool, any_nan: bool) -> str:
    """Say how an array differs from what it has to be; empty when it does not."""
    if mine.shape != values.shape:
        return f"shape {mine.shape}, expected {values.shape}"
    if index:
        # Point numbers may get the width that the reader's library gives them.
        if mine.dtype.kind != "i" or not np.array_equal(mine, values):
            return f"{mine.dtype} {mine.tolist()[:40]}, expected {values.tolist()[:40]}"
        return ""
    if mine.dtype.newbyteorder("=") != values.dtype.newbyteorder("="):
        return f"type {mine.dtype}, expected {values.dtype}"
    a, b = _bits(mine), _bits(values)
    same = a == b
    if any_nan and values.dtype.kind == "f":
        same |= np.isnan(mine.reshape(-1)) & np.isnan(values.reshape(-1))
    if same.all():
        return ""
    at = int(np.argmin(same))
    return (
        f"{int((~same).sum())} of {same.size} values differ, the first at {at}: "
        f"{mine.reshape(-1)[at]!r}, expected {values.reshape(-1)[at]!r}"
    )


def _bits(values: np.ndarray) -> np.ndarray:
    flat = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("="))).reshape(-1)
    if flat.dtype.kind == "c":
        return flat.view(f"V{flat.dtype.itemsize}")
    return flat.view(f"u{flat.dtype.itemsize}")


def _same(mine, value) -> bool:
    if isinstance(value, float) and isinstance(mine, int | float):
        both_nan = math.isnan(value) and math.isnan(mine)
        return both_nan or mine == value or math.isclose(mine, value, rel_tol=1e-12, abs_tol=1e-12)
    if isinstance(value, dict) and isinstance(mine, dict):
        return mine.keys() == value.keys() and all(_same(mine[key], value[key]) for key in value)
    if isinstance(value, list) and isinstance(mine, list | tuple):
        return len(mine) == len(value) and all(map(_same, mine, value))
    return bool(mine == value)
