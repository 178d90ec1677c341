"""Nodes that offer answers, and then do not end by themselves.

The first word of a query is the node. Those that block wait for the gate BLOCKED in OFFER_APP_FOLDER.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fivestage import Pipeline
from support.files import Gate, note

if TYPE_CHECKING:
    from fivestage import Query, StageContext

VARIABLE = "OFFER_APP_FOLDER"
BLOCKED = "blocked"
LAST = {"draft": 3}
"""The last of the offers."""


class BrokenOffError(Exception):
    """Leaves what was offered before it."""

    keeps_offer = True


def _offer(ctx: StageContext) -> None:
    for number in range(1, 4):
        ctx.offer({"draft": number}, confidence=number / 10)


def make(folder: Path) -> Pipeline:
    """Build the app."""
    app, gate = Pipeline(builtins=False), Gate(folder, BLOCKED)

    @app.intent
    async def intent(query: Query, _ctx: StageContext) -> dict[str, Any]:
        return {"intent": query.user_input, "confidence": 1.0}

    @app.decision
    async def decision(query: Query, _ctx: StageContext) -> str:
        return query.user_input

    @app.node("waits")
    async def waits(_query: Query, ctx: StageContext) -> None:
        _offer(ctx)
        await asyncio.sleep(3600)

    @app.node("blocks")
    async def blocks(_query: Query, ctx: StageContext) -> None:
        _offer(ctx)
        gate.wait()

    @app.node("blocks in a thread")
    def blocks_in_a_thread(_query: Query, ctx: StageContext) -> None:
        _offer(ctx)
        gate.wait()
        ctx.offer("too late")

    @app.node("dies")
    async def dies(_query: Query, ctx: StageContext) -> None:
        ctx.offer({"draft": 3}, confidence=0.3)
        os._exit(3)

    @app.node("raises")
    async def raises(_query: Query, ctx: StageContext) -> None:
        _offer(ctx)
        raise LookupError("no such thing")

    @app.node("breaks off")
    async def breaks_off(_query: Query, ctx: StageContext) -> None:
        _offer(ctx)
        raise BrokenOffError

    @app.validation
    async def validation(query: Query, ctx: StageContext) -> bool:
        note(folder, f"{query.user_input}: {ctx.partial} {ctx.answer} {ctx.confidence} {ctx.node}")
        return True

    return app


app = make(Path(os.environ.get(VARIABLE, ".")))
