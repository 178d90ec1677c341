"""A Pipeline with a resource of each kind for worker processes, with its files in RESOURCE_APP_FOLDER.

A worker notes each opening and closing with its process's number. The resource ``model``
fails while there is a file ``broken``, once where there is a file ``fails-once``, and waits at the gate
``slow`` before it is open.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

from fivestage import Pipeline
from support.files import Gate, note

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from fivestage import Query, StageContext

VARIABLE = "RESOURCE_APP_FOLDER"
FOLDER = Path(os.environ.get(VARIABLE, "no-such-folder"))
FOREVER_S = 3600.0
app = Pipeline(builtins=False)


class Client:
    """Belongs to the loop that opened it."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.is_open = True


def _note(text: str) -> None:
    note(FOLDER, f"{text} {os.getpid()}")


@app.resource
async def client() -> AsyncIterator[Client]:
    """Open first, close last."""
    _note("open client")
    opened = Client()
    yield opened
    opened.is_open = False
    _note("close client")


@app.resource
def model() -> Iterator[int]:
    """Yield the number of its process."""
    if (FOLDER / "fails-once").exists():
        (FOLDER / "fails-once").unlink()
        raise ConnectionRefusedError("not yet")
    if (FOLDER / "broken").exists():
        raise ConnectionRefusedError("the database is away")
    Gate(FOLDER, "slow").wait()
    _note("open model")
    yield os.getpid()
    _note("close model")


@app.decision
async def _decide(query: Query, _ctx: StageContext) -> str:
    return query.user_input


@app.node("uses")
async def _uses(_query: Query, ctx: StageContext) -> int:
    """Return the process that opened the model."""
    found = ctx.use(client)
    assert (found.loop, found.is_open) == (asyncio.get_running_loop(), True)
    assert ctx.use(model) == os.getpid()
    return os.getpid()


@app.node("waits")
async def _waits(_query: Query, ctx: StageContext) -> None:
    try:
        await asyncio.sleep(FOREVER_S)
    finally:
        _note(f"last use while open: {ctx.use(client).is_open}")


@app.node("blocks")
async def _blocks(_query: Query, _ctx: StageContext) -> str:
    Gate(FOLDER, "blocks").wait()
    return "came back"
