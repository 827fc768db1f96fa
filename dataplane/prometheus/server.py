"""The Prometheus endpoint: `/metrics`, an index at `/`, `/healthz`, and 404 for anything else.

It is on the loopback interface unless told otherwise: the metrics name no object and hold no
secret, but there is no access control either. The server has a thread of its own, dp-metrics, and
one for each connection, of which there is a limit: a client that connects and sends nothing is
dropped after _REQUEST_TIMEOUT_S, and is no failure of ours. Nothing is printed; failures go to the
logger.
"""

from __future__ import annotations

import errno
import io
import os
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, ClassVar, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from dataplane.cache.config import CacheConfig
from dataplane.daemon_thread import DaemonThread
from dataplane.errors import CacheError, ConfigError
from dataplane.extras import missing_package
from dataplane.prometheus.figures import HostFigures, ProcessFigures
from dataplane.telemetry import logger

__all__ = ["MetricsServer", "serve_host_metrics", "serve_metrics"]

_MAX_PORT = 65_535
_REQUEST_TIMEOUT_S = 10.0
_MAX_CONNECTIONS = 16
_TEXT = ("Content-Type", "text/plain; charset=utf-8")
_INDEX = b"dataplane\n\n/metrics   for Prometheus\n/healthz   ok while this process answers\n"

_Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


def serve_metrics(port: int, *, host: str = "127.0.0.1") -> MetricsServer:
    """Serve Prometheus at `http://host:port/metrics` until the server is closed or we end.

    Needs the extra `metrics`. The metrics are those of this process. Each rank of a job needs a
    port of its own, such as `9400 + local_rank`; `dataplane stats --metrics-port 9400` serves the
    metrics of all processes of the host at one.

    Args:
        port: port to listen at; 0 takes a free one, which `MetricsServer.port` tells.
        host: address to listen at. Any client that reaches it may read the metrics.

    Raises:
        ConfigError: the address cannot be listened at, or prometheus_client is missing.

    Example:
        >>> import dataplane as dp
        >>> server = dp.serve_metrics(9400)  # doctest: +SKIP
    """
    return _serve(port, host, ProcessFigures(), with_process=True)


def serve_host_metrics(port: int, config: CacheConfig, *, host: str = "127.0.0.1") -> MetricsServer:
    """Serve the metrics of all processes that use a cache directory to Prometheus.

    Args:
        port: port to listen at; 0 takes a free one.
        config: configuration that names the directory.
        host: address to listen at.

    Raises:
        ConfigError: as `serve_metrics`.
    """
    return _serve(port, host, HostFigures(config), with_process=False)


def _serve(port: int, host: str, figures: Any, *, with_process: bool) -> MetricsServer:
    if not 0 <= port <= _MAX_PORT:
        raise ConfigError(f"a metrics port is 0 to {_MAX_PORT}, got {port}")
    try:
        import prometheus_client
    except ImportError as err:
        raise missing_package("serving metrics", "prometheus_client") from err
    registry = prometheus_client.CollectorRegistry()
    registry.register(figures)
    if with_process:
        prometheus_client.ProcessCollector(registry=registry)
    application = _application(prometheus_client.make_wsgi_app(registry))
    try:
        server = _Server(host, port, application)
    except (OSError, OverflowError) as err:
        raise ConfigError(f"cannot serve metrics on {host}:{port}: {err}", hint=_hint(err)) from err
    return MetricsServer(server)


def _hint(err: Exception) -> str:
    if isinstance(err, OSError) and err.errno == errno.EADDRINUSE:
        return (
            "another process serves there: give each rank a port of its own (port + local rank), "
            "or serve all of the host at one: dataplane stats --metrics-port PORT"
        )
    return "choose another port or address"


def _application(metrics: _Application) -> _Application:
    """Respond to the paths of the endpoint."""

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path, method = environ.get("PATH_INFO", "/"), environ["REQUEST_METHOD"]
        if path == "/metrics":
            try:
                return metrics(environ, start_response)
            except (CacheError, OSError) as err:
                logger.warning("no figures for Prometheus: %s", err)
                start_response("503 Service Unavailable", [_TEXT])
                return [f"{err}\n".encode()]
            except Exception:  # of one response; wsgiref would send 500 too, and log nothing here
                logger.exception("the figures for Prometheus cannot be made")
                start_response("500 Internal Server Error", [_TEXT])
                return [b"the figures cannot be made; the log of this process says why\n"]
        known = {"/": _INDEX, "/healthz": b"ok\n"}.get(path)
        if known is None:
            start_response("404 Not Found", [_TEXT])
            return [b"not found; the figures are at /metrics\n"]
        if method not in ("GET", "HEAD"):
            start_response("405 Method Not Allowed", [_TEXT, ("Allow", "GET, HEAD")])
            return [b"use GET\n"]
        start_response("200 OK", [_TEXT, ("Content-Length", str(len(known)))])
        return [known if method == "GET" else b""]

    return answer


class _Handler(WSGIRequestHandler):
    timeout = _REQUEST_TIMEOUT_S

    def handle(self) -> None:
        """Respond to one request; wsgiref prints an error on its way, here it is logged."""
        self._errors = io.StringIO()
        try:
            super().handle()
        finally:
            if said := self._errors.getvalue():
                logger.debug("an answer of the metrics server was not delivered: %s", said)

    def get_stderr(self) -> Any:
        """Return the stream that wsgiref prints to."""
        return self._errors

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Log no scrape."""


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads: ClassVar[bool] = True  # type: ignore[misc] # as the mixin's documentation says

    def __init__(self, host: str, port: int, application: _Application) -> None:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        self.address_family = found[0]
        self._free = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        super().__init__((str(found[4][0]), port), _Handler)
        self.set_app(application)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection a thread, or close it when there are as many as there may be."""
        if not self._free.acquire(blocking=False):
            logger.debug("the metrics server has %d connections: one closed", _MAX_CONNECTIONS)
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection in its thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - as there
        """Log the error that ended a connection, where socketserver would print it."""
        if isinstance(sys.exception(), OSError):  # a port probe, or a client that went away
            logger.debug("a connection to the metrics server ended", exc_info=True)
        else:
            logger.error("a connection to the metrics server failed", exc_info=True)

    def server_bind(self) -> None:
        """Bind without asking the name service for our host name, which may take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()


class MetricsServer:
    """A running endpoint; made by `serve_metrics`. A context manager."""

    def __init__(self, server: _Server) -> None:
        self._server: _Server | None = server
        self._pid = os.getpid()
        self._port = int(server.server_port)
        self._thread = DaemonThread(server.serve_forever, name="dp-metrics")
        self._thread.start()

    @property
    def port(self) -> int:
        """Port that it listens at."""
        return self._port

    def close(self) -> None:
        """Stop serving. Idempotent; in a forked child the parent goes on serving."""
        server, self._server = self._server, None
        if server is None:
            return
        if self._pid != os.getpid():  # the thread that would stop is the parent's
            server.socket.close()
            return
        server.shutdown()
        server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
