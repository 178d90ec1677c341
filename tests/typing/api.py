"""The public API as a user writes it. Checked by mypy in strict mode, never run."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, assert_type

from fivestage import (
    FivestageError,
    InvalidAppError,
    NodeError,
    NoNodeError,
    Orchestrator,
    Pipeline,
    Plan,
    Query,
    Resource,
    ResourceError,
    StageContext,
    run_with_timeout,
)
from fivestage.testing import VirtualTimeLoop, call_node
from fivestage_schemas import Outcome, PipelineResult, PipelineStatus, QueryEvent, StageResult, StageType

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
    found: Any = ctx.results.get(StageType.INTENT)
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
    return {"verdict": verdict, "confidence": confidence, "node": node, "of": query.query_id}


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


async def with_resources() -> PipelineResult:
    """Resources are open within ``async with``, and replaceable by anything in a test."""
    with app.override(client, object()), app.override(words, ["b"]):
        async with Orchestrator(app, start_timeout_ms=1000) as orchestrator:
            try:
                return await orchestrator.process_query("x")
            except ResourceError as unopened:
                raise InvalidAppError(str(unopened)) from unopened


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
