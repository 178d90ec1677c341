from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fivestage import NoNodeError, Pipeline
from fivestage.core.adaptive.breaker import BreakerState
from fivestage.core.routing_snapshot import NodeRouting, RoutingSnapshot
from fivestage.nodes.decision import candidate_groups, intent_of, same_intent
from fivestage_schemas import StageType

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fivestage.pipeline.node import Node


def declare(app: Pipeline, name: str, *intents: str) -> None:
    """Register a node that answers its own name."""

    @app.node(name, intents=intents)
    async def answer(query: Any, ctx: Any) -> str:  # noqa: ARG001
        return name


def candidates(nodes: Mapping[str, Node], intent: str) -> list[str]:
    """The nodes that may answer, the preferred one first."""
    return [name for group in candidate_groups(nodes, intent) for name in group]


def test_builtin_nodes() -> None:
    """Sums go to math, everything else to facts."""
    app = Pipeline()
    assert candidates(app.nodes, "mathematical") == ["math", "facts"]
    assert [candidates(app.nodes, intent) for intent in ("factual", "greeting", "general")] == [["facts"]] * 3


def test_user_before_builtin() -> None:
    """A user's node is preferred to a built-in one, and among users' nodes the first registered."""
    app = Pipeline()
    declare(app, "first", "mathematical")
    declare(app, "second", "mathematical")
    assert candidates(app.nodes, "mathematical") == ["first", "second", "math", "facts"]


def test_general_before_facts() -> None:
    """A node that takes ``general`` gets queries that no other takes; facts comes last."""
    app = Pipeline()
    declare(app, "chat", "general")
    assert candidates(app.nodes, "greeting") == ["chat", "facts"]
    assert candidates(app.nodes, "general") == ["chat", "facts"]
    assert candidates(app.nodes, "factual") == ["facts", "chat"]


def test_replaced_builtin() -> None:
    """A node registered under a built-in name counts as the user's."""
    app = Pipeline()
    declare(app, "facts", "factual")
    declare(app, "encyclopedia", "factual")
    assert candidates(app.nodes, "factual") == ["facts", "encyclopedia"]


async def test_no_node(ask: Callable[..., Any], context: Callable[..., Any]) -> None:
    """Without a fitting node the error names the intent, the registered nodes, and the remedy."""
    app = Pipeline(builtins=False)
    declare(app, "sums", "mathematical")
    decide = app.stage(StageType.DECISION).call
    assert await decide(ask(""), context(intent={"intent": "mathematical"})) == "sums"
    with pytest.raises(
        NoNodeError, match=r"intent 'greeting' \(registered: sums\); declare one with @app.node"
    ):
        await decide(ask(""), context(intent={"intent": "greeting"}))


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"intent": "x"}, "x"),
        ("x", "x"),
        ({}, "general"),
        (None, "general"),
        ({"intent": 3}, "general"),
        ("", "general"),
    ],
)
def test_intent_of(result: Any, expected: str) -> None:
    """A user's intent stage may return a mapping or a name; anything else is ``general``."""
    assert intent_of(result) == expected


def pair() -> Pipeline:
    """Register two user nodes for sums, beside the built-in ones."""
    app = Pipeline()
    declare(app, "first", "mathematical")
    declare(app, "second", "mathematical")
    return app


OPEN, HALF_OPEN = NodeRouting(BreakerState.OPEN), NodeRouting(BreakerState.HALF_OPEN)


@pytest.mark.parametrize(
    ("known", "chosen"),
    [
        ({}, "first"),
        ({"first": NodeRouting(score=0.97)}, "first"),
        ({"first": NodeRouting(score=0.6)}, "second"),
        (
            {
                "first": NodeRouting(score=0.5),
                "second": NodeRouting(score=0.3),
                "math": NodeRouting(score=0.4),
            },
            "first",
        ),
        ({"first": NodeRouting(score=0.5), "second": NodeRouting(score=0.3)}, "math"),
        ({"first": OPEN}, "second"),
        ({"first": HALF_OPEN}, "second"),
        ({"first": OPEN, "second": OPEN}, "math"),
        ({"first": OPEN, "second": OPEN, "math": OPEN}, "facts"),
        ({"first": OPEN, "second": OPEN, "math": OPEN, "facts": OPEN}, "first"),
    ],
)
async def test_health_and_breakers_decide(
    ask: Callable[..., Any], context: Callable[..., Any], known: dict[str, NodeRouting], chosen: str
) -> None:
    """The healthiest node of the intent wins; another group only where all breakers of the first are open."""
    routing = RoutingSnapshot(())
    routing.nodes = known
    ctx = context(intent={"intent": "mathematical"}, routing=routing)
    assert await pair().stage(StageType.DECISION).call(ask(""), ctx) == chosen


async def test_a_due_probe_is_made(ask: Callable[..., Any], context: Callable[..., Any]) -> None:
    """A half-open node with a permit is chosen before healthy ones; choosing takes no permit."""
    routing = RoutingSnapshot(())
    routing.nodes, routing.probes = {"second": HALF_OPEN}, {"second": True}
    ctx = context(intent={"intent": "mathematical"}, routing=routing)
    decide = pair().stage(StageType.DECISION).call
    assert [await decide(ask(""), ctx), await decide(ask(""), ctx)] == ["second", "second"]
    routing.take_probe("second")
    assert await decide(ask(""), ctx) == "first"


@pytest.mark.parametrize(
    ("intent", "chosen", "others"),
    [
        ("mathematical", "first", ["second", "math"]),
        ("mathematical", "math", ["first", "second"]),
        ("mathematical", "facts", []),
        ("greeting", "first", []),
        ("mathematical", "unknown", []),
        ("mathematical", None, []),
    ],
)
def test_failover_candidates(intent: str, chosen: str | None, others: list[str]) -> None:
    """Nodes that declare the query's intent are candidates, if the chosen one declares it too."""
    assert same_intent(pair().nodes, intent, chosen) == others
