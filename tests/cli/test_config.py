"""`dataplane config`, and the page that lists the settings."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from dataplane.cli.config import _SECTIONS, _unread, config, markdown
from dataplane.config import SECTIONS

_PAGE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"


def test_the_page_lists_every_setting_as_it_is() -> None:
    table = _PAGE.read_text().partition("dataplane.cli.config.markdown -->\n")[2]
    assert table == markdown(), "print(dataplane.cli.config.markdown()) makes the table"


def test_every_table_of_the_file_is_shown() -> None:
    assert set(_SECTIONS) == SECTIONS


def test_values_come_with_their_origin_and_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[store]\nregion = "mars"\nstorage_options = {secret = "HIDDEN"}\n')
    monkeypatch.setenv("DATAPLANE_CONFIG", str(path))
    monkeypatch.setenv("DATAPLANE_FETCH_THREADS", "5")
    printed = CliRunner().invoke(config, ["--json"], catch_exceptions=False).output
    settings = {one["name"]: one for one in json.loads(printed)["settings"]}
    assert (settings["store.region"]["value"], settings["store.region"]["origin"]) == (
        "mars",
        str(path),
    )
    threads = settings["cache.fetch_threads"]
    assert (threads["value"], threads["origin"]) == (5, "DATAPLANE_FETCH_THREADS")
    secret = settings["store.storage_options"]
    assert (secret["value"], secret["is_hidden"]) == (None, True)
    table = CliRunner().invoke(config, [], catch_exceptions=False).output
    assert "store.region" in table
    assert "HIDDEN" not in printed + table


def test_values_are_numbers_answers_or_null_in_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[cache]\nsize_bytes = "200GiB"\nencrypt = true\n[store]\ndeadline_s = 90\n')
    monkeypatch.setenv("DATAPLANE_CONFIG", str(path))
    monkeypatch.setenv("DATAPLANE_STORE_TIMEOUT_S", "inf")
    printed = CliRunner().invoke(config, ["--json"], catch_exceptions=False).output
    values = {one["name"]: one["value"] for one in json.loads(printed, parse_constant=pytest.fail)[
        "settings"
    ]}  # fmt: skip
    assert values["cache.dir"] == str(tmp_path / "cache")
    assert values["cache.size_bytes"] == 200 << 30
    assert values["cache.encrypt"] is True
    assert values["cache.key_file"] is None
    assert values["store.deadline_s"] == 90
    assert values["store.hedge_floor_s"] == 0.2
    assert values["store.timeout_s"] == "inf"  # which JSON has no number for
    assert values["store.region"] is None
    table = CliRunner().invoke(config, [], catch_exceptions=False).output
    assert "None" not in table


def test_variables_that_nothing_reads_are_named_on_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CliRunner().invoke(config, ["--json"], catch_exceptions=False).stderr == ""
    monkeypatch.setenv("DATAPLANE_FETCH_THREAD", "5")
    monkeypatch.setenv("DATAPLANE_QUITE_ELSE", "1")
    monkeypatch.setenv("DATAPLANE_FETCH_THREADS", "5")
    done = CliRunner().invoke(config, ["--json"], catch_exceptions=False)
    json.loads(done.stdout)
    assert done.stderr.splitlines() == [
        "dataplane: nothing reads the environment variable DATAPLANE_FETCH_THREAD; "
        "did you mean DATAPLANE_FETCH_THREADS?",
        "dataplane: nothing reads the environment variable DATAPLANE_QUITE_ELSE",
    ]


def test_every_variable_that_the_repository_reads_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # In quotes in Python, after a $ in shell and units; what is compiled in is no variable.
    pattern = re.compile(r"""["'$]\{?(DATAPLANE_[A-Z0-9_]+)\b""")
    root = _PAGE.parents[1]
    suffixes = {".py", ".sh", ".service", ".dataplane"}
    folders = ("dataplane", "mounts", "benchmarks", "examples", "tools", "tests/servers")
    files = [path for folder in folders for path in (root / folder).rglob("*")]
    read = {
        name
        for path in [*files, root / "tests/conftest.py", root / "tests/stress/conftest.py"]
        if path.suffix in suffixes
        for name in pattern.findall(path.read_text())
    }
    assert read >= {"DATAPLANE_CONFIG", "DATAPLANE_CACHE_KEY", "DATAPLANE_STRESS", "DATAPLANE_URL"}
    assert list(_unread(dict.fromkeys(read, "1"))) == []
