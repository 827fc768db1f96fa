"""What tests of counters and metrics look at: the one place that knows how these are built."""

from __future__ import annotations

from contextlib import AbstractContextManager

import pytest

from dataplane.prometheus import server
from dataplane.prometheus.server import MetricsServer
from dataplane.telemetry import Counters

MAX_CONNECTIONS = server._MAX_CONNECTIONS
"""Connections that a metrics server holds at once."""


def counting_lock(counters: Counters) -> AbstractContextManager[object]:
    """The lock under which counters count."""
    return counters._counts.lock


def host_of(metrics: MetricsServer) -> str:
    """The address that a metrics server listens on."""
    assert metrics._server is not None
    return str(metrics._server.server_address[0])


def set_silence(monkeypatch: pytest.MonkeyPatch, limit_s: float) -> None:
    """Clients of metrics servers that may be silent for so long."""
    monkeypatch.setattr(server._Handler, "timeout", limit_s)
