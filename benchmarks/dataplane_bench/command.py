"""`dataplane bench decode|store|loader|cache|gpu`: commands that run a case and show its rows."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from dataplane.cli.groups import CommandGroup
from dataplane.cli.options import BYTES
from dataplane.extras import missing_package
from dataplane_bench.machine import describe_gpu, describe_machine, require_release_build
from dataplane_bench.model import Figure, Row
from dataplane_bench.plot import check_plot, save_plot
from dataplane_bench.report import print_report, to_json

__all__ = ["bench"]

CommandT = TypeVar("CommandT", bound=Callable[..., Any])
_Measured = list[Row] | tuple[list[Row], list[Figure]]


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
def bench() -> None:
    """Measure throughput beside rivals and measured ceilings.

    Every case runs all systems in interleaved rounds on the same input and prints medians with
    their spread. Quote the ratios: absolute figures belong to the machine that printed them.
    """


def _shared_options(command: CommandT) -> CommandT:
    for decorate in (
        click.option("--seed", default=0, show_default=True, help="Of the data and the order."),
        click.option("--smoke", is_flag=True, help="Tiny input, one round: checks that it runs."),
        click.option(
            "--plot",
            type=click.Path(path_type=Path, dir_okay=False),
            help="Also draw everything to this .png, .svg or .pdf file.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output."),
        click.option(
            "--rounds", type=click.IntRange(1, 1000), help="Counted rounds (default: 5 or more)."
        ),
    ):
        command = decorate(command)
    return command


@bench.command("decode")
@click.option("--data", multiple=True, help="Arrays read whole; repeatable (turbulence).")
@click.option("--selection", "selections", multiple=True, help="whole, crop or run (all three).")
@click.option(
    "--codec", "codecs", multiple=True, help="Repeatable (blosc-zstd and blosc-lz4); see --full."
)
@click.option(
    "--chunk-bytes", type=BYTES, multiple=True, help="Inner chunk size; repeatable (64k, 512k)."
)
@click.option("--threads", type=click.IntRange(1, 256), multiple=True, help="Repeatable (1).")
@click.option("--full", is_flag=True, help="All data, codecs, chunk sizes, 1 and 2 threads: hours.")
@click.option(
    "--callgrind", "count_instructions", is_flag=True, help="Count instructions with valgrind, too."
)
@_shared_options
def decode_command(
    *,
    data: Sequence[str],
    selections: Sequence[str],
    codecs: Sequence[str],
    chunk_bytes: Sequence[int],
    threads: Sequence[int],
    full: bool,
    count_instructions: bool,
    **shared: Any,
) -> None:
    """Decode Zarr arrays, crops and runs, beside rivals.

    The rivals are all readers of Zarr that are installed.
    """
    from dataplane_bench.cases import decode

    preset: dict[str, Any] = {}
    if full:
        preset = {
            "data": decode.WHOLE_ARRAYS, "codecs": decode.CODECS,
            "chunk_bytes": decode.CHUNK_BYTES, "threads": (1, 2),
        }  # fmt: skip
    if shared["smoke"]:
        preset |= {
            "sizes": decode.Sizes.small(), "selections": ("whole", "run"),
            "codecs": ("blosc-zstd",), "chunk_bytes": (16 << 10,), "rounds": 1,
        }  # fmt: skip
    given = {
        "data": tuple(data),
        "selections": tuple(selections),
        "codecs": tuple(codecs),
        "chunk_bytes": tuple(chunk_bytes),
        "threads": tuple(threads),
        "count_instructions": count_instructions,
    }
    options = _options(decode.DecodeOptions, preset, given, shared)
    _run(lambda progress: decode.run(options, progress), shared)


@bench.command("store")
@click.option("--store", "store_url", help="Prefix to write to and read from (default: embedded).")
@click.option("--connections", type=click.IntRange(1, 256), multiple=True, help="Repeatable.")
@click.option("--tls", is_flag=True, default=None, help="The embedded endpoint speaks TLS.")
@_shared_options
def store_command(
    *, store_url: str | None, connections: Sequence[int], tls: bool | None, **shared: Any
) -> None:
    """Read ranges of one object, beside rivals.

    Our store, its client alone, s3fs, a raw socket.
    """
    if store_url and tls:
        raise click.UsageError("--tls is of the embedded endpoint; --store names another server")
    from dataplane_bench.cases import store

    small = {"object_bytes": 32 << 20, "requests": 8, "rounds": 1} if shared["smoke"] else {}
    given = {"store_url": store_url, "connections": tuple(connections), "tls": tls}
    options = _options(store.StoreOptions, small, given, shared)
    _run(lambda progress: store.run(options, progress), shared)


@bench.command("loader")
@click.option("--size", "total_bytes", type=BYTES, help="Decoded size of the dataset (1GiB).")
@click.option("--codec", type=click.Choice(["lz4", "zstd"]), help="Codec of the dataset (lz4).")
@click.option("--batch-size", type=click.IntRange(1, 4096), help="Samples per batch (2).")
@click.option("--threads", type=click.IntRange(0, 256), help="Our decode threads (all cores).")
@click.option("--workers", type=click.IntRange(0, 256), multiple=True, help="Of rivals (0 and 2).")
@click.option(
    "--part",
    "parts",
    type=click.Choice(["large", "small"]),
    multiple=True,
    help="Repeatable (both): large samples cold and warm, small ones in batches of 64 and 1.",
)
@_shared_options
def loader_command(
    *,
    total_bytes: int | None,
    codec: str | None,
    batch_size: int | None,
    threads: int | None,
    workers: Sequence[int],
    parts: Sequence[str],
    **shared: Any,
) -> None:
    """Stream an epoch cold and warm, beside rivals.

    Our DataLoader, zarr-python in torch's DataLoader, webdataset; for small samples torch's
    DataLoader over the same dataset.
    """
    from dataplane_bench.cases import loader

    small = (
        {
            "total_bytes": 16 << 20,
            "sample_bytes": 1 << 20,
            "rounds": 1,
            "workers": (0,),
            "small_samples": 150,
        }
        if shared["smoke"]
        else {}
    )
    given = {
        "total_bytes": total_bytes,
        "codec": codec,
        "batch_size": batch_size,
        "threads": threads,
        "workers": tuple(workers),
        "parts": tuple(parts),
    }
    options = _options(loader.LoaderOptions, small, given, shared)
    _run(lambda progress: loader.run(options, progress), shared)


@bench.command("cache")
@click.option(
    "--cache-dir",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Make the cache directories here, on the disk to measure.",
)
@click.option("--size", "object_bytes", type=BYTES, help="Of the object (512MiB).")
@click.option("--threads", "fetch_threads", type=click.IntRange(1, 256), help="Downloads (8).")
@click.option("--encrypt", is_flag=True, default=None, help="Measure an encrypted cache.")
@click.option("--tls", is_flag=True, default=None, help="The endpoint of the fill speaks TLS.")
@click.option(
    "--part",
    "parts",
    type=click.Choice(["reads", "fill", "hit-rate", "entries"]),
    multiple=True,
    help="Repeatable (all).",
)
@click.option(
    "--entries",
    type=click.IntRange(50, 10_000_000),
    multiple=True,
    help="Of that part; repeatable (1,000 10,000 100,000).",
)
@_shared_options
def cache_command(
    *,
    parts: Sequence[str],
    entries: Sequence[int],
    cache_dir: Path | None,
    object_bytes: int | None,
    fetch_threads: int | None,
    encrypt: bool | None,
    tls: bool | None,
    **shared: Any,
) -> None:
    """Read through the cache, fill it, and see what it keeps.

    Warm reads beside pread; a cold fill beside raw GETs; hit rates of shuffled epochs beside LRU
    and the optimum; attaching, opening, evicting and listing by the number of entries.
    """
    from dataplane_bench.cases import cache

    small: dict[str, Any] = {}
    if shared["smoke"]:
        small = {
            "object_bytes": 24 << 20, "reads": 8, "rounds": 1, "shares": (0.1, 0.5),
            "rate_blocks": 40, "entries": (50, 100),
        }  # fmt: skip
    given = {
        "parts": tuple(parts),
        "entries": tuple(entries),
        "cache_dir": cache_dir,
        "object_bytes": object_bytes,
        "fetch_threads": fetch_threads,
        "encrypt": encrypt,
        "tls": tls,
    }
    options = _options(cache.CacheOptions, small, given, shared)
    _run(lambda progress: cache.run(options, progress), shared)


@bench.command("gpu")
@click.option("--device", help="Such as cuda:1 or cpu (a GPU if there is one).")
@click.option(
    "--part",
    "parts",
    type=click.Choice(["link", "inflate", "place", "passes", "step"]),
    multiple=True,
    help="Repeatable (all; without a GPU inflate, place and passes).",
)
@click.option(
    "--codec",
    "codecs",
    type=click.Choice(["lz4", "zstd"]),
    multiple=True,
    help="Repeatable (both).",
)
@click.option(
    "--chunk-bytes",
    type=BYTES,
    multiple=True,
    help="Chunks to inflate and place; repeatable (16k to 512k).",
)
@click.option(
    "--ratio",
    "ratios",
    type=click.FloatRange(1, 100),
    multiple=True,
    help="Of the datasets, about; repeatable (1.2, 2, 4).",
)
@click.option("--batch-size", type=click.IntRange(1, 4096), help="Samples per batch (2).")
@click.option("--threads", type=click.IntRange(1, 256), help="Native threads (all cores, to 16).")
@_shared_options
def gpu_command(
    *,
    device: str | None,
    parts: Sequence[str],
    codecs: Sequence[str],
    chunk_bytes: Sequence[int],
    ratios: Sequence[float],
    batch_size: int | None,
    threads: int | None,
    **shared: Any,
) -> None:
    """Send batches to a GPU, and see what limits that.

    The link, inflation, un-shuffling and placing, each beside its ceiling; whole passes decoded on
    the CPU, on the GPU and by choice; utilisation beside a 3D U-Net step. Without a GPU: the same
    of the CPU, as far as it means something.
    """
    if importlib.util.find_spec("torch") is None:
        raise missing_package("dataplane bench gpu", "torch")
    from dataplane_bench.cases import gpu

    small: dict[str, Any] = {}
    if shared["smoke"]:
        small = {
            "sizes": gpu.Sizes.small(), "chunk_bytes": (16 << 10, 64 << 10), "ratios": (2.0,),
            "rounds": 1,
        }  # fmt: skip
    given = {
        "device": device,
        "parts": tuple(parts),
        "codecs": tuple(codecs),
        "chunk_bytes": tuple(chunk_bytes),
        "ratios": tuple(ratios),
        "batch_size": batch_size,
        "threads": threads,
    }
    options = _options(gpu.GpuOptions, small, given, shared)
    target = gpu.target_of(options)
    on_cpu = target.type == "cpu"
    if shared["smoke"] and not options.parts:
        # The step, too, which says nothing on the CPU, but must run there so that it does not rot.
        every = tuple(part for part in gpu.PARTS if part != "link" or not on_cpu)
        options = dataclasses.replace(options, parts=every)
    if on_cpu:
        click.echo(gpu.CPU_ROWS if device else gpu.NO_GPU, err=True)
    _run(
        lambda progress: gpu.run(options, progress),
        shared,
        lambda: {} if on_cpu else {"gpu": describe_gpu(target.index)},
    )


OptionsT = TypeVar("OptionsT")


def _options(
    cls: type[OptionsT], small: dict[str, Any], given: dict[str, Any], shared: dict[str, Any]
) -> OptionsT:
    """Merge the case's defaults, the smoke sizes and the options given."""
    typed = {name: value for name, value in given.items() if value not in (None, ())}
    typed |= {name: shared[name] for name in ("rounds", "seed") if shared[name] is not None}
    known = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    assert set(typed) | set(small) <= known
    return cls(**(small | typed))


def _run(
    case: Callable[[Callable[[str], None]], _Measured],
    shared: dict[str, Any],
    devices: Callable[[], dict[str, object]] = dict,
) -> None:
    require_release_build()
    if shared["plot"]:
        check_plot(shared["plot"])
    console = Console(stderr=shared["as_json"], highlight=False)
    with console.status("preparing") as status:
        measured = case(status.update)
    rows, figures = measured if isinstance(measured, tuple) else (measured, [])
    machine = describe_machine() | devices()
    if shared["plot"]:
        save_plot(shared["plot"], machine, rows, figures, smoke=shared["smoke"])
    if shared["as_json"]:
        sys.stdout.write(to_json(machine, rows, figures) + "\n")
    else:
        print_report(console, machine, rows, figures)
