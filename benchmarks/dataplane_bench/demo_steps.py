"""The steps of `dataplane demo`: place, pack, stream, mount. No option parsing, no tables.

Each step takes the `Demo` with its settings; figures come back as dictionaries, ready for a table
or `--json`. The mount is served by the command that a user would type, in a process of its own,
because a process that serves a mount must not read it.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from dataplane.cache import Cache, CacheConfig
from dataplane.cli.text import plural
from dataplane.datasets import Dataset
from dataplane.errors import BucketNotFound, DataplaneError, MountError, NotFound
from dataplane.loader import DataLoader
from dataplane.shards import CodecName, DatasetIndex, DatasetWriter, WriteOptions
from dataplane.stores import StoreConfig, open_store
from dataplane.units import format_bytes
from dataplane_testing.ceilings import fetch_everything, memcpy_seconds
from dataplane_testing.generate import generate_samples
from dataplane_testing.s3 import S3Endpoint

__all__ = ["Demo", "check_mount", "check_place", "pack", "place", "removed_at_end", "stream"]

_BUCKET = "demo"
_COMPARE_BYTES = 8 << 20
_MOUNT_TIMEOUT_S = 60.0
_MOUNT_POLL_S = 0.02
# Source: prctl(2). The kernel sends SIGTERM when the parent dies, at which a mount is removed. The
# parent may be gone before that is set.
_TIED_TO_PARENT = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
if os.getppid() != int(sys.argv.pop(1)):
    sys.exit("the demo is gone")
sys.argv[0] = "dataplane"
from dataplane.cli.main import main
main()
"""


@dataclass(frozen=True, slots=True)
class Demo:
    """Settings of the demo.

    Attributes:
        console: console of progress messages.
        folder: folder of everything local.
        store: configuration of the store.
        codec: codec of the packed datasets.
        batch_size: samples per batch.
        seed: seed of the data and the order.
    """

    console: Console
    folder: Path
    store: StoreConfig
    codec: CodecName
    batch_size: int
    seed: int


@contextmanager
def place(console: Console, folder: Path, store_url: str | None) -> Iterator[str]:
    """Yield the URL to work below: in the user's store, or in an embedded endpoint.

    For the embedded one the environment leads there for the length of the block.
    """
    if store_url is not None:
        url = f"{store_url.rstrip('/')}/dataplane-demo-{uuid.uuid4().hex[:8]}"
        console.print(f"store: {url}", markup=False)
        yield url
        return
    with S3Endpoint(root=folder / "s3", buckets=(_BUCKET,)) as endpoint, endpoint.exported():
        console.print(f"store: s3://{_BUCKET} at {endpoint.url} (embedded, a process of its own)")
        yield f"s3://{_BUCKET}/dataplane-demo"


def check_place(url: str, config: StoreConfig) -> None:
    """Check that the store can be listed, so that faults show before data is generated.

    Raises:
        StoreError: no such bucket, refused credentials, no response.
    """
    with closing(open_store(url, config)) as store:
        try:
            store.list_level("")
        except BucketNotFound:
            raise
        except NotFound:
            pass  # a local folder that the first write makes


@contextmanager
def removed_at_end(demo: Demo, base_url: str) -> Iterator[None]:
    """Remove every object below the URL at the end, also after an error."""
    try:
        yield
    finally:
        store = open_store(base_url, demo.store)
        with suppress(DataplaneError):  # the user must read the error before this one
            for info in list(store.list()):
                store.delete(info.key)
        store.close()


def pack(demo: Demo, url: str, *, kind: str, size_bytes: int) -> int:
    """Generate samples of one kind, write them as a packed dataset, return their decoded size."""
    store = open_store(url, demo.store)
    name = url.rsplit("/", 1)[1]
    options = WriteOptions(codec=demo.codec)
    with _progress(demo.console) as progress, DatasetWriter(store, options) as writer:
        task = progress.add_task(f"generate, pack {name}", total=size_bytes)
        for sample in generate_samples(size_bytes, seed=demo.seed, kinds=(kind,)):
            writer.add(sample)
            progress.advance(task, sum(a.values.nbytes for a in sample.arrays.values()))
        summary = writer.finish()
        progress.update(task, completed=size_bytes)
    store.close()
    demo.console.print(
        f"  {summary.samples} {plural('sample', summary.samples)}, "
        f"{format_bytes(summary.decoded_bytes)} as {format_bytes(summary.stored_bytes)} in "
        f"{summary.shards} {plural('shard', summary.shards)} (ratio {summary.ratio:.2f})"
    )
    return summary.decoded_bytes


def stream(demo: Demo, url: str) -> list[dict[str, Any]]:
    """Read a cold and a warm epoch; return one row of figures for each."""
    name = url.rsplit("/", 1)[1]
    cache_config = CacheConfig(dir=demo.folder / "cache" / name)
    raw_get_s = _raw_get_seconds(demo, url)
    dataset = Dataset(url, cache=cache_config, store=demo.store)
    loader = DataLoader(
        dataset,
        batch_size=demo.batch_size,
        shuffle=True,
        seed=demo.seed,
        num_workers=len(os.sched_getaffinity(0)),
    )
    counters = Cache.shared(cache_config).counters
    rows = []
    for state in ("cold", "warm"):
        before = counters.snapshot()
        row = _epoch(demo.console, loader, len(dataset), f"{state} epoch, {name}")
        grown = {key: n - before.get(key, 0) for key, n in counters.snapshot().items()}
        read = grown.get("cache_hit_bytes", 0) + grown.get("cache_miss_bytes", 0)
        fetched = grown.get("cache_fetch_bytes", 0)
        if state == "cold":
            ceiling, ceiling_s = "raw GET", raw_get_s
        else:
            batches = -(-len(dataset) // demo.batch_size)
            nbytes = row["decoded_bytes"]
            ceiling, ceiling_s = "memcpy", memcpy_seconds(nbytes, piece_bytes=nbytes // batches)
        row |= {
            "dataset": name,
            "state": state,
            "bytes_from_store": int(fetched),
            # A block fetched ahead of its reader is no hit: it came from the store in this epoch.
            "hit_rate": max(0.0, 1 - fetched / read) if read else None,
            "ceiling": ceiling,
            "ratio_to_ceiling": ceiling_s / row["elapsed_s"],
        }
        rows.append(row)
    return rows


def check_mount(demo: Demo, url: str) -> str:
    """Read one sample through a mount and compare it with the store's bytes; print the result.

    Raises:
        MountError: the bytes differ.
    """
    if not Path("/dev/fuse").exists():
        return "skipped: this system has no /dev/fuse"
    with ExitStack() as stack:
        try:
            mountpoint = stack.enter_context(_mounted(demo, url))
        except MountError as err:
            return f"skipped: {err}"
        return _compare(demo, url, mountpoint)


def _progress(console: Console, *columns: Any) -> Progress:
    return Progress(
        TextColumn("{task.description:<24}"),
        BarColumn(),
        TaskProgressColumn(),
        *columns,
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=console,
    )


def _raw_get_seconds(demo: Demo, url: str) -> float:
    """The cold ceiling: the dataset's bytes, fetched by the same client and dropped; best of 2."""
    store = open_store(url, demo.store)
    best = float("inf")
    for _ in range(2):
        start = perf_counter()
        fetch_everything(store)
        best = min(best, perf_counter() - start)
    store.close()
    return best


def _epoch(
    console: Console, loader: DataLoader[Any], samples: int, description: str
) -> dict[str, Any]:
    decoded = 0
    first_batch_s = None
    with _progress(console, MofNCompleteColumn(), TextColumn("samples")) as progress:
        task = progress.add_task(description, total=samples)
        start, cpu_start = perf_counter(), _cpu_seconds()
        for batch in loader:
            if first_batch_s is None:
                first_batch_s = perf_counter() - start
            decoded += sum(
                value.nbytes
                for name, value in batch.items()
                if name != "__key__" and not name.endswith(".offsets")
            )
            progress.advance(task, len(batch["__key__"]))
        elapsed_s, cpu_s = perf_counter() - start, _cpu_seconds() - cpu_start
    return {
        "samples_per_s": samples / elapsed_s,
        "gb_per_s": decoded / elapsed_s / 1e9,
        "cpu_s_per_gb": cpu_s / decoded * 1e9,
        "first_batch_s": first_batch_s,
        "decoded_bytes": decoded,
        "elapsed_s": elapsed_s,
    }


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


@contextmanager
def _mounted(demo: Demo, url: str) -> Iterator[Path]:
    """Serve a mount from a process that ends with this one, even if this one is killed."""
    mountpoint = demo.folder / "mnt"
    mountpoint.mkdir()
    arguments = ["mount", "--foreground", url, str(mountpoint)]
    arguments += ["--cache-dir", str(demo.folder / "cache" / "mount")]
    if demo.store.endpoint_url:
        arguments += ["--endpoint-url", demo.store.endpoint_url]
    if demo.store.region:
        arguments += ["--region", demo.store.region]
    if demo.store.anonymous:
        arguments += ["--anonymous"]
    log = demo.folder / "mount.log"
    command = [sys.executable, "-c", _TIED_TO_PARENT, str(os.getpid()), *arguments]
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        ) as process,
    ):
        try:
            with demo.console.status("mounting"):
                _wait_for_mount(process, mountpoint, log)
            yield mountpoint
        finally:
            process.terminate()  # it unmounts then
            try:
                process.wait(_MOUNT_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_for_mount(process: subprocess.Popen[bytes], mountpoint: Path, log: Path) -> None:
    deadline_s = monotonic() + _MOUNT_TIMEOUT_S
    while not mountpoint.is_mount():
        if process.poll() is not None:
            lines = log.read_text(errors="replace").strip().splitlines() or ["it gave no message"]
            raise MountError(f"`dataplane mount` failed: {lines[-1]}")
        if monotonic() > deadline_s:
            raise MountError(f"`dataplane mount` took more than {_MOUNT_TIMEOUT_S:.0f} s")
        sleep(_MOUNT_POLL_S)


def _compare(demo: Demo, url: str, mountpoint: Path) -> str:
    store = open_store(url, demo.store)
    entry = DatasetIndex.load(store)[0]
    path = mountpoint / f"{entry.key}.zarr.zip"
    size = entry.zip_stop - entry.zip_start
    if path.stat().st_size != size:
        raise MountError(f"{path} has {path.stat().st_size} bytes through the mount, not {size}")
    with path.open("rb") as stream:
        for start in range(0, size, _COMPARE_BYTES):
            stop = min(start + _COMPARE_BYTES, size)
            first = entry.zip_start
            expected = store.get_range(entry.shard, first + start, first + stop)
            if stream.read(stop - start) != bytes(expected):
                raise MountError(f"{path} differs from the store in bytes {start} to {stop}")
    store.close()
    return f"{path.name} ({format_bytes(size)}) read through the mount equals the store's bytes"
