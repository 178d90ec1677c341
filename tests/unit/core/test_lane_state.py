"""The learned state of each lane."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from fivestage.core.adaptive.breaker import BreakerPolicy, BreakerState
from fivestage.core.adaptive.lane_state import (
    ANSWERS,
    BACK_OFF,
    MAX_LANES,
    MAX_NODES,
    MIN_ANSWERS,
    OTHER_LANES,
    REFRESH_S,
    LanePolicy,
    LaneState,
    LearnedState,
    stuck_nodes,
)
from fivestage.core.adaptive.node_state import PATIENCE_S, NodeState
from fivestage.core.adaptive.slot_pressure import Pressure
from fivestage.core.adaptive.stage_limit import AdaptivePolicy
from fivestage.core.observer import ControlChange, Observer
from fivestage.core.plan import Plan

from .samples import (
    DECISION,
    ERROR,
    INTENT,
    PLAN,
    PROCESSING,
    REFLECTION,
    SKIPPED,
    STARTED_AT,
    SUCCESS,
    TIMEOUT,
    VALIDATION,
    altered,
    concluded,
    ended,
    history_of,
    run_of,
    running_of,
)

if TYPE_CHECKING:
    from fivestage.core.stage_run import StageRun
    from fivestage_schemas import Outcome

CLOSED, OPEN, HALF_OPEN = BreakerState
NOW = STARTED_AT
BREAKER = BreakerPolicy(
    0.3, minimum_calls=4, window=8, first_open_s=10.0, open_jitter=0, probe_timeout_s=1.25
)
SETTINGS = LanePolicy(PLAN, AdaptivePolicy(), BREAKER)
LIMIT_S = PLAN.stages[2].limit_s
FAIR_SHARE_S = PLAN.stages[2].fair_share_s


def call(outcome: Outcome = SUCCESS, *, took_s: float = 0.01, node: str = "math", **fields: Any) -> StageRun:
    """Build a call of a node."""
    return run_of(PROCESSING, outcome, took_s=took_s, node=node, **fields)


def learn(policy: LaneState, *runs: StageRun, now: float = NOW) -> None:
    """Record attempts at processing only."""
    policy.concluded(concluded(history_of([])), runs, now)


def lane(settings: LanePolicy = SETTINGS) -> LaneState:
    """Build a lane without samples."""
    return LaneState("prod", settings, Pressure())


# Nodes


@pytest.mark.parametrize(
    ("run", "failures"),
    [
        (call(), 0),
        (call(ERROR), 1),
        (call(TIMEOUT, took_s=LIMIT_S), 1),
        (call(TIMEOUT, took_s=FAIR_SHARE_S, granted_s=FAIR_SHARE_S), 1),
        (call(TIMEOUT, took_s=FAIR_SHARE_S, granted_s=FAIR_SHARE_S - 1e-9), 1),
        (call(TIMEOUT, took_s=FAIR_SHARE_S - 0.001, granted_s=FAIR_SHARE_S - 0.001), 0),
        (call(ERROR, granted_s=0.001), 1),
        (call(ERROR, excused=True), 0),
    ],
)
def test_what_counts_against_a_node(run: StageRun, failures: int) -> None:
    """Errors count unless declared otherwise; timeouts only with the time the others must leave."""
    node = NodeState(BREAKER, lambda: 0.0)
    node.record(run, NOW, limit_s=LIMIT_S)
    assert node.breaker.recent.failed == failures
    assert node.health.score(NOW) == (0.5 if failures else 1.0)


@pytest.mark.parametrize("plan", [PLAN, Plan.of(rejected="error")], ids=["degrade", "error"])
def test_a_rejected_answer_counts_for_health_alone(plan: Plan) -> None:
    """A rejected answer counts for health, not for the breaker; durations are learned."""
    policy = lane()
    runs = ended([SUCCESS] * 4, plan=plan)
    altered(runs[3], verdict=False)
    policy.concluded(concluded(history_of(runs), plan=plan), (), NOW)
    node = policy.nodes["math"]
    assert (node.breaker.recent.failed, node.health.score(NOW)) == (0, 0.5)
    assert [len(limit._samples) for limit in policy.limits] == [1, 1, 1, 1, 0]


def test_a_timeout_that_is_not_the_nodes_doing_does_not_count() -> None:
    """A timeout that was not the node's doing enters neither the breaker's window nor the durations."""
    node = NodeState(BREAKER, lambda: 0.0)
    for _ in range(20):
        node.record(call(TIMEOUT, took_s=0.01, granted_s=0.01), NOW, limit_s=LIMIT_S)
    assert (node.breaker.recent.calls, node.health.p95_s) == (0, None)


def test_timeouts_in_a_disturbance_do_not_count() -> None:
    """Timeouts of calls started before a disturbance do not count; errors and successes do."""
    policy = lane()
    cut = altered(call(TIMEOUT, took_s=LIMIT_S), started_at=NOW)
    for run in (cut, altered(call(ERROR), started_at=NOW), altered(call(), started_at=NOW)):
        policy.concluded(concluded(history_of([])), [run], NOW, disturbed_at=NOW)
    breaker = policy.nodes["math"].breaker
    assert [(breaker.recent.calls, breaker.recent.failed)] == [(2, 1)]
    policy.concluded(concluded(history_of([])), [cut], NOW, disturbed_at=NOW - 0.001)
    assert [(breaker.recent.calls, breaker.recent.failed)] == [(3, 2)]


def test_a_probe_in_a_disturbance_frees_its_permit() -> None:
    """A probe that a disturbance made late frees its permit at once."""
    policy = lane()
    now = half_open(policy)
    assert policy.routing.take_probe("math")
    cut = altered(call(TIMEOUT, took_s=LIMIT_S, probe=True), started_at=now)
    policy.concluded(concluded(history_of([])), [cut], now, disturbed_at=now)
    policy.refresh(now)
    assert policy.routing.probes == {"math": True}


def test_calls_cut_below_the_median_do_not_count() -> None:
    """A call cut before its limit and before the node's median does not count."""
    node = NodeState(BREAKER, lambda: 0.0)
    for _ in range(10):
        node.record(call(took_s=0.105), NOW, limit_s=LIMIT_S)
    for granted_s in (FAIR_SHARE_S, 0.104, 0.106, LIMIT_S):
        node.record(call(TIMEOUT, took_s=granted_s, granted_s=granted_s), NOW, limit_s=LIMIT_S)
    assert node.breaker.recent.failed == 2


def fail(policy: LaneState, now: float = NOW, node: str = "math") -> None:
    """Fail a node for a second, as often as it takes to open its breaker."""
    for at in (now - 1, now):
        learn(policy, *[call(ERROR, node=node)] * 4, now=at)


def half_open(policy: LaneState, now: float = NOW) -> float:
    """Open the breaker of ``math`` and wait until it is half open; return that time."""
    fail(policy, now)
    assert policy.routing.node("math").state is OPEN
    policy.refresh(now + BREAKER.first_open_s)
    return now + BREAKER.first_open_s


def test_a_probe_cut_by_others_gives_its_permit_back() -> None:
    """A probe cut by others leaves the breaker half open and frees its permit."""
    policy = lane()
    now = half_open(policy)
    assert policy.routing.take_probe("math")
    learn(policy, call(TIMEOUT, took_s=0.01, granted_s=0.01, probe=True), now=now)
    policy.refresh(now)
    assert policy.routing.node("math").state is HALF_OPEN
    assert policy.routing.take_probe("math")


@pytest.mark.parametrize(("rate", "state"), [(1.0, CLOSED), (0.9, OPEN)])
def test_a_slow_probe(rate: float, state: BreakerState) -> None:
    """A slow answer closes the breaker, unless slow calls open it."""
    policy = lane(LanePolicy(PLAN, breaker=replace(BREAKER, slow_call_rate=rate)))
    now = half_open(policy)
    learn(policy, call(took_s=0.95 * LIMIT_S, probe=True), now=now)
    assert policy.routing.node("math").state is state


def timeouts(policy: LaneState, now: float, count: int = 40) -> None:
    """Build timeouts at the limit, at one moment."""
    limit_s = policy.routing.stages[2].limit_s
    learn(policy, *[call(TIMEOUT, took_s=limit_s, granted_s=limit_s)] * count, now=now)


def test_a_node_that_becomes_slow_gets_a_second() -> None:
    """With an adaptive limit new lateness does not open the breaker for a second; then it does."""
    policy = lane(LanePolicy(PLAN, breaker=BreakerPolicy()))
    learned(policy, 0.02)
    for tenth in range(10):
        timeouts(policy, NOW + tenth / 10)
        assert policy.nodes["math"].breaker.state(NOW + 1) is CLOSED
    for tenth in range(11):
        assert policy.nodes["math"].breaker.state(NOW + 2) is CLOSED
        timeouts(policy, NOW + PATIENCE_S + tenth / 10)
        if policy.nodes["math"].breaker._open_s:
            break
    assert policy.nodes["math"].breaker.state(NOW + 2) is OPEN


def test_a_node_that_never_answered_gets_none() -> None:
    """Timeouts of a node that never answered count at once: its limit has nothing to follow."""
    policy = lane(LanePolicy(PLAN, breaker=BreakerPolicy()))
    learned(policy, 0.02)
    limit_s = policy.routing.stages[2].limit_s
    hanging = altered(call(TIMEOUT, took_s=limit_s, granted_s=limit_s), node="hangs")
    for at in (NOW, NOW + 1):
        learn(policy, *[hanging] * 10, now=at)
    assert policy.nodes["hangs"].breaker.state(NOW + 1) is OPEN


# The routing snapshot


def test_an_opening_breaker_is_visible_at_once() -> None:
    """Figures may be a tenth of a second old, an open breaker is visible with the call that opened it."""
    policy = lane()
    policy.refresh(NOW)
    learn(policy, *[call()] * 2)
    policy.refresh_if_due(NOW + REFRESH_S / 2)
    assert policy.routing.nodes == {}
    fail(policy, NOW + 2)
    assert policy.routing.node("math").state is OPEN


def test_unchanged_routing_stays_the_same_object() -> None:
    """Unchanged parts stay the same object, so that they need not be sent again."""
    policy = lane()
    learn(policy, *[call()] * 20)
    policy.refresh(NOW)
    stages, nodes = policy.routing.stages, policy.routing.nodes
    learn(policy, *[call()] * 20)
    policy.refresh(NOW + 1)
    assert policy.routing.stages is stages
    assert policy.routing.nodes is nodes


def test_permits_come_and_go_with_the_state() -> None:
    """Half open there is one permit, another after a loss, and none once closed."""
    policy = lane()
    now = half_open(policy)
    assert policy.routing.take_probe("math")
    for later_s, there in ((0.1, False), (1.2, False), (1.3, True)):
        policy.refresh(now + later_s)
        assert ("math" in policy.routing.probes) is there
    learn(policy, call(probe=True), now=now + 1.3)
    assert (policy.routing.probes, policy.routing.node("math").state) == ({}, CLOSED)


def test_a_permit_runs_from_when_it_is_taken() -> None:
    """A permit's time runs from when it is taken, so that no second one is issued during the probe."""
    policy = lane()
    now = half_open(policy)
    for tenth in range(1, 13):
        policy.refresh(now + tenth / 10)
    assert policy.routing.take_probe("math")
    policy.refresh(now + 1.3)
    policy.refresh(now + 1.5)
    assert policy.routing.probes == {}


def test_needs_and_reserves() -> None:
    """P95 and median of each stage, and the time of later critical ones; none below min_samples."""
    policy = lane(LanePolicy(PLAN, AdaptivePolicy(enabled=False)))
    takes_s = (0.004, 0.01, 0.02, 0.03, 0.001)
    runs = [
        run_of(spec.stage_type, took_s=seconds) for spec, seconds in zip(PLAN.stages, takes_s, strict=True)
    ]
    for count in (49, 1):
        before = policy.routing.stages
        assert all(stage.p95_s == stage.reserve_s == stage.p50_s == 0 for stage in before)
        for _ in range(count):
            policy.concluded(concluded(history_of(runs)), (), NOW)
        policy.refresh(NOW)
    stages = policy.routing.stages
    assert [stage.p95_s for stage in stages] == list(takes_s)
    assert [stage.p50_s for stage in stages] == list(takes_s)
    assert [stage.reserve_s for stage in stages] == [pytest.approx(0.03), 0.02, 0, 0, 0]
    assert [stage.limit_s for stage in stages] == [spec.limit_s for spec in PLAN.stages]


# Learned limits


def learned(policy: LaneState, took_s: float, count: int = 100) -> None:
    """Teach a number of durations of processing."""
    learn(policy, *[call(took_s=took_s)] * count)
    policy.refresh(NOW)


@pytest.mark.parametrize("took_s", [0.08503, 0.0901, 0.1012])
def test_timeouts_at_the_advised_limit_raise_it(took_s: float) -> None:
    """The limit is granted to half a millisecond: a timeout at that is one at the limit."""
    policy = lane(LanePolicy(PLAN, AdaptivePolicy(window=100)))
    learned(policy, took_s, 73)  # not quite at its target
    limit_s, advised_s = policy.limits[2].limit_s, policy.routing.stages[2].limit_s
    assert abs(limit_s - advised_s) <= 0.00025
    for count in range(1, 21):
        granted_s = policy.routing.stages[2].limit_s
        learn(policy, call(TIMEOUT, took_s=granted_s, granted_s=granted_s))
        policy.refresh(NOW)
        assert policy.nodes["math"].health.score(NOW) < 73.5 / (73 + count)
    assert policy.limits[2].limit_s > 1.5 * limit_s


def test_shortened_calls_do_not_move_the_limit() -> None:
    """Timeouts of calls with less than the limit, and errors, do not move it."""
    policy = lane()
    learned(policy, 0.04)
    before = policy.limits[2].limit_s
    learn(policy, *[call(TIMEOUT, took_s=0.03, granted_s=0.03)] * 50, *[call(ERROR)] * 50)
    assert policy.limits[2].limit_s == before


def test_a_node_that_mostly_hangs_is_never_cut_short() -> None:
    """Timeouts of a node that mostly hangs count where it had its fair share of time."""
    policy = lane()
    learn(policy, *[call(TIMEOUT, took_s=0.12, granted_s=0.12)] * 20)
    before = policy.nodes["math"].health.score(NOW)
    learn(policy, call(TIMEOUT, took_s=0.11, granted_s=0.11))
    assert policy.nodes["math"].health.score(NOW) < before


def test_stages_that_did_not_run_are_no_samples() -> None:
    """Skipped stages are no samples of duration."""
    policy = lane()
    for _ in range(60):
        policy.concluded(concluded(history_of(ended([SUCCESS, SUCCESS, ERROR]))), (), NOW)
    counts = [len(limit._samples) for limit in policy.limits]
    assert counts == [60, 60, 0, 0, 0]


# The time to an answer


def test_the_time_to_an_answer_is_that_of_the_critical_stages() -> None:
    """It runs from the start to the end of the last critical stage; others may be cut."""
    policy = lane()
    for number in range(MIN_ANSWERS):
        assert policy.answer_time_s(0.5) is None
        took_s = 0.02 if number % 10 else 0.2
        runs = [
            run_of(INTENT, took_s=0.001),
            run_of(DECISION, at=NOW + 0.001, took_s=0.001),
            run_of(PROCESSING, at=NOW + 0.002, took_s=took_s),
            run_of(VALIDATION, at=NOW + 0.002 + took_s, took_s=0.04),
            run_of(REFLECTION, at=NOW + 0.042 + took_s, took_s=0.03),
        ]
        policy.concluded(concluded(history_of(runs), after_s=0.24), (), NOW)
    assert policy.answer_time_s(0.5) == pytest.approx(0.022)
    assert policy.answer_time_s(0.95) == pytest.approx(0.202)


def test_timeouts_count_only_with_all_of_their_time() -> None:
    """Without an answer a whole budget is a censored sample, a short one is none."""
    policy = lane()
    late = history_of(ended([SUCCESS, SUCCESS]), running_of(PROCESSING, at=NOW + 0.02, granted_s=0.02))
    for _ in range(MIN_ANSWERS):
        policy.concluded(concluded(late, after_s=0.04, budget_s=0.04), (), NOW)
    assert policy.answer_time_s(0.5) is None
    for _ in range(MIN_ANSWERS):
        policy.concluded(concluded(late, after_s=0.25, budget_s=0.25 - 1e-9), (), NOW)
    assert policy.answer_time_s(0.5) == PLAN.total_s  # at most the total


def test_late_timeouts_raise_the_time_to_an_answer() -> None:
    """Timeouts later than most answers raise the estimate stepwise; others do not."""
    policy = lane()
    for _ in range(ANSWERS):
        runs = ended([SUCCESS] * 5)
        policy.concluded(concluded(history_of(runs), after_s=0.1), (), NOW)
    known_s = policy.answer_time_s(0.5)
    assert known_s is not None
    late = history_of(ended([SUCCESS, SUCCESS]), running_of(PROCESSING, at=NOW + 0.02, granted_s=0.02))
    for waited, rises in [(0.9, 1.0), (1.2, BACK_OFF * 1.2)] * 2:
        budget_s = waited * known_s
        for _ in range(ANSWERS // 2 + 1):
            policy.concluded(concluded(late, after_s=budget_s, budget_s=budget_s), (), NOW)
        known_s *= rises
        assert policy.answer_time_s(0.5) == pytest.approx(known_s)


@pytest.mark.parametrize("outcomes", [[ERROR], [SUCCESS, SUCCESS, ERROR]])
def test_errors_are_no_answers(outcomes: list[Outcome]) -> None:
    """The time to an error is no sample of the time to an answer."""
    policy = lane()
    for _ in range(MIN_ANSWERS):
        policy.concluded(concluded(history_of(ended(outcomes))), (), NOW)
    assert policy.answer_time_s(0.5) is None


def test_nothing_critical_and_nothing_run() -> None:
    """A plan without critical stages has no known time to an answer."""
    plan = Plan.of(critical=())
    policy = lane(LanePolicy(plan))
    for _ in range(MIN_ANSWERS):
        policy.concluded(concluded(history_of(ended([SKIPPED] * 5, plan=plan)), plan=plan), (), NOW)
    assert policy.answer_time_s(0.95) is None


# Lanes and nodes without number


class Changes(Observer):
    """Records changes of breakers and controls."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, str, str]] = []
        self.controls: list[ControlChange] = []

    def breaker_changed(self, lane: str, node: str, state: BreakerState) -> None:
        self.changes.append((lane, node, str(state)))

    def control_changed(self, change: ControlChange) -> None:
        self.controls.append(change)


def test_changes_are_reported_once_and_in_order() -> None:
    """Changes of each lane's breakers are reported once, at the next tick, with their lane."""
    recorded = Changes()
    learned = LearnedState(SETTINGS, recorded)
    for name in ("a", "b"):
        fail(learned.lane(name))
        learned.tick(NOW, frozenset())
        learned.tick(NOW, frozenset())
    later = NOW + BREAKER.first_open_s
    learned.tick(later, frozenset())
    learn(learned.lane("b"), call(probe=True), now=later)
    learned.tick(later, frozenset())
    assert recorded.changes == [
        ("a", "math", "open"),
        ("b", "math", "open"),
        ("a", "math", "half_open"),
        ("b", "math", "half_open"),
        ("b", "math", "closed"),
    ]
    assert recorded.controls == [
        ControlChange("breaker", "open", "7 of 7 calls failed in 1.0 s: open for 10 s", "a", "math"),
        ControlChange("breaker", "open", "7 of 7 calls failed in 1.0 s: open for 10 s", "b", "math"),
        ControlChange("breaker", "half_open", "was open for 10 s: one call may try the node", "a", "math"),
        ControlChange("breaker", "half_open", "was open for 10 s: one call may try the node", "b", "math"),
        ControlChange("breaker", "closed", "a probe was answered", "b", "math"),
    ]


def test_the_choice_between_nodes_is_reported() -> None:
    """A node is reported avoided when the one that answered ranks higher, and back once it is well."""
    recorded = Changes()
    learned = LearnedState(SETTINGS, recorded)
    lane, runs = learned.lane("a"), ended([SUCCESS] * 5)
    altered(runs[2], node="other")
    for _ in range(3):
        lane.concluded(concluded(history_of(runs)), [call(ERROR)], NOW)
        learned.tick(NOW, frozenset())
        lane.refresh(NOW)
    learned.tick(NOW, frozenset())
    for later in (60.0, 180.0, 210.0, 220.0):
        learned.tick(NOW + later, frozenset())
    assert recorded.controls == [
        ControlChange("node_choice", "avoided", "health 0.5 of 1, that of node 'other' 1.0", "a", "math"),
        ControlChange("node_choice", "returned", "health 0.98 of 1, its failures are old", "a", "math"),
    ]


def test_a_node_without_another_is_not_avoided() -> None:
    """A single node is never avoided, whatever its health."""
    recorded = Changes()
    learned = LearnedState(SETTINGS, recorded)
    learn(learned.lane("a"), call(), *[call(ERROR)] * 3)
    learned.tick(NOW, frozenset())
    assert recorded.controls == []


def test_stuck_nodes_are_stuck_in_all_lanes() -> None:
    """A node whose calls do not return is stuck in all lanes, and called again once they do."""
    learned = LearnedState(SETTINGS, Observer())
    lanes = [learned.lane(name) for name in "ab"]
    learned.tick(NOW, frozenset({"math"}))
    assert [lane.routing.allows("math") for lane in lanes] == [False, False]
    learned.tick(NOW, frozenset())
    assert [lane.routing.allows("math") for lane in lanes] == [True, True]


@pytest.mark.parametrize(
    ("names", "stuck"),
    [([], ""), (["a"] * 3, ""), (["a"] * 4, "a"), (["a", "b"] * 4 + ["c"], "ab"), ([""] * 9, "")],
)
def test_four_lost_calls_make_a_node_stuck(names: list[str], stuck: str) -> None:
    """Four calls that did not return make a node stuck."""
    assert stuck_nodes(names, 4) == frozenset(stuck)


def test_lanes_beyond_the_bound_share_one_policy() -> None:
    """Producers choose lanes, but not how many are stored."""
    learned = LearnedState(SETTINGS, Observer())
    made = [learned.lane(f"lane{number}") for number in range(MAX_LANES + 10)]
    assert len(learned.lanes) == MAX_LANES + 1
    assert {policy.name for policy in made[MAX_LANES:]} == {OTHER_LANES}
    assert len({id(policy) for policy in made[MAX_LANES:]}) == 1
    assert learned.lane("lane3") is made[3]
    assert repr(learned).startswith("<LearnedState [<LaneState lane0 <RoutingSnapshot")


def test_nodes_beyond_the_bound_are_not_learned_of() -> None:
    """Names invented by a decision stage do not fill memory; known ones go on."""
    policy = lane()
    learn(policy, *[call(node=f"node{number}") for number in range(MAX_NODES + 10)])
    assert len(policy.nodes) == MAX_NODES
    fail(policy, NOW + 10, "node0")
    assert policy.routing.node("node0").state is OPEN
