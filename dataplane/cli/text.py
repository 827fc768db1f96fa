"""How commands write to a terminal or a pipe: consoles, tables, names from outside, ages."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.table import Table

from dataplane.units import format_duration

__all__ = ["PIPED_WIDTH", "ago", "grid", "output", "plural", "printable"]

PIPED_WIDTH = 160
"""A pipe has no width; rows that stay whole are easier for grep than folded ones."""

_DAY_S = 86_400


def output() -> Console:
    """Return the console of standard output."""
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(width=PIPED_WIDTH, highlight=False)


def grid(*headings: str) -> Table:
    """Return a table without lines; headings that begin with `>` are of columns of numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in headings:
        is_number = heading.startswith(">")
        table.add_column(
            heading.lstrip(">"),
            justify="right" if is_number else "left",
            no_wrap=is_number,
            overflow="fold",
        )
    return table


def printable(text: str) -> str:
    """Keep control characters of hostile names out of the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def plural(noun: str, count: int) -> str:
    """Write a noun for a count."""
    if count == 1:
        return noun
    if noun.endswith("y"):
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


def ago(when_s: float | None) -> str:
    """Write how long ago a moment was."""
    if when_s is None:
        return "never"
    seconds = max(0.0, time.time() - when_s)
    if seconds >= 2 * _DAY_S:
        return f"{seconds / _DAY_S:.0f} days ago"
    return f"{format_duration(max(1.0, seconds))} ago"
