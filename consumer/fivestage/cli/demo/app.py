"""The app of the demo: the built-in nodes, and nodes that misbehave on request.

It runs with any broker: ``fivestage run fivestage.cli.demo.app:app``. A query selects a node that misbehaves
with ``{"context": {"intent": "slow"}}``; the functions below are the other intents.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

from fivestage.nodes.intent import intent as builtin_intent
from fivestage.pipeline.pipeline import Pipeline

if TYPE_CHECKING:
    from fivestage.pipeline.context import Query, StageContext

app = Pipeline()


@app.intent
async def intent(query: Query, ctx: StageContext) -> dict[str, Any]:
    """Return the intent that the query's context names, otherwise that of the built-in stage."""
    asked_for = query.context.get("intent")
    if isinstance(asked_for, str):
        return {"intent": asked_for, "confidence": 1.0}
    return await builtin_intent(query, ctx)


@app.node("slow", intents={"slow"})
async def slow(query: Query, ctx: StageContext) -> str:  # noqa: ARG001
    """Take far longer than the limit."""
    await asyncio.sleep(2)
    return "too late to be seen"


@app.node("stubborn", intents={"stubborn"})
async def stubborn(query: Query, ctx: StageContext) -> str:  # noqa: ARG001
    """Take longer than the limit, and ignore the cancellation."""
    ends_at = time.monotonic() + 1
    while (left_s := ends_at - time.monotonic()) > 0:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(left_s)
    return "too late to be seen"


@app.node("broken", intents={"broken"})
async def broken(query: Query, ctx: StageContext) -> float:  # noqa: ARG001
    """Raise an exception."""
    return 1 / 0


async def _check_slowly(query: Query, ctx: StageContext) -> bool:  # noqa: ARG001
    await asyncio.sleep(1)
    return True


@app.node("unchecked", intents={"unchecked"}, validate=_check_slowly)
async def unchecked(query: Query, ctx: StageContext) -> dict[str, Any]:  # noqa: ARG001
    """Answer at once; the validation of the answer takes longer than its limit."""
    return {"answer": 42, "confidence": 0.8}
