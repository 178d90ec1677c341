"""The built-in decision stage: chooses a node for the intent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fivestage.errors import NoNodeError
from fivestage_schemas import StageType

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fivestage.pipeline.context import Query, StageContext
    from fivestage.pipeline.node import Node

GENERAL = "general"
"""The intent of nodes that take what no other node takes."""
LAST_RESORT = "facts"
"""The node that is called if nothing else fits; it may answer that it does not know."""


def decision_stage(nodes: Mapping[str, Node]) -> Callable[[Query, StageContext], Awaitable[str]]:
    """Make the stage function for *nodes*: it returns the healthiest candidate that may be called.

    Now and then it returns another node of the same intent, to test whether that node has recovered. It
    raises NoNodeError if no node takes the intent and there is none to fall back to.
    """

    async def decision(query: Query, ctx: StageContext) -> str:  # noqa: ARG001
        intent = intent_of(ctx.results.get(StageType.INTENT))
        groups = candidate_groups(nodes, intent)
        if not groups:
            raise NoNodeError(_no_node(nodes, intent))
        if ctx.routing.trials and intent in nodes[groups[0][0]].intents:  # else no other node could answer
            tried = ctx.routing.trial_of(groups[0], ctx.deadline - ctx.clock())
            if tried is not None:
                ctx.on_trial = True
                return tried
        allowed = next(filter(None, map(ctx.rank_nodes, groups)), groups[0])
        return allowed[0]  # if none may be called, processing reports why

    return decision


def candidate_groups(nodes: Mapping[str, Node], intent: str) -> list[list[str]]:
    """The nodes that may answer a query of *intent*, in groups; health decides within a group only.

    Nodes that take the intent come first, then those that take ``general``, and ``facts`` is the last resort.
    Within a group, the author's nodes come before the built-in ones, so that a node for ``mathematical`` is
    used without removing the built-in one. Among the author's nodes the order of registration decides, as
    long as all are healthy.
    """
    own = _taking(nodes, intent)
    general = [name for name in _taking(nodes, GENERAL) if name not in own]
    last = [LAST_RESORT] if LAST_RESORT in nodes and LAST_RESORT not in own + general else []
    return [group for group in (own, general, last) if group]


def same_intent(nodes: Mapping[str, Node], intent: str, chosen: str | None) -> list[str]:
    """The other nodes that declare *intent*; empty unless *chosen* declares it too."""
    if chosen is None or chosen not in nodes or intent not in nodes[chosen].intents:
        return []
    return [name for name in _taking(nodes, intent) if name != chosen]


def intent_of(result: Any) -> str:
    """The intent in what an intent stage returned: a mapping with ``intent``, or the intent itself."""
    found = result.get("intent") if isinstance(result, Mapping) else result
    return found if isinstance(found, str) and found else GENERAL


def _taking(nodes: Mapping[str, Node], intent: str) -> list[str]:
    users: list[str] = []
    builtins: list[str] = []
    for name, node in nodes.items():
        if intent in node.intents:
            (builtins if node.is_builtin else users).append(name)
    return users + builtins


def _no_node(nodes: Mapping[str, Node], intent: str) -> str:
    known = ", ".join(sorted(nodes)) or "none"
    return (
        f"no node takes the intent {intent[:50]!r} (registered: {known}); "
        f"declare one with @app.node(name, intents={{{intent[:50]!r}}}) or one with intents={{'general'}}"
    )
