"""Fault injection: the kinds of faults, their rates, and the requests that meet them.

`Faults` are the settings of a test or benchmark; `FaultInjector` turns them into one `Plan` per
request. A plan depends only on the seed, the operation, the object and the number of times that the
operation has met that object before, so a run can be repeated with any order of its threads. Each
request meets at most one of: slow_down, reset, truncate, stall. Latency and bandwidth come on top,
and the request-rate limit, which alone depends on the clock.

Thread-safe: one lock around the counters, held for a few dictionary operations.
"""

from __future__ import annotations

import fnmatch
import hashlib
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from statistics import NormalDist
from typing import Any

from dataplane.errors import ConfigError

__all__ = ["FAULT_KINDS", "FaultInjector", "Faults", "Plan"]

FAULT_KINDS = ("slow_down", "reset", "reset_body", "truncate", "stall")
_SPREAD = 0.25  # of the logarithm of the time to first byte: p99 is about 1.8 times the median
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Faults:
    """Faults that the endpoint injects. The default is none.

    Attributes:
        seed: seed; two runs with the same seed and requests meet the same faults.
        first_byte_s: mean time before a response begins; it varies by request.
        tail_rate: share of requests that wait `tail_s` instead.
        tail_s: time before the response to a request in the tail.
        bandwidth_bytes_per_s: bandwidth of a connection for bodies; None is unlimited.
        requests_per_s: limit of requests per second of all clients together; those above it get
            503 SlowDown; None is unlimited.
        burst: number of requests that may come at once before that limit applies.
        retry_after_s: value of `Retry-After` in 503 responses.
        slow_down_rate: share of requests that get 503 SlowDown.
        reset_rate: share of requests whose connection is reset before any response.
        reset_body_rate: share of GETs that are reset in the middle of the body.
        truncate_rate: share of GETs whose body ends early, the connection closed in good order,
            although its whole length was declared.
        stall_rate: share of GETs whose body pauses for `stall_s`, then goes on.
        stall_s: length of a stall.
        cut_bytes: place in the body of a reset, truncation or stall; None draws one.
        script: fault kinds for the first requests of each operation on each object, in order,
            before the rates apply; `""` is a request without fault. `("slow_down", "reset")` makes
            every first and second try fail, every third succeed.
        operations: operations concerned, such as `("GetObject",)`; empty means all.
        keys: objects concerned, as a shell pattern over `bucket/key`.

    Raises:
        ConfigError: a rate is not in 0 … 1, a time or size is negative, a kind is unknown.
    """

    seed: int = 0
    first_byte_s: float = 0.0
    tail_rate: float = 0.0
    tail_s: float = 0.0
    bandwidth_bytes_per_s: float | None = None
    requests_per_s: float | None = None
    burst: int = 1
    retry_after_s: int = 1
    slow_down_rate: float = 0.0
    reset_rate: float = 0.0
    reset_body_rate: float = 0.0
    truncate_rate: float = 0.0
    stall_rate: float = 0.0
    stall_s: float = 0.0
    cut_bytes: int | None = None
    script: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()
    keys: str = "*"

    def __post_init__(self) -> None:
        for name in ("tail_rate", *(f"{kind}_rate" for kind in FAULT_KINDS)):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"faults.{name} must be in 0 … 1, got {getattr(self, name)}")
        total = sum(getattr(self, f"{kind}_rate") for kind in FAULT_KINDS)
        if total > 1 + 1e-9:
            raise ConfigError(f"the rates of all faults add up to {total:g}, more than 1")
        for name in ("first_byte_s", "tail_s", "stall_s", "retry_after_s", "burst"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"faults.{name} cannot be {getattr(self, name)}")
        for name in ("bandwidth_bytes_per_s", "requests_per_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"faults.{name} must be positive, got {value}")
        if self.cut_bytes is not None and self.cut_bytes < 0:
            raise ConfigError(f"faults.cut_bytes cannot be {self.cut_bytes}")
        unknown = set(self.script) - {"", *FAULT_KINDS}
        if unknown:
            raise ConfigError(
                f"unknown fault in faults.script: {', '.join(sorted(unknown))}",
                hint=f"there are {', '.join(FAULT_KINDS)}",
            )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Faults:
        """Build from plain values, as JSON holds them.

        Raises:
            ConfigError: an unknown name.
        """
        known = {field.name for field in fields(cls)}
        unknown = set(values) - known
        if unknown:
            raise ConfigError(f"unknown fault settings: {', '.join(sorted(unknown))}")
        tuples = {name: tuple(values[name]) for name in ("script", "operations") if name in values}
        return cls(**{**values, **tuples})


@dataclass(frozen=True, slots=True)
class Plan:
    """The fault plan of one request.

    Attributes:
        kind: kind of the fault: one of `FAULT_KINDS`, `rate_limit`, or None.
        wait_s: time before the response begins.
        cut: place of the fault in the body: a fraction of its length.
        cut_bytes: the same in bytes, where the test fixed it.
        stall_s: length of a stall.
        bandwidth_bytes_per_s: bandwidth of the body.
        retry_after_s: pause named by 503 responses.
    """

    kind: str | None = None
    wait_s: float = 0.0
    cut: float = 0.0
    cut_bytes: int | None = None
    stall_s: float = 0.0
    bandwidth_bytes_per_s: float | None = None
    retry_after_s: int = 0

    def cut_at(self, length: int) -> int:
        """Return the bytes of a body of `length` that are sent before it happens."""
        if self.cut_bytes is not None:
            return min(self.cut_bytes, length)
        return int(self.cut * length)


_NO_FAULT = Plan()
_BODY_FAULTS = frozenset({"reset_body", "truncate", "stall"})


class FaultInjector:
    """A fault injector: makes the plan of each request and counts the faults."""

    def __init__(self, faults: Faults) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self.set(faults)

    def set(self, faults: Faults) -> None:
        """Use other faults from the next request on; every object's history begins anew."""
        with self._lock:
            self._faults = faults
            self._active = faults != Faults(seed=faults.seed)
            self._met: dict[tuple[str, str, str], int] = {}
            self._tokens = float(max(1, faults.burst))
            self._refilled_s = time.monotonic()

    def plan(self, operation: str, bucket: str, key: str) -> Plan:
        """Return the plan of the next request of this kind."""
        if not self._active:
            return _NO_FAULT
        with self._lock:
            faults = self._faults
            if (faults.operations and operation not in faults.operations) or not (
                faults.keys == "*" or fnmatch.fnmatchcase(f"{bucket}/{key}", faults.keys)
            ):
                return _NO_FAULT
            limited = faults.requests_per_s is not None and not self._take_token_locked(faults)
            if limited:
                self._counts["rate_limit"] = self._counts.get("rate_limit", 0) + 1
                return Plan("rate_limit", retry_after_s=faults.retry_after_s)
            ordinal = self._met.get((operation, bucket, key), 0)
            self._met[operation, bucket, key] = ordinal + 1
        plan = _decide(faults, operation, f"{bucket}/{key}", ordinal)
        if plan.kind is not None:
            self.count(plan.kind)
        return plan

    def count(self, kind: str) -> None:
        """Count one fault."""
        with self._lock:
            self._counts[kind] = self._counts.get(kind, 0) + 1

    def counts(self) -> dict[str, int]:
        """Return the number of faults of each kind since the endpoint's start."""
        with self._lock:
            return dict(sorted(self._counts.items()))

    def _take_token_locked(self, faults: Faults) -> bool:
        assert faults.requests_per_s is not None
        now_s = time.monotonic()
        gained = (now_s - self._refilled_s) * faults.requests_per_s
        self._tokens = min(float(max(1, faults.burst)), self._tokens + gained)
        self._refilled_s = now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def _decide(faults: Faults, operation: str, name: str, ordinal: int) -> Plan:
    seed = f"{faults.seed}\0{operation}\0{name}\0{ordinal}".encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(seed, digest_size=32).digest()
    choice, tail, spread, cut = (
        int.from_bytes(digest[start : start + 8], "little") / 2**64 for start in (0, 8, 16, 24)
    )
    kind: str | None = None
    if ordinal < len(faults.script):
        kind = faults.script[ordinal] or None
    else:
        bound = 0.0
        for candidate in FAULT_KINDS:
            bound += getattr(faults, f"{candidate}_rate")
            if choice < bound:
                kind = candidate
                break
    if kind in _BODY_FAULTS and operation != "GetObject":
        kind = None  # there is no body to break
    return Plan(
        kind,
        wait_s=faults.tail_s if tail < faults.tail_rate else _first_byte(faults, spread),
        cut=cut,
        cut_bytes=faults.cut_bytes,
        stall_s=faults.stall_s if kind == "stall" else 0.0,
        bandwidth_bytes_per_s=faults.bandwidth_bytes_per_s,
        retry_after_s=faults.retry_after_s,
    )


def _first_byte(faults: Faults, spread: float) -> float:
    """Draw a log-normal time with the mean that was asked for."""
    if faults.first_byte_s == 0:
        return 0.0
    normal = _NORMAL.inv_cdf(min(max(spread, 1e-9), 1 - 1e-9))
    return faults.first_byte_s * math.exp(_SPREAD * normal - _SPREAD**2 / 2)
