"""Check and time the GPU route on this machine, and write the figures into docs/gpu.md.

    python tools/gpu_check.py              needs a GPU; under ten minutes
    python tools/gpu_check.py --dry-run    the same on the CPU, with little data; writes no figures

Packages that are missing are installed from the folder in GPU_WHEELS, if it is set, and the native
module is built if it is not there. Then, in this order: batches by both routes against the native
decoder, both inflaters against each other, the tests marked `gpu`, speeds of every step, and whole
passes by each route over data of several ratios, alone and beside a step that keeps the GPU busy.
The first thing that is wrong ends it, with exit status 1.
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "gpu.md"
BEGIN, END = "<!-- figures -->\n", "<!-- end of figures -->\n"
NOT_RUN = "not yet run on a GPU\n"
RATIOS = {1.2: 23, 2.0: 12, 4.0: 6}
"""Mantissa bits kept of noisy float32, by the ratio that they give about; the table has the ratio
that was found."""


def say(text: str) -> None:
    """Print at once: a run that is cut off has said how far it came."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


def prepare(*, dry: bool) -> None:
    """Install what is missing, build what is not there."""
    wheels = os.environ.get("GPU_WHEELS")
    sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
    needed = {name: name for name in ("click", "fsspec", "numpy", "obstore", "pyarrow", "rich")}
    needed |= {"nvidia.libnvcomp": "nvidia-dali-cuda130", "triton": "triton", "pytest": "pytest"}
    if importlib.util.find_spec("dataplane._native") is None:
        needed |= {"scikit_build_core": "scikit-build-core", "nanobind": "nanobind"}
    for module, package in needed.items():
        with contextlib.suppress(ImportError):
            if importlib.util.find_spec(module) is not None:
                continue
        if wheels and not dry:
            pip("install", "--no-index", f"--find-links={wheels}", package)
        say(f"{package}: {'installed from ' + wheels if wheels and not dry else 'is missing'}")
    if importlib.util.find_spec("dataplane._native") is None:
        say("building the native module")
        offline = ["--no-index", f"--find-links={wheels}"] if wheels else []
        pip("install", *offline, "--no-build-isolation", "--no-deps", "-e", str(ROOT))
        importlib.invalidate_caches()


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


def check_inflaters(device: Any, *, dry: bool) -> dict[str, str]:
    """Compare DALI's inflation of LZ4 with nvCOMP's, and time both."""
    if dry:
        say("DALI beside nvCOMP: needs a GPU")
        return {}
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
    results, figures = {}, {}
    makers = {"nvCOMP": NvcompInflater, "DALI": lambda: DaliInflater(device.torch_device.index)}
    for name, make in makers.items():
        with device.side():
            inflater = make()
            staged = slot.upload(buffer)
            for _ in range(3):
                began = time.perf_counter()
                result = inflater.inflate(staged, streams, slot, str)
                device.mark().wait()
                took_s = time.perf_counter() - began
            result.check()
        sizes = streams["decoded_bytes"].astype(np.int64)
        results[name] = [
            result.memory[int(at) : int(at + size)]
            for at, size in zip(result.starts, sizes, strict=True)
        ]
        figures[f"LZ4 inflated by {name}"] = f"{sizes.sum() / took_s / 1e9:.1f} GB/s"
    for one, other in zip(*results.values(), strict=True):
        if not torch.equal(one, other):
            raise SystemExit("WRONG: DALI and nvCOMP inflate to different bytes")
    say("DALI beside nvCOMP: the same bytes")
    return figures


def run_tests(*, dry: bool) -> str:
    """Run the tests that need a GPU, in a process of their own."""
    if importlib.util.find_spec("pytest") is None:
        say("tests: pytest is not installed")
        return "not run: no pytest"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/gpu", "tests/loader"]
    if dry:
        command.append("--collect-only")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    ran = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    last = (ran.stdout.strip().splitlines() or [""])[-1]
    say(f"tests: {last}")
    if ran.returncode:
        raise SystemExit(ran.stdout + ran.stderr)
    return last


def measure_steps(device: Any, threads: int, *, dry: bool) -> dict[str, str]:
    """Time every step of both routes."""
    from dataplane.gpu.speeds import measured
    from dataplane.loader.device_batches import inflater_for

    found = measured(
        device,
        inflater_for(device, threads),
        threads=threads,
        sample_bytes=(1 if dry else 128) << 20,
    )
    steps = {
        "link, pinned": found.link,
        "staging": found.stage,
        "un-shuffle and placement": found.place,
        **{f"native decoder, {codec}": speed for codec, speed in found.decode.items()},
        **{f"inflation there, {codec}": speed for codec, speed in found.inflate.items()},
    }
    for name, speed in steps.items():
        say(f"{name}: {speed / 1e9:.2f} GB/s")
    return {name: f"{speed / 1e9:.1f} GB/s" for name, speed in steps.items()}


def time_passes(folder: Path, device: str, threads: int, *, dry: bool) -> list[list[str]]:
    """Time whole passes by each route, alone and beside a step: rows of a table."""
    import dataplane as dp

    rows = []
    side, samples = (16, 4) if dry else (192, 24)
    for codec in ("lz4", "zstd"):
        for wanted, bits in list(RATIOS.items())[: 1 if dry else None]:
            with packed(folder, codec, bits, samples=samples, side=side) as dataset:
                for route in ("cpu", "gpu", "auto"):
                    options = {"num_workers": threads, "device": device, "decode": route}
                    loader = dp.DataLoader(dataset, 2, **options)
                    alone_s, nbytes = one_pass(loader, step=None)
                    alone_s, nbytes = one_pass(loader, step=None)
                    stats = loader.stats()
                    step = busy_step(device, alone_s / (samples / 2) * 1.2)
                    beside_s, _ = one_pass(loader, step=step)
                    ideal_s = samples / 2 * step.seconds
                    ratio = stats.decoded_bytes / max(stats.read_bytes, 1)
                    rows.append(
                        [
                            codec,
                            f"{ratio:.2f}",
                            route if route != "auto" else f"auto: {stats.decode}",
                            f"{nbytes / alone_s / 1e9:.2f}",
                            f"{ideal_s / max(beside_s, 1e-9):.2f}",
                        ]
                    )
                    say(f"{codec}, ratio {ratio:.2f} (about {wanted}): {' '.join(rows[-1][2:])}")
    return rows


def one_pass(loader: Any, step: Any) -> tuple[float, int]:
    """Read a pass to its end; return its seconds and the bytes of its batches."""
    import torch

    began, nbytes = time.perf_counter(), 0
    for batch in loader:
        nbytes += sum(value.nbytes for value in batch.values() if hasattr(value, "nbytes"))
        if step is not None:
            step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began, nbytes


class busy_step:  # noqa: N801 - a function with a figure
    """Work for a device that takes about as long as it is told."""

    def __init__(self, device: str, seconds: float) -> None:
        import torch

        size = 4096 if device != "cpu" else 64
        self._a = torch.randn(size, size, device=device)
        self._count, self.seconds = 1, 0.0
        self._sync = torch.cuda.synchronize if device != "cpu" else (lambda: None)
        for _ in range(3):
            once_s = self._timed()
        self._count = max(1, round(seconds / once_s))
        self.seconds = self._timed()

    def _timed(self) -> float:
        self._sync()
        began = time.perf_counter()
        self()
        self._sync()
        return time.perf_counter() - began

    def __call__(self) -> None:
        """Queue the work."""
        for _ in range(self._count):
            self._a @ self._a


def page_of(name: str, checks: dict[str, str], rows: list[list[str]]) -> str:
    """Return the figures as the page has them."""
    import platform

    import torch

    import dataplane as dp

    lines = [
        f"On {name}, {os.cpu_count()} CPU cores, torch {torch.__version__}, Python "
        f"{platform.python_version()}, dataplane {dp.__version__}, {time.strftime('%Y-%m-%d')}:",
        "",
        "| step | speed |",
        "|---|---|",
        *(f"| {what} | {speed} |" for what, speed in checks.items()),
        "",
        "Whole passes, no cache, GB/s of decoded batches; utilisation of the device beside a step "
        "that takes 1.2 times as\nlong as a batch:",
        "",
        "| codec | ratio | decode | GB/s | utilisation |",
        "|---|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
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
    threads = min(os.cpu_count() or 1, 1 if dry else 16)
    say(f"device: {name}")
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        check_routes(Path(folder), target, dry=dry)
        checks = check_inflaters(device, dry=dry)
        checks["tests marked gpu"] = run_tests(dry=dry)
        checks |= measure_steps(device, threads, dry=dry)
        rows = time_passes(Path(folder), target, threads, dry=dry)
    figures = page_of(name, checks, rows)
    write(given.output, NOT_RUN if dry else figures)
    sys.stdout.write(figures)
    say(f"done in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
