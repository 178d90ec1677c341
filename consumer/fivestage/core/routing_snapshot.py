"""Snapshot of limits, breakers and node health for the stage runner.

Updated on the bus loop, which sees every outcome; read where user code runs: in another thread, or as a copy
in a worker process. Each update is one assignment, so a reader sees the old value or the new one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from fivestage.core.adaptive.breaker import BreakerState
from fivestage_schemas import StageType

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from fivestage.core.plan import Plan


class StageRouting(NamedTuple):
    """The figures of one stage, in seconds."""

    limit_s: float
    """The limit in force: configured, or learned."""
    p95_s: float = 0.0
    """The p95 of its duration; 0 while unknown."""
    reserve_s: float = 0.0
    """The sum of the p95 of the later critical stages."""
    p50_s: float = 0.0
    """The median of its duration; 0 while unknown."""
    later_s: float = 0.0
    """The sum of the p95 of the later stages that are not critical."""


class NodeRouting(NamedTuple):
    """The figures of one node."""

    state: BreakerState = BreakerState.CLOSED
    score: float = 1.0
    """Health, 0..1."""
    p95_s: float | None = None
    """The p95 of the durations of its calls; None while unknown."""
    p50_s: float | None = None
    """Their median; None while unknown."""
    hedge_after_s: float | None = None
    """After how many seconds its calls are hedged; None while that is unknown, or if they are not."""


UNKNOWN: Final = NodeRouting()
TRIAL_SLACK_S: Final = 0.005
"""Seconds from the end of a failed trial to the call of the node that answers instead."""
_PROCESSING: Final = list(StageType).index(StageType.PROCESSING)
_CLOSED: Final = BreakerState.CLOSED
_OPEN: Final = BreakerState.OPEN
_HALF_OPEN: Final = BreakerState.HALF_OPEN


class RoutingSnapshot:
    """The figures of one lane, and the permits for probes and trials."""

    __slots__ = ("max_extra_load", "nodes", "probes", "stages", "stuck", "trials")

    def __init__(self, stages: tuple[StageRouting, ...]) -> None:
        self.stages = stages
        """The figures of each stage, in the order of the stages."""
        self.nodes: Mapping[str, NodeRouting] = {}
        self.probes: dict[str, bool] = {}
        """Half-open nodes that may be called once: the holder of the permit makes the probe call."""
        self.trials: dict[str, bool] = {}
        """Low-ranked nodes that may be called once, if another node can still answer after a failure."""
        self.stuck: frozenset[str] = frozenset()
        """Nodes with too many calls that do not return: not called until some return."""
        self.max_extra_load = 0.0
        """The share of the calls of a node that may be hedged; 0.0 = none."""

    @classmethod
    def neutral(cls, plan: Plan) -> RoutingSnapshot:
        """The snapshot before anything is learned: the configured limits."""
        return cls(tuple(StageRouting(spec.limit_s) for spec in plan.stages))

    def __repr__(self) -> str:
        limits = ", ".join(f"{stage.limit_s * 1000:.0f}" for stage in self.stages)
        return f"<RoutingSnapshot limits=[{limits}] ms nodes={dict(self.nodes)} stuck={sorted(self.stuck)}>"

    def node(self, name: str) -> NodeRouting:
        """The figures of a node; the defaults while nothing is learned."""
        return self.nodes.get(name, UNKNOWN)

    def allows(self, name: str) -> bool:
        """Whether a node's breaker and its abandoned calls allow another call."""
        state = self.node(name).state
        closed = state is _CLOSED or (state is _HALF_OPEN and name in self.probes)
        return closed and name not in self.stuck

    def rejection(self, name: str) -> tuple[str, str]:
        """The error type and text for a node that may not be called."""
        if name in self.stuck:
            return "node_stuck", f"node {name!r} is not called: too many of its calls have not come back"
        return "breaker_open", f"node {name!r} is not called: its breaker is open"

    def rank(self, names: Iterable[str]) -> list[str]:
        """The nodes of *names* that may be called, the best first.

        A half-open node whose probe is due comes first, since only a call can close its breaker. The others
        follow by health; scores are rounded to tenths, and the given order decides between equal ones.
        """
        return sorted(
            filter(self.allows, names),
            key=lambda name: (name not in self.probes, -round(self.node(name).score, 1)),
        )

    def trial_of(self, names: Sequence[str], left_s: float) -> str | None:
        """The node of *names* to call now as a trial, although others rank higher; None for no trial.

        Args:
            names: Nodes that can replace each other.
            left_s: The time left for the query.
        """
        if not self.trials:
            return None
        for name in names:
            if name in self.trials:
                others = self.rank([other for other in names if other != name])
                if others and others[0] not in self.probes and self.trial_s(name, others[0], left_s) > 0:
                    return name
        return None

    def trial_s(self, name: str, other: str, left_s: float) -> float:
        """How long a trial of *name* may take for *other* to still answer in time; 0 if it must not start."""
        stage = self.stages[_PROCESSING]
        if name in self.stuck:
            return 0.0
        most_s = left_s - stage.reserve_s - self.needed_s(other) - TRIAL_SLACK_S
        p95_s = self.node(name).p95_s
        expected_s = stage.p50_s or stage.limit_s / 2
        if p95_s is not None and p95_s < stage.limit_s:
            expected_s = p95_s
        return most_s if most_s >= expected_s else 0.0

    def needed_s(self, name: str) -> float:
        """The time that a node needs to answer: its p95, or else the stage's p95, at most the limit."""
        stage, p95_s = self.stages[_PROCESSING], self.node(name).p95_s
        return (stage.p95_s or stage.limit_s) if p95_s is None else min(p95_s, stage.limit_s)

    def expected_s(self, name: str) -> float:
        """The time that a node usually takes: its median, or else the stage's, or half of the limit."""
        stage, p50_s = self.stages[_PROCESSING], self.node(name).p50_s
        return (stage.p50_s or stage.limit_s / 2) if p50_s is None else min(p50_s, stage.limit_s)

    def take_trial(self, name: str) -> bool:
        """Take the permit for a trial; False if there is none."""
        return self.trials.pop(name, None) is not None

    def take_probe(self, name: str) -> bool:
        """Take the permit for the probe of a half-open breaker; False if there is none."""
        return self.probes.pop(name, None) is not None


def wants_trial(known: NodeRouting) -> bool:
    """Whether a node needs trials: it ranks low, or its breaker is open; half-open nodes get probes."""
    return known.state is _OPEN or (known.state is _CLOSED and round(known.score, 1) < 1)
