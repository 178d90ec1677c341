"""Batch nodes that every kind of executor must handle.

The first word of a query is the node, the rest its argument. Gates and notes are in a directory:
BATCH_APP_FOLDER's where worker processes import this module, which makes ``app``.
"""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fivestage import Pipeline
from support.files import Gate, note

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from fivestage import BatchContext, BatchItem, Query, StageContext

VARIABLE = "BATCH_APP_FOLDER"
GATE = "gate"
"""The gate of code that blocks, or ignores its cancellation."""
LONG_MS = 60_000.0
"""Longer than a test waits: such batches start when they are full."""
SIZE = 3
"""Of these batches."""


def make(folder: Path) -> Pipeline:
    """Build the app, with its files in *folder*."""
    app = Pipeline(builtins=False)

    @app.decision
    async def decide(query: Query, _ctx: StageContext) -> str:
        return query.user_input.partition(" ")[0]

    @app.validation
    async def validate(_query: Query, _ctx: StageContext) -> bool:
        return True

    _add_answers(app, folder)
    _add_resources(app)
    _add_waiting(app, folder)
    _add_blocking(app, folder)
    return app


def _add_answers(app: Pipeline, folder: Path) -> None:
    def answers(items: list[BatchItem]) -> list[Any]:
        note(folder, f"answers {len(items)}")
        return [
            ValueError("bad") if item.query.user_input.endswith("bad") else item.query.user_input
            for item in items
        ]

    @app.batch_node("echo")
    async def echo(items: list[BatchItem], _ctx: BatchContext) -> list[Any]:
        return answers(items)

    @app.batch_node("echo-def")
    def echo_def(items: list[BatchItem], _ctx: BatchContext) -> list[Any]:
        assert threading.current_thread().name.startswith("fivestage-node")
        return answers(items)

    @app.batch_node("short")
    async def short(_items: list[BatchItem], _ctx: BatchContext) -> list[Any]:
        return []

    @app.batch_node("short-def")
    def short_def(_items: list[BatchItem], _ctx: BatchContext) -> list[Any]:
        return []

    @app.batch_node("exits-def")
    def exits_def(_items: list[BatchItem], _ctx: BatchContext) -> list[Any]:
        raise SystemExit


def _add_resources(app: Pipeline) -> None:
    @app.resource
    async def client() -> AsyncIterator[str]:
        yield "client"

    @app.resource
    def model() -> Iterator[list[str]]:
        yield ["model"]

    @app.batch_node("uses")
    async def uses(items: list[BatchItem], ctx: BatchContext) -> list[Any]:
        length = await ctx.run_sync(len, ctx.use(model))
        return [[ctx.use(client), length]] * len(items)

    @app.batch_node("uses-def")
    def uses_def(items: list[BatchItem], ctx: BatchContext) -> list[Any]:
        return ctx.use(model) * len(items)

    @app.batch_node("misuses-def")
    def misuses_def(_items: list[BatchItem], ctx: BatchContext) -> list[Any]:
        return [ctx.use(client)]


def _add_waiting(app: Pipeline, folder: Path) -> None:
    @app.batch_node("naps", max_size=SIZE, max_wait_ms=LONG_MS)
    async def naps(items: list[BatchItem], _ctx: BatchContext) -> list[int]:
        """Wait for ever in the first attempt."""
        note(folder, f"naps {items[0].attempt}")
        if items[0].attempt == 1:
            await asyncio.Event().wait()
        return [item.attempt for item in items]

    @app.batch_node("waits", max_size=SIZE, max_wait_ms=LONG_MS)
    async def waits(_items: list[BatchItem], _ctx: BatchContext) -> list[Any]:
        """Wait for ever; when cancelled use several loop turns to clean up."""
        note(folder, "waits")
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(20):
                await asyncio.sleep(0)
            note(folder, "cleaned up")
        return []

    @app.batch_node("ignores", max_size=SIZE, max_wait_ms=LONG_MS)
    async def ignores(_items: list[BatchItem], _ctx: BatchContext) -> list[Any]:
        """Run on until the gate opens."""
        note(folder, "ignores")
        while Gate(folder, GATE).is_closed():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue
        return []


def _add_blocking(app: Pipeline, folder: Path) -> None:
    @app.batch_node("waits-def", max_size=SIZE, max_wait_ms=LONG_MS)
    def waits_def(items: list[BatchItem], _ctx: BatchContext) -> list[int]:
        note(folder, "waits-def")
        Gate(folder, GATE).wait()
        return [item.attempt for item in items]

    @app.batch_node("blocks", max_size=SIZE, max_wait_ms=LONG_MS)
    async def blocks(items: list[BatchItem], _ctx: BatchContext) -> list[int]:
        """Block the loop in the first attempt of any of them."""
        note(folder, f"blocks {items[0].attempt}")
        if all(item.attempt == 1 for item in items):
            Gate(folder, GATE).wait()
        return [item.attempt for item in items]

    @app.node("blocks-alone")
    async def blocks_alone(query: Query, _ctx: StageContext) -> None:
        """Block the loop until the gate of that name opens."""
        Gate(folder, query.user_input.partition(" ")[2] or GATE).wait()


app = make(Path(os.environ.get(VARIABLE, "no-such-folder")))
