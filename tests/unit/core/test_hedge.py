"""When a call is slow enough to be hedged, and which nodes may be called beside it."""

from __future__ import annotations

import pytest

from fivestage.core.adaptive.breaker import BreakerState
from fivestage.core.adaptive.window import Window
from fivestage.core.hedge import LEAST_S, LEAST_SAMPLES, candidates, hedge_after_s
from fivestage.core.plan import Plan
from fivestage.core.routing_snapshot import NodeRouting, RoutingSnapshot


def durations(count: int = LEAST_SAMPLES, unit_s: float = 0.001) -> Window:
    """Return the durations 1, 2, 3... units."""
    window = Window(LEAST_SAMPLES)
    for number in range(1, count + 1):
        window.add(number * unit_s)
    return window


@pytest.mark.parametrize(("load", "after_ms"), [(0.05, 97), (0.1, 93), (0.5, 61), (0.001, 100), (1.0, 21)])
def test_a_call_is_slow_if_few_take_longer(load: float, after_ms: float) -> None:
    """Four fifths of the permitted load: the next call is above r of n with the chance r / (n + 1)."""
    assert hedge_after_s(durations(), load) == pytest.approx(after_ms / 1000)


def test_too_few_samples() -> None:
    """Less than a hundred say too little, and calls that were never answered say nothing."""
    assert hedge_after_s(durations(LEAST_SAMPLES - 1), 0.05) is None
    window = Window(LEAST_SAMPLES)
    for _ in range(LEAST_SAMPLES):
        window.add(1.0, censored=True)
    assert hedge_after_s(window, 0.05) is None


def test_not_at_once() -> None:
    """A call of a quick node gets a millisecond."""
    assert hedge_after_s(durations(unit_s=0.000001), 0.05) == LEAST_S


@pytest.mark.parametrize("censored", [True, False])
def test_more_calls_than_permitted_do_not_answer(censored: bool) -> None:  # noqa: FBT001
    """Then those are slow that take longer than any answer; the time does not grow with each hedge."""
    window = durations(90)
    for _ in range(10):
        if censored:
            window.add(0.2, censored=True)
        else:
            window.add_longer_than(0.1)
    assert hedge_after_s(window, 0.05) == pytest.approx(0.09)


def test_candidates() -> None:
    """Their breakers are closed, they come back, and a usual call fits."""
    routing = RoutingSnapshot.neutral(Plan.of())
    quick = NodeRouting(p50_s=0.02)
    routing.nodes = {
        "open": quick._replace(state=BreakerState.OPEN),
        "probe": quick._replace(state=BreakerState.HALF_OPEN),
        "slow": quick._replace(p50_s=0.04),
        "stuck": quick,
        "quick": quick,
    }
    routing.probes, routing.stuck = {"probe": True}, frozenset(["stuck"])
    names = ["unknown", *routing.nodes]
    assert list(candidates(names, routing, left_s=0.03)) == ["quick"]
    assert list(candidates(names, routing, left_s=0.06)) == ["unknown", "slow", "quick"]
