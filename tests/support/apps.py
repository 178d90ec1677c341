"""Pipelines for tests that run the service as a process: ``fivestage run support.apps:NAME``."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from fivestage import Pipeline, Query, StageContext

builtin = Pipeline()

load = Pipeline(builtins=False)
"""One node that takes 20 ms, so that queries are always in flight; words in the question misbehave."""


@load.intent
async def _intent(query: Query, _ctx: StageContext) -> dict[str, Any]:
    return {"intent": query.user_input.partition(" ")[0], "confidence": 1.0}


@load.decision
async def _decide(_query: Query, ctx: StageContext) -> str:
    return str(next(iter(ctx.results.values()))["intent"])


@load.node("work")
async def _work(query: Query, _ctx: StageContext) -> dict[str, Any]:
    await asyncio.sleep(0.02)
    return {"answer": query.user_input, "confidence": 1.0}


@load.node("fast")
async def _fast(query: Query, _ctx: StageContext) -> dict[str, Any]:
    return {"answer": query.user_input, "confidence": 1.0}


@load.node("slow")
async def _slow(_query: Query, _ctx: StageContext) -> dict[str, Any]:
    await asyncio.sleep(60)
    return {"answer": "never"}


@load.node("deaf")
async def _deaf(_query: Query, _ctx: StageContext) -> dict[str, Any]:
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:  # the point of this node
            continue


@load.node("blocking")
def _blocking(_query: Query, _ctx: StageContext) -> dict[str, Any]:
    time.sleep(1)  # in a thread of the executor, where a limit cannot interrupt it
    return {"answer": "late"}


@load.node("raises")
async def _raises(query: Query, _ctx: StageContext) -> dict[str, Any]:
    raise ValueError(f"cannot answer {len(query.user_input)} characters")


@load.node("exits")
async def _exits(_query: Query, _ctx: StageContext) -> dict[str, Any]:
    raise SystemExit(3)


@load.node("ends-loop")
async def _ends_loop(_query: Query, _ctx: StageContext) -> dict[str, Any]:
    asyncio.get_running_loop().stop()
    return {}


@load.node("exits-in-task")
async def _exits_in_task(_query: Query, _ctx: StageContext) -> dict[str, Any]:
    async def leave() -> None:
        raise SystemExit(3)

    await asyncio.gather(leave())
    return {}


@load.node("large")
async def _large(query: Query, _ctx: StageContext) -> dict[str, Any]:
    return {"answer": "x" * int(query.user_input.split()[1])}


@load.node("garbage")
async def _garbage(_query: Query, _ctx: StageContext) -> Any:
    return object()


@load.validation
async def _validate(query: Query, _ctx: StageContext) -> bool:
    if "doubtful" in query.user_input:
        await asyncio.sleep(60)
    return True


@load.reflection
async def _reflect(_query: Query, ctx: StageContext) -> dict[str, Any]:
    return {"validated": ctx.validated}
