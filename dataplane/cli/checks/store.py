"""Checks of an object store: credentials and their origin, certificates, and reading from it.

Of credentials only the kind and the origin are looked at; no secret is read here, but by the client
that signs with it. Reading lists until the first object, and reads one byte of it, which two
permissions allow that are often given apart.
"""

from __future__ import annotations

import dataclasses
import os
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path

from dataplane.cli.checks.finding import Finding, Values, fail, ok, skip, warn
from dataplane.cli.text import printable
from dataplane.errors import ConfigError, NotFound
from dataplane.stores import open_store
from dataplane.stores.base import ObjectInfo, Store, StoreConfig
from dataplane.stores.clients.access import Access, s3_access
from dataplane.stores.trust import named_bundle, root_certificates
from dataplane.stores.urls import HTTP_SCHEMES, parse_url, split_url
from dataplane.units import format_bytes, format_duration

__all__ = ["certificates", "credentials", "is_signed", "reading"]

_GIVE_URL = "name one: dataplane doctor s3://bucket/prefix"
_GOOGLE = (
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT_PATH",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
)
_AZURE = (
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_ACCESS_KEY",
    "AZURE_STORAGE_MASTER_KEY",
    "AZURE_STORAGE_SAS_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_TOKEN",
    "AZURE_STORAGE_CLIENT_SECRET",
    "AZURE_CLIENT_SECRET",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_USE_AZURE_CLI",
)
_GOOGLE_FILE = Path("~/.config/gcloud/application_default_credentials.json")
_DEADLINE_S = 12.0
_TRY_S = 5.0
_MAX_KEY_SHOWN = 80


def is_signed(url: str | None, config: StoreConfig) -> bool:
    """Whether requests to a store are signed.

    Raises:
        ConfigError: the URL cannot be used.
    """
    if config.anonymous:
        return False
    return url is None or parse_url(url).scheme in ("s3", "gs", "az", "abfs")


def credentials(
    url: str | None,
    config: StoreConfig,
    region_origin: str = "",
    environ: Mapping[str, str] | None = None,
    access: Callable[..., Access] = s3_access,
) -> Finding:
    """Check which credentials a store would get; they are never shown.

    Args:
        url: URL of the store; None stands for S3.
        config: settings.
        region_origin: origin of the region in the settings.
        environ: the environment.
        access: function that tells the access to S3.
    """
    environ = os.environ if environ is None else environ
    scheme = "s3" if url is None else parse_url(url).scheme
    if config.anonymous:
        return ok("none are sent (anonymous)", kind="anonymous")
    if scheme == "gs":
        return _named("Google Cloud", _GOOGLE, environ, _GOOGLE_FILE)
    if scheme in ("az", "abfs"):
        return _named("Azure", _AZURE, environ, None)
    if scheme != "s3":
        return skip(f"{scheme}:// takes none of the chains of S3, Google and Azure")
    given = access(config, region_origin, environ)
    values: Values = {"kind": given.credentials, "origin": given.credentials_origin}
    if given.endpoint_error is not None:
        return fail(f"the S3 endpoint cannot be used: {given.endpoint_error}", "", **values)
    found = given.credentials
    if given.credentials_origin:
        found += f", from {given.credentials_origin}"
    if given.credentials_origin == "AWS_ACCESS_KEY_ID" and not environ.get("AWS_SECRET_ACCESS_KEY"):
        return fail(
            "AWS_ACCESS_KEY_ID is set, and AWS_SECRET_ACCESS_KEY is not",
            "set both, or neither",
            **values,
        )
    token_file = environ.get("AWS_WEB_IDENTITY_TOKEN_FILE")
    if given.credentials_origin == "AWS_WEB_IDENTITY_TOKEN_FILE" and token_file:
        try:
            Path(token_file).open("rb").close()
        except OSError as err:
            return fail(
                f"AWS_WEB_IDENTITY_TOKEN_FILE names {token_file}: {err.strerror}",
                "mount the token, or unset the variable",
                **values,
            )
    region = f"; region {given.region}" if given.region else ""
    if given.has_credentials:
        return ok(f"S3: {found}{region}", region=given.region, **values)
    advice = (
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for a public bucket: "
        "--anonymous"
    )
    if url is None and not given.credentials_origin:
        return skip(f"S3: {found}", advice, **values)
    return warn(f"S3: {found}", advice, **values)


def certificates(
    config: StoreConfig,
    environ: Mapping[str, str] | None = None,
    system: Callable[[], ssl.SSLContext] = ssl.create_default_context,
) -> Finding:
    """Check the certificates that are trusted: the system's, and those that the settings name.

    Args:
        config: settings.
        environ: the environment.
        system: function that makes a TLS context with the system's certificates.
    """
    named = named_bundle(config, environ)
    added = root_certificates(config, environ)  # a file that cannot be used is the error
    count = system().cert_store_stats()["x509_ca"]
    paths = ssl.get_default_verify_paths()
    has_folder = bool(paths.capath) and any(Path(paths.capath or "").iterdir())
    found = f"{count} authorities of the system" if count else "the system's, from its folder"
    more = added.count(b"-----BEGIN CERTIFICATE-----") if added else 0
    values: Values = {"system": count, "added": more}
    if named is not None:
        found += f", and {more} from {named[0]} ({named[1]})"
    if not count and not has_folder:
        return warn(
            "the system trusts no authority: no https:// store is within reach"
            + (f", but for those of {named[0]}" if named else ""),
            "install them (Debian, Ubuntu: apt install ca-certificates)",
            **values,
        )
    return ok(found, **values)


def reading(
    url: str | None,
    config: StoreConfig,
    opened: Callable[[str, StoreConfig], Store] = open_store,
) -> Finding:
    """Check that the store can be listed, and an object of it read.

    Args:
        url: URL of the store; None where none was given.
        config: settings; tries and deadlines are cut to those of a look.
        opened: function that opens a store.

    Raises:
        DataplaneError: it cannot; the error says why.
    """
    if url is None:
        return skip("no store was named", _GIVE_URL)
    location = parse_url(url)
    quick = dataclasses.replace(
        config,
        max_attempts=min(config.max_attempts, 2),
        deadline_s=min(config.deadline_s, _DEADLINE_S),
        metadata_deadline_s=min(config.metadata_deadline_s, _DEADLINE_S),
        timeout_s=min(config.timeout_s, _TRY_S),
        hedge=False,
    )
    began = time.monotonic()
    with closing(opened(url, quick)) as store:
        if location.scheme in HTTP_SCHEMES:
            return _described(url, store, quick, opened, began)
        info = next(iter(store.list("")), None)
        if info is None:
            return _nothing_below(url, store, quick, opened)
        listed_s = time.monotonic() - began
        if info.size_bytes:
            store.get_range(info.key, 0, 1, if_match=info.etag)
    read_s = time.monotonic() - began - listed_s
    what = "listed" if not info.size_bytes else "listed, and a byte read"
    key = printable(info.key)
    return ok(
        f"{what} ({format_duration(listed_s)} and {format_duration(read_s)}): "
        f"{key[:_MAX_KEY_SHOWN]}, {format_bytes(info.size_bytes)}",
        listed_s=round(listed_s, 4),
        read_s=round(read_s, 4),
    )


def _described(
    url: str,
    store: Store,
    config: StoreConfig,
    opened: Callable[[str, StoreConfig], Store],
    began: float,
) -> Finding:
    """Look at a plain web server, which cannot be listed: at an index, or the URL itself."""
    info: ObjectInfo | None = None
    with suppress(NotFound):
        info = store.head("index.parquet")
    if info is None:
        info = _object_at(url, config, opened)
    if info is None:
        return warn(
            f"there is no packed dataset at {url}, and no object",
            "check the path: a plain web server cannot be listed",
        )
    took_s = time.monotonic() - began
    return ok(
        f"described in {format_duration(took_s)}: {printable(info.key)[:_MAX_KEY_SHOWN]}, "
        f"{format_bytes(info.size_bytes)}",
        listed_s=round(took_s, 4),
    )


def _nothing_below(
    url: str, store: Store, config: StoreConfig, opened: Callable[[str, StoreConfig], Store]
) -> Finding:
    info = _object_at(url, config, opened)
    if info is not None:
        return ok(f"it is one object, {format_bytes(info.size_bytes)}")
    return warn(f"listed, and there is nothing below {store.url}", "check the prefix")


def _object_at(
    url: str, config: StoreConfig, opened: Callable[[str, StoreConfig], Store]
) -> ObjectInfo | None:
    with suppress(ConfigError, NotFound):
        root, key = split_url(url)
        with closing(opened(root, config)) as around:
            return around.head(key)
    return None


def _named(
    chain: str, variables: tuple[str, ...], environ: Mapping[str, str], file: Path | None
) -> Finding:
    """Say which variable, or file, the chain of a cloud begins with."""
    name = next((it for it in variables if environ.get(it)), None)
    if name is not None:
        return ok(f"{chain}: from {name}", origin=name)
    if file is not None and file.expanduser().exists():
        return ok(f"{chain}: a login, from {file}", origin=str(file))
    return warn(
        f"{chain}: none found; on an instance of the cloud its identity is asked for",
        f"set {variables[0]}, or --anonymous for a public bucket",
        origin=None,
    )
