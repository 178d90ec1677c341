from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fivestage import NoNodeError, Pipeline
from fivestage.nodes.decision import candidates, intent_of
from fivestage_schemas import StageType

if TYPE_CHECKING:
    from collections.abc import Callable


def declare(app: Pipeline, name: str, *intents: str) -> None:
    """Register a node that answers its own name."""

    @app.node(name, intents=intents)
    async def answer(query: Any, ctx: Any) -> str:  # noqa: ARG001
        return name


def test_builtin_nodes() -> None:
    """Sums go to math, everything else to facts."""
    app = Pipeline()
    assert candidates(app.nodes, "mathematical") == ["math", "facts"]
    assert [candidates(app.nodes, intent) for intent in ("factual", "greeting", "general")] == [["facts"]] * 3


def test_user_before_builtin() -> None:
    """A user's node is preferred to a built-in one, and among users' the first registered."""
    app = Pipeline()
    declare(app, "first", "mathematical")
    declare(app, "second", "mathematical")
    assert candidates(app.nodes, "mathematical") == ["first", "second", "math", "facts"]


def test_general_before_last_resort() -> None:
    """Who takes ``general`` takes what nobody else does; facts comes last."""
    app = Pipeline()
    declare(app, "chat", "general")
    assert candidates(app.nodes, "greeting") == ["chat", "facts"]
    assert candidates(app.nodes, "general") == ["chat", "facts"]
    assert candidates(app.nodes, "factual") == ["facts", "chat"]


def test_replaced_builtin() -> None:
    """A node that took over a built-in name counts as the user's."""
    app = Pipeline()
    declare(app, "facts", "factual")
    declare(app, "encyclopedia", "factual")
    assert candidates(app.nodes, "factual") == ["facts", "encyclopedia"]


async def test_no_node(ask: Callable[..., Any], context: Callable[..., Any]) -> None:
    """Without any fitting node the error names the intent, the nodes there are, and the remedy."""
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
