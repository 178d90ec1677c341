"""The trivial app with stages that wait once each, as stages that call a service do."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fivestage import Pipeline, Query, StageContext

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pause: Callable[[], Awaitable[None]] = import_module("contest.pause").pause  # found in this folder
app = Pipeline(builtins=False)


@app.intent
async def intent(_query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Always the same."""
    await pause()
    return {"intent": "any", "confidence": 1.0}


@app.decision
async def decision(_query: Query, _ctx: StageContext) -> str:
    """The only node."""
    await pause()
    return "echo"


@app.node("echo")
async def echo(query: Query, _ctx: StageContext) -> dict[str, Any]:
    """The question."""
    await pause()
    return {"answer": query.user_input, "confidence": 1.0}


@app.validation
async def validation(_query: Query, _ctx: StageContext) -> bool:
    """Always right."""
    await pause()
    return True


@app.reflection
async def reflection(_query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Nothing to say."""
    await pause()
    return {"verdict": "confirmed"}
