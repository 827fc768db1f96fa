"""Retries: which errors, how long, how often, and what is said in the end."""

from __future__ import annotations

import itertools

import pytest

from dataplane.errors import (
    Denied,
    NotFound,
    ObjectChanged,
    StoreError,
    Throttled,
    Timeout,
    Unavailable,
)
from dataplane.stores.clients.memory import MemoryStore
from dataplane.stores.policy.retry import BASE_PAUSE_S, MAX_PAUSE_S, RetryPolicy, RetryStore
from dataplane.telemetry import Counters
from tests.stores.fakes import BreakingListStore, ScriptedStore

_numbers = itertools.count()


class _Time:
    """A clock that only sleeping moves; chance always takes the longest pause."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.pauses: list[float] = []

    def sleep(self, pause_s: float) -> None:
        self.pauses.append(pause_s)
        self.now_s += pause_s

    def policy(self, max_attempts: int = 8, deadline_s: float = 120.0) -> RetryPolicy:
        return RetryPolicy(
            max_attempts, deadline_s, lambda: self.now_s, self.sleep, lambda _, high: high
        )


def _memory(content: bytes) -> MemoryStore:
    memory = MemoryStore(f"retry-{next(_numbers)}")
    memory.put("k", content)
    return memory


def _stores(
    *errors: Exception, time: _Time | None = None, **limits: float
) -> tuple[RetryStore, ScriptedStore, Counters]:
    inner = ScriptedStore("retry", *errors, inner=_memory(b"content"))
    counters = Counters()
    policy = (time or _Time()).policy(**limits)
    return RetryStore(inner, policy, counters), inner, counters


@pytest.mark.parametrize("err", [Throttled("slow"), Timeout("late"), Unavailable("broken")])
def test_a_passing_failure_is_tried_again(err: StoreError) -> None:
    store, inner, counters = _stores(err)
    assert bytes(store.get_range("k", 0, 7)) == b"content"
    assert inner.calls == 2
    assert counters["store_retries"] == 1


@pytest.mark.parametrize(
    "err", [NotFound("no"), Denied("no"), ObjectChanged("other"), StoreError("no")]
)
def test_a_lasting_failure_is_raised_at_once_and_unchanged(err: StoreError) -> None:
    store, inner, counters = _stores(err)
    with pytest.raises(type(err)) as caught:
        store.get_range("k", 0, 7)
    assert caught.value is err
    assert inner.calls == 1
    assert counters["store_retries"] == 0


def test_every_call_is_tried_again() -> None:
    for call in (
        lambda s: s.head("k"),
        lambda s: s.get_range("k", 0, 1),
        lambda s: s.put("k", b"1"),
        lambda s: s.delete("k"),
        lambda s: s.list_level(""),
    ):
        store, inner, _ = _stores(Timeout("late"), Timeout("late"))
        call(store)
        assert inner.calls == 3


def test_the_error_in_the_end_says_what_how_often_and_how_long() -> None:
    store, inner, counters = _stores(*[Throttled("asks for less")] * 9, max_attempts=3)
    with pytest.raises(Throttled) as caught:
        store.get_range("k", 2, 5)
    assert inner.calls == 3
    assert counters["store_retries"] == 2
    message = str(caught.value)
    assert "asks for less" in message
    assert "3 attempts in 300 ms" in message
    assert f"read [2, 5) {store.url}/k" in message
    assert isinstance(caught.value.__cause__, Throttled)


def test_one_attempt_means_no_retry() -> None:
    store, inner, _ = _stores(Timeout("late"), max_attempts=1)
    with pytest.raises(Timeout, match=r"1 attempt in"):
        store.head("k")
    assert inner.calls == 1


def test_pauses_double_up_to_their_limit() -> None:
    time = _Time()
    store, _, _ = _stores(*[Timeout("late")] * 11, time=time, max_attempts=12, deadline_s=1e6)
    store.head("k")
    expected = [min(MAX_PAUSE_S, BASE_PAUSE_S * 2**n) for n in range(11)]
    assert time.pauses == pytest.approx(expected)
    assert time.pauses[-1] == MAX_PAUSE_S


def test_chance_decides_between_nothing_and_the_whole_pause() -> None:
    asked: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return low

    inner = ScriptedStore("retry", Timeout("late"), Timeout("late"), inner=_memory(b"1"))
    slept: list[float] = []
    policy = RetryPolicy(8, 120.0, lambda: 0.0, slept.append, uniform)
    RetryStore(inner, policy, Counters()).head("k")
    assert asked == [(0.0, BASE_PAUSE_S), (0.0, 2 * BASE_PAUSE_S)]
    assert slept == [0.0, 0.0]


def test_no_pause_is_begun_that_would_end_after_the_deadline() -> None:
    time = _Time()
    store, inner, _ = _stores(*[Timeout("late")] * 50, time=time, max_attempts=50, deadline_s=1.0)
    with pytest.raises(Timeout, match="gave up after 4 attempts in 700 ms"):
        store.head("k")
    assert time.pauses == pytest.approx([0.1, 0.2, 0.4])
    assert inner.calls == 4


def _with_headers(headers: dict[str, str]) -> Throttled:
    cause = Exception("a client's error")
    cause.headers = headers
    err = Throttled("slow")
    err.__cause__ = cause
    return err


def test_the_stores_wish_for_a_pause_is_heeded() -> None:
    time = _Time()
    store, _, _ = _stores(_with_headers({"Retry-After": "7"}), time=time)
    store.head("k")
    assert time.pauses == [7.0]


def test_a_wish_beyond_the_deadline_ends_the_attempts() -> None:
    time = _Time()
    store, inner, _ = _stores(_with_headers({"retry-after": "3600"}), time=time)
    with pytest.raises(Throttled, match="1 attempt"):
        store.head("k")
    assert time.pauses == []
    assert inner.calls == 1


def test_a_broken_listing_goes_on_after_the_last_key() -> None:
    memory = MemoryStore(f"retry-{next(_numbers)}")
    keys = [f"k{number}" for number in range(10)]
    for key in keys:
        memory.put(key, b"")
    inner = BreakingListStore(memory, 4, Timeout("late"), Unavailable("broken"))
    counters = Counters()
    store = RetryStore(inner, _Time().policy(), counters)
    assert [info.key for info in store.list()] == keys
    assert counters["store_retries"] == 2


def test_a_listing_that_moves_on_has_all_its_attempts_again() -> None:
    memory = MemoryStore(f"retry-{next(_numbers)}")
    for number in range(10):
        memory.put(f"k{number}", b"")
    # Each break comes after new keys: 2 attempts are enough for 3 breaks.

    class Moving(BreakingListStore):
        def list(self, prefix: str = ""):
            self.after += 2
            yield from super().list(prefix)

    inner = Moving(memory, 0, *[Timeout("late")] * 3)
    store = RetryStore(inner, _Time().policy(max_attempts=2), Counters())
    assert len(list(store.list())) == 10


def test_a_listing_that_never_moves_on_gives_up() -> None:
    memory = MemoryStore(f"retry-{next(_numbers)}")
    memory.put("k", b"")
    inner = BreakingListStore(memory, 0, *[Timeout("late")] * 9)
    store = RetryStore(inner, _Time().policy(max_attempts=3), Counters())
    with pytest.raises(Timeout, match=r"3 attempts .*list memory://"):
        list(store.list())
