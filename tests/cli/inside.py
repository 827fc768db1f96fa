"""What tests look at inside of the command line: the one place that knows how it is built."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from dataplane.cache.maintenance.verify import VerifyReport
from dataplane.cli import cache_maintain


def verify_bar(total: int | None) -> AbstractContextManager[Callable[[VerifyReport], None]]:
    """The bar that `cache verify` shows its progress with."""
    return cache_maintain._shown_progress(total)
