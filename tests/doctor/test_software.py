"""Checks of versions and of the native module."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dataplane.cli.checks import software
from dataplane.cli.checks.versions import package_of, range_of, satisfies
from dataplane.codecs import NativeInfo, native_info
from dataplane.distribution import optional_requirements, required_python, requirements

EXTRAS = [
    ("torch", "torch>=2.4"),
    ("fuse", "mfusepy>=3.0"),
    ("s3", "s3fs>=2024.6"),
    ("dev", "x>=1"),
]


def has(**versions: str) -> Callable[[str], str | None]:
    return lambda package: versions.get(package.replace("-", "_"))


@pytest.mark.parametrize(
    ("version", "wanted", "lies_in_it"),
    [
        ("2.4", ">=2.4", True),
        ("2.4.0", ">=2.4", True),
        ("2.13.0+cpu", ">=2.4", True),
        ("2.3.9", ">=2.4", False),
        ("2.4", ">2.4", False),
        ("3.0", ">=2.4,<3", False),
        ("2.99", ">=2.4, <3", True),
        ("5.3.0.16", "==5.3.0.16", True),
        ("6.0.0.12", "==5.3.0.16", False),
        ("5.3.1", "==5.3.*", True),
        ("5.4", "==5.3.*", False),
        ("5.4", "!=5.3.*", True),
        ("1.4.5", "~=1.4.2", True),
        ("1.5", "~=1.4.2", False),
        ("1.4.1", "~=1.4.2", False),
        ("2024.6.1", ">=2024.6", True),
        ("2.0rc1", ">=2", True),
        ("1.0", "", True),
    ],
)
def test_a_version_lies_in_its_range_or_not(version: str, wanted: str, lies_in_it: bool) -> None:
    assert satisfies(version, wanted) is lies_in_it


def test_ranges_are_judged_as_packaging_does() -> None:
    specifiers = pytest.importorskip("packaging.specifiers")
    for version in ("1", "1.2", "1.2.3", "1.10", "2.0", "2.0.0.1"):
        for wanted in (
            ">=1.2",
            "<=1.2",
            "==1.2",
            "!=1.2",
            "<2",
            ">1.2",
            "~=1.2",
            "==1.*",
            "==1.2.0",
        ):
            expected = specifiers.SpecifierSet(wanted).contains(version)
            assert satisfies(version, wanted) is expected, (version, wanted)


def test_requirements_are_taken_apart() -> None:
    assert package_of("moto[server] >=5.0") == "moto"
    assert range_of("moto[server] >=5.0") == ">=5.0"
    assert range_of("click") == ""
    assert range_of("a (>=1,<2) ; extra == 'b'") == ">=1,<2"


def test_what_runs_here_is_in_the_ranges_of_the_project() -> None:
    assert required_python().startswith(">=")
    assert software.python(wanted=required_python()).status == "ok"
    assert len(requirements()) > 3
    assert software.packages(requirements()).status == "ok"
    assert software.extras(optional_requirements()).status == "ok"


def test_a_python_that_is_too_old_is_named_with_the_range() -> None:
    found = software.python("3.9.1", ">=3.11", implementation="CPython")
    assert (found.status, found.found) == ("fail", "CPython 3.9.1, outside of >=3.11")


def test_a_package_that_is_missing_or_too_old_is_named() -> None:
    found = software.packages(
        ["click>=8.1", "numpy>=1.26", "rich>=13"], has(click="8.0", rich="14")
    )
    assert found.status == "fail"
    assert found.found == "click 8.0 is not >=8.1; numpy is not installed"


@pytest.mark.parametrize(
    ("version", "status"), [("2.13.0+cpu", "ok"), ("2.3.1", "fail"), (None, "skip")]
)
def test_torch_is_wanted_in_its_range_but_not_at_all_costs(
    version: str | None, status: str
) -> None:
    found = software.torch(EXTRAS, lambda _: version)
    assert found.status == status
    assert ("[torch]'" in found.advice) == (status != "ok")


def test_extras_are_told_apart_and_old_ones_are_named() -> None:
    found = software.extras(EXTRAS, has(torch="2.5", s3fs="2023.1"))
    assert found.status == "warn"
    assert found.found == "s3fs 2023.1 is not >=2024.6; torch, s3 installed; without fuse"
    assert software.extras(EXTRAS, has()).found == "none installed; without torch, fuse, s3"


def build(**changes: str) -> Callable[[], NativeInfo]:
    given = {"build_type": "Release", "sanitizers": "", "simd": "avx2"} | changes
    return lambda: NativeInfo(**given, zstd_version="1.5", lz4_version="1.9")


def test_the_native_module_of_this_checkout_is_described() -> None:
    info = native_info()
    found = software.native_module()
    assert info.build_type in found.found
    assert info.simd in found.found
    assert found.status == ("ok" if info.optimised else "warn")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"build_type": "Debug"}, "not optimised"),
        ({"sanitizers": "address"}, "with sanitizers (address)"),
        ({"simd": "scalar"}, "without the vector instructions"),
    ],
)
def test_a_slow_native_module_is_a_warning(
    changes: dict[str, str], words: str, tmp_path: Path
) -> None:
    (tmp_path / "cpuinfo").write_text("processor : 0\nflags\t\t: fpu sse2 avx2 bmi2\n")
    found = software.native_module(tmp_path / "cpuinfo", build(**changes))
    assert found.status == "warn"
    assert words in found.found


def test_a_processor_without_vectors_is_as_fast_as_it_gets(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("flags : fpu sse2\n")
    assert software.native_module(tmp_path / "cpuinfo", build(simd="scalar")).status == "ok"
    assert software.native_module(tmp_path / "none", build(simd="scalar")).status == "ok"


def test_a_native_module_that_is_not_there_is_a_failure() -> None:
    def missing() -> NativeInfo:
        raise ImportError("cannot import name '_native'")

    found = software.native_module(ask=missing)
    assert found.status == "fail"
    assert "_native" in found.found
    assert "make native" in found.advice
