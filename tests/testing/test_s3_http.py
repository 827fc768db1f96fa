"""What arrives on the endpoint's socket, well-formed and hostile."""

from __future__ import annotations

import socket
import time

import pytest

from dataplane_testing.s3 import Limits, S3Endpoint
from dataplane_testing.s3.http import parse_head
from dataplane_testing.s3.model import S3Error

HEAD = b"GET /data/k?a=b HTTP/1.1\r\nHost: h\r\nRange:  bytes=0-1 \r\nx-a: 1\r\nX-A: 2"


def test_a_head_is_read_with_lower_case_names_and_joined_repeats():
    head = parse_head(HEAD, Limits())
    assert (head.method, head.path, head.query, head.keep_alive) == ("GET", "/data/k", "a=b", True)
    assert head.headers == {"host": "h", "range": "bytes=0-1", "x-a": "1,2"}


@pytest.mark.parametrize(
    ("block", "status"),
    [
        (b"", 400),
        (b"GET /", 400),
        (b"GET / HTTP/1.1 x\r\nHost: h", 400),
        (b"GET  / HTTP/1.1\r\nHost: h", 400),
        (b"get / HTTP/1.1\r\nHost: h", 400),
        (b"GET http://h/ HTTP/1.1\r\nHost: h", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: h", 400),
        (b"GET / HTTP/2.0\r\nHost: h", 505),
        (b"GET / HTTP/1.1", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nnocolon", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nspace : v", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\n folded", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nx: a\nb: c", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nx: a\0", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nHost: i", 400),
        (b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2", 400),
        (b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked", 501),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: h", 414),
        (b"GET / HTTP/1.1\r\nHost: h" + b"\r\nx: y" * 100, 431),
    ],
)
def test_a_malformed_head_is_refused_and_ends_the_connection(block, status):
    with pytest.raises(S3Error) as caught:
        parse_head(block, Limits())
    assert (caught.value.status, caught.value.close) == (status, True)


@pytest.mark.parametrize("text", ["-1", "1e3", "0x10", " ", "9" * 30, "1,2", "٣", "+1"])
def test_a_content_length_that_is_not_a_number_is_400(text):
    head = parse_head(b"PUT / HTTP/1.1\r\nHost: h", Limits())
    head.headers["content-length"] = text
    with pytest.raises(S3Error) as caught:
        head.content_length()
    assert caught.value.status == 400


def test_pipelined_requests_are_answered_in_order(open_endpoint, connect):
    open_endpoint.put("data", "a", b"first")
    open_endpoint.put("data", "b", b"second")
    client = connect(open_endpoint)
    client.send(b"".join(b"GET /data/%s HTTP/1.1\r\nHost: h\r\n\r\n" % key for key in (b"a", b"b")))
    assert [client.answer()[2], client.answer()[2]] == [b"first", b"second"]


def test_a_head_may_arrive_byte_by_byte(open_endpoint, connect):
    open_endpoint.put("data", "a", b"first")
    client = connect(open_endpoint)
    for byte in b"GET /data/a HTTP/1.1\r\nHost: h\r\n\r\n":
        client.send(bytes([byte]))
    assert client.answer()[2] == b"first"


def test_connection_close_and_http_1_0_end_the_connection_after_the_answer(open_endpoint, connect):
    open_endpoint.put("data", "a", b"first")
    for request in (
        b"GET /data/a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        b"GET /data/a HTTP/1.0\r\n\r\n",
    ):
        client = connect(open_endpoint)
        client.send(request)
        status, headers, body = client.answer()
        assert (status, headers["connection"], body) == (200, "close", b"first")
        assert client.at_end()


def test_headers_over_the_limit_are_431(open_endpoint, connect):
    client = connect(open_endpoint)
    client.send(b"GET / HTTP/1.1\r\nHost: h\r\nx: " + b"y" * (40 << 10))
    assert client.answer()[0] == 431
    assert client.at_end()


def test_a_slow_head_is_408(open_endpoint, connect):
    client = connect(open_endpoint)
    client.send(b"GET / HTTP/1.1\r\nHost:")
    started = time.monotonic()
    assert client.answer()[0] == 408
    assert 0.2 < time.monotonic() - started < 3


def test_dripping_a_head_does_not_extend_its_time(open_endpoint, connect):
    client = connect(open_endpoint)
    client.sock.settimeout(0.05)
    started = time.monotonic()
    client.send(b"GET / HTTP/1.1\r\n")
    answer = b""
    while not answer and time.monotonic() - started < 5:
        client.send(b"x: y\r\n")
        try:
            answer = client.sock.recv(4096)
        except TimeoutError:
            continue
    assert answer.startswith(b"HTTP/1.1 408")


def test_a_slow_body_is_400_request_timeout_and_leaves_nothing(open_endpoint, connect):
    client = connect(open_endpoint)
    client.send(b"PUT /data/slow HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc")
    status, _, body = client.answer()
    assert status == 400
    assert b"<Code>RequestTimeout</Code>" in body
    assert list((open_endpoint.root / "staging").iterdir()) == []
    assert connect(open_endpoint).get("/data/slow")[0] == 404


def test_a_body_that_ends_early_leaves_nothing(open_endpoint, connect):
    client = connect(open_endpoint)
    client.send(b"PUT /data/short HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc")
    client.sock.shutdown(socket.SHUT_WR)
    assert client.at_end()
    assert open_endpoint.requests()[-1].status == 0
    assert list((open_endpoint.root / "staging").iterdir()) == []


def test_a_put_without_a_length_is_411(open_endpoint, connect):
    client = connect(open_endpoint)
    client.send(b"PUT /data/a HTTP/1.1\r\nHost: h\r\n\r\n")
    status, _, body = client.answer()
    assert (status, b"MissingContentLength" in body) == (411, True)


def test_a_body_over_the_limit_is_refused_before_it_is_read(connect):
    with S3Endpoint(in_process=True, anonymous=True, limits=Limits(object_bytes=1000)) as endpoint:
        client = connect(endpoint)
        client.send(b"PUT /data/a HTTP/1.1\r\nHost: h\r\nContent-Length: 1001\r\n\r\n")
        status, _, body = client.answer()
        assert (status, b"EntityTooLarge" in body) == (400, True)


def test_a_refused_body_that_was_announced_is_never_asked_for(open_endpoint, connect):
    client = connect(open_endpoint)
    client.send(
        b"PUT /nowhere/a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    )
    status, headers, _ = client.answer()
    assert (status, headers["connection"]) == (404, "close")


def test_an_expected_continue_is_sent_before_the_body(open_endpoint, connect):
    client = connect(open_endpoint)
    client.send(
        b"PUT /data/a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    )
    assert client.answer_head()[0] == 100
    client.send(b"hello")
    assert client.answer()[0] == 200
    assert client.get("/data/a")[2] == b"hello"


def test_an_unread_body_is_skipped_and_the_connection_goes_on(open_endpoint, connect):
    open_endpoint.put("data", "a", b"first")
    client = connect(open_endpoint)
    client.send(b"PUT /nowhere/a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello")
    assert client.answer()[0] == 404
    assert client.get("/data/a")[2] == b"first"


def test_a_large_unread_body_does_not_lose_the_answer(open_endpoint, connect):
    client = connect(open_endpoint)
    size = 3 << 20
    client.send(b"PUT /nowhere/a HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size)
    client.send(b"x" * size)
    status, headers, _ = client.answer()
    assert (status, headers["connection"]) == (404, "close")


def test_connections_over_the_limit_are_told_503(connect):
    with S3Endpoint(in_process=True, anonymous=True, limits=Limits(connections=2)) as endpoint:
        first, second = connect(endpoint), connect(endpoint)
        assert first.get("/data/a")[0] == second.get("/data/a")[0] == 404
        third = connect(endpoint)
        status, headers, _ = third.answer()
        assert (status, headers["retry-after"]) == (503, "1")
        assert third.at_end()


def test_a_client_that_does_not_read_is_dropped(connect):
    limits = Limits(send_s=0.2)
    with S3Endpoint(in_process=True, anonymous=True, limits=limits) as endpoint:
        endpoint.put("data", "large", b"x" * (64 << 20))
        client = connect(endpoint)
        client.send(b"GET /data/large HTTP/1.1\r\nHost: h\r\n\r\n")
        deadline = time.monotonic() + 10
        while not (records := endpoint.requests()) and time.monotonic() < deadline:
            pass
        assert records[0].bytes_sent < 64 << 20


def test_idle_connections_are_closed(connect):
    with S3Endpoint(in_process=True, anonymous=True, limits=Limits(idle_s=0.1)) as endpoint:
        client = connect(endpoint)
        assert client.get("/data/a")[0] == 404
        assert client.at_end()
        assert len(endpoint.requests()) == 1


@pytest.mark.parametrize(
    "target",
    [
        "/data/..%2f..%2f..%2fetc%2fpasswd",
        "/data/../../../../etc/passwd",
        "/..%2fetc/passwd",
        "/%2e%2e/etc",
        "/data/%00",
        "/data//etc/passwd",
        "/data%2f..%2f../x",
    ],
)
def test_no_path_leads_out_of_the_root(open_endpoint, connect, target):
    status, _, body = connect(open_endpoint).get(target)
    assert status == 404, body


def test_a_path_that_is_not_utf_8_is_400(open_endpoint, connect):
    status, _, body = connect(open_endpoint).get("/data/%ff%fe")
    assert (status, b"InvalidURI" in body) == (400, True)


def test_too_many_query_parameters_are_400(open_endpoint, connect):
    assert connect(open_endpoint).get("/data?" + "&".join(["a=b"] * 100))[0] == 400


def test_an_error_names_what_it_is_about_in_escaped_xml(open_endpoint, connect):
    status, headers, body = connect(open_endpoint).get("/data/a%3Cb%26%22%0Dc")
    assert (status, headers["content-type"]) == (404, "application/xml")
    assert b"<Resource>/data/a&lt;b&amp;&quot;&#13;c</Resource>" in body


def test_unknown_methods_and_parts_of_s3_that_are_not_here_are_refused(open_endpoint, connect):
    client = connect(open_endpoint)
    client.send(b"PATCH /data/a HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")
    assert client.answer()[0] == 405
    assert client.get("/data?acl")[0] == 501
    assert client.get("/data/a?tagging")[0] == 501
