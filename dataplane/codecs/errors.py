"""Native failures made into the errors of this project.

The native module says which row failed and why in numbers: a code, where in the row's encoded
bytes, what was expected and what was there. This is the one place where they become words.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Final

from dataplane._native import DecodeFailure
from dataplane.errors import (
    ChecksumMismatch,
    ConfigError,
    DataplaneError,
    DecodeError,
    FormatError,
    TooLarge,
    Truncated,
)

__all__ = ["ERROR_OF", "Code", "failure_to_error"]


class Code(IntEnum):
    """Code of a failure; the numbers are those of native/core/base/status.hpp."""

    TRUNCATED = 1
    CHECKSUM_MISMATCH = 2
    TOO_LARGE = 3
    MALFORMED = 4
    UNSUPPORTED = 5
    BAD_ARGUMENT = 6
    IO_ERROR = 7
    CANCELLED = 8


ERROR_OF: Final[dict[Code, type[DataplaneError]]] = {
    Code.TRUNCATED: Truncated,
    Code.CHECKSUM_MISMATCH: ChecksumMismatch,
    Code.TOO_LARGE: TooLarge,
    Code.MALFORMED: DecodeError,
    Code.UNSUPPORTED: FormatError,
    Code.BAD_ARGUMENT: ConfigError,
    Code.IO_ERROR: DecodeError,
    Code.CANCELLED: DecodeError,
}
"""The error class of every code."""

_CORRUPT: Final = "the source is damaged: fetch or pack it again"
_HINTS: Final = {
    Code.TRUNCATED: _CORRUPT,
    Code.CHECKSUM_MISMATCH: _CORRUPT,
    Code.MALFORMED: _CORRUPT,
    Code.BAD_ARGUMENT: "nothing was written",
}


def failure_to_error(failure: DecodeFailure, describe: Callable[[int], str]) -> DataplaneError:
    """Return the error for a `DecodeFailure` of the native module.

    Args:
        failure: the native failure.
        describe: text for a row: sample, array, chunk and where it is stored.
    """
    code, expected, got = Code(failure.code), failure.expected, failure.got
    if code is Code.CANCELLED:
        return ERROR_OF[code]("decoding was cancelled; its destinations hold unspecified elements")
    where = f" at encoded byte {failure.offset}" if failure.offset else ""
    if code is Code.CHECKSUM_MISMATCH and failure.what == "crc32c":
        numbers = f": expected {expected:#010x}, got {got:#010x}"
    elif expected or got:
        numbers = f": expected {expected}, got {got}"
    else:
        numbers = ""
    kind = code.name.lower().replace("_", " ")
    message = f"{describe(failure.row)}: {kind}: {failure.what}{where}{numbers}"
    if failure.failures > 1:
        message += f"; {failure.failures} chunks of this call are bad, and this is the first"
    return ERROR_OF[code](message, hint=_HINTS.get(code))
