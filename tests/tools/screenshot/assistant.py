"""The app of the screenshots: nodes as in production, one of which loses its server."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from fivestage import Pipeline, Query, StageContext

app = Pipeline(builtins=False)


async def _take(median_ms: float, spread: float = 0.3) -> None:
    await asyncio.sleep(random.lognormvariate(0.0, spread) * median_ms / 1000)


@app.intent
async def intent(query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Return the first word of the question."""
    await _take(3)
    return {"intent": query.user_input.partition(" ")[0], "confidence": 1.0}


@app.node("llm", intents={"llm"})
async def llm(_query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Answer as a model does."""
    await _take(40, 0.35)
    return {"answer": "a sentence", "confidence": 0.9}


@app.node("facts", intents={"facts"})
async def facts(_query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Answer from memory."""
    await _take(2)
    return {"answer": "a fact", "confidence": 1.0}


@app.node("pricing", intents={"pricing"})
async def pricing(query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Answer, or find no server."""
    await _take(9)
    if query.user_input.endswith("lost"):
        raise ConnectionError("no server")
    return {"answer": 42, "confidence": 1.0}


@app.validation
async def validate(_query: Query, _ctx: StageContext) -> bool:
    """Accept each answer."""
    await _take(4)
    return True
