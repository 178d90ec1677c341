"""What is learned from how queries end, lane by lane, and what follows from it for the next ones.

Lives on the bus, which sees every outcome, also those of executors that did not survive. What user code needs
of it is laid down in the lane's RoutingSnapshot.
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
    from fivestage.core.stage_history import StageRun

MAX_LANES = 32
"""Lanes beyond these share one policy: producers choose lanes, but not how much we remember."""
MAX_NODES = 256
ANSWERS = 200
"""How many of the last answers tell how long an answer takes."""
MIN_ANSWERS = 50
BACK_OFF = 1.25
"""An answer that did not come, although it was waited for longer than most take, counts as one that takes so
many times as long. As in TCP, which doubles its retransmission timer at each timeout (RFC 6298, 5.5), what is
known then rises until it is enough, also where a queue leaves nobody the whole time."""
REFRESH_S = 0.1
"""How often figures in the advice are brought up to date; breakers are at once."""
OTHER_LANES = "other"
_SUCCESS: Final = Outcome.SUCCESS
_TIMEOUT: Final = Outcome.TIMEOUT
_SUCCEEDED: Final = PipelineStatus.SUCCESS


@dataclass(frozen=True, slots=True)
class LanePolicy:
    """What the policies of all lanes have in common."""

    plan: Plan
    adaptive: AdaptivePolicy = field(default_factory=AdaptivePolicy)
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)
    jitter: Callable[[], float] = lambda: 0.0
    """Random numbers, 0..1."""


class LaneState:
    """One lane: learned limits, the time to an answer, its nodes."""

    __slots__ = (
        "_answers",
        "_pressure",
        "_refreshed_at",
        "_settings",
        "_trials",
        "limits",
        "name",
        "nodes",
        "routing",
    )  # fmt: skip

    def __init__(self, name: str, settings: LanePolicy, pressure: Pressure) -> None:
        self.name = name
        self._settings = settings
        self._pressure = pressure
        self.limits = tuple(LearnedLimit(spec.limit_s, settings.adaptive) for spec in settings.plan.stages)
        """In the order of the stages."""
        self.nodes: dict[str, NodeState] = {}
        self._answers = Window(ANSWERS)
        self._trials = Trials()
        self._refreshed_at = 0.0
        self.routing = RoutingSnapshot.neutral(settings.plan)

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
            outcome: How.
            superseded: Attempts that others followed.
            now: Monotonic seconds.
            disturbed_at: When something else last held it up: stages that had begun before and did not end in
                time say nothing about themselves.
        """
        self._trials.calls += 1
        if outcome.status is _SUCCEEDED and not (outcome.degraded or superseded):
            self._went_well(outcome, now)
            return
        rejected = outcome.validated is False
        for run in (*superseded, *outcome.runs):
            if run.started_at is None:
                continue
            if run.outcome is _TIMEOUT and run.started_at <= disturbed_at:
                self._spare(run)
                continue
            if run.node is not None and run.spec.stage_type is StageType.PROCESSING:
                self._learn_node(run.node, run, now, rejected=rejected)
            self._learn_limit(run)
        if superseded and outcome.status is _SUCCEEDED:
            for run in superseded:
                if run.node in self.nodes:
                    self.nodes[run.node].fallback = outcome.node or ""
        self._learn_answer_time(outcome)

    def _went_well(self, outcome: QueryOutcome, now: float) -> None:
        """The same for a query of which all stages did at once what they were asked: nearly every one."""
        last: StageRun | None = None
        for limit, run in zip(self.limits, outcome.runs, strict=True):
            limit.succeeded(run.duration_s)
            if run.spec.critical:
                last = run
            if run.node is not None:
                self._learn_node(run.node, run, now)
        if last is not None and last.started_at is not None:
            self._answers.add(last.started_at + last.duration_s - outcome.started_at)

    def _spare(self, run: StageRun) -> None:
        node = self.nodes.get(run.node or "")
        if node is not None:
            node.spare(run)

    def answer_time_s(self, share: float) -> float | None:
        """Within what time *share* of the answers are there; None while unknown."""
        if len(self._answers) < MIN_ANSWERS:
            return None
        found = self._answers.quantile(share)
        return None if found is None else min(found, self._settings.plan.total_s)

    def refresh(self, now: float) -> None:
        """Bring the advice up to date."""
        self._refreshed_at = now
        routing = self.routing
        stages = self._stage_routing(now)
        if stages != routing.stages:
            routing.stages = stages
        nodes = {name: node.routing(now) for name, node in self.nodes.items()}
        if nodes != routing.nodes:
            routing.nodes = nodes
        for name, node in self.nodes.items():
            if nodes[name].state is not BreakerState.HALF_OPEN:
                routing.probes.pop(name, None)
                continue
            if name in routing.probes:
                node.breaker.release_probe()  # nobody has taken it: its time begins anew
            if node.breaker.try_probe(now):
                routing.probes[name] = True
        self._trials.refresh(now, self.nodes, routing)

    def refresh_if_due(self, now: float) -> None:
        """The same, at most every REFRESH_S."""
        if now - self._refreshed_at >= REFRESH_S:
            self.refresh(now)

    def _advised_s(self, run: StageRun) -> float:
        """The limit that stages are told of: rounded, and perhaps not yet what was learned since."""
        return self.routing.stages[run.spec.sequence].limit_s

    def _learn_limit(self, run: StageRun) -> None:
        limit = self.limits[run.spec.sequence]
        if run.outcome is _SUCCESS:
            limit.succeeded(run.duration_s)
        elif run.outcome is _TIMEOUT and had_fair_share(run, self._advised_s(run)):
            limit.timed_out(run.duration_s)  # one that was cut shorter says nothing about the limit

    def _learn_node(self, name: str, run: StageRun, now: float, *, rejected: bool = False) -> None:
        node = self.nodes.get(name)
        if node is None:
            if len(self.nodes) >= MAX_NODES:
                return
            node = self.nodes[name] = NodeState(self._settings.breaker, self._settings.jitter)
        state = node.breaker.state(now)
        learning = self.limits[run.spec.sequence].is_learned
        node.record(run, now, limit_s=self._advised_s(run), learning=learning, rejected=rejected)
        if node.breaker.state(now) is not state:
            self.refresh(now)

    def _learn_answer_time(self, outcome: QueryOutcome) -> None:
        if outcome.status is _SUCCEEDED:
            ends = [
                run.started_at + run.duration_s
                for run in outcome.runs
                if run.spec.critical and run.started_at is not None
            ]
            if ends:
                self._answers.add(max(ends) - outcome.started_at)
        elif outcome.status is PipelineStatus.TIMEOUT:
            expected_s = self.answer_time_s(0.5) or self._settings.plan.total_s
            if outcome.duration_s >= expected_s - SLACK_S:  # with less it was no surprise
                self._answers.add(BACK_OFF * outcome.duration_s)

    def _stage_routing(self, now: float) -> tuple[StageRouting, ...]:
        found: list[StageRouting] = []
        scarce = self._pressure.costs_answers(now)
        p50_s = [limit.p50_s or 0.0 for limit in self.limits] if scarce else []
        reserve_s = 0.0
        for spec, limit in zip(reversed(self._settings.plan.stages), reversed(self.limits), strict=True):
            other_s = sum(p50_s) - p50_s[spec.sequence] if scarce else 0.0
            limit_s = _rounded(limit.in_force_s(scarce=scarce, other_s=other_s))
            p95_s = _rounded(limit.p95_s)
            found.append(StageRouting(limit_s, p95_s, reserve_s, _rounded(limit.p50_s)))
            reserve_s += p95_s if spec.critical else 0.0
        return tuple(reversed(found))


class LearnedState:
    """The policies of all lanes."""

    def __init__(self, settings: LanePolicy, observer: Observer) -> None:
        self._settings = settings
        self._changes = Changes(observer, self._settings.plan)
        self.lanes: dict[str, LaneState] = {}
        self.pressure = Pressure()
        self.disturbed_at = -inf
        """When queries were last held up by what is not their own doing (monotonic seconds)."""

    def __repr__(self) -> str:
        return f"<LearnedState {list(self.lanes.values())}>"

    @property
    def plan(self) -> Plan:
        """The plan that all lanes start from."""
        return self._settings.plan

    def lane(self, name: str) -> LaneState:
        """The policy of a lane."""
        policy = self.lanes.get(name)
        if policy is None:
            if len(self.lanes) >= MAX_LANES:
                name = OTHER_LANES
            policy = self.lanes.get(name)
        if policy is None:
            policy = self.lanes[name] = LaneState(name, self._settings, self.pressure)
        return policy

    def tick(self, now: float, stuck: frozenset[str]) -> None:
        """Bring the advice of all lanes up to date.

        Args:
            now: Monotonic seconds.
            stuck: Nodes that are not to be called for now, in any lane.
        """
        for lane in self.lanes.values():
            if lane.routing.stuck != stuck:
                lane.routing.stuck = stuck
            lane.refresh_if_due(now)
            self._changes.look(lane)


def stuck_nodes(names: Sequence[str], most: int) -> frozenset[str]:
    """Those that occur *most* times or more among the names of code that did not come back."""
    return frozenset(name for name in set(names) if name and names.count(name) >= most)


def _rounded(seconds: float | None) -> float:
    """To half milliseconds, so that advice changes only when it matters; 0 for what is unknown."""
    return 0.0 if seconds is None else round(seconds * 2000) / 2000
