"""A command that waits for a store says so, and one that does not says nothing."""

from __future__ import annotations

import socket
import threading

import pytest
from click.testing import CliRunner

from dataplane.cli import waiting
from dataplane.cli.info import info
from dataplane.cli.waiting import said_when_late


def test_an_answer_in_time_is_not_announced(capsys) -> None:
    with said_when_late("s3://bucket"):
        pass
    assert capsys.readouterr().err == ""


def test_info_of_a_silent_server_says_that_it_waits(monkeypatch) -> None:
    monkeypatch.setattr(waiting, "_LATE_S", 0.05)
    monkeypatch.setenv("DATAPLANE_STORE_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("DATAPLANE_STORE_TIMEOUT_S", "1")
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes connections, says nothing
        url = f"http://127.0.0.1:{server.getsockname()[1]}/ds"
        done = CliRunner().invoke(info, [url])
    assert done.exception is not None
    assert f"{url} has not answered yet" in done.stderr


@pytest.mark.parametrize("name", ["s3://b/\x1b[2J", "s3://b/\n"])
def test_what_is_waited_for_cannot_write_to_the_terminal(monkeypatch, capsys, name) -> None:
    monkeypatch.setattr(waiting, "_LATE_S", 0.0)
    late = threading.Event()
    real = waiting.click.echo
    monkeypatch.setattr(
        waiting.click, "echo", lambda *given, **named: (real(*given, **named), late.set())
    )
    with said_when_late(name):
        assert late.wait(10)
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert "\x1b" not in text
