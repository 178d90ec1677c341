"""Ordinary apps: a client created on first use, a language model's stream.

``cold`` and ``per_loop`` make their client on first use in each event loop; ``shared`` declares it.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import aiohttp

from fivestage import Pipeline, Query, StageContext

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LOOK_UP_S = 0.01
CLIENT_S = 0.05
COLD_S = 0.3
ANSWER = "forty two"

cold, per_loop, shared = (Pipeline(builtins=False) for _ in range(3))
_cold_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, object] = WeakKeyDictionary()
_sessions: WeakKeyDictionary[asyncio.AbstractEventLoop, aiohttp.ClientSession] = WeakKeyDictionary()


async def look_up() -> dict[str, Any]:
    """Look up before the answer."""
    await asyncio.sleep(LOOK_UP_S)
    return {"intent": "chat", "confidence": 1.0}


async def ask_cold(_question: str) -> str:
    """Ask with a client that takes long to create."""
    loop = asyncio.get_running_loop()
    if loop not in _cold_clients:
        time.sleep(CLIENT_S)  # noqa: ASYNC251 - as creating one does
        _cold_clients[loop] = object()
    await asyncio.sleep(COLD_S)
    return ANSWER


def make_session() -> aiohttp.ClientSession:
    """A client of the server at LLM_URL."""
    return aiohttp.ClientSession(
        os.environ["LLM_URL"],
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None),
    )


async def ask_own(question: str) -> str:
    """Ask with the client of this event loop."""
    loop = asyncio.get_running_loop()
    if loop not in _sessions:
        _sessions[loop] = make_session()
    return await ask(_sessions[loop], question)


async def close_sessions() -> None:
    """Close the clients of all event loops."""
    while _sessions:
        await _sessions.popitem()[1].close()


async def ask(session: aiohttp.ClientSession, question: str) -> str:
    """Read the stream of an answer.

    Raises:
        aiohttp.ClientResponseError: the server failed.
    """
    body = {"stream": True, "messages": [{"role": "user", "content": question}]}
    async with session.post("/v1/chat/completions", json=body, raise_for_status=True) as response:
        parts = [
            json.loads(line[6:])["choices"][0]["delta"]["content"]
            async for line in response.content
            if line.startswith(b"data: {")
        ]
    return "".join(parts)


for app in (cold, per_loop, shared):

    @app.intent
    async def intent(_query: Query, _ctx: StageContext) -> dict[str, Any]:
        """Look something up."""
        return await look_up()

    @app.validation
    async def validation(_query: Query, ctx: StageContext) -> bool:
        """An answer must be there."""
        return isinstance(ctx.answer, str) and ANSWER in ctx.answer


@shared.resource
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """The client of each event loop."""
    async with make_session() as made:
        yield made


@cold.node("llm", intents={"chat"})
async def llm_cold(query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Ask with a client that takes long to create."""
    return {"answer": await ask_cold(query.user_input), "confidence": 1.0}


@per_loop.node("llm", intents={"chat"})
async def llm_per_loop(query: Query, _ctx: StageContext) -> dict[str, Any]:
    """Ask with a client made on first use."""
    return {"answer": await ask_own(query.user_input), "confidence": 1.0}


@shared.node("llm", intents={"chat"})
async def llm_shared(query: Query, ctx: StageContext) -> dict[str, Any]:
    """Ask with the declared client."""
    return {"answer": await ask(ctx.use(session), query.user_input), "confidence": 1.0}
