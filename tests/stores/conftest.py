"""Servers over HTTP and HTTPS, for tests of stores."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from tests.stores.fakes import Answer, HttpServer, Request
from tests.stores.tls_servers import Authority, server_context

Serve = Callable[[Callable[[Request], Answer]], HttpServer]


@pytest.fixture(scope="session")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that `secure` makes a trusted one."""
    return Authority(tmp_path_factory.mktemp("certificates"), "trusted")


@pytest.fixture
def secure(trusted: Authority, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Makes servers over HTTPS whose certificates are trusted in this test."""
    monkeypatch.setenv("DATAPLANE_CA_BUNDLE", str(trusted.file))
    return functools.partial(HttpServer, context=server_context(trusted.issue("good")))


@pytest.fixture(params=["http", "https"])
def serve(request: pytest.FixtureRequest) -> Serve:
    """Makes servers, once over HTTP and once over HTTPS."""
    return HttpServer if request.param == "http" else request.getfixturevalue("secure")
