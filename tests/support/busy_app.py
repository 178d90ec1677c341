"""Nodes that keep threads busy. The text of a query is its node.

Gates and notes are in a directory: BUSY_APP_FOLDER's where worker processes import this module, which
makes ``app``.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fivestage import Pipeline
from support.files import Gate, note

if TYPE_CHECKING:
    from fivestage import Query, StageContext

VARIABLE = "BUSY_APP_FOLDER"
WORK_S = 0.05
HOLD, LOOP = "hold", "loop"
"""The gates that nodes wait at: in a thread, and on the loop."""


def make(folder: Path) -> Pipeline:
    """Build the app, with its files in *folder*."""
    app = Pipeline(builtins=False)

    @app.decision
    async def decide(query: Query, _ctx: StageContext) -> str:
        return query.user_input

    @app.intent
    async def intent(_query: Query, _ctx: StageContext) -> str:
        return "work"

    @app.node("works", intents={"work"})
    def works(query: Query, ctx: StageContext) -> list[float]:
        """Note the remaining time at its start."""
        note(folder, f"works {query.query_id}")
        left_ms = ctx.remaining_ms()
        time.sleep(WORK_S)
        return [left_ms, (ctx.deadline - ctx.clock()) * 1000]

    @app.node("holds")
    def holds(query: Query, _ctx: StageContext) -> str:
        note(folder, f"holds {query.query_id}")
        Gate(folder, HOLD).wait()
        return "held"

    @app.node("asks")
    async def asks(query: Query, _ctx: StageContext) -> str:
        """Use up its limit while it waits for a thread."""
        await asyncio.to_thread(note, folder, f"asks {query.query_id}")
        return "asked"

    @app.node("quick")
    async def quick(_query: Query, _ctx: StageContext) -> str:
        return "quick"

    @app.node("stands-in", intents={"work"})
    async def stands_in(_query: Query, _ctx: StageContext) -> str:
        return "stands in"

    @app.node("blocks")
    async def blocks(query: Query, _ctx: StageContext) -> str:
        note(folder, f"blocks {query.query_id}")
        Gate(folder, LOOP).wait()
        return "turns again"

    return app


app = make(Path(os.environ.get(VARIABLE, "no-such-folder")))
