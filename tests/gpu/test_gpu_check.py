"""`make gpu-check` without a GPU: all of it but what runs on the device."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from dataplane_bench.model import Case, Cost, figure, summarise

_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_check", _ROOT / "tools" / "gpu_check.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_a_dry_run_goes_through_everything_and_claims_nothing(tmp_path: Path) -> None:
    page = tmp_path / "gpu.md"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)
    ran = subprocess.run(
        [sys.executable, "tools/gpu_check.py", "--dry-run", "--output", str(page)],
        cwd=_ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=115,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for codec in ("lz4", "zstd"):
        for route in ("cpu", "gpu"):
            assert f"{codec} by the {route} route: bit for bit" in ran.stdout
        assert f"blosc-{codec} · chunks of 64 KiB · inflate" in ran.stdout
    assert "auto: cpu" in ran.stdout
    assert "utilisation**" in ran.stdout
    assert "tests collected" in ran.stdout
    assert "not yet run on a GPU" in page.read_text()


def test_figures_go_between_their_marks_and_replace_older_ones(
    tool: ModuleType, tmp_path: Path
) -> None:
    page = tmp_path / "gpu.md"
    system = SimpleNamespace(name="dataplane", threads=1)
    table = ("gpu", "an H200, lz4", "utilisation", "ratio")
    shares = [figure(table, "dataplane", ratio, "share", [0.97]) for ratio in (1.2, 2.0)]
    for seconds in (0.25, 0.125):
        case = Case("gpu", "an H200, buffers of 1 GiB", state="host to device")
        rows = summarise(case, [system], [[Cost(seconds, 0.1, 10**9, 1)]], ceiling="dataplane")
        tool.write(page, tool.page_of("an H200", "91 passed", rows, shares))
    text = page.read_text()
    assert "On an H200," in text
    assert "91 passed" in text
    assert "| dataplane | 8 | 0.1 | 1.00 |" in text
    assert "| dataplane | 4 |" not in text
    assert "| ratio | 1.2 | 2 |" in text
    assert "| dataplane | 0.97 | 0.97 |" in text
    assert "not yet run" not in text
    assert text.startswith((_ROOT / "docs" / "gpu.md").read_text().split("<!-- figures -->")[0])


def test_the_page_says_that_it_has_no_figures_yet_or_has_them() -> None:
    text = (_ROOT / "docs" / "gpu.md").read_text()
    figures = text.split("<!-- figures -->")[1].split("<!-- end of figures -->")[0]
    assert figures.strip() == "not yet run on a GPU" or "| system | GB/s |" in figures
