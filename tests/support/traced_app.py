"""Nodes that say in which span they run: ``fivestage run support.traced_app:app``.

Tests do not import this module: it instruments every client of its process.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import aiohttp
from opentelemetry import context, trace
from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor

from fivestage import Pipeline

if TYPE_CHECKING:
    from fivestage import Query, StageContext

AioHttpClientInstrumentor().instrument()
app = Pipeline(builtins=False)
tracer = trace.get_tracer("author")
NODES = ("coroutine", "function", "client", "waits", "first", "second")
URL = "TRACED_APP_URL"
"""The variable with the address that the node ``client`` calls."""


def where() -> str:
    """The current span, as in a ``traceparent``."""
    found = trace.get_current_span().get_span_context()
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"


async def _where() -> str:
    await asyncio.sleep(0)
    return where()


@app.intent
async def _intent(query: Query, _ctx: StageContext) -> dict[str, Any]:
    return {"intent": query.user_input, "where": where()}


@app.decision
def _decide(query: Query, _ctx: StageContext) -> str:
    return query.user_input


@app.node("coroutine", intents={"coroutine"})
async def _coroutine(_query: Query, ctx: StageContext) -> dict[str, Any]:
    found = {"itself": where(), "in a task": await asyncio.create_task(_where())}
    found["in to_thread"] = await asyncio.to_thread(where)
    found["in run_sync"] = await ctx.run_sync(where)
    with tracer.start_as_current_span("own"):
        found["below its own"] = where()
    return {"answer": found}


@app.node("function", intents={"function"})
def _function(_query: Query, _ctx: StageContext) -> dict[str, Any]:
    with tracer.start_as_current_span("own"):
        return {"answer": {"below its own": where()}}


@app.node("client", intents={"client"})
async def _client(_query: Query, _ctx: StageContext) -> dict[str, Any]:
    async with aiohttp.ClientSession() as session, session.get(os.environ[URL]) as reply:
        return {"answer": reply.status}


@app.node("waits", intents={"waits"})
async def _waits(_query: Query, _ctx: StageContext) -> None:
    await asyncio.Event().wait()


@app.node("first", intents={"first"})
async def _first(query: Query, _ctx: StageContext) -> None:
    context.attach(context.Context())  # and does not restore it: the next call must not see that
    raise LookupError(query.user_input)


@app.node("second", intents={"first"})
async def _second(_query: Query, _ctx: StageContext) -> dict[str, Any]:
    return {"answer": {"itself": where()}}
