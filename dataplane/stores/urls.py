"""Locations that URLs name: the scheme, which chooses the client, bucket and prefix. Pure.

A plain path and `file://` name a local folder. `file://` and `http(s)://` paths are
percent-decoded, as their standards say; the others (`s3://bucket/a%20b`) are taken literally, as
their tools do.
A URL that holds credentials is refused: it would end up in logs, shell histories and datasets.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from dataplane.config import absolute_path
from dataplane.errors import ConfigError
from dataplane.stores.base import StoreConfig

__all__ = [
    "HTTP_SCHEMES",
    "OBSTORE_SCHEMES",
    "Location",
    "azure_parts",
    "identity_of",
    "parse_url",
    "s3_endpoint",
    "split_url",
    "without_credentials",
]

HTTP_SCHEMES = frozenset({"http", "https"})
OBSTORE_SCHEMES = frozenset({"s3", "gs", "az", "abfs"}) | HTTP_SCHEMES

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)(?:://|::)")
_ENDPOINT = re.compile(r"https?://(\[[0-9A-Fa-f:.%]+\]|[^\s/:?#\[\]]+)(:\d{1,5})?(/[^\s?#]*)?")
_MAX_PORT = 65_535
_BEFORE_USER = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_ONE_SLASH = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/?(?!/)(.+)", re.DOTALL)
_ALIASES = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "azure": "az", "abfss": "abfs"}


@dataclass(frozen=True, slots=True)
class Location:
    """A URL in parts.

    Attributes:
        scheme: scheme in lower case, aliases resolved (`s3a` is `s3`).
        bucket: bucket, container (`container@account…` for abfs), or host; empty for local folders.
        prefix: rest of the path, without slashes at its ends; for a local folder its whole path.
        url: the URL as given, without slashes at its end.
    """

    scheme: str
    bucket: str
    prefix: str
    url: str


def parse_url(url: str | os.PathLike[str]) -> Location:
    """Parse a URL.

    Raises:
        ConfigError: it is empty, names no bucket, or holds credentials, a query or a fragment.
    """
    text = os.fspath(url)
    match = _SCHEME.match(text)
    if not text:
        raise ConfigError("an empty URL names no store", hint="give s3://bucket/prefix or a path")
    if match is None:
        _refuse_lost_slash(text)
        root = os.path.abspath(absolute_path(text))  # noqa: PTH100 - links stay as written
        return Location("file", "", root, "file://" + root.replace("%", "%25"))
    scheme = match.group(1).lower()
    scheme = _ALIASES.get(scheme, scheme)
    rest = text[match.end() :]
    if scheme == "file":
        return _file_location(rest, text)
    bucket, _, prefix = rest.partition("/")
    _refuse_secrets(scheme, bucket)
    if scheme in OBSTORE_SCHEMES and not bucket:
        what = "host" if scheme in HTTP_SCHEMES else "bucket"
        raise ConfigError(f"the URL {text!r} names no {what}", hint=f"write {scheme}://{what}/path")
    if scheme in HTTP_SCHEMES:
        if "?" in prefix or "#" in prefix:
            path = re.split(r"[?#]", f"{scheme}://{bucket}/{prefix}")[0]
            raise ConfigError(
                f"the URL {path} has a query or fragment, which is not supported",
                hint="signed URLs expire; use the store's own scheme and credentials",
            )
        prefix = unquote(prefix)
    prefix = prefix.strip("/")
    return Location(scheme, bucket, prefix, text.rstrip("/") if bucket else text)


def split_url(url: str | os.PathLike[str]) -> tuple[str, str]:
    """Split the URL of one object into a URL for `open_store` and the object's key.

    Raises:
        ConfigError: the URL names no object.

    Example:
        >>> split_url("s3://bucket/runs/car 1.vtu")
        ('s3://bucket/runs', 'car 1.vtu')
    """
    location = parse_url(url)
    text = location.url
    head, _, name = text.rpartition("/")
    if not name or not location.prefix or head.endswith((":/", "::")):
        raise ConfigError(f"the URL {text!r} names no object", hint="add the object's key")
    if location.scheme in HTTP_SCHEMES or location.scheme == "file":
        name = unquote(name)
    return (head if head != "file://" else "file:///"), name


def without_credentials(url: str) -> str:
    """Return text that is meant for a URL, with its user and password, if any, masked.

    Example:
        >>> without_credentials("http://user:secret@host:9000")
        'http://***@host:9000'
    """
    front, at, rest = url.rpartition("@")
    scheme = _BEFORE_USER.match(front)
    return f"{scheme[0] if scheme else ''}***@{rest}" if at else url


def azure_parts(location: Location) -> tuple[str, str]:
    """Return account and container of an `az` or `abfs` location.

    Raises:
        ConfigError: the account is not known.
    """
    container, _, host = location.bucket.partition("@")
    account = host.partition(".")[0] or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME", "")
    if not account:
        raise ConfigError(
            f"the URL {location.url!r} names no storage account",
            hint="set AZURE_STORAGE_ACCOUNT_NAME, or write "
            "abfs://container@account.dfs.core.windows.net/path",
        )
    return account, container


def identity_of(location: Location, config: StoreConfig) -> str:
    """Return the identity of a location's store: scheme, endpoint or account, bucket."""
    scheme, bucket = location.scheme, location.bucket
    if scheme == "s3" and (endpoint := s3_endpoint(config)):
        return f"s3+{endpoint}/{bucket}"
    if scheme in ("az", "abfs"):
        return "az://" + "/".join(azure_parts(location))
    options = config.storage_options
    endpoint = str(options.get("endpoint_url") or options.get("host") or "")
    if scheme not in OBSTORE_SCHEMES and endpoint:
        return f"{scheme}+{endpoint}/{bucket}"
    return f"{scheme}://{bucket}"


def _file_location(rest: str, text: str) -> Location:
    host, _, path = rest.partition("/")
    if host not in ("", "localhost"):
        raise ConfigError(
            f"the URL {text!r} names a folder on the host {host!r}",
            hint="a local folder is written file:///path, with three slashes",
        )
    root = os.path.normpath("/" + unquote(path))
    return Location("file", "", root, "file://" + root.replace("%", "%25"))


def s3_endpoint(config: StoreConfig, environ: Mapping[str, str] | None = None) -> str | None:
    """Return the endpoint URL of an S3 server other than AWS, or None.

    Raises:
        ConfigError: it is not an http(s) URL, or holds credentials.
    """
    environ = os.environ if environ is None else environ
    endpoint = (
        config.endpoint_url
        or environ.get("AWS_ENDPOINT_URL_S3")
        or environ.get("AWS_ENDPOINT_URL")
        or None
    )
    if endpoint is None:
        return None
    if "@" in endpoint:
        raise ConfigError("the endpoint URL holds credentials", hint="leave them out of it")
    match = _ENDPOINT.fullmatch(endpoint)
    if match is None or int((match[2] or ":0")[1:]) > _MAX_PORT:
        raise ConfigError(
            f"not an endpoint URL: {endpoint!r}", hint="write https://host or http://host:port"
        )
    return endpoint.rstrip("/")


def _refuse_lost_slash(text: str) -> None:
    """Refuse `s3:/bucket`, which a `Path` or a typing error makes of `s3://bucket`."""
    match = _ONE_SLASH.fullmatch(text)
    scheme = match.group(1).lower() if match else ""
    if match is None or not (scheme in OBSTORE_SCHEMES | _ALIASES.keys() or scheme == "file"):
        return
    if "@" in text:
        raise ConfigError(f"not a URL: it lacks slashes after {scheme}:")  # it may hold a secret
    meant = f"{scheme}://{'/' if scheme == 'file' else ''}{match.group(2)}"
    raise ConfigError(
        f"not a URL: {text!r} lacks slashes after {scheme}:",
        hint=f"did you mean {meant}? A local path of that name is written ./{text}",
    )


def _refuse_secrets(scheme: str, netloc: str) -> None:
    user, at, _ = netloc.rpartition("@")
    if scheme in HTTP_SCHEMES:
        holds_some = bool(at)
    elif scheme in OBSTORE_SCHEMES:
        # No bucket name has a colon, and a secret with a slash in it ends the netloc early;
        # abfs://container@account is a name.
        holds_some = ":" in netloc or (bool(at) and scheme != "abfs")
    else:
        holds_some = ":" in user
    if holds_some:
        raise ConfigError(
            f"a URL that begins with {scheme}:// holds credentials",
            hint="leave them out; they come from the environment, a profile or storage_options",
        )
