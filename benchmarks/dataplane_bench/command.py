"""`dataplane bench decode|store|loader|cache|gpu`: commands that run a case and show its rows."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from dataplane.cli.groups import CommandGroup
from dataplane.cli.options import BYTES, FiniteRange
from dataplane.extras import missing_package
from dataplane_bench.machine import describe_gpu, describe_machine, require_release_build
from dataplane_bench.model import Figure, Measured, Row
from dataplane_bench.plot import check_plot, save_plot
from dataplane_bench.report import print_report, to_json

__all__ = ["bench"]

CommandT = TypeVar("CommandT", bound=Callable[..., Any])
_Found = list[Row] | tuple[list[Row], list[Figure]] | Measured


class _Numbers(click.ParamType[tuple[float, ...]]):
    """Numbers that are not negative, with commas between."""

    name = "numbers"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """Turn text into numbers."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(float(one) for one in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not numbers with commas between", param, ctx)
        if not all(0 <= one < math.inf for one in numbers):
            self.fail(f"{value!r} has a number that is negative or not finite", param, ctx)
        return tuple(dict.fromkeys(numbers))


NUMBERS = _Numbers()


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
@click.option(
    "--size", "total_bytes", type=BYTES, help="Decoded size of each dataset, about (1GiB)."
)
@click.option(
    "--case",
    "cases",
    multiple=True,
    help="Repeatable (all): volumes-14mb, volumes-33mb, samples-64k, crops, runs, unet3d.",
)
@click.option("--state", "states", multiple=True, help="Repeatable (all): cold, cloud, warm.")
@click.option("--rival", "rivals", multiple=True, help="Repeatable (all that are installed).")
@click.option("--codec", type=click.Choice(["lz4", "zstd"]), help="Codec beside raw data (lz4).")
@click.option("--batch-size", type=click.IntRange(1, 4096), help="Samples per batch (by case).")
@click.option(
    "--threads", type=click.IntRange(0, 256), multiple=True, help="Ours; repeatable (as --workers)."
)
@click.option("--workers", type=click.IntRange(0, 256), multiple=True, help="Of rivals (0 and 2).")
@click.option(
    "--step-ms",
    "steps_ms",
    type=NUMBERS,
    help="Lengths of an emulated training step, with commas between (0,10).",
)
@click.option("--au", is_flag=True, help="Utilisation, also in the shape of MLPerf's unet3d.")
@click.option(
    "--part",
    "parts",
    type=click.Choice(["large", "small"]),
    multiple=True,
    help="Repeatable (both): the cases, and samples of many small arrays.",
)
@_shared_options
def loader_command(
    *,
    total_bytes: int | None,
    cases: Sequence[str],
    states: Sequence[str],
    rivals: Sequence[str],
    codec: str | None,
    batch_size: int | None,
    threads: Sequence[int],
    workers: Sequence[int],
    steps_ms: tuple[float, ...] | None,
    au: bool,
    parts: Sequence[str],
    **shared: Any,
) -> None:
    """Stream epochs cold, from a cloud and warm, beside rivals.

    Our DataLoader over compressed and over raw data, beside LitData, MosaicML Streaming,
    webdataset, zarr-python and tensorstore, each with the settings that it is fastest with; a
    training step beside the load with --step-ms. Small samples beside torch's DataLoader over the
    same dataset.
    """
    from dataplane_bench.cases import loader

    small: dict[str, Any] = {}
    if shared["smoke"]:
        small = {
            "total_bytes": 1 << 20, "tiny": True, "rounds": 1, "workers": (0,),
            "cases": ("unet3d" if au else "volumes-14mb",), "states": ("cloud", "warm"),
            "steps_ms": (0.0, 2.0), "small_samples": 150,
        }  # fmt: skip
    given = {
        "total_bytes": total_bytes,
        "cases": tuple(cases),
        "states": tuple(states),
        "rivals": tuple(rivals),
        "codec": codec,
        "batch_size": batch_size,
        "threads": tuple(threads),
        "workers": tuple(workers),
        "steps_ms": steps_ms,
        "au": au or None,
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
    type=click.Choice(["reads", "fill", "hit-rate", "nodes", "entries"]),
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
    and the optimum, and of nodes that share samples out by owner; attaching, opening, evicting and
    listing by the number of entries.
    """
    from dataplane_bench.cases import cache

    small: dict[str, Any] = {}
    if shared["smoke"]:
        small = {
            "object_bytes": 24 << 20, "reads": 8, "rounds": 1, "shares": (0.1, 0.5),
            "rate_blocks": 40, "nodes": 2, "node_samples": 64, "entries": (50, 100),
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
    type=FiniteRange(1, 100),
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
    case: Callable[[Callable[[str], None]], _Found],
    shared: dict[str, Any],
    devices: Callable[[], dict[str, object]] = dict,
) -> None:
    require_release_build()
    if shared["plot"]:
        check_plot(shared["plot"])
    console = Console(stderr=shared["as_json"], highlight=False)
    with console.status("preparing") as status:
        measured = case(status.update)
    if isinstance(measured, tuple):
        measured = Measured(*measured)
    elif not isinstance(measured, Measured):
        measured = Measured(measured)
    machine = describe_machine() | devices()
    if shared["plot"]:
        save_plot(shared["plot"], machine, measured.rows, measured.figures, smoke=shared["smoke"])
    found = (measured.rows, measured.figures)
    rest: dict[str, Any] = {"left_out": measured.left_out, "notes": measured.notes}
    if shared["as_json"]:
        sys.stdout.write(to_json(machine, *found, **rest) + "\n")
    else:
        print_report(console, machine, *found, **rest)
