from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest

from fivestage import Pipeline
from fivestage.nodes import builtin_nodes
from fivestage.pipeline.context import Query
from fivestage_schemas import StageType

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.pipeline.context import StageContext


async def run(app: Pipeline, query: Query, ctx: StageContext) -> dict[str, Any]:
    """Run a query through the five stages in order, as the orchestrator does."""
    ctx.results[StageType.INTENT] = await app.stage(StageType.INTENT).call(query, ctx)
    ctx.node = await app.stage(StageType.DECISION).call(query, ctx)
    result = await app.find_node(ctx.node or "").handler.call(query, ctx)
    ctx.results[StageType.PROCESSING] = result
    ctx.answer, ctx.confidence = result["answer"], result["confidence"]
    ctx.validated = await app.stage(StageType.VALIDATION).call(query, ctx)
    reflected: dict[str, Any] = await app.stage(StageType.REFLECTION).call(query, ctx)
    return reflected


@pytest.mark.parametrize(
    ("text", "node", "answer"),
    [
        ("What is 15 + 7?", "math", 22),
        ("10/4", "math", 2.5),
        ("What is the capital of France?", "facts", "Paris"),
        ("Hello!", "facts", "I don't know"),
    ],
)
async def test_five_stages(text: str, node: str, answer: Any, context: Callable[..., Any]) -> None:
    """The built-in stages and nodes work together from the question to a confirmed answer."""
    ctx = context()
    reflected = await run(Pipeline(), Query("q-1", text), ctx)
    assert (ctx.node, ctx.answer, ctx.validated) == (node, answer, True)
    assert reflected["verdict"] == "confirmed"


def test_nothing_needs_a_thread() -> None:
    """All built-in stages, nodes and checks are coroutine functions: no query needs a thread."""
    app = Pipeline()
    stages = [app.stage(stage) for stage in StageType if stage is not StageType.PROCESSING]
    assert all(stage.is_async for stage in stages)
    for node in app.nodes.values():
        assert node.handler.is_async
        assert node.validate is not None
        assert node.validate.is_async


def test_facts_are_ready_at_registration() -> None:
    """The index is built before the first query, and pipelines share it."""
    first, second = (builtin_nodes()["facts"].handler.call for _ in range(2))
    assert inspect.ismethod(first)
    assert inspect.ismethod(second)
    assert first.__self__ is second.__self__
