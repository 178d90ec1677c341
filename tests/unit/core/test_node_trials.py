"""Trial calls that show whether a node that is passed over has recovered."""

from __future__ import annotations

import pytest

from fivestage.core.adaptive.breaker import BreakerPolicy, BreakerState
from fivestage.core.adaptive.lane_state import REFRESH_S, LanePolicy, LaneState
from fivestage.core.adaptive.node_state import RECOVERED, NodeState
from fivestage.core.adaptive.node_trials import EVERY_CALLS, EVERY_S, Trials
from fivestage.core.adaptive.slot_pressure import Pressure
from fivestage.core.routing_snapshot import (
    TRIAL_SLACK_S,
    NodeRouting,
    RoutingSnapshot,
    StageRouting,
    wants_trial,
)

from .samples import ERROR, PLAN, PROCESSING, SUCCESS, TIMEOUT, altered, concluded, ended, history_of, run_of

CLOSED, OPEN, HALF_OPEN = BreakerState
LIMIT_S = PLAN.stages[2].limit_s
NOW = 1000.0


def node_of(calls: str, *, at: float = NOW) -> NodeState:
    """Build a node with successes (`.`) and failures (`x`)."""
    node = NodeState(BreakerPolicy(), lambda: 0.0)
    for ending in calls:
        record(node, ending, at)
    return node


def record(node: NodeState, ending: str, at: float, *, probe: bool = False) -> None:
    """Record one call."""
    run = run_of(PROCESSING, SUCCESS if ending == "." else ERROR, node="a", probe=probe)
    node.record(run, at, limit_s=LIMIT_S)


def refresh(trials: Trials, node: NodeState, now: float, routing: RoutingSnapshot) -> bool:
    """Refresh the routing snapshot; return whether the node may be tried."""
    routing.nodes = {"a": node.routing(now)}
    trials.refresh(now, {"a": node}, routing)
    return "a" in routing.trials


@pytest.mark.parametrize(
    ("known", "wants"),
    [
        (NodeRouting(), False),
        (NodeRouting(score=0.96), False),
        (NodeRouting(score=0.94), True),
        (NodeRouting(OPEN), True),
        (NodeRouting(HALF_OPEN, 0.1), False),
    ],
)
def test_nodes_that_get_trials(known: NodeRouting, *, wants: bool) -> None:
    """Nodes ranked behind a healthy one, and open ones, get trials; a half-open one has its probes."""
    assert wants_trial(known) is wants


def test_a_trial_needs_calls_and_time() -> None:
    """A trial needs both a number of queries and some time since the node's last call."""
    trials, node, routing = Trials(), node_of("xx"), RoutingSnapshot.neutral(PLAN)
    assert not refresh(trials, node, NOW, routing)
    trials.calls = EVERY_CALLS
    assert not refresh(trials, node, NOW + EVERY_S - 0.1, routing)
    trials.calls = EVERY_CALLS - 1
    assert not refresh(trials, node, NOW + EVERY_S, routing)
    trials.calls = EVERY_CALLS
    assert refresh(trials, node, NOW + EVERY_S, routing)


def test_a_share_of_the_calls_of_the_other_node() -> None:
    """The rate is a share of the calls of the node used instead, not of a busy lane."""
    trials, node, other, routing = Trials(), node_of("xx"), node_of("."), RoutingSnapshot.neutral(PLAN)
    nodes, node.fallback = {"a": node, "other": other}, "other"

    def is_due(now: float) -> bool:
        routing.nodes = {"a": node.routing(now)}
        trials.refresh(now, nodes, routing)
        return "a" in routing.trials

    assert not is_due(NOW)
    trials.calls = 100 * EVERY_CALLS
    assert not is_due(NOW + 100)
    for _ in range(EVERY_CALLS - 1):
        record(other, ".", NOW)
    assert not is_due(NOW + 100)
    record(other, ".", NOW)
    assert is_due(NOW + 100)
    node.fallback = "a-third"
    routing.take_trial("a")
    assert not is_due(NOW + 200)


def test_a_late_trial_is_not_doubled() -> None:
    """After a late trial the next one is due as long after its start as after its issue."""
    trials, node, routing = Trials(), node_of("xx"), RoutingSnapshot.neutral(PLAN)
    refresh(trials, node, NOW, routing)
    trials.calls = EVERY_CALLS
    assert refresh(trials, node, NOW + 1, routing)
    trials.calls = 3 * EVERY_CALLS
    assert refresh(trials, node, NOW + 9, routing)
    assert routing.take_trial("a")
    assert not routing.take_trial("a")
    assert not refresh(trials, node, NOW + 9.5, routing)
    trials.calls = 4 * EVERY_CALLS
    assert not refresh(trials, node, NOW + 9.5, routing)
    assert refresh(trials, node, NOW + 10, routing)


def test_trials_that_are_answered_follow_each_other() -> None:
    """Successful trials follow each other quickly until the node has recovered."""
    trials, node, routing = Trials(), node_of("x" * 50), RoutingSnapshot.neutral(PLAN)
    refresh(trials, node, NOW, routing)
    trials.calls, now, tried = EVERY_CALLS, NOW + 1, 0
    while refresh(trials, node, now, routing):
        assert routing.take_trial("a")
        record(node, ".", now)
        now, tried = now + REFRESH_S, tried + 1
    assert (tried, node.health.score(now), node.is_on_trial) == (RECOVERED, 1.0, False)


def test_one_that_fails_again_waits_again() -> None:
    """A failure among the trials ends the quick succession."""
    trials, node, routing = Trials(), node_of("x" * 50), RoutingSnapshot.neutral(PLAN)
    refresh(trials, node, NOW, routing)
    trials.calls = EVERY_CALLS
    for ending, more in ((".", True), (".", True), ("x", False)):
        refresh(trials, node, NOW + 1, routing)
        assert routing.take_trial("a")
        record(node, ending, NOW + 1)
        assert refresh(trials, node, NOW + 1, routing) is more


def test_a_good_probe_starts_the_trials() -> None:
    """A closed breaker does not make the node preferred: successes in a row do."""
    node = node_of("x" * 50)
    record(node, "x", NOW + 1)
    assert node.breaker.state(NOW + 2) is HALF_OPEN
    record(node, ".", NOW + 2, probe=True)
    assert (node.breaker.state(NOW + 2), node.is_on_trial) == (CLOSED, True)
    for _ in range(RECOVERED - 2):
        record(node, ".", NOW + 2)
    assert node.health.score(NOW + 2) < 0.5
    record(node, ".", NOW + 2)
    assert node.health.score(NOW + 2) == 1.0


def test_a_busy_node_keeps_its_past() -> None:
    """A node in use is judged by its failure rate, however many successes come in a row."""
    node = node_of("x" * 10 + "." * 3 * RECOVERED)
    assert node.health.score(NOW) < 0.9


def test_a_trial_cut_short_says_nothing() -> None:
    """A trial shortened for another node's sake counts for neither breaker nor health."""
    node = node_of("." * 10 + "x")
    before = repr(node.breaker), node.health.score(NOW)
    cut = run_of(PROCESSING, TIMEOUT, took_s=0.05, granted_s=0.05, node="a", probe=True)
    node.record(cut, NOW, limit_s=LIMIT_S)
    assert (repr(node.breaker), node.health.score(NOW), node.in_a_row) == (*before, 0)


# When a trial is made


def routing(**nodes: NodeRouting) -> RoutingSnapshot:
    """Build a snapshot of a lane: processing of at most 120 ms, usually 20, with 10 reserved."""
    stages = [StageRouting(spec.limit_s) for spec in PLAN.stages]
    stages[2] = StageRouting(LIMIT_S, p95_s=0.06, reserve_s=0.01, p50_s=0.02)
    made = RoutingSnapshot(tuple(stages))
    made.nodes, made.trials = nodes, {"bad": True}
    return made


GOOD, BAD, SHUT = NodeRouting(p95_s=0.04), NodeRouting(score=0.2, p95_s=0.03), NodeRouting(OPEN, 0.2)


@pytest.mark.parametrize(
    ("known", "left_s", "tried"),
    [
        pytest.param({"good": GOOD, "bad": BAD}, 0.25, True, id="both have the time"),
        pytest.param({"good": GOOD, "bad": SHUT}, 0.25, True, id="an open breaker too"),
        pytest.param(
            {"good": GOOD, "bad": BAD}, 0.0855, True, id="30 and 40, 10 for later stages, 5 between"
        ),
        pytest.param({"good": GOOD, "bad": BAD}, 0.0845, False, id="a millisecond less"),
        pytest.param(
            {"good": GOOD, "bad": SHUT}, 0.0755, True, id="what a stage typically takes, if unknown"
        ),
        pytest.param({"good": GOOD, "bad": SHUT}, 0.0745, False, id="less than that"),
        pytest.param({"bad": BAD}, 0.1055, True, id="the other is unknown and needs 60"),
        pytest.param({"bad": BAD}, 0.1045, False, id="less than that too"),
        pytest.param({"good": NodeRouting(OPEN), "bad": SHUT}, 0.25, False, id="no other may be called"),
        pytest.param({"good": NodeRouting(HALF_OPEN), "bad": BAD}, 0.25, False, id="nor a half-open one"),
    ],
)
def test_a_trial_needs_one_that_answers_after_it(
    known: dict[str, NodeRouting], left_s: float, *, tried: bool
) -> None:
    """A trial needs another node that may be called, and time for it afterwards."""
    made = routing(**known)
    assert made.trial_of(["bad", "good"], left_s) == ("bad" if tried else None)
    assert made.trials == {"bad": True}


def test_no_trial_where_it_is_not_needed_or_not_allowed() -> None:
    """No trial without a permit, a second node, or while calls are stuck or a probe is due."""
    made = routing(good=GOOD, bad=BAD)
    assert made.trial_of(["bad"], 1.0) is None
    made.stuck = frozenset({"bad"})
    assert made.trial_of(["bad", "good"], 1.0) is None
    made.stuck, made.probes = frozenset(), {"good": True}
    made.nodes = {"good": NodeRouting(HALF_OPEN), "bad": BAD}
    assert made.trial_of(["bad", "good"], 1.0) is None
    made.nodes, made.trials = {"good": GOOD, "bad": BAD}, {}
    assert made.trial_of(["bad", "good"], 1.0) is None


def test_the_duration_of_a_trial() -> None:
    """A trial may take what is left, less the other node's time, later stages' time, and a margin."""
    assert routing(good=GOOD, bad=BAD).trial_s("bad", "good", 0.25) == pytest.approx(
        0.25 - 0.04 - 0.01 - TRIAL_SLACK_S
    )


@pytest.mark.parametrize("rate", [20, 100, 1000])
def test_ten_minutes_beside_a_dead_node(rate: int) -> None:
    """Within ten minutes a dead node gets at most 2 % of the queries at any rate, probes included."""
    lane, spent = LaneState("prod", LanePolicy(PLAN), Pressure()), 0
    runs = ended([SUCCESS] * 5)
    for place in range(600 * rate if rate < 1000 else 60 * rate):
        now = NOW + place / rate
        lane.refresh_if_due(now)
        known = lane.routing
        tried = known.trial_of(["dead", "good"], 0.25)
        chosen = tried or known.rank(["dead", "good"])[0]
        probe = known.take_trial(chosen) if tried else known.take_probe(chosen)
        failed = []
        if chosen == "dead":
            failed = [altered(run_of(PROCESSING, ERROR, node="dead", probe=probe), started_at=now)]
            spent += 1
        altered(runs[2], node="good")
        lane.concluded(concluded(history_of(runs)), failed, now)
    assert spent <= 0.02 * (place + 1)
    assert spent > 20
