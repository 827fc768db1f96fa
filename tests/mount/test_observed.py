"""A mount seen from outside: its figures, its Prometheus endpoint, what it keeps in the cache."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cache.fakes import wait_until
from tests.mount.conftest import MakeMount, Mounted

pytestmark = pytest.mark.fuse


@contextmanager
def opened(mount: Mounted, name: str) -> Iterator[None]:
    """Another process has read all of a file and keeps it open."""
    program = (
        "import sys; f = open(sys.argv[1], 'rb'); f.read(); print(flush=True); sys.stdin.read()"
    )
    reader = subprocess.Popen(
        [sys.executable, "-c", program, str(mount.point / name)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert reader.stdout is not None
        assert reader.stdout.readline()
        yield
    finally:
        reader.communicate()


def test_a_mount_shows_its_figures_and_keeps_what_is_open(
    source: Path, make_mount: MakeMount
) -> None:
    mount = make_mount(source, "--metrics-port", "0")
    done = mount.mount()
    assert done.status == 0, done.errors
    where = re.search(r"metrics at (http://127\.0\.0\.1:\d+/metrics)", mount.log.read_text())
    assert where is not None
    cache = ("--cache-dir", str(mount.home / "cache"))
    with opened(mount, "large.bin"):
        with urllib.request.urlopen(where[1], timeout=10) as answer:
            page = answer.read().decode()
        assert "\ndataplane_mount_open_files 1.0\n" in page
        size = (source / "large.bin").stat().st_size
        answered = re.search(r"^dataplane_mount_read_bytes_total (.+)$", page, re.MULTILINE)
        assert answered is not None
        assert float(answered[1]) == size

        def figures() -> dict[str, object]:
            document = json.loads(mount.command("stats", "--once", "--json", *cache).output)
            [process] = document["processes"]
            return process

        wait_until(lambda: figures()["counters"].get("mount_read_bytes") == size)
        assert figures()["pid"] == mount.pid
        assert figures()["program"] == "dataplane mount"
        [row] = json.loads(mount.command("cache", "ls", "--json", *cache).output)["entries"]
        assert row["held"]
        done = mount.command("cache", "clear", "--force", "--pinned", "--json", *cache)
        cleared = json.loads(done.output)
        assert (done.status, cleared["kept_held"], cleared["blocks"]) == (5, 1, 0)
        assert "1 open in a mount" in done.errors

    def is_let_go() -> bool:
        rows = json.loads(mount.command("cache", "ls", "--json", *cache).output)["entries"]
        return not rows[0]["held"]

    wait_until(is_let_go)


def test_a_metrics_port_in_use_is_said_at_once(source: Path, make_mount: MakeMount) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        mount = make_mount(source, "--metrics-port", port)
        done = mount.mount()
    assert done.status == 2
    assert f"127.0.0.1:{port}" in done.errors
