"""Five asynchronous stages that do nothing: what is left is the cost of the service itself."""

from __future__ import annotations

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
    return "echo"


@app.node("echo")
async def echo(query: Query, _ctx: StageContext) -> dict[str, Any]:
    """The question."""
    return {"answer": query.user_input, "confidence": 1.0}


@app.validation
async def validation(_query: Query, _ctx: StageContext) -> bool:
    """Always right."""
    return True


@app.reflection
async def reflection(_query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Nothing to say."""
    return {"verdict": "confirmed"}
