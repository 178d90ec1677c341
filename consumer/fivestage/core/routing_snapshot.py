"""What is known beforehand, told to the code that runs the stages: limits, needs, breakers, health.

Kept current by the bus, which sees every outcome; read where user code runs, possibly in another thread.
Each change is one assignment, so a reader sees the old or the new.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from fivestage.core.adaptive.breaker import BreakerState
from fivestage_schemas import StageType

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from fivestage.core.plan import Plan


class StageRouting(NamedTuple):
    """What is known of one stage; seconds."""

    limit_s: float
    """The limit in force: configured, or learned."""
    p95_s: float = 0.0
    """What it takes in 95 of 100 cases; 0 while unknown."""
    reserve_s: float = 0.0
    """What the critical stages after it are known to need."""
    p50_s: float = 0.0
    """What it takes in half of the cases; 0 while unknown."""


class NodeRouting(NamedTuple):
    """What is known of one node."""

    state: BreakerState = BreakerState.CLOSED
    score: float = 1.0
    """Health, 0..1."""
    p95_s: float | None = None
    """What it takes in 95 of 100 cases; None while unknown."""


UNKNOWN: Final = NodeRouting()
TRIAL_SLACK_S: Final = 0.005
"""What it takes to go from a trial that failed to the node that answers instead."""
_PROCESSING: Final = list(StageType).index(StageType.PROCESSING)
_CLOSED: Final = BreakerState.CLOSED
_OPEN: Final = BreakerState.OPEN
_HALF_OPEN: Final = BreakerState.HALF_OPEN


class RoutingSnapshot:
    """All that is known about one lane."""

    __slots__ = ("nodes", "probes", "stages", "stuck", "trials")

    def __init__(self, stages: tuple[StageRouting, ...]) -> None:
        self.stages = stages
        """In the order of the stages."""
        self.nodes: Mapping[str, NodeRouting] = {}
        self.probes: dict[str, bool] = {}
        """Half-open nodes that may be tried once; who takes the entry may."""
        self.trials: dict[str, bool] = {}
        """Nodes that are passed over and may be tried once, where another can answer after them."""
        self.stuck: frozenset[str] = frozenset()
        """Nodes too many of whose calls have not come back: they get no more until those do."""

    @classmethod
    def neutral(cls, plan: Plan) -> RoutingSnapshot:
        """Nothing is known yet."""
        return cls(tuple(StageRouting(spec.limit_s) for spec in plan.stages))

    def __repr__(self) -> str:
        limits = ", ".join(f"{stage.limit_s * 1000:.0f}" for stage in self.stages)
        return f"<RoutingSnapshot limits=[{limits}] ms nodes={dict(self.nodes)} stuck={sorted(self.stuck)}>"

    def node(self, name: str) -> NodeRouting:
        """What is known of a node."""
        return self.nodes.get(name, UNKNOWN)

    def allows(self, name: str) -> bool:
        """Whether a node may be called, as far as can be seen without calling it."""
        state = self.node(name).state
        closed = state is _CLOSED or (state is _HALF_OPEN and name in self.probes)
        return closed and name not in self.stuck

    def rejection(self, name: str) -> tuple[str, str]:
        """Why a node may not be called: the error's type, and its text."""
        if name in self.stuck:
            return "node_stuck", f"node {name!r} is not called: too many of its calls have not come back"
        return "breaker_open", f"node {name!r} is not called: its breaker is open"

    def rank(self, names: Iterable[str]) -> list[str]:
        """Those of *names* that may be called, the best first.

        A half-open node whose probe is due goes first: it can only be found well by being tried. Then the
        healthiest; scores that differ by less than a tenth are equal, so that the given order decides.
        """
        return sorted(
            filter(self.allows, names),
            key=lambda name: (name not in self.probes, -round(self.node(name).score, 1)),
        )

    def trial_of(self, names: Sequence[str], left_s: float) -> str | None:
        """The node of *names* to try now, though others are better.

        Args:
            names: Nodes of which each may answer after another failed.
            left_s: What is left of the query's time.
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
        """How long a trial may take so that *other* can answer after it; 0 where that is too short."""
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
        """What a node needs to answer: what it is known to take, at most the limit."""
        stage, p95_s = self.stages[_PROCESSING], self.node(name).p95_s
        return (stage.p95_s or stage.limit_s) if p95_s is None else min(p95_s, stage.limit_s)

    def take_trial(self, name: str) -> bool:
        """Take the permit for a trial; False where there is none."""
        return self.trials.pop(name, None) is not None

    def take_probe(self, name: str) -> bool:
        """Take the permit for the call that a half-open breaker lets through; False where there is none."""
        return self.probes.pop(name, None) is not None


def wants_trial(known: NodeRouting) -> bool:
    """Whether a node is passed over wherever there is a better one. Half open it has its probes."""
    return known.state is _OPEN or (known.state is _CLOSED and round(known.score, 1) < 1)
