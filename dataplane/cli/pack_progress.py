"""Progress of `dataplane pack` on stderr: the work done, and the data left out.

On a terminal there is a bar with the bytes done, the time left and the file that is worked on; else
a line of the same now and then, for logs. Data left out is named in both cases. A file counts
half when it is read and half when it is written.
"""

from __future__ import annotations

import logging
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

from dataplane.cli.text import plural, print_pieces, printable
from dataplane.errors import FormatError
from dataplane.units import format_bytes, format_count, format_duration

if TYPE_CHECKING:
    from dataplane.pack import PackProgress
    from dataplane.pack.source import Unreadable

__all__ = ["shown_progress"]

_MAX_LINES = 20
"""Most lines of each kind: skipped, left out, notes."""
_BAR_AFTER_S = 0.5
"""A pack that is done sooner has no bar."""
_LINE_S = 15.0
"""Time between lines where there is no terminal."""
_LEAST_FRACTION = 0.02
"""Least fraction from which the time left can be estimated."""
_WIDE_COLUMNS = 110
_BAR_COLUMNS = 12


@contextmanager
def shown_progress(*, is_quiet: bool) -> Iterator[Callable[[PackProgress], None]]:
    """Show progress unless it is quiet, and in any case the data left out.

    Sources that should have been packed get a line each, up to a limit, while they are met, as do
    samples that lack something of their source; files of other formats are counted, and told at the
    end. Reasons that were told are not repeated by the error of a pack that wrote nothing.
    """
    from dataplane.pack.engine import NOTHING_PACKED

    console = Console(stderr=True, highlight=False)
    shown = _Shown(console, is_quiet=is_quiet)
    try:
        with _warnings_through(shown.say):
            try:
                yield shown.report
            finally:
                shown.stop()
    except FormatError as err:
        if not (shown.has_skipped and err.message.startswith(NOTHING_PACKED)):
            raise
        shown.tell_rest()
        raise FormatError(f"{NOTHING_PACKED}: every source was skipped, as said above") from err
    shown.tell_rest()


class _Shown:
    """State of the display of one pack. For one thread, except `say`."""

    def __init__(self, console: Console, *, is_quiet: bool) -> None:
        self._console = console
        self._bar = _bar(console)
        self._task = self._bar.add_task("pack", total=None, sources="", current="")
        self._has_bar = console.is_terminal and not is_quiet
        self._has_lines = not console.is_terminal and not is_quiet
        self._began_s = self._said_s = time.monotonic()
        self._skipped: tuple[Unreadable, ...] = ()
        self._left_out: tuple[tuple[str, str, str], ...] = ()
        self._notes: tuple[Unreadable, ...] = ()
        self._skipped_lines = 0

    @property
    def has_skipped(self) -> bool:
        """Whether a source that cannot be read has been told."""
        return self._skipped_lines > 0

    def say(self, text: str) -> None:
        """Write a line above the bar, broken between words where the terminal needs it."""
        print_pieces(self._console, [text])

    def report(self, progress: PackProgress) -> None:
        """Show the pack's progress, and the data left out since the last report."""
        self._tell_new(progress)
        now_s = time.monotonic()
        if self._has_lines and now_s - self._said_s >= _LINE_S:
            self._said_s = now_s
            self.say(_line(progress, now_s - self._began_s))
        if self._has_bar:
            self._bar.update(
                self._task,
                total=progress.source_bytes,
                completed=_bytes_done(progress),
                sources=f"{progress.sources_done}/{progress.sources}",
                current=_current(progress),
            )
            if now_s - self._began_s >= _BAR_AFTER_S:
                self._bar.start()

    def stop(self) -> None:
        """Take the bar away."""
        if self._bar.live.is_started:
            self._bar.stop()

    def tell_rest(self) -> None:
        """Report the rest: sources counted by kind, and the number of lines beyond the limits."""
        from dataplane.pack.skipped import counted_lines

        more = self._skipped_lines - _MAX_LINES
        if more > 0:
            self.say(f"skipped {more} more sources that cannot be read (--json lists them all)")
        for line in counted_lines(self._skipped):
            self.say(f"skipped {line}")
        more = len({label for label, _, _ in self._left_out[_MAX_LINES:]})
        if more > 0:
            self.say(f"left out of {more} more {plural('sample', more)} (--json lists them all)")
        notes = counted_lines(self._notes)
        for line in notes[:_MAX_LINES]:
            self.say(f"note: {line}")
        more = len(notes) - _MAX_LINES
        if more > 0:
            self.say(f"note: {more} more (--json lists them all)")

    def _tell_new(self, progress: PackProgress) -> None:
        from dataplane.pack.skipped import is_counted

        for item in progress.skipped[len(self._skipped) :]:
            if not is_counted(item):
                self._skipped_lines += 1
                if self._skipped_lines <= _MAX_LINES:
                    self.say(f"skipped {item.error()}")
        for label, what, reason in progress.left_out[len(self._left_out) : _MAX_LINES]:
            self.say(f"left out of {label}: {what} ({reason})")
        self._skipped, self._left_out = progress.skipped, progress.left_out
        self._notes = progress.notes


@contextmanager
def _warnings_through(say: Callable[[str], None]) -> Iterator[None]:
    """Write warnings of the log as notes beside the bar, unless all is logged (`--debug`)."""
    from dataplane.pack.skipped import LEFT_OUT_LOGGER

    logger = logging.getLogger("dataplane")
    if logger.isEnabledFor(logging.DEBUG):
        yield
        return
    handler = _Noted(say)
    # Told by the samples themselves.
    handler.addFilter(lambda record: record.name != LEFT_OUT_LOGGER)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


class _Noted(logging.Handler):
    """A log handler that shows warnings, up to a limit."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say = say
        self._lines = 0

    def emit(self, record: logging.LogRecord) -> None:
        self._lines += 1
        if self._lines <= _MAX_LINES:
            self._say(f"note: {record.getMessage()}")
        elif self._lines == _MAX_LINES + 1:
            self._say("note: further warnings are not shown (--debug shows them all)")


def _bar(console: Console) -> Progress:
    """Make a bar that leaves the rest of the width to the name of the file."""
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
        expand=True,
    )


def _bytes_done(progress: PackProgress) -> int:
    return min(progress.source_bytes, progress.source_bytes_done + progress.bytes_under_way)


def _current(progress: PackProgress) -> str:
    if progress.stage == "storing" or not progress.current:
        return progress.stage
    return f"{progress.stage} {printable(Path(progress.current).name)}"


def _line(progress: PackProgress, elapsed_s: float) -> str:
    """Progress of the pack, in one line."""
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
