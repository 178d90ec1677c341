"""An app for the status page: nodes that answer, one that fails on request, one with a hostile name."""

from __future__ import annotations

import asyncio
from typing import Any

from fivestage import Pipeline, Query, StageContext

HOSTILE = "<img src=x onerror=alert(1)>"
app = Pipeline(builtins=False)


@app.intent
async def intent(query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Return the first word of the question."""
    return {"intent": query.user_input.partition(" ")[0], "confidence": 1.0}


@app.node("facts", intents={"facts"})
async def facts(_query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Answer after a few milliseconds."""
    await asyncio.sleep(0.005)
    return {"answer": "a fact", "confidence": 1.0}


@app.node("pricing", intents={"pricing"})
async def pricing(query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Fail where the question says so."""
    await asyncio.sleep(0.002)
    if query.user_input.endswith("fail"):
        raise ConnectionError("no connection to the price list")
    return {"answer": 42, "confidence": 1.0}


@app.node(HOSTILE, intents={"hostile"})
async def hostile(_query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Answer."""
    return {"answer": "harmless", "confidence": 1.0}
