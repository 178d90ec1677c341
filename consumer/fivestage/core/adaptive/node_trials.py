"""Issues permits for trial calls of low-ranked nodes, to find out whether they have recovered.

A node that ranks low is not called while another one handles the same intent, so its recovery would go
unnoticed. As in every bandit problem a small share of the calls explores: here one in a hundred, and only if
the other node can still answer in time after a failed trial (``RoutingSnapshot.trial_of``). Once a trial is
answered, the next follow without a pause: they lose nothing.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from fivestage.core.routing_snapshot import wants_trial

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fivestage.core.adaptive.node_state import NodeState
    from fivestage.core.routing_snapshot import RoutingSnapshot

EVERY_CALLS: Final = 100
"""Calls of the fallback node, or queries of the lane while no fallback is known, for each trial."""
EVERY_S: Final = 1.0
"""Fewest seconds from one trial of a node to the next."""


class Trials:
    """Issues the trial permits of one lane."""

    __slots__ = ("_since", "calls")

    def __init__(self) -> None:
        self.calls = 0
        """Queries of the lane that have ended; counted by the lane."""
        self._since: dict[str, tuple[float, int, str]] = {}
        """For each node: when it was last called or had a permit, the calls of its fallback (or queries of
        the lane) that had ended by then, and the name of that fallback."""

    def __repr__(self) -> str:
        return f"<Trials calls={self.calls} of {sorted(self._since)}>"

    def refresh(self, now: float, nodes: Mapping[str, NodeState], routing: RoutingSnapshot) -> None:
        """Issue and withdraw permits in *routing*, after its nodes were updated."""
        for name, known in routing.nodes.items():
            if not wants_trial(known):
                if self._since.pop(name, None) is not None:
                    routing.trials.pop(name, None)
                continue
            node = nodes[name]
            other = nodes.get(node.fallback)
            calls = self.calls if other is None else other.calls
            if self._update_due(name, node, now, calls, waits=name in routing.trials):
                routing.trials[name] = True
                node.is_on_trial = True
                self._since[name] = now, calls, node.fallback

    def _update_due(self, name: str, node: NodeState, now: float, calls: int, *, waits: bool) -> bool:
        """Restart the time to the next trial if the node was called; return whether a trial is due."""
        since, before, fallback = self._since.get(name, (-inf, 0, ""))
        called = since < node.tried_at or fallback != node.fallback
        if waits or called:  # the permit is still there, or the node was called since
            self._since[name] = now, calls, node.fallback
        if waits:
            return False
        if node.is_on_trial and node.in_a_row:
            return True
        return not called and now - since >= EVERY_S and calls - before >= EVERY_CALLS
