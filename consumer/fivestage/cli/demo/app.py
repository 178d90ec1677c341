"""What ``fivestage demo`` asks and audits, and the app that answers: its nodes misbehave on request.

The app runs on any broker: ``fivestage run fivestage.cli.demo.app:app``. A query chooses a node that
misbehaves by ``{"context": {"intent": "slow"}}``; see the functions below for the others.
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
    """The intent that the query's context names, or else what the built-in stage finds."""
    asked_for = query.context.get("intent")
    if isinstance(asked_for, str):
        return {"intent": asked_for, "confidence": 1.0}
    return await builtin_intent(query, ctx)


@app.node("slow", intents={"slow"})
async def slow(query: Query, ctx: StageContext) -> str:  # noqa: ARG001
    """Takes far longer than a stage may."""
    await asyncio.sleep(2)
    return "too late to be seen"


@app.node("stubborn", intents={"stubborn"})
async def stubborn(query: Query, ctx: StageContext) -> str:  # noqa: ARG001
    """Takes too long, and ignores that it is cancelled."""
    ends_at = time.monotonic() + 1
    while (left_s := ends_at - time.monotonic()) > 0:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(left_s)
    return "too late to be seen"


@app.node("broken", intents={"broken"})
async def broken(query: Query, ctx: StageContext) -> float:  # noqa: ARG001
    """Raises."""
    return 1 / 0


async def _check_at_leisure(query: Query, ctx: StageContext) -> bool:  # noqa: ARG001
    await asyncio.sleep(1)
    return True


@app.node("unchecked", intents={"unchecked"}, validate=_check_at_leisure)
async def unchecked(query: Query, ctx: StageContext) -> dict[str, Any]:  # noqa: ARG001
    """Answers at once; its answer's validation takes too long."""
    return {"answer": 42, "confidence": 0.8}
