"""The emulated cloud: each fault as a client meets it, repeatable and counted."""

from __future__ import annotations

import itertools
import time
from collections import Counter

import pytest

from dataplane.errors import ConfigError
from dataplane_testing.s3 import Faults, Limits, S3Endpoint
from dataplane_testing.s3.faults import FAULT_KINDS, FaultInjector

BODY = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture
def cloud(open_endpoint):
    open_endpoint.put("data", "k", BODY)
    return open_endpoint


def outcome(connect, endpoint, *headers):
    """Return what one GET on a fresh connection came to: status and body, or how it broke."""
    client = connect(endpoint)
    try:
        status, head, body = client.get("/data/k", *headers)
    except ConnectionError:
        return "reset", b""
    if status != 200:
        return status, body
    return ("whole" if len(body) == int(head["content-length"]) else "short"), body


def test_without_faults_nothing_happens(cloud, connect):
    assert outcome(connect, cloud) == ("whole", BODY)
    assert cloud.fault_counts() == {}
    assert cloud.requests()[-1].fault is None


def test_slow_down_is_503_with_retry_after(cloud, connect):
    cloud.set_faults(Faults(slow_down_rate=1, retry_after_s=7))
    status, headers, body = connect(cloud).get("/data/k")
    assert (status, headers["retry-after"]) == (503, "7")
    assert b"<Code>SlowDown</Code>" in body
    record = cloud.requests()[-1]
    assert (record.status, record.code, record.fault) == (503, "SlowDown", "slow_down")
    assert cloud.fault_counts() == {"slow_down": 1}


def test_slow_down_keeps_the_connection(cloud, connect):
    cloud.set_faults(Faults(script=("slow_down",)))
    client = connect(cloud)
    assert [client.get("/data/k")[0] for _ in range(2)] == [503, 200]


def test_a_reset_comes_before_any_answer(cloud, connect):
    cloud.set_faults(Faults(reset_rate=1))
    client = connect(cloud)
    with pytest.raises(ConnectionResetError):
        client.get("/data/k")
    record = cloud.requests()[-1]
    assert (record.status, record.bytes_sent, record.fault) == (0, 0, "reset")


@pytest.mark.parametrize("cut", [0, 1, 70_000, len(BODY)])
def test_a_body_is_reset_after_exactly_so_many_bytes(cloud, connect, cut):
    cloud.set_faults(Faults(reset_body_rate=1, cut_bytes=cut))
    client = connect(cloud)
    client.send(b"GET /data/k HTTP/1.1\r\nHost: h\r\n\r\n")
    _, headers = client.answer_head()
    assert int(headers["content-length"]) == len(BODY)
    assert client.body(cut) == BODY[:cut]
    with pytest.raises(ConnectionResetError):
        client.sock.recv(1)
    assert cloud.requests()[-1].bytes_sent == cut


@pytest.mark.parametrize("cut", [0, 1, 70_000])
def test_a_truncated_body_ends_in_good_order_before_its_declared_length(cloud, connect, cut):
    cloud.set_faults(Faults(truncate_rate=1, cut_bytes=cut))
    client = connect(cloud)
    status, headers, body = client.get("/data/k")
    assert (status, int(headers["content-length"])) == (200, len(BODY))
    assert body == BODY[:cut]
    assert client.at_end()


def test_a_stall_pauses_in_the_middle_and_then_goes_on(cloud, connect):
    cloud.set_faults(Faults(stall_rate=1, stall_s=0.3, cut_bytes=1000))
    client = connect(cloud)
    client.send(b"GET /data/k HTTP/1.1\r\nHost: h\r\n\r\n")
    client.answer_head()
    assert client.body(1000) == BODY[:1000]
    paused = time.monotonic()
    assert client.body(len(BODY) - 1000) == BODY[1000:]
    assert 0.25 < time.monotonic() - paused < 15
    assert client.get("/data/missing")[0] == 404


def test_the_first_byte_is_late_by_the_mean_that_was_asked_for(cloud, connect):
    cloud.set_faults(Faults(first_byte_s=0.03))
    client = connect(cloud)
    started = time.monotonic()
    for _ in range(10):
        client.get("/data/k", "Range: bytes=0-9")
    assert 0.2 < time.monotonic() - started < 15
    durations = {round(record.duration_s, 3) for record in cloud.requests()}
    assert len(durations) > 3


def test_requests_in_the_tail_wait_longer(cloud, connect):
    cloud.set_faults(Faults(first_byte_s=0.001, tail_rate=1, tail_s=0.2))
    client = connect(cloud)
    client.get("/data/k", "Range: bytes=0-9")
    assert cloud.requests()[-1].duration_s >= 0.2


def test_bandwidth_is_per_connection(cloud, connect):
    cloud.set_faults(Faults(bandwidth_bytes_per_s=2e6))
    client = connect(cloud)
    started = time.monotonic()
    assert client.get("/data/k", "Range: bytes=0-399999")[2] == BODY[:400_000]
    assert client.get("/data/k", "Range: bytes=0-399999")[2] == BODY[:400_000]
    assert 0.36 < time.monotonic() - started < 15


def test_requests_over_the_rate_are_told_to_slow_down(cloud, connect):
    cloud.set_faults(Faults(requests_per_s=1, burst=3))
    client = connect(cloud)
    statuses = [client.get("/data/k", "Range: bytes=0-9")[0] for _ in range(5)]
    assert statuses == [206, 206, 206, 503, 503]
    assert cloud.fault_counts() == {"rate_limit": 2}


def test_a_script_decides_the_first_tries_of_each_object(cloud, connect):
    cloud.put("data", "other", b"x")
    cloud.set_faults(Faults(script=("slow_down", "", "reset", "truncate"), cut_bytes=10))
    results = [outcome(connect, cloud)[0] for _ in range(6)]
    assert results == [503, "whole", "reset", "short", "whole", "whole"]
    assert connect(cloud).get("/data/other")[0] == 503


def test_faults_can_be_limited_to_operations_and_keys(cloud, connect):
    cloud.set_faults(Faults(slow_down_rate=1, operations=("GetObject",), keys="data/k*"))
    cloud.put("data", "other", b"x")
    client = connect(cloud)
    assert client.get("/data/k")[0] == 503
    assert client.get("/data/other")[0] == 200
    assert client.get("/data?list-type=2")[0] == 200


def test_faults_are_the_same_for_the_same_seed_whatever_the_order_of_objects():
    faults = Faults(seed=5, slow_down_rate=0.2, reset_rate=0.2, truncate_rate=0.2, first_byte_s=1)
    objects = [f"k{number}" for number in range(20)]

    def run(order, seed=5):
        injector = FaultInjector(Faults(**{**_values(faults), "seed": seed}))
        plans = {}
        for key, attempt in order:
            plans[key, attempt] = injector.plan("GetObject", "data", key)
        return plans, injector.counts()

    forward = [(key, attempt) for key in objects for attempt in range(20)]
    interleaved = [(key, attempt) for attempt in range(20) for key in reversed(objects)]
    assert run(forward) == run(interleaved)
    assert run(forward)[0] != run(forward, seed=6)[0]


def _values(faults):
    return {name: getattr(faults, name) for name in Faults.__slots__}


def test_rates_are_met_over_many_requests():
    rates = {f"{kind}_rate": 0.1 for kind in FAULT_KINDS}
    injector = FaultInjector(Faults(first_byte_s=0.01, tail_rate=0.05, tail_s=9, **rates))
    plans = [
        injector.plan("GetObject", "data", f"k{number}") for number in range(200) for _ in range(50)
    ]
    kinds = Counter(plan.kind for plan in plans)
    for kind in FAULT_KINDS:
        assert 900 < kinds[kind] < 1100
        assert injector.counts()[kind] == kinds[kind]
    waits = [plan.wait_s for plan in plans if plan.wait_s != 9]
    assert 400 < len(plans) - len(waits) < 600
    assert 0.0098 < sum(waits) / len(waits) < 0.0102
    assert max(waits) > 0.015


def test_body_faults_only_befall_requests_with_a_body():
    injector = FaultInjector(Faults(truncate_rate=1))
    assert injector.plan("PutObject", "data", "k").kind is None
    assert injector.plan("GetObject", "data", "k").kind == "truncate"


@pytest.mark.parametrize(
    "values",
    [
        {"slow_down_rate": -0.1},
        {"reset_rate": 1.1},
        {"slow_down_rate": 0.6, "stall_rate": 0.6},
        {"tail_rate": 2},
        {"first_byte_s": -1},
        {"stall_s": float("inf")},
        {"bandwidth_bytes_per_s": 0},
        {"requests_per_s": -5},
        {"cut_bytes": -1},
        {"script": ("explode",)},
    ],
)
def test_impossible_faults_are_refused(values):
    with pytest.raises(ConfigError):
        Faults(**values)
    with pytest.raises(ConfigError):
        Faults.from_mapping(values)
    with pytest.raises(ConfigError, match="nonsense"):
        Faults.from_mapping({"nonsense": 1})


@pytest.mark.parametrize("value", [{"idle_s": 0}, {"connections": -1}, {"head_s": float("nan")}])
def test_impossible_limits_are_refused(value):
    with pytest.raises(ConfigError):
        Limits(**value)


@pytest.mark.parametrize("after_gets", [1, 3])
def test_an_object_is_replaced_between_two_gets(cloud, connect, after_gets):
    old = connect(cloud).get("/data/k")[1]["etag"]
    new = cloud.replace_between("data", "k", b"z" * 100, after_gets=after_gets)
    client = connect(cloud)
    for _ in range(after_gets):
        client.send(b"HEAD /data/k HTTP/1.1\r\nHost: h\r\n\r\n")
        assert client.answer_head()[1]["etag"] == old
        status, headers, body = client.get("/data/k", "Range: bytes=0-9", f"If-Match: {old}")
        assert (status, headers["etag"], body) == (206, old, BODY[:10])
    assert client.get("/data/k", "Range: bytes=10-19", f"If-Match: {old}")[0] == 412
    status, headers, body = client.get("/data/k")
    assert (headers["etag"], body) == (new, b"z" * 100)
    assert cloud.fault_counts() == {"replace": 1}


def test_a_broken_answer_ends_on_the_old_bytes_and_its_resumption_meets_the_new(cloud, connect):
    old = connect(cloud).get("/data/k")[1]["etag"]
    cloud.replace_between("data", "k", BODY[::-1])
    cloud.set_faults(Faults(script=("truncate",), cut_bytes=500_000))
    _, _, body = connect(cloud).get("/data/k", f"If-Match: {old}")
    assert body == BODY[:500_000]
    rest = connect(cloud).get("/data/k", "Range: bytes=500000-", f"If-Match: {old}")
    assert rest[0] == 412


def test_replacing_what_is_not_there_is_refused(cloud):
    with pytest.raises(ConfigError, match="specified key"):
        cloud.replace_between("data", "missing", b"")
    with pytest.raises(ConfigError, match="at least 1"):
        cloud.replace_between("data", "k", b"", after_gets=0)
    assert list((cloud.root / "staging").iterdir()) == []


@pytest.mark.parametrize("in_process", [True, False])
def test_closing_does_not_wait_for_a_stall(connect, in_process):
    faults = Faults(stall_rate=1, stall_s=600, first_byte_s=0, cut_bytes=10)
    with S3Endpoint(in_process=in_process, anonymous=True, faults=faults) as endpoint:
        endpoint.put("data", "k", BODY)
        client = connect(endpoint)
        client.send(b"GET /data/k HTTP/1.1\r\nHost: h\r\n\r\n")
        client.answer_head()
        client.body(10)
        started = time.monotonic()
    assert time.monotonic() - started < 15


def test_every_kind_of_fault_can_be_scripted(cloud, connect):
    cloud.set_faults(Faults(script=FAULT_KINDS, cut_bytes=10))
    results = [outcome(connect, cloud)[0] for _ in FAULT_KINDS]
    assert results == [503, "reset", "reset", "short", "whole"]
    assert cloud.fault_counts() == dict.fromkeys(sorted(FAULT_KINDS), 1)
    logged = [record.fault for record in cloud.requests()]
    assert list(itertools.islice(logged, len(FAULT_KINDS))) == list(FAULT_KINDS)
