"""`dataplane config`, and the page that lists the settings."""

from __future__ import annotations

import functools
import json
import os
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from dataplane.cli.config import _SECTIONS, config, markdown, unread
from dataplane.config import SECTIONS
from tests.stores.fakes import Answer, HttpServer

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
    assert list(unread(dict.fromkeys(read, "1"))) == []


def test_sizes_are_readable_and_exact() -> None:
    settings = {
        "DATAPLANE_CACHE_SIZE": "200GB", "DATAPLANE_PREFETCH_WINDOW": "512MiB",
        "DATAPLANE_BLOCK_BYTES": "4096",
    }  # fmt: skip
    table = CliRunner().invoke(config, [], env=settings, catch_exceptions=False).output
    shown = {line.split()[0]: line for line in table.splitlines() if line.startswith("cache.")}
    assert "186 GiB (200000000000)" in shown["cache.size_bytes"]
    assert " 512 MiB " in shown["cache.prefetch_window_bytes"]
    assert " 4 KiB " in shown["cache.block_bytes"]


def test_nothing_is_left_out_or_broken_in_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    narrow = functools.partial(Console, width=60, force_terminal=True, color_system=None)
    monkeypatch.setattr(sys.modules["dataplane.cli.config"], "output", narrow)
    lines = CliRunner().invoke(config, [], catch_exceptions=False).output.splitlines()
    text = " ".join(" ".join(lines).split())
    for words in ("cache.prefetch_window_bytes = 512 MiB", "DATAPLANE_CACHE_DIR", "S3 region: "):
        assert words in text
    assert "how far ahead of its reader a plan is fetched" in text
    # A path is one word, however long.
    assert [line for line in lines[1:] if len(line) > 60 and " " in line] == []


_SECRETS = {"AWS_ACCESS_KEY_ID": "AKIDHIDDEN", "AWS_SECRET_ACCESS_KEY": "KEYHIDDEN"}


@pytest.mark.parametrize(
    ("environ", "region", "credentials"),
    [
        (_SECRETS, "not set", "keys, from AWS_ACCESS_KEY_ID"),
        (_SECRETS | {"AWS_DEFAULT_REGION": "mars-1"}, "mars-1, from AWS_DEFAULT_REGION", "keys"),
        ({"AWS_ENDPOINT_URL": "http://h:1"}, "us-east-1, from default", "none found"),
        ({"DATAPLANE_ANONYMOUS": "1"}, "not set", "none are sent (anonymous)"),
        (
            {"AWS_WEB_IDENTITY_TOKEN_FILE": "/x"},
            "not set",
            "a web identity token, from AWS_WEB_IDENTITY_TOKEN_FILE",
        ),
        (
            {"AWS_PROFILE": "work"},
            "venus-2, from profile work",
            "keys in the credentials file, from profile work",
        ),
        ({"AWS_PROFILE": "tool"}, "not set", "a program, from profile tool"),
        ({"AWS_PROFILE": "role"}, "not set", "an assumed role, from profile role"),
        ({"AWS_PROFILE": "by-tool"}, "not set", "an assumed role, from profile by-tool"),
        ({"AWS_PROFILE": "on-cloud"}, "not set", "an assumed role, from profile on-cloud"),
        ({"AWS_PROFILE": "web"}, "not set", "a role with web identity, from profile web"),
        ({"AWS_PROFILE": "nobody"}, "not set", "not found: there is no such profile"),
        ({}, "not set", "none found; on a cloud instance its role is asked for"),
    ],
)
def test_region_and_the_kind_of_credentials_are_shown_and_no_secret(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environ: dict[str, str],
    region: str,
    credentials: str,
) -> None:
    pytest.importorskip("botocore")
    keys = "aws_access_key_id = AKIDHIDDEN\naws_secret_access_key = KEYHIDDEN\n"
    role = "role_arn = arn:aws:iam::123456789012:role/x\n"
    (tmp_path / "credentials").write_text(f"[work]\n{keys}")
    (tmp_path / "config").write_text(
        "[profile work]\nregion = venus-2\n"
        f"[profile tool]\ncredential_process = touch {tmp_path}/started\n"
        f"[profile role]\n{role}source_profile = work\n"
        f"[profile by-tool]\n{role}source_profile = tool\n"
        f"[profile on-cloud]\n{role}credential_source = Ec2InstanceMetadata\n"
        f"[profile web]\n{role}web_identity_token_file = {tmp_path}/token\n"
    )
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with HttpServer(lambda _: Answer(404)) as metadata:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url)
        shown = CliRunner().invoke(config, [], env=environ, catch_exceptions=False).output
        as_json = CliRunner().invoke(config, ["--json"], env=environ, catch_exceptions=False).output
    lines = dict(line.split(": ", 1) for line in shown.splitlines() if line.startswith("S3 "))
    assert lines["S3 region"] == region
    assert lines["S3 credentials"].startswith(credentials)
    assert metadata.requests == []
    assert json.loads(as_json)["s3"]["credentials"] in lines["S3 credentials"]
    assert "HIDDEN" not in shown + as_json
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize(
    ("endpoint", "shown", "error"),
    [
        ("foo", "foo", "not an endpoint URL: 'foo'"),
        ("http://user:HIDDEN@h:1", "http://***@h:1", "the endpoint URL holds credentials"),
        ("http://user:HI@/HIDDEN@h:1", "http://***@h:1", "the endpoint URL holds credentials"),
        ("user:HIDDEN@h", "***@h", "the endpoint URL holds credentials"),
    ],
)
def test_an_endpoint_that_cannot_be_used_is_shown_as_such_and_without_a_password(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, shown: str, error: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    table = CliRunner().invoke(config, [], catch_exceptions=False).output
    assert f"S3 endpoint: not usable: {error}" in table
    assert "S3 credentials: keys, from AWS_ACCESS_KEY_ID" in table
    assert f" {shown} " in next(it for it in table.splitlines() if "store.endpoint_url" in it)
    printed = CliRunner().invoke(config, ["--json"], catch_exceptions=False).output
    document = json.loads(printed)
    assert document["s3"]["endpoint_error"].startswith(error)
    settings = {one["name"]: one["value"] for one in document["settings"]}
    assert settings["store.endpoint_url"] == shown
    assert "HIDDEN" not in table + printed
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://h:1")
    good = CliRunner().invoke(config, ["--json"], catch_exceptions=False).output
    assert json.loads(good)["s3"]["endpoint_error"] is None
