"""A node that computes: for worker processes."""

from __future__ import annotations

from typing import Any

from fivestage import Pipeline, Query, StageContext

STEPS = 500_000
"""About 20 ms: much more than all that broker and service do for a query, who share the cores with it."""

app = Pipeline(builtins=False)


@app.intent
async def intent(_query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Always the same."""
    return {"intent": "any", "confidence": 1.0}


@app.decision
async def decision(_query: Query, _ctx: StageContext) -> str:
    """The only node."""
    return "compute"


@app.node("compute")
async def compute(_query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Add up."""
    total = 0
    for number in range(STEPS):
        total += number
    return {"answer": total, "confidence": 1.0}


@app.validation
async def validation(_query: Query, _ctx: StageContext) -> bool:
    """Always right."""
    return True


@app.reflection
async def reflection(_query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Nothing to say."""
    return {"verdict": "confirmed"}
