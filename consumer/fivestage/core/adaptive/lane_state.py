"""Learns from how the queries of each lane end, and keeps the lane's RoutingSnapshot up to date.

Runs on the bus loop, which sees every outcome, also of jobs whose worker failed. The stage runner reads the
snapshot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Final

from fivestage.core.adaptive.breaker import BreakerPolicy, BreakerState
from fivestage.core.adaptive.changes import Changes
from fivestage.core.adaptive.node_state import SLACK_S, NodeState, had_fair_share
from fivestage.core.adaptive.node_trials import Trials
from fivestage.core.adaptive.slot_pressure import Pressure
from fivestage.core.adaptive.stage_limit import AdaptivePolicy, LearnedLimit
from fivestage.core.adaptive.window import Window
from fivestage.core.plan import Plan
from fivestage.core.routing_snapshot import RoutingSnapshot, StageRouting
from fivestage_schemas import Outcome, PipelineStatus, StageType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fivestage.core.observer import Observer
    from fivestage.core.outcome import QueryOutcome
    from fivestage.core.stage_run import StageRun

MAX_LANES = 32
"""Lanes beyond these share one state: producers choose lanes, but must not fill the memory."""
MAX_NODES = 256
ANSWERS = 200
"""Number of last answers from which the time to an answer is computed."""
MIN_ANSWERS = 50
BACK_OFF = 1.25
"""A query that timed out after at least the median time to an answer counts as an answer that took longer by
this factor. As in TCP, which doubles its retransmission timer at each timeout (RFC 6298, 5.5), the estimate
then rises until it is long enough, even if no query has the total time because all had to wait."""
REFRESH_S = 0.1
"""Seconds between updates of the routing snapshot; a change of a breaker updates the snapshot at once."""
OTHER_LANES = "other"
_SUCCESS: Final = Outcome.SUCCESS
_TIMEOUT: Final = Outcome.TIMEOUT
_PROCESSING: Final = StageType.PROCESSING
_SUCCEEDED: Final = PipelineStatus.SUCCESS


@dataclass(frozen=True, slots=True)
class LanePolicy:
    """The configuration that all lanes share."""

    plan: Plan
    adaptive: AdaptivePolicy = field(default_factory=AdaptivePolicy)
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)
    jitter: Callable[[], float] = lambda: 0.0
    """Returns random numbers, 0..1."""
    max_extra_load: float = 0.0
    """The share of the calls of a node that may be hedged."""


class LaneState:
    """The learned state of one lane: stage limits, the time to an answer, its nodes."""

    __slots__ = (
        "_answers", "_policy", "_pressure", "_refreshed_at", "_trials", "limits", "name", "nodes", "routing",
    )  # fmt: skip

    def __init__(self, name: str, policy: LanePolicy, pressure: Pressure) -> None:
        self.name = name
        self._policy = policy
        self._pressure = pressure
        self.limits = tuple(LearnedLimit(spec.limit_s, policy.adaptive) for spec in policy.plan.stages)
        """The learned limit of each stage, in the order of the stages."""
        self.nodes: dict[str, NodeState] = {}
        self._answers = Window(ANSWERS)
        self._trials = Trials()
        self._refreshed_at = 0.0
        self.routing = RoutingSnapshot.neutral(policy.plan)
        self.routing.max_extra_load = policy.max_extra_load

    def __repr__(self) -> str:
        return f"<LaneState {self.name} {self.routing}>"

    def concluded(
        self,
        outcome: QueryOutcome,
        superseded: Sequence[StageRun],
        now: float,
        *,
        disturbed_at: float = -inf,
    ) -> None:
        """Learn from a query that has ended.

        Args:
            outcome: How it ended.
            superseded: Failed attempts that were followed by another one.
            now: Monotonic seconds.
            disturbed_at: When other code or a busy machine last delayed the query: a timeout of a stage that
                had started by then is not counted.
        """
        self._trials.calls += 1
        rejected = outcome.validated is False
        for run in (*superseded, *outcome.runs) if superseded else outcome.runs:
            if run.started_at is None:
                continue
            if run.outcome is _TIMEOUT and run.started_at <= disturbed_at:
                if run.node in self.nodes:
                    self.nodes[run.node].ignore(run)
                continue
            if run.node is not None and run.spec.stage_type is _PROCESSING:
                self._learn_node(run.node, run, now, rejected=rejected)
            self._learn_limit(run)
        if outcome.status is _SUCCEEDED and not outcome.partial:
            for run in superseded:
                if run.node in self.nodes and run.node != outcome.node:  # else a retry answered
                    self.nodes[run.node].fallback = outcome.node or ""
        self._learn_answer_time(outcome)

    def overtaken(self, attempts: Sequence[StageRun]) -> None:
        """Learn from those attempts of a query that were given up because another one had answered."""
        for run in attempts:
            if run.overtaken and run.node in self.nodes:
                self.nodes[run.node].overtaken(run)

    def answer_time_s(self, share: float) -> float | None:
        """A quantile of the time from the start to the answer; None while unknown."""
        if len(self._answers) < MIN_ANSWERS:
            return None
        found = self._answers.quantile(share)
        return None if found is None else min(found, self._policy.plan.total_s)

    def refresh(self, now: float) -> None:
        """Update the routing snapshot."""
        self._refreshed_at = now
        routing = self.routing
        stages = self._stage_routing(now)
        if stages != routing.stages:
            routing.stages = stages
        load = self._policy.max_extra_load
        nodes = {name: node.routing(now, load) for name, node in self.nodes.items()}
        if nodes != routing.nodes:
            routing.nodes = nodes
        for name, node in self.nodes.items():
            if nodes[name].state is not BreakerState.HALF_OPEN:
                routing.probes.pop(name, None)
                continue
            if name in routing.probes:
                node.breaker.release_probe()  # not taken yet: issue the permit again
            if node.breaker.try_probe(now):
                routing.probes[name] = True
        self._trials.refresh(now, self.nodes, routing)

    def refresh_if_due(self, now: float) -> None:
        """Update the routing snapshot, at most every REFRESH_S."""
        if now - self._refreshed_at >= REFRESH_S:
            self.refresh(now)

    def _limit_in_force_s(self, run: StageRun) -> float:
        """The limit in the routing snapshot: rounded, and perhaps older than what was learned since."""
        return self.routing.stages[run.spec.sequence].limit_s

    def _learn_limit(self, run: StageRun) -> None:
        limit = self.limits[run.spec.sequence]
        if run.outcome is _SUCCESS:
            limit.succeeded(run.duration_s)
        elif (
            run.outcome is _TIMEOUT
            and run.counted
            and not run.capped
            and had_fair_share(run, self._limit_in_force_s(run))
        ):
            limit.timed_out(run.duration_s)  # a timeout with less time says nothing about the limit

    def _learn_node(self, name: str, run: StageRun, now: float, *, rejected: bool = False) -> None:
        node = self.nodes.get(name)
        if node is None:
            if len(self.nodes) >= MAX_NODES:
                return
            node = self.nodes[name] = NodeState(self._policy.breaker, self._policy.jitter)
        if not run.counted:
            node.ignore(run)
            return
        state = node.breaker.state(now)
        learning = self.limits[run.spec.sequence].is_learned
        limit_s = self._limit_in_force_s(run)
        node.record(run, now, limit_s=limit_s, learning=learning, rejected=rejected)
        if node.breaker.state(now) is not state:
            self.refresh(now)

    def _learn_answer_time(self, outcome: QueryOutcome) -> None:
        if outcome.status is _SUCCEEDED:
            for run in reversed(outcome.runs):  # the last critical stage completes the answer
                if run.spec.critical and run.started_at is not None:
                    self._answers.add(run.started_at + run.duration_s - outcome.started_at)
                    break
        elif outcome.status is PipelineStatus.TIMEOUT:
            expected_s = self.answer_time_s(0.5) or self._policy.plan.total_s
            if outcome.duration_s >= expected_s - SLACK_S:  # with less time a timeout was to be expected
                self._answers.add(BACK_OFF * outcome.duration_s)

    def _stage_routing(self, now: float) -> tuple[StageRouting, ...]:
        found: list[StageRouting] = []
        scarce = self._pressure.costs_answers(now)
        p50_s = [limit.p50_s or 0.0 for limit in self.limits] if scarce else []
        reserve_s = later_s = 0.0
        for spec, limit in zip(reversed(self._policy.plan.stages), reversed(self.limits), strict=True):
            other_s = sum(p50_s) - p50_s[spec.sequence] if scarce else 0.0
            limit_s = _rounded(limit.in_force_s(scarce=scarce, other_s=other_s))
            p95_s = _rounded(limit.p95_s)
            found.append(StageRouting(limit_s, p95_s, reserve_s, _rounded(limit.p50_s), later_s))
            reserve_s += p95_s if spec.critical else 0.0
            later_s += 0.0 if spec.critical else p95_s
        return tuple(reversed(found))


class LearnedState:
    """The state of all lanes, and the slot pressure that they share."""

    def __init__(self, policy: LanePolicy, observer: Observer) -> None:
        self._policy = policy
        self._changes = Changes(observer, policy.plan)
        self.lanes: dict[str, LaneState] = {}
        self.pressure = Pressure()
        self.disturbed_at = -inf
        """When blocking code or a busy machine last delayed queries (monotonic seconds)."""

    def __repr__(self) -> str:
        return f"<LearnedState {list(self.lanes.values())}>"

    @property
    def plan(self) -> Plan:
        """The plan of all lanes."""
        return self._policy.plan

    def lane(self, name: str) -> LaneState:
        """The state of a lane; lanes beyond MAX_LANES share one state."""
        state = self.lanes.get(name)
        if state is None and len(self.lanes) >= MAX_LANES:
            name = OTHER_LANES
            state = self.lanes.get(name)
        if state is None:
            state = self.lanes[name] = LaneState(name, self._policy, self.pressure)
        return state

    def forget(self) -> None:
        """Start again from nothing: the code that was learned about has been replaced."""
        self.lanes.clear()

    def tick(self, now: float, stuck: frozenset[str]) -> None:
        """Update the routing snapshots of all lanes, and report changes.

        Args:
            now: Monotonic seconds.
            stuck: Nodes that must not be called for now, in any lane.
        """
        for lane in self.lanes.values():
            if lane.routing.stuck != stuck:
                lane.routing.stuck = stuck
            lane.refresh_if_due(now)
            self._changes.report(lane)


def stuck_nodes(names: Sequence[str], most: int) -> frozenset[str]:
    """The nodes that occur at least *most* times among *names*, the nodes of abandoned calls."""
    return frozenset(name for name in set(names) if name and names.count(name) >= most)


def _rounded(seconds: float | None) -> float:
    """Round to half milliseconds, so that tiny changes do not change the snapshot; 0 for None."""
    return 0.0 if seconds is None else round(seconds * 2000) / 2000
