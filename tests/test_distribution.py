"""The distribution's name, its extras, and what is said about both, in a checkout and elsewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from dataplane import distribution
from dataplane.extras import extra_of, install_hint

_ROOT = Path(__file__).resolve().parents[1]
_PROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
_NOT_FOR_EVERYBODY = {"all", "bench", "bench-peers", "dev", "dali-cuda12", "dali-cuda13"}
_METADATA = """\
Metadata-Version: 2.1
Name: simdataplane
Version: 9.8.7
Requires-Dist: click>=8.1
Requires-Dist: mfusepy>=3.0; extra == "fuse"
Requires-Dist: zarr>=3.0.8 ; extra == 'bench'
Requires-Dist: simdataplane[fuse,vtk]; extra == "all"
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder as pip leaves it: the package's files and the metadata of its distribution."""
    package = tmp_path / "site" / "dataplane"
    package.mkdir(parents=True)
    for name in ("__init__.py", "distribution.py", "errors.py", "extras.py"):
        shutil.copy(_ROOT / "dataplane" / name, package)
    info = tmp_path / "site" / "simdataplane-9.8.7.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(_METADATA)
    return tmp_path / "site"


def said_by(site: Path, expression: str) -> str:
    """What an expression gives in a process that has the package from there, and nothing else."""
    program = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        f"import dataplane\nfrom dataplane import distribution, extras\nprint({expression})"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_distribution_has_a_name_of_its_own_and_the_command_keeps_the_short_one() -> None:
    assert _PROJECT["name"] == distribution.DISTRIBUTION == "simdataplane"
    assert list(_PROJECT["scripts"]) == ["dataplane"]


def test_all_is_every_extra_for_users_and_brings_no_tools() -> None:
    (everything,) = _PROJECT["optional-dependencies"]["all"]
    match = re.fullmatch(r"simdataplane\[(.*)\]", everything)
    assert match
    extras = _PROJECT["optional-dependencies"].keys()
    assert set(match.group(1).split(",")) == extras - _NOT_FOR_EVERYBODY


def test_in_a_checkout_the_hint_is_for_the_checkout() -> None:
    assert distribution.checkout() == _ROOT
    assert distribution.version() == _PROJECT["version"]
    assert install_hint("fuse") == "in the checkout: pip install '.[fuse]'"


def test_extras_are_those_of_the_checkout_and_not_of_an_older_installation() -> None:
    listed = set(distribution.optional_requirements())
    assert {extra for extra, _ in listed} == set(_PROJECT["optional-dependencies"])
    assert extra_of("vtkmodules.util") == "vtk"
    assert extra_of("aiohttp") == "s3"


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("distribution.checkout()", "None"),
        ("dataplane.__version__", "9.8.7"),
        ("extras.install_hint('fuse')", "pip install 'simdataplane[fuse]'"),
        ("[extras.extra_of(it) for it in ('mfusepy', 'zarr.storage')]", "['fuse', 'bench']"),
        ("[extras.extra_of(it) for it in ('click', 'unheard_of')]", "['all', 'all']"),
    ],
)
def test_installed_the_hint_names_the_distribution(
    installed: Path, expression: str, value: str
) -> None:
    assert said_by(installed, expression) == value


def test_the_project_file_of_another_project_makes_no_checkout(installed: Path) -> None:
    (installed / "pyproject.toml").write_text('[project]\nname = "theirs"\nversion = "1"\n')
    assert said_by(installed, "extras.install_hint('fuse')") == "pip install 'simdataplane[fuse]'"


def test_a_copy_without_its_metadata_says_what_to_install(installed: Path) -> None:
    shutil.rmtree(installed / "simdataplane-9.8.7.dist-info")
    program = "extras.extra_of('mfusepy')"
    assert said_by(installed, program) == "all"
    with pytest.raises(AssertionError, match=r"ConfigError.*pip install simdataplane"):
        said_by(installed, "dataplane.__version__")


def test_nothing_tells_users_to_install_the_other_project() -> None:
    other = re.compile(r"pip3? install[^`\n]*[ '\"]dataplane(?![-\w/])")
    files = [_ROOT / "README.md", _ROOT / "Makefile", _ROOT / "CONTRIBUTING.md"]
    for folder in ("dataplane", "mounts", "benchmarks", "docs", "tools", "examples"):
        files += [
            path for path in (_ROOT / folder).rglob("*") if path.suffix in {".py", ".md", ".sh"}
        ]
    assert [str(path) for path in files if other.search(path.read_text())] == []
    assert other.search("pip install 'dataplane[fuse]'")
