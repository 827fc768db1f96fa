"""What `dataplane plan` prints: tables of epochs, waits, memory and cost, and of a check."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from rich.console import Console
from rich.text import Text

from dataplane.cli.text import Column, output, plural, print_fitted, printable
from dataplane.planning.causes import CAUSES, Wait
from dataplane.planning.check import CheckRow
from dataplane.planning.document import waits_by_cause
from dataplane.planning.predict import Prediction
from dataplane.units import format_bytes, format_count, format_duration, format_rate

__all__ = ["print_check", "print_prediction"]

_LEAST_SHARE = 0.01  # of an epoch's time, from which waits are worth a line
_MOST_EPOCHS = 12  # of which rows are shown; of more, the first ones and the last


def print_prediction(prediction: Prediction) -> None:
    """Print a prediction to standard output."""
    console = output()
    _print_head(console, prediction)
    _print_epochs(console, prediction)
    _print_waits(console, prediction)
    _print_totals(console, prediction)
    for note in prediction.notes:
        console.print(Text(f"note: {printable(note)}", style="dim"), soft_wrap=True)


def print_check(rows: Sequence[CheckRow]) -> None:
    """Print a check to standard output."""
    columns = [
        Column("figure", [row.name for row in rows], is_text=True),
        Column("predicted", [_figure(row, row.predicted) for row in rows]),
        Column("measured", [_figure(row, row.measured) for row in rows]),
        Column("ratio", ["" if row.ratio is None else f"{row.ratio:.3f}" for row in rows]),
        Column("", [_verdict(row) for row in rows], is_text=True),
    ]
    styles = ["" if row.is_within else "bold red" for row in rows]
    print_fitted(output(), columns, styles=styles)


def _figure(row: CheckRow, value: float) -> str:
    if row.unit == "bytes":
        return format_bytes(value)
    return format_duration(value) if row.unit == "s" else format_count(round(value))


def _verdict(row: CheckRow) -> str:
    if row.tolerance is None:
        return ""
    return f"{'within' if row.is_within else 'NOT within'} {row.tolerance:.0%}"


def _print_head(console: Console, prediction: Prediction) -> None:
    settings = prediction.settings
    console.print(Text(printable(prediction.url), style="bold"), soft_wrap=True)
    ranks = f"{settings.ranks} {plural('rank', settings.ranks)}"
    hosts = f" on {settings.hosts} {plural('host', settings.hosts)}" if settings.hosts > 1 else ""
    hosts += ' (assign="node")' if settings.assign == "node" else ""
    rate = settings.decode_bytes_per_s
    decode = f", decoding {format_rate(rate)}" if rate else ""
    samples = format_count(prediction.samples)
    console.print(
        Text(
            f"{samples} {plural('sample', prediction.samples)}, "
            f"{format_bytes(prediction.stored_bytes)} stored; {ranks}{hosts}, batches of "
            f"{settings.batch_size}, steps of {format_duration(settings.step_s)}{decode}; "
            f"cache of {format_bytes(prediction.limit_bytes)}"
        ),
        soft_wrap=True,
    )


def _print_epochs(console: Console, prediction: Prediction) -> None:
    epochs = list(prediction.epochs)
    left_out = len(epochs) - _MOST_EPOCHS
    if left_out > 0:
        epochs = [*epochs[: _MOST_EPOCHS - 1], epochs[-1]]
    columns = [
        Column("epoch", [str(one.epoch) for one in epochs]),
        Column("steps", [format_count(one.steps) for one in epochs], drop=2),
        Column("time", [format_duration(one.elapsed_s) for one in epochs]),
        Column("first batch", [format_duration(one.first_batch_s) for one in epochs], drop=3),
        Column("waited", [format_duration(one.wait_s) for one in epochs]),
        Column("hit rate", [f"{one.hit_rate:.1%}" for one in epochs]),
        Column("downloaded", [format_bytes(one.fetched_bytes) for one in epochs]),
        Column("requests", [format_count(one.requests) for one in epochs], drop=1),
        Column("needs", [_rate(prediction.required_bytes_per_s(one)) for one in epochs]),
        Column("has", [_rate(prediction.available_bytes_per_s(one)) for one in epochs]),
    ]
    print_fitted(console, columns)
    if left_out > 0:
        console.print(f"({left_out} epochs in between: --json has all)", style="dim")


def _rate(bytes_per_s: float) -> str:
    return format_rate(bytes_per_s) if bytes_per_s < 1e14 else "no limit"


def _print_waits(console: Console, prediction: Prediction) -> None:
    """Print a line for each cause of waits in each epoch."""
    lines = []
    for one in list(prediction.epochs)[:_MOST_EPOCHS]:
        for cause, waits in waits_by_cause(one).items():
            total_s = sum(wait.total_s for wait in waits)
            if total_s < _LEAST_SHARE * one.elapsed_s:
                continue
            lines.append(
                f"epoch {one.epoch}: {_steps(waits)} {format_duration(total_s)} for "
                f"{CAUSES[cause]}{_limit(cause, waits)}"
            )
    console.print()
    if not lines:
        console.print("no step waits")
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def _steps(waits: Sequence[Wait]) -> str:
    count = sum(wait.stands_for for wait in waits)
    if count == 1:
        return f"step {waits[0].step} waits"
    longest = max(waits, key=lambda wait: wait.wait_s)
    about = "" if count == len(waits) else "about "
    return (
        f"{about}{format_count(round(count))} steps, {waits[0].step} to {waits[-1].step}, "
        f"the longest {longest.step} ({format_duration(longest.wait_s)}), wait"
    )


def _limit(cause: str, waits: Sequence[Wait]) -> str:
    """Name what held the downloads up, where the cause is something behind that."""
    if cause not in {"cache", "start"}:
        return ""
    total: dict[str, float] = {}
    for wait in waits:
        total[wait.limit] = total.get(wait.limit, 0.0) + wait.total_s
    return f" (limit: {max(total, key=lambda limit: total[limit])})"


def _print_totals(console: Console, prediction: Prediction) -> None:
    settings, memory = prediction.settings, prediction.memory
    waited_s = sum(one.wait_s for one in prediction.epochs)
    elapsed_s = prediction.elapsed_s
    share = waited_s / elapsed_s if elapsed_s else 0.0
    console.print()
    lines = [
        f"time: {format_duration(elapsed_s)}, of which training waits "
        f"{format_duration(waited_s)} ({share:.0%})",
        f"from the store: {format_bytes(prediction.fetched_bytes)} in "
        f"{format_count(prediction.requests)} requests, index included"
        + (", all hosts together" if settings.hosts > 1 else ""),
        f"memory of a process: {format_bytes(memory.total_bytes)} "
        f"(libraries and index {format_bytes(memory.process_bytes)}, "
        f"window {format_bytes(memory.window_bytes)}, "
        f"requests {format_bytes(memory.request_bytes)}, "
        f"batches {format_bytes(memory.compressed_bytes + memory.decoded_bytes)})",
    ]
    if prediction.cost is not None:
        cost = prediction.cost
        shown = f"{cost:,.2f}" if cost >= 1 else f"{Decimal(f'{cost:.3g}'):f}"
        lines.append(f"cost: {shown}, in the currency of the prices")
    for line in lines:
        console.print(Text(line), soft_wrap=True)
