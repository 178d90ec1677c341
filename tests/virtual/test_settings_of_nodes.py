"""Which settings a stage gets, and how tests give them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from fivestage import (
    ConfigurationError,
    Orchestrator,
    Pipeline,
    Query,
    ResourceError,
    StageContext,
    StageType,
)
from fivestage.settings import Settings
from fivestage.testing import MemoryBus, call_node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path


class Named(BaseModel):
    """Settings of a node."""

    name: str = "unnamed"


def app_of(seen: list[Any]) -> Pipeline:
    """Return an app whose first node fails; each stage notes the settings it sees."""
    app = Pipeline(builtins=False)

    @app.decision
    async def choose(_query: Query, _ctx: StageContext) -> str:
        return "first"

    async def check(_query: Query, ctx: StageContext[Named]) -> bool:
        seen.append(("validate", ctx.settings.name))
        return True

    @app.node("first", intents={"general"}, settings=Named)
    async def first(_query: Query, ctx: StageContext[Named]) -> str:
        seen.append(("first", ctx.settings.name))
        raise ValueError

    @app.node("second", intents={"general"}, settings=Named, validate=check)
    async def second(_query: Query, ctx: StageContext[Named]) -> dict[str, Any]:
        seen.append(("second", ctx.settings.name))
        return {"answer": 1, "confidence": 1.0}

    @app.reflection
    async def reflect(_query: Query, ctx: StageContext) -> dict[str, Any]:
        seen.append(("reflection", ctx.settings.name))
        return {}

    return app


NODES: dict[str, Any] = {"first": {"name": "a"}, "second": Named(name="b")}
SEEN = [("first", "a"), ("second", "b"), ("validate", "b"), ("reflection", "b")]


async def test_each_node_has_its_settings() -> None:
    """After a failover the second node, its check and reflection have those of the second node."""
    seen: list[Any] = []
    result = await Orchestrator(app_of(seen), nodes=NODES).process_query("x")
    assert (result.answer, seen) == (1, SEEN)


async def test_the_fixture_takes_settings(run_app: Callable[..., Awaitable[MemoryBus]]) -> None:
    """So does the bus in memory, from ``nodes``, else from its settings, else the models' defaults."""
    seen: list[Any] = []
    bus = await run_app(app_of(seen), nodes=NODES)
    await bus.ask("x")
    settings = Settings.load(None, {"nodes": {"first": {"name": "c"}}})
    for given in (settings, None):
        async with MemoryBus(app_of(seen), settings=given) as other:
            await other.ask("x")
    assert seen[:4] == SEEN
    assert [name for stage, name in seen if stage == "first"] == ["a", "c", "unnamed"]
    with pytest.raises(ConfigurationError, match=r"nodes.frist: .*did you mean 'first'"):
        await run_app(app_of(seen), nodes={"frist": {}})


async def test_the_environment_changes_no_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The bus in memory, an Orchestrator and ``call_node`` ignore variables; a file counts if it is given."""
    for name, value in (
        ("NODES__FIRST__NAME", "variable"),
        ("LANE", "!"),
        ("PIPELINE__TOTAL_TIMEOUT_MS", "0"),
    ):
        monkeypatch.setenv(f"FIVESTAGE_{name}", value)
    config = tmp_path / "fivestage.toml"
    config.write_text('[nodes.first]\nname = "file"\n')
    monkeypatch.setenv("FIVESTAGE_CONFIG", str(config))
    seen: list[Any] = []
    app = app_of(seen)
    await Orchestrator(app).process_query("x")
    with pytest.raises(ValueError):  # noqa: PT011 - the node raises it, without a text
        await call_node(app, "first", "x")
    async with MemoryBus(app) as bus:
        await bus.ask("x")
    for path in (config, str(config)):
        async with MemoryBus(app, config=path) as bus:
            await bus.ask("x")
    assert [name for stage, name in seen if stage == "first"] == [*["unnamed"] * 3, "file", "file"]
    with pytest.raises(ValueError, match="give settings or config, not both"):
        MemoryBus(app, config=config, settings=Settings.load(environment=False))


async def test_two_orchestrators_of_one_app() -> None:
    """Each opens the resources with its settings, at the same time."""
    app = Pipeline(builtins=False)

    @app.resource
    async def client() -> AsyncIterator[str]:
        yield app.settings("client", Named).name

    @app.decision
    async def choose(_query: Query, _ctx: StageContext) -> str:
        return "node"

    @app.node("node")
    async def node(_query: Query, ctx: StageContext) -> dict[str, Any]:
        return {"answer": [ctx.use(client), ctx.settings.get("x")], "confidence": 1.0}

    first = Orchestrator(app, nodes={"client": {"name": "a"}, "node": {"x": 1}})
    second = Orchestrator(app, nodes={"client": {"name": "b"}})
    async with first:
        assert (await first.process_query("x")).answer == ["a", 1]
        async with second:
            assert (await second.process_query("x")).answer == ["b", None]
        assert (await first.process_query("x")).answer == ["a", 1]


async def test_a_resource_that_asks_for_an_unknown_name_is_not_tried_again() -> None:
    """The error names it, and the wait for ``start_timeout_ms`` is saved."""
    app = Pipeline()

    @app.resource
    async def client() -> AsyncIterator[Any]:
        yield app.settings("clinet")

    with pytest.raises(ResourceError, match=r"'client' could not be opened: app.settings\('clinet'\)"):
        async with Orchestrator(app):
            pass


async def test_a_stage_that_asks_too_early_fails() -> None:
    """The intent stage has no node's settings; its error names the way to others."""
    app = app_of([])

    @app.intent
    async def intent(_query: Query, ctx: StageContext) -> Any:
        return ctx.settings

    stage = (await Orchestrator(app).process_query("x")).stages[0]
    assert (stage.stage_type, stage.error_type) == (StageType.INTENT, "InvalidAppError")
    assert "none has been chosen in the intent stage" in (stage.error or "")
