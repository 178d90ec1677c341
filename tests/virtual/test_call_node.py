"""``fivestage.testing.call_node``: one node, as the processing stage calls it."""

from __future__ import annotations

import asyncio
import gc
import threading
import traceback
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from fivestage import NodeError, NoNodeError, Pipeline, ResourceError, Unanswerable
from fivestage.testing import call_node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fivestage import Query, StageContext


def app_of(function: Any, **options: Any) -> Pipeline:
    """A Pipeline whose node ``qa`` is *function*."""
    app = Pipeline()
    app.node("qa", **options)(function)
    return app


async def test_returns_the_result_of_the_stage() -> None:
    """The result has the node's data, its name and the limit that it was granted."""

    async def answer(query: Query, ctx: StageContext) -> dict[str, Any]:
        await asyncio.sleep(0.03)
        return {"answer": [query.user_input, query.context["user"], ctx.lane], "confidence": 0.9}

    result = await call_node(
        app_of(answer), "qa", "hello", budget_ms=100, lane="canary", context={"user": "ada"}
    )
    assert result.data == {"answer": ["hello", "ada", "canary"], "confidence": 0.9}
    assert (result.outcome, result.node, result.stage_type) == ("success", "qa", "processing")
    assert result.timeout_ms == pytest.approx(100)
    assert result.duration_ms == pytest.approx(30)


async def test_a_node_sees_its_budget_and_its_intent() -> None:
    """The node has the whole budget, and sees an intent that it takes, or the one that is given."""

    async def seen(_query: Query, ctx: StageContext) -> Any:
        return [ctx.remaining_ms(), ctx.results["intent"]["intent"], ctx.results["decision"], ctx.node]

    app = app_of(seen, intents={"question", "chat"})
    assert (await call_node(app, "qa", "x", budget_ms=70)).data == [pytest.approx(70), "chat", "qa", "qa"]
    assert (await call_node(app, "qa", "x", intent="other")).data == [pytest.approx(120), "other", "qa", "qa"]
    assert (await call_node(app_of(seen), "qa", "x")).data[1] == "general"


async def test_raises_what_the_node_raised() -> None:
    """The test sees the node's own exception, with its traceback, and no other node is called."""

    async def fails(_query: Query, _ctx: StageContext) -> None:
        raise ValueError("no such price")

    app = app_of(fails, intents={"factual"})
    with pytest.raises(ValueError, match="no such price") as raised:
        await call_node(app, "qa", "What is the capital of France?")
    assert raised.traceback[-1].name == "fails"

    async def fails_in_a_task(query: Query, ctx: StageContext) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails(query, ctx))

    with pytest.raises(ExceptionGroup) as grouped:
        await call_node(app_of(fails_in_a_task, intents={"factual"}), "qa", "What is the capital of France?")
    assert "in fails\n" in "".join(traceback.format_exception(grouped.value))

    async def declines(_query: Query, _ctx: StageContext) -> None:
        raise Unanswerable("no product was named")

    with pytest.raises(Unanswerable):
        await call_node(app_of(declines), "qa", "hello")


async def test_a_timeout_is_a_result() -> None:
    """A node that takes longer than its budget ends as a timeout, also if it raises when it is cancelled."""
    ended = []

    async def slow(_query: Query, _ctx: StageContext) -> None:
        try:
            await asyncio.sleep(10)
        finally:
            ended.append(asyncio.get_running_loop().time())
            raise KeyError("cleaning up")

    result = await call_node(app_of(slow), "qa", "hello", budget_ms=100)
    assert (result.outcome, result.error_type, result.data) == ("timeout", "timeout", None)
    assert ended == [pytest.approx(0.1)]


async def test_data_that_is_no_json_is_an_error() -> None:
    """What the stage would reject fails the test: bytes, or an exit."""

    async def as_bytes(_query: Query, _ctx: StageContext) -> bytes:
        return b"x"

    with pytest.raises(NodeError, match=r"node 'qa': .*bytes"):
        await call_node(app_of(as_bytes), "qa", "hello")

    async def leaves(_query: Query, _ctx: StageContext) -> None:
        raise SystemExit(3)

    with pytest.raises(NodeError, match="node 'qa': SystemExit: 3"):
        await call_node(app_of(leaves), "qa", "hello")


async def test_a_name_that_is_not_registered() -> None:
    """The error names the nodes that there are."""
    with pytest.raises(NoNodeError, match=r"there is no node 'q' \(registered: facts, math\)"):
        await call_node(Pipeline(), "q", "hello")


async def test_resources_are_opened_and_closed() -> None:
    """The node uses the app's resources; an overridden one is not opened."""
    app, events = Pipeline(), list[str]()

    @app.resource
    async def http() -> AsyncIterator[str]:
        events.append("open")
        yield "client"
        events.append("close")

    @app.node("qa", intents={"question"})
    async def answer(_query: Query, ctx: StageContext) -> str:
        return ctx.use(http)

    assert (await call_node(app, "qa", "hello")).data == "client"
    with app.override(http, "fake"):
        assert (await call_node(app, "qa", "hello")).data == "fake"
    assert events == ["open", "close"]


async def test_a_resource_that_does_not_open() -> None:
    """The error names the resource, and what its function raised."""
    app = Pipeline()

    @app.resource
    async def http() -> AsyncIterator[str]:
        raise OSError("no route")
        yield ""

    with pytest.raises(ResourceError, match="resource 'http' could not be opened:"):
        await call_node(app, "math", "2+2")


@pytest.mark.realtime
async def test_a_def_runs_in_a_thread() -> None:
    """A ``def`` node runs in a thread; its error is raised too, also from a coroutine that it returns."""
    loop = asyncio.get_running_loop()

    def blocks(query: Query, _ctx: StageContext) -> Any:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        if query.user_input == "fail":
            raise ValueError("in the thread")
        return later() if query.user_input == "later" else "done"

    async def later() -> None:
        assert asyncio.get_running_loop() is loop
        raise ValueError("on the loop")

    app = app_of(blocks)
    assert (await call_node(app, "qa", "hello", budget_ms=5000)).data == "done"
    with pytest.raises(ValueError, match="in the thread"):
        await call_node(app, "qa", "fail", budget_ms=5000)
    with pytest.raises(ValueError, match="on the loop"):
        await call_node(app, "qa", "later", budget_ms=5000)


async def test_a_node_with_settings() -> None:
    """The settings of the node are given as for an Orchestrator."""

    async def seen(_query: Query, ctx: StageContext) -> Any:
        return ctx.settings["most"]

    assert (await call_node(app_of(seen), "qa", "x", nodes={"qa": {"most": 3}})).data == 3


class Prices(BaseModel):
    """Settings of another node."""

    url: str


async def test_a_resource_that_reads_the_settings_of_another_node() -> None:
    """All resources open, with the settings of the app; those of other nodes need not be complete."""

    async def uses(_query: Query, ctx: StageContext) -> Any:
        return ctx.use(client)

    app = app_of(uses)

    @app.node("prices", settings=Prices)
    async def prices(_query: Query, _ctx: StageContext) -> None:
        """Do nothing."""

    @app.resource
    async def client() -> AsyncIterator[str]:
        yield app.settings("prices", Prices).url

    given = {"prices": {"url": "http://prices"}}
    assert (await call_node(app, "qa", "x", budget_ms=5000, nodes=given)).data == "http://prices"


async def test_each_call_of_a_batch_node_raises_its_error() -> None:
    """A second call on the same loop raises what the node raises, or has in its list of answers."""
    app = Pipeline()

    @app.batch_node("raises", intents={"a"})
    async def raises(items: Any, _ctx: Any) -> list[Any]:
        raise ValueError(items[0].query.user_input)

    @app.batch_node("returns", intents={"b"})
    async def returns(items: Any, _ctx: Any) -> list[Any]:
        return [KeyError(item.query.user_input) for item in items]

    for text in ("one", "two"):
        with pytest.raises(ValueError, match=text):
            await call_node(app, "raises", text)
        with pytest.raises(KeyError, match=text):
            await call_node(app, "returns", text)


async def test_only_the_last_attempt_counts() -> None:
    """An error of an attempt that was followed by another is not raised."""
    attempts = []

    async def answers_bytes(_query: Query, _ctx: StageContext) -> bytes:
        attempts.append(1)
        if len(attempts) == 1:
            raise ConnectionRefusedError
        return b"x"

    with pytest.raises(NodeError, match="bytes"):
        await call_node(app_of(answers_bytes, retries=1, retry_on=ConnectionRefusedError), "qa", "x")
    assert len(attempts) == 2


@pytest.mark.realtime
async def test_leaves_no_threads() -> None:
    """The threads of a ``def`` node end after the call."""
    before = set(threading.enumerate())
    for _ in range(5):
        await call_node(app_of(lambda _query, _ctx: 1), "qa", "x", budget_ms=5000)
    gc.collect()
    for thread in set(threading.enumerate()) - before:
        thread.join(30)
        assert not thread.is_alive()
