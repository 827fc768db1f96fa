"""Every figure is explained, and Prometheus gets them all."""

from __future__ import annotations

import ast
import re
import sys
import urllib.request
from pathlib import Path

import pytest

import dataplane as dp
from dataplane import metrics
from dataplane.errors import ConfigError, MissingPackage
from dataplane.metrics import COUNTERS, GAUGES, describe
from dataplane.prometheus import serve_metrics
from dataplane.telemetry import Counters, offer_gauges
from tests.inside import host_of

pytest.importorskip("prometheus_client")
_ROOT = Path(__file__).resolve().parent.parent


def scrape(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def test_prometheus_gets_counters_families_and_gauges() -> None:
    class Owner:
        pass

    owner, counters = Owner(), Counters()
    with serve_metrics(0) as server:
        before = scrape(server.port)
        counters.add_all(
            {"cache_hit_bytes": 5, "cache_wait_s": 0.5, "store_errors_timeout": 2, "odd": 1}
        )
        offer_gauges(owner, lambda _: {"cache_jobs": 3, "loader_queue_decode": 4})
        after = scrape(server.port)
    grown = {name: value - before.get(name, 0) for name, value in after.items()}
    assert grown["dataplane_cache_hit_bytes_total"] == 5
    assert grown["dataplane_cache_wait_seconds_total"] == 0.5
    assert grown['dataplane_store_errors_total{kind="timeout"}'] == 2
    assert grown["dataplane_odd_total"] == 1
    assert grown["dataplane_cache_jobs"] == 3
    assert grown['dataplane_loader_queue{stage="decode"}'] == 4
    assert after["process_resident_memory_bytes"] > 0


def test_the_endpoint_is_on_the_loopback_interface_and_closes() -> None:
    server = serve_metrics(0)
    assert host_of(server) == "127.0.0.1"
    port = server.port
    with pytest.raises(ConfigError, match=f"127.0.0.1:{port}"):
        serve_metrics(port)
    server.close()
    server.close()
    serve_metrics(port).close()


@pytest.mark.parametrize("port", [-1, 65_536])
def test_a_port_that_is_none_is_refused(port: int) -> None:
    with pytest.raises(ConfigError, match="0 to 65535"):
        serve_metrics(port)


def test_an_address_that_is_not_ours_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"203\.0\.113\.1"):
        serve_metrics(0, host="203.0.113.1")


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingPackage, match=r"pip install '\.\[metrics\]"):
        serve_metrics(0)


def test_a_program_gets_counters_and_gauges_of_its_process() -> None:
    counters = Counters()
    counters.add("cache_hits", 7)
    assert dp.stats()["cache_hits"] >= 7


def counted_names(path: Path) -> set[str]:
    """The names that a file adds to; of one that is put together, its beginning and `…`."""
    names: set[str] = set()
    for call in ast.walk(ast.parse(path.read_text())):
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
            continue
        owner = ast.unparse(call.func.value)
        if call.func.attr not in ("add", "add_all") or not owner.endswith("counters"):
            continue
        first = call.args[0]
        keys = first.keys if isinstance(first, ast.Dict) else [first]
        for key in keys:
            if isinstance(key, ast.Constant):
                names.add(key.value)
            elif isinstance(key, ast.JoinedStr):
                names.add(f"{key.values[0].value}…")
    return names


def test_every_counter_in_the_source_is_documented() -> None:
    found = set()
    for folder in ("dataplane", "mounts"):
        for path in (_ROOT / folder).rglob("*.py"):
            found |= counted_names(path)
    assert len(found) > 40
    assert {
        name
        for name in found
        if not any(documented.startswith(name.rstrip("…")) for documented in COUNTERS)
    } == set()
    made = {documented for documented in COUNTERS if documented not in found}
    assert {
        name
        for name in made
        if not any(n.endswith("…") and name.startswith(n.rstrip("…")) for n in found)
    } == set()


def test_each_documented_name_is_in_the_page_with_the_same_words() -> None:
    page = (_ROOT / "docs" / "metrics.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z_]+)(?:<[a-z]+>)?` \| (.+) \|$", page, re.MULTILINE))
    assert rows == {**COUNTERS, **GAUGES}


def test_a_family_member_is_described_by_its_family() -> None:
    assert describe("store_errors_timeout") == (
        "store_errors_", "timeout", COUNTERS["store_errors_"],
    )  # fmt: skip
    assert describe("nothing") is None
    assert metrics.wire_name("store_get_s") == "dataplane_store_get_seconds"
