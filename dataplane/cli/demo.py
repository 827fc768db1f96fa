"""`dataplane demo`: the whole data plane on generated data, with figures beside a ceiling.

Two datasets are generated, packed and stored (volumes of one shape, meshes of many), streamed twice
through the DataLoader (cold, then warm from the SSD cache), and one sample is read through a real
mount and compared byte for byte. All of it lives in a temporary folder and an embedded S3 endpoint,
unless `--store` names a bucket. What a killed demo leaves in temporary folders, the next one
removes. The steps are in `demo_steps`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from dataplane.cli.options import BYTES, store_config, store_options
from dataplane.errors import ConfigError
from dataplane.shards.options import CodecName
from dataplane.shards.scratch import ScratchFolder
from dataplane.units import format_bytes, format_duration

__all__ = ["demo"]

_KINDS = {"volumes": "volume", "meshes": "mesh"}
_MIN_SIZE_BYTES = 8 << 20
_FILE_WIDTH = 120  # a pipe or a file has no width of its own


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--size", type=BYTES, default="1GiB", show_default=True, help="Decoded size of the data."
)
@click.option(
    "--codec", type=click.Choice(["lz4", "zstd", "none"]), default="lz4", show_default=True
)
@click.option("--batch-size", type=click.IntRange(1, 1024), default=4, show_default=True)
@click.option("--store", "store_url", metavar="URL", help="Use this bucket or prefix instead.")
@click.option("--seed", default=0, show_default=True, help="Of the data and the order.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@store_options
def demo(
    *,
    size: int,
    codec: CodecName,
    batch_size: int,
    store_url: str | None,
    seed: int,
    as_json: bool,
    **store_arguments: Any,
) -> None:
    """Run the whole data plane on generated data.

    Generates turbulent volumes and surface meshes, packs them, serves them from an S3 endpoint on
    loopback, streams two epochs through the DataLoader, reads a sample through a mount, and prints
    what it measured beside a measured ceiling.

    With --store URL the data goes to a bucket of yours, below a new prefix that is removed at the
    end.
    """
    from dataplane.cli import demo_steps as steps

    if size < _MIN_SIZE_BYTES:
        raise ConfigError(f"--size must be at least {format_bytes(_MIN_SIZE_BYTES)}")
    console = Console(stderr=as_json)
    with ExitStack() as stack:
        folder = stack.enter_context(closing(ScratchFolder())).path
        given = steps.Demo(
            console, folder, store_config(**store_arguments), codec, batch_size, seed
        )
        base_url = stack.enter_context(steps.place(given, store_url))
        stack.enter_context(steps.removed_at_end(given, base_url))
        for name, kind in _KINDS.items():
            steps.pack(given, f"{base_url}/{name}", kind=kind, size_bytes=size // len(_KINDS))
        rows = [row for name in _KINDS for row in steps.stream(given, f"{base_url}/{name}")]
        mounted = steps.check_mount(given, f"{base_url}/volumes")
    if as_json:
        click.echo(json.dumps({"rows": rows, "mount": mounted}, indent=2))
    else:
        if not console.is_terminal:
            console.width = max(console.width, _FILE_WIDTH)
        console.print(_table(rows, size))
        console.print(f"mount: {mounted}")


def _table(rows: list[dict[str, Any]], size: int) -> Table:
    table = Table(title=f"dataplane demo, {format_bytes(size)} decoded", title_justify="left")
    table.add_column("epoch", no_wrap=True)
    columns: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("samples/s", lambda row: f"{row['samples_per_s']:.1f}"),
        ("decoded GB/s", lambda row: f"{row['gb_per_s']:.2f}"),
        ("CPU-s/GB", lambda row: f"{row['cpu_s_per_gb']:.2f}"),
        ("first batch", lambda row: format_duration(row["first_batch_s"])),
        ("from store", lambda row: format_bytes(row["bytes_from_store"])),
        ("hit rate", lambda row: "" if row["hit_rate"] is None else f"{row['hit_rate']:.0%}"),
        ("of ceiling", lambda row: f"{row['ratio_to_ceiling']:.2f} of {row['ceiling']}"),
    ]
    for title, _ in columns:
        table.add_column(title, justify="right", no_wrap=title != "of ceiling")
    for row in rows:
        table.add_row(f"{row['dataset']}, {row['state']}", *(render(row) for _, render in columns))
    return table
