"""Asks a chat model over HTTP, and streams its answer."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import orjson
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from fivestage.nodes.llm.stream import (
    ModelBusyError,
    ModelError,
    ModelUnavailableError,
    chunks_of,
    refusal,
    whole_answer,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence

    Message = Mapping[str, Any]
    """A message of the chat: ``{"role": "user", "content": "..."}``."""

__all__ = ["ChatClient", "ChatModel", "ModelBusyError", "ModelError", "ModelUnavailableError"]

MAX_ERROR_BYTES: Final = 16_384
MAX_ANSWER_BYTES: Final = 1_048_576
MAX_LINE_BYTES: Final = 262_144


class ChatModel(BaseModel):
    """A model and where it is; a table such as ``[nodes.assistant]`` of the settings has the same fields.

    Example:
        >>> model = ChatModel(base_url="https://llm.internal/v1/", model="qwen3-4b", api_key="secret")
        >>> model.api_key
        SecretStr('**********')
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: str
    """What comes before ``/chat/completions``."""
    model: str
    """The model's name, as its server knows it."""
    api_key: SecretStr = SecretStr("")
    """Sent as bearer token, unless it is empty."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Further fields of each request, such as ``temperature`` and ``max_tokens``."""

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[ChatClient]:
        """Open a client with its own connections, for the running event loop."""
        key = self.api_key.get_secret_value()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        connector = aiohttp.TCPConnector(limit=0)  # the node has a limit; a second queue would hide waits
        async with aiohttp.ClientSession(
            connector=connector, headers=headers, proxy=_proxy_of(self.base_url), read_bufsize=MAX_LINE_BYTES
        ) as session:
            yield ChatClient(self, session)


class ChatClient:
    """Sends requests to one model.

    Args:
        model: The model.
        session: The connections; the caller closes them.
    """

    def __init__(self, model: ChatModel, session: aiohttp.ClientSession) -> None:
        self._model = model
        self._session = session
        self._url = f"{model.base_url.rstrip('/')}/chat/completions"

    async def stream(
        self, messages: Sequence[Message], *, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> AsyncGenerator[str, None]:
        """Ask, and yield the answer part by part. Use it within ``contextlib.aclosing``.

        The connection is closed when the caller stops before the end, or is cancelled, so that the server can
        stop as well.

        Args:
            messages: The chat, with the question at its end.
            timeout_s: Seconds for all of it, such as ``ctx.timeout()``.
            headers: Further headers of the request, such as ``ctx.headers()``.

        Raises:
            ModelBusyError: the server accepts no more requests now.
            ModelUnavailableError: the server failed, or the answer broke off.
            ModelError: the server refused the request.
            Unanswerable: the question is too long for the model, or its content filter ended the answer.
            TimeoutError: the time is over.
            aiohttp.ClientConnectionError: there is no connection to the server.
        """
        body = {**self._model.parameters, "model": self._model.model, "messages": messages, "stream": True}
        async with self._session.post(
            self._url,
            data=orjson.dumps(body),
            headers={"Content-Type": "application/json", **(headers or {})},
            timeout=aiohttp.ClientTimeout(total=timeout_s),
            allow_redirects=False,
        ) as response:
            if response.status != 200:  # noqa: PLR2004
                raise refusal(response.status, response.headers, await response.content.read(MAX_ERROR_BYTES))
            if response.content_type == "text/event-stream":
                async for text in chunks_of(_lines(response.content)):
                    yield text
            else:
                yield whole_answer(await _all(response.content))


def _proxy_of(url: str) -> str | None:
    """The proxy that the environment names for a server; None without one.

    With ``trust_env`` aiohttp looks it up for each request, in two calls in threads, which other nodes may
    keep busy.
    """
    parts = urlsplit(url)
    if parts.hostname is None or proxy_bypass(parts.hostname):
        return None
    return getproxies().get(parts.scheme)


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """The lines of a response.

    Raises:
        ModelUnavailableError: a line or the response is too long, or the connection broke.
    """
    size = 0
    try:
        async for line in content:
            size += len(line)
            if size > MAX_ANSWER_BYTES:
                raise ModelUnavailableError(f"the model's answer has more than {MAX_ANSWER_BYTES} bytes")
            yield line
    except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError):
        raise ModelUnavailableError("the model's answer broke off") from None
    except ValueError:  # as aiohttp says that a line is too long
        raise ModelUnavailableError("the model's server sent a line that is too long") from None


async def _all(content: aiohttp.StreamReader) -> bytes:
    return b"".join([line async for line in _lines(content)])
