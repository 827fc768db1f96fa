"""Streams of bytes through the wrappers: resumed, raced, metered, and given up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from dataplane.errors import Denied, ObjectChanged, StoreError, Throttled
from dataplane.stores.clients.memory import MemoryStore
from dataplane.stores.forwarder import StoreWrapper
from dataplane.stores.policy import hedged_stream
from dataplane.stores.policy.hedge import HedgeStore
from dataplane.stores.policy.hedge_threshold import HedgeThreshold
from dataplane.stores.policy.limit import LimitStore
from dataplane.stores.policy.metrics import MetricsStore
from dataplane.stores.policy.retry import RetryPolicy, RetryStore
from dataplane.telemetry import Counters
from tests.cache.fakes import wait_until
from tests.stores.inside import (
    FIRST_PIECE,
    NEXT_PIECE,
    ended_streams,
    set_threshold,
    threshold_of,
)

CONTENT = bytes(range(200))
PIECE = 20


class Scripted(StoreWrapper):
    """Streams in pieces; what is planned for a position happens before its piece, once."""

    def __init__(self) -> None:
        super().__init__(MemoryStore("streams", ""))
        self._inner.put("a", CONTENT)
        self.acts: dict[int, Callable[[], object]] = {}
        self.begun: list[int] = []
        self.ended: list[int] = []
        self._lock = threading.Lock()

    def stream_range(self, key, start, stop, *, piece_bytes, if_match=None) -> Iterator[bytes]:
        self.begun.append(start)
        position = start
        try:
            for position in range(start, stop, PIECE):
                with self._lock:
                    act = self.acts.pop(position, None)
                if act is not None:
                    act()
                yield bytes(CONTENT[position : min(position + PIECE, stop)])
            position = stop
        finally:
            self.ended.append(position)


def _raise(err: Exception) -> Callable[[], None]:
    def act() -> None:
        raise err

    return act


def _read(store, start=0, stop=200, if_match='"e"') -> bytes:
    pieces = store.stream_range("a", start, stop, piece_bytes=PIECE, if_match=if_match)
    return b"".join(map(bytes, pieces))


@pytest.fixture
def counters() -> Counters:
    return Counters()


@pytest.fixture
def scripted() -> Scripted:
    return Scripted()


@pytest.fixture
def stall():
    over = threading.Event()
    yield lambda: over.wait(30)
    over.set()


def _retrying(inner, counters, attempts=3) -> RetryStore:
    policy = RetryPolicy(attempts, 60.0, sleep=lambda _: None, uniform=lambda low, high: low)
    return RetryStore(inner, policy, counters)


def test_a_broken_stream_goes_on_behind_the_last_byte(scripted, counters) -> None:
    scripted.acts = {n: _raise(Throttled("slow down")) for n in (0, 60, 140)}
    assert _read(_retrying(scripted, counters)) == CONTENT
    assert scripted.begun == [0, 0, 60, 140]
    assert counters.snapshot() == {"store_retries": 3}


def test_attempts_are_counted_from_the_last_progress(scripted, counters) -> None:
    scripted.acts = {n: _raise(Throttled("slow down")) for n in range(0, 200, PIECE)}
    assert _read(_retrying(scripted, counters, attempts=2)) == CONTENT
    assert counters["store_retries"] == 10


def test_a_stream_that_makes_no_progress_is_given_up(scripted, counters) -> None:
    class Stuck(Scripted):
        def stream_range(self, key, start, stop, *, piece_bytes, if_match=None):
            if start >= 40:
                raise Throttled("slow down")
            yield from super().stream_range(
                key, start, 40, piece_bytes=piece_bytes, if_match=if_match
            )
            raise Throttled("slow down")

    with pytest.raises(Throttled, match=r"gave up after 3 attempts.*read \[40, 200\)"):
        _read(_retrying(Stuck(), counters))


def test_what_cannot_be_tried_again_is_raised(scripted, counters) -> None:
    scripted.acts = {40: _raise(ObjectChanged("replaced"))}
    with pytest.raises(ObjectChanged):
        _read(_retrying(scripted, counters))
    assert counters.snapshot() == {}


def test_without_a_version_a_broken_stream_is_not_resumed(scripted, counters) -> None:
    scripted.acts = {0: _raise(Throttled("slow down")), 40: _raise(Throttled("slow down"))}
    with pytest.raises(Throttled):
        _read(_retrying(scripted, counters), if_match=None)
    assert scripted.begun == [0, 0]


def test_closing_reaches_the_store_and_gives_the_place_back(scripted, counters) -> None:
    metered = MetricsStore(scripted, counters)
    store = _retrying(LimitStore(metered, 1, counters), counters)
    for _ in range(3):
        stream = store.stream_range("a", 0, 200, piece_bytes=PIECE, if_match='"e"')
        next(stream)
        stream.close()
    assert scripted.ended == [0, 0, 0]
    assert counters["store_get_requests"] == 3
    assert counters["store_get_bytes"] == 3 * PIECE
    assert _read(store) == CONTENT


def test_the_meter_counts_what_arrived(scripted, counters) -> None:
    scripted.acts = {60: _raise(Denied("no"))}
    with pytest.raises(Denied):
        _read(MetricsStore(scripted, counters))
    assert counters["store_get_bytes"] == 60
    assert counters["store_errors_denied"] == 1


class ByHand(HedgeThreshold):
    """Only one piece of a stream can be late, so that a thread that is held up changes nothing."""

    def __init__(self) -> None:
        super().__init__(30.0)
        self.late_piece: int | None = None
        self._looks = -1  # the first is whether anything is known

    def late_after_s(self, kind: int) -> float:
        self._looks += 1
        return 0.01 if self._looks - 1 == self.late_piece else 30.0


@pytest.fixture
def by_hand() -> ByHand:
    return ByHand()


@pytest.fixture
def hedged(scripted, counters, by_hand) -> HedgeStore:
    """Knows what is late."""
    store = HedgeStore(scripted, 30.0, counters)
    set_threshold(store, by_hand)
    return store


@pytest.fixture
def ended(monkeypatch) -> list[object]:
    """The streams that have said all they had to say."""
    return ended_streams(monkeypatch)


def test_streams_teach_what_is_late(scripted, counters) -> None:
    store = HedgeStore(scripted, 30.0, counters)
    for _ in range(64):
        assert threshold_of(store).late_after_s(FIRST_PIECE) is None
        assert _read(store) == CONTENT
    assert threshold_of(store).late_after_s(FIRST_PIECE) == 30.0
    assert threshold_of(store).late_after_s(NEXT_PIECE) == 30.0


@pytest.mark.parametrize("position", [0, 20, 100, 180])
def test_a_stall_is_gone_around(hedged, by_hand, scripted, counters, stall, position) -> None:
    scripted.acts = {position: stall}
    by_hand.late_piece = position // PIECE
    begun_s = time.perf_counter()
    assert _read(hedged) == CONTENT
    assert time.perf_counter() - begun_s < 20
    assert scripted.begun == [0, position]
    assert counters.snapshot() == {"store_hedges": 1, "store_hedges_won": 1}


def test_a_stream_that_lost_is_closed(hedged, by_hand, scripted) -> None:
    go = threading.Event()
    scripted.acts = {100: lambda: go.wait(30)}
    by_hand.late_piece = 5
    assert _read(hedged) == CONTENT
    go.set()
    wait_until(lambda: len(scripted.ended) == 2)
    assert sorted(scripted.ended) == [100, 200]


def test_the_first_stream_goes_on_when_it_is_the_faster(
    hedged, by_hand, scripted, counters
) -> None:
    again = threading.Event()

    def late() -> None:
        scripted.acts[100] = lambda: again.wait(30)
        wait_until(lambda: len(scripted.begun) == 2)

    scripted.acts = {100: late}
    by_hand.late_piece = 5
    assert _read(hedged) == CONTENT
    again.set()
    assert counters.snapshot() == {"store_hedges": 1}
    wait_until(lambda: len(scripted.ended) == 2)


def test_an_error_of_one_leaves_the_rest_to_the_other(
    hedged, by_hand, scripted, counters, ended
) -> None:
    def late() -> None:
        scripted.acts[100] = _raise(StoreError("refused"))
        wait_until(lambda: ended)

    scripted.acts = {100: late}
    by_hand.late_piece = 5
    assert _read(hedged) == CONTENT
    assert counters.snapshot() == {"store_hedges": 1}


def test_when_both_fail_the_last_error_is_raised(hedged, by_hand, scripted, ended) -> None:
    def late() -> None:
        scripted.acts[100] = _raise(StoreError("second"))
        wait_until(lambda: ended)
        raise StoreError("first")

    scripted.acts = {100: late}
    by_hand.late_piece = 5
    with pytest.raises(StoreError, match="first"):
        _read(hedged)


def test_a_consumer_that_stops_ends_the_stream(hedged, scripted) -> None:
    stream = hedged.stream_range("a", 0, 200, piece_bytes=PIECE)
    assert bytes(next(stream)) == CONTENT[:PIECE]
    stream.close()
    wait_until(lambda: scripted.ended)
    assert scripted.ended[0] <= 4 * PIECE  # it runs a few pieces ahead


def test_a_slow_consumer_holds_the_stream_back(hedged, scripted) -> None:
    stream = hedged.stream_range("a", 0, 200, piece_bytes=PIECE)
    reached: list[int] = []
    scripted.acts = {n: lambda n=n: reached.append(n) for n in range(0, 200, PIECE)}
    next(stream)
    time.sleep(0.2)
    assert max(reached) <= 4 * PIECE
    assert sum(len(piece) for piece in stream) == 180


def test_without_free_threads_the_consumer_reads_itself(hedged, monkeypatch) -> None:
    busy = type("Busy", (), {"run": lambda self, call: None})()
    monkeypatch.setattr(hedged_stream, "shared_daemon_pool", lambda: busy)
    assert _read(hedged) == CONTENT


def test_many_streams_at_once_are_right(hedged) -> None:
    results: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: results.extend(_read(hedged) for _ in range(50)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == [CONTENT] * 400
