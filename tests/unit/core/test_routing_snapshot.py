"""Routing snapshots: the limits, breakers and health that user code's side sees."""

from __future__ import annotations

import pytest

from fivestage.core.adaptive.breaker import BreakerState
from fivestage.core.routing_snapshot import NodeRouting, RoutingSnapshot, StageRouting

from .samples import PLAN

CLOSED, OPEN, HALF_OPEN = BreakerState


def routing(**nodes: NodeRouting) -> RoutingSnapshot:
    """Build a routing snapshot of these nodes."""
    made = RoutingSnapshot.neutral(PLAN)
    made.nodes = nodes
    return made


def test_at_first_nothing_is_known() -> None:
    """Without samples the limits are the plan's, nothing is reserved, and every node may be called."""
    made = RoutingSnapshot.neutral(PLAN)
    assert made.stages == tuple(StageRouting(spec.limit_s, 0.0, 0.0, 0.0) for spec in PLAN.stages)
    assert made.node("anyone") == NodeRouting(CLOSED, 1.0, None)
    assert made.rank(["b", "a"]) == ["b", "a"]
    assert repr(made) == "<RoutingSnapshot limits=[50, 100, 120, 40, 30] ms nodes={} stuck=[]>"


@pytest.mark.parametrize(("state", "probe", "lets"), [(CLOSED, 0, 1), (OPEN, 0, 0), (HALF_OPEN, 0, 0)])
def test_breakers_decide_which_nodes_may_be_called(state: BreakerState, *, probe: bool, lets: bool) -> None:
    """A closed breaker allows calls, an open one none, a half-open one needs a permit."""
    made = routing(a=NodeRouting(state))
    assert made.allows("a") is bool(lets)
    assert made.take_probe("a") is bool(probe)


def test_a_permit_is_for_one() -> None:
    """The permit of a half-open node is taken by one call; the next has none."""
    made = routing(a=NodeRouting(HALF_OPEN))
    made.probes["a"] = True
    assert made.allows("a")
    assert (made.take_probe("a"), made.take_probe("a")) == (True, False)
    assert not made.allows("a")


def test_an_old_permit_does_not_pass_an_open_breaker() -> None:
    """A permit left over does not pass a breaker that has opened again."""
    made = routing(a=NodeRouting(OPEN))
    made.probes["a"] = True
    assert not made.allows("a")


def test_stuck_nodes_are_not_called() -> None:
    """A stuck node is not called, whatever its health and permits."""
    made = routing(a=NodeRouting(CLOSED), b=NodeRouting(HALF_OPEN))
    made.probes["b"] = True
    made.stuck = frozenset({"a", "b"})
    assert (made.rank("ab"), made.allows("a"), made.allows("b")) == ([], False, False)


def test_the_best_first() -> None:
    """Nodes are ordered by health in tenths, then as given; nodes that may not be called are left out."""
    made = routing(
        poor=NodeRouting(score=0.2),
        fair=NodeRouting(score=0.96),
        open=NodeRouting(OPEN, 1.0),
        good=NodeRouting(score=1.0),
        half=NodeRouting(HALF_OPEN, 1.0),
    )
    assert made.rank(["poor", "fair", "open", "new", "good", "half"]) == ["fair", "new", "good", "poor"]


def test_a_probe_that_is_due_goes_first() -> None:
    """A half-open node with a permit comes first: only a call shows whether it has recovered."""
    made = routing(bad=NodeRouting(HALF_OPEN, 0.1), good=NodeRouting(score=1.0))
    made.probes["bad"] = True
    assert made.rank(["good", "bad"]) == ["bad", "good"]
    made.take_probe("bad")
    assert made.rank(["good", "bad"]) == ["good"]
