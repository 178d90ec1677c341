"""Rolling counts, and what is computed from them."""

from __future__ import annotations

from typing import Any

import pytest

from fivestage.core.ledger import PartitionKey
from fivestage.observability.status.durations import bucket_of
from fivestage.observability.status.figures import MAX_NODES, OTHER, RECENT_SLOTS, SLOT_S, SLOTS, Figures
from fivestage.observability.status.lag import LagHistory
from fivestage.observability.status.summary import outcomes, percentiles, rates, series, windows
from fivestage_schemas import Outcome, TimeoutReason
from unit.core.samples import (
    ERROR,
    PROCESSING,
    STARTED_AT,
    SUCCESS,
    TIMEOUT,
    concluded,
    ended,
    history_of,
    run_of,
)

OBJECTIVE = 0.99


def count(
    figures: Figures, outcome: Any = SUCCESS, *, times: int = 1, lane: str = "prod", **fields: Any
) -> None:
    """Count queries whose processing ends so."""
    runs = [*ended([SUCCESS] * 2), run_of(PROCESSING, outcome, **{"node": "math", **fields})]
    if outcome is SUCCESS:
        runs += ended([SUCCESS] * 5)[3:]
    for _ in range(times):
        figures.concluded(lane, concluded(history_of(runs)))


def pass_slots(figures: Figures, slots: int) -> None:
    """Close slots."""
    for _ in range(slots):
        figures.close_slot(started_at=0.0, running=0, lag=0)


def test_windows_and_burn_rate() -> None:
    """The short window forgets after five minutes, the long one after an hour."""
    figures = Figures()
    assert [window["in_time"] for window in windows(figures, objective=OBJECTIVE)] == [None, None]
    count(figures, times=90)
    count(figures, TIMEOUT, times=10)
    short, long = windows(figures, objective=OBJECTIVE)
    assert (short["window_s"], long["window_s"]) == (300, 3600)
    assert (short["ended"], short["in_time"], short["burn_rate"]) == (100, 0.9, 10.0)
    pass_slots(figures, RECENT_SLOTS)
    count(figures, times=100)
    short, long = windows(figures, objective=OBJECTIVE)
    assert (short["in_time"], short["burn_rate"]) == (1.0, 0.0)
    assert (long["ended"], long["in_time"], long["burn_rate"]) == (200, 0.95, 5.0)
    pass_slots(figures, SLOTS)
    assert [window["ended"] for window in windows(figures, objective=OBJECTIVE)] == [0, 0]


def test_what_is_not_in_time() -> None:
    """Whatever is not answered, also an unreadable query with an id; a mere dead letter is no query."""
    figures = Figures()
    count(figures)
    count(figures, ERROR)
    count(figures, TIMEOUT)
    figures.unstarted(TimeoutReason.EXPIRED_BEFORE_START)
    figures.unstarted(TimeoutReason.WOULD_EXPIRE)
    figures.unreadable(answered=True)
    figures.unreadable(answered=False)
    assert windows(figures, objective=OBJECTIVE)[0]["ended"] == 6
    assert windows(figures, objective=OBJECTIVE)[0]["in_time"] == round(1 / 6, 6)
    found = rates(figures, SLOT_S, 3600)
    assert found == {
        "answered": 0.2, "timeouts": 0.2, "errors": 0.4, "expired": 0.2, "rejected": 0.2, "dead_letters": 0.4,
    }  # fmt: skip


def test_rates_are_those_of_the_last_minute() -> None:
    """A young service divides by its age, an older one by the minute."""
    figures = Figures()
    count(figures, times=20)
    assert rates(figures, 2.0, 2.0)["answered"] == 10.0
    pass_slots(figures, 11)
    assert rates(figures, SLOT_S, 60.0)["answered"] == pytest.approx(20 / 60, abs=0.01)
    pass_slots(figures, 1)
    assert rates(figures, 0.0, 65.0)["answered"] == 0


def test_stages_and_nodes() -> None:
    """Shares of outcomes by stage; calls and failures by node and lane, superseded attempts included."""
    figures = Figures()
    count(figures, times=3)
    count(figures, ERROR, lane="canary", where="/app/nodes.py:7")
    history = history_of(ended([SUCCESS] * 2))
    history.fail_over(run_of(PROCESSING, TIMEOUT, took_s=0.08, node="slow"))
    for run in [run_of(PROCESSING, node="math", attempt=2), *ended([SUCCESS] * 5)[3:]]:
        history.finish(run)
    figures.concluded("prod", concluded(history))
    assert outcomes(figures.stages[2].total()) == (5, {"success": 0.8, "error": 0.2})
    calls = {key: sum(node.counts.total()[:-1]) for key, node in figures.nodes.items()}
    assert calls == {("prod", "math"): 4, ("canary", "math"): 1, ("prod", "slow"): 1}
    assert figures.nodes["prod", "math"].failure is None
    failure = figures.nodes["canary", "math"].failure
    assert failure is not None
    assert failure.where == "/app/nodes.py:7"
    assert percentiles(figures.nodes["prod", "slow"].counts)["p50_ms"] == pytest.approx(80, rel=0.05)


def test_a_series_has_a_point_for_each_closed_slot() -> None:
    """Counts, percentiles and samples, the oldest first; no more than an hour."""
    figures = Figures()
    count(figures, times=4)
    figures.close_slot(started_at=0.0, running=3, lag=70)
    figures.close_slot(started_at=0.0, running=0, lag=0)
    found = series(figures, 1000.0)
    assert (found["ended"], found["in_time"], found["running"], found["lag"]) == (
        [4, 0],
        [1.0, None],
        [3, 0],
        [70, 0],
    )
    assert found["p50_ms"] == [pytest.approx(50, rel=0.05), None]
    assert found["started_at"] == "1970-01-01T00:16:30.000Z"
    pass_slots(figures, 2 * SLOTS)
    assert len(series(figures, 1000.0)["ended"]) == SLOTS


def test_lanes_and_nodes_are_bounded() -> None:
    """Producers invent lanes: beyond a number they share one row, until others have not been used a while."""
    figures = Figures()
    for number in range(1000):
        count(figures, lane=f"lane-{number}")
    assert len(figures.nodes) == MAX_NODES
    assert sum(figures.nodes[OTHER, OTHER].counts.total()) == 1000 - (MAX_NODES - 1)
    pass_slots(figures, RECENT_SLOTS + 1)
    assert not figures.nodes
    count(figures, lane="new")
    assert list(figures.nodes) == [("new", "math")]


KEY, OTHER_KEY = PartitionKey("queries", 0), PartitionKey("queries", 1)


def test_the_trend_of_the_lag() -> None:
    """Falling, with the time until it is gone; rising; steady within the noise."""
    history = LagHistory(SLOT_S)
    assert history.of(KEY, 500, 0.0) == {"records": 500, "trend": "steady", "catch_up_s": None}
    history.add(0.0, {KEY: 1000, OTHER_KEY: 20})
    assert history.of(KEY, 600, 10.0) == {"records": 600, "trend": "falling", "catch_up_s": 15.0}
    assert history.of(KEY, 2000, 10.0)["trend"] == "rising"
    assert history.of(KEY, 1040, 10.0)["trend"] == "steady"
    assert history.of(OTHER_KEY, 28, 10.0)["trend"] == "steady"
    assert history.total({KEY: 600, OTHER_KEY: 20}, 10.0)["catch_up_s"] == pytest.approx(15.5)
    assert history.total({KEY: 0, OTHER_KEY: 0}, 10.0)["catch_up_s"] == 0.0


def test_the_trend_forgets() -> None:
    """It is that of the last minute, and a partition that was just assigned has none."""
    history = LagHistory(SLOT_S)
    for number in range(30):
        history.add(number * SLOT_S, {KEY: 1000 if number < 15 else 100})
    assert history.of(KEY, 100, 150.0)["trend"] == "steady"
    assert history.of(OTHER_KEY, 100, 150.0)["trend"] == "steady"
    assert history.total({KEY: 100, OTHER_KEY: 5000}, 150.0)["trend"] == "steady"


@pytest.mark.parametrize("winner", ["first", "second", "none"])
def test_calls_beside_each_other_are_no_waits(winner: str) -> None:
    """The time before a hedge is that of the call beside it, whichever of them answers; both may fail."""
    runs, at = ended([SUCCESS] * 2), STARTED_AT + 0.02
    history = history_of(runs)
    first = run_of(PROCESSING, ERROR, at=at, took_s=0.1, node="a")
    hedge = run_of(
        PROCESSING, ERROR, at=at + 0.06, took_s=0.04, node="b", attempt=2, hedge=True, waited_s=0.06
    )
    if winner == "none":
        history.superseded += [hedge, first]
        history.finish(run_of(PROCESSING, at=at + 0.1, took_s=0.05, node="c", attempt=3))
        ends_at = at + 0.15
    else:
        won, lost = (first, hedge) if winner == "first" else (hedge, first)
        lost.outcome, lost.overtaken, won.outcome = Outcome.SKIPPED, True, SUCCESS
        history.superseded.append(lost)
        history.finish(won)
        ends_at = at + 0.1
    figures = Figures()
    figures.concluded("prod", concluded(history, after_s=ends_at + 0.033 - STARTED_AT))
    assert figures.between.current[bucket_of(0.033)] == 1
