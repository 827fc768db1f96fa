"""Output of commands to a terminal or a pipe: consoles, tables, names from outside, ages.

A table must not lose figures in a narrow terminal. `print_fitted` therefore never cuts a cell: it
breaks headings, moves columns closer, then leaves out whole columns in the order that they allow,
and names them.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dataplane.units import format_duration

__all__ = [
    "PIPED_WIDTH",
    "Column",
    "ago",
    "fits",
    "grid",
    "output",
    "piece_lines",
    "plural",
    "print_fitted",
    "print_pieces",
    "printable",
]

PIPED_WIDTH = 160
"""Width for a pipe, which has none; rows that stay whole are easier for grep than folded ones."""

_DAY_S = 86_400
_BREAK = re.compile(r" (?!(?:[kKMGT]i?)?B\b)")
_FORMS = ((2, False), (2, True), (1, True))


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
            min_width=max((len(word) for word in heading.lstrip(">").split()), default=0),
        )
    return table


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table that fits its terminal.

    Attributes:
        heading: text above it.
        cells: texts, one per row.
        is_text: whether to align to the left; numbers are to the right.
        drop: order in which columns are left out where space is short, the lowest number first;
            None keeps it always.
    """

    heading: str
    cells: Sequence[str]
    is_text: bool = False
    drop: int | None = None

    def heading_lines(self, *, is_broken: bool) -> list[str]:
        """Return the heading in one line, or in a line per word."""
        return self.heading.split(" ") if is_broken else [self.heading]

    def width(self, *, is_broken: bool) -> int:
        """Return the number of terminal cells that it needs."""
        texts = [*self.heading_lines(is_broken=is_broken), *map(printable, self.cells)]
        return max(map(cell_len, texts))


def print_fitted(
    console: Console,
    columns: Sequence[Column],
    *,
    title: str | None = None,
    styles: Sequence[str] = (),
) -> None:
    """Print a table with every cell whole, and name the columns that the console has no space for.

    Args:
        console: console to print to.
        columns: columns, all of one length.
        title: title above the table.
        styles: styles of the rows.
    """
    shown = list(columns)
    while True:
        form = _form(console, shown)
        droppable = [column for column in shown if column.drop is not None]
        if form is not None or not droppable:
            break
        shown.remove(min(droppable, key=lambda column: column.drop or 0))
    # A pipe has no width: what does not fit into ours is whole nevertheless.
    gap, is_broken = form or _FORMS[-1 if console.is_terminal else 0]
    if title is not None:
        console.print(Text(title, style="bold"), soft_wrap=True)
    widths = [column.width(is_broken=is_broken) for column in shown]
    headings = [column.heading_lines(is_broken=is_broken) for column in shown]
    for cells in zip_longest(*headings, fillvalue=""):
        console.print(Text(_row(shown, cells, widths, gap), "dim"), soft_wrap=True)
    for number, cells in enumerate(zip(*(column.cells for column in shown), strict=True)):
        # Text, not str: names may come from outside, and rich would read markup in them. A terminal
        # narrower than the columns that stay wraps its lines, which loses nothing.
        style = styles[number] if styles else ""
        console.print(Text(_row(shown, cells, widths, gap), style), soft_wrap=True)
    missing = [column.heading for column in columns if column not in shown]
    if missing:
        console.print(
            f"no room for: {', '.join(missing)} (a wider terminal or --json shows them)",
            style="dim", markup=False,
        )  # fmt: skip


def _row(columns: Sequence[Column], cells: Sequence[str], widths: Sequence[int], gap: int) -> str:
    """Lay out one line of a table."""
    padded = []
    for column, cell, width in zip(columns, cells, widths, strict=True):
        shown = printable(cell)
        space = " " * (width - cell_len(shown))
        padded.append(shown + space if column.is_text else space + shown)
    return (" " * gap).join(padded).rstrip()


def print_pieces(console: Console, pieces: Sequence[str], *, indent: int = 0) -> None:
    """Print texts side by side: over several lines on a terminal that needs them.

    A pipe gets one line.
    """
    width = console.width if console.is_terminal else None
    for line in piece_lines(pieces, width, indent=indent):
        # A single word that is wider than the terminal is left to the terminal.
        console.print(Text(line), soft_wrap=True)


def piece_lines(pieces: Sequence[str], width: int | None, *, indent: int = 0) -> list[str]:
    """Set texts side by side, two spaces apart, in lines of a width; empty ones are left out.

    A text that is wider than that is broken between its words, and not before a unit of bytes.
    """
    shown = [printable(piece) for piece in pieces if piece]
    if width is None:
        return [" " * indent + "  ".join(shown)]
    room = max(1, width - indent)
    lines: list[str] = []
    for piece in shown:
        if lines and cell_len(lines[-1]) + 2 + cell_len(piece) <= room:
            lines[-1] += f"  {piece}"
        else:
            lines += _word_lines(piece, room)
    return [" " * indent + line for line in lines]


def _word_lines(text: str, room: int) -> list[str]:
    lines = [""]
    for word in _BREAK.split(text):
        if lines[-1] and cell_len(lines[-1]) + 1 + cell_len(word) > room:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    return lines


def fits(console: Console, columns: Sequence[Column]) -> bool:
    """Whether `print_fitted` would show all columns."""
    return _form(console, columns) is not None


def _form(console: Console, columns: Sequence[Column]) -> tuple[int, bool] | None:
    """Return the widest form that fits: the gap between columns, and whether headings break."""
    for gap, is_broken in _FORMS:
        if _width(columns, gap, is_broken=is_broken) <= console.width:
            return gap, is_broken
    return None


def _width(columns: Sequence[Column], gap: int, *, is_broken: bool) -> int:
    widths = [column.width(is_broken=is_broken) for column in columns]
    return sum(widths) + gap * (len(widths) - 1)


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
    """Write the time since a moment."""
    if when_s is None:
        return "never"
    seconds = max(0.0, time.time() - when_s)
    if seconds >= 2 * _DAY_S:
        return f"{seconds / _DAY_S:.0f} days ago"
    return f"{format_duration(max(1.0, seconds))} ago"
