"""Shared by tests of nodes with rules: an app with such a node, and its calls."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from fivestage import Pipeline
from fivestage.settings import Settings
from fivestage_schemas import StageType

from .samples import stage

if TYPE_CHECKING:
    from fivestage import Query, StageContext
    from fivestage.testing.memory import MemoryBus
    from fivestage_schemas import PipelineResult

PROCESSING = StageType.PROCESSING
KNOWN = 13
"""Calls after which the usual duration of a node is known."""
FIXED = Settings.model_validate({"adaptive": {"enabled": False}})


def app_of(node: Any, other: Any = None, **rules: Any) -> Pipeline:
    """Build an app with a node that has rules, and perhaps another that may answer instead."""
    app = Pipeline(builtins=False)

    @app.intent
    async def intent(_query: Query, _ctx: StageContext) -> str:
        return "any"

    @app.validation
    async def validation(_query: Query, _ctx: StageContext) -> bool:
        return True

    app.node("first", intents={"any"}, **rules)(node)
    if other is not None:
        app.node("second", intents={"any"})(other)
    return app


async def choose_first(_query: Query, _ctx: StageContext) -> str:
    """A decision stage that always chooses the node with the rules."""
    return "first"


async def ask_at_once(
    bus: MemoryBus, count: int, name: str = "at-once", **fields: Any
) -> list[PipelineResult]:
    """Ask several queries at the same time."""
    return await asyncio.gather(*(bus.ask("any", query_id=f"{name}-{n}", **fields) for n in range(count)))


def attempts(result: PipelineResult) -> list[tuple[str | None, str, str]]:
    """Return node, kind and outcome of each call."""
    return [(one.node, str(one.kind), str(one.outcome)) for one in stage(result, PROCESSING).attempts]
