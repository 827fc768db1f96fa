"""A response to a ranged GET that we read ourselves: what it is, and whether it is that range.

Pure functions over headers; the body belongs to whoever received the response.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from dataplane.stores.versions import header_text, modified_of

__all__ = ["Body", "RangedResponse", "ranged_response"]

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII)


class Body(Protocol):
    """The bytes of a response, in order."""

    def read_into(self, memory: memoryview) -> int:
        """Fill `memory` with what comes next; return how many bytes came before the end."""
        ...

    def close(self) -> None:
        """Give up what is left."""
        ...


@dataclass(frozen=True, slots=True)
class RangedResponse:
    """A range that is on its way.

    Attributes:
        body: its bytes; fewer than asked for where the object ends. Close it.
        size_bytes: the object's length.
        etag: its version, if the server names one.
        modified_s: when it was written, in seconds since the epoch, if the server says.
    """

    body: Body
    size_bytes: int
    etag: str | None
    modified_s: float | None


def ranged_response(
    body: Body, headers: Mapping[str, str], length: int | None, wanted: tuple[int, int]
) -> RangedResponse:
    """Check that a response is the range asked for, or as much of it as there is.

    Args:
        body: its bytes.
        headers: by name in lower case; characters stand for bytes.
        length: that of the body.
        wanted: the range asked for.

    Raises:
        ValueError: it is not; the text says why.
    """
    given = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
    if given is None or int(given[1]) != wanted[0]:
        raise ValueError("another range than that asked for")
    stop = int(given[2]) + 1
    if stop > wanted[1] or stop - wanted[0] != length:
        raise ValueError("a body of another length than its range")
    etag = header_text(headers["etag"]) if "etag" in headers else None
    modified_s = modified_of(headers.get("last-modified", ""))
    return RangedResponse(body, int(given[3]), etag, modified_s)
