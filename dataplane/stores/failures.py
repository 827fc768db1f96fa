"""Failures of stores, translated to errors of `dataplane.errors`. Pure functions.

Clients report failures as text (obstore), as builtin exceptions (fsspec), or as responses hidden in
the chain of causes (botocore, aiohttp). Here each becomes one error with one clear line that names
the object. A client's own text is shown only where nothing better is known, one line of it and
without URL queries, since those may hold signatures.

| the store says | error | tried again |
|---|---|---|
| 401, 403, a refused key, signature or token | `Denied` | no |
| 404 | `NotFound`, naming the key, or the bucket where the store says so | no |
| 412 | `ObjectChanged` | no |
| 416, or a whole object where a range was asked for | `StoreError` | no |
| 429, 503, a slow-down code | `Throttled` | yes |
| 408, 504, no response in time | `Timeout` | yes |
| 500, 502, a broken or refused connection | `Unavailable` | yes |
| nothing: its certificate is refused, or its TLS is too old (`trust`) | `StoreError` | no |
| a full disk | `NoSpace` | no |
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dataplane.errors import (
    BucketNotFound,
    DataplaneError,
    Denied,
    NoSpace,
    NotFound,
    ObjectChanged,
    StoreError,
    Throttled,
    Timeout,
    Unavailable,
)
from dataplane.stores.base import StoreConfig
from dataplane.stores.trust import (
    certificate_failure,
    no_common_version,
    refusal_in_text,
    refusal_of,
)

__all__ = [
    "Reply",
    "error_code",
    "from_obstore",
    "from_python",
    "from_reply",
    "is_foreign_header",
    "is_foreign_key",
    "retry_after_s",
]


@dataclass(frozen=True, slots=True)
class Reply:
    """An unsuccessful response, as far as it is known.

    Attributes:
        status: HTTP status, or None where there was no response.
        code: code of the store (`SignatureDoesNotMatch`), or empty.
        text: one line for a person, without secrets; used when nothing better is known. Of a
            certificate, the reason of its refusal (`trust`).
        connection: failure below HTTP (`timeout`, `connect`, `broken`, `certificate`), or empty.
    """

    status: int | None
    code: str
    text: str
    connection: str = ""


_DEFAULTS = StoreConfig()
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,64})</Code>|<code>(\w{1,64})</code>|\"code\":\s*\"(\w{1,64})\"")
_KIND = re.compile(r"kind: (Connect|Timeout|Interrupted|Request|Decode)\b")
_QUERY = re.compile(r"\?\S*")
_KINDS = {"Timeout": "timeout", "Connect": "connect"}
_DENIED = {
    "InvalidAccessKeyId": "it does not know the access key",
    "SignatureDoesNotMatch": "the secret key is wrong for the access key",
    "ExpiredToken": "the session token has expired",
    "InvalidToken": "the session token is not valid",
    "TokenRefreshRequired": "the session token must be renewed",
    "RequestTimeTooSkewed": "this machine's clock is too far off",
    "AccessDenied": "the credentials do not allow it, or none were sent",
    "AllAccessDisabled": "access to it is disabled",
    "InvalidClientTokenId": "it does not know the access key",
    "AuthenticationFailed": "the credentials are not valid",
    "AuthorizationFailure": "the credentials do not allow it",
}
_THROTTLED = frozenset(
    {
        "BandwidthLimitExceeded",
        "RequestLimitExceeded",
        "ServerBusy",
        "SlowDown",
        "SlowDownRead",
        "SlowDownWrite",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
    }
)
_NO_BUCKET = frozenset({"NoSuchBucket", "ContainerNotFound", "InvalidBucketName"})
_WRONG_REGION = frozenset(
    {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
)
_CREDENTIALS_HINT = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_SCHEME_HINTS = {
    "s3": _CREDENTIALS_HINT,
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS",
    "az": "set AZURE_STORAGE_ACCOUNT_KEY, or log in with the Azure CLI",
    "abfs": "set AZURE_STORAGE_ACCOUNT_KEY, or log in with the Azure CLI",
}


def from_obstore(
    err: Exception,
    where: str,
    *,
    bucket: str,
    action: str,
    server: str = "",
    config: StoreConfig = _DEFAULTS,
) -> DataplaneError:
    """Translate an exception of obstore.

    Args:
        err: exception; raise the result from it.
        where: URL of the object.
        bucket: URL of the bucket, for stores that say it is missing.
        action: `read`, `write`, `list`, `describe` or `delete`.
        server: address of the server, where the user chose one.
        config: configuration of the store, for the certificates that it trusts.
    """
    text = str(err)
    headline = text.partition("\n\nDebug source")[0]
    if "169.254.169.254" in headline or "metadata.google.internal" in headline:
        return _denied("no credentials were found", where, action)
    if "non-partial response" in headline or "Range request not supported" in headline:
        return _no_ranges(where, action)
    if is_foreign_key(err):
        return StoreError(
            f"cannot {action} {where}: it holds a key with an empty, '.' or '..' part, or with a "
            "control character",
            hint="such keys cannot be addressed; rename them or list a narrower prefix",
        )
    if refusal := refusal_in_text(text):
        return certificate_failure(refusal, where, action=action, server=server, config=config)
    if mismatch := no_common_version(text, where, action=action, server=server):
        return mismatch
    if "No space left on device" in headline:
        return NoSpace(f"cannot {action} {where}: no space left on the device")
    status = _STATUS.search(headline)
    kind = _KIND.search(text)
    name = type(err).__name__
    number = int(status.group(1)) if status else None
    if number is None and name in ("PermissionDeniedError", "UnauthenticatedError"):
        number = 403
    elif number is None and isinstance(err, FileNotFoundError):
        number = 404
    elif name == "PreconditionError":
        number = 412
    reply = Reply(
        number,
        error_code(headline),
        _QUERY.sub("", headline.splitlines()[0])[:300] if headline else name,
        _KINDS.get(kind.group(1), "broken") if kind and number is None else "",
    )
    return from_reply(reply, where, bucket=bucket, action=action, server=server, config=config)


def is_foreign_key(err: Exception) -> bool:
    """Whether obstore has no path for a key: of a call's argument, or anywhere in a page."""
    return "InvalidPath" in type(err).__name__


def is_foreign_header(err: Exception) -> bool:
    """Whether obstore refused a response for a header that is not ASCII, such as its ETag."""
    return "header containing non-ASCII data" in str(err).partition("\n\nDebug source")[0]


def from_python(
    err: BaseException, where: str, *, bucket: str, action: str, config: StoreConfig = _DEFAULTS
) -> DataplaneError:
    """Translate an exception of an fsspec file system; arguments as for `from_obstore`."""
    response = _response(err)
    if response is not None:
        return from_reply(response, where, bucket=bucket, action=action, config=config)
    if refusal := next(filter(None, map(refusal_of, _causes(err))), ""):
        return certificate_failure(refusal, where, action=action, server="", config=config)
    if isinstance(err, FileNotFoundError | NotADirectoryError | IsADirectoryError):
        return NotFound(f"no object {where}")
    if isinstance(err, PermissionError) or "credential" in type(err).__name__.lower():
        return _denied(_line(err), where, action)
    if isinstance(err, TimeoutError) or "timeout" in type(err).__name__.lower():
        return Timeout(f"cannot {action} {where}: no answer in time")
    if isinstance(err, OSError) and err.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"cannot {action} {where}: {err.strerror}")
    if isinstance(err, ConnectionError | EOFError) or "Connect" in type(err).__name__:
        return Unavailable(f"cannot {action} {where}: the connection failed: {_line(err)}")
    return StoreError(f"cannot {action} {where}: {_line(err)}")


def error_code(text: str) -> str:
    """Return the store's own code in the text of a response, or an empty string."""
    code = _CODE.search(text)
    return next(filter(None, code.groups()), "") if code else ""


def from_reply(
    reply: Reply,
    where: str,
    *,
    bucket: str,
    action: str,
    server: str = "",
    config: StoreConfig = _DEFAULTS,
) -> DataplaneError:
    """Translate a response of the store, or the lack of one."""
    status, code = reply.status, reply.code
    if reply.connection == "certificate":
        return certificate_failure(reply.text, where, action=action, server=server, config=config)
    said = " ".join(str(part) for part in (status, code) if part)
    if code in _NO_BUCKET:
        return BucketNotFound(
            f"no such bucket: {bucket}", hint="check its name, region and endpoint"
        )
    if status in (301, 307) or code in _WRONG_REGION:
        return StoreError(
            f"cannot {action} {where}: the bucket is in another region or endpoint ({said})",
            hint="set AWS_REGION or --region",
        )
    if code in _DENIED or status in (401, 403):
        return _denied(_DENIED.get(code, "the store refused") + f" ({said})", where, action)
    if status == 404:
        return NotFound(f"no object {where}")
    if status == 412:
        return ObjectChanged(f"{where} was replaced")
    if status == 200 and action == "read":
        return _no_ranges(where, action)
    if status == 416:
        return StoreError(f"cannot {action} {where}: the range begins after the object's end")
    if status in (429, 503) or code in _THROTTLED:
        return Throttled(f"cannot {action} {where}: the store asks for fewer requests ({said})")
    if status in (408, 504) or reply.connection == "timeout" or code == "RequestTimeout":
        return Timeout(
            f"cannot {action} {where}: no answer in time", hint=_late_hint(where, server)
        )
    if status is not None and status >= 500:
        return Unavailable(f"cannot {action} {where}: the store failed ({said})")
    if reply.connection:
        what = "no connection" if reply.connection == "connect" else "the connection broke"
        if server:
            what += f" to {server}" if reply.connection == "connect" else f" with {server}"
        return Unavailable(f"cannot {action} {where}: {what}", hint="check the endpoint")
    return StoreError(f"cannot {action} {where}: {said or reply.text}")


def _no_ranges(where: str, action: str) -> StoreError:
    return StoreError(
        f"cannot {action} {where}: the server ignores byte ranges",
        hint="download the object, or serve it with a server that supports Range requests",
    )


def _late_hint(where: str, server: str) -> str | None:
    """Return another possible cause of silence: TLS spoken to a port that has none."""
    if (server or where).startswith("https://"):
        option = " in --endpoint-url" if server else ""
        return f"if the server speaks plain HTTP, write http://{option}"
    return f"check the endpoint {server}" if server else None


def retry_after_s(err: BaseException) -> float | None:
    """Return the pause that the store asked for, where the error's causes carry its headers.

    Only pauses given in seconds count; obstore drops headers, the others keep them.
    """
    for cause in _causes(err):
        for headers in (getattr(cause, "headers", None), _metadata(cause).get("HTTPHeaders")):
            if isinstance(headers, Mapping):
                value = headers.get("retry-after", headers.get("Retry-After"))
                text = value.strip() if isinstance(value, str) else ""
                if text.isascii() and text.isdigit():
                    return float(text)
    return None


def _denied(reason: str, where: str, action: str) -> Denied:
    hint = _SCHEME_HINTS.get(where.partition("://")[0], "check the credentials")
    return Denied(f"cannot {action} {where}: {reason}", hint=hint)


def _line(err: BaseException) -> str:
    lines = str(err).splitlines()
    return _QUERY.sub("", lines[0])[:300] if lines else type(err).__name__


def _causes(err: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while err is not None and id(err) not in seen:
        seen.add(id(err))
        yield err
        err = err.__cause__ or err.__context__


def _metadata(err: BaseException) -> Mapping[str, object]:
    response = getattr(err, "response", None)
    metadata = response.get("ResponseMetadata") if isinstance(response, dict) else None
    return metadata if isinstance(metadata, dict) else {}


def _response(err: BaseException) -> Reply | None:
    """Find an HTTP response among the causes: botocore's response, aiohttp's status."""
    for cause in _causes(err):
        status = _metadata(cause).get("HTTPStatusCode", getattr(cause, "status", None))
        if isinstance(status, int) and status >= 300:
            response = getattr(cause, "response", None)
            error = response.get("Error", {}) if isinstance(response, dict) else {}
            code = str(error.get("Code", ""))
            return Reply(status, "" if code.isdigit() else code, _line(err))
    return None
