"""Certificates that are trusted, and the errors of one that is not, or of a TLS too old.

Trusted are the system's authorities, and those in the file or folder that `store.ca_bundle` names,
or one of the variables that other tools have for it (`CA_VARIABLES`). They are added to the
system's, so that public stores stay within reach. A certificate that is refused will be refused
again, so the error is one that is not tried again. Pure functions; files are read at the call.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from pathlib import Path

from dataplane.config import absolute_path
from dataplane.errors import ConfigError, StoreError
from dataplane.stores.base import CA_VARIABLES, StoreConfig

__all__ = [
    "certificate_failure",
    "named_bundle",
    "no_common_version",
    "refusal_in_text",
    "refusal_of",
    "root_certificates",
    "tls_context",
]

_MAX_BUNDLE_BYTES = 16 << 20
_BLOCK = re.compile(
    rb"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----", re.ASCII
)
_IN_FOLDERS = re.compile(r".*\.(pem|crt|cer|[0-9])", re.DOTALL)
"""Also `9d66eef0.0`, the name that OpenSSL finds a certificate by."""

_RUSTLS = re.compile(r"InvalidCertificate\(\s*(\w+)")
_RUSTLS_OTHER = re.compile(r"CaUsedAsEndEntity")
_RUSTLS_VERSIONS = re.compile(
    r"AlertReceived\(\s*(ProtocolVersion|InsufficientSecurity)|PeerIncompatible\("
)
_PRESENTED = re.compile(r"DnsName\(\\?\"([^\"\\]{1,253})")
_UNKNOWN, _EXPIRED, _EARLY, _NAME, _CA = "unknown", "expired", "early", "name", "ca"
_OF_RUSTLS = {
    "UnknownIssuer": _UNKNOWN,
    "Expired": _EXPIRED,
    "ExpiredContext": _EXPIRED,
    "NotValidYet": _EARLY,
    "NotValidYetContext": _EARLY,
    "NotValidForName": _NAME,
    "NotValidForNameContext": _NAME,
}
# Source: X509_V_ERR_* of openssl/x509_vfy.h.
_OF_OPENSSL = {9: _EARLY, 10: _EXPIRED, 62: _NAME, 64: _NAME}
_OPENSSL_UNKNOWN = frozenset({2, 18, 19, 20, 21})
_TRUST = f"to trust its authority, name the file of its certificate in {CA_VARIABLES[0]}"
_CLOCK = "the server needs a new one, or this machine's clock is wrong"
_WORDS = {
    _UNKNOWN: ("is not trusted: no authority known here has signed it", _TRUST),
    _EXPIRED: ("has expired", _CLOCK),
    _EARLY: ("is not valid yet", _CLOCK),
    _NAME: ("is for another name", "write the server's address as its certificate has it"),
    _CA: (
        "is an authority's own, which may sign but not serve",
        "give the server one that is no authority's (basicConstraints CA:FALSE)",
    ),
}


def named_bundle(
    config: StoreConfig, environ: Mapping[str, str] | None = None
) -> tuple[Path, str] | None:
    """Return the file or folder of certificates to trust, and the setting; None for none.

    Raises:
        ConfigError: it begins with `~` and there is no such user.
    """
    environ = os.environ if environ is None else environ
    if config.ca_bundle is not None:
        return config.ca_bundle, "store.ca_bundle"
    name = next((name for name in CA_VARIABLES if environ.get(name)), None)
    if name is None:
        return None
    try:
        return absolute_path(environ[name]), name
    except ConfigError as err:
        raise ConfigError(f"{name}: {err.message}", hint=err.hint) from err


def root_certificates(
    config: StoreConfig, environ: Mapping[str, str] | None = None
) -> bytes | None:
    """Return the certificates to trust besides the system's, as PEM; None for none.

    Raises:
        ConfigError: the file or folder cannot be read, holds none, or a damaged one.
    """
    named = named_bundle(config, environ)
    if named is None:
        return None
    path, origin = named
    try:
        files = [path]
        if path.is_dir():
            files = sorted(it for it in path.iterdir() if _IN_FOLDERS.fullmatch(it.name))
        # A folder names each certificate twice: its file, and a link from its hash.
        blocks = b"\n".join(dict.fromkeys(it for file in files for it in _certificates(file)))
        if blocks:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=blocks.decode())
    except ssl.SSLError as err:
        raise ConfigError(
            f"a certificate in {path} is damaged: {err.reason or err}", hint=f"{origin} names it"
        ) from err
    except OSError as err:
        raise ConfigError(
            f"cannot read the certificates {path}: {err.strerror}", hint=f"{origin} names them"
        ) from err
    if not blocks:
        raise ConfigError(
            f"{path} holds no certificates (PEM)",
            hint=f"{origin} names it; it must have lines -----BEGIN CERTIFICATE-----",
        )
    return blocks + b"\n"


def tls_context(config: StoreConfig) -> ssl.SSLContext:
    """Return the TLS context of our own requests.

    Raises:
        ConfigError: as `root_certificates`.
    """
    context = ssl.create_default_context()
    roots = root_certificates(config)
    if roots is not None:
        context.load_verify_locations(cadata=roots.decode())
    return context


def refusal_of(err: BaseException) -> str:
    """Return the reason of a certificate's refusal, as OpenSSL says it; or an empty text."""
    code = getattr(err, "verify_code", None)  # aiohttp's error made of such a one has none
    if not isinstance(err, ssl.SSLCertVerificationError) or code is None:
        return ""
    kind = _UNKNOWN if code in _OPENSSL_UNKNOWN else _OF_OPENSSL.get(code)
    return kind or err.verify_message or "refused"


def refusal_in_text(text: str) -> str:
    """Return the reason of a certificate's refusal, in the text of an error of rustls."""
    found = _RUSTLS.search(text)
    if found is None:
        return ""
    if _RUSTLS_OTHER.search(text):
        return _CA
    kind = _OF_RUSTLS.get(found[1], found[1])
    names = _PRESENTED.findall(text) if kind == _NAME else []
    return f"{_NAME}:{', '.join(names[:3])}" if names else kind


def no_common_version(text: str, where: str, *, action: str, server: str) -> StoreError | None:
    """Return the error of a server that speaks no TLS used here, if a text of rustls says so.

    Args:
        text: text of the error.
        where: URL of the object.
        action: `read`, `write`, `list`, `describe` or `delete`.
        server: address of the server, where the user chose one.
    """
    if not _RUSTLS_VERSIONS.search(text):
        return None
    return StoreError(
        f"cannot {action} {where}: {server or 'the server'} speaks no version of TLS that is used "
        "here",
        hint="it must speak TLS 1.2 or 1.3, with ciphers that are still held safe",
    )


def certificate_failure(
    refusal: str, where: str, *, action: str, server: str, config: StoreConfig
) -> StoreError:
    """Return the error of a server whose certificate was refused.

    Args:
        refusal: reason from `refusal_of` or `refusal_in_text`.
        where: URL of the object.
        action: `read`, `write`, `list`, `describe` or `delete`.
        server: address of the server, where the user chose one.
        config: configuration of the store; the certificates besides the system's are named.
    """
    kind, _, names = refusal.partition(":")
    words, hint = _WORDS.get(kind, (f"was refused: {kind}", _TRUST))
    if kind == _NAME and names:
        words += f": {names}"
    if hint == _TRUST:
        hint = f"trusted are {_trusted(config)}; {hint}"
    whose = f" of {server}" if server else " of the server"
    return StoreError(f"cannot {action} {where}: the certificate{whose} {words}", hint=hint)


def _trusted(config: StoreConfig) -> str:
    named = named_bundle(config)
    return "the system's" + ("" if named is None else f" and {named[0]} from {named[1]}")


def _certificates(file: Path) -> list[bytes]:
    with file.open("rb") as stream:
        content = stream.read(_MAX_BUNDLE_BYTES + 1)
    if len(content) > _MAX_BUNDLE_BYTES:
        raise ConfigError(f"{file} is too large for a file of certificates")
    return _BLOCK.findall(content)
