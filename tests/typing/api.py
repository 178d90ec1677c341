"""The public API as a user writes it. Checked by mypy in strict mode, never run."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, assert_type

from pydantic import BaseModel

from fivestage import (
    BatchContext,
    BatchItem,
    FivestageError,
    InvalidAppError,
    NodeError,
    NoNodeError,
    Orchestrator,
    Outcome,
    Pipeline,
    PipelineResult,
    PipelineStatus,
    Plan,
    Query,
    Resource,
    ResourceError,
    StageContext,
    StageResult,
    StageType,
    run_with_timeout,
)
from fivestage.testing import MemoryBus, VirtualTimeLoop, call_node
from fivestage_schemas import QueryEvent

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator

app = Pipeline()
bare: Pipeline = Pipeline(builtins=False)


@app.intent
async def intent(query: Query, ctx: StageContext) -> dict[str, Any]:
    """Untouched by the decorator: still callable as what it is."""
    return {"intent": "general", "length": len(query.user_input), "left": ctx.remaining_ms()}


@app.decision
async def choose(query: Query, ctx: StageContext) -> str:
    """A node's name."""
    found: Any = ctx.results.get(StageType.INTENT) or ctx.results["intent"]
    return "blocking" if found and query.context.get("slow") else "main"


@app.node("main", intents={"general"})
async def main_node(query: Query, ctx: StageContext) -> dict[str, Any]:
    """An asynchronous node."""
    lane: str = ctx.lane
    attempt: int = ctx.attempt
    return {"answer": f"{query.query_id} {lane} {attempt}", "confidence": 0.5}


def check_text(query: Query, ctx: StageContext) -> bool:
    """A node's own check."""
    return bool(query.user_input) and ctx.answer is not None


@app.node("blocking", intents=["general", "other"], validate=check_text)
def blocking_node(query: Query, ctx: StageContext) -> str:
    """A node that runs in a thread."""
    ctx.offer(query.user_input, confidence=0.5)
    return query.user_input + str(ctx.deadline)


@app.validation
async def check(query: Query, ctx: StageContext) -> bool:
    """The verdict."""
    return bool(await ctx.run_sync(check_text, query, ctx))


@app.reflection
def reflect(query: Query, ctx: StageContext) -> dict[str, Any]:
    """A stage that runs in a thread."""
    verdict: bool | None = ctx.validated
    confidence: float | None = ctx.confidence
    node: str | None = ctx.node
    partial: bool = ctx.partial
    return {"verdict": verdict, "confidence": confidence, "node": node, "of": query.query_id, "cut": partial}


class Client:
    """A shared client of an author."""

    def get(self, text: str) -> int:
        """Ask."""
        return len(text)


@app.resource
async def client() -> AsyncIterator[Client]:
    """Once per event loop."""
    yield Client()


@app.resource
def words() -> Iterator[list[str]]:
    """Once per process."""
    yield ["a"]


@app.resource
async def generated() -> AsyncGenerator[Client, None]:
    """The longer way to write it."""
    yield Client()


@app.resource
def counted() -> Generator[int, None, None]:
    """Likewise."""
    yield 1


@app.node("sharing")
async def sharing_node(query: Query, ctx: StageContext) -> int:
    """The value of a resource handle has its type."""
    assert_type(client, Resource[Client])
    assert_type(ctx.use(client), Client)
    assert_type(ctx.use(words), list[str])
    assert_type(ctx.use(generated), Client)
    assert_type(ctx.use(counted), int)
    return ctx.use(client).get(query.user_input)


@app.batch_node("batched", intents={"general"}, max_size=64, max_wait_ms=2.5)
def batched_node(items: list[BatchItem], ctx: BatchContext) -> list[int | Exception]:
    """An answer, or an exception, for each item."""
    assert_type(ctx.use(words), list[str])
    left_ms: float = items[0].remaining_ms() + ctx.remaining_ms()
    known: dict[str, Any] = {"left": left_ms, "intent": items[0].results.get(StageType.INTENT)}
    return [len(item.query.user_input) or ValueError(known) for item in items]


@app.batch_node("batched-async")
async def batched_async_node(items: list[BatchItem], ctx: BatchContext) -> list[str]:
    """On the event loop."""
    assert_type(ctx.use(client), Client)
    return list(await ctx.run_sync(lambda: [item.query.query_id for item in items]))


@app.batch_node("wrong")  # type: ignore[type-var]
def an_ordinary_node(query: Query, ctx: StageContext) -> str:
    """Takes a query and not items."""
    return query.user_input + ctx.lane


@app.batch_node("wrong too")  # type: ignore[type-var]
async def no_list(items: list[BatchItem], ctx: BatchContext) -> dict[str, Any]:
    """Returns no list."""
    return {"items": items, "ctx": ctx}


@app.batch_node("misspelt")
def misspelt(items: list[BatchItem], ctx: BatchContext) -> list[str]:
    """Uses what there is not."""
    return [item.user_input for item in items] + [ctx.lane]  # type: ignore[attr-defined]


async def with_resources() -> PipelineResult:
    """Resources are open within ``async with``, and replaceable by anything in a test."""
    with app.override(client, object()), app.override(words, ["b"]):
        async with Orchestrator(app, start_timeout_ms=1000) as orchestrator:
            try:
                return await orchestrator.process_query("x")
            except ResourceError as unopened:
                raise InvalidAppError(str(unopened)) from unopened


class Search(BaseModel):
    """The settings of a node."""

    url: str
    most: int = 3


def check_url(query: Query, ctx: StageContext[Search]) -> bool:
    """A node's own check has the node's settings."""
    return bool(query.user_input) and assert_type(ctx.settings.most, int) > 0


@app.node("search", intents={"question"}, settings=Search, validate=check_url)
async def search_node(query: Query, ctx: StageContext[Search]) -> str:
    """The settings have the class of the model."""
    assert_type(ctx.settings, Search)
    return f"{query.user_input} at {ctx.settings.url}"


@app.node("searching")
def plain_node(query: Query, ctx: StageContext) -> str:
    """Without a model the settings are a mapping of any values."""
    assert_type(ctx.settings, Any)
    url: str = ctx.settings["url"]
    return query.user_input + url


@app.resource
async def searching() -> AsyncIterator[str]:
    """A resource has settings too."""
    assert_type(app.settings("searching", Search), Search)
    assert_type(app.settings("searching"), Any)
    yield app.settings("searching", Search).url


async def with_settings() -> StageResult:
    """A test gives values, or an instance of the model."""
    nodes = {"search": Search(url="here"), "searching": {"url": "there"}}
    async with MemoryBus(app, nodes=nodes) as bus:
        await bus.ask("x")
    return (await Orchestrator(app, nodes=nodes).process_query("x")).stages[0]


class Existing:
    """A node of another system."""

    capabilities = ("general",)

    def process(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer."""
        return {"answer": request["query"]}


app.add_node("existing", Existing(), intents={"general"})

plan: Plan = Plan.of(
    total_timeout_ms=500,
    stage_timeouts_ms={StageType.INTENT: 20},
    critical={StageType.PROCESSING},
    rejected="error",
)


async def use() -> float:
    """Ask, and read what comes back."""
    intended: dict[str, Any] = await intent(Query("q", "x"), context())
    text: str = blocking_node(Query("q", "x", "prod", {"a": 1}), context())
    result: PipelineResult = await Orchestrator(app, plan=plan, threads=2).process_query(
        "2+2", query_id="q-1", lane="prod", context=intended, budget_ms=100
    )
    validated: bool | None = result.validated
    if result.status is PipelineStatus.SUCCESS and validated and result.confidence is not None:
        return result.confidence + result.metrics.total_duration_ms
    stages: list[StageResult] = result.stages
    if stages[0].outcome is Outcome.TIMEOUT:
        return stages[0].duration_ms
    stage: StageResult = await run_with_timeout(asyncio.sleep(1, text), StageType.PROCESSING, timeout_sec=0.1)
    return stage.timeout_ms


def context() -> StageContext:
    """A context, as a test of a node makes one."""
    return StageContext("prod", 1.0, lambda: 0.0, StageType.INTENT)


async def call() -> float:
    """One node of an app, in a user's test."""
    stage = await call_node(app, "main", "2+2", budget_ms=100, context={"user": "ada"}, intent="general")
    assert_type(stage, StageResult)
    return stage.duration_ms


def in_a_test() -> None:
    """Virtual time in a user's tests, and the errors they may catch."""
    event: QueryEvent = QueryEvent(query_id="q", user_input="x", budget_ms=10)
    try:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            spent: float = runner.run(use())
        assert spent >= 0 or event.model_dump_json()
    except NoNodeError as missing:
        node_error: NodeError = missing
        raise InvalidAppError(str(node_error)) from missing
    except FivestageError:
        raise
