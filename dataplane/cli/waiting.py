"""Messages on stderr that name the thing a command waits for, when it has waited for a while.

A store that does not respond is asked again for as long as its settings allow, which may be a
minute; a person should not have to guess. One daemon thread per wait, ended with it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import click

from dataplane.cli.text import printable

__all__ = ["said_when_late"]

_LATE_S = 5.0


@contextmanager
def said_when_late(what: str) -> Iterator[None]:
    """Write that `what` has not responded, unless the block ends before that."""
    line = f"dataplane: {printable(what)} has not answered yet; still trying (Ctrl-C ends it)"
    timer = threading.Timer(_LATE_S, click.echo, (line,), {"err": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
