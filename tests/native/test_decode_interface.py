"""What Python and C++ must agree on."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from dataplane import _native
from dataplane.codecs import CHUNK_DTYPE, Codec, Convert, native_info
from dataplane.codecs.errors import ERROR_OF, Code, failure_to_error
from dataplane.errors import DataplaneError, TooLarge


def test_rows_have_one_layout() -> None:
    fields = CHUNK_DTYPE.fields
    assert fields is not None
    ours = {name: (field[1], field[0].itemsize) for name, field in fields.items()}
    assert ours == dict(_native.chunk_row_layout)
    assert CHUNK_DTYPE.itemsize == _native.chunk_row_bytes


def _failure(code: Code, **numbers: int | str) -> _native.DecodeFailure:
    failure = _native.DecodeFailure(numbers["what"])
    vars(failure).update(numbers, code=code.value, failures=1)
    return failure


def test_codecs_have_one_set_of_numbers() -> None:
    assert {codec.name.lower(): codec.value for codec in Codec} == dict(_native.codec_numbers)


def test_conversions_have_one_set_of_numbers() -> None:
    assert {c.name.lower(): c.value for c in Convert} == dict(_native.conversion_numbers)


def test_every_native_code_has_an_error_class() -> None:
    assert {code.name.lower(): code.value for code in Code} == dict(_native.status_codes)
    assert set(ERROR_OF) == set(Code)
    for code in set(Code) - {Code.CANCELLED}:
        failure = _failure(code, row=3, offset=10, expected=1, got=2, what="the check")
        error = failure_to_error(failure, lambda row: f"row {row}")
        assert isinstance(error, DataplaneError)
        assert str(error).startswith("row 3: ")
        assert "the check at encoded byte 10: expected 1, got 2" in str(error)


def test_numbers_that_say_nothing_are_left_out() -> None:
    failure = _failure(Code.TOO_LARGE, row=0, offset=0, expected=0, got=0, what="chunk")
    assert str(failure_to_error(failure, str)) == "0: too large: chunk"
    assert isinstance(failure_to_error(failure, str), TooLarge)


def test_the_table_must_be_whole_aligned_rows() -> None:
    with pytest.raises(ValueError, match="whole number"):
        _native.decode(b"x" * 215, [], [], 1)
    room = memoryview(bytearray(217))
    with pytest.raises(ValueError, match="aligned"):
        _native.decode(room[1:], [], [], 1)


def test_the_build_says_what_it_is() -> None:
    info = native_info()
    assert info.simd in {"avx512", "avx2", "neon", "scalar"}
    assert info.optimised == (
        info.build_type in {"Release", "RelWithDebInfo"} and not info.sanitizers
    )
    assert info.zstd_version.count(".") == info.lz4_version.count(".") == 2


@pytest.mark.parametrize(("build_type", "warns"), [("Debug", True), ("Release", False)])
def test_a_slow_build_says_so_when_it_is_loaded(build_type: str, warns: bool) -> None:
    program = (
        "import logging; logging.basicConfig()\n"
        "from dataplane import _native\n"
        f"_native.build_type = {build_type!r}; _native.sanitizers = ''\n"
        "import dataplane.codecs\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert ("make native" in run.stderr) is warns
    assert logging.getLogger("dataplane").name == "dataplane"
