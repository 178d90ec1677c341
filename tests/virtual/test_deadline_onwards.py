"""What ``ctx.timeout()`` and ``ctx.headers()`` give a node."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import baggage, context, trace
from pydantic import BaseModel

from fivestage import BatchContext, BatchItem, ConfigurationError, Orchestrator, Pipeline
from fivestage.core.job import Job
from fivestage.core.plan import Plan
from fivestage.core.trace_context import TraceContext
from fivestage.pipeline.context import Query
from fivestage.settings import Settings
from fivestage.testing.memory import MemoryBus

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage import StageContext


class Model(BaseModel):
    """Settings of a node."""

    most: int


DEADLINE = "x-envoy-upstream-rq-timeout-ms"
TRACE_ID, PARENT = "a" * 32, "b" * 16


def app_of(look: Callable[[StageContext], Any], *, work_s: float = 0.0) -> Pipeline:
    """Build an app with one node, which answers what it finds in its context after some work."""
    app = Pipeline(builtins=False)

    @app.node("looks", intents={"general"})
    async def looks(_query: Query, ctx: StageContext) -> dict[str, Any]:
        await asyncio.sleep(work_s)
        return {"answer": look(ctx)}

    return app


async def seen(look: Callable[[StageContext], Any], *, work_s: float = 0.0) -> Any:
    """Return what the node of one query found."""
    result = await Orchestrator(app_of(look, work_s=work_s)).process_query("hello there")
    assert result.answer is not None, result
    return result.answer


async def test_a_timeout_leaves_time_to_handle_it() -> None:
    """Of the 120 ms of processing 5 are kept, or as many as the author says."""
    found = await seen(lambda ctx: [ctx.timeout(), ctx.timeout(20), ctx.timeout(reserve_ms=0)])
    assert found == pytest.approx([0.115, 0.1, 0.12])


async def test_a_timeout_is_of_what_is_left() -> None:
    """Work before the request counts."""
    assert await seen(lambda ctx: ctx.timeout(), work_s=0.1) == pytest.approx(0.015)


async def test_a_timeout_is_never_zero() -> None:
    """Clients read 0 as no limit: at the end of the stage a millisecond remains, in the header too."""
    found = await seen(lambda ctx: [ctx.timeout(), ctx.headers()[DEADLINE]], work_s=0.118)
    assert found == [0.001, "1"]


async def test_headers_without_a_trace_have_the_deadline_only() -> None:
    """Whole milliseconds, rounded down."""
    assert await seen(lambda ctx: ctx.headers(), work_s=0.0123) == {DEADLINE: "102"}


async def in_trace(look: Callable[[StageContext], Any], traced: TraceContext) -> Any:
    """Return what the node of a traced query found."""
    found: list[Any] = []
    plan, now = Plan.of(), asyncio.get_running_loop().time()
    job = Job(Query("q", "hello there"), plan, started_at=now, ends_at=now + plan.total_s)
    job.trace = traced
    app = app_of(lambda ctx: found.append(look(ctx)))
    await asyncio.create_task(Orchestrator(app).run(job, job.history))
    return found[0]


async def test_headers_name_the_span_of_the_call() -> None:
    """The span is that of this call, not the whole query's; tracestate is the producer's."""
    traced = TraceContext(f"00-{TRACE_ID}-{PARENT}-01", "vendor=1", recorded=True)
    headers, span = await in_trace(
        lambda ctx: (ctx.headers(), trace.get_current_span().get_span_context().span_id), traced
    )
    assert headers["traceparent"] == f"00-{TRACE_ID}-{span:016x}-01"
    assert span != int(PARENT, 16)
    assert headers["tracestate"] == "vendor=1"


async def test_headers_of_a_query_without_spans_continue_its_trace() -> None:
    """Without spans for calls the query's own is the parent; no tracestate stays absent."""
    headers = await in_trace(lambda ctx: ctx.headers(), TraceContext(f"00-{TRACE_ID}-{PARENT}-00"))
    assert headers == {"traceparent": f"00-{TRACE_ID}-{PARENT}-00", DEADLINE: "115"}


async def test_headers_have_no_baggage() -> None:
    """Baggage that the author set stays here: it may hold what a third party must not get."""

    def look(ctx: StageContext) -> dict[str, str]:
        context.attach(baggage.set_baggage("user", "ada"))
        return ctx.headers()

    headers = await in_trace(look, TraceContext(f"00-{TRACE_ID}-{PARENT}-01"))
    assert headers.keys() == {"traceparent", DEADLINE}


async def test_headers_are_the_callers_own_to_change() -> None:
    """Each call returns another dict."""

    def look(ctx: StageContext) -> Any:
        ctx.headers()["authorization"] = "secret"
        return ctx.headers()

    assert await seen(look) == {DEADLINE: "115"}


async def test_a_batch_passes_them_on_too() -> None:
    """The context of a batch has the time of its last item, the trace's headers, and the node's settings."""
    app = Pipeline(builtins=False)

    @app.batch_node("looks", intents={"general"}, max_wait_ms=0, settings=Model)
    async def looks(items: list[BatchItem], ctx: BatchContext) -> list[Any]:
        return [{"answer": [ctx.timeout(), ctx.headers(), ctx.settings.most]} for _ in items]

    orchestrator = Orchestrator(app, deadline_header="time-left", nodes={"looks": {"most": 3}})
    result = await orchestrator.process_query("hello there")
    assert result.answer == [pytest.approx(0.115), {"time-left": "115"}, 3]


@pytest.mark.parametrize(
    ("given", "name"), [("X-Request-Timeout-Ms", "x-request-timeout-ms"), ("", None), (None, DEADLINE)]
)
async def test_the_name_of_the_header_is_a_setting(given: str | None, name: str | None) -> None:
    """In lower case, as gRPC requires; empty = none."""
    settings = Settings.load(None, {} if given is None else {"outbound": {"deadline_header": given}})
    app = app_of(lambda ctx: sorted(ctx.headers().keys() - {"traceparent"}))  # if this process traces
    async with MemoryBus(app, settings=settings) as bus:
        result = await bus.ask("hello there")
    assert result.answer == ([] if name is None else [name])


def test_a_name_that_no_header_can_have_is_refused() -> None:
    """A space would make each request fail."""
    with pytest.raises(ConfigurationError, match=r"outbound\.deadline_header"):
        Settings.load(None, {"outbound": {"deadline_header": "time left"}})
