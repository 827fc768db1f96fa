"""What `dataplane pack` shows on stderr while it works: how far it is, and what it leaves out.

On a terminal there is a bar with the bytes done, the time left and the file that is worked on; else
a line of the same now and then, for logs. What is skipped is said in both cases. A file counts half
when it is read and half when it is written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Column

from dataplane.cli.text import printable
from dataplane.units import format_bytes, format_count, format_duration

if TYPE_CHECKING:
    from dataplane.pack import PackProgress
    from dataplane.pack.source import Unreadable

__all__ = ["shown_progress"]

_MAX_SKIPPED_LINES = 20
_LINE_S = 15.0
"""How often a line is written where there is no terminal."""
_LEAST_FRACTION = 0.02
"""Of less than this no time can be told that is left."""
_WIDE_COLUMNS = 110
_BAR_COLUMNS = 12


@contextmanager
def shown_progress(*, is_quiet: bool) -> Iterator[Callable[[PackProgress], None]]:
    """Show progress unless it is quiet, and in any case what is skipped.

    Sources that should have been packed get a line each, up to a limit, while they are met; files
    of other formats are counted, and told at the end.
    """
    from dataplane.pack.skipped import counted_lines, is_counted

    console = Console(stderr=True, highlight=False)
    bar = _bar(console, is_shown=console.is_terminal and not is_quiet)
    task = bar.add_task("pack", total=None, sources="", current="")
    has_lines = not console.is_terminal and not is_quiet
    began_s = said_s = time.monotonic()
    skipped: tuple[Unreadable, ...] = ()
    lines = 0

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    def report(progress: PackProgress) -> None:
        nonlocal skipped, lines, said_s
        for item in progress.skipped[len(skipped) :]:
            if not is_counted(item):
                lines += 1
                if lines <= _MAX_SKIPPED_LINES:
                    say(f"skipped {item.error()}")
        skipped = progress.skipped
        now_s = time.monotonic()
        if has_lines and now_s - said_s >= _LINE_S:
            said_s = now_s
            say(_line(progress, now_s - began_s))
        if not bar.disable:
            bar.update(
                task,
                total=progress.source_bytes,
                completed=_bytes_done(progress),
                sources=f"{progress.sources_done}/{progress.sources}",
                current=_current(progress),
            )

    with bar:
        yield report
    if lines > _MAX_SKIPPED_LINES:
        say(
            f"skipped {lines - _MAX_SKIPPED_LINES} more sources that cannot be read "
            "(--json lists them all)"
        )
    for line in counted_lines(skipped):
        say(f"skipped {line}")


def _bar(console: Console, *, is_shown: bool) -> Progress:
    """Make a bar that leaves the name of the file what room there is."""
    speed = (TransferSpeedColumn(),) if console.width >= _WIDE_COLUMNS else ()
    rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    return Progress(
        TextColumn("{task.fields[sources]}"),
        BarColumn(_BAR_COLUMNS),
        DownloadColumn(binary_units=True),
        *speed,
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[current]}", markup=False, table_column=rest),
        console=console,
        transient=True,
        redirect_stderr=False,
        disable=not is_shown,
        expand=True,
    )


def _bytes_done(progress: PackProgress) -> int:
    return min(progress.source_bytes, progress.source_bytes_done + progress.bytes_under_way)


def _current(progress: PackProgress) -> str:
    if progress.stage == "storing" or not progress.current:
        return progress.stage
    return f"{progress.stage} {printable(Path(progress.current).name)}"


def _line(progress: PackProgress, elapsed_s: float) -> str:
    """How far the pack is, in one line."""
    done, whole = format_bytes(_bytes_done(progress)), format_bytes(progress.source_bytes)
    parts = [
        f"{format_count(progress.sources_done)} of {format_count(progress.sources)} sources",
        f"{done} of {whole}",
        _current(progress),
    ]
    if _LEAST_FRACTION <= progress.fraction < 1:
        left_s = elapsed_s * (1 - progress.fraction) / progress.fraction
        parts.append(f"about {format_duration(max(1, round(left_s)))} left")
    return f"packing: {', '.join(parts)}"
