"""The folders of native/core include what is below them, and nothing above."""

from __future__ import annotations

import re
from pathlib import Path

_CORE = Path(__file__).resolve().parents[2] / "native" / "core"
_MAY_INCLUDE = {
    "base": {"base"},
    "simd": {"base", "simd"},
    "decode": {"base", "decode", "simd"},
    "encode": {"base", "decode", "encode", "simd"},
    "cache": {"base", "cache", "simd"},
    "net": {"base", "net"},
}
_INCLUDE = re.compile(r'^#include "(\w+)/(\w+)/\w+\.hpp"$', re.MULTILINE)


def test_includes_go_downward_only() -> None:
    sources = list(_CORE.rglob("*.?pp"))
    assert {path.parent.name for path in sources} == set(_MAY_INCLUDE)
    for path in sources:
        included = _INCLUDE.findall(path.read_text())
        assert path.read_text().count('#include "') == len(included), f"{path}: another include"
        assert {root for root, _ in included} <= {"core"}, path
        assert {folder for _, folder in included} <= _MAY_INCLUDE[path.parent.name], path
