"""One obstore client for one location, with the options of its scheme.

Credentials come from the standard chains: for S3 see `credentials.py`; Google and Azure clients
read their environment variables and files themselves. No state; called at a store's first use.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from obstore.store import AzureStore, GCSStore, HTTPStore, S3Store

from dataplane.errors import ConfigError
from dataplane.stores.base import StoreConfig
from dataplane.stores.clients.credentials import s3_options
from dataplane.stores.trust import root_certificates
from dataplane.stores.urls import HTTP_SCHEMES, Location, azure_parts

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

__all__ = ["CONNECT_TIMEOUT_S", "make_client", "scheme_options"]

CONNECT_TIMEOUT_S = 5.0  # with its TLS handshake; eight tries of it are 40 s of silence
_STREAM_TIMEOUT_S = 86_400.0  # a stream may take as long as it will, while bytes are coming


def scheme_options(location: Location, config: StoreConfig) -> Mapping[str, Any]:
    """Return the options of all clients of a location: endpoint, credentials, certificates.

    Raises:
        ConfigError: a setting cannot be used, or the certificates to trust cannot be read.
        Denied: there are no credentials.
    """
    options: dict[str, Any] = {}
    if location.scheme == "s3":
        options = s3_options(location.url, config)
    elif config.anonymous and location.scheme in ("gs", "az", "abfs"):
        options = {"skip_signature": True}
    if location.scheme == "http" or str(options.get("endpoint", "")).startswith("http://"):
        return {**options, "client_options": {"allow_http": True}}
    roots = root_certificates(config)
    return options if roots is None else {**options, "client_options": {"root_certificate": roots}}


def make_client(
    location: Location,
    config: StoreConfig,
    options: Mapping[str, Any],
    *,
    retries: bool = False,
    streams: bool = False,
    timeout_s: float | None = None,
) -> ObjectStore:
    """Make the client for a location's bucket; no request is made.

    Args:
        location: location that the URL names; its prefix is not used.
        config: time limits.
        options: options from `scheme_options`.
        retries: whether the client repeats requests by itself (for uploads in parts).
        streams: whether a request may take longer than its time while no pause is that long.
        timeout_s: time for a request; by default `config.timeout_s`.

    Raises:
        ConfigError: a setting cannot be used.
    """
    scheme = location.scheme
    timeout_s = config.timeout_s if timeout_s is None else timeout_s
    common: ClientConfig = options.get("client_options", {})
    client: ClientConfig = {
        **common,
        "timeout": timedelta(seconds=_STREAM_TIMEOUT_S if streams else timeout_s),
        "read_timeout": timedelta(seconds=timeout_s),
        "connect_timeout": timedelta(seconds=min(timeout_s, CONNECT_TIMEOUT_S)),
        "user_agent": "dataplane",
    }
    retry: RetryConfig = {"max_retries": 0}
    if retries:
        retry = {
            "max_retries": config.max_attempts - 1,
            "retry_timeout": timedelta(seconds=config.deadline_s),
        }
    arguments: Mapping[str, Any] = {**options, "client_options": client, "retry_config": retry}
    try:
        if scheme == "s3":
            return S3Store(location.bucket, **arguments)
        if scheme == "gs":
            return GCSStore(location.bucket, **arguments)
        if scheme in HTTP_SCHEMES:
            return HTTPStore.from_url(f"{scheme}://{location.bucket}", **arguments)
        account, container = azure_parts(location)
        return AzureStore(container, account_name=account, **arguments)
    except ConfigError:
        raise
    except Exception as err:  # The client's errors of construction have no common class.
        names = ", ".join(sorted(name for name in os.environ if name.startswith(_ENV[scheme])))
        raise ConfigError(
            f"cannot make a client for {location.url}: {_first_line(err)}",
            hint=f"environment variables that it reads: {names or 'none set'}",
        ) from err


_ENV = {
    "s3": "AWS_",
    "gs": "GOOGLE_",
    "az": "AZURE_",
    "abfs": "AZURE_",
    "http": "HTTP",
    "https": "HTTP",
}


def _first_line(err: Exception) -> str:
    lines = str(err).splitlines()
    return lines[0][:300] if lines else type(err).__name__
