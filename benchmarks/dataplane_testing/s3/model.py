"""Values that all modules of the endpoint share: limits, records of requests, S3's errors.

`S3Error` is the protocol's error, made to be rendered as XML for the client; it never leaves this
package. A wrong call in Python raises a `dataplane.errors` class, as everywhere.

Pure data, no state.
"""

from __future__ import annotations

from dataclasses import dataclass

from dataplane.errors import ConfigError

__all__ = ["Limits", "RequestRecord", "S3Error"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one client: sizes, counts and times.

    Attributes:
        head_bytes: bytes of request line and headers together; more is 431.
        header_count: number of header lines; more is 431.
        target_bytes: bytes of the request target; more is 414.
        connections: connections open at once; one more gets 503 and is closed.
        object_bytes: bytes of one PUT or one part; more is 400 EntityTooLarge.
        document_bytes: bytes of an XML request body; more is 400 EntityTooLarge.
        uploads: multipart uploads under way at once.
        log_records: requests remembered; the oldest go first.
        idle_s: time after which a kept-alive connection without a request is closed.
        head_s: time in which a request's headers must arrive whole; else 408.
        body_s: longest silence in a request's body; else 400 RequestTimeout.
        send_s: longest time that a client may not read; then the connection is reset.
    """

    head_bytes: int = 32 << 10
    header_count: int = 100
    target_bytes: int = 16 << 10
    connections: int = 512
    object_bytes: int = 5 << 30
    document_bytes: int = 8 << 20
    uploads: int = 1000
    log_records: int = 200_000
    idle_s: float = 60.0
    head_s: float = 10.0
    body_s: float = 30.0
    send_s: float = 60.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise ConfigError(f"the limit {name} must be positive, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request as the endpoint saw it, in order of arrival.

    Attributes:
        index: place in the order of arrival, counted from the endpoint's start.
        started_s: time at which its headers had arrived, by the endpoint's monotonic clock.
        duration_s: time from then until the last byte was handed to the kernel.
        method: method: `GET`, `PUT`, …; empty where the request could not be read.
        operation: S3's name of it, such as `GetObject` or `ListObjectsV2`.
        bucket: bucket of the path; empty for the list of buckets.
        key: key of the path, decoded; empty for requests about a bucket.
        range: bytes `[start, stop)` that a ranged GET asked for, cut to the object; or None.
        status: HTTP status sent; 0 where the connection was reset before any.
        code: S3's error code, such as `NoSuchKey`; empty where there was no error.
        bytes_sent: bytes of the response's body handed to the kernel.
        fault: injected fault that it met, such as `slow_down`; or None.
        connection: number of the connection it came on.
    """

    index: int
    started_s: float
    duration_s: float
    method: str
    operation: str
    bucket: str
    key: str
    range: tuple[int, int] | None
    status: int
    code: str
    bytes_sent: int
    fault: str | None
    connection: int


class S3Error(Exception):
    """An error response: HTTP status, S3's code, a sentence.

    Attributes:
        close: whether the connection cannot be used after this (its framing is lost).
        headers: extra header lines, each ending in CRLF.
    """

    def __init__(
        self, status: int, code: str, message: str, *, close: bool = False, headers: str = ""
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.close = close
        self.headers = headers
