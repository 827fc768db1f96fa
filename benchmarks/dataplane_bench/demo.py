"""`dataplane demo`: the whole data plane on generated data, with figures beside a ceiling.

Two datasets are generated, packed and stored (volumes of one shape, meshes of many), streamed twice
through the DataLoader (cold, then warm from the SSD cache), and one sample is read through a real
mount and compared byte for byte. All of it lives in a temporary folder and an embedded S3 endpoint,
unless `--store` names a bucket. Leftovers of a killed demo in temporary folders are removed by the
next one. The steps are in `demo_steps`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

import click
from rich.console import Console

from dataplane.cli.options import BYTES, store_config, store_options
from dataplane.cli.text import PIPED_WIDTH, Column, print_fitted
from dataplane.errors import ConfigError
from dataplane.shards.options import CodecName
from dataplane.shards.scratch import ScratchFolder
from dataplane.units import format_bytes, format_duration

__all__ = ["demo"]

_KINDS = {"volumes": "volume", "meshes": "mesh"}
_MIN_SIZE_BYTES = 8 << 20


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--size", type=BYTES, default="1GiB", show_default=True, help="Decoded size of the data, about."
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
    if size < _MIN_SIZE_BYTES:
        raise ConfigError(f"--size must be at least {format_bytes(_MIN_SIZE_BYTES)}")
    if store_url is None and any(value is not None for value in store_arguments.values()):
        raise ConfigError(
            "--endpoint-url, --region and --anonymous say how to reach your own store",
            hint="add --store URL, or leave them out to use the embedded endpoint",
        )
    from dataplane_bench import demo_steps as steps

    console = Console(stderr=as_json, highlight=False)
    with ExitStack() as stack:
        folder = stack.enter_context(closing(ScratchFolder())).path
        base_url = stack.enter_context(steps.place(console, folder, store_url))
        # Only now: within the block the environment leads to the place.
        store = store_config(**store_arguments)
        steps.check_place(base_url, store)
        given = steps.Demo(console, folder, store, codec, batch_size, seed)
        stack.enter_context(steps.removed_at_end(given, base_url))
        decoded = 0  # whole samples are generated, so it is seldom just the size asked for
        for name, kind in _KINDS.items():
            share = size // len(_KINDS)
            decoded += steps.pack(given, f"{base_url}/{name}", kind=kind, size_bytes=share)
        rows = [row for name in _KINDS for row in steps.stream(given, f"{base_url}/{name}")]
        mounted = steps.check_mount(given, f"{base_url}/volumes")
    if as_json:
        document = {"decoded_bytes": decoded, "rows": rows, "mount": mounted}
        click.echo(json.dumps(document, indent=2))
    else:
        if not console.is_terminal:
            console.width = max(console.width, PIPED_WIDTH)
        _print(console, rows, decoded)
        console.print(f"mount: {mounted}", markup=False, soft_wrap=True)


def _print(console: Console, rows: list[dict[str, Any]], decoded: int) -> None:
    def column(
        heading: str, render: Callable[[dict[str, Any]], str], *, is_text: bool = False,
        drop: int | None = None,
    ) -> Column:  # fmt: skip
        return Column(heading, [render(row) for row in rows], is_text=is_text, drop=drop)

    columns = [
        column("epoch", lambda row: f"{row['dataset']}, {row['state']}", is_text=True),
        column("samples/s", lambda row: f"{row['samples_per_s']:.1f}"),
        column("decoded GB/s", lambda row: f"{row['gb_per_s']:.2f}"),
        column("CPU-s/GB", lambda row: f"{row['cpu_s_per_gb']:.2f}", drop=1),
        column("first batch", lambda row: format_duration(row["first_batch_s"]), drop=2),
        column("from store", lambda row: format_bytes(row["bytes_from_store"]), drop=3),
        column("hit rate", lambda row: _percent(row["hit_rate"]), drop=4),
        column("of ceiling", lambda row: f"{row['ratio_to_ceiling']:.2f} of {row['ceiling']}"),
    ]
    print_fitted(console, columns, title=f"dataplane demo, {format_bytes(decoded)} decoded")


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"
