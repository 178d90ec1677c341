"""The pytest fixture of ``fivestage.testing``, used as by an author of nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fivestage import Pipeline

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from fivestage import Query, StageContext
    from fivestage.testing import MemoryBus


async def test_run_app(run_app: Callable[..., Awaitable[MemoryBus]]) -> None:
    """A test asks its own node and the built-in ones, and sees answers and stages."""
    app = Pipeline()

    @app.node("greeter", intents={"greeting"})
    async def greet(_query: Query, _ctx: StageContext) -> dict[str, Any]:
        return {"answer": "Hello!", "confidence": 1.0}

    bus = await run_app(app)
    assert (await bus.ask("hello")).answer == "Hello!"
    result = await bus.ask("What is 15 + 7?")
    assert (result.answer, [stage.outcome for stage in result.stages]) == (22, ["success"] * 5)


async def test_run_app_opens_resources(run_app: Callable[..., Awaitable[MemoryBus]]) -> None:
    """Resources are opened once and stay open for the test."""
    app, opened = Pipeline(), list[str]()

    @app.resource
    async def http() -> AsyncIterator[str]:
        opened.append("http")
        yield "client"

    @app.node("greeter", intents={"greeting"})
    async def greet(_query: Query, ctx: StageContext) -> str:
        return ctx.use(http)

    bus = await run_app(app)
    assert (await bus.ask("hello")).answer == "client"
    assert opened == ["http"]
