"""One connection, from its first request to its end: read, check, decide, respond, record.

Every request goes through the same steps: head, path, signature, fault plan, operation, response,
record. An error at any step becomes an XML response. The connection goes on where its framing is
certain, and is closed where it is not; before closing, bytes that the client still sends are read
for a moment, because closing over unread bytes would reset the connection and lose the response.

Runs on a thread of its own; shares only thread-safe parts with others.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from dataplane.telemetry import logger
from dataplane_testing.s3.delivery import ConnectionBroken, Delivery
from dataplane_testing.s3.documents import error_document
from dataplane_testing.s3.exchange import Request, Response, name_operation, split_path
from dataplane_testing.s3.faults import FaultInjector, Plan
from dataplane_testing.s3.http import ConnectionReader, parse_head, timeval
from dataplane_testing.s3.model import RequestRecord, S3Error
from dataplane_testing.s3.request_log import RequestLog
from dataplane_testing.s3.service import Operation, Service
from dataplane_testing.s3.sigv4 import Verifier, split_query

__all__ = ["Connection", "Shared"]

_NO_PLAN = Plan()
_DRAIN_BYTES = 1 << 20
_LINGER_S = 0.5
_LINGER_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Shared:
    """Parts that all connections of an endpoint share."""

    service: Service
    operations: Mapping[str, Operation]
    verifier: Verifier
    faults: FaultInjector
    log: RequestLog
    stopping: threading.Event


class Connection:
    """A connection over one accepted socket.

    Args:
        sock: socket; closed in the end.
        number: number of the connection, for the log.
        shared: parts that connections share.
        tls: TLS context; None speaks none.
    """

    def __init__(
        self,
        sock: socket.socket,
        number: int,
        shared: Shared,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._number = number
        self._shared = shared
        limits = shared.service.limits
        sock.setblocking(True)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval(limits.send_s))
        if tls is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval(limits.head_s))
            sock = tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        self._sock = sock
        self._reader = ConnectionReader(sock, limits)
        self._delivery = Delivery(sock, shared.stopping)

    def serve(self) -> None:
        """Serve requests until the connection ends. Raises nothing."""
        try:
            if isinstance(self._sock, ssl.SSLSocket):
                self._sock.do_handshake()
            while not self._shared.stopping.is_set() and self._serve_one():
                pass
        except (ConnectionBroken, OSError):
            pass  # the client left, did not read, or met a planned fault
        except Exception:  # the boundary of this thread: one connection ends, the server goes on
            logger.exception("the S3 endpoint's connection %d failed", self._number)
        finally:
            self._sock.close()

    def interrupt(self) -> None:
        """Make `serve` return soon; called from another thread."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def _serve_one(self) -> bool:
        """Serve one request; False where the connection is over."""
        try:
            block = self._reader.read_head()
            if block is None:
                return False
        except S3Error as err:
            self._refuse(err)
            return False
        log = self._shared.log
        index = log.begin()
        exchange = _Exchange(time.monotonic())
        try:
            return self._answer(block, exchange, f"{index:016X}")
        finally:
            log.end(exchange.record(index, self._number, self._delivery.bytes_sent))

    def _answer(self, block: bytes, exchange: _Exchange, request_id: str) -> bool:
        self._delivery.bytes_sent = 0
        close = False
        plan = _NO_PLAN
        response: Response | None = None
        try:
            try:
                request = self._read_request(block, exchange)
                plan = self._shared.faults.plan(request.operation, request.bucket, request.key)
                exchange.fault = plan.kind
                if plan.kind == "reset":
                    self._delivery.reset()
                self._delivery.wait(plan.wait_s)
                if plan.kind in {"slow_down", "rate_limit"}:
                    raise _slow_down(plan)
                response = self._shared.operations[request.operation](self._shared.service, request)
                exchange.range = response.range
            except S3Error as err:
                exchange.code = err.code
                response = _error_response(err, exchange.request, request_id)
                close = err.close
                plan = Plan(bandwidth_bytes_per_s=plan.bandwidth_bytes_per_s)
            except OSError as err:
                if isinstance(err, ConnectionError):
                    raise
                exchange.code = "InternalError"
                response = _error_response(_internal(err), exchange.request, request_id)
                plan, close = _NO_PLAN, True
            exchange.status = response.status
            head_only = exchange.request is not None and exchange.request.head.method == "HEAD"
            close = close or exchange.request is None or not exchange.request.head.keep_alive
            close = close or self._reader.continue_due or self._reader.body_left > _DRAIN_BYTES
            self._delivery.send(response, plan, request_id, head_only=head_only, close=close)
        finally:
            if response is not None and response.fd >= 0:
                os.close(response.fd)
        if close:
            self._linger()
            return False
        return self._reader.drain(_DRAIN_BYTES)

    def _read_request(self, block: bytes, exchange: _Exchange) -> Request:
        head = parse_head(block, self._shared.service.limits)
        self._reader.begin_body(
            head.content_length() or 0,
            expects_continue=head.headers.get("expect", "").lower() == "100-continue",
        )
        # From here on a refusal is a response to this request: known to the log, HEADs bodiless.
        request = exchange.request = Request(head, self._reader)
        request.bucket, request.key = split_path(head.path)
        request.parameters = split_query(head.query)
        request.signing = self._shared.verifier.verify(head, request.parameters)
        request.operation = name_operation(request)
        return request

    def _refuse(self, err: S3Error) -> None:
        """Respond to a request whose head could not be read."""
        index = self._shared.log.begin()
        exchange = _Exchange(time.monotonic(), status=err.status, code=err.code)
        try:
            request_id = f"{index:016X}"
            response = _error_response(err, None, request_id)
            self._delivery.send(response, _NO_PLAN, request_id, head_only=False, close=True)
            self._linger()
        finally:
            self._shared.log.end(exchange.record(index, self._number, self._delivery.bytes_sent))

    def _linger(self) -> None:
        """Close our side, then read for a moment the bytes that the client had under way."""
        self._sock.shutdown(socket.SHUT_WR)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval(_LINGER_S))
        deadline_s = time.monotonic() + _LINGER_S
        left = _LINGER_BYTES
        while left > 0 and time.monotonic() < deadline_s:
            count = len(self._sock.recv(64 << 10))
            if count == 0:
                return
            left -= count


@dataclass(slots=True)
class _Exchange:
    """The log's data of the request being served."""

    started_s: float
    request: Request | None = None
    range: tuple[int, int] | None = None
    status: int = 0
    code: str = ""
    fault: str | None = None

    def record(self, index: int, connection: int, bytes_sent: int) -> RequestRecord:
        request = self.request
        return RequestRecord(
            index=index,
            started_s=self.started_s,
            duration_s=time.monotonic() - self.started_s,
            method=request.head.method if request else "",
            operation=request.operation if request else "",
            bucket=request.bucket if request else "",
            key=request.key if request else "",
            range=self.range,
            status=self.status,
            code=self.code,
            bytes_sent=bytes_sent,
            fault=self.fault,
            connection=connection,
        )


def _error_response(err: S3Error, request: Request | None, request_id: str) -> Response:
    resource = f"/{request.bucket}/{request.key}" if request else ""
    body = error_document(err.code, err.message, resource, request_id)
    response = Response.xml(body, err.status)
    response.headers += err.headers
    return response


def _slow_down(plan: Plan) -> S3Error:
    return S3Error(
        503,
        "SlowDown",
        "Please reduce your request rate.",
        headers=f"Retry-After: {plan.retry_after_s}\r\n",
    )


def _internal(err: OSError) -> S3Error:
    logger.warning("the S3 endpoint cannot use its folder: %s", err)
    return S3Error(500, "InternalError", f"We encountered an internal error: {err.strerror}")
