"""AWS Signature Version 4, the server's side: verification of a request's signature.

Header signatures, presigned URLs, and the chain of chunk signatures of `STREAMING-*` bodies.
Anonymous requests pass only where that is allowed. This module does not read bodies; it returns the
required kind of the body (`Signing.payload`), and signs chunks for the module that reads them.

Source: AWS "Signature Version 4 for API requests", and "Signature calculations for the
Authorization header: transferring payload in multiple chunks" of the S3 reference.

Thread-safe: the only state is a small cache of derived keys, whose races only repeat work.
"""

from __future__ import annotations

import calendar
import functools
import hashlib
import hmac
import re
import time
from collections.abc import Callable, Mapping
from urllib.parse import quote, unquote_to_bytes

from dataplane_testing.s3.http import RequestHead
from dataplane_testing.s3.model import S3Error

__all__ = ["EMPTY_SHA256", "UNSIGNED_PAYLOAD", "Signing", "Verifier", "split_query"]

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
_ALGORITHM = "AWS4-HMAC-SHA256"
_MAX_SKEW_S = 15 * 60
_MAX_PRESIGNED_S = 7 * 24 * 3600
_MAX_DERIVED_KEYS = 64
_MAX_PARAMETERS = 64
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256\s+Credential=(?P<credential>[^,\s]{1,256}),\s*"
    r"SignedHeaders=(?P<signed>[a-z0-9;.\-_]{1,2048}),\s*Signature=(?P<signature>[0-9a-f]{64})"
)
_DATE = re.compile(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z")
_SPACES = re.compile(r" +")
_PLAIN_PATH = re.compile(r"[A-Za-z0-9\-._~/]*")


class Signing:
    """A verified signature: the required kind of the body, and the signing of its chunks.

    Attributes:
        payload: hex SHA-256 of the body, `UNSIGNED-PAYLOAD` or `STREAMING-…`.
    """

    __slots__ = ("_key", "_previous", "_scope", "_stamp", "payload")

    def __init__(self, payload: str, key: bytes, stamp: str, scope: str, signature: str) -> None:
        self.payload = payload
        self._key = key
        self._stamp = stamp
        self._scope = scope
        self._previous = signature

    def check_chunk(self, signature: str, content_sha256: str) -> None:
        """Check the next chunk's signature; each builds on the one before.

        Raises:
            S3Error: it does not match.
        """
        self._check("AWS4-HMAC-SHA256-PAYLOAD", signature, f"{EMPTY_SHA256}\n{content_sha256}")

    def check_trailer(self, signature: str, trailer: bytes) -> None:
        """Check the signature of the trailing headers, each line ending in a line feed.

        Raises:
            S3Error: it does not match.
        """
        self._check("AWS4-HMAC-SHA256-TRAILER", signature, hashlib.sha256(trailer).hexdigest())

    def _check(self, kind: str, signature: str, digests: str) -> None:
        text = f"{kind}\n{self._stamp}\n{self._scope}\n{self._previous}\n{digests}"
        expected = hmac.digest(self._key, text.encode(), "sha256").hex()
        if not hmac.compare_digest(expected.encode(), signature.encode()):
            raise _mismatch(close=True)
        self._previous = expected


class Verifier:
    """A verifier of requests against a set of keys.

    Args:
        secrets: secrets by access key id.
        anonymous: whether requests without any signature are let in.
        now: clock, for tests.
    """

    def __init__(
        self,
        secrets: Mapping[str, str],
        *,
        anonymous: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._secrets = dict(secrets)
        self._anonymous = anonymous
        self._now = now
        self._derived: dict[tuple[str, str], bytes] = {}

    def verify(self, head: RequestHead, parameters: Mapping[str, str]) -> Signing | None:
        """Check a request's signature; None means that it is anonymous, and allowed to be.

        Raises:
            S3Error: no signature, an unknown key, a wrong one, or one that is out of date.
        """
        authorization = head.headers.get("authorization")
        if authorization is not None:
            return self._verify_header(head, authorization)
        if "X-Amz-Signature" in parameters or "X-Amz-Algorithm" in parameters:
            return self._verify_presigned(head, parameters)
        if self._anonymous:
            return None
        raise S3Error(403, "AccessDenied", "Access Denied: the request is not signed")

    def _verify_header(self, head: RequestHead, authorization: str) -> Signing:
        match = _AUTHORIZATION.fullmatch(authorization)
        if match is None:
            raise S3Error(
                400,
                "AuthorizationHeaderMalformed",
                "the Authorization header is not AWS4-HMAC-SHA256 Credential, SignedHeaders, "
                "Signature",
            )
        payload = head.headers.get("x-amz-content-sha256")
        if payload is None:
            raise S3Error(
                400,
                "InvalidRequest",
                "Missing required header for this request: x-amz-content-sha256",
            )
        stamp = head.headers.get("x-amz-date", "")
        signed_at = _parse_stamp(stamp)
        if abs(self._now() - signed_at) > _MAX_SKEW_S:
            raise S3Error(
                403,
                "RequestTimeTooSkewed",
                "The difference between the request time and the current time is too large",
            )
        key, scope = self._key_for(match["credential"], stamp)
        canonical = _canonical_request(head, head.query, match["signed"], payload)
        signature = _sign(key, stamp, scope, canonical)
        if not hmac.compare_digest(signature.encode(), match["signature"].encode()):
            raise _mismatch()
        return Signing(payload, key, stamp, scope, signature)

    def _verify_presigned(self, head: RequestHead, parameters: Mapping[str, str]) -> Signing:
        try:
            credential = parameters["X-Amz-Credential"]
            stamp = parameters["X-Amz-Date"]
            signed = parameters["X-Amz-SignedHeaders"]
            given = parameters["X-Amz-Signature"]
            expires_text = parameters["X-Amz-Expires"]
            algorithm = parameters["X-Amz-Algorithm"]
        except KeyError as err:
            raise _bad_query(f"the query has no {err.args[0]}") from None
        if algorithm != _ALGORITHM or not re.fullmatch(r"[a-z0-9;.\-_]{1,2048}", signed):
            raise _bad_query("X-Amz-Algorithm or X-Amz-SignedHeaders is malformed")
        if not re.fullmatch(r"[0-9]{1,6}", expires_text) or int(expires_text) > _MAX_PRESIGNED_S:
            raise _bad_query("X-Amz-Expires must be at most a week, in seconds")
        signed_at = _parse_stamp(stamp)
        if not signed_at - _MAX_SKEW_S <= self._now() <= signed_at + int(expires_text):
            raise S3Error(403, "AccessDenied", "Request has expired")
        key, scope = self._key_for(credential, stamp)
        query = "&".join(
            part for part in head.query.split("&") if not part.startswith("X-Amz-Signature=")
        )
        canonical = _canonical_request(head, query, signed, UNSIGNED_PAYLOAD)
        signature = _sign(key, stamp, scope, canonical)
        if not hmac.compare_digest(signature.encode(), given.encode()):
            raise _mismatch()
        return Signing(UNSIGNED_PAYLOAD, key, stamp, scope, signature)

    def _key_for(self, credential: str, stamp: str) -> tuple[bytes, str]:
        parts = credential.rsplit("/", 4)
        if len(parts) != 5 or parts[3:] != ["s3", "aws4_request"] or parts[1] != stamp[:8]:
            raise S3Error(
                400,
                "AuthorizationHeaderMalformed",
                "the credential is not KEY/DATE/REGION/s3/aws4_request with the date of the "
                "request",
            )
        access_key, date, region = parts[:3]
        secret = self._secrets.get(access_key)
        if secret is None:
            raise S3Error(
                403,
                "InvalidAccessKeyId",
                "The AWS Access Key Id you provided does not exist in our records.",
            )
        scope = f"{date}/{region}/s3/aws4_request"
        key = self._derived.get((access_key, scope))
        if key is None:
            key = f"AWS4{secret}".encode()
            for step in (date, region, "s3", "aws4_request"):
                key = hmac.digest(key, step.encode(), "sha256")
            if len(self._derived) >= _MAX_DERIVED_KEYS:
                self._derived.clear()
            self._derived[access_key, scope] = key
        return key, scope


def split_query(query: str) -> dict[str, str]:
    """Decode a query into names and values; of repeated names the first counts.

    Raises:
        S3Error: too many parameters, or not UTF-8.
    """
    if not query:
        return {}
    parts = query.split("&", _MAX_PARAMETERS)
    if len(parts) > _MAX_PARAMETERS:
        raise S3Error(400, "InvalidRequest", f"more than {_MAX_PARAMETERS} query parameters")
    parameters: dict[str, str] = {}
    for part in parts:
        name, _, value = part.partition("=")
        try:
            # A plus sign is a space here, as S3 reads it; signatures see it the same way below.
            decoded = unquote_to_bytes(value.replace("+", " ")).decode()
            parameters.setdefault(unquote_to_bytes(name).decode(), decoded)
        except UnicodeDecodeError:
            raise S3Error(400, "InvalidURI", "the query is not UTF-8") from None
    return parameters


def _canonical_request(head: RequestHead, query: str, signed: str, payload: str) -> bytes:
    path = head.path
    if not _PLAIN_PATH.fullmatch(path):
        # Clients differ in what they escape on the wire; the signature is over the normal form.
        path = quote(unquote_to_bytes(path), safe="/~")
    if query:
        query = _canonical_query(query)
    names = signed.split(";")
    if "host" not in names:
        raise S3Error(403, "AccessDenied", "the host header must be signed")
    lines = []
    for name in names:
        value = head.headers.get(name)
        if value is None:
            raise _mismatch()
        lines.append(f"{name}:{_SPACES.sub(' ', value) if '  ' in value else value}\n")
    text = f"{head.method}\n{path}\n{query}\n{''.join(lines)}\n{signed}\n{payload}"
    return text.encode("latin-1")


def _canonical_query(query: str) -> str:
    pairs = []
    for part in query.split("&"):
        name, _, value = part.partition("=")
        pairs.append(
            (
                quote(unquote_to_bytes(name), safe="~"),
                quote(unquote_to_bytes(value.replace("+", " ")), safe="~"),
            )
        )
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def _sign(key: bytes, stamp: str, scope: str, canonical: bytes) -> str:
    text = f"{_ALGORITHM}\n{stamp}\n{scope}\n{hashlib.sha256(canonical).hexdigest()}"
    return hmac.digest(key, text.encode(), "sha256").hex()


@functools.lru_cache(maxsize=64)  # a busy client repeats it for a second
def _parse_stamp(stamp: str) -> float:
    match = _DATE.fullmatch(stamp)
    if match is None:
        raise S3Error(403, "AccessDenied", "x-amz-date is missing or not YYYYMMDDTHHMMSSZ")
    return calendar.timegm(tuple(int(part) for part in match.groups()))


def _mismatch(*, close: bool = False) -> S3Error:
    return S3Error(
        403,
        "SignatureDoesNotMatch",
        "The request signature we calculated does not match the signature you provided. "
        "Check your key and signing method.",
        close=close,
    )


def _bad_query(message: str) -> S3Error:
    return S3Error(400, "AuthorizationQueryParametersError", message)
