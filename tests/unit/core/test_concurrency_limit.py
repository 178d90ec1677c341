"""The learned concurrency limit."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from math import exp
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fivestage.core.admission.concurrency_limit import QUIET_S, ConcurrencyLimiter, LimiterPolicy
from fivestage.core.admission.limit_report import REPORT_S

from .limited import SEED, Service

if TYPE_CHECKING:
    from random import Random

# The policy


@pytest.mark.parametrize(("max_limit", "min_limit"), [(100, 4), (3, 3), (1, 1)])
def test_the_limit_starts_at_the_maximum(max_limit: int, min_limit: int) -> None:
    """The limit starts at the maximum, and the minimum is never above it."""
    policy = LimiterPolicy(max_limit)
    assert (policy.min_limit, ConcurrencyLimiter(policy).limit) == (min_limit, max_limit)


def test_a_policy_is_frozen() -> None:
    """A policy is immutable."""
    with pytest.raises(FrozenInstanceError):
        LimiterPolicy(10).max_limit = 0  # type: ignore[misc]


# Latency independent of the limit


def constant(_random: Random, _now: float, _running: int) -> float:
    """200 ms."""
    return 0.2


def bimodal(random: Random, _now: float, _running: int) -> float:
    """A cache: 50 ms, and every 25th call a second."""
    return 1.0 if random.random() < 0.04 else 0.05


def exponential(random: Random, _now: float, _running: int) -> float:
    """200 ms."""
    return random.expovariate(5)


def lognormal(random: Random, _now: float, _running: int) -> float:
    """A median of 60 ms."""
    return random.lognormvariate(-2.8, 0.5)


def llm(random: Random, _now: float, _running: int) -> float:
    """A median of 1.6 s."""
    return random.lognormvariate(0.5, 0.5)


def heavy_tail(random: Random, _now: float, _running: int) -> float:
    """50 ms and more, with a mean of 150 ms."""
    return 0.05 * random.paretovariate(1.5)


def drifting(_random: Random, now: float, _running: int) -> float:
    """70 to 210 ms over 20 s."""
    return 0.07 * (1 + 2 * min(1.0, now / 20))


def pausing(_random: Random, now: float, _running: int) -> float:
    """150 ms, and every five seconds a pause of 300 ms."""
    return 0.15 + max(0.0, 0.3 - now % 5)


def warming_up(_random: Random, now: float, _running: int) -> float:
    """Half a second in the first three, then 150 ms."""
    return 0.5 if now < 3 else 0.15


def cold_cache(random: Random, now: float, _running: int) -> float:
    """500 ms, falling to 100 ms for more and more of the calls."""
    return 0.5 if random.random() < exp(-now / 4) else 0.1


def slow_lane(random: Random, now: float, _running: int) -> float:
    """100 ms, and from the fifth second on half a second for every fifth call."""
    return 0.5 if now > 5 and random.random() < 0.2 else 0.1


def hanging(random: Random, _now: float, _running: int) -> float:
    """50 ms, and three in ten hang."""
    return 60.0 if random.random() < 0.3 else 0.05


SHAPES = [
    (constant, 0.2),
    (bimodal, 0.09),
    (exponential, 0.2),
    (lognormal, 0.07),
    (llm, 1.87),
    (heavy_tail, 0.15),
    (drifting, 0.21),
    (pausing, 0.17),
    (warming_up, 0.5),
    (cold_cache, 0.5),
    (slow_lane, 0.18),
    (hanging, 0.11),
]
"""Each with its highest mean in seconds."""
NAMES = [f"{draw.__name__}, seed {SEED}" for draw, _ in SHAPES]


@pytest.mark.parametrize(("draw", "mean_s"), SHAPES[:-1], ids=NAMES[:-1])
def test_nothing_waits_where_capacity_allows(draw: Any, mean_s: float) -> None:
    """At two thirds of the maximum's capacity no query waits, from the start on, at any latency."""
    service = Service(draw, max_limit=128)
    service.run(20, 128 / mean_s * (0.25 if draw is pausing else 0.67))
    assert (service.waited, service.limit) == (0, 128)


@pytest.mark.parametrize(("draw", "mean_s"), SHAPES, ids=NAMES)
def test_overload_costs_no_goodput_where_latency_does_not_depend_on_it(draw: Any, mean_s: float) -> None:
    """In a minute at 150 % at most one answer in 200 is lost against a fixed limit."""
    rate, deadline_s = 1.5 * 64 / mean_s, 0.25 if draw is hanging else 10.0
    learned, fixed = (
        Service(draw, max_limit=64, adaptive=adaptive, deadline_s=deadline_s).run(60, rate)
        for adaptive in (True, False)
    )
    assert fixed.waited
    assert learned.answered >= 0.995 * fixed.answered


@pytest.mark.parametrize("backlog", [0, 1000])
def test_a_backlog_at_the_start_does_not_lower_the_limit(backlog: int) -> None:
    """A node of 1.6 s that starts with a backlog runs at the maximum from the start."""
    service = Service(llm, max_limit=256).run(30, 150, backlog=backlog)
    assert [limit for _, limit in service.limits] == [256]


# Latency that depends on the limit


def fast(_random: Random, _now: float, _running: int) -> float:
    """20 ms."""
    return 0.02


def thrashing(_random: Random, _now: float, running: int) -> float:
    """A database of 5 ms with its best throughput at 16 concurrent calls."""
    return 0.005 * (1 + (running / 16) ** 2)


OVERLOADS = [
    pytest.param(fast, 16, 1200, 0, id="16 slots"),
    pytest.param(fast, 16, 1200, 2000, id="16 slots, backlog"),
    pytest.param(thrashing, None, 2400, 0, id="thrashing"),
    pytest.param(thrashing, None, 2400, 2000, id="thrashing, backlog"),
]


@pytest.mark.parametrize(("draw", "slots", "rate", "backlog"), OVERLOADS)
def test_the_limit_falls_where_latency_rises_with_it(
    draw: Any, slots: int | None, rate: float, backlog: int
) -> None:
    """At 150 % the limit falls within 2 s, ends low, and many more answers are in time."""
    learned, fixed = (
        Service(draw, slots, adaptive=adaptive, deadline_s=0.25).run(10, rate, backlog=backlog)
        for adaptive in (True, False)
    )
    assert learned.limits[1][0] < 2
    assert learned.limits[1][1] <= 128
    assert learned.limit <= 128
    assert learned.answered > 2 * fixed.answered
    assert learned.changes[0].change == "lowered"


def test_overload_after_ordinary_load() -> None:
    """In a surge after normal load the limit is low within 2 s, and latency near normal."""
    service = Service(fast, 16, deadline_s=0.25).run(5, 560)
    assert (service.limit, service.waited) == (256, 0)
    service.run(7, 1200)
    assert service.lowest(since=6) <= 64
    before = service.answered
    service.run(20, 1200)
    assert service.answered - before >= 0.95 * 800 * 13


def test_collapse_in_which_nothing_waits() -> None:
    """Where a queue inside the node makes most calls time out, the limit falls too."""
    learned, fixed = (
        Service(fast, 16, adaptive=adaptive, deadline_s=0.25).run(12, 920) for adaptive in (True, False)
    )
    assert learned.answered > 1.5 * fixed.answered


# Raising the limit


def test_a_limit_that_is_outdated_is_raised() -> None:
    """A node whose slots rise from 16 to 256 has no needless waits after 2 s."""
    service = Service(fast, 16, deadline_s=0.25).run(10, 1200)
    assert service.lowest(since=9) <= 64
    service.slots = 256
    service._waiting = 0
    service.run(12, 4000)
    before = service.waited
    service.run(14, 4000)
    assert (service.waited - before, service.limit > 80) == (0, True)


def test_a_limit_is_raised_where_latency_is_another() -> None:
    """16 slots become unlimited at 200 ms: the limit doubles, as goodput rises with it."""
    service = Service(fast, 16, deadline_s=0.25).run(4, 1200)
    assert service.lowest(since=3) <= 64
    service.slots, service.draw = None, constant
    service.run(8, 1200)
    assert service.limit > 240  # 1,200 a second of 200 ms


def test_quiet_times_restore_the_maximum() -> None:
    """After half a minute without waits the limit is the maximum when queries come again."""
    service = Service(fast, 16, deadline_s=0.25).run(4, 1200)
    assert service.limit <= 128
    service._waiting = 0
    service.run(service.now + QUIET_S + 3, 100)
    assert service.limit == 256
    assert service.changes[-1].why.endswith("-> 256: nothing waited for 30 s")


def stalled(_random: Random, now: float, _running: int) -> float:
    """50 ms, with a stall of two seconds."""
    return 0.05 + (7 - now if 5 < now < 7 else 0.0)


def test_a_stall_does_not_lower_the_limit() -> None:
    """After a stall of two seconds the limit returns to the maximum as soon as calls end."""
    stalled = lambda _random, now, _running: 0.05 + (7 - now if 5 < now < 7 else 0)  # noqa: E731
    learned, fixed = (
        Service(stalled, adaptive=adaptive, deadline_s=0.25).run(15, 4600) for adaptive in (True, False)
    )
    assert learned.answered >= 0.995 * fixed.answered
    assert learned.limit == 256


def test_a_trial_while_a_breaker_is_open() -> None:
    """Goodput that falls because a breaker is open is not attributed to the limit."""
    service = Service(fast, 16, deadline_s=0.25)
    while service.limit == 256:
        service.run(service.now + 0.1, 1200)
    lowered = service.limit
    service._waiting = 0
    service._arrives_at = 2.5
    service.run(5, 1200)
    assert service.lowest(since=2) <= lowered
    assert {change.change for change in service.changes} == {"lowered"}


# Reports


def test_changes_are_reported_with_their_figures() -> None:
    """Lowering and restoring report old limit, new limit and reason, at most once in ten seconds."""
    service = Service(fast, 16, deadline_s=0.25).run(4, 1200)
    first = service.changes[0]
    assert (first.control, first.change, first.lane, first.subject) == (
        "concurrency_limit",
        "lowered",
        "",
        "",
    )
    assert first.why == "256 -> 32: 475 of 475 timed out; 766 instead of 488 a second end in time"
    slower = Service(drifting, max_limit=64).run(60, 460)
    restored = [change for change in slower.changes if change.change == "restored"]
    assert restored
    assert "with fewer" in restored[0].why
    assert len(slower.changes) <= 60 / REPORT_S


def test_the_shown_state() -> None:
    """The state shows the limit, its bounds, and both latencies."""
    service = Service(constant).run(2, 100)
    assert repr(service.limiter) == (
        "<ConcurrencyLimiter limit=256 in 32..256 latency=200.0 ms normal=200.0 ms>"
    )
    assert repr(ConcurrencyLimiter(LimiterPolicy(8))) == (
        "<ConcurrencyLimiter limit=8 in 4..8 latency=0.0 ms normal=unknown>"
    )


# Arbitrary samples

samples = st.tuples(
    st.floats(0, 5), st.floats(0, 60), st.integers(1, 300), st.integers(1, 300), st.booleans(), st.booleans()
)


@given(st.integers(1, 300), st.integers(1, 300), st.lists(samples, max_size=200))
def test_the_limit_stays_in_its_bounds(
    max_limit: int, min_limit: int, seen: list[tuple[float, float, int, int, bool, bool]]
) -> None:
    """The limit stays between minimum and maximum for any samples."""
    policy = LimiterPolicy(max_limit, min_limit, window_s=0.5, window_samples=3)
    limiter, now = ConcurrencyLimiter(policy), 0.0
    for pause_s, latency_s, started_among, running, waiting, dropped in seen:
        now += pause_s
        limiter.started(now)
        limiter.record(
            now,
            latency_s=latency_s,
            started_among=started_among,
            running=running,
            waiting=waiting,
            dropped=dropped,
        )
        assert policy.min_limit <= limiter.limit <= policy.max_limit


def test_a_fixed_limit_learns_nothing() -> None:
    """With equal bounds nothing is learned and nothing reported."""
    service = Service(fast, 16, adaptive=False, deadline_s=0.25).run(4, 1200)
    assert (service.limit, service.changes) == (256, [])


def test_small_losses_do_not_add_up() -> None:
    """Where latency rises slightly less than concurrency, without timeouts, each lower limit is undone."""

    def nearly_proportional(rng: Random, _now: float, running: int) -> float:
        return float(0.004 * running**0.9 * rng.uniform(0.9, 1.1))

    rate = 1.5 * 256 / (0.004 * 256**0.9)
    answered = []
    for adaptive in (False, True):
        service = Service(nearly_proportional, adaptive=adaptive, deadline_s=10.0).run(60, rate)
        before = service.answered
        answered.append(service.run(180, rate).answered - before)
    assert answered[1] >= 0.99 * answered[0]
