"""The Prometheus endpoints: of a process, and of all processes of a host."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from wsgiref.simple_server import ServerHandler

import pytest

import dataplane as dp
from dataplane.cache import Cache, CacheConfig
from dataplane.errors import ConfigError
from dataplane.prometheus import serve_host_metrics, serve_metrics
from dataplane.prometheus import server as endpoint
from dataplane.stores import open_store
from tests.cache.fakes import wait_until
from tests.inside import MAX_CONNECTIONS, set_silence

pytest.importorskip("prometheus_client")
_TIMEOUT_S = 60.0


def ask(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as err:
        with err:
            return err.code, err.read().decode()


def scrape(port: int) -> dict[str, float]:
    status, page = ask(port, "/metrics")
    assert status == 200, page
    pairs = (line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


@contextmanager
def reading(path: Path, folder: Path, size_bytes: int | None = None) -> Iterator[Cache]:
    """This process uses a cache directory."""
    (folder / "a.bin").write_bytes(os.urandom(100_000))
    store = open_store(folder)
    with Cache(CacheConfig(dir=path, size_bytes=size_bytes)) as cache:
        cache.open(store, store.head("a.bin")).read(0, 1)
        yield cache


@pytest.mark.parametrize(
    ("path", "method", "status", "word"),
    [
        ("/metrics", "GET", 200, "dataplane_build_info"),
        ("/", "GET", 200, "/metrics"),
        ("/", "HEAD", 200, ""),
        ("/healthz", "GET", 200, "ok\n"),
        ("/", "POST", 405, "use GET"),
        ("/metrics/", "GET", 404, "at /metrics"),
        ("/favicon.ico", "GET", 404, "not found"),
        ("/anything/else", "GET", 404, "not found"),
    ],
)
def test_only_the_paths_of_the_endpoint_answer(
    path: str, method: str, status: int, word: str
) -> None:
    with serve_metrics(0) as server:
        answered, page = ask(server.port, path, method)
    assert answered == status
    assert word in page


def test_the_build_is_named() -> None:
    with serve_metrics(0) as server:
        figures = scrape(server.port)
    python = ".".join(map(str, sys.version_info[:3]))
    name = f'dataplane_build_info{{python="{python}",version="{dp.__version__}"}}'
    assert figures[name] == 1


def test_the_budget_and_the_free_disk_are_gauges_and_count_once_per_directory(
    tmp_path: Path,
) -> None:
    # Two caches of one process in the same directory, as two datasets with other settings make.
    with (
        reading(tmp_path / "cache", tmp_path, 64 << 20) as cache,
        reading(tmp_path / "cache", tmp_path, 64 << 20),
        serve_metrics(0) as server,
    ):
        figures = scrape(server.port)
        used = cache.usage_bytes()
    status = os.statvfs(tmp_path)
    assert figures["dataplane_cache_used_bytes"] == used > 0
    assert figures["dataplane_cache_budget_bytes"] == 64 << 20
    assert figures["dataplane_cache_disk_bytes"] == status.f_blocks * status.f_frsize
    assert 0 < figures["dataplane_cache_disk_free_bytes"] < figures["dataplane_cache_disk_bytes"]


def test_a_directory_that_a_link_names_too_counts_once(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "cache")
    with (
        reading(tmp_path / "cache", tmp_path, 64 << 20) as cache,
        reading(tmp_path / "link", tmp_path, 64 << 20),
    ):
        figures = dp.stats()
        used = cache.usage_bytes()
    assert figures["cache_used_bytes"] == used > 0
    assert figures["cache_budget_bytes"] == 64 << 20


def test_without_a_budget_the_gauge_says_what_the_disk_leaves(tmp_path: Path) -> None:
    with reading(tmp_path / "cache", tmp_path):
        figures = dp.stats()
    room = figures["cache_disk_free_bytes"] - figures["cache_disk_bytes"] // 10
    expected = max(0, figures["cache_used_bytes"] + room)
    # Others write to this disk meanwhile.
    assert figures["cache_budget_bytes"] == pytest.approx(expected, abs=1 << 30)


def test_a_second_process_at_the_port_is_told_what_to_do() -> None:
    with serve_metrics(0) as server, pytest.raises(ConfigError, match="in use") as raised:
        serve_metrics(server.port)
    assert "port + local rank" in str(raised.value.hint)
    assert "dataplane stats --metrics-port PORT" in str(raised.value.hint)


def test_one_endpoint_of_a_host_has_the_figures_of_every_process(tmp_path: Path) -> None:
    cache_dir = tmp_path / "cache"
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "dataplane", "stats", "--metrics-port", "0"),
            *("--cache-dir", str(cache_dir)),
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            found = re.search(r"at http://127\.0\.0\.1:(\d+)/metrics; Ctrl-C ends it", line)
            assert found, line
            port = int(found[1])
            # It runs before there is a cache, and makes none.
            assert scrape(port)["dataplane_processes"] == 0
            assert not cache_dir.exists()
            with reading(cache_dir, tmp_path, 64 << 20) as cache:
                # Processes publish their figures once a second.
                wait_until(lambda: any("cache_budget_bytes{" in name for name in scrape(port)))
                figures = scrape(port)
                used = cache.usage_bytes()
            after = scrape(port)
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=_TIMEOUT_S)
        finally:
            process.kill()
    assert (process.returncode, output, errors) == (0, "", "")
    own = re.compile(rf'.*{{.*pid="{os.getpid()}",program="[^"]+".*}}')
    names = {name.partition("{")[0] for name in figures if own.fullmatch(name)}
    assert {"dataplane_cache_budget_bytes", "dataplane_cache_jobs"} <= names
    assert figures["dataplane_processes"] == 1
    assert figures["dataplane_cache_used_bytes"] == used
    assert figures["dataplane_cache_disk_free_bytes"] > 0
    assert after["dataplane_processes"] == 0
    assert not any("pid=" in name for name in after)


def test_a_scrape_makes_no_cache_of_an_empty_directory(tmp_path: Path) -> None:
    place = tmp_path / "cache"
    place.mkdir()
    place.chmod(0o755)
    with serve_host_metrics(0, CacheConfig(dir=place)) as server:
        assert scrape(server.port)["dataplane_processes"] == 0
    assert list(place.iterdir()) == []
    assert stat.S_IMODE(place.stat().st_mode) == 0o755


def test_who_connects_and_says_nothing_or_goes_away_leaves_no_trace_on_stderr(
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_silence(monkeypatch, 0.05)
    with caplog.at_level("DEBUG", "dataplane"), serve_metrics(0) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as probe:
            assert probe.recv(1) == b""  # let go
        wait_until(lambda: "a connection to the metrics server ended" in caplog.text)
    assert {it.levelname for it in caplog.records if "connection" in it.message} == {"DEBUG"}
    assert capfd.readouterr().err == ""


def test_an_answer_that_nobody_takes_is_not_printed(
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def write(self: ServerHandler, data: bytes) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr(ServerHandler, "write", write)
    with caplog.at_level("DEBUG", "dataplane"), serve_metrics(0) as server:
        with pytest.raises((OSError, http.client.HTTPException)):
            ask(server.port, "/healthz")
        wait_until(lambda: "was not delivered" in caplog.text)
    assert capfd.readouterr().err == ""


def test_a_fault_of_the_figures_goes_to_the_logger(
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(endpoint.ProcessFigures, "collect", lambda self: 1 // 0)
    with serve_metrics(0) as server:
        status, page = ask(server.port, "/metrics")
    assert status == 500
    assert "the log of this process says why" in page
    assert "ZeroDivisionError" in caplog.text
    assert capfd.readouterr().err == ""


def test_connections_beyond_the_limit_are_closed_at_once_and_places_are_given_back() -> None:
    with serve_metrics(0) as server, ExitStack() as held:
        for _ in range(MAX_CONNECTIONS):
            held.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10))
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as extra:
            assert extra.recv(1) == b""  # long before an idle one is let go
        held.close()
        wait_until(lambda: is_healthy(server.port))


def is_healthy(port: int) -> bool:
    try:
        return ask(port, "/healthz") == (200, "ok\n")
    except (OSError, http.client.HTTPException):
        return False


def test_a_forked_child_closes_its_copy_and_the_parent_goes_on() -> None:
    with serve_metrics(0) as server:
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # a child that hangs dies
            server.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert ask(server.port, "/healthz") == (200, "ok\n")


def test_a_cache_that_cannot_be_used_is_no_empty_page(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "version").write_text("dataplane-cache 2\n")
    with serve_host_metrics(0, CacheConfig(dir=tmp_path)) as server:
        status, page = ask(server.port, "/metrics")
        assert ask(server.port, "/healthz")[0] == 200
    assert status == 503
    assert "another version" in page
    assert "another version" in caplog.text


def test_serving_and_printing_at_once_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dataplane", "stats", "--metrics-port", "0", "--json"],
        check=False, capture_output=True, text=True, timeout=_TIMEOUT_S,
    )  # fmt: skip
    assert done.returncode == 2
    assert "leave --once, --interval and --json out" in done.stderr
