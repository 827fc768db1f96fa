"""Ranged response: a response to our own ranged GET, checked to be that range.

Pure functions over headers; the body belongs to the receiver of the response.
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
        """Fill `memory` with the next bytes; return how many came before the end."""
        ...

    def close(self) -> None:
        """Give up the rest."""
        ...


@dataclass(frozen=True, slots=True)
class RangedResponse:
    """A range that is on its way.

    Attributes:
        body: bytes of the range; fewer than asked for where the object ends. Close it.
        size_bytes: length of the object.
        etag: version of the object, if the server names one.
        modified_s: time of its last write in seconds since the epoch, if the server says.
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
        body: bytes of the response.
        headers: headers by name in lower case; characters stand for bytes.
        length: length of the body.
        wanted: range asked for.

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
