"""A contestant of ``--parts llm``: what a competent engineer writes on aiohttp, without partial answers.

One session; a semaphore; one deadline around all of a query; one more attempt after a broken connection, a
status 5xx, or a 429 once the wait that it asks for is over.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Self

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

ATTEMPTS = 2


class RetriableError(Exception):
    """The next attempt may succeed.

    Args:
        reason: For the table.
        after_s: Seconds to wait before it.
    """

    def __init__(self, reason: str, after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.after_s = after_s


async def attempt(
    once: Callable[[str], Awaitable[str]], slots: asyncio.Semaphore, question: str, ends_at: float
) -> str:
    """Return the answer.

    Raises:
        TimeoutError: it is not there at *ends_at* (seconds of the loop's clock).
        RetriableError: no attempt succeeded.
    """
    async with asyncio.timeout_at(ends_at):
        for number in range(1, ATTEMPTS + 1):
            try:
                async with slots:
                    return await once(question)
            except RetriableError as failed:
                now = asyncio.get_running_loop().time()
                if number == ATTEMPTS or now + failed.after_s >= ends_at:
                    raise
                await asyncio.sleep(failed.after_s)
    raise AssertionError("not reached")


class Client:
    """Asks the model of one server, while it is entered with ``async with``."""

    def __init__(self, url: str, limit: int) -> None:
        self._url = f"{url}/chat/completions"
        self._slots = asyncio.Semaphore(limit)

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def ask(self, question: str, ends_at: float) -> str:
        """Return the answer; raises as ``attempt``."""
        return await attempt(self._once, self._slots, question, ends_at)

    async def _once(self, question: str) -> str:
        body = {"model": "any", "stream": True, "messages": [{"role": "user", "content": question}]}
        try:
            async with self._session.post(self._url, json=body) as response:
                if response.status == 429:
                    raise RetriableError("status 429", wait_s(response.headers))
                if response.status >= 500:
                    raise RetriableError("status 5xx")
                return await _text(response)
        except aiohttp.ClientError as error:
            raise RetriableError(type(error).__name__) from error


async def _text(response: aiohttp.ClientResponse) -> str:
    text = ""
    async for line in response.content:
        if line == b"data: [DONE]\n":
            return text
        if line.startswith(b"data: "):
            text += json.loads(line[6:])["choices"][0]["delta"].get("content", "")
    raise RetriableError("the answer broke off")


def wait_s(headers: Mapping[str, str]) -> float:
    """Return the seconds that a response asks to wait."""
    if (milliseconds := headers.get("Retry-After-Ms")) is not None:
        return float(milliseconds) / 1000
    return float(headers.get("Retry-After", 0))
