"""Chooses the node to fail over to, and permits the trial of a node that decision chose.

Called by the stage runner, which follows decision's choice otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fivestage.nodes.decision import intent_of, same_intent
from fivestage_schemas import StageType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fivestage.core.routing_snapshot import RoutingSnapshot
    from fivestage.pipeline.context import StageContext
    from fivestage.pipeline.node import Node


def fallback_node(
    nodes: Mapping[str, Node],
    routing: RoutingSnapshot,
    ctx: StageContext,
    failed: Sequence[str | None],
    left_s: float,
) -> str | None:
    """The best node that takes the same intent as decision's choice and may be called; None without one.

    Args:
        nodes: All nodes by name.
        routing: Which nodes may be called, and how good they are.
        ctx: Has the results of intent and decision.
        failed: Nodes that failed for this query already. After a failure, *left_s* must cover the time that
            the next node is known to need.
        left_s: What the stage may still take, in seconds.
    """
    for name in routing.rank(alternatives(nodes, ctx)):
        if name not in failed and (not failed or left_s >= needed_s(nodes[name], name, routing)):
            return name
    return None


def needed_s(node: Node, name: str, routing: RoutingSnapshot) -> float:
    """The time that a node needs to answer, in seconds: as known, at most the limit that it declares."""
    known_s = routing.needed_s(name)
    return known_s if node.rules is None else min(known_s, node.rules.timeout_s)


def start_trial(
    nodes: Mapping[str, Node], routing: RoutingSnapshot, ctx: StageContext, left_s: float
) -> float:
    """Take the permit to try the node that decision chose.

    Returns:
        Seconds that the call may take, so that another node can answer if that fails; 0.0 if there is no
        permit any more, no other node, or too little time.
    """
    ctx.on_trial = False
    chosen: Any = ctx.results.get(StageType.DECISION)
    others = routing.rank(alternatives(nodes, ctx))
    most_s = routing.trial_s(chosen, others[0], left_s) if others else 0.0
    return most_s if most_s > 0 and routing.take_trial(chosen) else 0.0


def alternatives(nodes: Mapping[str, Node], ctx: StageContext) -> list[str]:
    """The nodes that take the same intent as decision's choice."""
    intent = intent_of(ctx.results.get(StageType.INTENT))
    return same_intent(nodes, intent, ctx.results.get(StageType.DECISION))
