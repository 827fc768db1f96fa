"""Instructions per decoded byte, counted by valgrind's callgrind.

Times of a shared machine wander by tens of percent; the number of instructions does not, so that
it shows a regression that the clock hides. It says nothing about memory: a change that only saves
cache misses does not show.

A child that is nothing but Python and the native module decodes a table once, and another one
twice; the difference is one decode, without start-up. Valgrind presents a processor without
AVX-512, so the AVX2 path is counted.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from dataplane import _native
from dataplane.codecs import ChunkTable
from dataplane.errors import ConfigError, DataplaneError

__all__ = ["instructions_per_byte", "require_valgrind"]

_TIMEOUT_S = 600
_CHILD = """
import importlib.util, json, mmap, sys
job = json.load(open(sys.argv[1]))
spec = importlib.util.spec_from_file_location("dataplane._native", job["module"])
native = importlib.util.module_from_spec(spec)
spec.loader.exec_module(native)
table = bytearray(open(job["table"], "rb").read())
source = open(job["source"], "rb").read()
outs = [memoryview(bytearray(n)).cast(f, shape) for n, f, shape in job["outs"]]
for _ in range(int(sys.argv[2])):
    if job["work"] == "decode":
        native.decode(table, [source], outs, 1)
    else:
        native.inflate_only(table, [source], 1)
"""


def require_valgrind() -> str:
    """Return the path of valgrind.

    Raises:
        ConfigError: it is not installed.
    """
    path = shutil.which("valgrind")
    if path is None:
        raise ConfigError(
            "instructions are counted by valgrind, which is not installed",
            hint="apt-get install valgrind, or leave --callgrind out",
        )
    return path


def instructions_per_byte(
    work: str, table: ChunkTable, encoded: memoryview, outs: Sequence[npt.NDArray[Any]]
) -> float:
    """Count the instructions of one `decode` or `inflate_only` of a table, per byte wanted.

    Raises:
        ConfigError: valgrind is not installed.
        DataplaneError: the child failed.
    """
    valgrind = require_valgrind()
    with tempfile.TemporaryDirectory(prefix="dataplane-callgrind-") as name:
        folder = Path(name)
        (folder / "child.py").write_text(_CHILD, encoding="utf-8")
        (folder / "table").write_bytes(table.rows.tobytes())
        (folder / "source").write_bytes(encoded)
        job = {
            "module": _native.__file__,
            "work": work,
            "table": str(folder / "table"),
            "source": str(folder / "source"),
            "outs": [(out.nbytes, out.dtype.char, out.shape) for out in outs],
        }
        (folder / "job").write_text(json.dumps(job), encoding="utf-8")
        once, twice = (_count(valgrind, folder, repeats) for repeats in (1, 2))
    return (twice - once) / sum(int(out.nbytes) for out in outs)


def _count(valgrind: str, folder: Path, repeats: int) -> int:
    """Return the instructions of a whole run of the child."""
    command = [
        valgrind, "--tool=callgrind", f"--callgrind-out-file={folder / 'out'}",
        sys.executable, "-I", "-S", str(folder / "child.py"), str(folder / "job"), str(repeats),
    ]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    found = re.search(r"Collected\s*:\s*(\d+)", run.stderr)
    if run.returncode != 0 or found is None:
        raise DataplaneError(f"callgrind failed: {run.stderr.strip().splitlines()[-1:]}")
    return int(found.group(1))
