"""An app whose nodes and resources have settings; a query is the name of a node."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, SecretStr

from fivestage import Pipeline, Query, StageContext

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

SECRET = "s3cret-7f3a"  # noqa: S105 - a canary


class Greeting(BaseModel):
    """The settings of ``typed``."""

    word: str
    times: int = 1
    key: SecretStr = SecretStr("")


class Words(BaseModel):
    """The settings of the resources."""

    words: list[str]


NODES: dict[str, dict[str, Any]] = {
    "typed": {"word": "hi", "times": 2, "key": SECRET},
    "plain": {"word": SECRET, "huge": 2**70},
    "on_loop": {"words": ["a"]},
    "in_process": {"words": ["b", "c"]},
}
"""Settings for all of them."""
app = Pipeline(builtins=False)


@app.intent
async def _intent(query: Query, _ctx: StageContext) -> dict[str, Any]:
    return {"intent": query.user_input, "confidence": 1.0}


@app.resource
async def on_loop() -> AsyncIterator[list[str]]:
    """Words that belong to an event loop."""
    yield app.settings("on_loop", Words).words


@app.resource
def in_process() -> Iterator[list[str]]:
    """Words of the process; closes with its settings, as it has opened."""
    words = app.settings("in_process")["words"]
    yield words
    assert app.settings("in_process")["words"] == words


def _is_greeting(_query: Query, ctx: StageContext[Greeting]) -> bool:
    return bool(ctx.answer == ctx.settings.word * ctx.settings.times)


@app.node("typed", intents={"typed"}, settings=Greeting, validate=_is_greeting)
async def _typed(_query: Query, ctx: StageContext[Greeting]) -> dict[str, Any]:
    return {"answer": ctx.settings.word * ctx.settings.times, "confidence": 1.0}


@app.node("plain", intents={"plain"})
def _plain(_query: Query, ctx: StageContext) -> dict[str, Any]:
    return {"answer": [ctx.settings["word"] == SECRET, ctx.settings["huge"] == 2**70], "confidence": 1.0}


@app.node("none", intents={"none"})
async def _none(_query: Query, ctx: StageContext) -> dict[str, Any]:
    return {"answer": len(ctx.settings), "confidence": 1.0}


@app.node("shared", intents={"shared"})
async def _shared(_query: Query, ctx: StageContext) -> dict[str, Any]:
    return {"answer": ctx.use(on_loop) + ctx.use(in_process), "confidence": 1.0}


@app.node("pid", intents={"pid"})
async def _pid(_query: Query, _ctx: StageContext) -> dict[str, Any]:
    return {"answer": os.getpid(), "confidence": 1.0}


@app.node("dies", intents={"dies"})
async def _dies(_query: Query, _ctx: StageContext) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
