"""Run pytest with another build of the native module: `sanitized_pytest.py MODULE ARGUMENT...`.

The editable install finds `dataplane._native` before any search path does, so the other build is
put in its place here, before anything imports it.
"""

from __future__ import annotations

import importlib.util
import sys

import pytest

if __name__ == "__main__":
    path, *arguments = sys.argv[1:]
    spec = importlib.util.spec_from_file_location("dataplane._native", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["dataplane._native"] = module
    spec.loader.exec_module(module)
    if not module.sanitizers:
        sys.exit(f"{path} was built without sanitizers")
    sys.exit(pytest.main(arguments))
