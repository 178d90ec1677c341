"""Nodes with rules, in executors of each kind; a test opens the gate that their calls wait at.

The first word of a query is the node, the second the name of the call. Gates and notes are in a directory:
RULED_APP_FOLDER's where worker processes import this module, which makes ``app``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from fivestage import Pipeline
from support.files import Gate, note

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fivestage import Query, StageContext

VARIABLE = "RULED_APP_FOLDER"
GATE = "gate"
LEFT_S = 9.0
"""The timeout of the node ``left``, which answers what it has left."""


def make(folder: Path) -> Pipeline:
    """Build the app."""
    app = Pipeline(builtins=False)

    @app.intent
    async def intent(query: Query, _ctx: StageContext) -> str:
        return query.user_input.split()[0]

    @app.validation
    async def validation(_query: Query, _ctx: StageContext) -> bool:
        return True

    _add_limited(app, folder)
    _add_retried(app)
    _add_hedged(app, folder)

    @app.node("slow", intents={"slow"}, timeout_ms=50)
    async def slow(_query: Query, _ctx: StageContext) -> None:
        await asyncio.sleep(3600)

    @app.node("left", intents={"left"}, timeout_ms=LEFT_S * 1000)
    def left(_query: Query, ctx: StageContext) -> float:
        return ctx.timeout()

    @app.node("quick", intents={"slow", "quick"})
    async def quick(_query: Query, _ctx: StageContext) -> str:
        return "quick"

    return app


@contextlib.contextmanager
def _noted(folder: Path, query: Query) -> Iterator[str]:
    name = query.user_input.partition(" ")[2]
    note(folder, f"in {name}")
    yield name
    note(folder, f"out {name}")


def _add_limited(app: Pipeline, folder: Path) -> None:
    gate = Gate(folder, GATE)

    @app.node("waits", intents={"waits"}, limit=1)
    async def waits(query: Query, _ctx: StageContext) -> str:
        with _noted(folder, query) as name:
            while gate.is_closed():
                await asyncio.sleep(0.002)
        return name

    @app.node("function", intents={"function"}, limit=1)
    def function(query: Query, _ctx: StageContext) -> str:
        with _noted(folder, query) as name:
            gate.wait()
        return name

    @app.node("in-thread", intents={"in-thread"}, limit=1)
    async def in_thread(query: Query, ctx: StageContext) -> str:
        return str(await ctx.run_sync(function, query, ctx))

    @app.node("to-thread", intents={"to-thread"}, limit=1)
    async def to_thread(query: Query, ctx: StageContext) -> str:
        return str(await asyncio.to_thread(function, query, ctx))

    @app.node("blocks", intents={"blocks"}, limit=2)
    async def blocks(query: Query, _ctx: StageContext) -> str:
        with _noted(folder, query) as name:
            if name == "the-loop":
                gate.wait()
            await asyncio.sleep(0.01)
        return name


def _add_retried(app: Pipeline) -> None:
    @app.node("refused", intents={"refused"}, retries=1, retry_on=ConnectionRefusedError)
    async def refused(_query: Query, ctx: StageContext) -> int:
        if ctx.attempt == 1:
            raise ConnectionRefusedError
        return ctx.attempt

    @app.node("refused-function", intents={"refused-function"}, retries=1, retry_on=ConnectionRefusedError)
    def refused_function(_query: Query, ctx: StageContext) -> int:
        if ctx.attempt == 1:
            raise ConnectionRefusedError
        return ctx.attempt


def _add_hedged(app: Pipeline, folder: Path) -> None:
    @app.node("hedged", intents={"hedged"}, idempotent=True, limit=1)
    async def hedged(_query: Query, ctx: StageContext) -> None:
        ctx.offer("a draft")
        try:
            await asyncio.sleep(3600)
        finally:
            ctx.offer("a late draft")
            note(folder, "cancelled")

    @app.node("twin", intents={"hedged"}, idempotent=True)
    async def twin(query: Query, ctx: StageContext) -> str:
        ctx.offer("a draft of the twin")
        if query.user_input.endswith("both"):
            await asyncio.sleep(3600)
        return f"twin {ctx.attempt}"


if VARIABLE in os.environ:
    app = make(Path(os.environ[VARIABLE]))
