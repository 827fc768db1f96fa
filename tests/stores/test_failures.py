"""Answers of clients in the words of our errors; the texts are as real clients write them."""

from __future__ import annotations

import pytest
from obstore.exceptions import GenericError

from dataplane.errors import (
    BucketNotFound,
    ConfigError,
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
from dataplane.stores.failures import (
    Reply,
    from_obstore,
    from_python,
    from_reply,
    retry_after_s,
)


def _obstore(text: str) -> DataplaneError:
    return from_obstore(GenericError(text), "s3://b/k", bucket="s3://b", action="read")


def _python(err: BaseException) -> DataplaneError:
    return from_python(err, "s3://b/k", bucket="s3://b", action="read")


@pytest.mark.parametrize(
    ("reply", "cls"),
    [
        (Reply(400, "ExpiredToken", ""), Denied),
        (Reply(400, "InvalidToken", ""), Denied),
        (Reply(403, "RequestTimeTooSkewed", ""), Denied),
        (Reply(404, "NoSuchKey", ""), NotFound),
        (Reply(404, "NoSuchBucket", ""), BucketNotFound),
        (Reply(404, "ContainerNotFound", ""), BucketNotFound),
        (Reply(301, "PermanentRedirect", ""), StoreError),
        (Reply(400, "AuthorizationHeaderMalformed", ""), StoreError),
        (Reply(412, "PreconditionFailed", ""), ObjectChanged),
        (Reply(400, "RequestTimeout", ""), Timeout),
        (Reply(503, "SlowDown", ""), Throttled),
        (Reply(500, "InternalError", ""), Unavailable),
        (Reply(None, "", "", "timeout"), Timeout),
        (Reply(None, "", "", "connect"), Unavailable),
        (Reply(None, "", "", "broken"), Unavailable),
        (Reply(None, "", "what the client said"), StoreError),
    ],
)
def test_answers_become_errors(reply: Reply, cls: type[DataplaneError]) -> None:
    err = from_reply(reply, "s3://b/k", bucket="s3://b", action="read")
    assert type(err) is cls
    assert "s3://b" in str(err)


def test_another_region_says_what_to_set() -> None:
    err = from_reply(Reply(301, "", ""), "s3://b/k", bucket="s3://b", action="read")
    assert "AWS_REGION" in str(err)


def test_a_full_disk_behind_obstore_is_no_space() -> None:
    assert type(_obstore("Unable to copy: No space left on device (os error 28)")) is NoSpace


def test_a_search_for_instance_credentials_that_fails_is_denied() -> None:
    text = "Error performing PUT http://169.254.169.254/latest/api/token in 1s - HTTP error"
    err = _obstore(text)
    assert type(err) is Denied
    assert "no credentials were found" in str(err)


def test_signatures_in_a_clients_text_are_cut_out() -> None:
    err = _obstore("Something odd at https://a.blob.core.windows.net/c/k?sv=1&sig=topsecret failed")
    assert type(err) is StoreError
    assert "topsecret" not in str(err)
    assert "Something odd" in str(err)


def test_only_one_line_of_a_clients_text_is_shown() -> None:
    err = _obstore("First line\n\nDebug source:\nGeneric { uri: topsecret }")
    assert "topsecret" not in str(err)
    assert "\n" not in str(err)


class _ClientError(Exception):
    def __init__(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        super().__init__("An error occurred")
        self.response = {
            "Error": {"Code": code},
            "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers or {}},
        }


class _HttpError(Exception):
    def __init__(self, status: int, headers: dict[str, str] | None = None) -> None:
        super().__init__("an answer")
        self.status = status
        self.headers = headers or {}


def _caused(outer: Exception, cause: Exception) -> Exception:
    outer.__cause__ = cause
    return outer


@pytest.mark.parametrize(
    ("err", "cls"),
    [
        (FileNotFoundError("k"), NotFound),
        (PermissionError("no"), Denied),
        (TimeoutError(), Timeout),
        (ConnectionResetError("reset"), Unavailable),
        (OSError(28, "No space left on device"), NoSpace),
        (ValueError("odd"), StoreError),
        (_HttpError(503), Throttled),
        (_HttpError(404), NotFound),
        (_caused(OSError("io"), _ClientError(503, "SlowDown")), Throttled),
        (_caused(PermissionError("no"), _ClientError(403, "SignatureDoesNotMatch")), Denied),
        (_caused(FileNotFoundError("b"), _ClientError(404, "NoSuchBucket")), BucketNotFound),
        (_caused(OSError("io"), _ClientError(500, "InternalError")), Unavailable),
    ],
)
def test_what_fsspec_raises_becomes_errors(err: Exception, cls: type[DataplaneError]) -> None:
    assert type(_python(err)) is cls


def test_an_answer_among_the_causes_outranks_the_builtin_class() -> None:
    err = _python(_caused(FileNotFoundError("b"), _ClientError(404, "NoSuchBucket")))
    assert "no such bucket" in str(err)


@pytest.mark.parametrize(
    ("err", "expected"),
    [
        (_HttpError(503, {"Retry-After": "3"}), 3.0),
        (_ClientError(503, "SlowDown", {"retry-after": "12"}), 12.0),
        (_caused(Throttled("slow"), _HttpError(429, {"retry-after": "1"})), 1.0),
        (_HttpError(503, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}), None),
        (_HttpError(503, {"Retry-After": "-5"}), None),
        (_HttpError(503), None),
        (ConfigError("none"), None),
    ],
)
def test_the_stores_wish_for_a_pause_is_found(err: Exception, expected: float | None) -> None:
    assert retry_after_s(err) == expected


def test_a_circle_of_causes_ends() -> None:
    first, second = ValueError("1"), ValueError("2")
    first.__cause__, second.__cause__ = second, first
    assert retry_after_s(first) is None


def test_silence_behind_tls_says_what_else_it_may_be() -> None:
    late = Reply(None, "", "", "timeout")
    plain = from_reply(late, "https://h/k", bucket="https://h", action="read")
    chosen = from_reply(late, "s3://b/k", bucket="s3://b", action="read", server="https://h")
    assert "write http://" in str(plain)
    assert "http:// in --endpoint-url" in str(chosen)
    assert from_reply(late, "s3://b/k", bucket="s3://b", action="read").hint is None
