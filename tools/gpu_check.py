"""Check and time the GPU route on this machine, and write the figures into docs/gpu.md.

    python tools/gpu_check.py              needs a GPU; under ten minutes
    python tools/gpu_check.py --dry-run    the same on the CPU, with little data; writes no figures

Packages that are missing are installed from the folder in GPU_WHEELS, if it is set, and the native
module is built if it is not there. Then, in this order: batches by both routes against the native
decoder, both inflaters against each other, the tests marked `gpu`, and the rows and figures of
`dataplane bench gpu`, in few rounds. The first thing that is wrong ends it, with exit status 1.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataplane_bench.model import Figure, Row

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "gpu.md"
BEGIN, END = "<!-- figures -->\n", "<!-- end of figures -->\n"
FOR_TESTS = {
    "pytest": "pytest",
    "pytest_timeout": "pytest-timeout",
    "hypothesis": "hypothesis",
    "lz4": "lz4",
    "zstandard": "zstandard",
    "moto": "moto[server]",
    "boto3": "boto3",
}
"""What the tests import beside what they test; without it they are not run."""

NOT_RUN = "not yet run on a GPU\n"
ROUNDS = 3
"""Counted rounds of the benchmark: all of it takes less than ten minutes."""


def say(text: str) -> None:
    """Print at once: a run that is cut off has said how far it came."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


def prepare(*, dry: bool) -> None:
    """Install what is missing, build what is not there."""
    wheels = os.environ.get("GPU_WHEELS")
    sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
    needed = {name: name for name in ("click", "fsspec", "numpy", "obstore", "pyarrow", "rich")}
    needed |= {"cloudpickle": "cloudpickle", "nvidia.libnvcomp": _dali(), "triton": "triton"}
    if importlib.util.find_spec("dataplane._native") is None:
        needed |= {"scikit_build_core": "scikit-build-core", "nanobind": "nanobind"}
    for module, package in (needed | FOR_TESTS).items():
        with contextlib.suppress(ImportError):
            if importlib.util.find_spec(module) is not None:
                continue
        if not wheels or dry:
            say(f"{package}: is missing")
            continue
        try:
            pip("install", "--no-index", f"--find-links={wheels}", package)
            say(f"{package}: installed from {wheels}")
        except subprocess.CalledProcessError:
            if module in needed:
                raise
            say(f"{package}: not in {wheels}; tests that want it are not run")
    if importlib.util.find_spec("dataplane._native") is None:
        say("building the native module")
        offline = ["--no-index", f"--find-links={wheels}"] if wheels else []
        pip("install", *offline, "--no-build-isolation", "--no-deps", "-e", str(ROOT))
        importlib.invalidate_caches()


def _dali() -> str:
    """Return the package of DALI, which brings nvCOMP, for the CUDA that torch is built for."""
    import torch

    major = (torch.version.cuda or "13").partition(".")[0]
    return f"nvidia-dali-cuda{major}0"


def pip(*arguments: str) -> None:
    """Run pip of this interpreter."""
    subprocess.run([sys.executable, "-m", "pip", *arguments], check=True)


@contextlib.contextmanager
def packed(folder: Path, codec: str, bits: int, *, samples: int, side: int) -> Iterator[Any]:
    """Pack noisy volumes with `bits` bits of mantissa, and yield the dataset."""
    import numpy as np

    import dataplane as dp
    from dataplane.shards import DatasetWriter, SourceArray, SourceSample, WriteOptions
    from dataplane.stores import open_store

    at = folder / f"{codec}-{bits}-{samples}-{side}"
    rng = np.random.default_rng(bits)
    axis = np.linspace(0, 9, side, dtype=np.float32)
    smooth = np.sin(axis)[:, None, None] + np.cos(axis)[None, :, None] * axis[None, None, :]
    mask = np.uint32(0xFFFFFFFF << (23 - min(bits, 23)) & 0xFFFFFFFF)
    with DatasetWriter(open_store(f"file://{at}"), WriteOptions(codec=codec)) as writer:
        for number in range(samples):
            field = smooth + rng.standard_normal(smooth.shape, np.float32) / 10
            field = (field.view(np.uint32) & mask).view(np.float32)
            arrays = {
                "fields/density": field,
                "points": rng.standard_normal((1000 + 37 * number, 3)).astype(np.float32),
                "cells/types": rng.integers(0, 5, 333 + number).astype(np.uint8),
            }
            writer.add(
                SourceSample(
                    key=f"s{number:04d}",
                    arrays={n: SourceArray(a, None, None, {}) for n, a in arrays.items()},
                    attributes={},
                )
            )
        writer.finish()
    with dp.Dataset(f"file://{at}", cache=False) as dataset:
        yield dataset


def on_cpu(batch: dict[str, Any]) -> dict[str, Any]:
    """Return a batch with its tensors on the CPU."""
    return {name: value.cpu() for name, value in batch.items() if hasattr(value, "cpu")}


def check_routes(folder: Path, device: str, *, dry: bool) -> None:
    """Compare batches by both routes with those of the native decoder, bit for bit."""
    import torch

    import dataplane as dp

    for codec in ("lz4", "zstd"):
        with packed(folder, codec, 12, samples=5, side=12 if dry else 48) as dataset:
            wanted = [on_cpu(batch) for batch in dp.DataLoader(dataset, 2)]
            for route in ("cpu", "gpu"):
                loader = dp.DataLoader(dataset, 2, num_workers=2, device=device, decode=route)
                got = [on_cpu(batch) for batch in loader]
                for one, other in zip(got, wanted, strict=True):
                    for name, tensor in other.items():
                        if isinstance(tensor, torch.Tensor) and not torch.equal(one[name], tensor):
                            raise SystemExit(f"WRONG: {name} of {codec} by the {route} route")
                say(f"{codec} by the {route} route: bit for bit the native decoder's")


def check_inflaters(device: Any, *, dry: bool) -> None:
    """Compare DALI's inflation of LZ4 with nvCOMP's."""
    if dry:
        say("DALI beside nvCOMP: needs a GPU")
        return
    import numpy as np
    import torch

    from dataplane.codecs import STAGE_ALIGN, stage, staged_bytes
    from dataplane.gpu.inflate_dali import DaliInflater
    from dataplane.gpu.nvcomp import NvcompInflater
    from dataplane.gpu.ring import PinnedRing
    from dataplane.gpu.speeds import sample_chunks

    table, source = sample_chunks("lz4", 256)
    room = staged_bytes(table, [source])
    memory = np.zeros(room + STAGE_ALIGN, np.uint8)
    start = -memory.ctypes.data % STAGE_ALIGN
    buffer = memory[start : start + room]
    streams = stage(table, [source], buffer.data)
    slot = PinnedRing(device).acquire()
    results = {}
    makers = {"nvCOMP": NvcompInflater, "DALI": lambda: DaliInflater(device.torch_device.index)}
    for name, make in makers.items():
        with device.side():
            inflater = make()
            staged = slot.upload(buffer)
            result = inflater.inflate(staged, streams, slot, str)
            device.mark().wait()
            result.check()
        sizes = streams["decoded_bytes"].astype(np.int64)
        results[name] = [
            result.memory[int(at) : int(at + size)]
            for at, size in zip(result.starts, sizes, strict=True)
        ]
    for one, other in zip(*results.values(), strict=True):
        if not torch.equal(one, other):
            raise SystemExit("WRONG: DALI and nvCOMP inflate to different bytes")
    say("DALI beside nvCOMP: the same bytes")


def run_tests(*, dry: bool) -> str:
    """Run the tests that need a GPU, in a process of their own."""
    if importlib.util.find_spec("pytest") is None:
        say("tests: pytest is not installed")
        return "not run: no pytest"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/gpu", "tests/loader"]
    if dry:
        command.append("--collect-only")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    known = [str(ROOT / "benchmarks"), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, known))
    ran = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    pytest_failed = 1
    last = (ran.stdout.strip().splitlines() or [""])[-1]
    say(f"tests: {last}")
    if ran.returncode == pytest_failed:
        sys.stdout.write(ran.stdout + ran.stderr)
        return f"FAILED: {last}"
    return last if not ran.returncode else f"not run: pytest ended with {ran.returncode}, {last}"


def measure(target: str, *, dry: bool) -> tuple[list[Row], list[Figure]]:
    """Run `dataplane bench gpu`."""
    from dataplane_bench.cases import gpu

    options = gpu.GpuOptions(device=target, rounds=ROUNDS)
    if dry:
        options = gpu.GpuOptions(
            parts=tuple(part for part in gpu.PARTS if part != "link"),
            device=target,
            chunk_bytes=(64 << 10,),
            ratios=(1.2,),
            threads=1,
            rounds=1,
            sizes=gpu.Sizes.small(),
        )
    return gpu.run(options, progress)


def progress(text: str) -> None:
    """Say what is under way, but not of every system of every round."""
    if text.startswith(("generating ", "encoding ", "packing ")):
        say(text)


def page_of(name: str, tests: str, rows: Sequence[Row], figures: Sequence[Figure]) -> str:
    """Return the figures as the page has them."""
    import platform

    import torch

    import dataplane as dp
    from dataplane_bench.markdown import figure_tables, row_tables

    lines = [
        f"On {name}, {os.cpu_count()} CPU cores, torch {torch.__version__}, Python "
        f"{platform.python_version()}, dataplane {dp.__version__}, {time.strftime('%Y-%m-%d')}. "
        f"Tests marked `gpu`:",
        f"{tests}. Medians of {ROUNDS} rounds.",
        "",
        *row_tables(rows),
        *figure_tables(figures),
    ]
    return "\n".join(lines)


def write(page: Path, figures: str) -> None:
    """Put figures where the page has them."""
    text = page.read_text() if page.exists() else PAGE.read_text()
    head, rest = text.split(BEGIN)
    page.write_text(head + BEGIN + figures + END + rest.split(END)[1])


def main() -> None:
    """Do all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="all but the device, on the CPU")
    parser.add_argument("--output", type=Path, default=PAGE, help="page to write figures into")
    given = parser.parse_args()
    began = time.perf_counter()
    dry = given.dry_run
    prepare(dry=dry)
    import torch

    from dataplane.gpu.device import resolve

    if not dry and not torch.cuda.is_available():
        raise SystemExit("there is no GPU here that torch sees; --dry-run goes without one")
    name = "the CPU (dry run)" if dry else torch.cuda.get_device_name(0)
    target = "cpu" if dry else "cuda:0"
    device = resolve(torch.device(target))
    say(f"device: {name}")
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        check_routes(Path(folder), target, dry=dry)
        check_inflaters(device, dry=dry)
    rows, measured = measure(target, dry=dry)
    if not dry:  # what was measured is kept, whatever comes of the tests
        write(given.output, page_of(name, "not run", rows, measured))
    tests = run_tests(dry=dry)
    figures = page_of(name, tests, rows, measured)
    write(given.output, NOT_RUN if dry else figures)
    sys.stdout.write(figures)
    say(f"done in {time.perf_counter() - began:.0f} s")
    if tests.startswith("FAILED"):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
