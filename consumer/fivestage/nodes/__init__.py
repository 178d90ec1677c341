"""The stages and nodes that a Pipeline starts with.

``intent``, ``decision``, ``validation`` and ``reflection`` are one stage each; ``math`` and ``facts`` are
nodes; ``text`` makes words comparable. Used by ``Pipeline``. None of them blocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fivestage.nodes.decision import decision_stage
from fivestage.nodes.facts.node import builtin_facts
from fivestage.nodes.intent import intent
from fivestage.nodes.math.node import solve, validate
from fivestage.nodes.reflection import reflection
from fivestage.nodes.validation import validation_stage
from fivestage.pipeline.node import Handler, Node
from fivestage_schemas import StageType

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["builtin_nodes", "builtin_stages"]


def builtin_stages(nodes: Mapping[str, Node]) -> Mapping[StageType, Callable[..., Any]]:
    """The built-in stages, without processing, which calls a node. The stages read *nodes* when they run."""
    return {
        StageType.INTENT: intent,
        StageType.DECISION: decision_stage(nodes),
        StageType.VALIDATION: validation_stage(nodes),
        StageType.REFLECTION: reflection,
    }


def builtin_nodes() -> dict[str, Node]:
    """The built-in nodes by name.

    The index of facts is built here, once per process: the first query would miss its deadline if it had to
    build the index. A pipeline without built-in nodes does not build it.
    """
    countries = builtin_facts()
    return {
        "math": _node("math", "mathematical", solve, validate),
        "facts": _node("facts", "factual", countries.lookup, countries.validate),
    }


def _node(name: str, intent: str, call: Callable[..., Any], validate: Callable[..., Any]) -> Node:
    check = Handler.of(f"{name}.validate", validate)
    return Node(Handler.of(name, call), frozenset({intent}), check, is_builtin=True)
