"""Contenders in processes of their own: Ctrl-C, hanging runs, missing packages."""

from __future__ import annotations

import functools
import importlib
import os
import signal
import time
from types import SimpleNamespace

import pytest

from dataplane_bench import isolated
from dataplane_bench.isolated import Isolated, RivalFailed
from dataplane_bench.model import Cost
from dataplane_bench.rounds import start_all
from tests.bench.inside import STOP_TIMEOUT_S, process_of

_COST = Cost(1.0, 0.5, 10**9, 1)
# A system whose run sleeps and whose end is nothing, made of what a child can import.
_SLEEPER = functools.partial(
    SimpleNamespace, run=functools.partial(time.sleep, 600), close=functools.partial(int)
)
_QUICK = functools.partial(
    SimpleNamespace, run=functools.partial(Cost, 1.0, 0.5, 10**9, 1), close=functools.partial(int)
)


def test_a_child_leaves_ctrl_c_to_its_parent() -> None:
    system = Isolated("quick", 1, _QUICK)
    try:
        os.kill(process_of(system).pid, signal.SIGINT)
        assert system.run() == _COST
    finally:
        system.close()
    assert process_of(system).exitcode == 0


def test_a_child_in_the_middle_of_a_run_is_ended_at_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    system = Isolated("sleeper", 1, _SLEEPER)
    monkeypatch.setattr(isolated, "_RUN_TIMEOUT_S", 0.2)
    with pytest.raises(RivalFailed, match="no answer"):
        system.run()
    began = time.monotonic()
    system.close()
    assert time.monotonic() - began < STOP_TIMEOUT_S / 2
    assert not process_of(system).is_alive()
    assert capfd.readouterr().err == ""


def test_a_missing_package_names_the_extra_that_brings_it() -> None:
    build = functools.partial(importlib.import_module, "no_such_package_of_anybody")
    with pytest.raises(RivalFailed, match=r"no_such_package_of_anybody.*pip install '\.\[bench"):
        start_all([("dataplane", 1, build)])
