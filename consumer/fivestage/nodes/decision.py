"""The built-in decision stage: from the intent to a node."""

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
"""The intent of a node that takes whatever no other node takes."""
LAST_RESORT = "facts"
"""The node that is asked when nothing else fits; it may honestly answer that it does not know."""


def decision_stage(nodes: Mapping[str, Node]) -> Callable[[Query, StageContext], Awaitable[str]]:
    """The stage function for *nodes*: the healthiest candidate whose breaker lets it be called.

    Now and then it is another one of the same intent, to find out whether that has recovered.

    Raises (when called):
        NoNodeError: no node takes the intent and there is none to fall back to.
    """

    async def decision(query: Query, ctx: StageContext) -> str:  # noqa: ARG001
        intent = intent_of(ctx.results.get(StageType.INTENT))
        groups = candidate_groups(nodes, intent)
        if not groups:
            raise NoNodeError(_routing(nodes, intent))
        if ctx.routing.trials and intent in nodes[groups[0][0]].intents:  # else none could answer after it
            tried = ctx.routing.trial_of(groups[0], ctx.deadline - ctx.clock())
            if tried is not None:
                ctx.on_trial = True
                return tried
        allowed = next(filter(None, map(ctx.rank_nodes, groups)), groups[0])
        return allowed[0]  # where no breaker lets any be called, processing says so

    return decision


def candidates(nodes: Mapping[str, Node], intent: str) -> list[str]:
    """The nodes that may answer a query of this intent, the preferred one first; empty if there is none."""
    return [name for group in candidate_groups(nodes, intent) for name in group]


def candidate_groups(nodes: Mapping[str, Node], intent: str) -> list[list[str]]:
    """The same in groups: health decides within a group, not between them.

    Nodes that take the intent come before those that take ``general``, and ``facts`` is the last resort.
    Within each group the user's nodes come before the built-in ones, for who registers a node for
    ``mathematical`` wants it used without having to remove the built-in one; among the user's the order of
    registration decides, as long as all are well.
    """
    own = _taking(nodes, intent)
    general = [name for name in _taking(nodes, GENERAL) if name not in own]
    last = [LAST_RESORT] if LAST_RESORT in nodes and LAST_RESORT not in own + general else []
    return [group for group in (own, general, last) if group]


def same_intent(nodes: Mapping[str, Node], intent: str, chosen: str | None) -> list[str]:
    """The nodes that may stand in for *chosen*: those that declare the intent that it was chosen for."""
    if chosen is None or chosen not in nodes or intent not in nodes[chosen].intents:
        return []
    return [name for name in _taking(nodes, intent) if name != chosen]


def intent_of(result: Any) -> str:
    """The intent in what an intent stage returned: a mapping with ``intent``, or the name itself."""
    found = result.get("intent") if isinstance(result, Mapping) else result
    return found if isinstance(found, str) and found else GENERAL


def _taking(nodes: Mapping[str, Node], intent: str) -> list[str]:
    users: list[str] = []
    builtins: list[str] = []
    for name, node in nodes.items():
        if intent in node.intents:
            (builtins if node.is_builtin else users).append(name)
    return users + builtins


def _routing(nodes: Mapping[str, Node], intent: str) -> str:
    known = ", ".join(sorted(nodes)) or "none"
    return (
        f"no node takes the intent {intent[:50]!r} (registered: {known}); "
        f"declare one with @app.node(name, intents={{{intent[:50]!r}}}) or one with intents={{'general'}}"
    )
