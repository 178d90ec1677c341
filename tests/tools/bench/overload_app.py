"""One node that works for as long as the question says, in milliseconds; the other stages are trivial."""

from __future__ import annotations

import asyncio
from typing import Any

from fivestage import Pipeline, Query, StageContext

app = Pipeline(builtins=False)


@app.intent
async def intent(_query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Always the same."""
    return {"intent": "any", "confidence": 1.0}


@app.decision
async def decision(_query: Query, _ctx: StageContext) -> str:
    """The only node."""
    return "work"


@app.node("work")
async def work(query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Wait, as for a model or a database."""
    await asyncio.sleep(int(query.user_input) / 1000)
    return {"answer": query.query_id, "confidence": 1.0}


@app.validation
async def validation(_query: Query, _ctx: StageContext) -> bool:
    """Always right."""
    return True


@app.reflection
async def reflection(_query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Nothing to say."""
    return {"verdict": "confirmed"}
