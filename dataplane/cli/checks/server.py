"""One unsigned request to the server of a store: whether it answers, and what time it has.

The address is that of the settings, or the one that the store's scheme stands for. The request is a
HEAD of the root: it carries no credentials, and any response will do, a refusal too. Each response
has a date, which is compared with this machine's clock: signatures hold for a quarter of an hour.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from dataplane.cli.checks.finding import Finding, Values, fail, ok, skip, warn
from dataplane.cli.text import printable
from dataplane.errors import DataplaneError, StoreError, Timeout, Unavailable
from dataplane.stores.base import StoreConfig
from dataplane.stores.clients.access import s3_access
from dataplane.stores.http.opener import make_opener
from dataplane.stores.trust import certificate_failure, refusal_of, tls_context
from dataplane.stores.urls import HTTP_SCHEMES, azure_parts, parse_url, s3_endpoint
from dataplane.units import format_duration

__all__ = ["ServerAnswer", "ask_server", "clock", "endpoint", "server_of"]

_TIMEOUT_S = 6.0
_SIGNATURE_S = 900.0  # Source: AWS Signature Version 4, and its like: 15 minutes
_WARN_S = 60.0
_DATE_STEP_S = 1.0  # a date has no fractions of a second


@dataclass(frozen=True, slots=True)
class ServerAnswer:
    """Answer of a server.

    Attributes:
        url: its address.
        status: HTTP status.
        took_s: time from the request to the answer, connection included.
        ahead_s: how far its clock is ahead of this one, within half of `took_s` and a second; None
            where it says no time.
    """

    url: str
    status: int
    took_s: float
    ahead_s: float | None


def server_of(
    url: str | None, config: StoreConfig, environ: Mapping[str, str] | None = None
) -> str | None:
    """Return the address of a store's server; None where there is none, or it is not known.

    Args:
        url: URL of the store; None stands for S3 at an endpoint of the settings, if they name one.
        config: settings.
        environ: the environment.

    Raises:
        ConfigError: the URL or the endpoint cannot be used.
    """
    if url is None:
        return s3_endpoint(config, environ)
    location = parse_url(url)
    if location.scheme in HTTP_SCHEMES:
        return f"{location.scheme}://{location.bucket}"
    if location.scheme == "s3" and not config.storage_options:
        endpoint = s3_endpoint(config, environ)
        region = s3_access(config, "", environ).region or "us-east-1"
        return (
            endpoint or f"https://s3.{region}.amazonaws.com{_CHINA if region[:3] == 'cn-' else ''}"
        )
    if location.scheme == "gs":
        return "https://storage.googleapis.com"
    if location.scheme in ("az", "abfs"):
        return f"https://{azure_parts(location)[0]}.blob.core.windows.net"
    return None


_CHINA = ".cn"


def ask_server(url: str, config: StoreConfig, *, timeout_s: float = _TIMEOUT_S) -> ServerAnswer:
    """Ask a server for the head of its root, without credentials.

    Args:
        url: its address.
        config: settings, for the certificates to trust.
        timeout_s: time for each step.

    Raises:
        StoreError: it does not answer, or its certificate is refused.
        ConfigError: the certificates to trust cannot be read.
    """
    is_tls = url.startswith("https://")
    opener = make_opener(tls_context(config) if is_tls else ssl.create_default_context())
    request = urllib.request.Request(  # noqa: S310 - http and https only, as `server_of` says
        f"{url.rstrip('/')}/", method="HEAD", headers={"User-Agent": "dataplane"}
    )
    began_s, began = time.time(), time.monotonic()
    try:
        with opener.open(request, timeout=timeout_s) as response:
            took_s = time.monotonic() - began
            return ServerAnswer(
                url,
                int(response.status),
                took_s,
                _ahead(response.headers.get("Date"), began_s + took_s / 2),
            )
    except (OSError, http.client.HTTPException) as err:
        raise _no_answer(err, url, config) from err


def endpoint(
    url: str | None, ask: Callable[[], ServerAnswer], *, asked: str | None = None
) -> Finding:
    """Check that the server of the store answers.

    Args:
        url: its address; None where there is none to ask.
        ask: function that asks it.
        asked: URL of the store, or None.
    """
    if url is None and asked is not None:
        return skip(f"{printable(asked)} has no server that is asked here")
    if url is None:
        return skip("no store was named", "name one: dataplane doctor s3://bucket/prefix")
    answer = ask()
    took = format_duration(answer.took_s)
    values: Values = {"url": url, "status": answer.status, "took_s": round(answer.took_s, 4)}
    found = f"{url} answers in {took} (HTTP {answer.status}, asked without credentials)"
    if answer.status >= 500:
        return warn(found, "the server fails itself; try again, or look at its logs", **values)
    return ok(found, **values)


def clock(url: str | None, ask: Callable[[], ServerAnswer], *, is_signed: bool) -> Finding:
    """Check that this machine's clock and the server's agree.

    Args:
        url: address of the server; None where there is none to ask.
        ask: function that asks it.
        is_signed: whether requests to it are signed, for which clocks must agree.
    """
    if url is None:
        return skip("no server to compare clocks with")
    try:
        answer = ask()
    except DataplaneError:
        return skip("the server does not answer")
    if answer.ahead_s is None:
        return skip("the server says no time")
    ahead_s = answer.ahead_s
    doubt_s = answer.took_s / 2 + _DATE_STEP_S
    values: Values = {"server_ahead_s": round(ahead_s, 1), "within_s": round(doubt_s, 1)}
    if abs(ahead_s) <= max(doubt_s, _DATE_STEP_S):
        return ok(f"as the server's, within {format_duration(doubt_s)}", **values)
    found = f"this clock is {format_duration(abs(ahead_s))} {'behind' if ahead_s > 0 else 'ahead'}"
    advice = "set the clock: timedatectl set-ntp true, or start chronyd"
    if abs(ahead_s) >= _SIGNATURE_S - doubt_s and is_signed:
        return fail(f"{found}: signed requests are refused from 15 minutes on", advice, **values)
    if abs(ahead_s) >= _WARN_S:
        return warn(found, advice, **values)
    return ok(found, **values)


def _ahead(date: str | None, now_s: float) -> float | None:
    try:
        # The date is cut to whole seconds: on average the server is half a second further.
        return parsedate_to_datetime(date or "").timestamp() + _DATE_STEP_S / 2 - now_s
    except ValueError:
        return None


def _no_answer(err: Exception, url: str, config: StoreConfig) -> StoreError:
    reason = err.reason if isinstance(err, urllib.error.URLError) else err
    if isinstance(reason, BaseException) and (refusal := refusal_of(reason)):
        return certificate_failure(refusal, url, action="read", server="", config=config)
    if isinstance(reason, TimeoutError):
        return Timeout(
            f"{url} does not answer", hint="check the address, the network, firewalls and proxies"
        )
    if isinstance(reason, socket.gaierror):
        return Unavailable(
            f"{url}: its name is not known here ({reason.strerror})",
            hint="check the address and DNS",
        )
    if isinstance(reason, ssl.SSLError):
        return Unavailable(
            f"{url} does not speak TLS as it should ({reason.reason or 'broken off'})",
            hint="if the server speaks plain HTTP, write http://",
        )
    what = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
    return Unavailable(
        f"{url} cannot be reached: {what}", hint="check the address, the network and proxies"
    )
