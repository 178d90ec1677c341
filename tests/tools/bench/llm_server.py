"""A server like those of language models: it streams an answer of a few words, in a process of its own.

Each question says what it gets: ``stall``, ``fail``, or for how many seconds the answer streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Final

from aiohttp import web

from .llm_faults import WORDS
from .serving import serve

STALL_S: Final = 30.0


async def chat(request: web.Request) -> web.StreamResponse:
    """Answer one question with server-sent events."""
    question: str = (await request.json())["messages"][-1]["content"]
    if question == "fail":
        return web.json_response({"error": {"message": "overloaded"}}, status=500)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    with contextlib.suppress(ConnectionResetError):  # the client has gone
        for number, word in enumerate(WORDS):
            stalls = question == "stall" and number == len(WORDS) // 2
            await asyncio.sleep(STALL_S if stalls else _pause_s(question))
            part = json.dumps({"choices": [{"delta": {"content": f"{word} "}}]})
            await response.write(f"data: {part}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
    return response


def _pause_s(question: str) -> float:
    return 0.02 if question == "stall" else float(question) / len(WORDS)


if __name__ == "__main__":
    service = web.Application()
    service.router.add_post("/v1/chat/completions", chat)
    asyncio.run(serve(service))
