"""The line of the user's program that a warning is about, however deep in here it arises."""

from __future__ import annotations

import sys

__all__ = ["users_stacklevel"]


def users_stacklevel() -> int:
    """Return the `stacklevel` of the first caller outside of this package and accelerate."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and _is_between(frame.f_globals.get("__name__", "")):
        level, frame = level + 1, frame.f_back
    return level


def _is_between(module: str) -> bool:
    return module.partition(".")[0] in ("dataplane", "accelerate")
