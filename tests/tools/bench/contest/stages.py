"""Five stages that only wait, and the service's limits."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from fivestage_schemas import StageType

from .pause import pause

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fivestage_schemas import QueryEvent


async def intent(_query: QueryEvent) -> Any:
    """Return a fixed intent."""
    await pause()
    return {"intent": "any", "confidence": 1.0}


async def decision(_query: QueryEvent) -> Any:
    """Return the only node."""
    await pause()
    return "echo"


async def processing(query: QueryEvent) -> Any:
    """Return the question."""
    await pause()
    return {"answer": query.user_input, "confidence": 1.0}


async def validation(_query: QueryEvent) -> Any:
    """Accept every answer."""
    await pause()
    return True


async def reflection(_query: QueryEvent) -> Any:
    """Return nothing."""
    await pause()
    return {"verdict": "confirmed"}


class Stage(NamedTuple):
    """A stage, its limit in seconds and whether a query fails with it."""

    kind: StageType
    sequence: int
    call: Callable[[QueryEvent], Awaitable[Any]]
    limit_s: float
    critical: bool
    node: str | None = None


PATIENCE = float(os.environ.get("BENCH_PATIENCE", "1"))
"""Times as long as the service's limits: a test that compares events lets nothing time out."""
TOTAL_S = PATIENCE * 0.250
STAGES = (
    Stage(StageType.INTENT, 0, intent, PATIENCE * 0.050, critical=True),
    Stage(StageType.DECISION, 1, decision, PATIENCE * 0.100, critical=True),
    Stage(StageType.PROCESSING, 2, processing, PATIENCE * 0.120, critical=True, node="echo"),
    Stage(StageType.VALIDATION, 3, validation, PATIENCE * 0.040, critical=False),
    Stage(StageType.REFLECTION, 4, reflection, PATIENCE * 0.030, critical=False),
)
