"""`dataplane pack`: simulation files in, a packed dataset out, with progress and a summary."""

from __future__ import annotations

import dataclasses
import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from dataplane.cli.options import BYTES, ROUNDING, store_config, store_options
from dataplane.cli.pack_progress import shown_progress
from dataplane.cli.text import plural, print_pieces, printable
from dataplane.errors import ConfigError
from dataplane.units import format_bytes, format_count, format_duration, format_rate

if TYPE_CHECKING:
    from dataplane.shards import PackSummary

__all__ = ["pack"]

_EPILOG = """
\b
Examples:
  dataplane pack runs/ s3://bucket/cars
  dataplane pack a.vtu b.vtu file:///data/set --codec zstd --level 5
  dataplane pack wavy.zip grid_xyz.bin s3://bucket/flow --region eu-west-1
  dataplane pack runs/ s3://bucket/cars --permute-seed 7 --round-bits 10
  dataplane pack runs/ s3://bucket/cars --float32 --round 'points=none'
"""
_SHOWN_ARRAYS = 10


@click.command(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("sources", metavar="SOURCE...", nargs=-1)
@click.argument("dest_url", metavar="DEST_URL")
@click.option(
    "--codec",
    type=click.Choice(["lz4", "zstd", "none"]),
    default="lz4",
    show_default=True,
    help="lz4 decodes fastest, also on GPUs; zstd is smaller.",
)
@click.option("--level", type=click.IntRange(1, 9), help="Effort; the codec's default if absent.")
@click.option(
    "--chunk-bytes",
    type=BYTES,
    default="256KiB",
    show_default=True,
    help="Decoded size of a chunk, the unit of partial reads.",
)
@click.option(
    "--shard-bytes",
    type=BYTES,
    default="1GiB",
    show_default=True,
    help="Size at which a shard is closed and the next one begun.",
)
@click.option(
    "--permute-seed",
    type=click.IntRange(min=0),
    metavar="SEED",
    help="Reorder points and cells, so that any run of them is a uniform sample.",
)
@click.option("--float32", is_flag=True, help="Store 64-bit floats with 32 bits.")
@click.option(
    "--round-bits",
    type=click.IntRange(1, 52),
    metavar="N",
    help="Keep N mantissa bits of floats: lossy, and much smaller. Arrays of one element, "
    "global_data and integers stay as they are.",
)
@click.option(
    "--round",
    "round_arrays",
    type=ROUNDING,
    multiple=True,
    metavar="PATTERN=N",
    help="The same for the arrays that PATTERN names, such as 'point_data/*=10', and instead of "
    "--round-bits; PATTERN=none keeps all bits. Can be given more than once: the last that "
    "matches holds.",
)
@click.option(
    "--fail-on-nan",
    is_flag=True,
    help="Refuse samples with NaN or infinite values, as --on-error says.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Threads that read and encode; 0 (the default) takes one per CPU.",
)
@click.option(
    "--on-error",
    type=click.Choice(["skip", "fail"]),
    default="skip",
    show_default=True,
    help="Leave out sources that cannot be read, or stop at the first.",
)
@click.option("--overwrite", is_flag=True, help="Replace a dataset that is there already.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON on stdout.")
@store_options
def pack(  # one parameter per option is how click hands them over
    *,
    sources: tuple[str, ...],
    dest_url: str,
    on_error: Any,
    as_json: bool,
    quiet: bool,
    endpoint_url: str | None,
    region: str | None,
    anonymous: bool | None,
    **write_options: Any,
) -> None:
    """Convert simulation files to a packed dataset at DEST_URL.

    A SOURCE is a file or a folder, which is searched. Read are VTK files (.vtu .vtp .vti .vtr .vts
    .vtk), those in pieces (.pvtu .pvtp .pvti .pvtr .pvts), their time series (.pvd .series) and
    trees of blocks (.vtm .vtmb .vtpc .vtpd), PLOT3D pairs (…xyz.bin with …q.bin), .npz, .npy, and
    .zip archives of these. Each dataset becomes a sample that is called after its file; values are
    stored bit by bit as they are, unless --float32, --round-bits or --round says otherwise.

    The dataset exists once its index is written, which happens last: a pack that is stopped leaves
    none. Sources that cannot be read are named with the reason.
    """
    from dataplane.pack import pack as pack_sources
    from dataplane.shards import WriteOptions

    if not sources:
        lacks = "a source before" if "://" in dest_url else "a destination after"
        raise ConfigError(
            f"pack lacks {lacks} {dest_url}", hint="write dataplane pack SOURCE... DEST_URL"
        )
    if "://" not in dest_url and Path(dest_url).is_file():
        raise ConfigError(
            f"the last argument is where the dataset goes, and {dest_url} is a file",
            hint="name a bucket or a folder after the sources",
        )
    options = WriteOptions(**write_options)
    store = store_config(endpoint_url, region, anonymous=anonymous)
    started_s = time.monotonic()
    with _terminated_as_interrupt(), shown_progress(is_quiet=quiet) as report:
        summary = pack_sources(
            list(sources), dest_url, options, report, on_error=on_error, store=store
        )
    for pattern in summary.unused_patterns:
        note = f"note: no array matched --round {printable(pattern)}=…"
        print_pieces(Console(stderr=True, highlight=False), [note])
    _print_summary(summary, dest_url, time.monotonic() - started_s, as_json=as_json)


@contextmanager
def _terminated_as_interrupt() -> Iterator[None]:
    """Let SIGTERM clean up as Ctrl-C does: temporary files go, no index is left."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _print_summary(
    summary: PackSummary, dest_url: str, duration_s: float, *, as_json: bool
) -> None:
    if as_json:
        document = {
            "dest_url": dest_url,
            "samples": summary.samples,
            "arrays": summary.arrays,
            "source_bytes": summary.source_bytes,
            "decoded_bytes": summary.decoded_bytes,
            "stored_bytes": summary.stored_bytes,
            "ratio": round(summary.ratio, 4),
            "shards": summary.shards,
            "nonfinite": [dataclasses.asdict(one) for one in summary.nonfinite],
            "duration_s": round(duration_s, 3),
            "skipped": [{"source": label, "reason": reason} for label, reason in summary.skipped],
            "left_out": [
                {"source": label, "what": what, "reason": reason}
                for label, what, reason in summary.left_out
            ],
            "notes": [{"source": label, "note": note} for label, note in summary.notes],
        }
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    rate = format_rate(summary.source_bytes / duration_s)
    skipped = len(summary.skipped)
    lacking = len({label for label, _, _ in summary.left_out})
    is_smaller = summary.decoded_bytes != summary.source_bytes
    came_as = f" (came as {format_bytes(summary.source_bytes)})" if is_smaller else ""
    table = Table.grid(padding=(0, 2))
    rows = [
        ("samples", format_count(summary.samples)),
        ("arrays", format_count(summary.arrays)),
        ("decoded", format_bytes(summary.decoded_bytes) + came_as),
        ("stored", format_bytes(summary.stored_bytes)),
        ("ratio", f"{summary.ratio:.2f}"),
        ("shards", format_count(summary.shards)),
        ("time", f"{format_duration(duration_s)} ({rate})"),
        ("skipped", f"{format_count(skipped)}{', named above' if skipped else ''}"),
    ]
    if lacking:
        parts = f"parts of {format_count(lacking)} {plural('sample', lacking)}, named above"
        rows.append(("left out", parts))
    for name, value in rows:
        table.add_row(name, value)
    console = Console(highlight=False)
    console.print(f"packed to {dest_url}", markup=False, soft_wrap=True)
    console.print(table)
    for one in summary.nonfinite[:_SHOWN_ARRAYS]:
        print_pieces(console, [f"not finite: {one}"])
    if len(summary.nonfinite) > _SHOWN_ARRAYS:
        more = len(summary.nonfinite) - _SHOWN_ARRAYS
        print_pieces(console, [f"not finite: {more} more {plural('array', more)}; see --json"])
