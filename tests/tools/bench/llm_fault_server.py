"""A language model's server that stalls, fails, refuses and drops connections, in a process of its own.

``GET /stats`` says what it has seen. The argument is the seed of ``llm_faults``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from typing import TYPE_CHECKING

from aiohttp import web

from . import llm_faults as faults
from .serving import serve

if TYPE_CHECKING:
    from .llm_faults import Reply


class Server:
    """Answers as drawn, and counts."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._attempts: Counter[str] = Counter()
        self._refused_until: dict[str, float] = {}
        self._running = 0
        self._most = 0
        self._calls: Counter[str] = Counter()

    async def stats(self, _request: web.Request) -> web.Response:
        """What it has seen, and the requests that it still serves."""
        return web.json_response({"calls": self._calls, "running": self._running, "most": self._most})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Answer one request, within the limit of requests at a time."""
        question: str = (await request.json())["messages"][-1]["content"]
        if self._running >= faults.MOST_AT_A_TIME or self._is_too_early(question):
            return self._refuse("over the limit" if self._running >= faults.MOST_AT_A_TIME else "too early")
        drawn = faults.reply(self._seed, question, self._attempts[question])
        self._attempts[question] += 1
        self._running += 1
        self._most = max(self._most, self._running)
        try:
            return await self._answer(request, question, drawn)
        finally:
            self._running -= 1

    def _is_too_early(self, question: str) -> bool:
        return asyncio.get_running_loop().time() < self._refused_until.get(question, 0.0)

    def _refuse(self, why: str) -> web.Response:
        self._calls[why] += 1
        error = {"code": "rate_limit_exceeded", "message": "too many requests"}
        return web.json_response({"error": error}, status=429, headers=faults.REFUSAL)

    async def _answer(self, request: web.Request, question: str, drawn: Reply) -> web.StreamResponse:
        if drawn.kind == faults.REFUSES:
            self._refused_until[question] = asyncio.get_running_loop().time() + faults.RETRY_AFTER_S
            return self._refuse(faults.REFUSES)
        self._calls[drawn.kind] += 1
        if drawn.kind == faults.FAILS:
            error = {"code": "internal_error", "message": "out of memory"}
            return web.json_response({"error": error}, status=500)
        return await self._stream(request, drawn)

    async def _stream(self, request: web.Request, drawn: Reply) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number, word in enumerate(faults.WORDS):
            if drawn.kind != faults.ANSWERS and number == drawn.broken_at:
                if drawn.kind == faults.DROPS and request.transport is not None:
                    request.transport.close()
                    return response
                await asyncio.sleep(faults.STALL_S if drawn.kind == faults.STALLS else 0)
            await asyncio.sleep(drawn.seconds / len(faults.WORDS))
            choice = {"delta": {"content": word if number == 0 else f" {word}"}, "finish_reason": None}
            await _send(response, {"choices": [choice]})
        await _send(response, {"choices": [{"delta": {}, "finish_reason": "stop"}]})
        await response.write(b"data: [DONE]\n\n")
        return response


async def _send(response: web.StreamResponse, document: object) -> None:
    await response.write(b"data: " + json.dumps(document).encode() + b"\n\n")


if __name__ == "__main__":
    server, service = Server(int(sys.argv[1])), web.Application()
    service.router.add_post("/v1/chat/completions", server.chat)
    service.router.add_get("/stats", server.stats)
    asyncio.run(serve(service))
