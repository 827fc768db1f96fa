"""The script that compares predictions with runs on an emulated cloud works, on a tiny run."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

_SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "validate_plan.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, as a module; late requests are not sent twice."""
    monkeypatch.setenv("DATAPLANE_STORE_HEDGE", "0")
    spec = importlib.util.spec_from_file_location("validate_plan", _SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "validate_plan", module)
    spec.loader.exec_module(module)
    return module


def test_bytes_of_a_small_run_are_as_predicted(script: ModuleType, tmp_path: Path):
    case = script.Case(12, 12, 0.001, 50e6, 0.0, script.SMALL_BLOCKS, {"batch_size": 3})
    rows = {row.name: row for row in script.validate(case, tmp_path)}
    assert rows["downloaded"].predicted == rows["downloaded"].measured > 12 * 12**3 * 4
    assert rows["time of all epochs"].measured > 0
    assert rows["time of all epochs"].tolerance == 0.15


def test_a_script_of_unknown_cases_says_which_there_are(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["validate_plan.py", "--case", "other"])
    with pytest.raises(SystemExit):
        script.main()
    assert "small-cache" in capsys.readouterr().err
