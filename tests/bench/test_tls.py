"""Benchmarks against an endpoint that speaks TLS."""

from __future__ import annotations

import os
from contextlib import ExitStack

import pytest
from click.testing import CliRunner

from dataplane.stores import open_store
from dataplane_bench.command import bench
from dataplane_bench.endpoint import start_endpoint
from dataplane_bench.isolated import RivalFailed
from dataplane_bench.raw_socket import RawConnections, ceiling_name
from tests.bench.inside import received_by

pytest.importorskip("cryptography", reason="certificates are made with it")
pytest.importorskip("botocore", reason="URLs are signed with it")


@pytest.mark.parametrize("tls", [False, True])
def test_the_ceiling_receives_whole_ranges_and_says_what_it_is(*, tls: bool) -> None:
    with ExitStack() as stack:
        endpoint, environment = start_endpoint(stack, "bench", tls=tls)
        content = os.urandom(200_000)
        endpoint.put("bench", "k", content)
        assert ceiling_name(environment) == ("ceiling:openssl" if tls else "ceiling:socket")
        raw = RawConnections(environment, "bench", "k", len(content))
        assert raw.get(0, len(content)) == len(content)
        assert raw.get(7, 100) == 93
        assert bytes(received_by(raw)[:93]) == content[7:100]
        raw.close()
        missing = RawConnections(environment, "bench", "missing", 10)
        with pytest.raises(RivalFailed, match="answered"):
            missing.get(0, 10)
        missing.close()
        store = open_store("s3://bench")
        assert [info.key for info in store.list()] == ["k"]
        store.close()


def test_tls_is_of_the_embedded_endpoint() -> None:
    done = CliRunner().invoke(bench, ["store", "--store", "s3://bucket", "--tls", "--smoke"])
    assert done.exit_code == 2
    assert "--tls" in done.output
