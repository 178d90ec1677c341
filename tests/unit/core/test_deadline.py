"""Deadlines."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fivestage.core.deadline import Budget, budget_of, stage_grant
from fivestage.core.plan import Plan
from fivestage.core.routing_snapshot import StageRouting
from fivestage_schemas import StageType

NOW, WALL = 500.0, 1_750_000_000.0
"""A moment on the monotonic clock, and the same one on the wall clock."""


def at(seconds: float) -> datetime:
    """Return the wall-clock time this many seconds after WALL."""
    return datetime.fromtimestamp(WALL + seconds, UTC)


def granted(**bounds: Any) -> Budget:
    """Return the budget at NOW out of a total of 250 ms."""
    return budget_of(now=NOW, wall_now=WALL, total_s=0.25, **bounds)


@pytest.mark.parametrize(
    ("bounds", "granted_s", "of_use_ms"),
    [
        pytest.param({}, 0.25, None, id="nothing but the total"),
        pytest.param({"budget_ms": 100}, 0.1, None, id="the producer's budget"),
        pytest.param({"budget_ms": 9999}, 0.25, None, id="a budget never lengthens the total"),
        pytest.param({"deadline": at(0.125)}, 0.125, 125, id="the query's deadline"),
        pytest.param({"expiry_time": at(0.125)}, 0.125, 125, id="the header's expiry"),
        pytest.param({"deadline": at(60)}, 0.25, 60_000, id="a far deadline never lengthens the total"),
        pytest.param(
            {"deadline": at(0.2), "expiry_time": at(0.1)}, 0.1, 100, id="the earlier of two: expiry"
        ),
        pytest.param(
            {"deadline": at(0.1), "expiry_time": at(0.2)}, 0.1, 100, id="the earlier of two: deadline"
        ),
        pytest.param({"deadline": at(0.2), "budget_ms": 50}, 0.05, 200, id="budget before deadline"),
        pytest.param({"written_at": WALL - 0.9, "ttl_ms": 1000}, 0.1, 1000, id="time to live since written"),
        pytest.param({"written_at": WALL - 0.9}, 0.25, None, id="no time to live, no age limit"),
        pytest.param({"ttl_ms": 1000}, 0.25, None, id="no timestamp, no age limit"),
        pytest.param(
            {"written_at": WALL - 0.9, "ttl_ms": 1000, "deadline": at(0.05)},
            0.05,
            950,
            id="deadline before ttl",
        ),
        pytest.param(
            {"written_at": WALL + 30, "ttl_ms": 100}, 0.1, 100, id="written in the future: as if now"
        ),
        pytest.param({"deadline": at(0)}, 0.0, 0, id="expires now"),
        pytest.param({"deadline": at(-3600)}, -3600, 0, id="expired long ago"),
        pytest.param({"written_at": WALL - 5, "ttl_ms": 1000}, -4, 1000, id="older than its time to live"),
        pytest.param({"written_at": WALL, "deadline": at(-1)}, -1, 0, id="expired before it was written"),
    ],
)
def test_the_earliest_bound_counts(bounds: dict[str, Any], granted_s: float, of_use_ms: float | None) -> None:
    """The earliest bound wins, alone and combined; a ttl counts from the record's timestamp."""
    budget = granted(**bounds)
    assert budget.granted_s == pytest.approx(granted_s, abs=1e-5)
    assert budget.ends_at == pytest.approx(NOW + granted_s, abs=1e-5)
    assert budget.expired is (granted_s <= 0)
    assert budget.of_use_ms == (None if of_use_ms is None else pytest.approx(of_use_ms, abs=0.01))


@pytest.mark.parametrize(("granted_s", "expired"), [(1e-9, False), (0.0, True), (-1e-9, True)])
def test_expired_means_nothing_left(granted_s: float, *, expired: bool) -> None:
    """Zero remaining time is expired, any positive time is not."""
    assert Budget(NOW + granted_s, granted_s, 0.25).expired is expired


@pytest.mark.parametrize("waited_s", [0.0, 0.05, 0.15, 0.3])
def test_waiting_costs_only_queries_with_a_deadline(waited_s: float) -> None:
    """A query that starts later has its whole budget from then on, but not beyond its absolute deadline."""
    free, due = granted(budget_ms=100), granted(budget_ms=100, deadline=at(0.2))
    started = NOW + waited_s
    assert free.started(started)[:2] == (started + 0.1, 0.1)
    assert due.started(started).granted_s == pytest.approx(min(0.1, 0.2 - waited_s), abs=1e-5)
    assert due.started(started).ends_at == pytest.approx(min(started + 0.1, NOW + 0.2), abs=1e-5)
    assert due.started(started).of_use_ms == due.of_use_ms


@given(now=st.floats(0, 1e6), wall_now=st.floats(1.6e9, 1.9e9), left_s=st.floats(-1e-6, 0.0))
def test_an_expired_query_stays_expired(now: float, wall_now: float, left_s: float) -> None:
    """A query that had expired when it was read is expired when it starts, despite clock rounding."""
    deadline = datetime.fromtimestamp(wall_now + left_s, UTC)
    budget = budget_of(now=now, wall_now=wall_now, total_s=0.25, deadline=deadline)
    assert budget.started(now).expired or not budget.expired


moments = st.none() | st.floats(-1e6, 1e6).map(at)


@given(
    budget_ms=st.none() | st.integers(1, 10**9),
    deadline=moments,
    expiry_time=moments,
    written_at=st.none() | st.floats(WALL - 1e6, WALL + 1e6),
    ttl_ms=st.integers(0, 10**9),
)
def test_no_bound_lengthens_another(
    budget_ms: int | None,
    deadline: datetime | None,
    expiry_time: datetime | None,
    written_at: float | None,
    ttl_ms: int,
) -> None:
    """Any combination of bounds gives the smallest of the budgets that each one gives."""
    alone = [
        granted(budget_ms=budget_ms),
        granted(deadline=deadline),
        granted(expiry_time=expiry_time),
        granted(written_at=written_at, ttl_ms=ttl_ms),
    ]
    budget = granted(
        budget_ms=budget_ms,
        deadline=deadline,
        expiry_time=expiry_time,
        written_at=written_at,
        ttl_ms=ttl_ms,
    )
    assert budget.granted_s == min(one.granted_s for one in alone)
    assert budget.granted_s <= 0.25
    assert budget.ends_at == NOW + budget.granted_s
    assert budget.of_use_ms is None or budget.of_use_ms >= 0


@pytest.mark.fault(19)
@given(skew_s=st.floats(-1e7, 1e7))
def test_wall_clock_does_not_move_relative_limits(skew_s: float) -> None:
    """A wrong wall clock does not change a query without an absolute deadline."""
    here = budget_of(now=NOW, wall_now=WALL, total_s=0.25, budget_ms=80)
    there = budget_of(now=NOW, wall_now=WALL + skew_s, total_s=0.25, budget_ms=80)
    assert here == there


@given(
    offset=st.sampled_from(["+00:00", "+14:00", "-12:00", "+05:45"]), year=st.sampled_from([1, 2025, 9999])
)
def test_extreme_dates_are_read(offset: str, year: int) -> None:
    """The first and the last year, in any offset, are an expired and an unlimited query."""
    budget = granted(deadline=datetime.fromisoformat(f"{year:04d}-06-15T12:00:00{offset}"))
    assert budget.expired is (year == 1 or budget.granted_s <= 0)
    assert budget.granted_s <= 0.25


INTENT = Plan.of().stages[0]


PROCESSING, VALIDATION = Plan.of().stages[2:4]


@pytest.mark.parametrize(
    ("left_s", "later_s", "granted_s"),
    [
        pytest.param(0.25, 0.0, 0.12, id="its limit leaves enough"),
        pytest.param(0.1, 0.0, 0.095, id="5 ms"),
        pytest.param(0.1, 0.003, 0.092, id="and what later stages usually take"),
        pytest.param(0.1, 0.05, 0.09, id="at most a tenth"),
        pytest.param(0.01, 0.0, 0.009, id="of little too"),
        pytest.param(0.0, 0.0, 0.0, id="nothing is left"),
        pytest.param(-1.0, 0.0, -1.0, id="less than nothing"),
    ],
)
def test_processing_leaves_time_to_check_an_offer(left_s: float, later_s: float, granted_s: float) -> None:
    """Only where the query allows partial answers, and only processing."""
    routing = StageRouting(0.12, later_s=later_s)
    got, _ = stage_grant(PROCESSING, routing, now=1.0, ends_at=1.0 + left_s, allow_partial=True)
    assert got == pytest.approx(granted_s)
    for spec, allowed in ((PROCESSING, False), (INTENT, True), (VALIDATION, True)):
        got, _ = stage_grant(spec, routing, now=1.0, ends_at=1.0 + left_s, allow_partial=allowed)
        assert got == pytest.approx(min(0.12, left_s))


def test_a_long_budget_leaves_more_time_to_check_an_offer() -> None:
    """2 % of the time left, where that is more than 5 ms."""
    for left_s, granted_s in ((0.25, 0.245), (1.0, 0.98), (10.0, 9.8)):
        routing = StageRouting(left_s)
        got, _ = stage_grant(PROCESSING, routing, now=1.0, ends_at=1.0 + left_s, allow_partial=True)
        assert got == pytest.approx(granted_s)


def advised(**known: float) -> StageRouting:
    """Build the routing data of a stage with a limit of 50 ms."""
    return StageRouting(**{"limit_s": 0.05, **known})


@pytest.mark.parametrize(
    ("left_s", "known", "granted_s"),
    [
        pytest.param(0.25, {}, 0.05, id="its limit"),
        pytest.param(0.03, {}, 0.03, id="what is left"),
        pytest.param(0.0, {}, 0.0, id="nothing"),
        pytest.param(-1.0, {}, -1.0, id="less than nothing"),
        pytest.param(0.25, {"reserve_s": 0.1}, 0.05, id="the reserve does not matter"),
        pytest.param(
            0.1, {"reserve_s": 0.06, "p95_s": 0.03}, 0.04, id="the reserve is kept for later stages"
        ),
        pytest.param(
            0.09, {"reserve_s": 0.09, "p95_s": 0.03}, 0.0225, id="too little for all: by their needs"
        ),
        pytest.param(0.12, {"reserve_s": 0.1}, 0.04, id="own need unknown: the limit stands for it"),
    ],
)
def test_a_critical_stage_leaves_later_ones_what_they_need(
    left_s: float, known: dict[str, float], granted_s: float
) -> None:
    """The stage limit is cut to leave later critical stages their known latencies."""
    assert INTENT.stage_type is StageType.INTENT
    seconds, refused = stage_grant(INTENT, advised(**known), now=NOW, ends_at=NOW + left_s)
    assert seconds == pytest.approx(granted_s, abs=1e-9)
    assert (refused is None) is (granted_s > 0)


@pytest.mark.parametrize(
    ("left_s", "known", "refused"),
    [
        pytest.param(0.25, {"p50_s": 0.03}, None, id="time enough"),
        pytest.param(0.0301, {"p50_s": 0.03}, None, id="just enough"),
        pytest.param(0.0204, {"p50_s": 0.0301}, "20 ms were left, it takes 30", id="too little"),
        pytest.param(0.05, {"p50_s": 0.03, "reserve_s": 0.03}, "20 ms were left, it takes 30", id="reserve"),
        pytest.param(0.001, {}, None, id="nothing is known: it may try"),
        pytest.param(0.0, {"p50_s": 0.03}, "no time left", id="nothing left"),
    ],
)
def test_a_non_critical_stage_without_enough_time_is_skipped(
    left_s: float, known: dict[str, float], refused: str | None
) -> None:
    """A non-critical stage with less than its usual time is skipped, and the reason has the figures."""
    assert not VALIDATION.critical
    assert stage_grant(VALIDATION, advised(**known), now=NOW, ends_at=NOW + left_s)[1] == refused
