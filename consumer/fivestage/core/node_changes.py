"""Reports what changes in how nodes are treated: their breakers, and which of two is preferred."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fivestage.core.breaker import BreakerState
from fivestage.core.events import ControlChange

if TYPE_CHECKING:
    from fivestage.core.events import Observer
    from fivestage.core.policy import LanePolicy

WELL: Final = 0.98
"""The score from which on a node is reported as returned: one about the limit would go to and fro."""


class NodeChanges:
    """Compares each lane with what was reported of it."""

    __slots__ = ("_avoided", "_observer", "_states")

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._states: dict[tuple[str, str], BreakerState] = {}
        self._avoided: set[tuple[str, str]] = set()

    def look(self, lane: LanePolicy) -> None:
        """Report what is new in a lane's advice."""
        for name, node in lane.advice.nodes.items():
            if node.state is not self._states.get((lane.name, name), BreakerState.CLOSED):
                self._states[lane.name, name] = node.state
                self._observer.breaker_changed(lane.name, name, node.state)
                self._report("breaker", str(node.state), lane.nodes[name].breaker.why, lane, name)
            if lane.nodes[name].stand_in:
                self._look_at_choice(lane, name)

    def _look_at_choice(self, lane: LanePolicy, name: str) -> None:
        """Whether the node that answered in another's place is called instead of it."""
        stand_in, key = lane.nodes[name].stand_in, (lane.name, name)
        own, other = lane.advice.node(name), lane.advice.node(stand_in)
        if key not in self._avoided:
            if other.state is BreakerState.CLOSED and round(own.score, 1) < round(other.score, 1):
                self._avoided.add(key)
                why = f"health {own.score} of 1, that of node {stand_in!r} {other.score}"
                self._report("node_choice", "avoided", why, lane, name)
        elif own.state is BreakerState.CLOSED and own.score >= min(WELL, other.score):
            self._avoided.discard(key)
            in_a_row = lane.nodes[name].in_a_row
            why = f"its last {in_a_row} calls were answered" if in_a_row else "its failures are old"
            self._report("node_choice", "returned", f"health {own.score} of 1, {why}", lane, name)

    def _report(self, control: str, change: str, why: str, lane: LanePolicy, name: str) -> None:
        self._observer.control_changed(ControlChange(control, change, why, lane.name, name))
