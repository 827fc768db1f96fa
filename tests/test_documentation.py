"""What the README and the pages of docs/ tell people to type works: programs, commands, queries.

Every fenced block in a language that can be checked is: Python is run against a small dataset, SQL
by DuckDB, settings are loaded, and of shell commands those of this project are parsed by the
commands themselves. The programs of docs/dataset-format.md are run by
tests/shards/test_documentation.py, the examples by tests/examples.
"""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
import tomllib
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

import dataplane as dp
from dataplane.cli.main import cli
from dataplane.config import assemble
from dataplane.shards import (
    DatasetIndex,
    DatasetWriter,
    SourceArray,
    SourceSample,
    WriteOptions,
)
from dataplane.stores import StoreConfig, open_store

_ROOT = Path(__file__).resolve().parents[1]
_PAGES = [
    *(_ROOT / name for name in ("README.md", "CONTRIBUTING.md", "mounts/README.md")),
    *sorted((_ROOT / "docs").glob("*.md")),
]
_FENCED = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`(dataplane [^`\n]*)`")
_ELSEWHERE = "dataset-format.md"
_OPERATORS = {"|", "||", "&&", ">", ">>", ";", "&"}
_VTU = """\
<VTKFile type="UnstructuredGrid" version="0.1"><UnstructuredGrid>
<Piece NumberOfPoints="3" NumberOfCells="1">
<Points><DataArray type="Float32" NumberOfComponents="3" format="ascii">
0 0 0 1 0 0 0 1 0</DataArray></Points>
<Cells><DataArray type="Int64" Name="connectivity" format="ascii">0 1 2</DataArray>
<DataArray type="Int64" Name="offsets" format="ascii">3</DataArray>
<DataArray type="UInt8" Name="types" format="ascii">5</DataArray></Cells>
</Piece></UnstructuredGrid></VTKFile>
"""


def blocks(page: Path, *languages: str) -> list[str]:
    return [text for name, text in _FENCED.findall(page.read_text()) if name in languages]


def name_of(page: Path) -> str:
    return str(page.relative_to(_ROOT))


def with_blocks(*languages: str, but: str = "") -> Any:
    """Parametrise by the pages that have blocks in one of the languages, but for one."""
    pages = [page for page in _PAGES if blocks(page, *languages) and page.name != but]
    assert pages
    return pytest.mark.parametrize("page", pages, ids=name_of)


@pytest.fixture
def cars(tmp_path: Path) -> Path:
    """A dataset whose samples are as the pages say: surface meshes, one of them `car7`."""
    folder = tmp_path / "bucket" / "cars"
    with DatasetWriter(open_store(f"file://{folder}")) as writer:
        for number, points in ((7, 40), (8, 50), (9, 60), (10, 40), (11, 41)):
            values = np.random.default_rng(number).standard_normal((points, 3)).astype("f4")
            arrays = {
                "points": SourceArray(values),
                "point_data/pressure": SourceArray(values[:, 0]),
            }
            writer.add(SourceSample(f"car{number}", arrays))
    return folder


@pytest.fixture
def flows(tmp_path: Path) -> Path:
    """A dataset of volumes, as the pages say: a scalar, a vector and a label."""
    folder = tmp_path / "bucket" / "flows"
    with DatasetWriter(open_store(f"file://{folder}")) as writer:
        for number in range(5):
            rng = np.random.default_rng(number)
            arrays = {
                "fields/density": SourceArray(rng.standard_normal((18, 18, 18)).astype("f4")),
                "fields/velocity": SourceArray(rng.standard_normal((18, 18, 18, 3)).astype("f4")),
                "fields/phase": SourceArray(rng.integers(0, 3, (18, 18, 18))),
            }
            writer.add(SourceSample(f"flow{number}", arrays))
    return folder


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Datasets whose parts are read, as the pages say: permuted meshes, and volumes."""
    rng = np.random.default_rng(2)
    options = WriteOptions(permute_seed=1)
    with DatasetWriter(open_store(f"file://{tmp_path}/bucket/meshes"), options) as writer:
        for number, points in enumerate((70_000, 80_000, 65_536)):
            values = rng.standard_normal((points, 3)).astype("f4")
            arrays = {
                "points": SourceArray(values, ("point", "c")),
                "point_data/pressure": SourceArray(values[:, 0].copy(), ("point",)),
            }
            writer.add(SourceSample(f"mesh{number}", arrays))
    with DatasetWriter(open_store(f"file://{tmp_path}/bucket/volumes")) as writer:
        for number in range(2):
            values = rng.standard_normal((96, 96, 96)).astype("f4")
            arrays = {"fields/pressure": SourceArray(values, ("z", "y", "x"))}
            writer.add(SourceSample(f"volume{number}", arrays))
    return tmp_path / "bucket"


@pytest.fixture
def mounted(cars: Path, tmp_path: Path) -> Path:
    """What a mount shows of the sample `car7`: its archive, and the same as a folder."""
    entry = DatasetIndex.load(open_store(f"file://{cars}"))[0]
    sims = tmp_path / "sims"
    (sims / "cars").mkdir(parents=True)
    archive = sims / "cars" / "car7.zarr.zip"
    archive.write_bytes((cars / entry.shard).read_bytes()[entry.zip_start : entry.zip_stop])
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(sims / "cars" / "car7")
    return sims


@pytest.fixture
def simulations(tmp_path: Path) -> Path:
    """A folder with the files that are packed."""
    folder = tmp_path / "work"
    (folder / "runs").mkdir(parents=True)
    for path in (folder / "can.vtu", folder / "runs" / "a.vtu"):
        path.write_text(_VTU)
    return folder


@with_blocks("python", but=_ELSEWHERE)
@pytest.mark.filterwarnings("ignore:.*pin_memory.*")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch_geometric
def test_its_python_runs(
    page: Path, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # what they write is not left behind
    programs = blocks(page, "python")
    names: dict[str, Any] = {"train_step": lambda *arrays: None}
    replaced = {
        "s3://bucket": f"file://{tmp_path}/bucket",
        "serve_metrics(9400)": "serve_metrics(0)",
        'device="cuda"': 'device="cpu"',
    }
    if any("dp.to_pyg" in program for program in programs):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pytest.importorskip("torch_geometric", reason="the extra pyg is not installed")
    if any("bucket/flows" in program for program in programs):
        pytest.importorskip("nvidia.dali", reason="there is no DALI for this platform")
        request.getfixturevalue("flows")
    if "dataplane.pack" in programs[0]:
        pytest.importorskip("vtkmodules")
        monkeypatch.chdir(request.getfixturevalue("simulations"))
    elif "bucket/meshes" in programs[0]:
        request.getfixturevalue("parts")
    elif "/mnt/sims" in programs[0]:
        pytest.importorskip("zarr")
        pytest.importorskip("tensorstore")
        replaced["/mnt/sims"] = str(request.getfixturevalue("mounted"))
    else:
        url = f"file://{request.getfixturevalue('cars')}"
        names["loader"] = dp.DataLoader(dp.Dataset(url), batch_size=2)
    for program in programs:
        for old, new in replaced.items():
            program = program.replace(old, new)  # noqa: PLW2901
        exec(compile(program, str(page), "exec"), names)
    if server := names.get("server"):
        server.close()
        assert names["from_store"] > 0
    if store := names.get("store"):
        store.close()
    if state := names.get("state"):
        assert len(names["batch"]["__key__"]) == 1, "the last batch of five samples"
        assert state
    if "summary" in names:
        assert (names["summary"].samples, names["sample"].key) == (1, "can")


@with_blocks("sql")
def test_its_queries_run(page: Path, cars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    duckdb = pytest.importorskip("duckdb")
    (cars.parent / "dataset").symlink_to(cars)
    monkeypatch.chdir(cars.parent)
    (query,) = blocks(page, "sql")
    rows = {row[0]: row[1:] for row in duckdb.sql(query).fetchall()}
    index = DatasetIndex.load(open_store(f"file://{cars}"))
    entries = [entry.arrays["points"] for entry in index]
    assert set(rows) == {"points", "point_data/pressure"}
    assert rows["points"] == (
        5,
        min(entry.stats.minimum for entry in entries if entry.stats),
        max(entry.stats.maximum for entry in entries if entry.stats),
        sum(entry.stop - entry.start for entry in entries),
    )


@with_blocks("toml")
def test_its_settings_are_accepted(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, text in enumerate(blocks(page, "toml")):
        path = tmp_path / f"{number}.toml"
        path.write_text(text)
        monkeypatch.setenv("DATAPLANE_CONFIG", str(path))
        assert str(path) in assemble(StoreConfig, "store").origins.values()


def test_the_shell_lines_of_the_format_list_a_sample(cars: Path) -> None:
    (program,) = blocks(_ROOT / "docs" / _ELSEWHERE, "sh")
    (cars.parent / "dataset").symlink_to(cars)
    done = subprocess.run(
        ["/bin/sh", "-e", "-c", program.replace("KEY", "car7")],
        cwd=cars.parent, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "points/c/0/0" in done.stdout


def lines(page: Path) -> Iterator[str]:
    """The shell commands of a page, one by one, without prompts."""
    for text in blocks(page, "console"):
        for line in text.splitlines():
            if line.startswith(("$ ", "# ")):
                yield line[2:]
    for text in blocks(page, "sh"):
        yield from text.splitlines()


def commands(line: str) -> Iterator[list[str]]:
    """The words of each command of a line; operators, redirections and comments end one."""
    lexer = shlex.shlex(line.replace("[URL]", "s3://b"), posix=True, punctuation_chars="|&;><")
    lexer.whitespace_split = True
    for is_operator, words in itertools.groupby(lexer, lambda word: word in _OPERATORS):
        if not is_operator:
            yield list(words)


def command_of(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that words name, and its arguments."""
    command: click.Command = cli
    rest = words[1:]
    context = click.Context(cli)
    while isinstance(command, click.Group):
        while rest and rest[0].startswith("-"):
            assert rest.pop(0) in options_of(command), words
        if not rest or rest[0] == "…":
            break
        found = command.get_command(context, rest.pop(0))
        assert found is not None, words
        command = found
    return command, rest


def options_of(command: click.Command) -> set[str]:
    """Every spelling of the options of a command."""
    own = {it for param in command.params for it in (*param.opts, *param.secondary_opts)}
    return own | {"--help", "-h"}


@with_blocks("console", "sh")
def test_its_commands_are_accepted(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAPLANE_CACHE_ENCRYPT", "0")  # an option sets it; here it is put back
    targets = set(re.findall(r"^([a-z-]+):", (_ROOT / "Makefile").read_text(), re.MULTILINE))
    checked = 0
    for words in itertools.chain.from_iterable(map(commands, lines(page))):
        if words[0] == "dataplane":
            command, arguments = command_of(words)
            try:
                command.make_context(words[-1], list(arguments))
            except click.exceptions.Exit:
                pass  # an option that prints something and ends
            except click.ClickException as err:
                pytest.fail(f"{' '.join(words)}: {err.format_message()}")
            checked += 1
        elif words[0] == "make":
            named = {word for word in words[1:] if "=" not in word}
            assert named <= targets, words
            checked += 1
    assert checked or not any("dataplane " in line for line in lines(page))


@pytest.mark.parametrize("page", _PAGES, ids=name_of)
def test_the_commands_and_options_that_its_text_names_exist(page: Path) -> None:
    for text in _INLINE.findall(page.read_text()):
        words = text.split()
        command, rest = command_of(words)
        named = {word.partition("=")[0].rstrip(",") for word in rest if re.match(r"--?[a-z]", word)}
        assert named <= options_of(command), text


@pytest.mark.parametrize("page", _PAGES, ids=name_of)
def test_the_extras_that_it_names_exist(page: Path) -> None:
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    named = re.findall(r"'(?:\.|simdataplane)\[([a-z0-9,-]+)\]'", page.read_text())
    assert {name for names in named for name in names.split(",")} <= set(
        project["optional-dependencies"]
    )


@pytest.mark.parametrize(
    "check",
    [
        lambda: command_of(["dataplane", "inof", "x"]),
        lambda: command_of(["dataplane", "cache", "purge"]),
        lambda: command_of(["dataplane", "--debugg", "info"]),
    ],
)
def test_what_does_not_exist_is_noticed(check: Callable[[], object]) -> None:
    with pytest.raises(AssertionError):
        check()
