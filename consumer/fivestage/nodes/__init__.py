"""The stages and nodes that a Pipeline starts with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fivestage.nodes import facts, math
from fivestage.nodes.decision import decision_stage
from fivestage.nodes.intent import intent
from fivestage.nodes.reflection import reflection
from fivestage.nodes.validation import validation_stage
from fivestage_schemas import StageType

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fivestage.app import Pipeline

__all__ = ["builtin_nodes", "builtin_stages"]

BuiltinNode = tuple["Callable[..., Any]", frozenset[str], "Callable[..., Any] | None"]


def builtin_stages(app: Pipeline) -> Mapping[StageType, Callable[..., Any]]:
    """The stages besides processing, which is the node itself. They look at *app* when they run."""
    return {
        StageType.INTENT: intent,
        StageType.DECISION: decision_stage(app),
        StageType.VALIDATION: validation_stage(app),
        StageType.REFLECTION: reflection,
    }


def builtin_nodes() -> Mapping[str, BuiltinNode]:
    """The nodes by name: what runs, the intents it takes, how its answer is checked.

    The index of facts is built here, once a process, and not by the first query: that one would miss its
    deadline. A pipeline without built-in nodes does not pay for it.
    """
    countries = facts.builtin_facts()
    return {
        "math": (math.solve, frozenset({"mathematical"}), math.validate),
        "facts": (countries.lookup, frozenset({"factual"}), countries.validate),
    }
