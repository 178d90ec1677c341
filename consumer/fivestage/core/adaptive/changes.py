"""Reports control changes in a lane: breakers, the preferred one of two nodes, stage limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fivestage.core.adaptive.breaker import BreakerState
from fivestage.core.adaptive.node_state import SLACK_S
from fivestage.core.observer import ControlChange

if TYPE_CHECKING:
    from fivestage.core.adaptive.lane_state import LaneState
    from fivestage.core.observer import Observer
    from fivestage.core.plan import Plan, StageSpec
    from fivestage.core.routing_snapshot import StageRouting

RETURNED_SCORE: Final = 0.98
"""The score (or that of the fallback, if lower) at which a node is reported as returned: well above the score
at which it is avoided, so that reports do not alternate."""


class Changes:
    """Compares the state of each lane with the last reported state."""

    __slots__ = ("_avoided", "_lowered", "_observer", "_plan", "_states")

    def __init__(self, observer: Observer, plan: Plan) -> None:
        self._observer = observer
        self._plan = plan
        self._lowered: set[tuple[str, str]] = set()
        """Lane and stage of each limit that was reported as lowered."""
        self._states: dict[tuple[str, str], BreakerState] = {}
        self._avoided: set[tuple[str, str]] = set()

    def report(self, lane: LaneState) -> None:
        """Report the changes in the routing snapshot of a lane."""
        for name, node in lane.routing.nodes.items():
            if node.state is not self._states.get((lane.name, name), BreakerState.CLOSED):
                self._states[lane.name, name] = node.state
                self._observer.breaker_changed(lane.name, name, node.state)
                self._report("breaker", str(node.state), lane.nodes[name].breaker.why, lane, name)
            if lane.nodes[name].fallback:
                self._report_choice(lane, name)
        for spec, stage in zip(self._plan.stages, lane.routing.stages, strict=True):
            self._report_limit(lane, spec, stage)

    def _report_limit(self, lane: LaneState, spec: StageSpec, stage: StageRouting) -> None:
        """Report a stage limit that falls below the configured one, or returns to it."""
        key, configured_ms = (lane.name, spec.stage_type), spec.limit_s * 1000
        limit = f"{stage.limit_s * 1000:g} ms"
        if key not in self._lowered and stage.limit_s < spec.limit_s - SLACK_S:
            self._lowered.add(key)
            why = f"{limit} of {configured_ms:g}: queries wait, and this limit gives more answers"
            self._report("stage_limit", "lowered", why, lane, spec.stage_type)
        elif key in self._lowered and stage.limit_s >= spec.limit_s - SLACK_S:
            self._lowered.discard(key)
            why = f"{limit}: a lower limit gains nothing"
            self._report("stage_limit", "restored", why, lane, spec.stage_type)

    def _report_choice(self, lane: LaneState, name: str) -> None:
        """Report a node that its fallback now replaces, or that is preferred again."""
        fallback, key = lane.nodes[name].fallback, (lane.name, name)
        own, other = lane.routing.node(name), lane.routing.node(fallback)
        if key not in self._avoided:
            if other.state is BreakerState.CLOSED and round(own.score, 1) < round(other.score, 1):
                self._avoided.add(key)
                why = f"health {own.score} of 1, that of node {fallback!r} {other.score}"
                self._report("node_choice", "avoided", why, lane, name)
        elif own.state is BreakerState.CLOSED and own.score >= min(RETURNED_SCORE, other.score):
            self._avoided.discard(key)
            in_a_row = lane.nodes[name].in_a_row
            why = f"its last {in_a_row} calls were answered" if in_a_row else "its failures are old"
            self._report("node_choice", "returned", f"health {own.score} of 1, {why}", lane, name)

    def _report(self, control: str, change: str, why: str, lane: LaneState, subject: str) -> None:
        self._observer.control_changed(ControlChange(control, change, why, lane.name, subject))
