"""A server with the chat API of language models; the question says how it answers.

=================  ========================================================
``say WORDS``      streams the words, one event each
``slowly WORDS``   the same, with a pause after each word
``stall WORDS``    streams the words, then sends nothing more
``whole WORDS``    answers with one document
``cut WORDS``      streams the words, then closes the connection
``ends WORDS``     streams the words, and ends the response without saying that the answer is complete
``status NUMBER``  answers with this status, and an error that repeats the question
``code CODE``      answers with status 400 and this error code
``filter WORDS``   streams the words, and says that the content filter ended them
``error WORDS``    streams the words, then an event that is an error
``rubbish``        streams what is no JSON
``nothing``        streams an answer without text
``flaky WORDS``    answers with status 500 the first time, then as ``say``
``busy WORDS``     answers with status 429 and asks to wait for 30 ms the first time, then as ``say``
=================  ========================================================
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

PAUSE_S = 0.02


class ChatServer:
    """Listens on 127.0.0.1 while it is entered with ``async with``."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        """The bodies of the requests."""
        self.headers: list[Mapping[str, str]] = []
        """Their headers."""
        self.cancelled = asyncio.Event()
        """A client has closed its connection before the end of the answer."""
        self.url = ""
        """The base URL."""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._answer)
        self._runner = web.AppRunner(app, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.headers.append(request.headers.copy())
        how, *words = body["messages"][-1]["content"].split()
        wait = {"Retry-After": "1", "Retry-After-Ms": "30"} if how == "busy" else {}
        if how in ("flaky", "busy"):
            first = "500" if how == "flaky" else "429"
            how, words = ("status", [first]) if len(self.requests) == 1 else ("say", words)
        if how in ("status", "code"):
            status, code = (int(words[0]), "server_error") if how == "status" else (400, words[0])
            error = {"code": code, "message": body["messages"][-1]["content"]}
            return web.json_response({"error": error}, status=status, headers=wait)
        if how == "whole":
            choice = {"message": {"role": "assistant", "content": " ".join(words)}, "finish_reason": "stop"}
            return web.json_response({"choices": [choice]})
        try:
            return await self._stream(request, how, words)
        except (asyncio.CancelledError, ConnectionResetError):
            self.cancelled.set()
            raise

    async def _stream(self, request: web.Request, how: str, words: list[str]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        await response.write(b": welcome\n\n")
        for number, word in enumerate(words):
            delta = {"content": word if number == 0 else f" {word}"}
            await _send(response.write, {"choices": [{"delta": delta, "finish_reason": None}]})
            if how == "slowly":
                await asyncio.sleep(PAUSE_S)
        if how == "stall":
            await asyncio.Event().wait()
        if how == "cut":
            assert request.transport is not None
            request.transport.close()
        elif how == "ends":
            pass
        elif how == "error":
            await _send(response.write, {"error": {"code": "overloaded", "message": " ".join(words)}})
        elif how == "rubbish":
            await response.write(b"data: {\n\n")
        else:
            reason = "content_filter" if how == "filter" else "stop"
            await _send(response.write, {"choices": [{"delta": {}, "finish_reason": reason}]})
            await _send(response.write, {"choices": [], "usage": {"total_tokens": len(words)}})
            await response.write(b"data: [DONE]\n\n")
        return response


async def _send(write: Callable[[bytes], Awaitable[None]], document: object) -> None:
    await write(b"data: " + json.dumps(document).encode() + b"\n\n")
