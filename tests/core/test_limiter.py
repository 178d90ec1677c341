"""The concurrency limit that is learned from latency."""

from __future__ import annotations

import heapq
from dataclasses import FrozenInstanceError
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fivestage.core.limiter import ConcurrencyLimiter, LimiterPolicy

FAST_S, SLOW_S = 0.02, 0.2
PACE_S = 1 / 32
"""Ten samples at this pace are one window, and binary floating point has it exactly."""


class Windows:
    """Feeds whole windows to a limiter."""

    def __init__(self, policy: LimiterPolicy) -> None:
        self.limiter = ConcurrencyLimiter(policy)
        self.now = 1000.0

    def feed(self, rtt_s: float, *, in_flight: int | None = None, drops: int = 0, count: int = 1) -> int:
        """Feed windows of ten samples, *drops* of them dropped; in flight is the limit if not said."""
        for _ in range(count):
            concurrency = self.limiter.limit if in_flight is None else in_flight
            for sample in range(10):
                dropped = sample < drops
                self.limiter.record(self.now, rtt_s=rtt_s, in_flight=concurrency, dropped=dropped)
                self.now += PACE_S
        return self.limiter.limit


class Dependency:
    """A closed loop in which the limit is always used up, against a dependency.

    With a *capacity* it serves so many at a time, first come first served: what takes longer is queueing.
    """

    def __init__(self, policy: LimiterPolicy, *, capacity: int | None = None, noise: float = 0.0) -> None:
        self.limiter = ConcurrencyLimiter(policy)
        self.now = 0.0
        self._noise = noise
        self._random = Random(7)  # noqa: S311
        self._servers = None if capacity is None else [0.0] * capacity
        self._under_way: list[tuple[float, float]] = []

    def run(self, until: float, rtt_s: float, users: int = 10**6) -> list[int]:
        """Serve in *rtt_s* until then; return the limits seen once a second."""
        seen = []
        while self.now < until:
            while len(self._under_way) < min(self.limiter.limit, users):
                self._start(rtt_s * self._random.uniform(1 - self._noise, 1 + self._noise))
            second = int(self.now)
            self._end_one()
            if int(self.now) > second:
                seen.append(self.limiter.limit)
        return seen

    def _start(self, service_s: float) -> None:
        begun = self.now
        if self._servers is not None:
            begun = max(begun, heapq.heappop(self._servers))
            heapq.heappush(self._servers, begun + service_s)
        heapq.heappush(self._under_way, (begun + service_s, self.now))

    def _end_one(self) -> None:
        in_flight = len(self._under_way)
        self.now, arrived = heapq.heappop(self._under_way)
        self.limiter.record(self.now, rtt_s=self.now - arrived, in_flight=in_flight)


# The policy


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"max_limit": 0}, "at least 1"),
        ({"min_limit": 0}, "at least 1"),
        ({"initial": 3}, "initial is 3, not in 4..100"),
        ({"initial": 101}, "initial is 101, not in 4..100"),
        ({"tolerance": 0.9}, "tolerance"),
        ({"tolerance": float("inf")}, "tolerance"),
        ({"tolerance": float("nan")}, "tolerance"),
        ({"smoothing": 0.0}, "smoothing"),
        ({"smoothing": 1.1}, "smoothing"),
        ({"long_window": 0}, "long_window"),
        ({"window_samples": 0}, "window_samples"),
        ({"window_s": -0.1}, "window_s"),
        ({"window_s": float("inf")}, "window_s"),
        ({"drop_share": 0.0}, "drop_share"),
        ({"drop_share": 1.1}, "drop_share"),
        ({"backoff": 0.0}, "backoff"),
        ({"backoff": 1.0}, "backoff"),
    ],
)
def test_senseless_policies_are_refused(change: dict[str, Any], complaint: str) -> None:
    """A policy that could not work cannot be made, and says why."""
    with pytest.raises(ValueError, match=complaint):
        LimiterPolicy(**{"max_limit": 100, **change})


def test_policies_at_the_edge() -> None:
    """The smallest and the greatest values allowed make a limiter that works."""
    lowest = LimiterPolicy(
        1, 1, 1, tolerance=1.0, smoothing=1.0, long_window=1, window_s=0.0, window_samples=1, drop_share=1.0
    )
    assert Windows(lowest).feed(FAST_S, count=3) == 1


@pytest.mark.parametrize(
    ("max_limit", "initial", "min_limit", "start"), [(100, None, 4, 100), (3, None, 3, 3), (100, 4, 4, 4)]
)
def test_where_the_limit_begins(max_limit: int, initial: int | None, min_limit: int, start: int) -> None:
    """It begins at the maximum if not told otherwise, and the minimum is never above the maximum."""
    policy = LimiterPolicy(max_limit, initial=initial)
    assert (policy.min_limit, policy.start, ConcurrencyLimiter(policy).limit) == (min_limit, start, start)


def test_a_policy_is_frozen() -> None:
    """What was validated stays as it is."""
    with pytest.raises(FrozenInstanceError):
        LimiterPolicy(10).max_limit = 0  # type: ignore[misc]


# Windows


def test_a_window_needs_both_time_and_samples() -> None:
    """Many samples in a moment change nothing, nor do few in a long time: both are needed."""
    limiter = ConcurrencyLimiter(LimiterPolicy(100))
    for _ in range(1000):
        limiter.record(5.0, rtt_s=0.3, in_flight=100, dropped=True)
    limiter.record(5.2, rtt_s=0.3, in_flight=100, dropped=True)
    assert limiter.limit == 100
    limiter.record(5.25, rtt_s=0.3, in_flight=100, dropped=True)
    assert limiter.limit == 90
    for sample in range(9):
        limiter.record(60.0 + sample, rtt_s=0.3, in_flight=100, dropped=True)
    assert limiter.limit == 90
    limiter.record(69.0, rtt_s=0.3, in_flight=100, dropped=True)
    assert limiter.limit == 81


def test_a_window_begins_with_its_first_sample() -> None:
    """Idle time before a burst does not count as time of the burst's window."""
    limiter = ConcurrencyLimiter(LimiterPolicy(100))
    for now in (0.0, 100.0):
        for sample in range(10):
            limiter.record(now + sample * PACE_S, rtt_s=0.3, in_flight=100, dropped=True)
    for _ in range(100):
        limiter.record(500.0, rtt_s=0.3, in_flight=100, dropped=True)
    assert limiter.limit == 81


@pytest.mark.parametrize(
    ("rtt_s", "expected"),
    [
        pytest.param(0.02, 100, id="as always: no more than the maximum"),
        pytest.param(0.03, 100, id="within the tolerance"),
        pytest.param(0.04, 97, id="twice the normal: 100 * 0.8 + (100 * 0.753 + 10) * 0.2"),
        pytest.param(0.05, 94, id="2.5 times: 100 * 0.8 + (100 * 0.603 + 10) * 0.2"),
        pytest.param(0.2, 92, id="ten times, cut at half: 100 * 0.8 + (100 * 0.5 + 10) * 0.2"),
        pytest.param(20.0, 92, id="a thousand times, likewise"),
    ],
)
def test_what_one_window_does(rtt_s: float, expected: int) -> None:
    """The formula, and that one slow window, however slow, takes less than a tenth."""
    windows = Windows(LimiterPolicy(100))
    windows.feed(FAST_S, count=10)
    assert windows.feed(rtt_s) == expected


@pytest.mark.parametrize(("limit", "grown"), [(4, [4, 4, 5]), (100, [102, 104, 106]), (400, [404, 408, 412])])
def test_growth_by_the_square_root(limit: int, grown: list[int]) -> None:
    """While latency is normal each window adds a fifth of the square root: large limits grow faster."""
    windows = Windows(LimiterPolicy(1000, initial=limit))
    assert [windows.feed(FAST_S) for _ in range(3)] == grown


@pytest.mark.parametrize(("in_flight", "expected"), [(49, 100), (50, 102)])
def test_no_growth_while_half_empty(in_flight: int, expected: int) -> None:
    """That few are fast says nothing about more: the limit grows only when half of it was in use."""
    windows = Windows(LimiterPolicy(200, initial=100))
    assert windows.feed(FAST_S, in_flight=in_flight) == expected


def test_the_highest_concurrency_of_a_window_counts() -> None:
    """One moment in which half of the limit was in use is enough for growth."""
    limiter = ConcurrencyLimiter(LimiterPolicy(200, initial=100))
    for sample in range(10):
        limiter.record(sample * PACE_S, rtt_s=FAST_S, in_flight=50 if sample == 3 else 1)
    assert limiter.limit == 102


def test_half_empty_may_shrink() -> None:
    """What is slow with few is no reason to allow many."""
    windows = Windows(LimiterPolicy(200, initial=100))
    windows.feed(FAST_S, in_flight=10, count=10)
    assert windows.feed(SLOW_S, in_flight=10) == 92


# Drops


@pytest.mark.parametrize(("drops", "expected"), [(0, 102), (1, 102), (2, 90), (10, 90)])
def test_a_share_of_drops_backs_off(drops: int, expected: int) -> None:
    """With a share of 0.2 one timeout among ten is chance and two are load: the limit times 0.9."""
    windows = Windows(LimiterPolicy(200, initial=100, drop_share=0.2))
    assert windows.feed(FAST_S, drops=drops) == expected


def test_drops_do_not_count_as_latency() -> None:
    """The time after which somebody gave up is not how long it takes."""
    windows = Windows(LimiterPolicy(100, drop_share=0.5))
    windows.feed(FAST_S, count=10)
    for sample in range(10):
        dropped, now = sample < 3, windows.now + sample * PACE_S
        rtt_s = 30.0 if dropped else FAST_S
        windows.limiter.record(now, rtt_s=rtt_s, in_flight=100, dropped=dropped)
    assert windows.limiter.limit == 100
    assert "rtt=20.0 ms normal=20.0 ms" in repr(windows.limiter)


def test_survivors_are_not_learned_from() -> None:
    """Latency of a window that backs off is that of the lucky ones: it does not become normal."""
    windows = Windows(LimiterPolicy(100))
    windows.feed(FAST_S, count=10)
    windows.feed(SLOW_S, drops=5, count=300)
    assert "normal=20.0 ms at 100" in repr(windows.limiter)
    assert windows.limiter.limit == 4


def test_the_limit_comes_back_from_drops() -> None:
    """After an outage in which everything timed out the limit grows from the minimum to the maximum."""
    windows = Windows(LimiterPolicy(256))
    windows.feed(FAST_S, count=10)
    assert windows.feed(0.3, drops=10, count=50) == 4
    assert windows.feed(FAST_S, count=145) == 256


# The loop


def test_a_slow_dependency_and_its_recovery() -> None:
    """20 ms, 200 ms, 20 ms: the limit falls to half in seconds, far below with time, and comes back."""
    loop = Dependency(LimiterPolicy(64))
    assert set(loop.run(10, FAST_S)) == {64}
    slow = loop.run(20, SLOW_S)
    assert slow[4] <= 32
    assert slow[-1] <= 16
    assert slow == sorted(slow, reverse=True)
    fast = loop.run(35, FAST_S)
    assert fast == sorted(fast)
    assert fast[-1] >= 60


def test_a_dependency_that_stays_slow_becomes_normal() -> None:
    """Latency that does not fall with the limit is not our doing: in minutes the limit is back."""
    loop = Dependency(LimiterPolicy(64))
    loop.run(10, FAST_S)
    assert loop.run(60, SLOW_S)[-1] == 4
    assert loop.run(200, SLOW_S)[-1] == 64


@pytest.mark.parametrize("initial", [4, 10])
@pytest.mark.parametrize("capacity", [10, 40])
def test_a_queue_is_kept_short_for_good(capacity: int, initial: int) -> None:
    """Against a dependency for so many at a time the limit settles near twice that, and does not creep."""
    loop = Dependency(LimiterPolicy(1000, initial=initial), capacity=capacity, noise=0.3)
    loop.run(30, 2 * FAST_S)
    settled = loop.run(120, 2 * FAST_S)
    assert capacity < min(settled)
    assert max(settled) <= 2.5 * capacity
    assert max(settled) - min(settled) <= 0.15 * capacity


def test_no_creep_in_an_hour() -> None:
    """Where latency is 20 ms up to 20 in flight and grows with them, an hour of overload changes nothing."""
    windows = Windows(LimiterPolicy(1000, initial=4))
    seen = [windows.feed(FAST_S * max(1.0, windows.limiter.limit / 20)) for _ in range(4 * 3600)]
    assert 30 <= min(seen[300:]) <= max(seen) <= 45


def test_overload_from_the_maximum() -> None:
    """Once it knows what is normal, the limit comes down from the maximum when a surge begins."""
    loop = Dependency(LimiterPolicy(200), capacity=10, noise=0.3)
    assert loop.run(5, FAST_S, users=8)[-1] == 200
    assert max(loop.run(30, FAST_S)[10:]) <= 25


def test_ebb_and_flood() -> None:
    """Overload that comes and goes does not ratchet the limit up."""
    loop = Dependency(LimiterPolicy(200, initial=10), capacity=10, noise=0.3)
    for _ in range(6):
        surge = loop.run(loop.now + 15, FAST_S)
        loop.run(loop.now + 15, FAST_S, users=5)
        assert max(surge[8:]) <= 25


@pytest.mark.parametrize("seed", range(5))
def test_noise_of_windows_is_no_load(seed: int) -> None:
    """Windows that differ by up to 30 % either way leave the limit at the maximum."""
    windows = Windows(LimiterPolicy(256))
    random = Random(seed)  # noqa: S311
    assert {windows.feed(FAST_S * random.uniform(0.7, 1.3)) for _ in range(3000)} == {256}


def test_noise_of_samples_is_no_load() -> None:
    """Nor do single samples that differ by that."""
    assert set(Dependency(LimiterPolicy(32), noise=0.3).run(60, FAST_S)) == {32}


@pytest.mark.parametrize("at", [0, 1, 5, 9, 10, 100])
def test_one_slow_window_is_forgotten(at: int) -> None:
    """One window fifty times slower, also the first of all, costs a tenth and is made good at once."""
    windows = Windows(LimiterPolicy(256))
    windows.feed(FAST_S, count=at)
    assert windows.feed(50 * FAST_S) >= 230
    assert windows.feed(FAST_S, count=10) == 256


def test_a_slow_start_does_not_blind() -> None:
    """Where the first windows were slow, the baseline comes down in seconds and sees a later overload."""
    windows = Windows(LimiterPolicy(100))
    windows.feed(SLOW_S, count=10)
    windows.feed(FAST_S, count=60)
    assert windows.feed(SLOW_S, count=12) <= 50


def test_a_baseline_of_busy_times_does_not_permit_a_queue_later() -> None:
    """When latency recovers under little load, the baseline is that of little load, and a queue is seen."""
    windows = Windows(LimiterPolicy(256))
    windows.feed(SLOW_S, count=1000)
    windows.feed(FAST_S, in_flight=5, count=60)
    for _ in range(200):
        windows.feed(FAST_S * max(1.0, windows.limiter.limit / 20))
    assert windows.limiter.limit <= 80


@pytest.mark.parametrize(("rtt_s", "normal"), [(0.024, "23.9 ms at 98"), (0.026, "20.0 ms at 10")])
def test_what_is_learned_at_a_higher_concurrency(rtt_s: float, normal: str) -> None:
    """A little slower with more in flight is how it is, a quarter slower may be our own queue."""
    windows = Windows(LimiterPolicy(100))
    windows.feed(FAST_S, in_flight=10, count=10)
    windows.feed(rtt_s, in_flight=100, count=1100)
    assert f"normal={normal}" in repr(windows.limiter)


def test_nothing_is_faster_than_the_clock() -> None:
    """No time at all divides by nothing, and a tenth of a microsecond is not ten times one of ten ns."""
    windows = Windows(LimiterPolicy(100))
    windows.feed(0.0, count=10)
    windows.feed(1e-8, count=10)
    assert windows.feed(1e-7, count=100) == 100


@given(
    sizes=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    samples=st.lists(
        st.tuples(st.floats(0, 1), st.floats(0, 1e3), st.integers(0, 10**6), st.booleans()), max_size=100
    ),
)
def test_the_limit_stays_within_its_bounds(
    sizes: tuple[int, int], samples: list[tuple[float, float, int, bool]]
) -> None:
    """Whatever is recorded, the limit is one the policy allows."""
    policy = LimiterPolicy(max_limit=sizes[0], min_limit=sizes[1], window_s=0.5, window_samples=3)
    limiter, now = ConcurrencyLimiter(policy), 0.0
    for pause_s, rtt_s, in_flight, dropped in samples:
        now += pause_s
        limiter.record(now, rtt_s=rtt_s, in_flight=in_flight, dropped=dropped)
        assert policy.min_limit <= limiter.limit <= policy.max_limit


def test_repr() -> None:
    """It shows where the limit is and why."""
    windows = Windows(LimiterPolicy(100))
    windows.feed(FAST_S, count=10)
    windows.feed(SLOW_S)
    assert repr(windows.limiter) == (
        "<ConcurrencyLimiter limit=92 in 4..100 rtt=200.0 ms normal=20.6 ms at 100>"
    )
