"""Fixtures of the GPU route's tests: the kernel as Triton interprets it, and its NumPy twin."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["interpreted", "twin"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have `place` run the Triton kernel on the CPU, or NumPy."""
    if request.param == "interpreted":
        pytest.importorskip("triton")
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    else:
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    return str(request.param)
