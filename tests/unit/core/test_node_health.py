"""Node health."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fivestage.core.adaptive.node_health import NodeHealth


def health_of(endings: str, *, start: float = 1000.0, half_life_s: float = 30.0) -> NodeHealth:
    """Build a node's health from outcomes, one per second: `.` success, `x` failure, `t` timeout."""
    health = NodeHealth(half_life_s)
    for place, ending in enumerate(endings):
        tell(health, ending, start + place)
    return health


def tell(health: NodeHealth, ending: str, now: float) -> None:
    """Record one call."""
    if ending == ".":
        health.succeeded(now, 0.01)
    elif ending == "x":
        health.failed(now)
    else:
        health.timed_out(now, 0.5)


def test_an_unknown_node_is_healthy() -> None:
    """An unknown node has the highest score, so that it is tried."""
    assert [NodeHealth().score(now) for now in (0.0, 5.0, 1e9)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("endings", "score"), [(".", 1), ("x", 1 / 2), ("t", 1 / 2), ("xx", 1 / 3), ("x.", 2 / 3), (".xt", 1 / 2)]
)
def test_the_score_is_the_share_of_successes(endings: str, score: float) -> None:
    """Without decay the score is (successes + 1) / (total + 1), where a timeout is a failure."""
    health = NodeHealth()
    for ending in endings:
        tell(health, ending, 7.0)
    assert health.score(7.0) == pytest.approx(score)


@pytest.mark.parametrize("start", [100.0, 0.0, -100.0])
def test_weights_halve_every_half_life(start: float) -> None:
    """A failure one half-life ago weighs a half, two ago a quarter, at any start of the clock."""
    health = NodeHealth(half_life_s=10.0)
    health.failed(start)
    assert [health.score(start + s) for s in (0.0, 10.0, 20.0)] == pytest.approx([1 / 2, 2 / 3, 4 / 5])
    health.succeeded(start + 10.0, 0.01)
    assert health.score(start + 10.0) == pytest.approx((1 + 1) / (1.5 + 1))
    assert health.score(start + 20.0) == pytest.approx((0.5 + 1) / (0.75 + 1))


def test_reading_the_score_changes_nothing() -> None:
    """Reading the score changes nothing, at any moment."""
    health = health_of("x.xt.")
    before = health.score(1010.0)
    assert [health.score(now) for now in (5000.0, 1010.0)] == [pytest.approx(1.0), before]


def test_a_node_long_unused_is_healthy_again() -> None:
    """Without calls the score rises to 1."""
    health = health_of("xt" * 50)
    scores = [health.score(1099.0 + minutes * 60.0) for minutes in range(30)]
    assert scores[0] < 0.05
    assert scores == sorted(scores)
    assert scores[-1] == pytest.approx(1.0)


def test_worse_nodes_score_less() -> None:
    """More failures, or more recent ones, give a lower score."""
    stories = ["." * 40, "xxxx" + "." * 36, "." * 36 + "xxxx", "x." * 20, "x" * 40]
    scores = [health_of(story).score(1040.0) for story in stories]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == len(scores)


def test_one_failure_of_a_busy_node_counts_little() -> None:
    """A failure among two hundred successes costs its share of the score."""
    assert 0.95 < health_of("." * 200 + "x").score(1200.0) < 1.0


@given(
    st.lists(st.tuples(st.sampled_from(".xt"), st.floats(-5, 1e4)), max_size=60),
    st.floats(0.01, 1e4),
    st.floats(-1e3, 1e6),
)
def test_the_score_is_within_0_and_1(
    story: list[tuple[str, float]], half_life_s: float, later_s: float
) -> None:
    """The score is above 0 and at most 1, with late outcomes and for earlier moments."""
    health, now = NodeHealth(half_life_s), 0.0
    for ending, step_s in story:
        now += step_s
        tell(health, ending, now)
        assert 0.0 < health.score(now) <= 1.0
    assert 0.0 < health.score(now + later_s) <= 1.0


def test_a_late_outcome_does_not_turn_time_back() -> None:
    """An outcome older than the last one counts fully; decay continues from the last."""
    health = NodeHealth(half_life_s=10.0)
    health.failed(100.0)
    health.failed(90.0)
    assert health.score(100.0) == pytest.approx(1 / 3)
    assert health.score(110.0) == pytest.approx(1 / 2)


def test_durations() -> None:
    """Below ten durations there is no P95; errors are not counted; a timeout is longer than any."""
    health = NodeHealth()
    for place in range(9):
        health.succeeded(1.0, place / 100)
        health.failed(1.0)
    assert health.p95_s is None
    health.succeeded(1.0, 0.09)
    assert health.p95_s == 0.09
    health.timed_out(1.0, 0.001)
    assert health.p95_s == inf


def test_a_rejected_answer_is_a_failure_with_a_duration() -> None:
    """A rejected answer counts as a failure, with its duration."""
    health = NodeHealth()
    for _ in range(10):
        health.rejected(100.0, 0.02)
    assert health.score(100.0) == pytest.approx(1 / 11)
    assert health.p95_s == 0.02


def test_the_last_hundred_durations() -> None:
    """The window holds the last hundred durations, timeouts included."""
    health = health_of("t" * 100)
    assert health.p95_s == inf
    for _ in range(95):
        health.succeeded(1100.0, 0.02)
    assert health.p95_s == 0.02


def test_a_clear_forgets_an_outage() -> None:
    """After a clear, failures and durations of an outage have no effect."""
    health = health_of("t" * 100)
    health.forget()
    assert (health.score(1100.0), health.p95_s) == (1.0, None)
    health.failed(1100.0)
    assert health.score(1100.0) == 0.5
